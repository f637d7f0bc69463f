"""The tool `submissions`: it updates the log from Kaggle, and shows one table, best first."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.kaggle.submission_log import Row, SubmissionLog
from pipelines.tools import submissions
from tests.support.standin import Standin, Status, Submission
from tests.support.submitting import GOOD, SHA256, Trial, checked_trial, free_port, watched_standin


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with watched_standin(tmp_path_factory.mktemp("standin")) as started:
        yield started


@pytest.fixture
def trial(standin: Standin, tmp_path: Path) -> Iterator[Trial]:
    with checked_trial(standin, tmp_path) as made:
        yield made


def read_back(trial: Trial, expect: int = 0) -> list[str]:
    return trial.submit(stage=submissions, expect=expect).splitlines()


def put_at_kaggle(trial: Trial, number: int, sha256: str, public: str, private: str = "", text: str = "") -> Submission:
    """Add a scored submission of the file `<number>.csv` at Kaggle, not in the log."""
    made = Submission(
        ref=9000 + len(trial.competition.submissions),
        date=f"2026-11-0{number}T10:00:00.000Z",
        description=f"{text or f'run{number}'} #{sha256[:12]}",
        file_name=f"{number}.csv",
        content=b"",
        status="COMPLETE" if public else "PENDING",
        public_score=public,
        private_score=private,
        received=float("inf") if not public else 0,
    )
    trial.competition.submissions.append(made)
    return made


def put_in_log(trial: Trial, number: int, sha256: str, ref: int, status: str, local: str) -> None:
    SubmissionLog(trial.log).add(
        Row(f"2026-11-0{number}T10:00:00Z", f"run{number}", f"run{number}.csv", sha256, "m", ref, status, local)
    )


def test_all_submissions_best_first_and_broken_off_ones_repaired(trial: Trial) -> None:
    hashes = [str(number) * 64 for number in range(9)]
    first = put_at_kaggle(trial, 1, hashes[1], "0.91000", "0.95000")
    put_in_log(trial, 1, hashes[1], first.ref, "pending", "0.90000")
    found = put_at_kaggle(trial, 2, hashes[2], "0.93000")
    put_in_log(trial, 2, hashes[2], 0, "pending", "0.92000")  # possible in old logs
    put_in_log(trial, 3, hashes[3], 0, "sending", "0.97000")  # never reached Kaggle
    put_in_log(trial, 4, hashes[4], 123, "complete", "0.80000")  # no longer at Kaggle
    late = put_at_kaggle(trial, 5, hashes[5], "0.90000")
    put_in_log(trial, 5, hashes[5], 0, "not sent", "")  # but it arrived later
    strange = put_at_kaggle(trial, 6, hashes[6], "0.94000", text="made in\x1b a browser, with a long message")
    strange.file_name = "\x1b6.csv\n"
    refused = put_at_kaggle(trial, 7, hashes[7], "0.1")
    refused.status, refused.public_score, refused.error_description = "ERROR", "", "Submission lacks\x1b\x07 the id 3"
    put_in_log(trial, 7, hashes[7], refused.ref, "pending", "0.70000")
    put_at_kaggle(trial, 8, hashes[8], "")

    out = read_back(trial)
    assert out[:2] == [
        "Kaggle: username and key of alice from KAGGLE_USERNAME and KAGGLE_KEY.",
        "By accuracy, highest first; by the private score where it is known:",
    ]
    assert [line.split() for line in out[2:-1]] == [
        "submission time (UTC) local public private status message".split(),
        "run1 2026-11-01 10:00 0.90000 0.91000 0.95000 complete m".split(),
        "6.csv 2026-11-06 10:00 - 0.94000 - complete made in a browser, with a long …".split(),
        "run2 2026-11-02 10:00 0.92000 0.93000 - complete run2".split(),
        "run5 2026-11-05 10:00 - 0.90000 - complete run5".split(),
        f"8.csv 2026-11-08 10:00 - - - pending run8 #{hashes[8][:12]}".split(),
        "run7 2026-11-07 10:00 0.70000 - - error: Submission lacks the id 3 m".split(),
        "run4 2026-11-04 10:00 0.80000 - - complete, not at Kaggle m".split(),
        "run3 2026-11-03 10:00 0.97000 - - not sent m".split(),
    ]
    assert len({line.index("complete") + len("complete") for line in out[3:6]}) == 1
    assert out[-1] == "Log: submissions/cats/log.csv"
    assert [(row["ref"], row["status"], row["public_score"], row["private_score"]) for row in trial.rows] == [
        (str(first.ref), "complete", "0.91000", "0.95000"),
        (str(found.ref), "complete", "0.93000", ""),
        ("", "not sent", "", ""),
        ("123", "complete", "", ""),
        (str(late.ref), "complete", "0.90000", ""),
        (str(refused.ref), "error: Submission lacks the id 3", "", ""),
    ]


def test_a_submission_that_was_not_waited_for(trial: Trial) -> None:
    trial.competition.scoring_seconds = 3600
    trial.submit("--set", "kaggle.score_minutes=0", expect=3)
    assert read_back(trial)[3].split()[3:7] == ["0.93123", "-", "-", "pending"]
    trial.competition.scoring_seconds = 0
    assert read_back(trial)[3].split()[3:7] == ["0.93123", "1.00000", "-", "complete"]
    assert trial.row["public_score"] == "1.00000"
    assert trial.submission.read_text() == GOOD
    assert trial.row["sha256"] == SHA256


def test_of_a_loss_the_lowest_is_first(trial: Trial) -> None:
    toml = trial.folder / "cats.toml"
    settings = 'metric = "log_loss"\nsubmission = "probabilities"\n[data]'
    toml.write_text(toml.read_text().replace("[data]", settings))
    for number, score in enumerate(("0.5", "0.31", "10.0"), 1):
        put_at_kaggle(trial, number, str(number) * 64, score)
    out = read_back(trial)
    assert out[1] == "By log_loss, lowest first; by the private score where it is known:"
    assert [line.split()[0] for line in out[3:]] == ["2.csv", "1.csv", "3.csv"]
    assert not trial.log.exists()


def test_more_submissions_than_fit_on_a_page(trial: Trial) -> None:
    for number in range(201):
        put_at_kaggle(trial, 1, f"{number:064}", f"0.{number:03}")
    out = read_back(trial)
    assert len(out) == 3 + 201
    assert out[3].split()[4] == "0.200"
    assert len(trial.calls("ListSubmissions")) == 2


def test_nothing_sent_yet(trial: Trial) -> None:
    assert read_back(trial)[1] == (
        f"Nothing was sent to {trial.competition.slug} yet. First: make submit COMP=cats.toml"
    )
    assert not trial.log.exists()


@pytest.mark.parametrize(
    ("trouble", "status", "words"),
    [("no credentials", 2, "settings/api"), ("refused", 2, "does not answer"), ("403", 2, "rules")],
)
def test_without_kaggle_the_log_is_shown_all_the_same(trial: Trial, trouble: str, status: int, words: str) -> None:
    put_in_log(trial, 1, SHA256, 1000, "complete", "0.90000")
    put_in_log(trial, 2, SHA256, 0, "sending", "0.91000")
    before = trial.log.read_text()
    if trouble == "no credentials":
        del trial.environment["KAGGLE_USERNAME"]
    elif trouble == "refused":
        trial.environment["http_proxy"] = f"http://127.0.0.1:{free_port()}"
    else:
        trial.standin.fault("ListSubmissions", Status(403))
    printed, error = trial.run(submissions, expect=status)
    assert words in error
    assert "run1" in printed
    assert "run2" in printed
    assert "These rows come from the log only: Kaggle could not be asked." in printed
    assert trial.log.read_text() == before
