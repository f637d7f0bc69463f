"""`train.search` through the stages: the choice is made once, recorded, and used by all that follows."""

import json
import shutil
from pathlib import Path

import pandas as pd
import pytest
import torch

from pipelines import command, predict, retrain, split, train
from pipelines.core import job as jobs
from pipelines.settings.layout import RunLayout
from tests.support.tiny import Tiny, pretrained

SEARCH = (
    *("finetune.frozen_stages=-1", "model.features=stages", "train.optimizer=lbfgs", "train.lr=1", "train.epochs=1"),
    "train.search=true",
)
STAGES = {"split": split, "train": train, "retrain": retrain, "predict": predict}


@pytest.fixture
def words(tiny: Tiny, small_weights: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    monkeypatch.chdir(tiny.layout.root)
    words = (*pretrained(small_weights), *SEARCH)
    assert run("split", *words) == 0
    return words


def run(stage: str, *settings: str, name: str = "done") -> int:
    return command.run(STAGES[stage].main, ["tiny.toml", "--run", name, "--set", *settings])


def record(files: RunLayout) -> dict[str, dict[str, object]]:
    settings: dict[str, dict[str, object]] = json.loads(files.record.read_text())["settings"]
    return settings


def test_the_choice_is_recorded_and_all_stages_use_it(
    tiny: Tiny, words: tuple[str, ...], capsys: pytest.CaptureFixture[str]
) -> None:
    assert [run(stage, *words) for stage in ("train", "retrain", "predict")] == [0, 0, 0]
    files, printed = tiny.layout.run("done"), capsys.readouterr().out
    rows = pd.read_csv(files.search)
    assert list(rows) == ["features.mirror", "train.weight_decay", "valid_loss", "accuracy", "seconds"]
    assert "slightly too good, because they chose" in printed
    chosen = record(files)
    assert chosen["train"]["search"] is False
    weight_decay, mirror = chosen["train"]["weight_decay"], chosen["features"]["mirror"]
    (mine,) = [
        row
        for row in rows.to_dict("records")
        if row["train.weight_decay"] == weight_decay and row["features.mirror"] == mirror
    ]
    history = pd.read_csv(files.history)
    assert history["valid_loss"].tolist() == pytest.approx([mine["valid_loss"]], abs=2e-3)
    for path in (files.best, files.final):
        saved = torch.load(path, weights_only=True)
        assert {key: saved["settings"]["train"][key] for key in ("search", "weight_decay")} == {
            key: chosen["train"][key] for key in ("search", "weight_decay")
        }
    assert tiny.layout.submission("done").exists()

    # The same again: nothing is searched a second time, and a new run chooses the same.
    assert run("train", *words) == 0
    assert "Already trained" in capsys.readouterr().out
    assert run("train", *words, name="again") == 0
    again = tiny.layout.run("again")
    assert record(again) == chosen
    assert pd.read_csv(again.history)["valid_loss"].tolist() == history["valid_loss"].tolist()


def test_a_killed_run_continues_with_its_choice(
    tiny: Tiny, words: tuple[str, ...], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Killed(BaseException):
        """In place of a signal."""

    def killed(*arguments: object) -> None:
        raise Killed

    words = (*words, "train.epochs=2")
    files = tiny.layout.run("done")
    # Between the choice and the first epoch: it begins again, and chooses the same.
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "run_job", killed)
        with pytest.raises(Killed):
            run("train", *words)
    first = record(files)
    assert files.search.exists() and not files.last.exists()
    assert first["train"]["search"] is False
    # After the first epoch: it keeps the choice.
    with monkeypatch.context() as patch:
        patch.setattr(jobs, "write_history", killed_after(jobs.write_history, 2, Killed))
        with pytest.raises(Killed):
            run("train", *words)
    assert files.last.exists() and not files.trained.exists()
    assert record(files) == first
    tried = files.search.read_bytes()
    assert run("train", *words) == 0
    assert files.search.read_bytes() == tried
    assert record(files) == first
    capsys.readouterr()
    # Without the choice's file the run is one of other settings.
    files.trained.unlink()
    files.search.unlink()
    assert run("train", *words) == 2
    assert "train.search" in capsys.readouterr().err


def killed_after(function, calls: int, error: type[BaseException]):  # type: ignore[no-untyped-def]
    """Return `function`, whose call number `calls` raises `error` when it is done: 1 writes search.csv."""
    done = []

    def called(*arguments: object) -> None:
        function(*arguments)
        done.append(1)
        if len(done) == calls:
            raise error

    return called


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (("train.optimizer=adamw",), "train.search is true, but train.optimizer is adamw"),
        (("model.hidden=[8]",), "set model.hidden = []"),
        (("finetune.frozen_stages=1", "features.cached=false"), "finetune.frozen_stages = -1, features.cached = true"),
        (("model.features=both",), 'model.features = "stages" or "pooled"'),
    ],
)
def test_what_cannot_be_solved_for_is_refused(
    words: tuple[str, ...], capsys: pytest.CaptureFixture[str], more: tuple[str, ...], message: str
) -> None:
    assert run("train", *words, *more) == 2
    assert message in capsys.readouterr().err


def test_features_of_other_stages_are_other_features(tiny: Tiny, words: tuple[str, ...]) -> None:
    assert run("train", *words) == 0
    folders = sorted((tiny.layout.cache / "features").iterdir())
    assert run("train", *words, "model.features=pooled", name="pooled") == 0
    assert len(list((tiny.layout.cache / "features").iterdir())) == len(folders) + 1
    shutil.rmtree(tiny.layout.cache)
