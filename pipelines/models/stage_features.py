"""Features of several depths: the maps after a backbone's stages beside its pooled features.

Early layers see strokes, edges and texture.  They help where images differ from the photos of the pretraining.
"""

from typing import Any

import torch
from torch import Tensor, nn

from pipelines.models.backbones import Backbone, stages

MOST_STAGES = 8  # of a backbone, evenly spaced up to the last one
MOST_FEATURES = 8192  # of a backbone; with wide stages, such as those of a vision transformer, fewer are used


def moments(maps: Tensor) -> Tensor:
    """Return mean and standard deviation over the positions, float32 (N, 2 C).

    maps: (N, C, H, W); (N, H, W, C), as Swin has them, with H = W; or (N, positions, C).
    """
    values = maps.float()
    if values.dim() == 4:
        square = values.shape[1] == values.shape[2] != values.shape[3]
        values = values.flatten(1, 2) if square else values.flatten(2).transpose(1, 2)
    return torch.cat([values.mean(dim=1), (values.var(dim=1, unbiased=False) + 1e-6).sqrt()], dim=1)


torch.fx.wrap("moments")  # so that tracing, to fold norms, keeps its calls whole: they depend on shapes


class Tap:
    """Keeps the moments of a module's latest output."""

    def __init__(self) -> None:
        self.heard: Any = None

    def __call__(self, module: nn.Module, inputs: Any, output: Any) -> None:
        self.heard = moments(output)


class StageFeatures(nn.Module):
    """A body whose features are the moments of the maps after some of its modules, and its own, side by side."""

    def __init__(self, body: nn.Module, places: list[str]) -> None:
        """places: the names of these modules."""
        super().__init__()
        self.body = body
        self.places = places
        self.taps = [Tap() for _ in places]
        for place, tap in zip(places, self.taps, strict=True):
            body.get_submodule(place).register_forward_hook(tap)

    def forward(self, images: Tensor) -> Tensor:
        own = self.body(images).flatten(1)
        heard = [tap.heard for tap in self.taps]
        for tap in self.taps:
            tap.heard = None
        return torch.cat([*heard, own.float()], dim=1)


def add_stages(backbone: Backbone, channels: int, size: int) -> None:
    """Add the moments of at most `MOST_STAGES` stages to the features of `backbone`, for images of `size` pixels.

    A network whose stages are single layers, such as VGG, has only its own features.
    """
    widths = _widths(backbone, channels, size)
    places = list(widths)
    step = max(1, len(places) / MOST_STAGES)
    chosen = sorted({len(places) - 1 - round(number * step) for number in range(min(MOST_STAGES, len(places)))})
    while sum(2 * widths[places[each]] for each in chosen) > MOST_FEATURES and len(chosen) > 1:
        chosen = chosen[::-2][::-1]
    backbone.taps = [places[each] for each in chosen]
    backbone.body = StageFeatures(backbone.body, backbone.taps)
    backbone.dimensions += sum(2 * widths[place] for place in backbone.taps)


@torch.inference_mode()
def _widths(backbone: Backbone, channels: int, size: int) -> dict[str, int]:
    """Return the number of channels of the maps after each stage that is a block, in the order of the stages."""
    body, found, hooks = backbone.body, dict[str, int](), []
    modules = dict(body.named_modules())

    def listen(place: str) -> Any:
        def hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if isinstance(output, Tensor) and output.dim() in (3, 4):
                found[place] = moments(output).shape[1] // 2

        return hook

    for stage in stages(backbone):
        block = modules.get(stage.name)
        if block is not None and list(block.children()):
            hooks.append(block.register_forward_hook(listen(stage.name)))
    training = body.training
    backbone.eval()(torch.zeros(1, channels, size, size))
    backbone.train(training)
    for hook in hooks:
        hook.remove()
    return found
