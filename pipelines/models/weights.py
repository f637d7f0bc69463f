"""Pretrained weights: files found or downloaded, verified by their SHA-256, and what they determine about images."""

import hashlib
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener, getproxies

import torch

from pipelines.models.first_layer import spread
from pipelines.models.published import (
    AUXILIARY_HEADS,
    Published,
    is_published_name,
    published,
    published_names,
    recognised,
)
from pipelines.models.timm_models import HUB_FILE, is_timm, tags_of
from pipelines.models.weight_files import EXTENSIONS
from pipelines.settings.detectors import parts_of
from pipelines.settings.loading import merge, with_input
from pipelines.settings.records import with_label_map
from pipelines.settings.schema import Settings, plain_input
from pipelines.settings.training_sections import InputSettings, ModelSettings
from pipelines.system.errors import UserError, did_you_mean
from pipelines.system.files import CHUNK_BYTES, atomic_file, file_sha256, plain_sha256
from pipelines.system.network import lasting_fault, offline_hint, proxy_of, tls_context
from pipelines.system.shell import path_word, removal
from pipelines.system.watch import Watch, unwatched

TIMEOUT_SECONDS = 30.0  # without a byte; the whole download has no limit
HEADERS = {"User-Agent": "kaggle-image-pipelines"}  # some servers refuse urllib's default


@dataclass(frozen=True)
class Origin:
    """The network and weights of one backbone.  facts: about published weights; None where they are unknown.

    path, sha256: of the file of weights; None for random weights, and for weights that a checkpoint holds.
    """

    name: str
    path: Path | None = None
    sha256: str | None = None
    facts: Published | None = None


class _Failure(Exception):
    """The reason of a failed download, as the end of a sentence."""


def find_weights(network: str, weights: str, sha256: str, folder: Path, watch: Watch = unwatched) -> tuple[Path, str]:
    """Return path and SHA-256 of the weights that the settings name; download a published file that is missing.

    network: a classifier of torchvision or timm.  weights: a published name, searched in `folder` and in the folders of
    torch.hub and of the hub's client, and downloaded into `folder`; or a path, relative to the working folder or to
    `folder`.  sha256: the expected hash, 64 hexadecimal digits, or empty for any.  watch: receives the mebibytes of a
    download.

    Raises `UserError` for an unknown name, a missing file, a failed download, and another SHA-256 than the published
    or expected one.
    """
    wanted = plain_sha256(sha256)
    if not re.fullmatch("([0-9a-f]{64})?", wanted):
        raise UserError(
            f"model.weights_sha256 is {sha256!r}. Give the 64 hexadecimal digits that `sha256sum FILE` prints, "
            "or leave it empty."
        )
    if is_published_name(weights):
        path, digest = _find_published(published(network, weights), folder, watch)
    else:
        path = _find_file(network, weights, folder)
        digest = file_sha256(path)
    if wanted and digest != wanted:
        raise UserError(
            f"{path} has the sha256 {digest}, but model.weights_sha256 (in a run: its record) is {wanted}. It is "
            "another file or damaged: put the right one there, or correct the setting."
        )
    return path, digest


def _find_file(network: str, weights: str, folder: Path) -> Path:
    """Return the file at the path `weights`, relative to the working folder or else to `folder`."""
    path = Path(weights).expanduser()
    places = list(dict.fromkeys([path.absolute(), (folder / path).absolute()]))
    for place in places:
        if place.is_file():
            return place
        if place.is_dir():
            inside = [file.name for file in sorted(place.iterdir()) if file.name.endswith(EXTENSIONS)]
            offer = f"Give a file in it, such as {path / inside[0]}" if inside else "It holds no file of weights"
            raise UserError(f"model.weights is {weights}, which is a folder. {offer}.")
    neighbours = (entry.name for place in places if place.parent.is_dir() for entry in place.parent.iterdir())
    hint = did_you_mean(path.name, dict.fromkeys(neighbours))
    offer = f" Names of published weights: {', '.join(names)}." if (names := published_names(network)) else ""
    missing = f"There is no file of weights {' or '.join(map(path_word, places))}.{hint}"
    raise UserError(f"{missing} Put it there, or correct model.weights.{offer}")


def _find_published(known: Published, folder: Path, watch: Watch = unwatched) -> tuple[Path, str]:
    """Return the published file, in `folder`, torch.hub's or the hub's or else downloaded, and its verified SHA-256."""
    path = folder / known.filename
    cached = [Path(torch.hub.get_dir()) / "checkpoints" / known.filename, *_at_the_hubs_client(known)]
    for place in (path, *cached):
        if place.is_file():
            digest = file_sha256(place)
            if not digest.startswith(known.prefix):
                raise UserError(
                    f"{place} is not the published {known.name} of {known.network}: its sha256 is {digest}, but should "
                    f"begin with {known.prefix}. It is cut short or another file. Remove it, then run the "
                    f"same command, which downloads it again: {removal(place)}"
                )
            return place, digest
    try:
        return path, _download(known.url, path, known.prefix or _hub_sha256(known), watch)
    except _Failure as failure:
        sure = f" with a sha256 that begins with {known.prefix}" if known.prefix else ""
        raise UserError(
            f"{known.filename}, the weights {known.name} of {known.network}, is missing and could not be downloaded: "
            f"{failure}. It is published at {known.url}{sure}. If this machine "
            f"cannot reach that address, download the file elsewhere and put it at {path}."
        ) from failure


def _at_the_hubs_client(known: Published) -> list[Path]:
    """Return where timm has put the file on this machine, if it has."""
    if not known.hub:
        return []
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(known.hub, HUB_FILE)
    return [Path(found)] if isinstance(found, str) else []


def _hub_sha256(known: Published) -> str:
    """Return the SHA-256 of the file that the hub of Hugging Face states; empty for a file from elsewhere."""
    if not known.hub:
        return ""
    from huggingface_hub import get_hf_file_metadata

    try:
        etag = get_hf_file_metadata(known.url, timeout=TIMEOUT_SECONDS).etag or ""
    except Exception as error:  # a dozen types of its own and of its HTTP client
        text = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise _Failure((lasting_fault(text, known.url) or f"{text}.{offline_hint(text)}").rstrip(".")) from error
    return etag if re.fullmatch("[0-9a-f]{64}", etag) else ""


def _download(url: str, path: Path, prefix: str, watch: Watch = unwatched, timeout: float = TIMEOUT_SECONDS) -> str:
    """Download `url` to `path` atomically; return its SHA-256, which must begin with `prefix`.  Raises `_Failure`."""
    digest = hashlib.sha256()
    proxy = proxy_of(url)
    if proxy and proxy.scheme.startswith("socks"):
        raise _Failure(f"{proxy.variable} names a SOCKS proxy ({proxy.place}), which only Kaggle's client can use")
    # urllib's default opener would keep the proxies of its first call, and it does not know all_proxy.
    proxies = getproxies()
    proxies |= {scheme: proxies["all"] for scheme in ("http", "https") if scheme not in proxies and "all" in proxies}
    opener = build_opener(ProxyHandler(proxies), HTTPSHandler(context=tls_context()))
    with _network(url):
        answer = opener.open(Request(url, headers=HEADERS), timeout=timeout)
    with answer:
        pieces = None if answer.length is None else -(-answer.length // CHUNK_BYTES)
        with atomic_file(path) as partial:
            with open(partial, "wb") as file:
                for piece in watch(_pieces(answer), path.name, pieces, "MiB"):
                    digest.update(piece)
                    file.write(piece)
            if not digest.hexdigest().startswith(prefix):
                raise _Failure(f"the downloaded file is another one, with the sha256 {digest.hexdigest()}")
    return digest.hexdigest()


def _pieces(answer: Any) -> Iterator[bytes]:
    """Yield the body of an HTTP answer in mebibytes; raise `_Failure` if it ends too early."""
    expected, received = answer.length, 0
    while True:
        with _network(answer.url):
            piece = answer.read(CHUNK_BYTES)
        if not piece:
            break
        received += len(piece)
        yield piece
    if expected is not None and received < expected:
        raise _Failure(f"the connection ended after {received:,} of {expected:,} bytes")


@contextmanager
def _network(url: str) -> Iterator[None]:
    """Turn every exception of urllib into `_Failure`."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise _Failure(f"the server answered {error.code} {error.reason}") from error
    except (InvalidURL, ValueError) as error:  # its message may hold the proxy's password
        invalid = "the address of a proxy is invalid"
        reason = lasting_fault(invalid, url) or f"{invalid}: check https_proxy, http_proxy and all_proxy"
        raise _Failure(reason.rstrip(".")) from error
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        text = str(cause) or type(cause).__name__
        raise _Failure((lasting_fault(text, url) or f"{text}.{offline_hint(text)}").rstrip(".")) from error


def find_origins(
    settings: ModelSettings, folder: Path, with_files: bool = True, watch: Watch = unwatched
) -> list[Origin]:
    """Return the backbones that `settings` name, with their weights found (or downloaded into `folder`) and verified.

    The list is empty for a network without pretrained weights.  with_files: false where a checkpoint holds the weights.
    Raises `UserError` where the numbers of names, weights and hashes differ, and as `find_weights` does.
    """
    if not settings.weights:
        return []
    names = [parts_of(name)[1] for name in settings.name.split("+")]

    def one_each(text: str, key: str, for_all: bool) -> list[str]:
        values = text.split("+") if len(names) > 1 else [text]  # a path may contain a plus
        if len(values) == 1 and for_all:
            values *= len(names)
        if len(values) != len(names):
            each = "+".join(f"<of {name}>" for name in names)
            raise UserError(
                f"{key} has {len(values)} parts, {text!r}, for the {len(names)} networks of {settings.name!r}. Join "
                f"one for each with a plus sign: {key}={each}"
            )
        return values

    sources = one_each(settings.weights, "model.weights", for_all=is_published_name(settings.weights))
    hashes = one_each(settings.weights_sha256, "model.weights_sha256", for_all=not settings.weights_sha256)
    found = []
    for name, source, sha256 in zip(names, sources, hashes, strict=True):
        path = None
        if with_files and settings.pretrained:
            path, sha256 = find_weights(name, source, sha256, folder, watch)
        facts = published(name, source) if is_published_name(source) else None
        if facts is None and name not in AUXILIARY_HEADS:  # for these the file alone does not determine the network
            facts = recognised(name, sha256)
        found.append(Origin(name, path, sha256 if settings.pretrained else None, facts))
    return found


def resolve(settings: Settings, found: Sequence[Origin]) -> Settings:
    """Return `settings` completed by what the files determine.

    That is the SHA-256 of the weights and of the label map and, where the settings leave them open, size and
    normalisation of images for the first backbone.  Raises `UserError` where neither the weights nor the settings give
    size and normalisation, and where several weights need different ones that cannot be used side by side.
    """
    if not found:
        return settings
    settings = with_label_map(settings)
    if all(origin.sha256 for origin in found):
        sha256 = "+".join(str(origin.sha256) for origin in found)
        settings = merge(settings, {"model": {"weights_sha256": sha256}}, "model")
    first, image = found[0], settings.input
    _check_images(found, image)
    if facts := first.facts:
        resize = facts.resize if image.size in (0, facts.size) else 0
        mean, std = (spread(values, image.channels) for values in (facts.mean, facts.std))
        values = {"mean": mean, "std": std, "interpolation": facts.interpolation}
        return with_input(settings, size=facts.size, resize=resize, **values)
    # random weights: any normalisation will do
    return with_input(settings, **plain_input(image.channels)) if first.path is None else settings


def _check_images(found: Sequence[Origin], image: InputSettings) -> None:
    """Raise `UserError` unless size and normalisation of images are known for all weights of `found`.

    Weights with known facts see images in their own normalisation, except the first, which gets that of `image`.
    """
    unknown = [origin for origin in found if origin.path and not origin.facts]
    known = [(origin, origin.facts) for origin in found if origin.path and origin.facts]
    if unknown and not (image.size and image.mean and image.std):
        raise UserError(_unknown_images(unknown))
    if not image.size and len({facts.size for _, facts in known}) > 1:
        sizes = ", ".join(f"{origin.name} {facts.size}" for origin, facts in known)
        raise UserError(
            f"The weights side by side take images of different sizes: {sizes}. All networks get the same images: "
            "choose their size with input.size."
        )
    first = found[0]
    own = [spread(values, image.channels) for values in (first.facts.mean, first.facts.std)] if first.facts else []
    if first.facts and unknown and [image.mean, image.std] != own:
        names = [origin.name for origin in (*unknown, *(each for each in found if each not in unknown))]
        raise UserError(
            f"{first.name} is published with mean {list(first.facts.mean)} and std {list(first.facts.std)}, but "
            f"input.mean is {list(image.mean)} and input.std {list(image.std)}, which it would get too, because it "
            f"comes first. Name the networks with other files first: model.name={'+'.join(names)}, and model.weights "
            "in the same order. Published weights that come later keep their own normalisation."
        )


def _unknown_images(unknown: Sequence[Origin]) -> str:
    """Return the message that nothing gives the size and normalisation of the images for the files of `unknown`."""
    files, one = " and ".join(str(origin.path) for origin in unknown), len(unknown) == 1
    text = (
        f"{files} {'does' if one else 'do'} not give the size and normalisation of {'its' if one else 'their'} images, "
        "so set input.size, input.mean and input.std. "
    )
    if name := next((origin.name for origin in unknown if is_timm(origin.name)), ""):
        return (
            f"{text}Or add the tag of the weights to model.name, because {name} has weights with different ones: "
            f"{', '.join(f'{name}.{tag}' for tag in tags_of(name))}."
        )
    return f"{text}torchvision's networks mostly use 224, [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225]."
