"""Pretrained weights of torchvision's classifiers: found or fetched, verified by their SHA-256, and loaded.

A file of weights comes from elsewhere: only plain tensors are read from it, and nothing in it is run.
"""

import hashlib
import pickle
import re
import warnings
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPException, InvalidURL
from itertools import chain
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError
from urllib.request import Request, build_opener

import torch
from torch import Tensor, nn

from pipelines.system.errors import UserError, did_you_mean
from pipelines.system.files import CHUNK_BYTES, atomic_file, file_sha256, plain_sha256
from pipelines.system.watch import Watch, unwatched

TIMEOUT_SECONDS = 30.0  # without a byte; a whole download may take as long as it needs
HEADERS = {"User-Agent": "kaggle-image-pipelines"}  # urllib's own name is refused here and there
WRAPPERS = ("state_dict", "model")  # under which timm and torchvision's reference scripts keep the weights
PREFIXES = ("module.", "_orig_mod.")  # that DataParallel and torch.compile put before every key
AUXILIARY_HEADS = {"googlenet": ("aux1.", "aux2."), "inception_v3": ("AuxLogits.",)}
NO_PARAMETERS = ("running_mean", "running_var", "relative_coords_table")  # floating-point buffers of torchvision
OLD_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")


@dataclass(frozen=True)
class Published:
    """What torchvision says about one of the weights that it publishes.

    name: never an alias such as DEFAULT.  prefix: the first hexadecimal digits of the file's SHA-256.  mean, std: per
    channel, of pixels in 0..1; those of GoogLeNet and Inception presume that they are built with `transform_input`.
    size: height and width in pixels of the centre crop.  resize: pixels of the shorter side before the crop.
    categories: the names of the outputs, in order; None where the classifier is of no use.
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


@dataclass(frozen=True)
class Weights:
    """A file of pretrained weights and what comes with it.

    sha256: of the file's bytes, 64 hexadecimal digits.  The others are those of `Published`, and None for a file that
    is not a published one, about which nothing is known.
    """

    path: Path
    sha256: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    resize: int | None = None
    categories: list[str] | None = None


class _Failure(Exception):
    """Why a download failed, as the end of a sentence."""


def is_published_name(text: str) -> bool:
    """Whether `text` is the name of published weights, such as IMAGENET1K_V1, rather than the path of a file."""
    return re.fullmatch("[A-Z0-9_]+", text) is not None


def published(network: str, name: str) -> Published:
    """Return what torchvision says about the weights `name` of `network`; DEFAULT stands for the best of them.

    Raises `UserError` for a network that is not torchvision's, or a name that is not published for it.
    """
    entries = _entries(network)
    if not entries:
        from torchvision import models

        hint = did_you_mean(network, models.list_models(module=models))
        raise UserError(f"No weights are published for the network {network!r}.{hint}")
    if name not in entries:
        raise UserError(
            f"No weights {name!r} are published for {network}.{did_you_mean(name, entries)} "
            f"Valid: {', '.join(entries)}, or the path of a file."
        )
    return _describe(network, entries[name])


def recognised(network: str, sha256: str) -> Published | None:
    """Return what torchvision says about the weights of `network` with that SHA-256; None where they are not its."""
    known = (_describe(network, entry) for entry in _entries(network).values())
    return _matching(known, sha256) if sha256 else None


def find_weights(
    network: str, weights: str, sha256: str, folder: Path, watch: Watch = unwatched, download: bool = True
) -> Weights:
    """Return the file of weights that the settings ask for, having fetched it where need be.

    Parameters
    ----------
    network: the name of one of torchvision's classifiers.
    weights: a published name, which is looked for in `folder` and in torch.hub's folder, and else downloaded into
        `folder`; or the path of a file, relative to the working folder or to `folder`.
    sha256: what the file's must be, 64 hexadecimal digits; empty where that does not matter.
    watch: shown the mebibytes of a download.
    download: whether a published file may be fetched.

    Raises `UserError` for an unknown name, a file that is neither here nor to be had, and another SHA-256 than the one
    published or asked for.  A file given by its path is recognised as a published one of `network` by its SHA-256.
    """
    wanted = plain_sha256(sha256)
    if not re.fullmatch("([0-9a-f]{64})?", wanted):
        raise UserError(
            f"The sha256 of the weights is given as {sha256!r}; expected are the 64 hexadecimal digits that "
            "`sha256sum FILE` prints, or nothing."
        )
    if is_published_name(weights):
        known = [published(network, weights)]
        path, digest = _find_published(known[0], folder, watch, download)
    else:
        entries = _entries(network)
        known = [_describe(network, entry) for entry in entries.values()]
        path = _find_file(weights, folder, list(entries))
        digest = file_sha256(path)
    if wanted and digest != wanted:
        raise UserError(
            f"{path} has the sha256 {digest}, but the settings ask for {wanted}: it is another file, or a damaged one. "
            "Replace it, or correct the setting."
        )
    return _with_facts(path, digest, known)


def load_state(weights_path: Path) -> dict[str, Tensor]:
    """Read the tensors of `weights_path` by their names onto the CPU; never unpickles code.

    A dict around them with the key "state_dict" or "model" is taken off, and so is the prefix that DataParallel or
    torch.compile puts before every name.  The versions that torch stores with the names stay with them.

    Raises `UserError` for a file that is missing, cut short, a web page, or anything but names and plain tensors.
    """
    try:
        with open(weights_path, "rb") as file:
            head = file.read(512).lstrip()
    except FileNotFoundError:
        raise UserError(f"There is no file of weights {weights_path}.") from None
    if not head:
        raise _unreadable(weights_path, "it is empty")
    for start, kind in ((b"<", "a web page"), (b"version https://git-lfs", "a pointer of Git LFS")):
        if head.startswith(start):
            raise _unreadable(weights_path, f"it is {kind}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch guesses aloud about files that it then refuses
            content = torch.load(weights_path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # the sentences around this one advise to run the code
        detail = re.search(r"WeightsUnpickler error:\s*(.*)", str(error))
        reason = f" ({detail[1].split('. ')[0]})" if detail else ""
        raise _unreadable(
            weights_path, f"it is not a file of torch's, or holds code beside the tensors, which is not run{reason}"
        ) from None
    except Exception as error:  # torch answers damage with half a dozen exception types, OSError among them
        reason = str(error).split(". ")[0] or type(error).__name__
        raise _unreadable(weights_path, f"it is cut short, damaged or not a file of torch's ({reason})") from None
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise _not_a_state(weights_path, f"a {type(content).__name__}")
    if not content:
        raise _not_a_state(weights_path, "nothing")
    for name, value in content.items():
        if not (isinstance(name, str) and _is_plain(value)):
            raise _not_a_state(weights_path, f"{name!r}: a {type(value).__name__} that is not a plain tensor")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in content):
            nn.modules.utils.consume_prefix_in_state_dict_if_present(content, prefix)
    return content


def load_into(model: nn.Module, path: Path, network: str) -> None:
    """Give `model` the weights of the file `path`: all of them, as contiguous float32 on the CPU.

    Parameters
    ----------
    model: a `network` of torchvision's; on the CPU, or built under `torch.device("meta")`, which saves the time of
        random weights.  Its parameters are replaced, so an optimiser must be made afterwards.
    path: a file as `load_state` reads it.  Heads for training only that `model` lacks are passed over; the old names
        of DenseNet are understood, as torchvision understands them; counts of batches that it lacks begin at zero.
    network: the name of the network, for its old names and for errors.

    Raises `UserError` where the file holds too little, too much, or other shapes, as those of another network or of
    another number of outputs; `model` is of no use then.
    """
    found = load_state(path)
    parameters = sum(value.numel() for name, value in found.items() if _is_parameter(name, value))
    expected = model.state_dict()
    heads = tuple(
        head for head in AUXILIARY_HEADS.get(network, ()) if not any(name.startswith(head) for name in expected)
    )
    state: OrderedDict[str, Tensor] = OrderedDict()
    # The root's version alone: MNASNet insists on one; the others take none for the oldest, which they know to mend.
    own_versions = {"": expected._metadata[""]}  # type: ignore[attr-defined]
    state._metadata = getattr(found, "_metadata", own_versions)  # type: ignore[attr-defined]
    for name in list(found):
        value = found.pop(name)  # so that only one tensor at a time is there twice
        if not name.startswith(heads):
            name = OLD_DENSENET_KEY.sub(r"\1\2", name) if network.startswith("densenet") else name
            state[name] = _own(value)
    for name in expected:
        if name.endswith("num_batches_tracked") and f"{name.removesuffix('num_batches_tracked')}running_mean" in state:
            state.setdefault(name, torch.zeros((), dtype=torch.int64, device="cpu"))
    try:
        model.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError) as error:
        reason = _difference(state, expected) or str(error).splitlines()[0]
        raise UserError(f"{path} does not fit {network}: {reason}.{_origin(parameters, network)}") from None
    empty = [name for name, value in chain(model.named_parameters(), model.named_buffers()) if value.is_meta]
    if empty:
        raise UserError(f"{path} does not fit {network}: {_some('missing', empty, len(empty))}.")


def _entries(network: str) -> dict[str, Any]:
    """Return torchvision's weights for `network` by name, aliases included; none for a network that is not its own."""
    from torchvision import models

    if network not in models.list_models(module=models):
        return {}
    return dict(models.get_model_weights(network).__members__)


def _describe(network: str, entry: Any) -> Published:
    transforms = entry.transforms()
    mean, std = tuple(transforms.mean), tuple(transforms.std)
    filename = entry.url.rpartition("/")[2]
    prefix = filename.rpartition("-")[2].removesuffix(".pth")
    [size], [resize], categories = transforms.crop_size, transforms.resize_size, entry.meta["categories"]
    return Published(
        network, entry.name, entry.url, filename, prefix, mean, std, size, resize, categories and list(categories)
    )


def _with_facts(path: Path, digest: str, known: Iterable[Published]) -> Weights:
    """Return the file `path` with what is said about the one of `known` that it is by its SHA-256."""
    it = _matching(known, digest)
    return Weights(path, digest, it.mean, it.std, it.size, it.resize, it.categories) if it else Weights(path, digest)


def _matching(known: Iterable[Published], sha256: str) -> Published | None:
    return next((each for each in known if sha256.startswith(each.prefix)), None)


def _find_file(weights: str, folder: Path, names: list[str]) -> Path:
    """Return the file of the path `weights`, relative to the working folder or else to `folder`."""
    path = Path(weights).expanduser()
    places = list(dict.fromkeys([path.absolute(), (folder / path).absolute()]))
    for place in places:
        if place.is_file():
            return place
    neighbours = (entry.name for place in places if place.parent.is_dir() for entry in place.parent.iterdir())
    hint = did_you_mean(path.name, dict.fromkeys(neighbours))
    offer = f" Published weights go by the names {', '.join(names)}." if names else ""
    raise UserError(f"There is no file of weights {' nor '.join(map(str, places))}.{hint}{offer}")


def _find_published(
    known: Published, folder: Path, watch: Watch = unwatched, download: bool = True
) -> tuple[Path, str]:
    """Return the published file, in `folder` or torch.hub's or else downloaded, and its SHA-256, which is verified."""
    path = folder / known.filename
    for place in (path, Path(torch.hub.get_dir()) / "checkpoints" / known.filename):
        if place.is_file():
            digest = file_sha256(place)
            if not digest.startswith(known.prefix):
                raise UserError(
                    f"{place} is not the published {known.name} of {known.network}: its sha256 is {digest} and should "
                    f"begin with {known.prefix}. It is cut short or another file: remove it."
                )
            return place, digest
    reason = ""
    if download:
        try:
            return path, _download(known.url, path, known.prefix, watch)
        except _Failure as failure:
            reason = f" and could not be downloaded: {failure}"
    raise UserError(
        f"{known.filename}, the weights {known.name} of {known.network}, is missing{reason}. It is published at "
        f"{known.url} with a sha256 that begins with {known.prefix}. Where that cannot be reached, fetch it elsewhere "
        f"and put it at {path}."
    )


def _download(url: str, path: Path, prefix: str, watch: Watch = unwatched, timeout: float = TIMEOUT_SECONDS) -> str:
    """Download `url` to `path`, which comes to be only whole and with a SHA-256 that begins with `prefix`; return that.

    Raises `_Failure`; `OSError` for a full disk.
    """
    digest = hashlib.sha256()
    with _network():
        # its own opener: urllib's common one remembers the proxies of its first call
        answer = build_opener().open(Request(url, headers=HEADERS), timeout=timeout)
    with answer:
        pieces = None if answer.length is None else -(-answer.length // CHUNK_BYTES)
        with atomic_file(path) as partial:
            with open(partial, "wb") as file:
                for piece in watch(_pieces(answer), path.name, pieces, "MiB"):
                    digest.update(piece)
                    file.write(piece)
            if not digest.hexdigest().startswith(prefix):
                raise _Failure(f"what came has the sha256 {digest.hexdigest()}, so it is another file")
    return digest.hexdigest()


def _pieces(answer: Any) -> Iterator[bytes]:
    """Yield the bytes of an HTTP answer, a mebibyte at a time; raises `_Failure` where they end too early."""
    expected, received = answer.length, 0
    while True:
        with _network():
            piece = answer.read(CHUNK_BYTES)
        if not piece:
            break
        received += len(piece)
        yield piece
    if expected is not None and received < expected:
        raise _Failure(f"the connection was cut after {received:,} of {expected:,} bytes")


@contextmanager
def _network() -> Iterator[None]:
    """Turn whatever urllib raises into `_Failure`."""
    try:
        yield
    except HTTPError as error:
        error.close()
        raise _Failure(f"the server answered {error.code} {error.reason}") from error
    except (InvalidURL, ValueError) as error:  # whose words may hold the proxy's password
        raise _Failure(
            "the address of a proxy cannot be used: look at https_proxy, http_proxy and all_proxy"
        ) from error
    except (OSError, HTTPException) as error:
        cause = error.reason if isinstance(error, URLError) else error
        raise _Failure(str(cause) or type(cause).__name__) from error


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(f"{path} cannot be read as weights: {reason}. Replace it by a file that torch.save wrote.")


def _not_a_state(path: Path, content: str) -> UserError:
    return UserError(f"{path} does not hold the weights of a network, which are tensors by their names, but {content}.")


def _is_plain(value: Any) -> bool:
    """Whether `value` is a tensor with its numbers in memory, neither sparse nor quantised."""
    return (
        isinstance(value, Tensor)
        and value.layout is torch.strided
        and value.device.type == "cpu"
        and not value.is_quantized
    )


def _own(tensor: Tensor) -> Tensor:
    """Return a contiguous copy that shares its memory with none, with float32 for every kind of floating point."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def _is_parameter(name: str, value: Tensor) -> bool:
    return value.is_floating_point() and not name.endswith(NO_PARAMETERS)


def _difference(state: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Say how the names and shapes of a file differ from the `expected` ones of a network."""
    missing = [name for name in expected if name not in state]
    unexpected = [name for name in state if name not in expected]
    reshaped = [name for name in expected if name in state and state[name].shape != expected[name].shape]
    parts = [_some("missing", missing, len(expected)), _some("unexpected", unexpected, len(state))]
    if reshaped:
        shapes = [tuple(tensors[reshaped[0]].shape) for tensors in (state, expected)]
        parts.append(f"{_some('of another shape', reshaped, len(expected))}: {shapes[0]} instead of {shapes[1]}")
    return "; ".join(filter(None, parts))


def _some(kind: str, names: list[str], total: int) -> str:
    return f"{len(names)} of {total} tensors are {kind}, such as {names[0]!r}" if names else ""


def _origin(parameters: int, network: str) -> str:
    """Name the networks whose published weights have that many parameters, where `network` is not one of them."""
    from torchvision import models

    names = [
        name
        for name in models.list_models(module=models)
        if any(weights.meta["num_params"] == parameters for weights in models.get_model_weights(name))
    ]
    return f" It seems to be for {' or '.join(names)}." if names and network not in names else ""
