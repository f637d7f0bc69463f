"""Detectors of torchvision.models.detection on a pretrained classifier, with boxes as shares of the image."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.dataset.boxes import FOUND, MOST
from pipelines.models.anchors import anchor_levels
from pipelines.models.backbones import BATCH_NORM, build_backbone, fold_norms
from pipelines.models.feature_maps import LITE_NORM, Maps, Pyramid, cut, of_mobilenet, of_vgg
from pipelines.models.first_layer import take_channels
from pipelines.models.transfer import FineTuned, Top
from pipelines.models.weights import Origin
from pipelines.settings.detectors import DetectorFacts, facts_of, parts_of
from pipelines.settings.schema import Settings

LEAST = 0.005  # confidence of the boxes that are kept: the metrics look at doubtful ones too
PROPOSALS, PREDICTED = 500, 300  # of each image, in training and in prediction; torchvision's 2,000 are for large ones
EXAMPLES = 128  # proposals of each image that the second stage learns from, as in arXiv 1504.08083
STRIDES = (8, 16, 32)  # of the maps below a pyramid, which adds one of 64


class Given(nn.Module):
    """What a detector of torchvision has as its backbone: it returns the maps that were computed before."""

    def __init__(self, out_channels: int | list[int]) -> None:
        super().__init__()
        self.out_channels = out_channels
        self.maps: dict[str, Tensor] = {}

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        return self.maps


class BoxHead(nn.Module):
    """Maps of the backbone to the loss and the boxes: what is added to the maps, and a detector of torchvision.

    Images have sides of `size`, and `margin` pixels of zeros at the right and the bottom; boxes are shares of `size`.
    """

    def __init__(self, further: nn.Module, detector: nn.Module, facts: DetectorFacts, size: int, margin: int) -> None:
        super().__init__()
        self.further, self.detector, self.facts, self.size, self.margin = further, detector, facts, size, margin

    def losses(self, images: Tensor, levels: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Return the parts of the loss, (P,), in the order of `DetectorFacts.losses`."""
        first = int(self.facts.background)
        truths = []
        for each in targets:
            known = each[~each[:, 0].isnan()]
            truths.append({"boxes": known[:, 1:] * self.size, "labels": known[:, 0].long() + first})
        found = self._run(images, levels, truths)
        return torch.stack([found[name].float() for name in self.facts.losses])

    @torch.no_grad()
    def checked(self, images: Tensor, levels: dict[str, Tensor], targets: Tensor) -> Tensor:
        """Return the loss of a batch in evaluation: the same for the same batch, and torch's random state stays."""
        self.detector.train()
        for module in self.detector.modules():
            if isinstance(module, (BATCH_NORM, nn.Dropout)):
                module.eval()
        devices = [images.device] if images.is_cuda else []
        with torch.random.fork_rng(devices):
            torch.manual_seed(0)
            loss = self.losses(images, levels, targets).sum()
        self.detector.eval()
        return loss

    def predict(self, images: Tensor, levels: dict[str, Tensor]) -> Tensor:
        """Return predictions: see `dataset/boxes.py`."""
        found: Any = self._run(images, levels, None)
        first = int(self.facts.background)
        for each in found if self.margin else ():  # boxes in the margin are none
            inside = (each["boxes"][:, :2] < self.size).all(dim=1)
            each |= {name: values[inside] for name, values in each.items()}
        boxes = [(each["boxes"] / self.size).clamp(0, 1) for each in found]
        return pad([each["labels"] - first for each in found], [each["scores"] for each in found], boxes)

    def _run(self, images: Tensor, levels: dict[str, Tensor], truths: Any) -> dict[str, Tensor]:
        given = self.detector.backbone
        assert isinstance(given, Given)
        given.maps = levels
        try:
            found: dict[str, Tensor] = self.detector(list(images.float()), truths)
        finally:
            given.maps = {}
        return found


def pad(labels: Sequence[Tensor], scores: Sequence[Tensor], boxes: Sequence[Tensor]) -> Tensor:
    """Return predictions, float32 (N, MOST * 6): of each image the `MOST` most confident boxes.

    labels, scores: (n,) of each image, boxes: (n, 4) as shares.  Equal confidences keep their order.
    """
    found = torch.zeros(len(labels), MOST, FOUND, device=scores[0].device if scores else None)
    for row, (label, score, box) in enumerate(zip(labels, scores, boxes, strict=True)):
        best = score.argsort(descending=True, stable=True)[:MOST]
        found[row, : len(best)] = torch.cat([label[best, None], score[best, None], box[best]], dim=1).float()
    return found.flatten(1)


class BoxTop(Top):
    """The top of a detector: no layer of the pretrained classifier, and a head on maps."""

    def __init__(self, head: BoxHead) -> None:
        nn.Module.__init__(self)
        self.widths, self.keeps_pooled, self.classifiers = [], True, nn.ModuleList()
        self.head: BoxHead = head  # type: ignore[assignment]


class Detector(FineTuned):
    """A detector on one backbone; everything else is its head.

    In training it maps images (N, C, S, S) and targets to the parts of its loss, (1, P); in evaluation to (N, 1 + MOST
    * 6): the loss of the batch if there are targets, else 0, and predictions.  Targets: see `dataset/boxes.py`.
    """

    top: BoxTop

    def forward(self, images: Tensor, targets: Tensor | None = None) -> Tensor:
        for module in self._evaluated:  # as in `FineTuned`
            module.eval()
        head = self.top.head
        images = F.pad(images, (0, head.margin) * 2) if head.margin else images
        maps = head.further(self.bodies[0](images))
        levels = {name: level.float() for name, level in maps.items()}  # coordinates have the type of the maps
        if self.training:
            if targets is None:  # where only time is measured
                targets = images.new_full((len(images), 1, 5), torch.nan)
            return head.losses(images, levels, targets)[None]
        loss = torch.zeros((), device=images.device) if targets is None else head.checked(images, levels, targets)
        return torch.cat([loss.expand(len(images), 1), head.predict(images, levels)], dim=1)


def build_detector(settings: Settings, classes: Sequence[str], found: Sequence[Origin]) -> Detector:
    """Return the detector of `settings`, with nothing frozen yet.

    found: the origin of its backbone; empty for random weights.  Raises `UserError` as `build_backbone`, `cut` and
    `anchor_levels` do.
    """
    facts = facts_of(settings.model.name)
    kind, name = parts_of(settings.model.name)
    origin = found[0] if found else Origin(name)
    published, channels, size = origin.facts, settings.input.channels, settings.input.size
    backbone, _ = build_backbone(name, origin.path, published.size if published else None)
    take_channels(backbone.body, name, channels, pretrained=bool(origin.path))
    further: nn.Module = nn.Identity()
    if facts.pairs:
        maps, further, widths = (of_vgg if kind == "ssd300" else of_mobilenet)(backbone, name, channels)
    elif kind.endswith("_fpn"):
        maps = cut(backbone, name, channels, STRIDES)
        further = Pyramid(maps.widths)
        widths = [further.width]
    else:
        maps = cut(backbone, name, channels, (16,))
        widths = list(maps.widths)
    if settings.tuning.freeze_norms:
        folded = fold_norms(maps)
        assert isinstance(folded, Maps)
        maps = folded
    plain: dict[str, Any] = {"image_mean": [0.0] * channels, "image_std": [1.0] * channels}  # nothing changes
    margin = 0
    if kind.startswith("ssd"):
        detector = _ssd(settings, kind, widths, len(classes), plain)
    else:
        margin = -size % STRIDES[-1]  # else torchvision rounds the strides of the anchors down, and these drift
        plain |= {"min_size": size + margin, "max_size": size + margin}
        make = _two_stages if kind.startswith("fasterrcnn") else _one_stage
        detector = make(settings, kind, Given(widths[0]), len(classes), plain)
    return Detector([maps], [origin], BoxTop(BoxHead(further, detector, facts, size, margin)))


def in_float32(module: nn.Module, inputs: Any, outputs: Any) -> Any:
    """Return the outputs of a layer, from which boxes are computed, in float32; a hook, and processes send it."""
    if isinstance(outputs, dict):
        return {name: in_float32(module, inputs, each) for name, each in outputs.items()}
    if isinstance(outputs, Tensor):
        return outputs.float()
    return type(outputs)(in_float32(module, inputs, each) for each in outputs)


def _two_stages(settings: Settings, kind: str, given: Given, classes: int, plain: dict[str, Any]) -> nn.Module:
    """Return a Faster R-CNN (arXiv 1506.01497)."""
    from torchvision.models.detection import FasterRCNN
    from torchvision.models.detection.anchor_utils import AnchorGenerator
    from torchvision.ops import MultiScaleRoIAlign

    levels = anchor_levels(settings)
    detector = FasterRCNN(
        given,
        classes + 1,
        rpn_anchor_generator=AnchorGenerator(tuple(levels), (settings.model.anchor_ratios,) * len(levels)),
        box_roi_pool=MultiScaleRoIAlign([str(number) for number in range(max(1, len(levels) - 1))], 7, 2),
        rpn_post_nms_top_n_train=PROPOSALS,
        rpn_post_nms_top_n_test=PREDICTED,
        box_batch_size_per_image=EXAMPLES,
        box_score_thresh=LEAST,
        box_detections_per_img=MOST,
        **plain,
    )
    detector.rpn.head.register_forward_hook(in_float32)
    detector.roi_heads.box_predictor.register_forward_hook(in_float32)
    return detector


def _one_stage(settings: Settings, kind: str, given: Given, classes: int, plain: dict[str, Any]) -> nn.Module:
    """Return a RetinaNet (arXiv 1708.02002) or an FCOS (arXiv 1904.01355)."""
    from torchvision.models.detection import FCOS, RetinaNet
    from torchvision.models.detection.anchor_utils import AnchorGenerator

    make: Any = RetinaNet
    sizes, ratios = anchor_levels(settings), settings.model.anchor_ratios
    if kind == "fcos_fpn":  # one place in each cell of a map
        make, sizes, ratios = FCOS, [(float(stride),) for stride in (*STRIDES, 2 * STRIDES[-1])], (1.0,)
    generator = AnchorGenerator(tuple(sizes), (ratios,) * len(sizes))
    options = {"anchor_generator": generator, "score_thresh": LEAST, "detections_per_img": MOST}
    detector: nn.Module = make(given, classes, **options, **plain)
    detector.get_submodule("head").register_forward_hook(in_float32)
    return detector


def _ssd(settings: Settings, kind: str, widths: list[int], classes: int, plain: dict[str, Any]) -> nn.Module:
    """Return an SSD (arXiv 1512.02325), or an SSDlite (arXiv 1801.04381)."""
    from torchvision.models.detection.anchor_utils import DefaultBoxGenerator
    from torchvision.models.detection.ssd import SSD, SSDHead
    from torchvision.models.detection.ssdlite import SSDLiteHead

    # Each ratio stands for its inverse too, and 1 is always there.
    ratios = sorted({round(max(ratio, 1 / ratio), 3) for ratio in settings.model.anchor_ratios} - {1.0})
    anchor_levels(settings)
    generator = DefaultBoxGenerator([ratios] * len(widths), scales=list(settings.model.anchor_sizes))
    counts = generator.num_anchors_per_location()
    head = SSDHead(widths, counts, classes + 1)
    if kind == "ssdlite320":
        head = SSDLiteHead(widths, counts, classes + 1, LITE_NORM)
    side = settings.input.size
    options = {"score_thresh": LEAST, "detections_per_img": MOST}
    detector = SSD(Given(widths), generator, (side, side), classes + 1, head=head, **options, **plain)
    detector.head.register_forward_hook(in_float32)
    return detector
