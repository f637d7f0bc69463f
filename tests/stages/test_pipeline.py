"""All stages end to end, as a person runs them: on the bundled digits, and on a competition added by one TOML."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from pipelines import command, download, predict, retrain, split, train
from pipelines.core import checkpoint
from pipelines.core.calibration import fit_temperature
from pipelines.core.choices import Temperature, cross_fit, decide
from pipelines.core.engine import infer
from pipelines.core.prediction import Resources, open_predictor
from pipelines.core.stored import load_test, read_oof
from pipelines.dataset.image_set import read_images
from pipelines.dataset.splits import read_split_csv
from pipelines.models.device import choose_hardware
from pipelines.settings.layout import Layout
from pipelines.settings.running_sections import HardwareSettings
from pipelines.system.files import file_sha256, only_one, write_json
from pipelines.tools import compare, reproduce, score, sweep
from tests.support.starter import KILLED, REPOSITORY, Ended, Starter
from tests.support.tiny import pretrained

QUICK = ["--set", "train.epochs=2", "hardware.precision=float32"]
STAGES = {"download": download, "split": split, "train": train, "retrain": retrain, "predict": predict, "score": score}

SHAPES_TOML = """
[competition]
metric = "log_loss"
submission = "probabilities"
[data]
labels = "etiketten.csv"
id_column = "bild"
label_column = "farbe"
test_images = "prüfung"
sample_submission = "sample.csv"
[split]
valid_ratio = 0.25
[input]
size = 8
[model]
widths = [8]
[train]
epochs = 3
batch_size = 8
lr = 0.1
[hardware]
precision = "float32"
[recipes.photos]
input = { source = "photos", resize = 9 }
augment = { flip = true, crop_scale = [0.5, 1.0] }
hardware = { workers = 1 }
"""


def run(stage: str, *arguments: str) -> int:
    return command.run(STAGES[stage].main, arguments)


@pytest.fixture
def colours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A competition of coloured squares whose TOML lies outside the project, with ids 1 to 12 in train and test."""
    random = np.random.default_rng(0)
    source = tmp_path / "source"
    colours = {"rot": 0, "grün": 1, "blau, hell": 2}
    with_labels = []
    for folder in ("train", "prüfung"):
        (source / folder).mkdir(parents=True)
        for number in range(1, 13):
            label = list(colours)[number % 3]
            pixels = random.integers(0, 100, (8, 8, 3), dtype=np.uint8)
            pixels[:, :, colours[label]] += 150
            Image.fromarray(pixels).save(source / folder / f"{number}.png")
            if folder == "train":
                with_labels.append((number, label))
    with open(source / "etiketten.csv", "w", newline="", encoding="utf-8-sig") as file:
        csv.writer(file).writerows([("farbe", "bild"), *((label, number) for number, label in with_labels)])
    with open(source / "sample.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("bild", *colours), *((number, 0.4, 0.3, 0.3) for number in range(1, 13))])
    (tmp_path / "colours.toml").write_text(SHAPES_TOML, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def downloaded(colours: Path) -> Path:
    assert run("download", "colours.toml", "--archive", "source") == 0
    return colours


@pytest.fixture
def divided(downloaded: Path) -> Path:
    assert run("split", "colours.toml") == 0
    return downloaded


def test_competition_added_by_one_toml_runs_all_stages(colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = "colours.toml"
    assert run("download", toml, "--archive", "source") == 0
    for stage in ("split", "train", "retrain", "predict"):
        assert run(stage, toml) == 0
    with open(colours / "submissions/colours/default.csv", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["bild", "rot", "grün", "blau, hell"]
    assert [row[0] for row in rows[1:]] == [str(number) for number in range(1, 13)]
    assert all(abs(sum(map(float, row[1:])) - 1) < 1e-6 for row in rows[1:])
    for picture in ("curves.png", "mistakes.png", "confusion.png"):
        with Image.open(colours / "runs/colours/default" / picture) as image:
            assert image.format == "PNG"
    (colours / "truth.csv").write_text(
        "id,label\n" + "".join(f'{n},"{["rot", "grün", "blau, hell"][n % 3]}"\n' for n in range(1, 13)),
        encoding="utf-8",
    )
    assert run("score", toml, "--solution", "truth.csv") == 0
    assert "log_loss on 12 held-back labels: " in capsys.readouterr().out


def test_probabilities_for_a_log_loss_are_calibrated_on_the_valid_rows(
    colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = colours / "source/etiketten.csv"
    with open(labels, newline="", encoding="utf-8-sig") as file:
        header, *rows = csv.reader(file)
    for one, other in ((0, 1), (3, 5), (7, 8)):  # wrong ones, so that being sure does not pay
        rows[one][0], rows[other][0] = rows[other][0], rows[one][0]
    with open(labels, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([header, *rows])
    ratio = ["--set", "split.valid_ratio=0.5"]
    words = ["colours.toml", "--run", "sure", *ratio, "train.epochs=6", "train.lr=0.3"]
    assert run("download", "colours.toml", "--archive", "source") == 0
    assert run("split", "colours.toml", *ratio) == 0
    for stage in ("train", "retrain", "predict"):
        assert run(stage, *words) == 0
    out = capsys.readouterr().out
    assert run("predict", *words, "predict.calibrate=false") == 0
    assert "emperature" not in capsys.readouterr().out

    notes = json.loads((colours / "runs/colours/sure/predict.json").read_text())
    folder = colours / "submissions/colours"
    assert sorted(notes) == sorted(path.name for path in folder.iterdir())
    plain_name = next(name for name in notes if name != "sure.csv")
    ours, plain = notes["sure.csv"], notes[plain_name]
    assert plain["temperature"] == 1
    assert f"Temperature {ours['temperature']:.3f}, fitted on 6 validation images." in out
    assert f"as predicted here, each image with a temperature fitted on the others: {ours['valid_score']:.4f}" in out

    # What best.pt makes of the valid rows, and what they say about the temperature.
    layout = Layout(colours, "colours")
    saved = checkpoint.load(layout.run("sure").best)
    _, valid = read_images(saved.settings, layout, "split").divide(saved.settings)
    predictor = open_predictor(saved, saved.settings, valid, Resources(layout.weights))
    ((_, logs),) = infer(predictor.model, predictor.source, predictor.task, predictor.hardware, predictor.views)
    truth = torch.from_numpy(valid.labels)
    assert ours["temperature"] == pytest.approx(fit_temperature(logs, truth), rel=1e-4)
    assert 0.06 < ours["temperature"] < 19 and abs(ours["temperature"] - 1) > 0.1  # else this shows little
    cross_fitted = decide(Temperature(), cross_fit(Temperature(), logs, valid.labels), logs)
    for note, expected in ((ours, cross_fitted), (plain, logs)):
        assert note["valid_score"] == pytest.approx(F.nll_loss(expected, truth).item(), rel=1e-4)

    calibrated, as_they_came = submitted(folder / "sure.csv"), submitted(folder / plain_name)
    assert np.allclose(calibrated.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(as_they_came.sum(axis=1), 1, atol=1e-6)
    powers = as_they_came.clip(1e-15) ** (1 / ours["temperature"])
    assert np.allclose(calibrated, powers / powers.sum(axis=1, keepdims=True), atol=1e-4)
    assert not np.allclose(calibrated, as_they_came, atol=0.01)


def submitted(path: Path) -> npt.NDArray[np.float64]:
    """The probabilities in a submission."""
    with open(path, encoding="utf-8") as file:
        return np.array([[float(value) for value in row[1:]] for row in list(csv.reader(file))[1:]])


def test_photos_go_through_all_stages(colours: Path) -> None:
    assert run("download", "colours.toml", "--archive", "source") == 0
    assert run("split", "colours.toml") == 0
    for stage in ("train", "retrain", "predict"):
        assert run(stage, "colours.toml", "--recipe", "photos") == 0
    assert (colours / "submissions/colours/photos.csv").exists()
    kept = sorted(path.name for path in (colours / "data/colours/cache").iterdir())
    assert set(kept) == CHECKED  # and no decoded images


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The working folder after all stages on the digits, two epochs."""
    folder = tmp_path_factory.mktemp("digits")
    before = Path.cwd()
    os.chdir(folder)
    try:
        for stage in ("download", "split", "train", "retrain", "predict"):
            assert run(stage, "digits", *QUICK) == 0
    finally:
        os.chdir(before)
    return folder


@pytest.fixture
def copied(digits: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working folder of one's own, with all stages done."""
    subprocess.run(["cp", "-a", f"{digits}/.", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def only_run(folder: Path) -> Path:
    (found,) = (path for path in (folder / "runs" / "digits").iterdir() if path.is_dir())
    return found


def test_every_file_of_a_run_is_there(digits: Path) -> None:
    run_folder = only_run(digits)
    assert sorted(path.name for path in run_folder.iterdir()) == (
        "best.pt confusion.png curves.png final.pt history.csv last.pt mistakes.png oof.csv "
        "predict.json retrain.json retrain_history.csv run.json test_predictions.npy train.json "
        "valid_predictions.csv".split()
    )
    with open(run_folder / "history.csv") as file:
        history = list(csv.DictReader(file))
    assert [row["epoch"] for row in history] == ["1", "2"]
    note = json.loads((run_folder / "train.json").read_text())
    assert note["score"] == max(float(row["accuracy"]) for row in history)
    predicted = json.loads((run_folder / "predict.json").read_text())
    entry = predicted[f"{run_folder.name}.csv"]
    assert entry["temperature"] == 1  # which accuracy does not depend on
    assert entry["oof"] == file_sha256(run_folder / "oof.csv") and "oof_made_from" not in entry


def test_the_stored_predictions_are_those_that_were_sent(digits: Path) -> None:
    layout, run_folder = Layout(digits, "digits"), only_run(digits)
    table = read_split_csv(layout.split_csv)
    classes = sorted(table["label"].unique().tolist())[1:]  # without the empty one of test rows
    test = table[table["split"] == "test"]
    answers = np.array(classes)[load_test(run_folder / "test_predictions.npy", len(test), len(classes)).argmax(axis=1)]
    with open(layout.submission(run_folder.name), encoding="utf-8") as file:
        sent = {row[0]: row[1] for row in csv.reader(file)}
    assert {name: str(answer) for name, answer in zip(test["id"], answers, strict=True)}.items() <= sent.items()
    stored = read_oof(run_folder / "oof.csv", table, classes, "one_class")
    valid = table[table["split"] == "valid"]
    assert stored.ids.tolist() == valid["id"].tolist() and set(stored.folds) == {0}
    with open(run_folder / "valid_predictions.csv", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    best = stored.predictions.argmax(dim=1).tolist()
    assert [row["predicted"] for row in rows] == [classes[place] for place in best]
    shares = stored.predictions.exp().amax(dim=1)
    assert torch.allclose(shares, torch.tensor([float(row["p_predicted"]) for row in rows]), atol=1e-6)


@pytest.mark.parametrize("stage", ["download", "split", "train", "retrain", "predict"])
def test_second_call_says_that_it_is_done_and_how_to_do_it_again(
    stage: str, digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(digits)
    before = {path: path.stat().st_mtime_ns for path in digits.rglob("*") if path.is_file()}
    assert run(stage, "digits", *QUICK) == 0
    out = capsys.readouterr().out
    assert "already" in out.lower()
    assert "To do it again: rm" in out
    assert {path: path.stat().st_mtime_ns for path in digits.rglob("*") if path.is_file()} == before


def test_training_rows_are_never_test_labels(digits: Path) -> None:
    """The held-back labels lie outside what download hands on, and no stage but score opens them."""
    assert (digits / "data/digits/held_back/labels.csv").exists()
    assert not list((digits / "data/digits/raw").rglob("*held*"))
    readers = [
        path.name
        for path in (REPOSITORY / "pipelines").rglob("*.py")
        if "held_back" in path.read_text(encoding="utf-8")
    ]
    assert sorted(readers) == ["digits.py", "download.py", "layout.py", "obtaining.py", "score.py"]


def test_predict_with_the_validated_weights_gets_a_file_of_its_own(
    digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(digits)
    name = only_run(digits).name
    assert run("predict", "digits", "--run", name, "--set", "predict.checkpoint=best", "predict.shift=1") == 0
    assert "Submission by best.pt" in capsys.readouterr().out
    assert len(list((digits / "submissions/digits").glob(f"{name}-*.csv"))) == 1


@pytest.mark.parametrize(
    ("stage", "missing"),
    [("split", "download"), ("train", "split"), ("retrain", "train"), ("predict", "train"), ("score", "predict")],
)
def test_stage_that_misses_its_input_names_the_target_that_makes_it(
    stage: str, missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(stage, "digits") == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert f"make {missing} COMP=digits" in error
    assert not list(tmp_path.iterdir())


def test_run_does_not_go_on_with_other_settings(
    digits: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(digits)
    assert run("train", "digits", "--run", only_run(digits).name, "--set", "train.epochs=3") == 2
    assert "train.epochs: 3 now, 2 then" in capsys.readouterr().err


def test_run_does_not_go_on_with_another_split(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run("split", "digits", "--set", "split.seed=1") == 2
    assert "split.seed: 1 now, 0 then" in capsys.readouterr().err
    split_csv = copied / "data/digits/split.csv"
    split_csv.write_text(split_csv.read_text().replace(",train,", ",valid,", 1))
    assert run("train", "digits", *QUICK) == 2
    assert "was changed after it was made" in capsys.readouterr().err
    for stage in ("retrain", "predict"):
        assert run(stage, "digits", *QUICK) == 2
        assert "was trained on another split" in capsys.readouterr().err


def test_train_refuses_a_split_that_its_settings_do_not_ask_for(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("train", "digits", "--set", "split.seed=1") == 2
    assert "split.seed: 1 now, 0 then" in capsys.readouterr().err
    only_run(copied)


def test_split_and_train_notice_other_data(copied: Path, capsys: pytest.CaptureFixture[str]) -> None:
    labels = copied / "data/digits/raw/labels.csv"
    labels.write_text(labels.read_text().replace("\n1,", "\n1,9", 1))
    for stage in ("split", "train"):
        assert run(stage, "digits", *QUICK) == 2
        assert "labels.csv has changed" in capsys.readouterr().err


def test_predict_again_after_other_views_or_other_weights(divided: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for stage in ("train", "retrain", "predict"):
        assert run(stage, "colours.toml") == 0
    run_files = Layout(divided, "colours").run("default")
    before = json.loads(run_files.predicted.read_text())["default.csv"]
    write_json(run_files.predicted, {"default.csv": before | {"predict": before["predict"] | {"mirror": True}}})
    capsys.readouterr()
    assert run("predict", "colours.toml") == 0  # the TOML may have been edited since
    assert "Submission by final.pt" in capsys.readouterr().out
    os.replace(run_files.best, run_files.final)
    os.link(run_files.final, run_files.best)
    assert run("predict", "colours.toml") == 0
    assert "Submission by final.pt" in capsys.readouterr().out


def test_removed_final_weights_are_made_again_from_the_first_epoch(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    final = only_run(copied) / "final.pt"
    before = torch.load(final, weights_only=True)["weights"]
    final.unlink()
    assert run("predict", "digits", *QUICK) == 2
    assert "First: make retrain COMP=digits" in capsys.readouterr().err
    assert run("retrain", "digits", *QUICK) == 0
    after = torch.load(final, weights_only=True)["weights"]
    assert all(torch.equal(after[key], before[key]) for key in before)


def test_full_disk_while_saving_a_checkpoint_is_an_os_error() -> None:
    """torch.save to a path would turn it into a RuntimeError, which is taken for a mistake of ours."""
    with pytest.raises(OSError) as error, open("/dev/full", "wb") as file:
        torch.save({"weights": torch.zeros(1_000_000)}, file)
    assert error.value.errno == errno.ENOSPC


def test_competition_without_test_images_trains_and_says_so_at_predict(
    colours: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    toml = colours / "colours.toml"
    text = toml.read_text(encoding="utf-8").replace('sample_submission = "sample.csv"\n', "")
    toml.write_text(text.replace('test_images = "prüfung"', 'test_images = ""'), encoding="utf-8")
    for stage, *words in (["download", "--archive", "source"], ["split"], ["train"], ["retrain"]):
        assert run(stage, "colours.toml", *words) == 0
    assert "No test images" in capsys.readouterr().out
    assert run("predict", "colours.toml") == 2
    assert "has no test rows" in capsys.readouterr().err


def test_submission_of_the_wrong_form_stops_before_the_split(colours: Path, capsys: pytest.CaptureFixture[str]) -> None:
    toml = colours / "colours.toml"
    text = toml.read_text(encoding="utf-8").replace('"probabilities"', '"labels"').replace("log_loss", "accuracy")
    toml.write_text(text, encoding="utf-8")
    assert run("download", "colours.toml", "--archive", "source") == 0
    assert run("split", "colours.toml") == 2
    assert 'submission = "probabilities"' in capsys.readouterr().err
    assert not (colours / "data/colours/split.csv").exists()


CHECKED = {f"{part}-{what}" for part in ("labelled", "test") for what in ("decodable.npy", "fingerprints.npz")}


@pytest.mark.parametrize(("recipe", "kept"), [("default", set()), ("photos", CHECKED)])
def test_unreadable_image_stops_before_the_first_epoch(
    colours: Path, recipe: str, kept: set[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("download", "colours.toml", "--archive", "source") == 0
    assert run("split", "colours.toml") == 0
    (colours / "data/colours/raw/train/7.png").unlink()  # the folder's own link, so that the source stays whole
    (colours / "data/colours/raw/train/7.png").write_bytes(b"no picture")
    assert run("train", "colours.toml", "--recipe", recipe) == 2
    error = capsys.readouterr().err
    assert "raw/train/7.png (id '7', " in error
    left = {path.name for path in (colours / "data/colours/cache").iterdir()}
    assert {name for name in left if not name.startswith("test-8px")} <= kept  # the packed test images were good
    assert not (colours / f"runs/colours/{recipe}/last.pt").exists()


@pytest.mark.slow  # test_kills.py does the same with fewer images
def test_killed_training_and_retraining_go_on_and_end_with_the_same_weights(
    digits: Path, starter: Starter, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    # Small batches and a low rate: epochs that last long enough to be killed in, and a best one that is not the first.
    overrides = ["train.epochs=8", "train.batch_size=8", "train.lr=0.002", "train.ema_decay=0.9"]
    words = ["digits", "--run", "killed", "--set", *overrides, "hardware.precision=float32"]
    calm, stormy = tmp_path / "calm", tmp_path / "stormy"
    for folder in (calm, stormy):
        folder.mkdir()
        subprocess.run(["cp", "-a", f"{digits}/data", str(folder)], check=True)
    monkeypatch.chdir(calm)
    for stage in ("train", "retrain", "predict"):
        assert run(stage, *words) == 0
    capsys.readouterr()

    monkeypatch.chdir(stormy)
    run_folder = stormy / "runs/digits/killed"
    for stage, state in (("train", "last.pt"), ("retrain", "retrain_last.pt")):
        process = starter.start(stormy, stage, *words)
        process.wait_for(run_folder / state)
        assert process.end(number=signal.SIGKILL).status == KILLED
        assert not (run_folder / f"{stage}.json").exists()
        assert run(stage, *words) == 0
        assert "Continuing after epoch" in capsys.readouterr().out
    assert run("predict", *words) == 0

    for name in ("best.pt", "final.pt"):
        ours, theirs = (torch.load(f / "runs/digits/killed" / name, weights_only=True) for f in (stormy, calm))
        assert ours["epoch"] == theirs["epoch"] > 1
        for key, tensor in theirs["weights"].items():
            assert torch.equal(ours["weights"][key], tensor), f"{name}: {key}"
    submission = "submissions/digits/killed.csv"
    assert (stormy / submission).read_bytes() == (calm / submission).read_bytes()


@pytest.mark.parametrize("stage", [stage.__name__ for stage in (*STAGES.values(), sweep, compare, reproduce)])
def test_help_names_files_and_settings_without_importing_torch(stage: str) -> None:
    code = f"""
import sys
from {stage} import main
try:
    main(["--help"])
finally:
    assert not {{"torch", "pandas", "numpy", "sklearn"}} & set(sys.modules), sorted(sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=REPOSITORY, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Reads" in done.stdout and "Writes" in done.stdout and "label_smoothing" in done.stdout


@pytest.mark.parametrize(
    ("stage", "heavy"),
    [
        ("split", ["torch", "pandas", "numpy"]),
        ("train", ["torch", "sklearn", "matplotlib"]),  # it reads split.csv
        ("retrain", ["torch", "pandas", "numpy"]),
        ("predict", ["torch", "pandas", "numpy"]),
    ],
)
def test_finished_stage_says_so_without_importing_what_only_work_needs(
    stage: str, heavy: list[str], digits: Path
) -> None:
    code = f"""
import sys
from pipelines import {stage}
{stage}.main({["digits", *QUICK]})
assert not set({heavy}) & set(sys.modules), sorted(sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], cwd=digits, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "already" in done.stdout.lower()


@pytest.mark.skipif(torch.cuda.is_available(), reason="precisions are only tried on a processor")
def test_retraining_computes_in_the_precision_that_training_settled(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["digits", "--run", "settled", "--set", "train.epochs=1"]
    assert run("train", *words) == 0
    hardware = choose_hardware(HardwareSettings())
    other = "float32" if hardware.dtype == torch.bfloat16 else "bfloat16"
    speeds = {"float32": 100.0, "bfloat16": 100.0}
    note = {"precision": other, "device": hardware.record()["device"], "images_per_second": speeds}
    write_json(Layout(copied, "digits").run("settled").precision, note)
    capsys.readouterr()
    assert run("retrain", *words) == 0
    assert f", {other} (1.0 times as fast as " in capsys.readouterr().out


def test_finished_training_with_weights_needs_neither_torch_nor_their_file(
    divided: Path, small_weights: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = Path("weights.pth")
    weights.write_bytes(small_weights.read_bytes())
    words = [
        "colours.toml",
        "--run",
        "tuned",
        "--set",
        "train.epochs=1",
        *pretrained(weights),
        "finetune.frozen_stages=-1",
    ]
    assert run("train", *words) == 0
    weights.unlink()
    code = f"""
import sys
from pipelines import train
train.main({words})
assert not {{"torch", "torchvision"}} & set(sys.modules), sorted(sys.modules)
"""
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "Already trained" in done.stdout
    assert run("train", *words, f"model.weights_sha256={file_sha256(small_weights).upper()}") == 0
    capsys.readouterr()
    assert run("train", *words, f"model.weights_sha256={'0' * 64}") == 2
    assert "model.weights_sha256" in capsys.readouterr().err
    assert run("train", *words, "input.mean=[0.4, 0.5, 0.5]") == 2
    assert "input.mean" in capsys.readouterr().err


STOPPED = {signal.SIGINT: "Interrupted", signal.SIGTERM: "Stopped by SIGTERM"}


@pytest.mark.parametrize(("number", "words"), STOPPED.items())
def test_stopping_is_one_line_and_a_status(divided: Path, starter: Starter, number: signal.Signals, words: str) -> None:
    process = starter.start(divided, "train", "colours.toml", "--run", "long", "--set", "train.epochs=100000")
    process.wait_for(divided / "runs/colours/long/last.pt")
    ended = process.end(number=number)
    assert (ended.status, ended.err) == (128 + number, f"\n{words}. Run the same command again to continue.\n")
    assert not list(divided.glob("runs/colours/long/.*"))


# Read by Python when it starts: a signal comes when a certain module is about to be imported.
STOP_AT_IMPORT = """
import os, sys
def stop(event, arguments):
    if event == "import" and arguments[0] == os.environ["STOP_AT"]:
        os.kill(os.getpid(), int(os.environ["STOP_BY"]))
sys.addaudithook(stop)
"""


@pytest.mark.parametrize(
    ("module", "number"),
    [("shlex", signal.SIGINT), *((name, number) for name in ("pandas", "torch") for number in STOPPED)],
)
def test_stopping_while_modules_are_imported_leaves_no_traceback(
    module: str, number: signal.Signals, divided: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (divided / "sitecustomize.py").write_text(STOP_AT_IMPORT)
    for name, value in (("STOP_AT", module), ("STOP_BY", str(int(number)))):
        monkeypatch.setenv(name, value)
    program = [sys.executable, "-m", "pipelines.train", "colours.toml"]
    path = {"PYTHONPATH": f"{REPOSITORY}{os.pathsep}{divided}"}
    done = subprocess.run(program, env=os.environ | path, capture_output=True, text=True)
    if module == "shlex":  # among the first, when nothing can be said yet
        assert (done.returncode, done.stderr) == (-number, "")
    else:
        said = f"\n{STOPPED[number]}. Run the same command again to continue.\n"
        assert (done.returncode, done.stderr) == (128 + number, said)


@pytest.mark.parametrize("recipe", ["default", "photos"])
def test_only_one_process_trains_a_run_and_the_lock_of_a_killed_one_is_free_at_once(
    divided: Path, recipe: str, starter: Starter, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The lock is free even where loader workers of the killed process live a moment longer."""
    words = ["colours.toml", "--recipe", recipe, "--run", "killed", "--set", "train.epochs=100000"]
    run_files = Layout(divided, "colours").run("killed")
    process = starter.start(divided, "train", *words)
    process.wait_for(run_files.last)
    monkeypatch.setattr(command, "only_one", partial(only_one, patience=0))
    capsys.readouterr()
    assert run("train", *words) == 2
    assert capsys.readouterr().err == (
        "error: Another process is training, retraining or predicting colours.toml, run killed. Wait until it has "
        "ended, or stop it.\n"
    )
    assert process.end(number=signal.SIGKILL).status == KILLED
    with only_one(run_files.lock, "training", patience=0, inherited=False):
        assert not run_files.trained.exists()


def one_error(ended: Ended) -> str:
    assert ended.status == 2, ended.err
    assert ended.err.startswith("error: ") and ended.err.count("\n") == 1, ended.err
    return ended.err


def test_run_whose_folder_vanishes_ends_in_one_message(divided: Path, starter: Starter) -> None:
    process = starter.start(divided, "train", "colours.toml", "--run", "lost", "--set", "train.epochs=100000")
    folder = divided / "runs/colours/lost"
    process.wait_for(folder / "last.pt")
    os.replace(divided / "runs", divided / "elsewhere")
    one_error(process.end())
    assert not folder.exists()


@pytest.mark.parametrize("stage", ["split", "train"])
def test_read_only_folder_ends_in_one_message(stage: str, downloaded: Path, starter: Starter) -> None:
    if stage == "train":
        assert run("split", "colours.toml") == 0
    starter.mount("mount --bind . .; mount -o remount,bind,ro $PWD", downloaded)
    assert "No permission at " in one_error(starter.run(downloaded, stage, "colours.toml"))
    assert run(stage, "colours.toml") == 0


@pytest.mark.parametrize(
    ("stage", "folder", "room"),
    [
        ("split", "data/colours", 0),
        ("train", "data/colours/cache", 4),
        ("train", "runs/colours", 8),
        ("train", "runs/colours", 48),
        ("retrain", "runs/colours", 4),
        ("predict", "submissions", 0),
    ],
)
def test_full_disk_ends_in_one_message_and_leaves_nothing_that_looks_whole(
    stage: str, folder: str, room: int, downloaded: Path, starter: Starter
) -> None:
    """The folder is moved to a disk of its own that has only `room` kB more than its files take."""
    stages = ["split", "train", "retrain", "predict"]
    for before in stages[: stages.index(stage)]:
        assert run(before, "colours.toml") == 0
    (downloaded / folder).mkdir(parents=True, exist_ok=True)
    script = f"""
cp -a {folder} kept
mount -t tmpfs -o size=64m tmpfs {folder}
cp -a kept/. {folder}/
echo so that it is not empty >{folder}/.filler
used=$(df --output=used -k {folder} | tail -1)
mount -o remount,size=$((used + {room}))k {folder}
"""
    starter.mount(script, downloaded)
    ended = starter.run(downloaded, stage, "colours.toml")
    assert ended.status == 2, ended.err
    assert ended.err.startswith("error: The disk is full") and "Traceback" not in ended.err, ended.err
    assert not starter.mount(f"find {folder} -name '*.partial'; mount -o remount,size=64m {folder}", downloaded)
    ended = starter.run(downloaded, stage, "colours.toml")
    assert ended.status == 0, ended.err


def test_vanished_mount_ends_in_one_message(divided: Path, starter: Starter) -> None:
    starter.mount("mkdir runs; mount -t tmpfs tmpfs runs", divided)
    process = starter.start(divided, "train", "colours.toml", "--set", "train.epochs=100000")
    starter.mount(
        "timeout 60 sh -c 'while [ ! -e runs/colours/*/last.pt ]; do sleep 0.02; done'; umount -l runs", divided
    )
    assert "no longer there" in one_error(process.end())
    assert not list((divided / "runs").iterdir())
