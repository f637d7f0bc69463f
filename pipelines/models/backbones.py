"""Classifiers of torchvision and timm in two parts, body and last layer, and the stages of the body from the input."""

import copy
import inspect
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx import Graph, GraphModule, Tracer
from torch.nn.utils.fusion import fuse_conv_bn_weights

from pipelines.dataset.augment import channel_values
from pipelines.models import timm_models
from pipelines.models.published import AUXILIARY_HEADS, classifiers
from pipelines.models.state import load_into
from pipelines.system.errors import UserError

# Containers whose children are stages.
SEQUENCES = ("body", "features", "encoder", "layers", "trunk_output", "blocks", "stages")
NOT_ON_META = "regnet_"  # their constructors compute with the parameters
PLAIN_CONVOLUTIONS = ("Conv2d", "Conv2dSame")  # classes; others, such as StdConv2d, change their weights in each call
BATCH_NORM = nn.modules.batchnorm._BatchNorm
POOLING = (nn.MaxPool2d, nn.AvgPool2d)


@dataclass
class Stage:
    """Neighbouring layers that are frozen together: the name of the first module, and the names of all parameters."""

    name: str
    parameters: list[str] = field(default_factory=list)


class Backbone(nn.Module):
    """A classifier without its last linear layer: maps images (N, 3, H, W) to features (N, dimensions)."""

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
            factors, offsets = (channel_values(values, images) for values in self.rescale)
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
        hint = timm_models.did_you_mean_network(name, known)
        raise UserError(
            f"model.name is {name!r}, but torchvision has no weights for it.{hint} Valid: {', '.join(known)}."
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


def build_timm(
    name: str, weights: Path | None, shape: tuple[int, int], needs_head: str = ""
) -> tuple[Backbone, nn.Linear]:
    """Return body and last layer of the classifier `name` of timm, `timm/<architecture>[.<tag>]`.

    weights, needs_head: as in `build_backbone`.  shape: channels and side in pixels of the images.  The body's features
    are those of timm's `forward_head(pre_logits=True)`: pooled maps, a class token, or the mean of patches.  A network
    without one linear last layer has features too; then the last layer returned is zeros, with one output.
    """
    channels, size = shape
    network = timm_models.create(name, channels, size)
    places = timm_models.last_layers(network)
    last = network.get_submodule(places[0]) if len(places) == 1 else None
    if needs_head and not isinstance(last, nn.Linear):
        what = {0: "no last layer", 1: "a last layer that is not linear"}.get(len(places), f"{len(places)} last layers")
        raise UserError(
            f"{name} has {what}, but {needs_head} uses it. Set model.features=pooled and model.label_map= (empty), "
            "which do not use it, or choose another network."
        )
    head = places[0] if isinstance(last, nn.Linear) else ""
    notes: list[str] = []
    if weights:
        notes = load_into(network, weights, name, head, needs_head, timm_models.converter(network, channels))
    for place in places:
        parent, _, attribute = place.rpartition(".")
        setattr(network.get_submodule(parent), attribute, nn.Identity())
    if isinstance(last, nn.Linear):
        return Backbone(network, last.in_features, notes), last
    dimensions = int(network.head_hidden_size)  # type: ignore[arg-type]
    classifier = nn.Linear(dimensions, 1)
    nn.init.zeros_(classifier.weight)
    return Backbone(network, dimensions, notes), classifier


def stages(backbone: Backbone) -> list[Stage]:
    """Return the stages of `backbone` in the order of the forward pass.

    A stage is a child of the network, or of one of its `SEQUENCES`, whose children have parameters (`layer1` of a
    ResNet, a block of MobileNet or of a vision transformer).  Other children are joined up to the next pooling (the
    stem of a ResNet, a block of VGG).  Parameters of the network itself, such as a class token, join what follows.
    """
    found: list[Stage] = []
    known = {name for name, _ in backbone.named_parameters()}  # of parameters that modules share, only the first name
    closed, bare = True, False
    for name, module in units(backbone, ""):
        is_block = isinstance(module, nn.Module) and any(list(child.parameters()) for child in module.children())
        names = [name]
        if isinstance(module, nn.Module):
            names = [f"{name}.{parameter}" for parameter, _ in module.named_parameters()]
            names = [each for each in names if each in known]
        of_stem = isinstance(module, BATCH_NORM) and len(found) == 1  # after a stem of several convolutions
        if names and (is_block or closed) and not (bare or of_stem):
            found.append(Stage(name.removeprefix("body.")))
        if names:
            found[-1].parameters += names
            closed, bare = is_block, isinstance(module, nn.Parameter)
        elif isinstance(module, POOLING):
            closed = True
    return found


def units(module: nn.Module, prefix: str) -> Iterator[tuple[str, nn.Module | nn.Parameter]]:
    """Yield the parameters and children of `module` with their names, and those of `SEQUENCES` in place of these."""
    for name, parameter in module.named_parameters(recurse=False):
        yield prefix + name, parameter
    for name, child in module.named_children():
        if name in SEQUENCES:
            yield from units(child, f"{prefix}{name}.")
        else:
            yield prefix + name, child


def fold_norms(backbone: Backbone) -> Backbone:
    """Return a copy of `backbone`, in evaluation mode, with each BatchNorm folded into the convolution before it.

    Outputs differ by rounding only (arXiv 1712.05877, section 3.2).  If torch.fx cannot trace it, nothing is folded.
    """
    folded = copy.deepcopy(backbone).eval()
    has_norms = any(isinstance(module, BATCH_NORM) for module in folded.modules())
    if not has_norms and timm_models.is_of_timm(folded):  # torchvision's are traced, as they have always been
        return folded
    try:
        graph = traced(folded.body)
    except Exception:  # torch.fx raises many types; the unchanged network is only slower
        return folded
    folded.body = _fused(folded.body, graph)
    for parameter in folded.parameters():
        parameter.requires_grad_(True)
    return folded


def traced(body: nn.Module) -> Graph:
    """Return the graph of `body` in evaluation mode."""
    from torchvision.ops import StochasticDepth

    whole, functions = timm_models.not_traced(body)
    leaves = (StochasticDepth, *whole)

    class KeepingDepth(Tracer):
        """Keep stochastic depth a module: traced in evaluation mode, it would be off in training too."""

        def is_leaf_module(self, module: nn.Module, name: str) -> bool:
            return isinstance(module, leaves) or super().is_leaf_module(module, name)

    rest = list(inspect.signature(body.forward).parameters.values())[1:]  # as a mask, which no caller gives
    given = {each.name: each.default for each in rest} or None
    return KeepingDepth(autowrap_functions=tuple(functions)).trace(body, given)


def _fused(body: nn.Module, graph: Graph) -> nn.Module:
    """Return `body`, whose weights change, as its `graph`, whose convolutions take over the norms after them."""
    modules = dict(body.named_modules())
    uses = Counter(node.target for node in graph.nodes if node.op == "call_module")
    for node in [node for node in graph.nodes if node.op == "call_module"]:
        norm, before = modules[node.target], node.args[0]
        if not isinstance(norm, nn.BatchNorm2d) or before.op != "call_module" or len(before.users) > 1:
            continue
        convolution = modules[before.target]
        plain = type(convolution).__name__ in PLAIN_CONVOLUTIONS and norm.track_running_stats
        if not plain or uses[before.target] > 1:
            continue
        statistics: Any = (norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias)
        convolution.weight, convolution.bias = fuse_conv_bn_weights(convolution.weight, convolution.bias, *statistics)
        if type(norm) is nn.BatchNorm2d:
            node.replace_all_uses_with(before)
            graph.erase_node(node)
        else:
            body.set_submodule(node.target, nn.Sequential(*norm.children()))  # timm's: a dropout and an activation
    return GraphModule(body, graph)
