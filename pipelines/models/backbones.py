"""Torchvision classifiers in two parts, body and last layer, and the stages of the body, numbered from the input."""

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.models.published import AUXILIARY_HEADS, classifiers
from pipelines.models.state import load_into
from pipelines.system.errors import UserError, did_you_mean

SEQUENCES = ("body", "features", "encoder", "layers", "trunk_output", "blocks")  # containers whose children are stages
NOT_ON_META = "regnet_"  # their constructors compute with the parameters
POOLING = (nn.MaxPool2d, nn.AvgPool2d)


@dataclass
class Stage:
    """Neighbouring layers that are frozen together: the name of the first module, and the names of all parameters."""

    name: str
    parameters: list[str] = field(default_factory=list)


class Backbone(nn.Module):
    """A torchvision classifier without its last linear layer: maps images (N, 3, H, W) to features (N, dimensions)."""

    def __init__(self, body: nn.Module, dimensions: int, notes: Sequence[str] = ()) -> None:
        """notes: about the file of weights, for the user."""
        super().__init__()
        self.body = body
        self.dimensions = dimensions
        self.notes = list(notes)
        self.rescale: tuple[tuple[float, ...], tuple[float, ...]] | None = None
        self.taps: list[str] = []  # the modules whose outputs are features too, see `stage_features`

    def renormalise(
        self, mean: tuple[float, ...], std: tuple[float, ...], own_mean: tuple[float, ...], own_std: tuple[float, ...]
    ) -> None:
        """Make `forward` accept images normalised by `mean` and `std`; the weights need `own_mean` and `own_std`."""
        if (mean, std) != (own_mean, own_std):
            factors = tuple(given / own for given, own in zip(std, own_std, strict=True))
            offsets = tuple((m - own_m) / own for m, own_m, own in zip(mean, own_mean, own_std, strict=True))
            self.rescale = factors, offsets

    def forward(self, images: Tensor) -> Tensor:
        if self.rescale is not None:
            factors, offsets = (images.new_tensor(values).view(1, -1, 1, 1) for values in self.rescale)
            images = images * factors + offsets
        features: Tensor = self.body(images).flatten(1)
        return features


def build_backbone(
    name: str, weights: Path | None, published_size: int | None = None, needs_head: str = ""
) -> tuple[Backbone, nn.Linear]:
    """Return the body and the last layer of the torchvision classifier `name`.

    weights: the file of their weights; None for random ones.  published_size: image size of torchvision's own weights,
    if these are used; some networks are then built differently.  needs_head: the setting that uses the last layer; if
    empty, weights without it, or with other outputs, will do, and it is then zeros.

    Raises `UserError` for an unknown name, a network whose last layer is not linear, and weights of another network.
    """
    from torchvision import models

    known = classifiers()
    if name not in known:
        raise UserError(
            f"model.name is {name!r}, but torchvision has no weights for it.{did_you_mean(name, known)} Valid: "
            f"{', '.join(known)}."
        )
    options: dict[str, Any] = {}
    if name in AUXILIARY_HEADS:  # with these heads, the output in training mode would be a tuple instead of logits
        options = {"aux_logits": False, "init_weights": weights is None, "transform_input": published_size is not None}
    if name.startswith("vit_") and published_size:
        options = {"image_size": published_size}
    # The meta device skips the random initialisation, which takes seconds for a VGG.
    with torch.device("meta" if weights and not name.startswith(NOT_ON_META) else "cpu"):
        network: nn.Module = models.get_model(name, weights=None, **options)
    place, classifier = [
        (place, module)
        for place, module in network.named_modules()
        if isinstance(getattr(module, "weight", None), nn.Parameter) and not list(module.children())
    ][-1]
    if not isinstance(classifier, nn.Linear):
        raise UserError(
            f"model.name {name!r} does not end in a linear layer, so it cannot be a backbone. Choose another "
            "network, or leave model.weights empty to train this one from random weights."
        )
    notes = load_into(network, weights, name, place, needs_head) if weights else []
    parent, _, attribute = place.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return Backbone(network, classifier.in_features, notes), classifier


def stages(backbone: Backbone) -> list[Stage]:
    """Return the stages of `backbone` in the order of the forward pass.

    A stage is a child of the network, or of one of its `SEQUENCES`, that has children (`layer1` of a ResNet, a block
    of MobileNet).  Children without children are joined up to the next pooling (the stem of a ResNet, a block of VGG).
    """
    found: list[Stage] = []
    closed = True
    for name, module in _units(backbone, ""):
        is_block = isinstance(module, nn.Module) and bool(list(module.children()))
        names = [name]
        if isinstance(module, nn.Module):
            names = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
        if names and (is_block or closed):
            found.append(Stage(name.removeprefix("body.")))
        if names:
            found[-1].parameters += names
            closed = is_block
        elif isinstance(module, POOLING):
            closed = True
    return found


def _units(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Yield the parameters and children of `module` with their names, and those of `SEQUENCES` in place of these."""
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter
    for name, child in module.named_children():
        if name in SEQUENCES:
            yield from _units(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def fold_norms(backbone: Backbone) -> Backbone:
    """Return a copy of `backbone`, in evaluation mode, with each BatchNorm folded into the convolution before it.

    Outputs differ by rounding only (arXiv 1712.05877, section 3.2).  If torch.fx cannot trace it, nothing is folded.
    """
    from torch.fx import GraphModule, Tracer
    from torch.fx.experimental.optimization import fuse
    from torchvision.ops import StochasticDepth

    class KeepingDepth(Tracer):
        """Keep stochastic depth a module: traced in evaluation mode, it would be off in training too."""

        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, StochasticDepth) or super().is_leaf_module(module, name)

    folded = copy.deepcopy(backbone).eval()
    try:
        folded.body = fuse(GraphModule(folded.body, KeepingDepth().trace(folded.body)), no_trace=True)
    except Exception:  # torch.fx raises many types; the unchanged network is only slower
        return folded
    for parameter in folded.parameters():
        parameter.requires_grad_(True)
    return folded
