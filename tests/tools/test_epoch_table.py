"""The table of epochs on the screen, and the bar within an epoch."""

import os
import pty
import subprocess
import sys
import termios
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from pipelines.settings.loading import load_settings
from pipelines.settings.metrics import METRICS
from pipelines.settings.schema import Settings
from pipelines.tools.epoch_table import WIDTH, phase_names, print_epochs

REPOSITORY = Path(__file__).parents[2]
BAR = """
from time import sleep
from pipelines.command import progress
from pipelines.system.watch import Noted
for number in progress(Noted(range(3), lambda: f"loss {number}.25"), "epoch 1", 3, "batches"):
    sleep(0.2)  # a bar is drawn ten times a second at most
"""


def row(epoch: int, score: float = 0.5, metric: str = "accuracy", **more: float) -> dict[str, Any]:
    values = {"train_loss": 1.0, "valid_loss": 2.0, metric: score, "lr": 0.1, "images_per_second": 12_345.0}
    return {"epoch": epoch, **values, "seconds": 2.0, **more}


def settings_of(*overrides: str) -> Settings:
    return load_settings("digits", "default", overrides)


def replace_metric(settings: Settings, metric: str) -> Settings:
    return replace(settings, competition=replace(settings.competition, metric=metric))


def test_epochs_are_printed_once_each_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    rows = print_epochs(iter([row(2), row(3)]), [row(1)], 3, settings_of())
    lines = capsys.readouterr().out.splitlines()
    assert [each["epoch"] for each in rows] == [1, 2, 3]
    assert lines.pop(2) == "Continuing after epoch 1."
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert lines[2].split()[0] == "2/3" and lines[2].endswith("2 s")


def test_each_epoch_that_is_the_best_so_far_is_marked(capsys: pytest.CaptureFixture[str]) -> None:
    scores = (0.5, 0.4, 0.6, 0.6, float("nan"), 0.7)
    print_epochs((row(epoch, score) for epoch, score in enumerate(scores, 1)), [], 6, settings_of())
    marked = ["*" in line for line in capsys.readouterr().out.splitlines()[1:]]
    assert marked == [True, False, True, False, False, True]


def test_of_a_loss_the_lowest_is_the_best(capsys: pytest.CaptureFixture[str]) -> None:
    settings = replace_metric(settings_of(), "rmse")
    print_epochs((row(epoch, 1 / epoch, "rmse") for epoch in (1, 2)), [], 2, settings)
    assert ["*" in line for line in capsys.readouterr().out.splitlines()[1:]] == [True, True]


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("warmup", [0, 3])
def test_a_row_fits_eighty_columns(metric: str, warmup: int, capsys: pytest.CaptureFixture[str]) -> None:
    settings = replace_metric(settings_of(f"train.warmup_epochs={warmup}"), metric)
    print_epochs((row(epoch, 0.12345, metric) for epoch in range(1, 101)), [], 100, settings)
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 101 and max(map(len, lines)) <= WIDTH
    assert len({len(line) for line in lines}) == 1
    heading = lines[0].split()
    assert {"epoch", "train_loss", "valid_loss", "left"} <= set(heading)
    assert ("phase" in heading) <= bool(warmup)


def test_without_validation_only_the_training_loss_is_shown(capsys: pytest.CaptureFixture[str]) -> None:
    scored = ("valid_loss", "accuracy")
    rows = ({key: value for key, value in row(epoch).items() if key not in scored} for epoch in (1, 2))
    print_epochs(rows, [], 2, settings_of())
    out = capsys.readouterr().out
    assert "valid_loss" not in out and "*" not in out


def test_phases_are_named() -> None:
    settings = settings_of("train.epochs=6", "train.warmup_epochs=1", "augment.sizes=[4, 8]")
    assert phase_names(settings, 6) == ["4 px", "4 px", "4 px", "", "", ""]
    settings = settings_of("train.epochs=4", "train.warmup_epochs=1.5")
    assert phase_names(settings, 4) == ["warm-up", "", "", ""]


def test_a_bar_on_a_terminal_ends_with_the_note() -> None:
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 100))
    with subprocess.Popen([sys.executable, "-c", BAR], stderr=theirs, cwd=REPOSITORY) as process:
        os.close(theirs)
        shown = b""
        try:
            while part := os.read(ours, 1000):
                shown += part
        except OSError:  # the terminal is closed
            pass
    os.close(ours)
    assert process.returncode == 0
    assert b"epoch 1" in shown and b"loss 1.25" in shown
