"""Competitions of noise: small images, a labels CSV and a sample submission, written where the stages read them."""

import contextlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from tests.support.stages import run_stage_here

Sections = dict[str, dict[str, Any]]
TEST = range(100, 106)  # ids
QUICK: Sections = {
    "data": {"labels": "train.csv", "sample_submission": "sample.csv"},
    "split": {"valid_ratio": 0.25},
    "input": {"size": 8},
    "model": {"widths": [8], "depth": [1]},
    "train": {"epochs": 1, "batch_size": 8, "lr": 0.05},
    "hardware": {"device": "cpu", "precision": "float32", "workers": 0, "threads": 1},
}


class Noise:
    """The competition `x` in `folder`, of the cells `train` behind the ids, and the sample's cells."""

    def __init__(
        self,
        folder: Path,
        train: Sequence[str],
        sample: Sequence[str],
        header: str,
        competition: dict[str, Any],
    ) -> None:
        self.folder, self.raw = folder, folder / "data/x/raw"
        self.sections: Sections = {}
        random = np.random.default_rng(0)
        for part, ids in (("train", range(len(train))), ("test", TEST)):
            (self.raw / part).mkdir(parents=True)
            for name in ids:
                pixels = random.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(self.raw / part / f"{name}.png")
        tests = [f"{name},{sample[place % len(sample)]}" for place, name in enumerate(TEST)]
        for file, rows in (
            ("train.csv", [f"{name},{cells}" for name, cells in enumerate(train)]),
            ("sample.csv", tests),
        ):
            (self.raw / file).write_text("\n".join([header, *rows]) + "\n")
        self.set(**QUICK)
        self.set(competition=competition)

    def set(self, **sections: dict[str, Any]) -> None:
        """Change settings of the TOML."""
        lines = []
        for name, values in sections.items():
            self.sections[name] = self.sections.get(name, {}) | values
        for name, values in self.sections.items():
            lines += [f"[{name}]", *(f"{key} = {json.dumps(value)}" for key, value in values.items())]
        (self.folder / "x.toml").write_text("\n".join(lines) + "\n")

    def run(self, *stages: str) -> int:
        """Run stages in the competition's folder until one fails; return its exit status, or 0."""
        with contextlib.chdir(self.folder):
            return next((status for stage in stages if (status := run_stage_here(stage, ["x.toml"]))), 0)

    @property
    def sent(self) -> list[list[str]]:
        """The cells of the submission, without its header and its ids."""
        lines = (self.folder / "submissions/x/default.csv").read_text().splitlines()
        return [line.split(",")[1:] for line in lines[1:]]
