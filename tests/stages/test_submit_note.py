"""The stage `submit` says before it sends if the run is not clearly better than one sent before, and never stops."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pipelines.kaggle.limits import KnownLimits, read_limits, write_limits
from pipelines.kaggle.service import Limits
from pipelines.kaggle.submission_log import COMPLETE, Row, SubmissionLog
from pipelines.report import sent_before
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from pipelines.system.files import read_json, write_json
from pipelines.tools import submissions
from tests.support.blends import predicted_run
from tests.support.standin import Standin, Status
from tests.support.submitting import SHA256, Trial, checked_trial, watched_standin

ROWS = 400


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with watched_standin(tmp_path_factory.mktemp("standin")) as started:
        yield started


@pytest.fixture
def trial(standin: Standin, tmp_path: Path) -> Iterator[Trial]:
    with checked_trial(standin, tmp_path) as made:
        rows = "".join(
            f"v{number},train/v{number}.png,{'cat dog'.split()[number % 2]},valid,-1\n" for number in range(ROWS)
        )
        with open(tmp_path / "data/cats/split.csv", "a") as file:
            file.write(rows)
        yield made


def layout_of(trial: Trial) -> Layout:
    return Layout(trial.folder, "cats")


def predicted(trial: Trial, name: str, noise: float, sha256: str, score: float = 0.9) -> None:
    """Write a run with stored predictions, whose submission has this SHA-256."""
    ids = [f"v{number}" for number in range(ROWS)]
    settings = load_settings(str(trial.folder / "cats.toml"))
    run = predicted_run(layout_of(trial), settings, name, noise, ids)
    notes = read_json(run.predicted)
    notes[f"{name}.csv"] |= {"sha256": sha256, "rows": 3, "valid_score": score}
    write_json(run.predicted, notes)


def sent(trial: Trial, run: str, sha256: str, local: str, public: str = "0.91") -> None:
    log = SubmissionLog(trial.log)
    log.add(Row("2026-11-28T10:00:00Z", run, f"{run}.csv", sha256, "m", len(log.rows) + 1, COMPLETE, local, public))


def notes(trial: Trial) -> list[str]:
    return [line for line in trial.submit().splitlines() if line.startswith("Note: ")]


def test_a_run_that_is_not_better_than_one_sent_is_named_and_sent(trial: Trial) -> None:
    predicted(trial, "default", 2.0, SHA256)
    predicted(trial, "earlier", 1.9, "1" * 64)
    sent(trial, "earlier", "1" * 64, "0.9")
    (note,) = notes(trial)
    start = "Note: earlier, sent on 2026-11-28, has public 0.91; default is "
    assert note.startswith(start) and note.endswith(f", n = {ROWS}).")
    assert note.removeprefix(start).startswith(("not clearly better on the validation rows: ", "worse on the"))
    assert len(trial.competition.submissions) == 1 and trial.rows[-1]["status"] == "complete"
    assert notes(trial) == []  # it is sent already
    assert len(trial.competition.submissions) == 1


def test_a_worse_run_is_called_so_and_a_better_one_has_no_note(trial: Trial) -> None:
    predicted(trial, "default", 4.0, SHA256)
    predicted(trial, "earlier", 0.2, "1" * 64)
    sent(trial, "earlier", "1" * 64, "0.9", "")
    settings, layout = load_settings(str(trial.folder / "cats.toml")), layout_of(trial)
    note = sent_before.note_on_sent("default", SHA256, layout, settings)
    assert "earlier, sent on 2026-11-28, has no public score yet; default is worse on the validation rows: -0." in note
    predicted(trial, "default", 0.1, SHA256)
    predicted(trial, "earlier", 4.0, "1" * 64)
    assert sent_before.note_on_sent("default", SHA256, layout, settings) == ""
    assert notes(trial) == []


def test_the_best_of_those_sent_is_compared(trial: Trial) -> None:
    predicted(trial, "default", 2.0, SHA256)
    for number, (name, local) in enumerate((("low", "0.7"), ("high", "0.95"), ("middle", "0.8")), 1):
        predicted(trial, name, 2.0, str(number) * 64)
        sent(trial, name, str(number) * 64, local)
    sent(trial, "gone", "4" * 64, "0.99")  # it has no files
    sent(trial, "default", "5" * 64, "0.98")  # another file of the same run
    (note,) = notes(trial)
    assert note.startswith("Note: high, sent on")


def spoil(trial: Trial, what: str) -> None:
    run = layout_of(trial).run("earlier")
    match what:
        case "no oof":
            run.oof.unlink()
        case "half of oof":
            run.oof.write_bytes(run.oof.read_bytes()[:-100])
        case "a folder":
            run.oof.unlink()
            run.oof.mkdir()
        case "record":
            run.record.write_text("[]")
        case "split":
            write_json(run.record, read_json(run.record) | {"split_sha256": "0" * 64})
        case "metric":
            record = read_json(run.record)
            record["settings"]["competition"]["metric"] = "f1_macro"
            write_json(run.record, record)
        case "note":
            run.predicted.write_text("\x00")
        case "trained again":
            note = read_json(run.predicted)
            note["earlier.csv"]["sha256"] = "9" * 64
            write_json(run.predicted, note)
        case "all":
            for path in run.folder.iterdir():
                path.unlink()


@pytest.mark.parametrize(
    "what", ["no oof", "half of oof", "a folder", "record", "split", "metric", "note", "trained again", "all"]
)
def test_no_file_of_another_run_stops_a_submission(trial: Trial, what: str) -> None:
    predicted(trial, "default", 2.0, SHA256)
    predicted(trial, "earlier", 0.1, "1" * 64)
    sent(trial, "earlier", "1" * 64, "0.9")
    spoil(trial, what)
    assert notes(trial) == []
    assert len(trial.competition.submissions) == 1


def test_a_damaged_run_leaves_the_comparison_to_the_next(trial: Trial) -> None:
    predicted(trial, "default", 2.0, SHA256)
    for number, name in enumerate(("earlier", "second"), 1):
        predicted(trial, name, 0.5, str(number) * 64)
        sent(trial, name, str(number) * 64, f"0.{9 - number}")
    spoil(trial, "half of oof")
    (note,) = notes(trial)
    assert note.startswith("Note: second, sent on")


def test_large_predictions_are_not_compared(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    predicted(trial, "default", 2.0, SHA256)
    predicted(trial, "earlier", 0.1, "1" * 64)
    sent(trial, "earlier", "1" * 64, "0.9")
    settings, layout = load_settings(str(trial.folder / "cats.toml")), layout_of(trial)
    assert sent_before.note_on_sent("default", SHA256, layout, settings)
    monkeypatch.setattr(sent_before, "MOST_BYTES", 100)
    assert sent_before.note_on_sent("default", SHA256, layout, settings) == ""


def test_what_kaggle_says_of_the_limits_is_kept(trial: Trial) -> None:
    path = layout_of(trial).submission_limits
    before = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    trial.submit()
    found = read_limits(path)
    assert found and (found.left, found.today, found.total) == (4, 1, 1) and found.time >= before
    trial.competition.used_today, trial.competition.used_total = 3, 9
    trial.submit(stage=submissions)
    found = read_limits(path)
    assert found and (found.left, found.today, found.total) == (2, 3, 9)
    trial.standin.fault("GetSubmissionLimits", Status(403))
    trial.submit(stage=submissions)
    assert read_limits(path) == found


def test_records_of_limits(tmp_path: Path) -> None:
    path = tmp_path / "limits.json"
    assert read_limits(path) is None
    write_limits(path, Limits(0, 0, 0, False), sent=1)  # a team that never sent anything: no limit is reported
    found = read_limits(path)
    assert found == KnownLimits(None, 1, 1, found.time if found else "")
    write_limits(path, Limits(5, 7, 0, False))
    found = read_limits(path)
    assert found and (found.left, found.today, found.total) == (0, 5, 7)
    for content in ("{", "[]", '{"left": "x"}'):
        path.write_text(content)
        assert read_limits(path) is None
