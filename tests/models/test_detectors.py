"""Detectors: every kind learns and predicts boxes as shares, in both precisions, and what is frozen stays."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.models.detection.anchor_utils import AnchorGenerator

from pipelines.core.fusion import mirrored
from pipelines.core.phases import describe_phases, freeze, make_learner, phases
from pipelines.core.tasks import Boxes
from pipelines.dataset.boxes import MOST
from pipelines.models.anchors import anchor_levels, with_anchors
from pipelines.models.building import build_network
from pipelines.models.detectors import Detector, pad
from pipelines.models.device import choose_hardware
from pipelines.models.transfer import is_head_only, learned_state, load_learned
from pipelines.models.weights import find_origins
from pipelines.settings.detectors import DETECTORS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.found_boxes import unpad
from tests.support.networks import save_network
from tests.support.tiny_boxes import KINDS, TinyBoxes, make_tiny_boxes

NAMES = {
    "fasterrcnn/mobilenet_v2": 64,
    "fasterrcnn_fpn/resnet18": 64,
    "fasterrcnn_fpn/mobilenet_v3_large": 64,
    "retinanet_fpn/resnet18": 64,
    "fcos_fpn/mobilenet_v2": 64,
    "ssd300/vgg11": 300,
    "ssdlite320/mobilenet_v2": 96,
    "ssdlite320/mobilenet_v3_large": 96,
}
PYRAMIDS = ["fasterrcnn_fpn/resnet18", "retinanet_fpn/resnet18", "fcos_fpn/resnet18"]
TARGETS = torch.tensor([[[1, 0.1, 0.1, 0.5, 0.6], [0, 0.4, 0.2, 0.7, 0.5]], [[torch.nan] * 5] * 2])


@pytest.fixture(scope="module")
def tiny_boxes(tmp_path_factory: pytest.TempPathFactory) -> TinyBoxes:
    return make_tiny_boxes(tmp_path_factory.mktemp("boxes"))


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("weights") / "mobile.pth"
    save_network(path, "mobilenet_v2")
    return path


def detector(settings: Settings, folder: Path = Path()) -> Detector:
    network = build_network(settings, KINDS, find_origins(settings.model, folder))
    assert isinstance(network, Detector)
    return network


def noise(size: int, count: int = 2) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("name", NAMES)
def test_every_kind_learns_and_predicts(tiny_boxes: TinyBoxes, name: str) -> None:
    settings = tiny_boxes.settings(f"model.name={name}", f"input.size={NAMES[name]}")
    network, images = detector(settings), noise(NAMES[name])
    losses = network.train()(images, TARGETS)
    assert losses.shape == (1, len(DETECTORS[name.partition("/")[0]].losses))
    losses.sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.eval()
    state = torch.get_rng_state()
    with torch.inference_mode():
        outputs, again, unseen = network(images, TARGETS), network(images, TARGETS), network(images)
    assert torch.equal(state, torch.get_rng_state())
    assert outputs.shape == (2, 1 + 6 * MOST) and outputs.isfinite().all()
    assert torch.equal(outputs, again) and torch.equal(outputs[:, 1:], unseen[:, 1:])
    assert (outputs[:, 0] > 0).all() and (unseen[:, 0] == 0).all()
    labels, confidence, boxes = unpad(unseen[:, 1:]).split([1, 1, 4], dim=2)
    assert set(labels.unique().tolist()) <= {0.0, 1.0}
    assert ((boxes >= 0) & (boxes <= 1)).all() and (confidence.diff(dim=1) <= 0).all()


def as_if_trained(network: Detector) -> None:
    """Give the last layers larger weights, so that boxes are many and move far from their anchors."""
    generator = torch.Generator().manual_seed(0)
    for name, parameter in network.top.head.named_parameters():
        if any(each in name for each in ("bbox_pred", "bbox_reg", "cls")) and parameter.ndim > 1:
            parameter.data = 0.05 * torch.randn(parameter.shape, generator=generator)


@pytest.mark.parametrize("name", ["fasterrcnn/resnet18", *PYRAMIDS])
def test_anchors_do_not_drift_at_a_size_that_no_stride_divides(tiny_boxes: TinyBoxes, name: str) -> None:
    network, heard = detector(tiny_boxes.settings(f"model.name={name}", "input.size=300")), list[Tensor]()
    (generator,) = (each for each in network.modules() if isinstance(each, AnchorGenerator))
    generator.register_forward_hook(lambda module, inputs, outputs: heard.append(outputs[0]))
    with torch.inference_mode():
        network.eval()(noise(300, 1))
    centres = (heard[0][:, :2] + heard[0][:, 2:]) / 2
    expected = torch.arange(0, 320, 16.0 if "_fpn" not in name else 8.0)
    assert all(torch.equal(each.unique(), expected) for each in centres.T)


@pytest.mark.parametrize("name", PYRAMIDS)
def test_boxes_stay_inside_an_image_that_is_padded(tiny_boxes: TinyBoxes, name: str) -> None:
    network = detector(tiny_boxes.settings(f"model.name={name}", "input.size=72"))
    network.train()(noise(72), TARGETS).sum().backward()
    as_if_trained(network)
    with torch.inference_mode():
        boxes = unpad(network.eval()(noise(72), TARGETS)[:, 1:])
    sides = boxes[boxes[..., 1] > 0][:, 2:]
    assert len(sides) > 20 and ((sides >= 0) & (sides <= 1)).all()
    assert (sides[:, :2] < 1).all()  # none of them lies in the margin


@pytest.mark.parametrize("name", PYRAMIDS)
def test_coordinates_are_as_exact_in_bfloat16(tiny_boxes: TinyBoxes, name: str) -> None:
    network = detector(tiny_boxes.settings(f"model.name={name}", "input.size=256")).eval()
    as_if_trained(network)
    head, images = network.top.head, noise(256)
    heard: list[list[Tensor]] = []
    head.get_submodule("detector.rpn.head" if "faster" in name else "detector.head").register_forward_hook(
        lambda module, inputs, outputs: heard.append([inputs[0][0], *(each for each in flat(outputs))])
    )
    with torch.inference_mode():
        exact = network(images, TARGETS)
        with torch.autocast("cpu", torch.bfloat16):
            rounded = network(images, TARGETS)
    assert all(each.dtype == torch.float32 for values in heard for each in values)
    assert rounded[:, 0] == pytest.approx(exact[:, 0], rel=0.03)
    sides = unpad(rounded[:, 1:])[..., 2:]
    assert (sides * 256 != (sides * 256).bfloat16()).float().mean() > 0.2  # not on the grid of bfloat16
    ours, theirs = (unpad(each[:, 1:])[0, :, 2:] for each in (exact, rounded))
    nearest = (ours[:20, None] - theirs[None]).abs().amax(dim=2).amin(dim=1) * 256
    assert nearest.median() < 1  # pixel


def flat(values: object) -> list[Tensor]:
    if isinstance(values, Tensor):
        return [values]
    return [each for value in (values.values() if isinstance(values, dict) else values) for each in flat(value)]  # type: ignore[attr-defined]


def test_a_detector_learns(tiny_boxes: TinyBoxes) -> None:
    network = detector(tiny_boxes.settings()).train()
    (batch,) = tiny_boxes.source("train", "predict.batch_size=9").batches(0)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    torch.manual_seed(0)
    losses = []
    for _ in range(12):
        optimizer.zero_grad()
        losses.append(network(batch.inputs, batch.labels).sum())
        losses[-1].backward()
        optimizer.step()
    assert losses[-1].item() < 0.6 * losses[0].item()


def test_what_is_frozen_stays(tiny_boxes: TinyBoxes, weights: Path) -> None:
    options = (f"model.weights={weights}", "finetune.frozen_stages=3", "finetune.backbone_lr=0.1")
    settings = tiny_boxes.settings(*options)
    network = detector(settings)
    (phase,) = phases(settings)
    learner = make_learner(settings, network, phase, choose_hardware(settings.hardware), Boxes(()), None)  # type: ignore[arg-type]
    assert sorted({group["lr_share"] for group in learner.optimizer.param_groups}) == [0.1, 1.0]
    before = {name: value.clone() for name, value in network.state_dict().items()}
    network.train()(noise(64), TARGETS).sum().backward()
    learner.optimizer.step()
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    frozen = [f"backbones.0.body.features.{number}." for number in range(3)]
    assert not [name for name in changed if name.startswith(tuple(frozen))]
    assert {name for name, _ in network.named_parameters()} - changed == {
        name for name, parameter in network.named_parameters() if not parameter.requires_grad
    }
    first, second, head = describe_phases(settings, network)
    assert (first["lr"], second["lr"], head["lr"]) == (None, 1e-4, 1e-3)
    assert first["part"] == "mobilenet_v2: features.0 to features.2"


def test_frozen_norms_are_folded(tiny_boxes: TinyBoxes, weights: Path) -> None:
    options = (f"model.weights={weights}", "model.name=fasterrcnn_fpn/mobilenet_v2")
    plain, folded = (tiny_boxes.settings(*options, f"finetune.freeze_norms={word}") for word in ("false", "true"))
    images = noise(64)
    with torch.inference_mode():
        left, right = (detector(each).eval().bodies[0](images) for each in (plain, folded))
    for name in left:
        torch.testing.assert_close(left[name], right[name], rtol=1e-2, atol=2e-3)


def test_the_weights_of_a_head_alone_are_enough(tiny_boxes: TinyBoxes, weights: Path) -> None:
    options = (f"model.weights={weights}", "finetune.frozen_stages=-1")
    with pytest.raises(UserError, match=r"features\.cached = false"):
        tiny_boxes.settings(*options)
    settings = tiny_boxes.settings(*options, "features.cached=false")
    one, other = detector(settings), detector(tiny_boxes.settings(*options, "features.cached=false", "train.seed=1"))
    (phase,) = phases(settings)
    assert phase.head_only and not phase.cached
    freeze(one, settings, phase)
    state = learned_state(one, head_only=True)
    assert is_head_only(state)
    load_learned(other, state)
    with torch.inference_mode():
        assert torch.equal(one.eval()(noise(64)), other.eval()(noise(64)))


def test_anchors_are_those_of_the_training_boxes(tiny_boxes: TinyBoxes) -> None:
    settings = tiny_boxes.settings()
    assert len(settings.model.anchor_sizes) == 5
    assert 11 / 64 < settings.model.anchor_sizes[0] < settings.model.anchor_sizes[-1] < 25 / 64
    assert settings.model.anchor_ratios == (1.0,)
    assert np.diff(np.log(settings.model.anchor_sizes)) == pytest.approx(np.full(4, 0.13), abs=0.05)
    assert with_anchors(settings, tiny_boxes.part("valid")) == settings  # they are kept
    given = tiny_boxes.settings("model.name=fasterrcnn_fpn/resnet18", "model.anchor_sizes=[0.1, 0.2, 0.3, 0.5]")
    assert np.ravel(anchor_levels(given)).tolist() == pytest.approx([6.4, 12.8, 19.2, 32.0])


def test_mistakes_are_named(tiny_boxes: TinyBoxes) -> None:
    empty = tiny_boxes.images.select(tiny_boxes.images.rows.query("label == ''"))
    settings = super(TinyBoxes, tiny_boxes).settings()
    with pytest.raises(UserError, match="No training image has a box"):
        with_anchors(settings, empty)
    for name, message in (
        ("mobilenet_v2", "takes a detector and its backbone, such as fasterrcnn_fpn/mobilenet_v2"),
        ("fasterrcn_fpn/mobilenet_v2", "Did you mean 'fasterrcnn_fpn'"),
        ("fasterrcnn_fpn/vit_b_16", "has no maps of stride"),
        ("ssd300/resnet18", "cannot be the backbone of ssd300, which takes a VGG"),
    ):
        with pytest.raises(UserError, match=message):
            detector(tiny_boxes.settings(f"model.name={name}"))
    with pytest.raises(UserError, match="has 3 numbers, but fasterrcnn_fpn/resnet18 takes a multiple of 4 sizes"):
        detector(tiny_boxes.settings("model.name=fasterrcnn_fpn/resnet18", "model.anchor_sizes=[0.1, 0.2, 0.3]"))
    with pytest.raises(UserError, match=r"input\.source is 'photos'"):
        tiny_boxes.settings("input.source=photos")


def test_mirrored_predictions() -> None:
    found = pad(
        [torch.tensor([1, 0])], [torch.tensor([0.5, 0.9])], [torch.tensor([[0.1, 0.2, 0.4, 0.6], [0, 0, 1, 1]])]
    )
    turned = unpad(mirrored(found))
    assert turned[0, 1].tolist() == pytest.approx([1, 0.5, 0.6, 0.2, 0.9, 0.6])
    assert (turned[0, 2:] == 0).all()
    torch.testing.assert_close(mirrored(mirrored(found)), found)
