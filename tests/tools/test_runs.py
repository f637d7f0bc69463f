"""The tool `runs`: the table of all runs of the digits, and whether one run is really better than another."""

import subprocess
from pathlib import Path

import pandas as pd
import pytest

from pipelines import command, download, predict, split, train
from pipelines.kaggle.submission_log import COMPLETE, Row, SubmissionLog
from pipelines.report.run_table import HEADINGS, fitted, roughly
from pipelines.settings.layout import Layout
from pipelines.system.files import file_sha256, read_json, write_json
from pipelines.tools import blend, runs

FAST = ["hardware.device=cpu", "hardware.precision=float32", "predict.checkpoint=best"]
RUNS = {"long": ["train.epochs=4"], "a short one": ["train.epochs=1", "train.lr=0.02"]}


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two runs of the digits, one much better, and a blend of them."""
    folder = tmp_path_factory.mktemp("digits")
    with pytest.MonkeyPatch.context() as place:
        place.chdir(folder)
        assert command.run(download.main, ["digits"]) == 0
        assert command.run(split.main, ["digits", "--set", "split.tree=false"]) == 0
        for name, settings in RUNS.items():
            words = ["digits", "--run", name, "--set", "split.tree=false", *FAST, *settings]
            assert command.run(train.main, words) == 0
            assert command.run(predict.main, words) == 0
        words = ["digits", "--runs", *RUNS, "--run", "both", "--set", "split.tree=false"]
        assert command.run(blend.main, words) == 0
    return folder


@pytest.fixture
def digits(
    template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> Layout:
    subprocess.run(["cp", "-a", f"{template}/.", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "100")
    capsys.readouterr()
    return Layout(tmp_path, "digits")


@pytest.fixture
def out(capsys: pytest.CaptureFixture[str]) -> pytest.CaptureFixture[str]:
    return capsys


def listed(capsys: pytest.CaptureFixture[str], *words: str) -> list[str]:
    assert command.run(runs.main, ["digits", *words]) == 0
    return capsys.readouterr().out.splitlines()


def refused(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert command.run(runs.main, ["digits", *words]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and "Traceback" not in error
    return error


def sent(layout: Layout, run: str, public: str) -> None:
    log = SubmissionLog(layout.submission_log)
    number = len(log.rows) + 1
    log.add(Row("2026-11-01T10:00:00Z", run, f"{run}.csv", str(number), "m", number, COMPLETE, "", public))


def test_all_runs_best_first(digits: Layout, out: pytest.CaptureFixture[str]) -> None:
    sent(digits, "a short one", "0.41000")
    lines = listed(out)
    assert lines[0] == "Runs of digits by accuracy of the validation rows, highest first:"
    assert lines[1].split() == "run recipe and changes accuracy 95% interval public epochs time age".split()
    assert all(len(line) <= 100 for line in lines[:5])
    scores = {
        "long": _score(digits, "long"),
        "a short one": _score(digits, "a short one"),
        "both": read_json(digits.run("both").blend)["score"],
    }
    order = sorted(scores, key=lambda name: (-scores[name], name))
    rows = dict(zip(order, lines[2:5], strict=True))
    for name, line in rows.items():
        assert line.startswith(name) and f"{scores[name]:.4f}" in line
        assert ("best" in line.split()) == (name == order[0]) and ("0.41000" in line) == (name == "a short one")
    assert "sent" in rows["a short one"].split() and "train.epochs=1" in rows["a short one"]
    assert "blend of long, a short" in rows["both"] and "4/4" in rows["long"]
    assert lines[-1].startswith("Next: make ")


def _score(layout: Layout, name: str) -> float:
    (note,) = read_json(layout.run(name).predicted).values()
    return float(note["valid_score"])


def test_narrow_terminals_lose_columns_and_not_scores(
    digits: Layout, out: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    lines = listed(out)
    assert all(len(line) <= 60 for line in lines[1:5])
    assert "accuracy" in lines[1] and "age" not in lines[1] and "interval" not in lines[1]


def test_what_cannot_be_ranked_is_last(digits: Layout, out: pytest.CaptureFixture[str]) -> None:
    record = read_json(digits.run("long").record)
    write_json(digits.run("begun").record, record)
    write_json(digits.run("old").record, record | {"split_sha256": "0" * 64})
    write_json(digits.run("old").trained, read_json(digits.run("long").trained))
    digits.run("odd").record.parent.mkdir()
    digits.run("odd").record.write_text("{")
    digits.submissions.joinpath("log.csv").write_text("what\n")
    lines = listed(out)
    (place,) = [number for number, line in enumerate(lines) if line == "Not ranked:"]
    states = {line[:5].strip(): line[7:].strip() for line in lines[place + 2 : place + 5]}
    assert states["begun"] == "training unfinished" and states["old"] == "trained on another split"
    assert "run.json cannot be read" in states["odd"]
    assert lines[place + 5].startswith("No submission is shown: submissions/digits/log.csv, line 1")


def test_runs_that_are_not_predicted_are_named(digits: Layout, out: pytest.CaptureFixture[str]) -> None:
    for name in RUNS:
        digits.run(name).predicted.unlink()
    assert "Not predicted yet, so the score is that of the best epoch:" in "\n".join(listed(out))


def test_the_next_command(digits: Layout, out: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["rm", "-r", "runs/digits/both"], check=True)
    assert listed(out)[-1] == "Next: make retrain predict COMP=digits RUN=long"
    digits.submission("long").write_text("")
    assert listed(out)[-1] == "Next: make runs COMP=digits RUN=''\"'\"'a short one'\"'\"' long'"
    at_kaggle = ["--set", "competition.source=kaggle"]
    assert listed(out, *at_kaggle)[-1] == "Next: make submit COMP=digits RUN=long SET=competition.source=kaggle"
    sent(digits, "long", "")
    assert listed(out, *at_kaggle)[-1].startswith("Next: make runs COMP=digits")
    subprocess.run(["rm", "-r", "runs/digits/a short one"], check=True)
    assert listed(out)[-1] == "Next: make score COMP=digits RUN=long"
    assert listed(out, *at_kaggle)[-1].startswith("Next: make submissions COMP=digits")


def test_no_runs_at_all(digits: Layout, out: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["rm", "-r", "runs"], check=True)
    assert refused(out) == "error: digits has no runs yet. First: make train COMP=digits\n"


@pytest.mark.parametrize("words", [["a short one", "long"], ["'a short one' long"]])
def test_the_better_run_is_found(digits: Layout, out: pytest.CaptureFixture[str], words: list[str]) -> None:
    lines = listed(out, "--run", *words)
    assert lines[0].split() == "settings that differ a short one long".split()
    assert [line.split() for line in lines[1:3]] == [
        ["train.epochs", "1", "4"],
        ["train.lr", "0.02", lines[2].split()[-1]],
    ]
    oof = {name: pd.read_csv(digits.run(name).oof).set_index("id") for name in RUNS}
    table = pd.read_csv(digits.split_csv, dtype=str)
    labels = table[table["split"] == "valid"].set_index("id")["label"]
    right = {}
    for name, each in oof.items():
        decided = each.filter(like="p_").idxmax(axis=1).str.slice(2)
        right[name] = decided.to_numpy() == labels[each.index.astype(str)].to_numpy()
    short, long = right["a short one"], right["long"]
    assert lines[3] == (
        f"accuracy on the {len(long)} validation rows that both have predicted: a short one {short.mean():.4f}, "
        f"long {long.mean():.4f}"
    )
    assert lines[4].startswith(f"Gain of long over a short one: {long.mean() - short.mean():+.4f} (")
    assert (
        f"Rows right in long alone: {(long & ~short).sum()}; in a short one alone: {(short & ~long).sum()}" in lines[5]
    )
    assert lines[6] == "long is better than a short one."
    assert lines[7] == "Next: make retrain predict COMP=digits RUN=long"


def test_each_run_is_compared_with_the_first(digits: Layout, out: pytest.CaptureFixture[str]) -> None:
    text = "\n".join(listed(out, "--run", "long", "both", "a short one"))
    assert "made of" in text and "blend of long, a short one" in text
    assert "Gain of both over long:" in text and "Gain of a short one over long: -" in text
    assert "long is better than a short one." in text


def test_equal_runs(digits: Layout, out: pytest.CaptureFixture[str]) -> None:
    subprocess.run(["cp", "-r", "runs/digits/long", "runs/digits/twin"], check=True)
    lines = listed(out, "--run", "long twin")
    assert lines[0] == "long and twin have the same settings."
    assert lines[2] == "Gain of twin over long: +0.0000 (0.0000 to 0.0000, n = 259)"
    assert lines[-2:] == ["No clear difference (259 rows).", "Next: make blend COMP=digits RUNS='long twin'"]


def test_groups_are_mentioned(digits: Layout, out: pytest.CaptureFixture[str]) -> None:
    lines = listed(out, "--run", "long", "both", "--set", "split.group_file=groups.csv")
    assert "Note: rows are drawn one by one, not in the groups of the split, so an interval may be too narrow." in lines


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["long"], "RUN= must name two or more runs, each once."),
        (["long long"], "RUN= must name two or more runs, each once."),
        (["long lung"], "runs/digits/ has no run 'lung'. Did you mean 'long'? It has: "),
        (["long ../x"], "runs/digits/ has no run '../x'."),
    ],
)
def test_names_that_cannot_be_compared(
    digits: Layout, out: pytest.CaptureFixture[str], words: list[str], said: str
) -> None:
    assert said in refused(out, "--run", *words)


def test_runs_that_cannot_be_compared(digits: Layout, out: pytest.CaptureFixture[str]) -> None:
    oof, record = digits.run("long").oof, read_json(digits.run("long").record)
    kept = oof.read_text()
    oof.write_text(kept[: len(kept) // 2])
    assert "its stored predictions (oof.csv) are not as predict left them. First: rm" in refused(
        out, "--run", "long both"
    )
    oof.unlink()
    error = refused(out, "--run", "both", "long")
    assert "runs/digits/long cannot be compared: its stored predictions (oof.csv) are missing. First: rm " in error
    assert error.endswith("&& make predict COMP=digits RUN=long\n")
    digits.run("long").predicted.unlink()
    assert refused(out, "--run", "both long").endswith("First: make retrain predict COMP=digits RUN=long\n")
    digits.run("both").oof.unlink()
    assert "First: make blend COMP=digits RUN=both RUNS=" in refused(out, "--run", "both long")
    write_json(digits.run("long").record, record | {"split_sha256": "0" * 64})
    assert "runs/digits/long was trained on another split" in refused(out, "--run", "long", "a short one")
    record["settings"]["competition"]["metric"] = "f1_macro"
    write_json(digits.run("long").record, record)
    assert "competition.metric: 'accuracy' now, 'f1_macro' then" in refused(out, "--run", "long", "a short one")
    digits.run("long").trained.unlink()
    assert "competition.metric" in refused(out, "--run", "long", "a short one")


def test_rows_that_none_shares(digits: Layout, out: pytest.CaptureFixture[str]) -> None:
    for name, rows in (("long", slice(0, 100)), ("a short one", slice(100, None))):
        oof = pd.read_csv(digits.run(name).oof, dtype=str)
        oof[rows].to_csv(digits.run(name).oof, index=False)
        notes = read_json(digits.run(name).predicted)
        digest = file_sha256(digits.run(name).oof)
        write_json(digits.run(name).predicted, {file: note | {"oof": digest} for file, note in notes.items()})
    error = refused(out, "--run", "long", "a short one")
    assert "No labelled row was predicted by both runs (long 100 rows of the folds 0; a short one 159 rows" in error


def test_columns_of_nothing_are_left_out_and_long_changes_are_cut() -> None:
    row = ["name", "", "default " + "x" * 200, "0.9000", "0.8 to 0.9", "-", "-", "1/2", "3 s", "4 d"]
    shown, (cells,) = fitted(HEADINGS, [row], 100)
    assert "public" not in shown and "" not in shown and shown[-1] == "age"
    assert cells[1].endswith("…") and sum(map(len, cells)) + 2 * (len(cells) - 1) <= 100
    assert fitted(HEADINGS, [row], 1)[0] == ["run", "recipe and changes", "score"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(-1, "0 s"), (0, "0 s"), (119, "119 s"), (120, "2 min"), (7300, "2 h"), (3e5, "3 d")]
)
def test_durations(seconds: float, text: str) -> None:
    assert roughly(seconds) == text
