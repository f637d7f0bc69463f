"""The stage `submit` with Kaggle's client: after any failure a file is sent once, and the log is right."""

import hashlib
import random
import re
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.tools import submissions
from tests.support.standin import (
    Body,
    Cut,
    Delay,
    Html,
    Lost,
    Stall,
    Standin,
    Status,
    Submission,
)
from tests.support.submitting import (
    GOOD,
    SAMPLE,
    SHA256,
    Trial,
    checked_trial,
    free_port,
    make_trial,
    note_prediction,
    serve_sample,
    watched_standin,
)

MARK = f"#{SHA256[:12]}"
NO_QUICK_ANSWER = "kaggle.score_minutes=0"


def json_body(text: str) -> Body:
    return Body(text.encode(), {"Content-Type": "application/json"})


EMPTY = json_body("{}")  # also Kaggle's list before it contains a new submission


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with watched_standin(tmp_path_factory.mktemp("standin")) as started:
        yield started


@pytest.fixture
def trial(standin: Standin, tmp_path: Path) -> Iterator[Trial]:
    with checked_trial(standin, tmp_path) as made:
        yield made


def test_a_submission_is_sent_and_scored_and_not_sent_twice(trial: Trial) -> None:
    trial.competition.scoring_seconds = 0.3
    out = trial.submit()
    assert out.splitlines() == [
        "Kaggle: username and key of alice from KAGGLE_USERNAME and KAGGLE_KEY.",
        "  file         submissions/cats/default.csv (checked against sample.csv)",
        "  rows         3",
        f"  sha256       {SHA256[:12]}…",
        "  run          default",
        "  local score  accuracy 0.9312 (0.9000 to 0.9500, n = 1,259)",
        f"  message      default valid 0.9312 {MARK}",
        "Submissions left now: 5; sent today: 0.",
        f"Sent, as ref {trial.ref}.",
        "Public score 1.00000 (local 0.9312); the private score is not known yet.",
        "Log: submissions/cats/log.csv. Next: make submissions COMP=cats.toml",
    ]
    row = trial.row
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", row.pop("time"))
    assert row == {
        "run": "default",
        "file": "default.csv",
        "sha256": SHA256,
        "message": f"default valid 0.9312 {MARK}",
        "ref": str(trial.ref),
        "status": "complete",
        "local_score": "0.93123",
        "public_score": "1.00000",
        "private_score": "",
    }
    (start,), (upload,), (create,) = map(trial.calls, ("StartSubmissionUpload", "upload", "CreateSubmission"))
    assert start.body == {
        "competitionName": trial.competition.slug,
        "contentLength": len(GOOD),
        "lastModifiedEpochSeconds": int(trial.submission.stat().st_mtime),
        "fileName": "default.csv",
    }
    assert len(upload.content) == len(GOOD)
    assert trial.competition.submissions[0].content == GOOD.encode()
    assert create.body is not None
    assert re.fullmatch(r"upload-\d+", create.body.pop("blobFileTokens"))
    assert create.body == {"competitionName": trial.competition.slug, "submissionDescription": row["message"]}

    out = trial.submit()
    assert trial.requests == []
    assert f"Already sent: default.csv, as ref {row['ref']}, " in out
    assert "To send it again: make submit COMP=cats.toml AGAIN=1" in out
    assert "Public score 1.00000 (local 0.9312)" in out

    first = trial.row
    trial.competition.scoring_seconds = 0
    trial.standin.fault("GetSubmission", Html())  # the next request succeeds
    trial.submit("--again", "--message", "  once\n \x1b\x00more ")
    assert [each.description for each in trial.competition.submissions] == [row["message"], f"once more {MARK}"]
    assert trial.rows[0] == first
    assert (trial.rows[1]["ref"], trial.rows[1]["status"]) == (str(trial.ref), "complete")
    assert len(trial.calls("GetSubmission")) == 2


def test_nothing_that_is_wrong_here_reaches_the_network(trial: Trial) -> None:
    for content, words in {
        "id,breed\n7,cat\n8,dog\n9,cat\n": "its header is 'id', 'breed'",
        "id,label\n7,cat\n8,dog\n": "1 are absent ('9')",
        "id,label\n7,cat\n8,dog\n9,cat\n10,cat\n": "1 too many ('10')",
        "id,label\n7,cat\n8,dog\n9,cow\n": "line 4: 'cow' is not a known label",
        "id,label\n": "default.csv has no rows.",
        "": "default.csv has no rows.",
    }.items():
        trial.submission.write_text(content)
        error = trial.submit(expect=2)
        assert words in error
        assert f"{trial.submission}" in error or "error: submissions/cats/default.csv" in error
        assert "Nothing was sent. To predict it again: rm submissions/cats/default.csv; make predict" in error
        assert trial.requests == []

    trial.submission.write_text("id,cat,dog\n7,1,0\n8,0.7,0.7\n9,0,1\n")
    (trial.folder / "data/cats/raw/sample.csv").write_text("id,cat,dog\n7,1,0\n8,1,0\n9,1,0\n")
    error = trial.submit("--run", "default", "--set", "competition.submission=probabilities", expect=2)
    assert "line 3: the probabilities sum to 1.4" in error

    trial.submission.unlink()
    assert "default.csv is missing. First: make predict COMP=cats.toml" in trial.submit(expect=2)
    trial.submission.write_text(GOOD)
    (trial.folder / "data/cats/raw/sample.csv").write_text(SAMPLE)
    assert "log.csv is the log of sent submissions" in trial.submit("--run", "log", expect=2)
    assert "at most 200" in trial.submit("--message", "x" * 201, expect=2)
    assert "its character 2 is not UTF-8" in trial.submit("--message", "x\udc80", expect=2)
    assert not trial.log.exists()
    assert trial.requests == []


def test_without_the_data_a_file_is_taken_as_it_was_predicted_and_only_so(trial: Trial) -> None:
    (trial.folder / "data/cats/raw/sample.csv").unlink()
    note_prediction(trial.folder, sha256="0" * 64)
    assert "First: make download COMP=cats.toml" in trial.submit(expect=2)
    assert trial.requests == []
    note_prediction(trial.folder)
    assert "submissions/cats/default.csv (checked where it was predicted)" in trial.submit()
    assert len(trial.competition.submissions) == 1


def test_a_file_that_was_put_there_by_hand_has_no_local_score(trial: Trial) -> None:
    note_prediction(trial.folder, sha256="0" * 64)
    out = trial.submit()
    assert "not as make predict left it for the run default, so its local score is unknown" in out
    assert "local score  -\n" in out
    assert "(local unknown)" in out
    assert (trial.row["local_score"], trial.row["message"]) == ("", f"default {MARK}")


def test_a_damaged_log_is_not_written_over(trial: Trial) -> None:
    trial.log.write_text("time,run\nyesterday,default\n")
    assert "submissions/cats/log.csv, line 1: the header should be" in trial.submit(expect=2)
    assert trial.log.read_text() == "time,run\nyesterday,default\n"
    assert trial.requests == []


def test_no_credentials(trial: Trial) -> None:
    del trial.environment["KAGGLE_USERNAME"]
    error = trial.submit(expect=2)
    assert "a username is missing" in error
    assert "https://www.kaggle.com/settings/api" in error
    assert trial.requests == []


def test_a_slip_to_the_real_kaggle_fails_at_once(trial: Trial) -> None:
    del trial.environment["KAGGLE_API_ENVIRONMENT"]
    assert "does not answer: nothing listens there" in trial.submit(expect=2)
    assert trial.requests == []
    trial.environment["KAGGLE_API_ENVIRONMENT"] = "TEST"
    assert "KAGGLE_API_ENVIRONMENT is 'TEST'" in trial.submit(expect=2)


def test_what_is_not_on_kaggle_is_not_sent_there(trial: Trial) -> None:
    toml = trial.folder / "cats.toml"
    toml.write_text(toml.read_text().replace("[data]", 'source = "digits"\n[data]'))
    trial.submit()  # but to the stand-in
    assert len(trial.competition.submissions) == 1
    del trial.environment["KAGGLE_API_ENVIRONMENT"]
    assert "cats is not a competition on Kaggle" in trial.submit(expect=2)


RULES = "https://www.kaggle.com/competitions/cats-"
REFUSALS: list[tuple[str, Any, int, str]] = [
    ("GetCompetition", Status(401, "Unauthenticated"), 2, "does not accept the credentials (401"),
    ("GetCompetition", Status(403, "Permission 'competitions.participate' was denied"), 2, RULES),
    ("GetCompetition", Status(403, json=False), 2, "or there is no competition of that name"),
    ("GetCompetition", Status(404), 2, "competition.slug is the last part"),
    ("GetCompetition", Status(429, headers={"Retry-After": "17"}), 3, "try again in 17 seconds"),
    ("GetCompetition", Status(503, json=False), 3, "Kaggle has trouble (503"),
    ("ListSubmissions", Html(), 3, "perhaps a web page"),
    ("ListSubmissions", Cut(5), 3, "The connection to Kaggle failed"),
    ("GetSubmissionLimits", Lost(), 3, "The connection to Kaggle failed"),
    ("GetSubmissionLimits", Stall(), 3, "Kaggle was silent for"),
]


@pytest.mark.parametrize(("call", "fault", "status", "words"), REFUSALS)
def test_trouble_before_anything_is_sent(trial: Trial, call: str, fault: Any, status: int, words: str) -> None:
    trial.standin.fault(call, fault)
    assert words in trial.submit("--set", "kaggle.stall_seconds=1", expect=status)
    assert not trial.log.exists()
    assert not trial.calls("StartSubmissionUpload")


def test_credentials_that_kaggle_does_not_know(trial: Trial) -> None:
    trial.environment["KAGGLE_KEY"] = "of-somebody-else"
    assert "does not accept the credentials (401" in trial.submit(expect=2)


def test_nobody_answers(trial: Trial) -> None:
    trial.environment["http_proxy"] = f"http://127.0.0.1:{free_port()}"
    assert "does not answer: nothing listens there" in trial.submit(expect=2)
    assert not trial.log.exists()


def test_a_competition_that_takes_code_gets_no_file_and_says_what_can_be_done(trial: Trial) -> None:
    trial.competition.code_only = True
    error = trial.submit(expect=2)
    assert "Nothing was sent. This competition takes code only" in error and "run make kernel" in error
    assert not trial.calls("StartSubmissionUpload") and not trial.log.exists()
    # Kaggle's flag may be absent: then its refusal says so.
    trial.competition.code_only = False
    words = "Submission not allowed: this competition only accepts Submissions from Notebooks."
    trial.standin.fault("CreateSubmission", Status(400, words))
    error = trial.submit(expect=2)
    assert words in error and "run make kernel" in error
    assert trial.row["status"] == "not sent"


def test_a_name_that_kaggle_cannot_have_is_refused_before_a_call(trial: Trial) -> None:
    toml = trial.folder / "cats.toml"
    toml.write_text(toml.read_text().replace(trial.competition.slug, "Cats and Dogs"))
    assert "competition.slug is 'Cats and Dogs'" in (error := trial.submit(expect=2))
    assert 'for example slug = "cats-and-dogs"' in error and not trial.requests


def test_what_the_competition_does_not_allow(trial: Trial) -> None:
    competition = trial.competition
    competition.entered = False
    assert f"accept its rules at https://www.kaggle.com/competitions/{competition.slug}/rules" in trial.submit(expect=2)
    competition.entered, competition.disabled = True, True
    assert "takes no submissions" in trial.submit(expect=2)
    competition.disabled, competition.used_today, competition.used_total = False, 5, 19
    error = trial.submit(expect=2)
    assert "No submissions are left today: 5 were sent. Kaggle's new day begins at 00:00 UTC, in " in error
    competition.used_today, competition.limited_by_total = 0, True
    assert "limits their total number, and 19 were sent" in trial.submit(expect=2)
    assert not trial.log.exists()
    assert not competition.submissions


def test_a_late_submission_is_scored(trial: Trial) -> None:
    trial.competition.deadline = "2020-02-02T23:59:00Z"
    out = trial.submit()
    assert "ended on 2020-02-02: this is a late submission, which is scored but not ranked." in out
    assert re.search(r"Public score 1\.00000 \(local 0\.9312\); private score \d\.\d{5}\.", out)
    assert trial.row["private_score"] == trial.competition.submissions[0].private_score != ""


def test_kaggles_own_check_refuses_the_file(trial: Trial) -> None:
    serve_sample(trial.competition.archive, SAMPLE + "10,cat\n")
    error = trial.submit(expect=2)
    assert "Kaggle's own check refused the file (ref" in error
    assert '"Submission must have 4 rows"' in error
    assert trial.row["status"] == "error: Submission must have 4 rows"
    assert trial.submit(expect=2) == error
    assert trial.requests == []
    assert "make submit COMP=cats.toml AGAIN=1" in error
    serve_sample(trial.competition.archive, SAMPLE)
    trial.submit("--again")
    assert [row["status"] for row in trial.rows] == ["error: Submission must have 4 rows", "complete"]


def test_scoring_that_never_ends(trial: Trial) -> None:
    trial.competition.scoring_seconds = 3600
    error = trial.submit("--set", "kaggle.score_minutes=0.02", expect=3)
    assert f"The submission is sent, as ref {trial.ref}, and nothing is lost" in error
    assert "Read it later: make submissions COMP=cats.toml" in error
    assert len(trial.calls("GetSubmission")) == 3  # at once, after a second, and at the end
    assert (trial.row["status"], trial.row["ref"]) == ("pending", str(trial.ref))
    trial.submit("--again", "--set", NO_QUICK_ANSWER, expect=3)
    assert {request.method for request in trial.requests} == {"GetSubmission"}
    trial.competition.scoring_seconds = 0
    assert "Waiting for its score." in trial.submit()
    assert trial.row["status"] == "complete"
    assert len(trial.competition.submissions) == 1


def test_trouble_that_does_not_end_while_waiting(trial: Trial) -> None:
    trial.standin.fault("GetSubmission", Status(503), times=None)
    assert "Kaggle has trouble (503" in trial.submit("--set", NO_QUICK_ANSWER, expect=3)
    trial.standin.fault("GetSubmission")
    trial.standin.fault("GetSubmission", Status(401))
    assert "is sent, as ref" in trial.submit("--set", NO_QUICK_ANSWER, expect=2)
    assert trial.row["status"] == "pending"
    trial.standin.fault("GetSubmission", EMPTY)
    assert "answered with 0" in trial.submit("--set", NO_QUICK_ANSWER, expect=3)
    assert (trial.row["status"], trial.row["ref"]) == ("pending", str(trial.ref))
    trial.submit(stage=submissions)
    assert (trial.row["status"], trial.row["ref"]) == ("complete", str(trial.ref))
    assert trial.row["public_score"] == "1.00000"
    assert len(trial.competition.submissions) == 1


NOT_DONE: list[Any] = [
    pytest.param("StartSubmissionUpload", Status(500), 3, "is not among the submissions", marks=pytest.mark.slow),
    ("upload", Status(400), 3, "could not be uploaded"),
    ("CreateSubmission", Status(400, "No such file"), 2, 'Kaggle says: "No such file"'),
    ("CreateSubmission", Status(429), 3, "Too many requests"),
    pytest.param("CreateSubmission", Html(), 3, "is not among the submissions", marks=pytest.mark.slow),
    ("CreateSubmission", EMPTY, 3, "is not among the submissions"),
]


@pytest.mark.parametrize(("call", "fault", "status", "words"), NOT_DONE)
def test_what_was_not_sent_is_sent_by_the_same_command(
    trial: Trial, call: str, fault: Any, status: int, words: str
) -> None:
    trial.standin.fault(call, fault)
    assert words in trial.submit(expect=status)
    assert (trial.row["status"], trial.row["ref"]) == ("not sent", "")
    trial.submit("--set", "kaggle.score_minutes=1")
    assert trial.row["status"] == "complete"
    assert len(trial.competition.submissions) == 1


@pytest.mark.parametrize("fault", [Lost(), Cut(3), Stall(), Delay(1.5)], ids=lambda fault: type(fault).__name__)
def test_a_lost_answer_is_found_at_kaggle(trial: Trial, fault: Any) -> None:
    trial.standin.fault("CreateSubmission", fault)
    out = trial.submit("--set", "kaggle.stall_seconds=1")
    assert f"Kaggle has it, as ref {trial.ref}." in out
    assert (trial.row["status"], trial.row["ref"]) == ("complete", str(trial.ref))
    assert len(trial.competition.submissions) == len(trial.calls("CreateSubmission")) == 1


def test_an_upload_that_was_cut_off_is_repeated_whole(trial: Trial) -> None:
    trial.standin.fault("upload", Lost())
    trial.submit()
    assert len(trial.calls("upload")) == 2
    assert trial.competition.submissions[0].content == GOOD.encode()


def test_an_answer_without_a_number_is_none(trial: Trial) -> None:
    made = Submission(2000, "2026-11-01T10:00:00Z", f"default {MARK}", "default.csv", GOOD.encode())
    trial.competition.submissions.append(made)
    trial.standin.fault("ListSubmissions", EMPTY)  # before it is sent
    trial.standin.fault("CreateSubmission", json_body('{"message": "Successfully submitted", "ref": "abc"}'))
    assert "Kaggle has it, as ref 2000." in trial.submit()
    assert (trial.row["status"], trial.row["ref"]) == ("complete", "2000")


def test_what_is_sent_is_what_was_checked(trial: Trial) -> None:
    trial.standin.fault("ListSubmissions", Delay(0.3))
    process = trial.start()
    while not trial.calls("ListSubmissions"):
        time.sleep(0.01)
    other = trial.submission.with_name("other.csv")
    other.write_text(GOOD.replace("7,cat", "7,dog"))
    other.replace(trial.submission)
    printed, error = process.communicate()
    assert process.returncode == 0, error
    assert "submissions/cats/default.csv (checked against sample.csv)" in printed
    assert hashlib.sha256(trial.competition.submissions[0].content).hexdigest() == trial.row["sha256"] == SHA256
    assert not list(Path(trial.environment["TMPDIR"]).glob("*/default.csv"))


@pytest.mark.parametrize("last", ["Kaggle: ", "Submissions left now: "])
def test_a_reader_that_leaves_early_costs_no_submission(trial: Trial, last: str) -> None:
    trial.standin.fault("CreateSubmission", Delay(0.2))
    process = trial.start()
    assert process.stdout is not None
    assert process.stderr is not None
    while not process.stdout.readline().startswith(last):
        pass
    process.stdout.close()
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert process.wait() != 0
    trial.standin.fault("CreateSubmission")
    trial.submit()
    assert (trial.row["status"], trial.row["ref"]) == ("complete", str(trial.ref))
    assert len(trial.competition.submissions) == 1


def test_what_kaggle_counts_but_does_not_list_yet_is_not_sent_again(trial: Trial) -> None:
    trial.standin.fault("CreateSubmission", Lost())
    trial.standin.fault("ListSubmissions", Delay(0), *[EMPTY] * 4)
    assert "Kaggle counts one more submission than before" in trial.submit(expect=3)
    assert (trial.row["status"], trial.row["ref"]) == ("sending", "")
    assert f"Kaggle has it, as ref {trial.ref}." in trial.submit()
    assert trial.row["status"] == "complete"
    assert len(trial.competition.submissions) == 1


@pytest.mark.slow
def test_a_list_that_lags_for_long_and_a_count_that_fails(trial: Trial) -> None:
    trial.standin.fault("CreateSubmission", Lost())
    trial.standin.fault("ListSubmissions", Delay(0))
    trial.standin.fault("ListSubmissions", EMPTY, times=None)
    trial.standin.fault("GetSubmissionLimits", Delay(0), Status(503))
    assert "could not be found out either: Kaggle has trouble (503" in trial.submit(expect=3)
    assert trial.row["status"] == "sending"
    assert "Kaggle counts more submissions than it lists" in trial.submit(expect=3)
    assert trial.row["status"] == "sending"
    trial.submit(stage=submissions)
    assert trial.row["status"] == "sending"
    trial.standin.fault("ListSubmissions")
    assert f"Kaggle has it, as ref {trial.ref}." in trial.submit("--again")
    assert trial.row["status"] == "complete"
    assert len(trial.competition.submissions) == 1


def test_where_kaggle_cannot_be_asked_afterwards_the_next_call_does(trial: Trial) -> None:
    trial.standin.fault("CreateSubmission", Lost())
    junk = (json_body("[]"), Status(503), EMPTY, json_body('"maintenance"'))
    trial.standin.fault("ListSubmissions", Delay(0), *junk)
    error = trial.submit(expect=3)
    assert "could not be found out either: What answered was not Kaggle's service" in error
    assert trial.row["status"] == "sending"
    out = trial.submit()
    assert f"Kaggle has it, as ref {trial.ref}." in out
    assert trial.row["status"] == "complete"
    assert len(trial.competition.submissions) == 1


@pytest.mark.slow
def test_an_attempt_that_ended_before_it_sent_anything(trial: Trial) -> None:
    trial.submit()
    trial.competition.submissions.clear()
    trial.competition.used_today = trial.competition.used_total = 0
    trial.log.write_text(re.sub(r"#(\w+),\d+,complete,(.*?),.*", r"#\1,,sending,\2,,", trial.log.read_text()))
    assert trial.row["status"] == "sending"
    assert "Kaggle does not have it." in trial.submit()
    assert len(trial.competition.submissions) == 1
    assert (trial.row["status"], trial.row["ref"]) == ("complete", str(trial.ref))


def test_with_a_lost_log_the_file_is_found_at_kaggle(trial: Trial) -> None:
    trial.submit()
    before = trial.row | {"time": f"{trial.competition.submissions[0].date[:19]}Z"}
    trial.log.unlink()
    assert f"Kaggle has this file already, as ref {trial.ref}." in trial.submit()
    assert trial.row == before
    assert not trial.calls("CreateSubmission")
    trial.log.unlink()
    trial.submit("--again")
    assert [int(row["ref"]) for row in trial.rows] == [each.ref for each in trial.competition.submissions]
    assert len(trial.rows) == 2


@pytest.mark.parametrize(("second", "words"), [("cats.toml", "Already sent"), ("dogs.toml", "has this file already")])
def test_two_at_the_same_time_send_it_once(trial: Trial, second: str, words: str) -> None:
    (trial.folder / "dogs.toml").write_text((trial.folder / "cats.toml").read_text())  # of the same competition
    for name in ("data", "submissions", "runs"):
        shutil.copytree(trial.folder / name / "cats", trial.folder / name / "dogs")
    trial.standin.fault("CreateSubmission", Delay(0.5))
    both = [trial.start(), trial.start(second)]
    assert sorted(words in process.communicate()[0] for process in both) == [False, True]
    assert [process.returncode for process in both] == [0, 0]
    assert len(trial.competition.submissions) == 1
    assert trial.row["status"] == "complete"


def test_an_interrupt_loses_nothing(trial: Trial) -> None:
    trial.competition.scoring_seconds = 3600
    process = trial.start()
    while not trial.calls("GetSubmission"):
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    assert "Interrupted" in process.communicate()[1]
    assert process.returncode == 130
    trial.competition.scoring_seconds = 0
    assert "Waiting for its score" in trial.submit()
    assert len(trial.competition.submissions) == 1


@pytest.mark.slow
def test_what_reaches_kaggle_long_after_it_was_given_up_is_not_sent_twice(trial: Trial) -> None:
    trial.standin.fault("CreateSubmission", Delay(8))
    assert "is not among the submissions" in trial.submit("--set", "kaggle.stall_seconds=1", expect=3)
    assert trial.row["status"] == "not sent"
    while not trial.competition.submissions:
        time.sleep(0.1)
    assert "Kaggle has this file already" in trial.submit()
    assert (trial.row["status"], trial.row["ref"]) == ("complete", str(trial.ref))
    assert len(trial.competition.submissions) == 1


@pytest.mark.slow
def test_killed_at_20_random_points_it_is_sent_exactly_once(standin: Standin, tmp_path: Path) -> None:
    for call in ("CreateSubmission", "StartSubmissionUpload"):  # so that some kills happen during these calls
        standin.fault(call, Delay(0.2), times=None)

    started = time.monotonic()
    measured = make_trial(standin, tmp_path / "measured")
    measured.competition.scoring_seconds = 0.3
    assert "Public score" in measured.start().communicate()[0]
    duration = time.monotonic() - started
    generator = random.Random(0)
    states = []
    for number in range(20):
        trial = make_trial(standin, tmp_path / str(number))
        trial.competition.scoring_seconds = 0.3
        process = trial.start()
        time.sleep(duration * (number + generator.random()) / 20)  # spread over all states
        process.kill()
        process.communicate()
        states.append(trial.row["status"] if trial.log.exists() else "nothing")
        for _ in range(5):
            process = trial.start()
            process.communicate()
            if process.returncode == 0:
                break
        (sent,) = trial.competition.submissions
        assert sent.content == GOOD.encode()
        row = trial.row
        assert (row["ref"], row["status"], row["message"]) == (str(sent.ref), "complete", sent.description)
        assert (row["public_score"], row["sha256"]) == (sent.public_score, SHA256)
        assert not list(trial.log.parent.glob("*.partial"))
    print(f"killed within {duration:.1f} s, the log then said: {sorted(states)}")
    assert {"nothing", "sending", "pending"} <= set(states)  # else the kills missed a state
    for call in ("CreateSubmission", "StartSubmissionUpload"):
        standin.fault(call)
    assert standin.violations == []
