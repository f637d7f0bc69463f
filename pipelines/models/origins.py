"""Where the backbones of a network come from, and what their weights determine about its images."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.models.weights import AUXILIARY_HEADS, find_weights, is_published_name, published, recognised
from pipelines.settings.loading import merge, with_input
from pipelines.settings.schema import PLAIN_INPUT, ModelSettings, Settings
from pipelines.system.errors import UserError
from pipelines.system.watch import Watch, unwatched


@dataclass(frozen=True)
class Origin:
    """The network and weights of one backbone.

    path, sha256: of the file of weights; None for random weights, and for weights that a checkpoint holds.
    mean, std, size, resize, categories: the images that published weights expect and the names of their outputs; None
    where they are unknown.
    """

    name: str
    path: Path | None = None
    sha256: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    resize: int | None = None
    categories: list[str] | None = None


def find_origins(
    settings: ModelSettings, folder: Path, with_files: bool = True, watch: Watch = unwatched
) -> list[Origin]:
    """Return the backbones that `settings` name, with their weights found (or downloaded into `folder`) and verified.

    The list is empty for a network without pretrained weights.  with_files: false where a checkpoint holds the weights.
    Raises `UserError` where the numbers of names, weights and hashes differ, and as `find_weights` does.
    """
    if not settings.weights:
        return []
    names = settings.name.split("+")

    def one_each(text: str, key: str, for_all: bool) -> list[str]:
        values = text.split("+") if len(names) > 1 else [text]  # a path may contain a plus
        if len(values) == 1 and for_all:
            values *= len(names)
        if len(values) != len(names):
            raise UserError(f"{key} has {len(values)} parts, {text!r}, for the {len(names)} of {settings.name!r}.")
        return values

    sources = one_each(settings.weights, "model.weights", for_all=is_published_name(settings.weights))
    hashes = one_each(settings.weights_sha256, "model.weights_sha256", for_all=not settings.weights_sha256)
    found = []
    for name, source, sha256 in zip(names, sources, hashes, strict=True):
        path = None
        if with_files and settings.pretrained:
            weights = find_weights(name, source, sha256, folder, watch)
            path, sha256 = weights.path, weights.sha256
        facts = published(name, source) if is_published_name(source) else None
        if facts is None and name not in AUXILIARY_HEADS:  # for these the file alone does not determine the network
            facts = recognised(name, sha256)
        its = (facts.mean, facts.std, facts.size, facts.resize, facts.categories) if facts is not None else ()
        found.append(Origin(name, path, sha256 if settings.pretrained else None, *its))
    return found


def resolve(settings: Settings, found: Sequence[Origin]) -> Settings:
    """Return `settings` completed by what the weights determine.

    That is their SHA-256 and, where the settings leave them open, size and normalisation of images for the first
    backbone.  Raises `UserError` where neither the file of weights nor the settings give size and normalisation.
    """
    if not found:
        return settings
    if all(origin.sha256 for origin in found):
        sha256 = "+".join(str(origin.sha256) for origin in found)
        settings = merge(settings, {"model": {"weights_sha256": sha256}}, "model")
    first, image = found[0], settings.input
    if first.mean is not None:
        resize = first.resize if image.size in (0, first.size) else 0
        return with_input(settings, size=first.size, mean=first.mean, std=first.std, resize=resize)
    if first.path is None:  # random weights: any normalisation will do
        return with_input(settings, **PLAIN_INPUT)
    if not (image.size and image.mean and image.std):
        raise UserError(
            f"{first.path} does not give the size and normalisation of its images: set input.size, input.mean and "
            "input.std. torchvision's networks mostly use 224, [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225]."
        )
    return settings
