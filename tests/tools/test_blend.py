"""A blend is a run like others: its submission is the members' mean; what cannot be a member is refused."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from benchmarks import blend as benchmark
from pipelines import command, predict, retrain, split, train
from pipelines.core.stored import load_test, read_oof
from pipelines.dataset.splits import read_split_csv
from pipelines.system.files import read_json, write_json
from pipelines.tools import blend, blend_members, reproduce, score
from tests.support.blends import labelled_ids, predicted_run
from tests.support.pictures import png_size
from tests.support.stages import run_stage_here
from tests.support.tiny import LOG_LOSS, Tiny


@pytest.fixture
def divided(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The tiny competition with a split whose half validates."""
    with open(tiny.toml, "a") as file:
        file.write("[split]\nvalid_ratio = 0.5\n")
    monkeypatch.chdir(tiny.layout.root)
    assert command.run(split.main, ["tiny.toml"]) == 0
    return tiny


def blended(*arguments: str) -> int:
    return command.run(blend.main, ["tiny.toml", *arguments])


def two(tiny: Tiny, *settings: str) -> None:
    for name, noise in (("a", 1.0), ("b", 1.5)):
        predicted_run(tiny.layout, tiny.settings(*settings), name, noise)


def test_the_submission_is_the_mean_of_the_members(divided: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    settings = (*LOG_LOSS, "predict.calibrate=false")
    divided.layout.raw.joinpath("sample.csv").write_text(
        "id,blue,green,red\n" + "".join(f"{number},0,0,1\n" for number in range(1, 13))
    )
    assert command.run(split.main, ["tiny.toml", "--set", *settings]) == 2  # another sample than the split's
    Path("data/tiny/split.json").unlink()
    assert command.run(split.main, ["tiny.toml", "--set", *settings]) == 0
    two(divided, *settings)
    capsys.readouterr()
    assert blended("--runs", "a b", "--set", *settings) == 0
    out = capsys.readouterr().out
    run = divided.layout.run("blend-a-b")
    weights = read_json(run.blend)["weights"]
    tests = {name: load_test(divided.layout.run(name).test_predictions, 12, 3) for name in "ab"}
    mean = sum(weights[name] * np.exp(tests[name].astype(np.float64)) for name in "ab")
    (file,) = divided.layout.submissions.glob("blend-a-b-*.csv")
    sent = pd.read_csv(file).set_index("id").loc[[int(name) for name in labelled_ids(divided.layout, "test")]]
    assert sent.to_numpy() == pytest.approx(mean, abs=1e-6)
    assert np.exp(load_test(run.test_predictions, 12, 3)) == pytest.approx(mean, abs=1e-6)
    table = pd.read_csv(run.blend_table)
    assert table.columns.tolist() == ["member", "score", "weight", "score_without"]
    assert table["weight"].tolist() == list(weights.values()) and sum(weights.values()) == pytest.approx(1)
    assert table["score_without"].tolist() == table["score"].tolist()[::-1]  # of two
    assert "member  log_loss  weight  without it" in out and "Correlation" not in out
    assert png_size(run.correlations_picture) and run.mistakes.exists() and run.valid_predictions.exists()
    note = read_json(run.predicted)[file.name]
    assert note["valid_score"] == read_json(run.blend)["score"] and note["rows"] == 12
    stored = read_oof(run.oof, read_split_csv(divided.layout.split_csv), divided.classes, "one_class")
    assert sorted(stored.ids) == sorted(labelled_ids(divided.layout))


def test_real_runs_are_blended_and_reproduced(
    divided: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, seed in (("one", 0), ("two", 1)):
        words = ["tiny.toml", "--run", name, "--set", f"train.seed={seed}", "train.epochs=1"]
        assert command.run(train.main, words) == 0
        assert command.run(predict.main, [*words, "predict.checkpoint=best"]) == 0
    assert blended("--runs", "one two") == 0
    run = divided.layout.run("blend-one-two")
    known = pd.read_csv(run.oof).set_index("id")
    oof = [pd.read_csv(divided.layout.run(name).oof).set_index("id") for name in ("one", "two")]
    weights = list(read_json(run.blend)["weights"].values())
    if read_json(run.blend)["weighted"] is False:
        mean = sum(weight * each for weight, each in zip(weights, oof, strict=True))
        assert known.to_numpy() == pytest.approx(mean.loc[known.index].to_numpy(), abs=1e-6)
    monkeypatch.setattr(command, "run_stage", run_stage_here)
    capsys.readouterr()
    assert command.run(reproduce.main, ["tiny.toml", "--run", "blend-one-two"]) == 0
    out = capsys.readouterr().out
    assert "Stage 2 of 2: blend" in out and out.count("equal") == 2
    assert "blend-one-two.csv, byte for byte, from the stored predictions of its members." in out
    assert "make reproduce COMP=tiny.toml RUN=one; make reproduce COMP=tiny.toml RUN=two" in out
    assert divided.layout.run("one").best.exists() and not run.folder.with_name("blend-one-two-reproduced").exists()
    predicted_run(divided.layout, divided.settings(), "two")
    assert command.run(reproduce.main, ["tiny.toml", "--run", "blend-one-two"]) == 2
    said = capsys.readouterr()
    assert "DIFFERENT" in said.out and "predictions of two" in said.out and "could not be reproduced" in said.err


def test_a_repeated_blend_does_nothing_until_a_member_changes(
    divided: Tiny, capsys: pytest.CaptureFixture[str]
) -> None:
    two(divided)
    assert blended("--runs", "a", "b") == 0
    run = divided.layout.run("blend-a-b")
    before = {path: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    capsys.readouterr()
    assert blended("--runs", "a", "b") == 0
    out = capsys.readouterr().out
    assert "Already blended: submissions/tiny/blend-a-b.csv." in out and "Next: make submit COMP=tiny.toml" in out
    assert before == {path: path.stat().st_mtime_ns for path in run.folder.iterdir()}
    predicted_run(divided.layout, divided.settings(), "b", 0.5)
    assert blended("--runs", "a", "b") == 0
    assert "Predicted again since the blend was made: b. The blend is made again." in capsys.readouterr().out
    run.oof.write_text("id,fold\n")
    assert blended("--runs", "a", "b") == 0
    assert "Already blended" not in capsys.readouterr().out
    assert blended("--runs", "a", "b") == 0
    assert "Already blended" in capsys.readouterr().out


def test_predictions_of_other_views_are_named(divided: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    two(divided)
    run = divided.layout.run("a")
    note = read_json(run.predicted)["a.csv"]
    write_json(run.predicted, {"a-1.csv": note | {"predict": {"mirror": True}}, "a.csv": {"checkpoint": "best.pt"}})
    for _ in range(2):
        assert blended("--runs", "a", "b") == 0
        out = capsys.readouterr().out
        assert "a was predicted last with predict.mirror=true, and the blend takes these predictions." in out
        assert "present settings: make predict COMP=tiny.toml RUN=a\n" in out and "Note: b was" not in out
    assert "Already blended" in out


def test_stages_on_a_blend_name_the_command_that_combines(divided: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    two(divided)
    assert blended("--runs", "a b", "--run", "mix") == 0
    before = (divided.layout.run("mix").record).read_bytes()
    for stage in (train, retrain, predict):
        capsys.readouterr()
        assert command.run(stage.main, ["tiny.toml", "--run", "mix"]) == 2
        error = capsys.readouterr().err
        assert "runs/tiny/mix is a blend of a, b" in error
        assert "make blend COMP=tiny.toml RUN=mix RUNS='a b'" in error
    assert divided.layout.run("mix").record.read_bytes() == before
    truth = pd.DataFrame({"id": range(1, 13), "label": [divided.classes[number % 3] for number in range(1, 13)]})
    truth.to_csv("truth.csv", index=False)
    assert command.run(score.main, ["tiny.toml", "--run", "mix", "--solution", "truth.csv"]) == 0
    out = capsys.readouterr().out
    assert "accuracy on 12" in out and "runs/tiny/mix/mistakes.png" in out


def test_other_numbers_of_rows_use_those_that_all_members_predicted(
    divided: Tiny, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    predicted_run(divided.layout, divided.settings(), "a")
    ids = labelled_ids(divided.layout)
    predicted_run(divided.layout, divided.settings(), "b", ids=[*labelled_ids(divided.layout, "train"), *ids[2:]])
    assert blended("--runs", "a b") == 2
    error = capsys.readouterr().err
    assert "Only 10 labelled rows were predicted by all members" in error and "a 12; b 22" in error
    assert not divided.layout.run("blend-a-b").folder.exists()
    monkeypatch.setattr(blend_members, "LEAST_COMMON", 10)
    assert blended("--runs", "a b") == 0
    assert "come from the 10 labelled rows that no member was trained on" in capsys.readouterr().out
    assert len(pd.read_csv(divided.layout.run("blend-a-b").oof)) == 10


def test_folds_of_other_runs_are_named(divided: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    ids = labelled_ids(divided.layout)
    predicted_run(divided.layout, divided.settings(), "a", ids=ids[:6], folds=[0] * 6)
    predicted_run(divided.layout, divided.settings(), "b", ids=ids[6:], folds=[1] * 6)
    assert blended("--runs", "a b") == 2
    error = capsys.readouterr().err
    assert "Only 0 labelled rows" in error and "folds now: a: 0; b: 1" in error


def spoil(tiny: Tiny, what: str) -> None:
    """Make the run b one that cannot be blended."""
    run = tiny.layout.run("b")
    record = read_json(run.record)
    match what:
        case "unpredicted":
            run.predicted.unlink()
        case "untrained":
            run.predicted.unlink()
            run.trained.unlink()
        case "half":
            write_json(run.record, record | {"members": ["fold-0", "fold-1"]})
        case "older":
            write_json(run.predicted, {"b.csv": {"checkpoint": "best.pt"}})
            run.oof.unlink()
            run.test_predictions.unlink()
        case "changed":
            run.test_predictions.unlink()
        case "split":
            write_json(run.record, record | {"split_sha256": "0" * 64})
        case "metric":
            record["settings"]["competition"]["metric"] = "f1_macro"
            write_json(run.record, record)
        case "blend":
            write_json(run.record, record | {"blend": ["x", "y z"]})


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("unpredicted", "runs/tiny/b has not been predicted. First: make retrain predict COMP=tiny.toml RUN=b"),
        ("untrained", "runs/tiny/b has not finished training. First: make train COMP=tiny.toml RUN=b"),
        (
            "half",
            "The set runs/tiny/b is not finished: 0 of 2 members are trained. First: make folds COMP=tiny.toml RUN=b",
        ),
        ("older", "runs/tiny/b has no stored predictions: it was predicted before predictions were stored"),
        ("changed", "oof.csv and test_predictions.npy are not as predict left them"),
        ("split", "runs/tiny/b was trained on another split than data/tiny/split.csv now holds"),
        ("metric", "runs/tiny/b was trained with other settings (competition.metric: 'accuracy' now, 'f1_macro' then)"),
        ("blend", "runs/tiny/b is a blend. Name its members in its place: RUNS='x '\"'\"'y z'\"'\"''"),
    ],
)
def test_a_run_that_cannot_be_a_member(divided: Tiny, capsys: pytest.CaptureFixture[str], what: str, said: str) -> None:
    two(divided)
    spoil(divided, what)
    capsys.readouterr()
    assert blended("--runs", "a b") == 2
    error = capsys.readouterr().err
    assert said in error and "Traceback" not in error and error.count("error:") == 1
    assert not divided.layout.run("blend-a-b").folder.exists()


def test_all_members_that_cannot_be_are_listed(divided: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    two(divided)
    spoil(divided, "unpredicted")
    assert blended("--runs", "a b beta") == 2
    error = capsys.readouterr().err
    assert "runs/tiny/b has not been predicted" in error
    assert "The run runs/tiny/beta does not exist." in error and "There are: 'a', 'b'." in error


@pytest.mark.parametrize(
    ("runs", "said"),
    [
        ([], "RUNS= names no run. A blend combines two or more. Predicted runs are: 'a', 'b'."),
        (["a"], "RUNS= names one run, 'a', but a blend combines two or more."),
        (
            ["a b a"],
            "RUNS= has 'a' twice. Name each run once, its weight is chosen: make blend COMP=tiny.toml RUNS='a b'",
        ),
        (["a a"], "RUNS= has 'a' twice. Name each run once, its weight is chosen, and another one. Predicted runs are"),
        (["a ../b"], "RUNS= has '../b', which names no run of runs/tiny/."),
    ],
)
def test_names_that_make_no_blend(
    divided: Tiny, capsys: pytest.CaptureFixture[str], runs: list[str], said: str
) -> None:
    two(divided)
    assert blended(*(["--runs", *runs] if runs else [])) == 2
    error = capsys.readouterr().err
    assert said in error
    if not runs:
        assert "For example: make blend COMP=tiny.toml RUNS='a b'" in error


def test_a_blend_replaces_no_other_run(divided: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    two(divided)
    predicted_run(divided.layout, divided.settings(), "c")
    assert blended("--runs", "a b", "--run", "c") == 2
    assert "runs/tiny/c is a run that was trained. Give the new blend another name" in capsys.readouterr().err
    assert blended("--runs", "a b", "--run", "mix") == 0
    assert blended("--runs", "a c", "--run", "mix") == 2
    error = capsys.readouterr().err
    assert "runs/tiny/mix is a blend of a, b." in error and "rm -r runs/tiny/mix" in error


def test_the_benchmark_holds_rows_back(divided: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    two(divided)
    assert command.run(benchmark.main, ["tiny.toml", "--runs", "a", "b", "--repeats", "2"]) == 0
    out = capsys.readouterr().out
    assert "nested estimate of accuracy" in out and "of 2 repeats" in out


def test_names_of_blends() -> None:
    assert blend.default_name(["a", "b"]) == "blend-a-b"
    long = [f"a-long-name-{number}" for number in range(9)]
    name = blend.default_name(long)
    assert len(name) == blend.LONGEST_NAME + 7 and name != blend.default_name([*long, "x"])


def test_ranks_are_averaged_for_the_auc(divided: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    text = divided.toml.read_text()
    divided.toml.write_text('[competition]\nmetric = "auc"\nsubmission = "probability"\npositive = "red"\n' + text)
    labels = pd.read_csv("data/tiny/raw/labels.csv")
    labels["label"] = np.where(labels["label"] == "red", "red", "blue")
    labels.to_csv("data/tiny/raw/labels.csv", index=False)
    Path("data/tiny/raw/sample.csv").write_text("id,red\n" + "".join(f"{number},0.5\n" for number in range(1, 13)))
    assert command.run(split.main, ["tiny.toml"]) == 2
    for path in ("split.json", "split.csv"):
        Path("data/tiny", path).unlink()
    assert command.run(split.main, ["tiny.toml"]) == 0
    two(divided)
    capsys.readouterr()
    assert blended("--runs", "a b") == 0
    assert read_json(divided.layout.run("blend-a-b").blend)["by_rank"] is True
    assert "These are mean ranks from 0 to 1, not probabilities: auc takes their order." in capsys.readouterr().out
    weights = read_json(divided.layout.run("blend-a-b").blend)["weights"]
    mean = np.zeros(12)
    for name, weight in weights.items():
        of_red = load_test(divided.layout.run(name).test_predictions, 12, 2)[:, 1]
        mean += weight * (np.argsort(np.argsort(of_red)) + 1) / 13
    sent = pd.read_csv("submissions/tiny/blend-a-b.csv").set_index("id")
    ids = [int(name) for name in labelled_ids(divided.layout, "test")]
    assert sent.loc[ids, "red"].to_numpy() == pytest.approx(mean, abs=1e-6)
