"""Pretrained torchvision classifiers in two parts: the body, whose pooled features a head can see, and the last layer.

Stages are numbered from the bottom: what the first convolution belongs to is stage 1.
"""

import copy
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.models.weights import AUXILIARY_HEADS, load_into
from pipelines.system.errors import UserError, did_you_mean

# Containers whose children are the stages, rather than being one themselves.
SEQUENCES = ("features", "encoder", "layers", "trunk_output", "blocks")
NOT_ON_META = "regnet_"  # these compute with their parameters while they are built
POOLING = (nn.MaxPool2d, nn.AvgPool2d)


@dataclass
class Stage:
    """Neighbouring layers that freeze together: the names of the first module and of all parameters."""

    name: str
    parameters: list[str] = field(default_factory=list)


class Backbone(nn.Module):
    """A torchvision classifier without its last linear layer, which is kept beside it.

    `forward` maps images (N, 3, H, W) to pooled features (N, `dimensions`); `classifier` maps those to the network's
    own outputs.  The classifier is not part of this module, so that a head can be trained on features alone.
    """

    def __init__(self, body: nn.Module, dimensions: int) -> None:
        super().__init__()
        self.body = body
        self.dimensions = dimensions
        self.rescale: tuple[tuple[float, ...], tuple[float, ...]] | None = None

    def renormalise(
        self, mean: tuple[float, ...], std: tuple[float, ...], own_mean: tuple[float, ...], own_std: tuple[float, ...]
    ) -> None:
        """Let `forward` take images normalised by `mean` and `std`, while the weights want `own_mean` and `own_std`."""
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


def build_backbone(name: str, weights: Path | None, published_size: int | None = None) -> tuple[Backbone, nn.Linear]:
    """Return the torchvision classifier `name` as its body and its last layer, with the weights in the file `weights`
    or fresh ones.

    published_size: of the images that torchvision's own weights want, where it is these; some networks are then built
    differently.  Raises `UserError` for a name that torchvision does not have, a network whose last layer is not
    linear, and weights of another network.
    """
    from torchvision import models

    known = models.list_models(module=models)
    if name not in known:
        raise UserError(
            f"model.name is {name!r}, which torchvision has no weights for.{did_you_mean(name, known)} Valid: "
            f"{', '.join(known)}."
        )
    options: dict[str, Any] = {}
    if name in AUXILIARY_HEADS:  # in training they would answer with a tuple instead of logits
        options = {"aux_logits": False, "init_weights": weights is None, "transform_input": published_size is not None}
    if name.startswith("vit_") and published_size:
        options = {"image_size": published_size}
    # On the meta device no random weights are drawn, only to be overwritten: seconds for a VGG.
    with torch.device("meta" if weights and not name.startswith(NOT_ON_META) else "cpu"):
        network: nn.Module = models.get_model(name, weights=None, **options)
    if weights:
        load_into(network, weights, name)
    place, classifier = _last_layer(network)
    if not isinstance(classifier, nn.Linear):
        raise UserError(f"model.name {name!r} does not end in a linear layer, so its features cannot be taken apart.")
    parent, _, attribute = place.rpartition(".")
    setattr(network.get_submodule(parent), attribute, nn.Identity())
    return Backbone(network, classifier.in_features), classifier


def _last_layer(network: nn.Module) -> tuple[str, nn.Module]:
    """Return the name of the last module with weights, and the module."""
    named = [(name, module) for name, module in network.named_modules() if "weight" in dict(module.named_parameters())]
    return [each for each in named if not list(each[1].children())][-1]


def stages(backbone: Backbone) -> list[Stage]:
    """Return the stages of `backbone` from the bottom up.

    A stage is a child of the network, or of its container of layers, with children of its own (`layer1` of a ResNet, a
    block of MobileNet); children without any are taken together up to the next pooling (a ResNet's stem, a block of
    VGG).
    """
    found: list[Stage] = []
    closed = True
    for name, module in _units(backbone, ""):
        names = [f"{name}.{parameter}" if parameter else name for parameter, _ in _parameters(module)]
        is_block = isinstance(module, nn.Module) and bool(list(module.children()))
        if names and (is_block or closed):
            found.append(Stage(name.removeprefix("body.")))
        if names:
            found[-1].parameters += names
            closed = is_block
        elif isinstance(module, POOLING):
            closed = True
    return found


def _units(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter
    for name, child in module.named_children():
        if name in (*SEQUENCES, "body"):
            yield from _units(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def _parameters(unit: nn.Module | nn.Parameter) -> Iterator[tuple[str, nn.Parameter]]:
    if isinstance(unit, nn.Parameter):
        yield "", unit
    else:
        yield from unit.named_parameters()


def fold_norms(backbone: Backbone) -> Backbone:
    """Return a copy of `backbone`, in evaluation mode, with each BatchNorm folded into the convolution before it.

    In exact arithmetic nothing changes (arXiv 1712.05877, section 3.2).  A network that torch.fx cannot trace is copied
    as it is.
    """
    from torch.fx import GraphModule, Tracer
    from torch.fx.experimental.optimization import fuse
    from torchvision.ops import StochasticDepth

    class KeepingDepth(Tracer):
        """Leaves stochastic depth a module, which acts in training; traced through, it would be off for good."""

        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, StochasticDepth) or super().is_leaf_module(module, name)

    folded = copy.deepcopy(backbone).eval()
    try:
        folded.body = fuse(GraphModule(folded.body, KeepingDepth().trace(folded.body)), no_trace=True)
    except Exception:  # torch.fx has no one exception for code that it cannot trace; such a network is only slower
        return folded
    for parameter in folded.parameters():
        parameter.requires_grad_(True)
    return folded
