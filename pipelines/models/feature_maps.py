"""The maps that a detector sees: those of a classifier, cut off after the last one, and what is added to them."""

import math
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.fx import GraphModule

from pipelines.models.backbones import Backbone, traced, units
from pipelines.system.errors import UserError

TRIED = 256  # side in pixels of the blank image that shows the strides
NARROW = 256  # channels: networks whose map of stride 16 is narrower get a pyramid of half the width
EXTRA = (512, 256, 256, 128)  # channels of the maps that SSDlite adds


@dataclass(frozen=True)
class Place:
    """A map of a network: the name of the module whose output it is, its stride in pixels and its channels."""

    name: str
    stride: int
    width: int


class Maps(Backbone):
    """A body whose features are maps, {"0": (N, C, H, W), …}."""

    def forward(self, images: Tensor) -> dict[str, Tensor]:  # type: ignore[override]
        maps: dict[str, Tensor] = self.body(images)
        return maps


def find_places(backbone: Backbone, channels: int, inside: bool = False) -> list[Place]:
    """Return the maps after each block of `backbone`, from the input; inside: also after the first layer in a block."""
    found: list[Place] = []

    def listen(name: str, module: nn.Module) -> torch.utils.hooks.RemovableHandle:
        def hook(module: nn.Module, inputs: object, output: object) -> None:
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[2] == output.shape[3]:
                found.append(Place(name, 2 ** round(math.log2(TRIED / output.shape[3])), output.shape[1]))

        return module.register_forward_hook(hook)

    hooks, names = [], {module: name for name, module in backbone.body.named_modules()}
    for _, module in units(backbone, ""):
        if isinstance(module, nn.Module):
            if inside and (parts := [part for part in module.children() if isinstance(part, nn.Sequential)]):
                hooks.append(listen(names[parts[0][0]], parts[0][0]))
            hooks.append(listen(names[module], module))
    with torch.inference_mode():
        backbone.eval()(torch.zeros(1, channels, TRIED, TRIED))
    for each in hooks:
        each.remove()
    return found


def cut(backbone: Backbone, places: Sequence[Place]) -> Maps:
    """Return `backbone` up to the last of `places`, the outputs of which are its maps."""
    graph = traced(backbone.body)
    last = {name: node for node in graph.nodes for name in node.meta.get("nn_module_stack", {})}
    graph.erase_node(next(node for node in graph.nodes if node.op == "output"))
    graph.output({str(number): last[place.name] for number, place in enumerate(places)})
    for node in reversed(graph.nodes):
        if not (node.users or node.op in ("placeholder", "output")):
            graph.erase_node(node)
    return Maps(GraphModule(backbone.body, graph), places[-1].width, backbone.notes)


def maps_at(backbone: Backbone, name: str, channels: int, strides: Sequence[int]) -> tuple[Maps, list[Place]]:
    """Return `backbone`, the network `name`, cut to its last maps of these strides, and their places.

    Raises `UserError` if it lacks one of them.
    """
    last = {place.stride: place for place in find_places(backbone, channels)}
    if missing := [stride for stride in strides if stride not in last]:
        raise UserError(
            f"{name} has no maps of stride {missing[0]}, which the detector needs. Choose another backbone in "
            "model.name, such as mobilenet_v2 or resnet50."
        )
    places = [last[stride] for stride in strides]
    return cut(backbone, places), places


class Pyramid(nn.Module):
    """A feature pyramid (arXiv 1612.03144) on the maps, and a map of twice the largest stride."""

    def __init__(self, places: Sequence[Place]) -> None:
        from torchvision.ops.feature_pyramid_network import FeaturePyramidNetwork, LastLevelMaxPool

        super().__init__()
        self.width = 256 if places[-2].width >= NARROW else 128
        self.layers = FeaturePyramidNetwork([place.width for place in places], self.width, LastLevelMaxPool())

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
        first, values = maps.values()
        if self.scales is not None:
            first = self.scales.view(1, -1, 1, 1) * F.normalize(first)
        levels = [first]
        for block in self.blocks:
            values = block(values)
            levels.append(values)
        return OrderedDict((str(number), level) for number, level in enumerate(levels))


def of_vgg(backbone: Backbone, channels: int) -> tuple[Maps, Further, list[int]]:
    """Return the body of SSD300 on a VGG, what it adds, and the channels of all maps."""
    from torchvision.models.detection.ssd import SSDFeatureExtractorVGG

    extractor = SSDFeatureExtractorVGG(backbone.body.features, highres=False)  # it changes the rounding of a pooling
    body, places = maps_at(backbone, "vgg", channels, (8, 16))
    blocks = [extractor.extra[0][-1], *extractor.extra[1:]]
    return body, Further(blocks, places[0].width), [places[0].width, *map(_width, blocks)]


def of_mobilenet(backbone: Backbone, name: str, channels: int) -> tuple[Maps, Further, list[int]]:
    """Return the body of SSDlite on a MobileNet, what it adds, and the channels of all maps.

    The first map is, as in torchvision, the wide one inside the block that halves maps of stride 16.
    """
    from torchvision.models.detection import ssdlite

    found = find_places(backbone, channels, inside=True)
    wide = [before for before, after in pairwise(found) if (before.stride, after.stride) == (16, 32)]
    if not wide:
        raise UserError(f"{name} cannot be the backbone of ssdlite320. Choose mobilenet_v2 or mobilenet_v3_large.")
    last = [place for place in found if place.stride == 32][-1]
    widths = [last.width, *EXTRA]
    blocks = [ssdlite._extra_block(*pair, lite_norm()) for pair in pairwise(widths)]
    for block in blocks:
        ssdlite._normal_init(block)
    return cut(backbone, [wide[0], last]), Further([nn.Identity(), *blocks]), [wide[0].width, *widths]


def lite_norm() -> partial[nn.BatchNorm2d]:
    """Return the batch norm of SSDlite."""
    return partial(nn.BatchNorm2d, eps=0.001, momentum=0.03)


def _width(block: nn.Module) -> int:
    """Return the channels of the output of `block`."""
    return [module for module in block.modules() if isinstance(module, nn.Conv2d)][-1].out_channels
