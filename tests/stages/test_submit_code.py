"""Submissions of code: `kernel`, then `submit`, with Kaggle's client against the stand-in."""

import hashlib
import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.tools import kernel
from tests.support.clients import forget
from tests.support.kernels import leave, standin_for_kernels
from tests.support.standin import Kernel, Lost, Standin, Status
from tests.support.submitting import GOOD, SHA256, Trial, make_trial

NOTE = {"sha256": SHA256, "rows": 3, "valid_score": 0.93123}


def leave_answers(kernel: Kernel) -> None:
    """Let the session of `kernel` end with a run that has answered the visible images."""
    leave(
        kernel,
        {
            "submission.csv": GOOD.encode(),
            "submissions/cats/default.csv": GOOD.encode(),
            "runs/cats/default/train.json": json.dumps({"metric": "accuracy", "score": 0.93, "best_epoch": 3}).encode(),
            "runs/cats/default/predict.json": json.dumps({"default.csv": NOTE}).encode(),
        },
    )


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with standin_for_kernels(tmp_path_factory.mktemp("standin")) as started:
        started.key = "0123456789abcdef"
        yield started


@pytest.fixture
def trial(standin: Standin, tmp_path: Path) -> Iterator[Trial]:
    """Return a competition that takes code, with nothing predicted yet."""
    trial = make_trial(standin, tmp_path)
    standin.run_kernel = leave_answers
    toml = tmp_path / "cats.toml"
    toml.write_text(toml.read_text().replace("[competition]", '[competition]\ntakes = "code"'))
    shutil.rmtree(tmp_path / "runs")
    trial.submission.unlink()
    trial.competition.code_only = True
    yield trial
    assert standin.violations == []
    forget(standin)


def push(trial: Trial) -> int:
    """Run the kernel and return its version."""
    trial.submit(stage=kernel)
    return int(json.loads((trial.folder / "runs/cats/default-kernel/state.json").read_text())["version"])


def test_the_version_of_a_kernel_is_submitted_once_and_scored(trial: Trial) -> None:
    version = push(trial)
    out = trial.submit()
    assert f"kernel       alice/cats-default version {version}\n" in out and "(checked against sample.csv)" in out
    (sent,) = trial.calls("CreateCodeSubmission")
    assert sent.body == {
        "competitionName": trial.competition.slug,
        "kernelOwner": "alice",
        "kernelSlug": "cats-default",
        "kernelVersion": version,
        "fileName": "submission.csv",
        "submissionDescription": trial.row["message"],
    }
    mark = hashlib.sha256(f"alice/cats-default {version}".encode()).hexdigest()
    assert trial.row["message"] == f"default valid 0.9312 #{mark[:12]}" and trial.row["sha256"] == mark
    assert trial.row["file"] == f"alice/cats-default version {version}" and trial.row["status"] == "complete"
    assert not trial.calls("StartSubmissionUpload")
    assert "Already sent: alice/cats-default version" in trial.submit() and not trial.calls("CreateCodeSubmission")
    trial.submit("--again")
    assert len(trial.rows) == len(trial.competition.submissions) == 2


def test_another_version_with_the_same_answers_is_another_submission(trial: Trial) -> None:
    push(trial)
    trial.submit()
    for left in ("runs", "submissions/cats/default.csv"):
        path = trial.folder / left
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    push(trial)
    trial.submit()
    assert len(trial.rows) == 2 and trial.rows[0]["sha256"] != trial.rows[1]["sha256"]


def test_a_submission_whose_answer_was_lost_is_found(trial: Trial) -> None:
    push(trial)
    trial.standin.fault("CreateCodeSubmission", Lost())
    out = trial.submit()
    assert f"Kaggle has it, as ref {trial.ref}." in out and "Public score" in out
    assert len(trial.competition.submissions) == 1 and trial.row["ref"] == str(trial.ref)


def test_a_refused_version_is_logged_as_not_sent(trial: Trial) -> None:
    push(trial)
    trial.standin.fault("CreateCodeSubmission", Status(400, "Your Notebook cannot use internet access."))
    assert "submitting the kernel's version" in (error := trial.submit(expect=2)) and "internet access" in error
    assert trial.row["status"] == "not sent"
    trial.submit()
    assert trial.row["status"] == "complete"


def test_without_a_run_on_kaggle_the_error_names_the_kernel(trial: Trial) -> None:
    assert "First: make kernel COMP=cats.toml" in trial.submit(expect=2)
    trial.submission.parent.mkdir(exist_ok=True)
    trial.submission.write_text(GOOD)
    error = trial.submit(expect=2)
    assert "was not made by a kernel on Kaggle" in error and error.rstrip().endswith(
        "make kernel COMP=cats.toml RUN=default-kaggle"
    )
    assert not trial.log.exists() and not trial.calls("CreateCodeSubmission")


def test_a_competition_that_takes_files_gets_no_code(trial: Trial) -> None:
    push(trial)
    trial.competition.code_only = False
    error = trial.submit(expect=2)
    assert 'takes files, but competition.takes is "code"' in error
    assert not trial.log.exists() and not trial.calls("CreateCodeSubmission")


def test_internet_is_noted_where_code_is_taken(trial: Trial) -> None:
    out = trial.submit("--set", "kaggle.internet=true", stage=kernel)
    assert "Note: kaggle.internet is on" in out
