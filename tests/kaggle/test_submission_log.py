"""The log of submissions: writing and reading, damaged logs, and the search for lost submissions."""

import re
from dataclasses import replace
from pathlib import Path

import pytest

from pipelines.kaggle.service import Submission
from pipelines.kaggle.submission_log import (
    COLUMNS,
    Row,
    SubmissionLog,
    compose_message,
    look_for,
    may_be_unlisted,
    now,
    submission_id,
    submission_status,
    submission_time,
)
from pipelines.system.errors import TryAgainLater, UserError, one_line

SHA256 = "0123456789abcdef" * 4
OTHER = "f" * 64
SENDING = Row(
    "2026-11-22T10:00:00Z", "default", "default.csv", SHA256, f"default #{SHA256[:12]}", local_score="0.93120"
)
HEADER = ",".join(COLUMNS) + "\n"
LINE = f"2026-11-22T10:00:00Z,default,default.csv,{SHA256},a message,1000,complete,0.93120,0.93410,\n"


def at_kaggle(ref: int, sha256: str = SHA256, status: str = "complete", public: str = "0.93410") -> Submission:
    return Submission(
        ref, "2026-11-22T10:00:05", f"default #{sha256[:12]}", "default.csv", status, public, "", "bad\n file"
    )


def test_rows_survive_whatever_their_texts_hold(tmp_path: Path) -> None:
    path = tmp_path / "submissions/log.csv"
    log = SubmissionLog(path)
    assert log.rows == []
    odd = replace(
        SENDING, message='commas, "quotes", größer 猫\nand lines', run="a,b", ref=7, status='error: no, "it\'s"'
    )
    assert [log.add(odd), log.add(SENDING)] == [0, 1]
    assert SubmissionLog(path).rows == log.rows == [odd, SENDING]
    assert path.read_text(encoding="utf-8").splitlines()[0] == (
        "time,run,file,sha256,message,ref,status,local_score,public_score,private_score"
    )
    assert not list(path.parent.glob(".*"))


def test_a_change_touches_one_row_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(HEADER + LINE)
    log = SubmissionLog(path)
    place = log.add(SENDING)
    assert log.update(place, at_kaggle(1001)).public_score == "0.93410"
    assert path.read_text().startswith(HEADER + LINE)  # scores keep the digits that Kaggle wrote
    assert SubmissionLog(path).rows[1] == replace(
        SENDING, ref=1001, status="complete", public_score="0.93410", private_score=""
    )
    before = path.stat().st_mtime_ns
    log.update(place, at_kaggle(1001))
    assert path.stat().st_mtime_ns == before
    assert (log.places(SHA256), log.refs) == ([0, 1], {1000, 1001})


def test_a_ref_that_is_known_stays(tmp_path: Path) -> None:
    log = SubmissionLog(tmp_path / "log.csv")
    place = log.add(SENDING)
    assert log.rows[place].unsettled
    for take in (log.update, log.adopt):
        assert take(place, at_kaggle(0)) == SENDING
    sent = log.change(place, ref=1000, status="pending")
    assert not sent.unsettled
    for take in (log.update, log.adopt):
        for ref in (0, 1001):
            assert take(place, at_kaggle(ref)) == sent
    assert log.update(place, at_kaggle(1000)).status == "complete"
    assert replace(SENDING, status="pending").unsettled
    assert not replace(SENDING, status="not sent").unsettled


def test_a_log_that_a_spreadsheet_saved_is_read(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes(b"\xef\xbb\xbf" + (HEADER + LINE + "\n").replace("\n", "\r\n").encode())
    assert SubmissionLog(path).rows[0].ref == 1000


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("", "line 1: the header should be time,run"),
        ("time,run\n", "line 1: the header should be"),
        (HEADER.replace("ref", "reference") + LINE, "line 1: unknown columns 'reference'; there are: time, run"),
        (HEADER.replace("\n", ",note\n"), "line 1: unknown columns 'note'"),
        (HEADER + LINE + "2026,default\n", "line 3: 2 values for 10 columns"),
        (HEADER + LINE.replace("1000", "1e3"), "line 2: the ref is '1e3', not a number"),
        (HEADER + LINE.replace("complete", "done"), "line 2: the status is 'done'; there are: sending, pending"),
        (HEADER + LINE.replace("0.93410", "good"), "line 2: the public_score is 'good'"),
        (HEADER + LINE.replace("a message", '"a message'), "line 2: it is not valid CSV"),
        (HEADER + LINE.replace("a message", '"two\nlines"') + "x\n", "line 4: 1 values for 10 columns"),
    ],
)
def test_a_damaged_log_is_refused_with_its_line_and_left_as_it_is(tmp_path: Path, content: str, words: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(content)
    with pytest.raises(UserError, match=re.escape(f"{path}, {words}")):
        SubmissionLog(path)
    assert path.read_text() == content


def test_a_log_that_is_not_utf_8_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_bytes((HEADER + LINE.replace("a message", "größer")).encode("latin-1"))
    with pytest.raises(UserError, match=r"log\.csv, line 2: it is not UTF-8"):
        SubmissionLog(path)


def test_messages_end_with_the_id_of_the_file() -> None:
    assert submission_id(SHA256) == "#0123456789ab"
    assert compose_message(" two \n lines\t", SHA256) == "two lines #0123456789ab"
    assert compose_message("x" * 200, SHA256).startswith("x" * 200)
    with pytest.raises(UserError, match="201 characters; at most 200"):
        compose_message("x" * 201, SHA256)
    assert compose_message("\x1b[31mred\x07, größer 猫\x9b", SHA256) == "[31mred , größer 猫 #0123456789ab"
    with pytest.raises(UserError, match="its character 3 is not UTF-8"):
        compose_message("gr\udcf6", SHA256)


def test_nothing_that_steers_a_terminal_comes_into_the_log(tmp_path: Path) -> None:
    assert one_line("\x1b]0;title\x07 a\u202eb\ud800\r\nc ") == "]0;title a b c"
    log = SubmissionLog(tmp_path / "log.csv")
    place = log.add(SENDING)
    told = replace(at_kaggle(1000, status="error"), description="\x1b[2Jmine\x00", error="no\x1b[8m\nid")
    assert (log.adopt(place, told).message, log.rows[place].error) == ("[2Jmine", "no [8m id")
    assert SubmissionLog(log.path).rows == log.rows


def test_more_counted_than_listed_says_something_of_new_rows_only() -> None:
    recent = replace(SENDING, time=now())
    assert may_be_unlisted(recent, lambda: 3, lambda: 2)
    assert not may_be_unlisted(recent, lambda: 2, lambda: 2)
    assert not may_be_unlisted(replace(SENDING, time="2020-11-22T10:00:00Z"), lambda: 3, lambda: 2)
    assert not may_be_unlisted(replace(SENDING, time="yesterday"), lambda: 3, lambda: 2)


def test_only_what_carries_the_id_and_is_not_in_the_log_is_unknown(tmp_path: Path) -> None:
    (tmp_path / "log.csv").write_text(HEADER + LINE)
    log = SubmissionLog(tmp_path / "log.csv")
    elsewhere = replace(at_kaggle(1003), description=f"#{SHA256[:12]} is only quoted")
    listed = [elsewhere, at_kaggle(0), at_kaggle(1002), at_kaggle(1001, OTHER), at_kaggle(1000)]
    assert [each.ref for each in log.unknown(listed, SHA256)] == [1002]


def test_what_is_adopted_has_the_time_and_the_message_that_kaggle_has(tmp_path: Path) -> None:
    log = SubmissionLog(tmp_path / "log.csv")
    place = log.add(replace(SENDING, message="another"))
    row = log.adopt(place, at_kaggle(1000, status="error"))
    assert (row.ref, row.time, row.message) == (1000, "2026-11-22T10:00:05Z", f"default #{SHA256[:12]}")
    assert (row.status, row.error, row.local_score) == ("error: bad file", "bad file", "0.93120")
    assert log.adopt(place, replace(at_kaggle(1000), date="")).time == row.time


def test_statuses_times_and_scores_as_kaggle_gives_them(tmp_path: Path) -> None:
    assert [submission_status(at_kaggle(1, status=each)) for each in ("pending", "complete", "queued")] == [
        *("pending", "complete", "pending")
    ]
    assert submission_status(replace(at_kaggle(1, status="error"), error="")) == "error: Kaggle does not say why"
    assert submission_time(replace(at_kaggle(1), date="2026-11-22T12:00:00+02:00")) == "2026-11-22T10:00:00Z"
    log = SubmissionLog(tmp_path / "log.csv")
    place = log.add(SENDING)
    for text in ("None", "nan"):
        assert log.update(place, at_kaggle(1, public=text)).public_score == ""
        SubmissionLog(log.path)


def test_looking_is_repeated_until_it_is_found(tmp_path: Path) -> None:
    log = SubmissionLog(tmp_path / "log.csv")
    answers: list[list[Submission] | TryAgainLater] = [[], TryAgainLater("503"), [at_kaggle(1000)]]

    def listed() -> list[Submission]:
        answer = answers.pop(0)
        if isinstance(answer, TryAgainLater):
            raise answer
        return answer

    found = look_for(log, SHA256, listed, (0, 0, 0, 0))
    assert found is not None
    assert found.ref == 1000
    answers = [TryAgainLater("503"), []]
    assert look_for(log, SHA256, listed, (0, 0)) is None
    answers = [[], TryAgainLater("503")]
    with pytest.raises(TryAgainLater, match="503"):
        look_for(log, SHA256, listed, (0, 0))
