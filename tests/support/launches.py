"""Stages that the launcher runs in several processes, on the tiny competition."""

import contextlib
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import torch

from pipelines import command, split
from tests.support.groups import LAUNCH, PATIENCE, Running
from tests.support.histories import TIMES
from tests.support.tiny import TOML, Tiny, make_tiny

# Enough epochs that a signal arrives before the last one.
EPOCHS = 30
LONG = TOML.replace("epochs = 3", f"epochs = {EPOCHS}").replace("lr = 0.1", "lr = 0.02\nema_decay = 0.8")
RUN = Path("runs/tiny/default")


class Ended(NamedTuple):
    status: int
    out: str
    err: str


def start(folder: Path, *words: str, count: int = 2) -> Running:
    return Running([*LAUNCH, str(count), *words], folder, folder / "logs")


def end(running: Running) -> Ended:
    return Ended(running.end(2 * PATIENCE), running.out, running.err)


def split_tiny(folder: Path, toml: str = LONG) -> Tiny:
    folder.mkdir(exist_ok=True)
    tiny = make_tiny(folder)
    tiny.toml.write_text(toml)
    with contextlib.chdir(folder):
        assert command.run(split.main, ["tiny.toml"]) == 0
    return tiny


def results(folder: Path, run: Path = RUN) -> tuple[dict[str, bytes], str]:
    """The weights of the run's checkpoints, and its history without times."""
    saved = {name: torch.load(folder / run / f"{name}.pt", weights_only=True)["weights"] for name in ("best", "last")}
    weights = {f"{file} {name}": value.numpy().tobytes() for file in saved for name, value in saved[file].items()}
    return weights, pd.read_csv(folder / run / "history.csv").drop(columns=list(TIMES)).to_csv()


def epochs_of(folder: Path, run: Path = RUN) -> int:
    path = folder / run / "history.csv"
    return len(path.read_text().splitlines()) - 1 if path.exists() else 0


def wait_for_epochs(running: Running, folder: Path, count: int, run: Path = RUN) -> None:
    running.wait_for(lambda: epochs_of(folder, run) >= count, f"{count} epochs")


def check_partial(folder: Path) -> None:
    """Nothing is half written, and nothing looks complete."""
    assert not (folder / RUN / "train.json").exists()
    torch.load(folder / RUN / "last.pt", weights_only=True)
    left = [path.name for path in (folder / RUN).iterdir()]
    assert sorted(left) == ["best.pt", "history.csv", "last.pt", "run.json"], left
