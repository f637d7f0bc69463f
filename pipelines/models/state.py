"""Read a file of weights without running code in it, and load it into a network."""

import pickle
import re
import warnings
from collections import OrderedDict
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.models.published import AUXILIARY_HEADS, networks_with
from pipelines.system.errors import UserError

WRAPPERS = ("state_dict", "model")  # keys of the state in files of timm and of torchvision's reference scripts
PREFIXES = ("module.", "_orig_mod.")  # that DataParallel and torch.compile add to every key
NO_PARAMETERS = ("running_mean", "running_var", "relative_coords_table")  # torchvision's floating-point buffers
OLD_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
FOREIGN = {b"<": "a web page", b"version https://git-lfs": "a pointer of Git LFS"}  # first bytes of other files


def load_state(path: Path) -> dict[str, Tensor]:
    """Return {key: tensor} of the file `path`, on the CPU; never unpickle code.

    A dict around the state under "state_dict" or "model" and the prefix of DataParallel or torch.compile are removed.
    The versions that torch stores beside the keys (`_metadata`) are kept.

    Raises `UserError` for a file that is missing, cut short, a web page, or not a dict of plain tensors.
    """
    content = _unpickled(path)
    for wrapper in WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict):
        raise _not_a_state(path, f"a {type(content).__name__}")
    if not content:
        raise _not_a_state(path, "nothing")
    for name, value in content.items():
        if not (isinstance(name, str) and _is_plain(value)):
            raise _not_a_state(path, f"{name!r}: a {type(value).__name__} that is not a plain tensor")
    for prefix in PREFIXES:
        if all(name.startswith(prefix) for name in content):
            nn.modules.utils.consume_prefix_in_state_dict_if_present(content, prefix)
    return content


def load_into(model: nn.Module, path: Path, network: str) -> None:
    """Load all weights of the file `path` into `model`, as contiguous float32 on the CPU.

    model: the torchvision network `network`, on the CPU or built under `torch.device("meta")`, which saves the time
    of random weights.  Its parameters are replaced, so make the optimizer afterwards.  Auxiliary heads that `model`
    lacks are skipped, DenseNet's old keys are accepted, and missing `num_batches_tracked` start at zero.

    Raises `UserError` where keys are missing or unexpected, or shapes differ; `model` is unusable then.
    """
    found = load_state(path)
    floats = ((name, value) for name, value in found.items() if value.is_floating_point())
    parameters = sum(value.numel() for name, value in floats if not name.endswith(NO_PARAMETERS))
    expected = model.state_dict()
    skipped = tuple(
        head for head in AUXILIARY_HEADS.get(network, ()) if not any(name.startswith(head) for name in expected)
    )
    state: OrderedDict[str, Tensor] = OrderedDict()
    # Without versions in the file, give the root's alone: MNASNet requires it, and other modules then convert old keys.
    own_versions = {"": expected._metadata[""]}  # type: ignore[attr-defined]
    state._metadata = getattr(found, "_metadata", own_versions)  # type: ignore[attr-defined]
    for name in list(found):
        value = found.pop(name)  # frees each tensor after its copy, so that memory holds the state only once
        if not name.startswith(skipped):
            state[OLD_DENSENET_KEY.sub(r"\1\2", name) if network.startswith("densenet") else name] = _own(value)
    for name in expected:
        if name.endswith("num_batches_tracked") and f"{name.removesuffix('num_batches_tracked')}running_mean" in state:
            state.setdefault(name, torch.zeros((), dtype=torch.int64, device="cpu"))
    try:
        model.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError) as error:
        reason = _difference(state, expected) or str(error).splitlines()[0]
        names = networks_with(parameters)
        origin = f" It seems to be for {' or '.join(names)}." if names and network not in names else ""
        raise UserError(f"{path} does not fit {network}: {reason}.{origin}") from None
    empty = [name for name, value in chain(model.named_parameters(), model.named_buffers()) if value.is_meta]
    if empty:
        raise UserError(f"{path} does not fit {network}: {_some('missing', empty, len(empty))}.")


def _unpickled(path: Path) -> Any:
    """Return the content of the file `path`, read without running code."""
    try:
        with open(path, "rb") as file:
            head = file.read(512).lstrip()
    except FileNotFoundError:
        raise UserError(f"There is no file of weights {path}.") from None
    if not head:
        raise _unreadable(path, "it is empty")
    for start, kind in FOREIGN.items():
        if head.startswith(start):
            raise _unreadable(path, f"it is {kind}")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns about files that it then refuses
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # Keep one sentence of torch's message: the others advise to run the code.
        detail = re.search(r"WeightsUnpickler error:\s*(.*)", str(error))
        reason = f" ({detail[1].split('. ')[0]})" if detail else ""
        raise _unreadable(
            path, f"it is not a file of torch, or it holds code besides tensors, which is not run{reason}"
        ) from None
    except Exception as error:  # torch raises half a dozen types for damaged files, OSError among them
        reason = str(error).split(". ")[0] or type(error).__name__
        raise _unreadable(path, f"it is cut short, damaged or not a file of torch ({reason})") from None


def _unreadable(path: Path, reason: str) -> UserError:
    return UserError(f"{path} cannot be read as weights: {reason}. Replace it by a file that torch.save wrote.")


def _not_a_state(path: Path, content: str) -> UserError:
    return UserError(f"{path} does not hold the weights of a network (tensors by name), but {content}.")


def _is_plain(value: Any) -> bool:
    """Return whether `value` is a tensor in memory that is neither sparse nor quantised."""
    plain = isinstance(value, Tensor) and value.layout is torch.strided
    return plain and value.device.type == "cpu" and not value.is_quantized


def _own(tensor: Tensor) -> Tensor:
    """Return a contiguous copy that shares no memory; every floating-point type becomes float32."""
    dtype = torch.float32 if tensor.is_floating_point() else tensor.dtype
    return tensor.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)


def _difference(state: dict[str, Tensor], expected: dict[str, Tensor]) -> str:
    """Return how the keys and shapes of `state` differ from the `expected` ones."""
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
