"""Precision: the detected one is kept unless the other is clearly faster, and a run keeps its first choice."""

import dataclasses
from pathlib import Path

import pytest
import torch

from pipelines.core import precision
from pipelines.core.precision import faster_precision, settle_precision, time_convolutions, widest_faster
from pipelines.models.device import Hardware, choose_hardware
from pipelines.settings.schema import Settings
from pipelines.system.files import read_json, write_json
from tests.support.tiny import Tiny

CPU = torch.device("cpu")
MANY = 10**9  # images: a training long enough to measure


def automatic(tiny: Tiny, *overrides: str) -> Settings:
    return tiny.settings("hardware.precision=auto", "hardware.side_by_side=0", *overrides)


@pytest.mark.parametrize("detected", [torch.float32, torch.bfloat16])
def test_both_precisions_are_tried_and_nothing_is_changed(tiny: Tiny, detected: torch.dtype) -> None:
    settings = automatic(tiny, "model.dropout=0.5")
    network = tiny.network(settings)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    chosen, speeds = faster_precision(network, settings, Hardware(CPU, detected))
    assert speeds.keys() == {"bfloat16", "float32"}
    assert min(speeds.values()) > 0
    fastest = max(speeds, key=lambda name: speeds[name])
    assert chosen in (fastest, str(detected).removeprefix("torch."))
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert all(parameter.grad is None for parameter in network.parameters())
    assert torch.equal(torch.get_rng_state(), state)


@pytest.mark.parametrize(("float32_is", "expected"), [(0.3, "bfloat16"), (1.2, "bfloat16"), (1.3, "float32")])
def test_the_detected_precision_is_kept_unless_the_other_is_clearly_faster(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, float32_is: float, expected: str
) -> None:
    seconds = {"bfloat16": 1.0, "float32": 1 / float32_is}
    clock, order = [0.0], ["bfloat16", *["bfloat16", "float32"] * (1 + precision.STEPS)]  # first one on few images
    calls = [0]

    def perf_counter() -> float:
        if calls[0] % 2:  # the end of a step
            clock[0] += seconds[order[calls[0] // 2]]
        calls[0] += 1
        return clock[0]

    monkeypatch.setattr(precision.time, "perf_counter", perf_counter)
    settings = automatic(tiny)
    chosen, speeds = faster_precision(tiny.network(settings), settings, Hardware(CPU, torch.bfloat16))
    assert chosen == expected
    assert speeds["float32"] / speeds["bfloat16"] == pytest.approx(float32_is, rel=0.01)
    assert speeds["bfloat16"] == 3.0  # images in each step: with the 6 of a batch it would take more than ALL_SECONDS


def test_a_resumed_run_computes_as_it_began(tiny: Tiny, tmp_path: Path) -> None:
    settings, note = automatic(tiny), tmp_path / "run/precision.json"
    first, reason = settle_precision(settings, note, tiny.network(settings), MANY)
    assert first.hardware.precision in ("bfloat16", "float32")
    assert "when tried" in reason or "is not clearly faster" in reason
    slower = "float32" if first.hardware.precision == "bfloat16" else "bfloat16"
    kept = read_json(note)
    fastest = first.hardware.precision
    for speeds, expected in (
        ({slower: 30.0, fastest: 10.0}, f" (3.0 times as fast as {fastest} when tried)"),
        ({slower: 9.0, fastest: 10.0}, f" ({fastest} is not clearly faster)"),
    ):  # as if the measurement had been another one
        write_json(note, kept | {"precision": slower, "images_per_second": speeds})
        again, reason = settle_precision(settings, note)
        assert again.hardware.precision == slower
        assert reason == expected
    write_json(note, kept | {"precision": slower, "device": "another processor"})
    settle_precision(settings, note, tiny.network(settings), MANY)
    assert read_json(note)["device"] == kept["device"]  # measured again on another processor


def test_a_short_training_or_none_tries_nothing(tiny: Tiny, tmp_path: Path) -> None:
    settings, note = automatic(tiny), tmp_path / "precision.json"
    assert settle_precision(settings, note, tiny.network(settings), images=100) == (settings, "")
    assert settle_precision(settings, note) == (settings, "")
    assert not note.exists()


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_a_precision_in_the_settings_is_not_tried(tiny: Tiny, tmp_path: Path, chosen: str) -> None:
    settings = tiny.settings(f"hardware.precision={chosen}", "hardware.side_by_side=0")
    note = tmp_path / "precision.json"
    assert settle_precision(settings, note, tiny.network(settings), MANY) == (settings, "")
    assert not note.exists()
    assert choose_hardware(settings.hardware).dtype == getattr(torch, chosen)


def test_settings_differ_in_the_precision_alone(tiny: Tiny, tmp_path: Path) -> None:
    settings = automatic(tiny)
    settled, _ = settle_precision(settings, tmp_path / "precision.json", tiny.network(settings), MANY)
    assert dataclasses.replace(settled, hardware=settings.hardware) == settings
    assert dataclasses.replace(settled.hardware, precision="auto") == settings.hardware


def test_each_shape_of_convolution_is_timed_once_at_each_size_and_nothing_is_changed(tiny: Tiny) -> None:
    sizes = ("augment.sizes=[4,6,8]", "model.widths=[8,8,8]")
    settings = tiny.settings(*sizes, "train.batch_size=6")
    network = tiny.network(settings)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    state = torch.get_rng_state()
    timed = time_convolutions(network, settings, Hardware(CPU, torch.float32))
    shapes = [(*each["channels"], each["width"]) for each in timed]
    assert len(shapes) == len(set(shapes))
    assert {(3, 8, 8), (3, 8, 6), (8, 8, 4), (8, 8, 2), (8, 8, 1)} <= set(shapes)
    assert all(each["milliseconds"] > 0 and each["side_by_side"] > 0 for each in timed)
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())
    assert type(next(each for each in network.modules() if isinstance(each, torch.nn.Conv2d))) is torch.nn.Conv2d
    assert torch.equal(torch.get_rng_state(), state)


def test_convolutions_that_learn_nothing_are_not_timed(tiny: Tiny) -> None:
    settings = tiny.settings("train.batch_size=6")
    network = tiny.network(settings).requires_grad_(False)
    assert time_convolutions(network, settings, Hardware(CPU, torch.float32)) == []


@pytest.mark.parametrize(
    ("factors", "expected"),
    [
        ({2: (3.0,), 5: (2.0,), 7: (1.2,)}, 7),
        ({2: (3.0,), 5: (1.05,), 7: (1.2,)}, 2),
        ({2: (3.0,), 5: (0.9, 2.0)}, 5),  # together
        ({2: (0.5,), 7: (3.0,)}, 0),
        ({}, 0),
    ],
)
def test_maps_lie_side_by_side_up_to_the_width_where_that_is_clearly_faster(
    factors: dict[int, tuple[float, ...]], expected: int
) -> None:
    timed = [
        {"width": width, "milliseconds": each, "side_by_side": 1.0} for width in factors for each in factors[width]
    ]
    assert widest_faster(timed) == expected
    assert widest_faster(timed[::-1]) == expected


def test_the_width_is_measured_once_and_kept(tiny: Tiny, tmp_path: Path) -> None:
    settings, note = tiny.settings(), tmp_path / "precision.json"
    assert settings.hardware.side_by_side == -1
    first, _ = settle_precision(settings, note, tiny.network(settings), MANY)
    kept = read_json(note)
    assert first.hardware.side_by_side == kept["side_by_side"] >= 0
    assert "precision" not in kept  # that is in the settings
    assert kept["convolutions"]
    write_json(note, kept | {"side_by_side": 5})
    again, reason = settle_precision(settings, note)
    assert again.hardware.side_by_side == 5
    assert reason == " (maps up to 5 pixels wide side by side)"
    assert choose_hardware(again.hardware).side_by_side == 5
    assert choose_hardware(settings.hardware).side_by_side == 0  # nothing is measured for predictions
    write_json(note, kept | {"side_by_side": "5"})  # damaged
    assert settle_precision(settings, note) == (settings, "")


def test_a_run_that_began_before_widths_were_measured_trains_as_it_began(tiny: Tiny, tmp_path: Path) -> None:
    settings, note = tiny.settings("hardware.precision=auto"), tmp_path / "precision.json"
    speeds = {"float32": 10.0, "bfloat16": 5.0}
    device = choose_hardware(settings.hardware).record()["device"]
    write_json(note, {"device": device, "precision": "float32", "images_per_second": speeds})
    settled, reason = settle_precision(settings, note, tiny.network(settings), MANY)
    assert (settled.hardware.precision, settled.hardware.side_by_side) == ("float32", 0)
    assert reason == " (2.0 times as fast as bfloat16 when tried)"
