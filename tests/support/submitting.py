"""The stage `submit` in a working folder, and its competition at the stand-in."""

import csv
import hashlib
import json
import socket
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

from pipelines import submit
from pipelines.settings.loading import load_settings
from tests.support.clients import forget, kept_client, run_stage, shared_environment
from tests.support.standin import (
    Competition,
    Request,
    Standin,
)

TOML = """
[competition]
slug = "{slug}"
[data]
labels = "labels.csv"
sample_submission = "sample.csv"
"""


SPLIT = "id,path,label,split,fold\n1,train/1.png,cat,train,-1\n2,train/2.png,dog,valid,-1\n"


SAMPLE = "id,label\n7,cat\n8,cat\n9,cat\n"


GOOD = "id,label\n7,cat\n8,dog\n9,cat\n"


SHA256 = hashlib.sha256(GOOD.encode()).hexdigest()


def free_port() -> int:
    """Return a port without a listener."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@contextmanager
def watched_standin(folder: Path) -> Iterator[Standin]:
    """Run a stand-in with one process of Kaggle's client, and a key that would be noticed in any output."""
    with Standin(folder) as standin:
        standin.key = "0123456789abcdef"
        with kept_client(standin):
            yield standin


@contextmanager
def checked_trial(standin: "Standin", folder: Path) -> Iterator["Trial"]:
    """Make a trial, and check afterwards that the stand-in has seen no violation."""
    yield make_trial(standin, folder)
    assert standin.violations == []
    forget(standin)


@dataclass
class Trial:
    """A working folder with a predicted submission, and its competition at the stand-in."""

    folder: Path
    standin: Standin
    competition: Competition
    first_request: int = 0
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def submission(self) -> Path:
        return self.folder / "submissions/cats/default.csv"

    @property
    def log(self) -> Path:
        return self.submission.with_name("log.csv")

    @property
    def ref(self) -> int:
        """The number of the newest submission at Kaggle."""
        return self.competition.submissions[-1].ref

    @property
    def requests(self) -> list[Request]:
        """The stand-in's requests since the last `submit`."""
        return self.standin.requests[self.first_request :]

    def calls(self, name: str) -> list[Request]:
        return [request for request in self.requests if request.method == name]

    @property
    def rows(self) -> list[dict[str, str]]:
        with open(self.log, newline="", encoding="utf-8") as file:
            return list(csv.DictReader(file))

    @property
    def row(self) -> dict[str, str]:
        (only,) = self.rows
        return only

    def submit(self, *words: str, expect: int = 0, stage: ModuleType = submit) -> str:
        """Run the stage; return what it printed, or its error if `expect` is not 0."""
        printed, error = self.run(stage, *words, expect=expect)
        return error if expect else printed

    def run(self, stage: ModuleType, *words: str, expect: int = 0) -> tuple[str, str]:
        """Run the stage in this process, check that it ends with the status `expect`, and return what it printed."""
        self.first_request = len(self.standin.requests)
        status, printed, error = run_stage(stage, ["cats.toml", *words], self.folder, self.environment)
        assert status == expect, f"status {status}:\n{printed}\n{error}"
        assert self.environment["KAGGLE_KEY"] not in printed + error
        assert error.startswith("error: ") if expect else not error  # no progress bar without a terminal
        return printed, error

    def start(self, toml: str = "cats.toml") -> "subprocess.Popen[str]":
        """Start the stage as a process."""
        return subprocess.Popen(
            [sys.executable, "-m", "pipelines.submit", toml],
            cwd=self.folder,
            env=self.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )


def make_trial(standin: Standin, folder: Path) -> Trial:
    """Return a trial with its own competition at the stand-in."""
    slug = f"cats-{len(standin.competitions)}"
    raw = folder / "data/cats/raw"
    raw.mkdir(parents=True)
    (raw / "sample.csv").write_text(SAMPLE)
    (folder / "data/cats/split.csv").write_text(SPLIT)
    (folder / "cats.toml").write_text(TOML.format(slug=slug))
    (folder / "submissions/cats").mkdir(parents=True)
    (folder / "submissions/cats/default.csv").write_text(GOOD)
    note_prediction(folder)
    archive = serve_sample(folder / "cats.zip", SAMPLE)
    competition = standin.add(slug, archive, load_settings(str(folder / "cats.toml")))
    (folder / "temporary").mkdir()
    environment = shared_environment(standin) | {"TMPDIR": str(folder / "temporary")}  # for files of killed processes
    return Trial(folder, standin, competition, len(standin.requests), environment)


def serve_sample(path: Path, sample: str) -> Path:
    with zipfile.ZipFile(path, "w") as opened:
        opened.writestr("sample.csv", sample)
    return path


def note_prediction(folder: Path, **values: Any) -> None:
    note = {"sha256": SHA256, "rows": 3, "valid_score": 0.93123, "valid_interval": [0.9, 0.95], "valid_images": 1259}
    path = folder / "runs/cats/default/predict.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({"default.csv": note | values}))
