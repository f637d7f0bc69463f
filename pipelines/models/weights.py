"""Files of pretrained weights: found on disk or downloaded, and verified by their SHA-256."""

import hashlib
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, build_opener

import torch

from pipelines.models.published import Published, is_published_name, published, published_names
from pipelines.system.errors import UserError, did_you_mean
from pipelines.system.files import CHUNK_BYTES, atomic_file, file_sha256, plain_sha256
from pipelines.system.watch import Watch, unwatched

TIMEOUT_SECONDS = 30.0  # without a byte; the whole download has no limit
HEADERS = {"User-Agent": "kaggle-image-pipelines"}  # some servers refuse urllib's default


@dataclass(frozen=True)
class Weights:
    """A file of pretrained weights; sha256: 64 hexadecimal digits."""

    path: Path
    sha256: str


class _Failure(Exception):
    """The reason of a failed download, as the end of a sentence."""


def find_weights(network: str, weights: str, sha256: str, folder: Path, watch: Watch = unwatched) -> Weights:
    """Return the file of weights that the settings name; download a published one that is missing.

    network: a torchvision classifier.  weights: a published name, searched in `folder` and torch.hub's folder and
    downloaded into `folder`; or a path, relative to the working folder or to `folder`.  sha256: the expected hash, 64
    hexadecimal digits, or empty for any.  watch: receives the mebibytes of a download.

    Raises `UserError` for an unknown name, a missing file, a failed download, and another SHA-256 than the published
    or expected one.
    """
    wanted = plain_sha256(sha256)
    if not re.fullmatch("([0-9a-f]{64})?", wanted):
        raise UserError(
            f"The sha256 of the weights is {sha256!r}. Give the 64 hexadecimal digits that `sha256sum FILE` prints, "
            "or leave it empty."
        )
    if is_published_name(weights):
        path, digest = _find_published(published(network, weights), folder, watch)
    else:
        path = _find_file(network, weights, folder)
        digest = file_sha256(path)
    if wanted and digest != wanted:
        raise UserError(
            f"{path} has the sha256 {digest}, but the settings expect {wanted}. It is another file or damaged: replace "
            "it, or correct the setting."
        )
    return Weights(path, digest)


def _find_file(network: str, weights: str, folder: Path) -> Path:
    """Return the file at the path `weights`, relative to the working folder or else to `folder`."""
    path = Path(weights).expanduser()
    places = list(dict.fromkeys([path.absolute(), (folder / path).absolute()]))
    for place in places:
        if place.is_file():
            return place
    neighbours = (entry.name for place in places if place.parent.is_dir() for entry in place.parent.iterdir())
    hint = did_you_mean(path.name, dict.fromkeys(neighbours))
    offer = f" Names of published weights: {', '.join(names)}." if (names := published_names(network)) else ""
    raise UserError(f"There is no file of weights {' or '.join(map(str, places))}.{hint}{offer}")


def _find_published(known: Published, folder: Path, watch: Watch = unwatched) -> tuple[Path, str]:
    """Return the published file, in `folder` or torch.hub's or else downloaded, and its verified SHA-256."""
    path = folder / known.filename
    for place in (path, Path(torch.hub.get_dir()) / "checkpoints" / known.filename):
        if place.is_file():
            digest = file_sha256(place)
            if not digest.startswith(known.prefix):
                raise UserError(
                    f"{place} is not the published {known.name} of {known.network}: its sha256 is {digest}, but should "
                    f"begin with {known.prefix}. It is cut short or another file: remove it."
                )
            return place, digest
    try:
        return path, _download(known.url, path, known.prefix, watch)
    except _Failure as failure:
        raise UserError(
            f"{known.filename}, the weights {known.name} of {known.network}, is missing and could not be downloaded: "
            f"{failure}. It is published at {known.url} with a sha256 that begins with {known.prefix}. If this machine "
            f"cannot reach that address, download the file elsewhere and put it at {path}."
        ) from failure


def _download(url: str, path: Path, prefix: str, watch: Watch = unwatched, timeout: float = TIMEOUT_SECONDS) -> str:
    """Download `url` to `path` atomically and return its SHA-256, which must begin with `prefix`.

    Raises `_Failure`; `OSError` for a full disk.
    """
    digest = hashlib.sha256()
    with _network():
        # An opener of its own: urllib's default one keeps the proxies of its first call.
        answer = build_opener().open(Request(url, headers=HEADERS), timeout=timeout)
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
        with _network():
            piece = answer.read(CHUNK_BYTES)
        if not piece:
            break
        received += len(piece)
        yield piece
    if expected is not None and received < expected:
        raise _Failure(f"the connection ended after {received:,} of {expected:,} bytes")


@contextmanager
def _network() -> Iterator[None]:
    """Turn every exception of urllib into `_Failure`."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise _Failure(f"the server answered {error.code} {error.reason}") from error
    except (InvalidURL, ValueError) as error:  # its message may hold the proxy's password
        raise _Failure("the address of a proxy is invalid: check https_proxy, http_proxy and all_proxy") from error
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        raise _Failure(str(cause) or type(cause).__name__) from error
