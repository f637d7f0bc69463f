"""Facts about the classifiers and pretrained weights that torchvision and timm publish."""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from pipelines.models import timm_models
from pipelines.system.errors import UserError, did_you_mean

INPUTS_OF_LAST_LAYERS = range(256, 8193)
AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}  # used in training only


@dataclass(frozen=True)
class Published:
    """Facts about one published file of weights.

    name: never an alias such as DEFAULT, except of timm, whose weights are chosen by the network's name.  prefix: the
    first hexadecimal digits of the file's SHA-256, empty where only the hub knows them.  mean, std: per channel, of
    pixels in 0..1; GoogLeNet and Inception need `transform_input=True` with them.  size: height and width of the centre
    crop in pixels.  resize: shorter side in pixels before the crop.  categories: names of the outputs, in order; None
    where the classifier is unusable or they are ImageNet's usual ones.  interpolation: of the resizing, where it is not
    the default.  hub: the repository at the hub of Hugging Face.
    """

    network: str
    name: str
    url: str
    filename: str
    prefix: str
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int
    resize: int
    categories: list[str] | None
    interpolation: str = ""  # of torchvision's weights too, which have always had bilinear images here
    hub: str = ""


def classifiers() -> list[str]:
    """Return the names of torchvision's classifiers."""
    from torchvision import models  # takes a second to import, and not every network needs it

    names: list[str] = models.list_models(module=models)
    return names


def is_published_name(text: str) -> bool:
    """Return whether `text` is a name of published weights, such as IMAGENET1K_V1, and not a path."""
    return re.fullmatch("[A-Z0-9_]+", text) is not None


def published_names(network: str) -> list[str]:
    """Return the names of the weights of `network`, aliases included; none for a network not in torchvision."""
    return ["DEFAULT"] if timm_models.is_timm(network) else list(_entries(network))


def published(network: str, name: str) -> Published:
    """Return the facts about the weights `name` of `network`; DEFAULT is an alias of the best ones.

    Raises `UserError` for an unknown network or name.
    """
    if timm_models.is_timm(network):
        return _of_timm(network, name)
    entries = _entries(network)
    if not entries:
        hint = timm_models.did_you_mean_network(network, classifiers())
        raise UserError(
            f"torchvision publishes no weights for model.name {network!r}.{hint} Name "
            "one of its networks, such as resnet18; or leave model.weights empty, to train from random weights."
        )
    if name not in entries:
        raise UserError(
            f"No weights {name!r} are published for {network}.{did_you_mean(name, entries)} "
            f"Valid: {', '.join(entries)}, or the path of a file."
        )
    return _describe(network, entries[name])


def recognised(network: str, sha256: str) -> Published | None:
    """Return the facts about the published weights of `network` with that SHA-256, or None where there are none.

    Of a network of timm, the name alone gives them, if it leaves no tags with other images open.
    """
    if timm_models.is_timm(network):
        return _describe_timm(network) if timm_models.same_images(network) else None
    known: Iterable[Published] = (_describe(network, entry) for entry in _entries(network).values())
    return next((each for each in known if sha256.startswith(each.prefix)), None)


def networks_with(parameters: int) -> list[str]:
    """Return the networks with published weights of that many parameters."""
    return [name for name in classifiers() if any(w.meta["num_params"] == parameters for w in _entries(name).values())]


def networks_with_body(parameters: int) -> list[str]:
    """Return the networks with published weights of that many parameters without their last layer.

    A last layer of d inputs has d + 1 parameters for each output.
    """

    def fits(weights: Any) -> bool:
        inputs, rest = divmod(weights.meta["num_params"] - parameters, len(weights.meta["categories"] or [0]))
        return not rest and inputs - 1 in INPUTS_OF_LAST_LAYERS

    return [name for name in classifiers() if any(fits(weights) for weights in _entries(name).values())]


def _entries(network: str) -> dict[str, Any]:
    from torchvision import models

    return dict(models.get_model_weights(network).__members__) if network in classifiers() else {}


def _describe(network: str, entry: Any) -> Published:
    transforms, categories = entry.transforms(), entry.meta["categories"]
    filename = entry.url.rpartition("/")[2]
    prefix = filename.rpartition("-")[2].removesuffix(".pth")
    mean, std, [size], [resize] = transforms.mean, transforms.std, transforms.crop_size, transforms.resize_size
    categories = list(categories) if categories else None
    return Published(
        network, entry.name, entry.url, filename, prefix, tuple(mean), tuple(std), size, resize, categories
    )


def _of_timm(network: str, name: str) -> Published:
    known = _describe_timm(network)
    if name != "DEFAULT":
        raise UserError(
            f"model.weights is {name!r}, but the weights of {network} are chosen by the tag in model.name, as in "
            f"{timm_models.PREFIX}{timm_models.full_name(network)}. Set model.weights=DEFAULT, or the path of a file."
        )
    if not known.url:
        raise UserError(
            f"timm publishes no weights for {network}. Set model.weights to the path of a file, or leave it empty to "
            "train from random weights."
        )
    return known


def _describe_timm(network: str) -> Published:
    """Return the facts about the weights of `network` of timm; `url` is empty where it has none."""
    known, full = timm_models.configuration(network), timm_models.full_name(network)
    filename, url, prefix = f"{full}.safetensors", known.url or "", ""
    if known.hf_hub_id:
        url = timm_models.hub_address(known.hf_hub_id)
    elif url:
        filename = url.rpartition("/")[2]
        found = re.search(r"-([0-9a-f]{8,})\.", filename)
        prefix = found[1] if found else ""
    facts = timm_models.image_facts(network)
    return Published(network, "DEFAULT", url, filename, prefix, categories=None, hub=known.hf_hub_id or "", **facts)
