"""Recognise and read files of weights, without running code in them; name every other kind of file and its remedy."""

import itertools
import json
import pickle
import re
import struct
import tarfile
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from torch import Tensor

from pipelines.system.errors import UserError, few

FORMS = "a state dict that torch.save wrote (.pth, .pt, .bin, .ckpt), or a .safetensors file"
EXTENSIONS = (".safetensors", ".pth", ".pt", ".bin", ".ckpt", ".tar", ".th", ".pkl")  # of files that may be read here
LONGEST_HEADER = 100_000_000  # bytes, of a safetensors file
MOST_ATTEMPTS = 100  # each learns of one class; those of an old file are not listed anywhere
SAVE = "torch.save(model.state_dict(), 'weights.pth')"
NO_CODE = "Code in a file of weights is not run here."
UNPACK = "Unpack it, and give model.weights the file inside"
OTHER_LIBRARY = f"Networks here are PyTorch's. Take the PyTorch file of this network, or rebuild it in PyTorch: {SAVE}"
STARTS = {  # the first bytes of files that are not weights for PyTorch: what they are, and what to do
    b"version https://git-lfs": (
        "a pointer of Git LFS, not the file itself",
        "Run `git lfs pull` in that repository, or download the file from its page",
    ),
    b"<": ("a web page", "Open its address in a browser, and download the file itself"),
    b"\x89HDF\r\n\x1a\n": ("an HDF5 file, as Keras writes them (.h5)", OTHER_LIBRARY),
    b"\x93NUMPY": ("a single NumPy array (.npy)", OTHER_LIBRARY),
    b"GGUF": ("a GGUF file of llama.cpp", OTHER_LIBRARY),
    b"\x1f\x8b": ("an archive (gzip)", UNPACK),
    b"7z\xbc\xaf\x27\x1c": ("an archive (7z)", UNPACK),
    b"Rar!": ("an archive (RAR)", UNPACK),
    b"BZh": ("an archive (bzip2)", UNPACK),
    b"\xfd7zXZ": ("an archive (xz)", UNPACK),
}
ENDINGS = {  # extensions of formats without distinctive first bytes
    ".onnx": ("an ONNX model", f"Take the PyTorch model that it was exported from: {SAVE}"),
    ".h5": ("a file of Keras", OTHER_LIBRARY),
    ".keras": ("a file of Keras", OTHER_LIBRARY),
    ".pb": ("a TensorFlow model", OTHER_LIBRARY),
    ".index": ("the index of a TensorFlow checkpoint", OTHER_LIBRARY),
    ".tflite": ("a TensorFlow Lite model", OTHER_LIBRARY),
    ".msgpack": ("a Flax checkpoint", OTHER_LIBRARY),
    ".params": ("a file of MXNet", OTHER_LIBRARY),
    ".pdparams": ("a file of PaddlePaddle", OTHER_LIBRARY),
    ".caffemodel": ("a Caffe model", OTHER_LIBRARY),
    ".mlmodel": ("a Core ML model", OTHER_LIBRARY),
    ".weights": ("a file of Darknet", OTHER_LIBRARY),
    ".engine": ("a TensorRT engine", f"Take the PyTorch model that it was built from: {SAVE}"),
    ".trt": ("a TensorRT engine", f"Take the PyTorch model that it was built from: {SAVE}"),
    ".plan": ("a TensorRT engine", f"Take the PyTorch model that it was built from: {SAVE}"),
}


class Unread:
    """Stands for an object of a class that is not loaded.  It ignores its arguments and its state."""

    def __init__(self, *_: Any, **__: Any) -> None:
        pass

    def __new__(cls, *_: Any, **__: Any) -> "Unread":
        return super().__new__(cls)

    def __setstate__(self, state: Any) -> None:
        pass


def read_weights(path: Path) -> Any:
    """Return the content of the file `path`, on the CPU; objects of other classes than torch's become `Unread`.

    Raises `UserError` for a missing file, for another kind of file (with its name and what to do), and for a damaged
    one.
    """
    if not path.is_file():
        raise UserError(f"There is no file of weights {path}.")
    with open(path, "rb") as file:
        head = file.read(512)
    if not head.strip():
        raise refused(path, "it is empty", "Download or copy it again")
    if is_safetensors(head):
        return _read_safetensors(path)
    for start, (kind, remedy) in STARTS.items():
        if head.lstrip().startswith(start):
            raise refused(path, f"it is {kind}", remedy)
    if head.startswith(b"PK\x03\x04"):
        _check_zip(path)
    elif head.lstrip()[:1] in (b"{", b"["):
        _refuse_json(path)
    elif path.suffix.lower() in ENDINGS:
        kind, remedy = ENDINGS[path.suffix.lower()]
        raise refused(path, f"it is {kind}", remedy)
    elif head[257:262] == b"ustar" and tarfile.is_tarfile(path):
        raise refused(path, "it is an archive (tar)", UNPACK)
    return _load(path)


def is_safetensors(head: bytes) -> bool:
    """Return whether a file that starts with `head`, a length and a JSON header, is a safetensors file."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= LONGEST_HEADER


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        return load_file(path)
    except SafetensorError as error:
        reason = " ".join(str(error).removeprefix("Error while deserializing header: ").split())
        remedy = "Download or copy it again, or convert it again"
        raise refused(path, f"it is cut short or damaged ({reason})", remedy) from None


def refused(path: Path, reason: str, remedy: str) -> UserError:
    return UserError(f"{path} cannot be read as weights: {reason}. {remedy}.")


def _check_zip(path: Path) -> None:
    """Raise `UserError` if the zip `path` is not one that torch.save wrote; torch itself names a damaged one."""
    try:
        with zipfile.ZipFile(path) as archive:
            names = archive.namelist()
    except zipfile.BadZipFile:
        return
    files = {PurePosixPath(name).name for name in names}
    if "constants.pkl" in files:
        line = f"import torch; model = torch.jit.load({path.name!r}, map_location='cpu'); {SAVE}"
        raise refused(path, "it is a TorchScript program", f"{NO_CODE} Where it was made: {line}")
    if "data.pkl" in files:
        return
    if names and all(name.endswith(".npy") for name in names):
        raise refused(path, "it is a set of NumPy arrays (.npz)", OTHER_LIBRARY)
    if "model.weights.h5" in files:
        raise refused(path, "it is a Keras model (.keras)", OTHER_LIBRARY)
    if "archive_format" in files or "serialized_exported_program.json" in files:
        raise refused(path, "it is a program of torch.export (.pt2)", f"{NO_CODE} Where it was made: {SAVE}")
    inside = [name for name in names if name.endswith(EXTENSIONS)]
    if inside:
        command = f"unzip {path.name!r}"
        raise refused(path, f"it is a zip that holds {few(inside)}", f"{UNPACK}: {command}")
    raise refused(path, f"it is a zip of other files: {few(names)}", f"Give {FORMS}")


def _refuse_json(path: Path) -> None:
    """Raise `UserError` for a text in JSON, such as the index of weights in several files."""
    try:
        content = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        return
    pieces = content.get("weight_map") if isinstance(content, dict) else None
    if isinstance(pieces, dict):
        names = sorted({str(name) for name in pieces.values()})
        raise refused(
            path,
            f"it is the index of weights in {len(names)} files ({few(names)})",
            "Only single files are read here. Where the model was made, save them as one: "
            "model.save_pretrained(folder, max_shard_size='100GB')",
        )
    raise refused(path, "it is a text in JSON, such as a configuration", f"Give the file of weights: {FORMS}")


def _load(path: Path) -> Any:
    """Return what torch.save wrote to `path`.  No code of the file runs: its own classes are replaced by `Unread`."""
    known = {name: _stand_in(name) for name in _own_classes(path)}
    for attempt in itertools.count(1):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # torch warns about files that it then refuses
                with torch.serialization.safe_globals([(made, name) for name, made in known.items()]):
                    return torch.load(path, map_location="cpu", weights_only=True)
        except pickle.UnpicklingError as error:
            more = _more_stand_ins(str(error))
            if not more or attempt == MOST_ATTEMPTS:
                raise _not_loaded(path, str(error)) from None
            known |= more
        except Exception as error:  # torch raises half a dozen types for damaged files, OSError among them
            reason = str(error).splitlines()[0].split(". ")[0] if str(error) else type(error).__name__
            if not _is_torch(path):
                raise refused(path, "it is not a file of torch", f"Give {FORMS}") from None
            raise refused(path, f"it is cut short or damaged ({reason})", "Download or copy it again") from None
    raise AssertionError("unreachable")


def _stand_in(name: str, base: type = Unread) -> Any:
    return type(name, (base,), {})


def _own_classes(path: Path) -> list[str]:
    """Return the classes and functions that `path` names and torch does not load; none for the format before 1.6."""
    try:
        return torch.serialization.get_unsafe_globals_in_checkpoint(path)
    except Exception:  # an old, damaged or other file: torch.load says more
        return []


def _more_stand_ins(message: str) -> dict[str, Any]:
    """Return stand-ins, by name, for what made torch.load fail with `message`: a class, or a kind of dict or list."""
    if found := re.search(r"Unsupported global: GLOBAL (\S+)", message):
        return {name: _stand_in(name) for name in (found[1], f"builtins.{found[1]}")}  # torch leaves that module out
    if found := re.search(r"Can only (\w+) .*but got <class '(?:[\w.]*weight_files\.)?([^']+)'>", message):
        return {found[2]: list if found[1] in ("append", "extend") else OrderedDict}
    return {}


def _not_loaded(path: Path, message: str) -> UserError:
    """Return the refusal of a file that torch.load refused with `message`."""
    if found := re.search(r"GLOBAL (\S+)", message):
        return refused(path, f"it holds code ({found[1]})", f"{NO_CODE} Give {FORMS}")
    if _is_torch(path):
        remedy = f"{NO_CODE} Give {FORMS}. Of a whole model, where it was made: {_conversion(path)}"
        return refused(path, "it is a pickle of Python with other objects than tensors", remedy)
    return refused(path, "it is not a file of torch", f"Give {FORMS}")


def whole_model(path: Path, name: str, key: str) -> UserError:
    """Return the refusal of a file that holds an object of the class `name` instead of weights; `key`: inside what."""
    if name.split(".")[0] in ("builtins", "posix", "subprocess", "importlib", "runpy"):
        return _not_loaded(path, f"GLOBAL {name}")
    reason = f"it holds a whole model ({name}), and reading that would run code"
    return refused(path, reason, f"Where it was made, run in Python: {_conversion(path, key)}")


def _conversion(path: Path, key: str = "") -> str:
    part = f"[{key!r}]" if key else ""
    return f"import torch; model = torch.load({path.name!r}, map_location='cpu', weights_only=False){part}; {SAVE}"


def _is_torch(path: Path) -> bool:
    """Return whether the first bytes are those of a zip or of a pickle, the two containers of torch."""
    with open(path, "rb") as file:
        return file.read(2) in (b"PK", b"\x80\x02", b"\x80\x03", b"\x80\x04", b"\x80\x05")
