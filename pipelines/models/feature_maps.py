"""The maps that a detector sees: those of a classifier, which is cut off after the last one, and what is added."""

import math
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule, Node
from torch.fx.passes.shape_prop import ShapeProp

from pipelines.models.backbones import Backbone, traced, units
from pipelines.system.errors import UserError

TRIED = 256  # side in pixels of the blank image that shows the strides
NARROW = 256  # channels: networks whose map of stride 16 is narrower get a pyramid of half the width
EXTRA = (512, 256, 256, 128)  # channels of the maps that SSDlite adds
LITE_NORM = partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)


class Maps(Backbone):
    """A body whose features are maps, {"0": (N, C, H, W), …}; `widths` are their channels."""

    widths: tuple[int, ...]

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        maps: dict[str, Tensor] = self.body(images)
        return maps


def cut(backbone: Backbone, name: str, channels: int, strides: Sequence[int], wide: bool = False) -> Maps:
    """Return `backbone`, the network `name`, up to its last map of the largest of `strides`.

    Its maps are those after the last block of each stride; wide: the first is the last map of its stride inside of a
    block.  Raises `UserError` for a network without such maps.
    """
    body = GraphModule(backbone.eval().body, traced(backbone.body))
    with suppress(RuntimeError):  # a network for another size, as of a vision transformer, has no such maps
        ShapeProp(body).propagate(torch.zeros(1, channels, TRIED, TRIED))
    blocks = {unit.removeprefix("body.") for unit, _ in units(backbone, "")}
    ends: dict[str, tuple[int, Node]] = {}
    last: dict[int, Node] = {}
    for node in body.graph.nodes:
        shape = _shape(node)
        if len(shape) == 4 and shape[2] == shape[3]:
            stride = 2 ** round(math.log2(TRIED / shape[3]))
            last[stride] = node
            ends |= dict.fromkeys(blocks & {*node.meta.get("nn_module_stack", ())}, (stride, node))
    found: Mapping[int, Node] = dict(ends.values())
    if missing := [stride for stride in strides if stride not in found]:
        raise UserError(
            f"{name} has no maps of stride {missing[0]}, which the detector needs. Choose another backbone in "
            "model.name, such as mobilenet_v2 or resnet50."
        )
    chosen = [found[stride] for stride in strides]
    if wide:
        chosen[0] = last[strides[0]]
    body.graph.erase_node(next(node for node in body.graph.nodes if node.op == "output"))
    body.graph.output({str(number): node for number, node in enumerate(chosen)})
    body.graph.eliminate_dead_code()
    maps = Maps(GraphModule(body, body.graph), _shape(chosen[-1])[1], backbone.notes)
    maps.widths = tuple(_shape(node)[1] for node in chosen)
    return maps


def _shape(node: Node) -> tuple[int, ...]:
    """Return the shape of the output of `node` for the blank image; empty if it is no tensor."""
    return tuple(getattr(node.meta.get("tensor_meta"), "shape", ()))


class Pyramid(nn.Module):
    """A feature pyramid (arXiv 1612.03144) on maps of three strides, and a map of twice the largest one."""

    def __init__(self, widths: Sequence[int]) -> None:
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        super().__init__()
        self.width = 256 if widths[1] >= NARROW else 128
        self.layers = FeaturePyramidNetwork(list(widths), self.width, LastLevelMaxPool())

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        levels: dict[str, Tensor] = self.layers(maps)
        return levels


class Further(nn.Module):
    """The maps of SSD: the first, which may be scaled, and those of `blocks`, one after another, from the second."""

    def __init__(self, blocks: Sequence[nn.Module], scaled: int = 0) -> None:
        """scaled: the channels of the first map, if it is divided by its norm and scaled; else 0."""
        super().__init__()
        self.blocks = nn.ModuleList(blocks)
        self.scales = nn.Parameter(torch.full((scaled,), 20.0)) if scaled else None  # as in arXiv 1512.02325

    def forward(self, maps: dict[str, Tensor]) -> dict[str, Tensor]:
        first, level = maps.values()
        if self.scales is not None:
            first = self.scales.view(1, -1, 1, 1) * F.normalize(first)
        levels = [first, *(level := block(level) for block in self.blocks)]
        return OrderedDict((str(number), each) for number, each in enumerate(levels))


def of_vgg(backbone: Backbone, name: str, channels: int) -> tuple[Maps, Further, list[int]]:
    """Return the body of SSD300 on a VGG, what it adds, and the channels of all maps."""
    from torchvision.models.detection.ssd import SSDFeatureExtractorVGG

    if not name.startswith("vgg"):
        raise UserError(f"{name} cannot be the backbone of ssd300, which takes a VGG, such as ssd300/vgg16.")
    extractor = SSDFeatureExtractorVGG(backbone.body.features, highres=False)  # it changes the rounding of a pooling
    maps = cut(backbone, name, channels, (8, 16))
    blocks = [extractor.extra[0][-1], *extractor.extra[1:]]
    last = [[each for each in block.modules() if isinstance(each, nn.Conv2d)][-1] for block in blocks]
    widths = [maps.widths[0], *(layer.out_channels for layer in last)]
    return maps, Further(blocks, widths[0]), widths


def of_mobilenet(backbone: Backbone, name: str, channels: int) -> tuple[Maps, Further, list[int]]:
    """Return the body of SSDlite, what it adds, and the channels of all maps.

    The first map is, as in torchvision, the wide one inside the block that halves maps of stride 16.
    """
    from torchvision.models.detection import ssdlite

    maps = cut(backbone, name, channels, (16, 32), wide=True)
    blocks = [ssdlite._extra_block(*pair, LITE_NORM) for pair in pairwise([maps.widths[1], *EXTRA])]
    for block in blocks:
        ssdlite._normal_init(block)
    return maps, Further([nn.Identity(), *blocks]), [*maps.widths, *EXTRA]
