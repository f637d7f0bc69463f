"""Read a safetensors file: a length, a JSON header, and the raw bytes of the tensors.

The format: https://huggingface.co/docs/safetensors.  Every number of the header is checked before it is used.
"""

import json
import math
import struct
from collections import OrderedDict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from pipelines.system.errors import few, quoted

LONGEST_HEADER = 100_000_000  # bytes, as in the format's own library
TYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


def is_safetensors(head: bytes) -> bool:
    """Return whether a file that starts with `head` is a safetensors file."""
    return len(head) > 8 and head[8:9] == b"{" and 2 <= struct.unpack("<Q", head[:8])[0] <= LONGEST_HEADER


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """Return {name: tensor} of the file `path`, in the order of its bytes; its metadata are ignored.

    Raises `ValueError` with the reason, as the end of a sentence, for a file that breaks the rules of the format.
    """
    size = path.stat().st_size
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > min(LONGEST_HEADER, size - 8):
            raise ValueError(f"it is cut short: the header takes {length:,} bytes, but the file has {size:,}")
        try:
            header = json.loads(file.read(length))
        except (ValueError, RecursionError) as error:
            raise ValueError(f"its header is damaged ({type(error).__name__})") from None
        places = _checked(header, size - 8 - length)
        found: dict[str, Tensor] = OrderedDict()
        for name, (dtype, shape, start, end) in places.items():
            file.seek(8 + length + start)
            content = bytearray(file.read(end - start))
            found[name] = (torch.frombuffer(content, dtype=dtype) if content else torch.empty(0, dtype=dtype)).view(
                shape
            )
    return found


def _checked(header: Any, size: int) -> dict[str, tuple[torch.dtype, list[int], int, int]]:
    """Return type, shape, start and end of each tensor of `header`, ordered by start; `size`: bytes of all tensors."""
    if not isinstance(header, dict):
        raise ValueError("its header is damaged: it is not a table of tensors")
    header.pop("__metadata__", None)
    places: dict[str, tuple[torch.dtype, list[int], int, int]] = {}
    unknown: list[str] = []
    for name, entry in header.items():
        try:
            kind, shape, (start, end) = entry["dtype"], entry["shape"], entry["data_offsets"]
            whole = all(type(number) is int and number >= 0 for number in (*shape, start, end))
        except (TypeError, KeyError, ValueError):
            whole = False
        if not whole or not isinstance(kind, str):
            raise ValueError(f"its header is damaged at the tensor {quoted(name)}")
        if kind not in TYPES:
            unknown.append(kind)
            continue
        if end - start != math.prod(shape) * TYPES[kind].itemsize:
            raise ValueError(f"its header is damaged: the bytes of {quoted(name)} do not fit its shape {tuple(shape)}")
        places[name] = TYPES[kind], shape, start, end
    if unknown:
        kinds = few(list(dict.fromkeys(unknown)))
        raise ValueError(
            f"{len(unknown)} of its tensors have the type {kinds}, which networks here do not use. Save them as float32"
        )
    ordered = dict(sorted(places.items(), key=lambda place: place[1][2:]))
    last = 0
    for name, (_, _, start, end) in ordered.items():
        if start != last:
            raise ValueError(f"its header is damaged: {quoted(name)} starts at byte {start:,} instead of {last:,}")
        last = end
    if last != size:
        what = "it is cut short" if last > size else "it has bytes at its end that belong to no tensor"
        raise ValueError(f"{what}: its tensors take {last:,} bytes, but {size:,} follow the header")
    return ordered
