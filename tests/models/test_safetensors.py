"""Safetensors: every type arrives, and every number of a header is checked."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from pipelines.models.safetensors import TYPES, is_safetensors
from pipelines.models.state import load_state
from pipelines.system.errors import UserError

EXPECTED = ("weight", "bias")


def written(path: Path, header: Any, content: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


def state(path: Path) -> dict[str, Tensor]:
    return load_state(path, EXPECTED).state


@pytest.mark.parametrize("kind", TYPES)
def test_every_type_arrives(tmp_path: Path, kind: str) -> None:
    values = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(TYPES[kind])
    content = values.flatten().view(torch.uint8).numpy().tobytes()
    header = {
        "__metadata__": {"format": "pt"},
        "model.bias": entry("F32", [0], len(content), len(content)),
        "model.weight": entry(kind, [2, 3], 0, len(content)),
    }
    found = state(written(tmp_path / "model.safetensors", header, content))
    assert found["weight"].dtype == TYPES[kind]
    assert torch.equal(found["weight"], values)
    assert found["bias"].shape == (0,)


FLOATS = bytes(16)


@pytest.mark.parametrize(
    ("header", "reason"),
    [
        ({"weight": entry("F32", [4], 0, 16), "bias": entry("F32", [1], 12, 16)}, "starts at byte 12 instead of 16"),
        ({"weight": entry("F32", [3], 4, 16)}, "starts at byte 4 instead of 0"),
        ({"weight": entry("F32", [3], 0, 12)}, "bytes at its end"),
        ({"weight": entry("F32", [5], 0, 20)}, "it is cut short: its tensors take 20 bytes, but 16 follow the header"),
        ({"weight": entry("F32", [3], 0, 16)}, r"bytes of 'weight' do not fit its shape \(3,\)"),
        ({"weight": entry("F32", [-4], 0, 16)}, "damaged at the tensor 'weight'"),
        ({"weight": entry("F32", [4], 16, 0)}, "do not fit"),
        ({"weight": {"dtype": "F32", "shape": [4]}}, "damaged at the tensor 'weight'"),
        ({"weight": 3}, "damaged at the tensor 'weight'"),
        ({"weight": entry("F8_E4M3", [16], 0, 16)}, "1 of its tensors have the type 'F8_E4M3'"),
        (b"{not json", "its header is damaged"),
    ],
)
def test_a_header_that_breaks_the_rules_is_refused(tmp_path: Path, header: Any, reason: str) -> None:
    with pytest.raises(UserError, match=rf"model\.safetensors cannot be read as weights: .*{reason}"):
        state(written(tmp_path / "model.safetensors", header, FLOATS))


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = written(tmp_path / "model.safetensors", {"weight": entry("F32", [4], 0, 16)}, FLOATS)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match="it is cut short"):
        state(path)


def test_a_header_of_a_gigabyte_is_no_header() -> None:
    assert is_safetensors(struct.pack("<Q", 1000) + b'{"')
    assert not is_safetensors(struct.pack("<Q", 1 << 30) + b'{"')
    assert not is_safetensors(b"PK\x03\x04" + bytes(99))
