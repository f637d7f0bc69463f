"""The ledger of all runs: best first by the metric's direction; what is damaged or different is said, and no error."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from pipelines.kaggle.submission_log import COMPLETE, Row, SubmissionLog
from pipelines.report.ledger import BLEND, FOLDS, PLAIN, Entry, Ledger, read_ledger, submission_path
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings, to_dict
from pipelines.settings.schema import Settings
from pipelines.system.files import file_sha256, write_json

TOML = """
[data]
labels = "labels.csv"
[train]
epochs = 3
[recipes.big.train]
epochs = 9
"""
LOSS = '[competition]\nmetric = "log_loss"\nsubmission = "probabilities"\n'


class Shelf:
    """A competition without images, and the files of runs in it."""

    def __init__(self, folder: Path, competition: str = "") -> None:
        self.toml = folder / "pets.toml"
        self.toml.write_text(competition + TOML)
        self.layout = Layout(folder, "pets")
        self.layout.data.mkdir(parents=True)
        self.layout.split_csv.write_text("id,path,label,split,fold\n")

    def settings(self, *overrides: str, recipe: str = "default") -> Settings:
        return load_settings(str(self.toml), recipe, overrides)

    def begin(self, name: str, settings: Settings | None = None, **more: Any) -> None:
        record = {"settings": to_dict(settings or self.settings()), "split_sha256": file_sha256(self.layout.split_csv)}
        write_json(self.layout.run(name).record, record | more)

    def train(self, name: str, score: float | None, settings: Settings | None = None, **more: Any) -> None:
        self.begin(name, settings, **more)
        note = {"best_epoch": 2, "epochs": 3, "metric": "accuracy", "score": score, "interval": [0.1, 0.9]}
        note |= {"valid_images": 80, "seconds": 7.0, "features_seconds": 1.5, "hardware": {"device": "a processor"}}
        write_json(self.layout.run(name).trained, note)

    def predict(self, name: str, score: float, file: str = "") -> None:
        note = {"sha256": "0", "valid_score": score, "valid_interval": [score - 0.1, score + 0.1], "valid_images": 90}
        write_json(self.layout.run(name).predicted, {file or f"{name}.csv": note})

    def read(self) -> Ledger:
        return read_ledger(self.layout, self.settings(), str(self.toml))

    def only(self) -> Entry:
        (entry,) = self.read().entries
        return entry


@pytest.fixture
def shelf(tmp_path: Path) -> Shelf:
    return Shelf(tmp_path)


def test_nothing_is_an_empty_ledger(shelf: Shelf) -> None:
    ledger = shelf.read()
    assert ledger.entries == () and ledger.best is None and ledger.entry("default") is None and not ledger.problem


def test_the_score_is_that_of_the_best_epoch_until_it_is_predicted(shelf: Shelf) -> None:
    shelf.train("default", 0.8)
    entry = shelf.only()
    assert (entry.name, entry.kind, entry.state, entry.recipe, entry.differs) == ("default", PLAIN, "", "default", ())
    assert (entry.score, entry.bounds, entry.images, entry.as_predicted) == (0.8, (0.1, 0.9), 80, False)
    assert (entry.best_epoch, entry.epochs, entry.seconds, entry.device) == (2, 3, 8.5, "a processor")
    assert entry.when == pytest.approx(entry.run.trained.stat().st_mtime)
    write_json(entry.run.retrained, {"seconds": 4.0})
    shelf.predict("default", 0.85)
    entry = shelf.only()
    assert (entry.score, entry.images, entry.as_predicted, entry.seconds) == (0.85, 90, True, 12.5)
    assert submission_path(shelf.layout, entry) == shelf.layout.submission("default")


def test_the_submission_with_the_name_of_the_run_comes_before_others(shelf: Shelf) -> None:
    shelf.train("default", 0.8)
    shelf.predict("default", 0.7, "default-abc123.csv")
    assert (shelf.only().file, shelf.only().score) == ("default-abc123.csv", 0.7)
    notes = json.loads(shelf.layout.run("default").predicted.read_text())
    write_json(shelf.layout.run("default").predicted, notes | {"default.csv": notes["default-abc123.csv"]})
    assert shelf.only().file == "default.csv"


@pytest.mark.parametrize(("competition", "names"), [("", ["c", "b", "a"]), (LOSS, ["a", "b", "c"])])
def test_the_best_run_is_first_in_the_direction_of_the_metric(
    tmp_path: Path, competition: str, names: list[str]
) -> None:
    shelf = Shelf(tmp_path, competition)
    for name, score in (("b", 0.5), ("a", 0.25), ("c", 0.75)):
        shelf.train(name, score)
    shelf.train("undefined", None)
    ledger = shelf.read()
    assert [entry.name for entry in ledger.entries] == [*names, "undefined"]
    assert ledger.best is ledger.entries[0] and ledger.higher_is_better is not bool(competition)
    assert not ledger.entries[-1].scored and ledger.goodness(math.nan) == -math.inf


def test_what_differs_from_the_recipe(shelf: Shelf) -> None:
    shelf.train("long", 0.8, shelf.settings("train.epochs=30", "model.widths=[8, 8]"))
    shelf.train("big", 0.7, shelf.settings("train.lr=0.5", recipe="big"))
    long, big = shelf.read().entries
    assert sorted(long.differs) == ["model.widths=[8, 8]", "train.epochs=30"]
    assert (big.recipe, big.differs) == ("big", ("train.lr=0.5",))
    shelf.toml.write_text(TOML.partition("[recipes")[0])
    assert shelf.read().entries[1].differs == ("the recipe big, which is no longer there",)


def test_a_fold_set(shelf: Shelf) -> None:
    members = ["fold-0", "fold-1"]
    shelf.begin("set", members=members)
    assert (shelf.only().kind, shelf.only().state) == (FOLDS, "0 of 2 members trained")
    shelf.train("set/fold-0", 0.6)
    assert shelf.only().state == "1 of 2 members trained"
    shelf.train("set", 0.7, members=members)
    write_json(shelf.layout.run("set").folds, {"scores": [0.6, None]})
    entry = shelf.only()
    assert (entry.state, entry.score, entry.members, entry.as_predicted) == ("", 0.7, tuple(members), True)
    assert entry.folds[0] == 0.6 and math.isnan(entry.folds[1])


def test_a_blend(shelf: Shelf) -> None:
    shelf.begin("both", blend=["a", "b"])
    assert (shelf.only().kind, shelf.only().state) == (BLEND, "not finished")
    write_json(shelf.layout.run("both").blend, {"score": 0.9, "interval": [0.8, None], "rows": 70})
    entry = shelf.only()
    assert (entry.score, entry.images, entry.members, entry.differs) == (0.9, 70, ("a", "b"), ())
    assert entry.bounds[0] == 0.8 and math.isnan(entry.bounds[1])


def test_what_is_not_finished_or_of_another_split_or_metric_is_last_and_says_so(shelf: Shelf) -> None:
    shelf.train("other-metric", 0.99, shelf.settings("competition.metric=f1_macro"))
    shelf.train("other-split", 0.98, split_sha256="0" * 64)
    shelf.begin("running")
    shelf.train("plain", 0.5)
    ledger = shelf.read()
    assert [entry.name for entry in ledger.entries if entry.scored] == ["plain"] and ledger.best is ledger.entries[0]
    states = {entry.name: (entry.state, entry.other_split) for entry in ledger.entries[1:]}
    assert states == {
        "other-metric": ("trained for f1_macro", False),
        "other-split": ("", True),
        "running": ("training unfinished", False),
    }
    shelf.layout.split_csv.unlink()  # then nobody knows
    assert not any(entry.other_split for entry in shelf.read().entries)


@pytest.mark.parametrize("file", ["run.json", "train.json", "retrain.json", "predict.json"])
@pytest.mark.parametrize("content", ["{", "[]", "null", "3", '{"default.csv": 3, "score": {}}', "{}", "\x00"])
def test_a_damaged_file_is_a_line(shelf: Shelf, file: str, content: str) -> None:
    shelf.train("default", 0.8)
    shelf.train("fine", 0.7)
    (shelf.layout.run("default").folder / file).write_text(content)
    ledger = shelf.read()
    assert ledger.entry("fine") and ledger.entry("fine").score == 0.7  # type: ignore[union-attr]
    damaged = ledger.entry("default")
    assert damaged
    if (file, content) == ("predict.json", "{}"):
        assert damaged.scored  # it lists no submission
    else:
        assert "\n" not in damaged.state and damaged.state and not damaged.scored and ledger.entries[-1] is damaged


def test_submissions_belong_to_their_runs(shelf: Shelf) -> None:
    shelf.train("a", 0.8)
    shelf.train("b", 0.7)
    log = SubmissionLog(shelf.layout.submission_log)
    for number, (run, public, private) in enumerate(
        [("a", "0.70", "0.60"), ("a", "0.72", "0.58"), ("b", "0.71", ""), ("gone", "0.9", "")], 1
    ):
        log.add(Row("2026-11-01T10:00:00Z", run, f"{run}.csv", str(number), "m", number, COMPLETE, "", public, private))
    log.add(Row("2026-11-02T10:00:00Z", "b", "b.csv", "9", "m", 0, "not sent"))
    ledger = shelf.read()
    a, b = ledger.entries
    assert [row.ref for row in a.sent] == [1, 2] and [row.ref for row in b.sent] == [3] and len(ledger.log) == 5
    best = ledger.best_sent(a)
    assert best and best.public_score == "0.72"
    assert [ledger.rank(row, "public_score") for row in ledger.log[:4]] == [4, 2, 3, 1]
    assert ledger.rank(best, "private_score") == 2


def test_of_a_loss_the_lowest_submission_is_the_first(tmp_path: Path) -> None:
    shelf = Shelf(tmp_path, LOSS)
    shelf.train("a", 0.8)
    log = SubmissionLog(shelf.layout.submission_log)
    for number, public in enumerate(("0.5", "0.4", ""), 1):
        log.add(Row("2026-11-01T10:00:00Z", "a", "a.csv", str(number), "m", number, COMPLETE, "", public))
    ledger = shelf.read()
    best = ledger.best_sent(ledger.entries[0])
    assert best and best.ref == 2 and ledger.rank(best, "public_score") == 1
    assert ledger.rank(ledger.log[0], "public_score") == 2


@pytest.mark.parametrize("content", ["time,run\nyesterday,a\n", b"\xff\xfe", None])
def test_a_damaged_log_is_a_problem_and_no_error(shelf: Shelf, content: str | bytes | None) -> None:
    shelf.train("a", 0.8)
    if content is None:
        shelf.layout.submission_log.mkdir(parents=True)
    else:
        shelf.layout.submissions.mkdir(parents=True)
        shelf.layout.submission_log.write_bytes(content if isinstance(content, bytes) else content.encode())
    ledger = shelf.read()
    assert ledger.log == () and ledger.entries[0].score == 0.8 and "log.csv" in ledger.problem
