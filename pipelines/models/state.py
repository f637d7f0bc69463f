"""Find the weights of a network in what a file holds, and load them into the network.

Files of other code wrap the weights, put words before their names, and have another last layer or none.  All of this is
told by comparing the names in the file with those of the network, not by a list of habits.
"""

import re
from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.models.published import AUXILIARY_HEADS, networks_with, networks_with_body
from pipelines.models.timm_models import PREFIX, is_timm
from pipelines.models.weight_files import FORMS, Unread, read_weights, whole_model
from pipelines.system.errors import UserError, few, quoted

ALIKE = 0.8  # sets with this share of the best one's names are copies of one network, perhaps without counts of batches
DEEPEST = 3  # dicts around the weights
AVERAGED = re.compile(r"(?:^|[._])ema(?:[._]|$)")  # names of averaged weights, such as model_ema
NO_PARAMETERS = ("running_mean", "running_var", "relative_coords_table")  # torchvision's floating-point buffers
OLD_DENSENET_KEY = re.compile(r"^(.*denselayer\d+\.(?:norm|relu|conv))\.([12]\.)")
MODELS = ("model", "net", "network", "module", "ema", "model_ema", "state_dict")  # keys of a whole model in a file
NO_HEAD = "no last layer"
LAST_LAYERS = ("fc", "classifier", "head", "heads", "last_linear", "linear", "output")  # names that libraries use
FOREIGN_NAMES = {  # names of tensors in other libraries' versions of networks that torchvision has too
    re.compile(r"\.embedder\.|embeddings\.|encoder\.stages\.|encoder\.layer\.|pooler\."): "Hugging Face's transformers",
    re.compile(r"^conv_stem\.|^blocks\.0\.0\.|^patch_embed\.|^stem\.0\.|^stages\.0\.|\.attn\.qkv\."): "timm",
    re.compile(r"^visual\.|^text_projection|^logit_scale"): "CLIP",
    re.compile(r"bottom_up\.|^stem\.conv1\.|\.convs\.\d"): "Detectron2 or MMDetection",
    re.compile(r"^model\.\d+\.(?:conv|cv\d|m\.\d)"): "YOLO",
}


Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]


@dataclass
class Weights:
    """A state dict as `state`, and what was passed over to find it, as sentences without a full stop."""

    state: dict[str, Tensor]
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class _Candidate:
    """The tensors of `state` whose names begin with `prefix`; where: the keys of the dicts around `state`."""

    where: str
    prefix: str
    state: Mapping[str, Tensor]

    @property
    def name(self) -> str:
        return ".".join(filter(None, (self.where, self.prefix.rstrip("."))))


def load_state(path: Path, expected: Collection[str], numbered: Mapping[str, str] = MappingProxyType({})) -> Weights:
    """Return the tensors of the file `path` by name, on the CPU; never unpickle code.

    expected: the names in the network, which tell where in the file its weights are: under keys such as "state_dict",
    and behind prefixes such as "module." or "backbone.".  numbered: {other name: the expected one}.  Where several sets
    of weights fit, averaged ones (EMA) are taken, as they were validated.  The versions that torch stores beside the
    names (`_metadata`) are kept.

    Raises `UserError` for a file without plain tensors by name, and where it is open which of several sets is meant.
    """
    content = read_weights(path)
    states = dict(_states(content))
    if not states:
        raise _without_state(path, content)
    known = {*expected, *numbered}
    fits = [(each, *found) for each, state in states.items() for found in _prefixes(state, known)]
    most = max((matches for _, _, matches in fits), default=0)
    best = [_Candidate(where, prefix, states[where]) for where, prefix, matches in fits if matches >= ALIKE * most]
    if 2 * most < len(expected):  # weights of another network: the caller says what differs
        where = max(states, key=lambda each: len(states[each]))
        best = [_Candidate(where, "", states[where])]
    chosen = _choice(path, best)
    weights = Weights(_stripped(chosen, expected, numbered))
    if len(best) > 1:
        names = ", ".join(each.name for each in best)
        weights.notes.append(f"it holds several sets of weights ({names}): {chosen.name}, the averaged one, is used")
    if others := [name for name in chosen.state if not name.startswith(chosen.prefix)]:
        weights.notes.append(f"its tensors outside {chosen.prefix!r} are not used: {len(others)}, {few(others)}")
    return weights


def _states(content: Any, where: str = "", depth: int = 0) -> Iterator[tuple[str, dict[str, Tensor]]]:
    """Yield the dicts of plain tensors by name in `content`, each with the keys that lead to it."""
    if not isinstance(content, dict) or not content or depth > DEEPEST:
        return
    if all(isinstance(name, str) and _is_plain(value) for name, value in content.items()):
        yield where, content
        return
    for name, value in content.items():
        yield from _states(value, f"{where}.{name}" if where else str(name), depth + 1)


def _prefixes(state: Mapping[str, Tensor], expected: Collection[str]) -> list[tuple[str, int]]:
    """Return the prefixes behind which `state` has `expected` names, each with their number; most names first."""
    found = Counter[str]()
    for name in state:
        parts = OLD_DENSENET_KEY.sub(r"\1\2", name).split(".")
        for start in range(len(parts)):
            if ".".join(parts[start:]) in expected:
                found[".".join([*parts[:start], ""]) if start else ""] += 1
    return found.most_common()


def _choice(path: Path, candidates: list[_Candidate]) -> _Candidate:
    """Return the only one of `candidates`, or the only averaged one."""
    averaged = [each for each in candidates if AVERAGED.search(each.name.lower())]
    for some in (candidates, averaged):
        if len(some) == 1:
            return some[0]
    first = candidates[0]
    keys = "".join(f"[{key!r}]" for key in first.where.split(".") if key)
    read = f"import torch; state = torch.load({path.name!r}, map_location='cpu', weights_only=False){keys}"
    save = f"torch.save({{k: v for k, v in state.items() if k.startswith({first.prefix!r})}}, 'weights.pth')"
    if path.suffix == ".safetensors":
        read = f"import torch; from safetensors.torch import load_file; state = load_file({path.name!r})"
    raise UserError(
        f"{path} holds {len(candidates)} sets of weights that fit: {', '.join(each.name for each in candidates)}. "
        f"Save the one that you mean to a file of its own, where the file was made. For {first.name}: {read}; {save}"
    )


def _stripped(chosen: _Candidate, expected: Collection[str], numbered: Mapping[str, str]) -> dict[str, Tensor]:
    """Return the tensors of `chosen` by their `expected` names, without its prefix; and torch's versions likewise."""
    start = len(chosen.prefix)
    state: dict[str, Tensor] = OrderedDict()
    for name, value in chosen.state.items():
        if name.startswith(chosen.prefix):
            name = name[start:]
            state[name if name in expected else numbered.get(name, name)] = value
    if versions := getattr(chosen.state, "_metadata", None):
        kept = {name[start:]: version for name, version in versions.items() if f"{name}.".startswith(chosen.prefix)}
        state._metadata = kept  # type: ignore[attr-defined]
    return state


def _without_state(path: Path, content: Any) -> UserError:
    """Return the refusal of a file whose `content` has no dict of plain tensors."""
    parts = content if isinstance(content, dict) else {"": content}
    models = [key for key, value in parts.items() if isinstance(value, Unread)]
    if models and not any(isinstance(each, Tensor) for each in parts.values()):
        key = next((key for key in models if str(key) in MODELS), models[0])
        return whole_model(path, type(parts[key]).__name__, str(key))
    holder = max(_dicts(content), key=_tensors, default=content)
    what = f"a {type(holder).__name__}"
    if isinstance(holder, dict):
        odd = [(name, each) for name, each in holder.items() if not (isinstance(name, str) and _is_plain(each))]
        kinds = [f"{quoted(name)}: a {_kind(value)}" for name, value in odd[:3]]
        what = f"{', '.join(kinds)}{', …' if len(odd) > 3 else ''}" if odd else "nothing"
    return UserError(f"{path} does not hold the weights of a network (tensors by name), but {what}. Give {FORMS}.")


def _tensors(content: Mapping[Any, Any]) -> int:
    return sum(isinstance(value, Tensor) for value in content.values())


def _dicts(content: Any) -> Iterator[dict[Any, Any]]:
    if isinstance(content, dict):
        yield content
        for value in content.values():
            yield from _dicts(value)


def _kind(value: Any) -> str:
    if not isinstance(value, Tensor):
        return type(value).__name__
    return "quantised tensor" if value.is_quantized else "tensor that is sparse or empty"


def load_into(
    model: nn.Module, path: Path, network: str, head: str = "", needs_head: str = "", convert: Convert | None = None
) -> list[str]:
    """Load the weights of the file `path` into `model`, as contiguous float32 on the CPU; return notes about the file.

    model: the network `network` of torchvision or timm, on the CPU or built under `torch.device("meta")`, which saves
    the time of random weights.  Its parameters are replaced, so make the optimizer afterwards.  Auxiliary heads that
    `model` lacks are skipped, DenseNet's old keys are accepted, and missing `num_batches_tracked` start at zero.

    head: the name of the last layer, which may be missing or have other outputs, and is then zeros; empty: it must
    fit as all others must.  needs_head: the setting that uses the last layer, which must then fit.  convert: makes
    tensors of the library's own other files fit.

    Raises `UserError` where keys are missing or unexpected, or shapes differ; `model` is unusable then.
    """
    expected = model.state_dict()
    weights = load_state(path, expected, _numbered(model, expected))
    found, size = convert(weights.state) if convert else weights.state, _Size(weights.state)
    skipped = tuple(
        each for each in AUXILIARY_HEADS.get(network, ()) if not any(name.startswith(each) for name in expected)
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
    other = _replace_head(state, expected, head) if head else ""
    try:
        model.load_state_dict(state, assign=True)
    except (RuntimeError, ValueError) as error:
        reason = _difference(state, expected) or str(error).splitlines()[0]
        raise UserError(f"{path} does not fit {network}: {reason}.{_origin(state, size, network)}") from None
    empty = [name for name, value in chain(model.named_parameters(), model.named_buffers()) if value.is_meta]
    if empty:
        raise UserError(f"{path} does not fit {network}: {_some('missing', empty, len(empty))}.")
    if other and needs_head:
        raise UserError(
            f"{path} has {other}, but {needs_head} uses the last layer of {network}. Set model.features=pooled and "
            "model.label_map= (empty), which do not use it, or take a file with ImageNet's last layer."
        )
    unused = f"it has {other}, {'and none is needed' if other == NO_HEAD else 'which is not used'}"
    return [*weights.notes, *([unused] if other else [])]


def _numbered(model: nn.Module, expected: Collection[str]) -> dict[str, str]:
    """Return the names that the tensors of `model` have in an nn.Sequential of its children, with their own names."""
    places = {child: str(number) for number, (child, _) in enumerate(model.named_children())}
    parted = ((name, *name.partition(".")) for name in expected)
    return {f"{places[child]}.{rest}": name for name, child, _, rest in parted if child in places}


def _replace_head(state: dict[str, Tensor], expected: Mapping[str, Tensor], head: str) -> str:
    """Put zeros for the last layer, `head`, if `state` has none that fits; return what it has instead, else ''."""
    own = [name for name in expected if name.startswith(f"{head}.")]
    if all(name in state and state[name].shape == expected[name].shape for name in own):
        return ""
    roots = (head.partition(".")[0], *LAST_LAYERS)
    theirs = [name for name in state if name in own or (name not in expected and name.split(".")[0] in roots)]
    removed = {name: state.pop(name) for name in theirs}
    state |= {name: torch.zeros(expected[name].shape, device="cpu") for name in own}
    last = [value for value in removed.values() if value.ndim == 2]
    if not last:
        return NO_HEAD
    return f"a last layer of {len(last[-1]):,} outputs"


@dataclass(init=False)
class _Size:
    """The numbers of parameters in a state: of all tensors, and without the last matrix and its bias."""

    whole: int
    body: int

    def __init__(self, state: Mapping[str, Tensor]) -> None:
        floats = {
            name: value
            for name, value in state.items()
            if value.is_floating_point() and not name.endswith(NO_PARAMETERS)
        }
        self.whole = sum(value.numel() for value in floats.values())
        last = next((name for name in reversed(floats) if floats[name].ndim == 2), "")
        layer = last.rpartition(".")[0]
        self.body = self.whole - sum(v.numel() for name, v in floats.items() if name.rpartition(".")[0] == layer)


def _origin(state: Mapping[str, Tensor], size: _Size, network: str) -> str:
    """Return a sentence about the network or the library that the weights of another network come from."""
    names = networks_with(size.whole) or networks_with_body(size.body) or networks_with_body(size.whole)
    if names and network not in names:
        return f" It seems to be for {' or '.join(names)}: write {names[0]} for {network} in model.name."
    for pattern, library in FOREIGN_NAMES.items():
        if any(pattern.search(name) for name in state):
            if library == "timm" and is_timm(network):
                break
            if library == "timm":
                return (
                    " Its names are those of timm, which differ from torchvision's: set model.name to the network's "
                    f"name in timm, such as {PREFIX}{network}."
                )
            return (
                f" Its names are those of {library}, which differ from torchvision's. Take torchvision's own file, "
                "such as model.weights=IMAGENET1K_V1, or rename its tensors."
            )
    return f" Give weights of {network}, or set model.name to the network that these are of."


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
    first = reshaped[0] if reshaped else ""
    if not missing and not unexpected and len(reshaped) == 1 and first and expected[first].ndim == 4:
        channels, wanted = state[first].shape[1], expected[first].shape[1]
        if first == next(iter(expected)) and channels != wanted:
            return (
                f"its first layer, {first!r}, takes images with {channels} channels instead of {wanted}, red, "
                "green and blue: take weights that were trained on such images"
            )
    parts = [_some("missing", missing, len(expected)), _some("unexpected", unexpected, len(state))]
    if reshaped:
        shapes = [tuple(tensors[first].shape) for tensors in (state, expected)]
        parts.append(f"{_some('of another shape', reshaped, len(expected))}: {shapes[0]} instead of {shapes[1]}")
    return "; ".join(filter(None, parts))


def _some(kind: str, names: list[str], total: int) -> str:
    return f"{len(names)} of {total} tensors are {kind}, such as {names[0]!r}" if names else ""
