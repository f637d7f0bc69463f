"""Safetensors: tensors arrive by their names, and a damaged file is one clear message."""

import json
import struct
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from pipelines.models.state import load_state
from pipelines.models.weight_files import is_safetensors
from pipelines.system.errors import UserError

FLOATS = bytes(16)


def written(path: Path, header: Any, content: bytes) -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + content)
    return path


def entry(dtype: str, shape: list[int], start: int, end: int) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.int64])
def test_tensors_arrive_by_name(tmp_path: Path, dtype: torch.dtype) -> None:
    values = torch.tensor([[0, 1, 1], [1, 0, 1]]).to(dtype)
    path = tmp_path / "model.safetensors"
    save_file({"model.weight": values, "model.bias": torch.zeros(0)}, path, metadata={"format": "pt"})
    found = load_state(path, ("weight", "bias")).state
    assert found["weight"].dtype == dtype and torch.equal(found["weight"], values)
    assert found["bias"].shape == (0,)


@pytest.mark.parametrize(
    "header",
    [
        {"weight": entry("F32", [4], 0, 16), "bias": entry("F32", [1], 12, 16)},
        {"weight": entry("F32", [3], 0, 12)},
        {"weight": entry("F32", [5], 0, 20)},
        {"weight": entry("F32", [-4], 0, 16)},
        {"weight": {"dtype": "F32", "shape": [4]}},
        {"weight": entry("F9", [16], 0, 16)},
        b"{not json",
    ],
)
def test_a_header_that_breaks_the_rules_is_refused(tmp_path: Path, header: Any) -> None:
    path = written(tmp_path / "model.safetensors", header, FLOATS)
    with pytest.raises(
        UserError, match=r"model\.safetensors cannot be read as weights: .*damaged \(.*Download or copy"
    ):
        load_state(path, ("weight", "bias"))


@pytest.mark.parametrize("share", [0.5, 0.9])
def test_a_file_that_is_cut_short_is_refused(tmp_path: Path, share: float) -> None:
    path = written(tmp_path / "model.safetensors", {"weight": entry("F32", [4], 0, 16)}, FLOATS)
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * share)])
    with pytest.raises(UserError, match="it is cut short"):
        load_state(path, ("weight", "bias"))


def test_a_header_of_a_gigabyte_is_no_header() -> None:
    assert is_safetensors(struct.pack("<Q", 1000) + b'{"')
    assert not is_safetensors(struct.pack("<Q", 1 << 30) + b'{"')
    assert not is_safetensors(b"PK\x03\x04" + bytes(99))
