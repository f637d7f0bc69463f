"""Fold sets of tiny networks, trained one by one in the process of the test."""

import sys
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path

import pandas as pd
import pytest

from pipelines import command, split
from pipelines.settings.layout import Layout
from pipelines.tools import folds
from pipelines.tools.parallel import Training
from tests.support.pictures import write_squares
from tests.support.stages import run_stage_here

LABELLED, TEST = 24, 7
TOML = """
[competition]
{competition}
[data]
labels = "labels.csv"
sample_submission = "sample.csv"
{data}
[split]
folds = {folds}
[input]
size = 8
[model]
widths = [8]
[train]
epochs = 4
batch_size = 6
lr = 0.1
[hardware]
device = "cpu"
precision = "float32"
workers = 0
threads = 1
"""


def trained_here(trainings: Sequence[Training], places: Sequence[Mapping[str, str]]) -> Generator[Training | None]:
    """Do what `run_side_by_side` does, one by one and in this process."""
    for training in trainings:
        yield None
        if status := run_stage_here("train", training.arguments):
            sys.exit(status)
        yield training


def write_data(layout: Layout, targets: Sequence[str], header: Sequence[str], answers: Sequence[str]) -> None:
    """Write images that are the brighter the later their target, labels, and a sample submission with `answers`."""
    write_squares(layout.raw, {"train": LABELLED, "test": TEST}, noisy=120, step=40, steps=len(targets))
    labels = [targets[number % len(targets)] for number in range(LABELLED)]
    for wrong in (2, 5, 11):  # so that the networks make mistakes
        labels[wrong] = targets[(wrong + 1) % len(targets)]
    pd.DataFrame({"id": [f"train{n}" for n in range(LABELLED)], "target": labels}).to_csv(
        layout.raw / "labels.csv", index=False
    )
    sample = pd.DataFrame({"id": [f"test{n}" for n in reversed(range(TEST))]})
    sample[[*header]] = [answers] * TEST
    sample.to_csv(layout.raw / "sample.csv", index=False)


def make_set(layout: Layout, monkeypatch: pytest.MonkeyPatch, *words: str) -> None:
    """Split, and train a fold set in the working folder."""
    monkeypatch.setattr(folds, "run_side_by_side", trained_here)
    toml = f"{layout.competition}.toml"
    assert command.run(split.main, [toml]) == 0
    assert command.run(folds.main, [toml, *words]) == 0


def toml_of(folder: Path, name: str, competition: str, data: str = "", folds: int = 2) -> Layout:
    """Write the TOML of a competition; return its files."""
    (folder / f"{name}.toml").write_text(TOML.format(competition=competition, data=data, folds=folds))
    return Layout(folder, name)
