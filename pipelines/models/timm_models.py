"""Classifiers of timm: their configurations, their networks, and how a file's tensors become theirs.

timm is imported only for a network whose name starts with `timm/`.
"""

import inspect
import sys
from collections.abc import Callable, Iterable
from contextlib import suppress
from math import floor
from typing import Any

from torch import Tensor, nn

from pipelines.system.errors import UserError, did_you_mean, few

PREFIX = "timm/"
HUB_FILE = "model.safetensors"  # the name of every file of weights of timm at the hub
FILTERS = ("checkpoint_filter_fn", "_filter_fn")  # timm's names of the functions that convert tensors of other code
COLOURS = 3
TAGS_SHOWN = 12


def is_timm(network: str) -> bool:
    return network.startswith(PREFIX)


def _timm(network: str) -> Any:
    try:
        import timm
    except ImportError as error:
        raise UserError(
            f"model.name {network!r} needs the package timm, which cannot be imported ({error}). Install it: make "
            "install. Or choose a network of torchvision."
        ) from None
    return timm


def configuration(network: str) -> Any:
    """Return timm's configuration of `network`, `timm/<architecture>[.<tag>]`; without a tag, that of timm's default.

    Raises `UserError`, with near names, for an architecture or a tag that timm does not have.
    """
    timm = _timm(network)
    architecture, _, tag = network.removeprefix(PREFIX).partition(".")
    known = timm.list_models()
    if architecture not in known:
        raise UserError(
            f"model.name is {network!r}, but timm {timm.__version__} has no network {architecture!r}."
            f"{did_you_mean(architecture, known)} It has {len(known):,}: "
            ".venv/bin/python -c 'import timm; print(*timm.list_models())' lists them."
        )
    tags = tags_of(network)
    if tag and tag not in tags:
        names = [f"{PREFIX}{architecture}.{each}" for each in tags]
        offer = f"It has: {few(names, TAGS_SHOWN)}. Or leave the tag out" if names else "Leave the tag out: it has none"
        raise UserError(
            f"model.name is {network!r}, but timm {timm.__version__} knows no weights {tag!r} of {architecture}."
            f"{did_you_mean(tag, tags)} {offer}."
        )
    return timm.get_pretrained_cfg(network.removeprefix(PREFIX))


def did_you_mean_network(name: str, valid: Iterable[str]) -> str:
    """Return the hint of `did_you_mean`, or the name with its prefix if `name` is a network of timm without it."""
    bare = name.rpartition("/")[2]
    with suppress(ImportError):
        import timm

        if timm.is_model(bare.partition(".")[0]):
            return f" Did you mean {PREFIX + bare!r}, a network of timm?"
    return did_you_mean(name, valid)


def tags_of(network: str) -> list[str]:
    """Return the tags of the weights that timm knows for the architecture of `network`, its default first."""
    timm = _timm(network)
    architecture = network.removeprefix(PREFIX).partition(".")[0]
    tags = [name.partition(".")[2] for name in timm.list_pretrained(f"{architecture}.*")]
    default = timm.get_pretrained_cfg(architecture)
    return sorted(filter(None, tags), key=lambda tag: (tag != (default and default.tag), tag))


def full_name(network: str) -> str:
    """Return the name of the weights of `network` at timm, `<architecture>.<tag>`."""
    found = configuration(network)
    return f"{found.architecture}.{found.tag}" if found.tag else str(found.architecture)


def hub_address(repository: str) -> str:
    """Return the address of the file of weights in `repository` at the hub, or at the mirror that HF_ENDPOINT names."""
    from huggingface_hub import hf_hub_url

    return str(hf_hub_url(repository, HUB_FILE))


def same_images(network: str) -> bool:
    """Return whether the name `network` determines how images are normalised: all tags that it leaves open agree."""
    if "." in network:
        return True
    found = [configuration(f"{network}.{tag}") for tag in tags_of(network)]
    return len({(each.mean, each.std) for each in found}) <= 1


def image_facts(network: str) -> dict[str, Any]:
    """Return mean, std, size, resize and interpolation of the images of `network`, by timm's configuration."""
    from timm.data import resolve_data_config

    found = resolve_data_config({}, pretrained_cfg=configuration(network).to_dict())
    size = max(found["input_size"][1:])
    resize = floor(size / found["crop_pct"])
    facts = {"mean": tuple(found["mean"]), "std": tuple(found["std"]), "size": size, "resize": resize}
    return {**facts, "interpolation": "bilinear" if found["interpolation"] == "bilinear" else "bicubic"}


def categories_of(network: str) -> list[str] | None:
    """Return the names of the outputs of `network`, where they are a set of ImageNet's classes that timm knows."""
    from timm.data import ImageNetInfo, infer_imagenet_subset

    subset = infer_imagenet_subset(configuration(network).to_dict())
    if subset in (None, "imagenet-1k"):  # torchvision has the usual names of the 1,000
        return None
    return [text.partition(",")[0] for text in ImageNetInfo(subset).label_descriptions()]


def create(network: str, channels: int, size: int, outputs: int | None = None) -> nn.Module:
    """Return `network` with random weights, for images of `channels` and `size` pixels.

    outputs: of its last layer; None: as many as timm's weights have.  Raises `UserError` where timm cannot build it.
    """
    timm, known = _timm(network), configuration(network)
    options: dict[str, Any] = {} if outputs is None else {"num_classes": outputs}
    if channels != COLOURS:
        options["in_chans"] = channels
    if known.fixed_input_size:  # a transformer with a position for each patch
        options["img_size"] = size
    try:
        made: nn.Module = timm.create_model(network.removeprefix(PREFIX), pretrained=False, **options)
    except Exception as error:  # assertions and errors of many types
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"timm cannot build {network} for images of {size} x {size} pixels and {channels} channels: {reason}. Its "
            f"own size is {known.input_size[-1]}: set input.size={known.input_size[-1]}, or choose another network."
        ) from None
    return made


def last_layers(network: nn.Module) -> list[str]:
    """Return the names of the layers of a network of timm that make outputs of features: none, one or several."""
    found = network.get_classifier()  # type: ignore[operator]
    layers = [each for each in (found if isinstance(found, list | tuple) else [found]) if each is not None]
    places = {id(module): name for name, module in network.named_modules()}
    return [places[id(layer)] for layer in layers if list(layer.parameters())]


def converter(network: nn.Module, channels: int) -> Callable[[dict[str, Tensor]], dict[str, Tensor]]:
    """Return the function that makes a file's tensors fit `network`, as timm does when it loads them.

    It renames those of a network's first authors, resamples positions for other sizes of images, and adapts the first
    layer to `channels`.  Tensors that it cannot convert stay as they are.
    """
    from timm.models import adapt_input_conv

    module = sys.modules[type(network).__module__]
    own = next((function for name in FILTERS if (function := getattr(module, name, None))), None)
    first = network.pretrained_cfg.get("first_conv") or ()  # type: ignore[union-attr, operator]
    layers = [f"{name}.weight" for name in ([first] if isinstance(first, str) else first)]
    expected = network.state_dict()

    def convert(state: dict[str, Tensor]) -> dict[str, Tensor]:
        if own:
            arguments = (state, network)[: len(inspect.signature(own).parameters)]
            try:
                state = own(*arguments)
            except Exception:  # of another network: the comparison of names says so
                return state
        for name in layers:
            if name in state and state[name].ndim == 4 and state[name].shape != expected[name].shape:
                state[name] = adapt_input_conv(channels, state[name])
        return state

    return convert


def is_of_timm(network: nn.Module) -> bool:
    return any(type(module).__module__.startswith("timm.") for module in network.modules())


def not_traced(network: nn.Module) -> tuple[list[type[nn.Module]], list[Callable[..., Any]]]:
    """Return the classes of modules and the functions that torch.fx must keep whole in `network`; none outside timm."""
    if not is_of_timm(network):
        return [], []
    from timm.layers import DropPath, get_notrace_functions, get_notrace_modules

    functions = [function for function in get_notrace_functions() if callable(function)]
    return [DropPath, *get_notrace_modules()], functions
