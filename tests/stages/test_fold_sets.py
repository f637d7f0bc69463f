"""The stage predict for fold sets: what is averaged, what is scored and fitted out of fold, and what is refused."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
import pytest
import torch
from scipy.stats import rankdata
from sklearn.metrics import log_loss, roc_auc_score

from pipelines import command, predict, retrain
from pipelines.core import stored as stored_module
from pipelines.core.calibration import apply_temperature, fit_temperature
from pipelines.core.ensembles import ranks
from pipelines.core.prediction import Resources
from pipelines.core.prediction import predict as predict_one
from pipelines.core.stored import load_test, read_oof
from pipelines.dataset.image_set import read_images
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from pipelines.system.files import file_sha256
from pipelines.tools import audit, doctor, folds, reproduce
from tests.support.fold_sets import LABELLED, TEST, make_set, toml_of, trained_here, write_data
from tests.support.stages import run_stage_here

CLASSES = ["cat", "dog", "owl"]
LOSS = 'metric = "log_loss"\nsubmission = "probabilities"'
AUC = 'metric = "auc"\nsubmission = "probability"\npositive = "1"'
Floats = npt.NDArray[np.float64]


@pytest.fixture(scope="module")
def template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a competition of three classes with a finished set of two folds, retrained."""
    folder = tmp_path_factory.mktemp("pets")
    layout = toml_of(folder, "pets", LOSS)
    write_data(layout, CLASSES, CLASSES, ["0.4", "0.3", "0.3"])
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        make_set(layout, monkeypatch)
        assert command.run(retrain.main, ["pets.toml"]) == 0
    return folder


@pytest.fixture
def pets(template: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Layout:
    subprocess.run(["cp", "-a", f"{template}/.", str(tmp_path)], check=True)
    monkeypatch.chdir(tmp_path)
    capsys.readouterr()
    return Layout(tmp_path, "pets")


def predicted(layout: Layout, *settings: str) -> int:
    return command.run(predict.main, [f"{layout.competition}.toml", *(["--set", *settings] if settings else [])])


def note_of(layout: Layout) -> dict[str, Any]:
    """The last entry of predict.json."""
    return list(json.loads(layout.run("default").predicted.read_text()).values())[-1]


def by(layout: Layout, checkpoint: str, part: str = "test", **more: Any) -> Floats:
    """What one checkpoint of the set predicts, in probabilities of classes."""
    path = layout.run("default").folder / checkpoint
    settings = load_settings(f"{layout.competition}.toml", overrides=[f"{key}={value}" for key, value in more.items()])
    images = read_images(settings, layout, "split")
    images = images.part(test=True) if part == "test" else images.divide(settings)[1]
    found = np.empty((len(images), len(images.classes)), np.float32)
    for places, block in predict_one(path, settings, images, Resources(layout.weights), ""):
        found[places] = block
    return np.exp(found.astype(np.float64))


def sent(layout: Layout, name: str = "default") -> pd.DataFrame:
    return pd.read_csv(layout.submission(name)).set_index("id")


def test_the_folds_are_averaged_and_the_temperature_is_fitted_out_of_fold(
    pets: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pets.run("default")
    assert predicted(pets) == 0
    out, note = capsys.readouterr().out, note_of(pets)
    table = read_split_csv(pets.split_csv)
    mean = (by(pets, "fold-0/best.pt") + by(pets, "fold-1/best.pt")) / 2
    kept = load_test(run.test_predictions, TEST, 3)
    assert np.allclose(np.exp(kept), mean, atol=1e-6)

    oof = read_oof(run.oof, table, CLASSES, "one_class")
    labelled = table[table["split"] != "test"]
    assert oof.ids.tolist() == labelled["id"].tolist() and oof.folds.tolist() == labelled["fold"].tolist()
    for fold in (0, 1):
        own = by(pets, f"fold-{fold}/best.pt", "valid", **{"train.fold": fold})
        assert np.allclose(oof.predictions[oof.folds == fold].exp(), own, atol=1e-6)
    truth = np.array(labelled["label"].map(CLASSES.index))
    assert note["temperature"] == pytest.approx(fit_temperature(oof.predictions, torch.from_numpy(truth)), rel=1e-4)
    expected = apply_temperature(torch.from_numpy(np.array(kept)), note["temperature"]).exp().numpy()
    ids = table.loc[table["split"] == "test", "id"]
    assert np.allclose(sent(pets).loc[ids, CLASSES], expected, atol=1e-6)

    rows = pd.read_csv(run.valid_predictions)
    assert rows["id"].tolist() == labelled["id"].tolist() and note["valid_images"] == LABELLED
    assert abs(note["valid_score"] - log_loss(truth, oof.predictions.exp().numpy())) < 0.3  # of another temperature
    assert note["oof"] == file_sha256(run.oof) and note["test_predictions"] == file_sha256(run.test_predictions)
    assert (note["checkpoint"], list(note["weights"])) == ("folds", ["fold-0/best.pt", "fold-1/best.pt"])
    assert f"fitted on {LABELLED} validation images." in out
    assert "fold-0, fold-1, each on its own fold, out-of-fold log_loss as predicted here" in out
    assert "Submission by the mean probabilities of fold-0/best.pt, fold-1/best.pt: submissions/pets/default.csv" in out
    assert "rows again" not in out  # oof.csv is that of the tool folds
    assert predicted(pets) == 0
    assert "Already predicted: submissions/pets/default.csv." in capsys.readouterr().out


@pytest.mark.parametrize(("members", "names"), [("final", ["final.pt"]), ("both", ["fold-0/best.pt", "final.pt"])])
def test_the_final_network_alone_or_with_the_folds(
    members: str, names: list[str], pets: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predicted(pets, f"predict.members={members}") == 0
    out = capsys.readouterr().out
    parts = ["final.pt"] if members == "final" else ["fold-0/best.pt", "fold-1/best.pt", "final.pt"]
    mean = sum(by(pets, name) for name in parts) / len(parts)
    assert np.allclose(np.exp(load_test(pets.run("default").test_predictions, TEST, 3)), mean, atol=1e-6)
    assert "Note: this score is that of the members. final.pt was trained on these rows too and has none." in out
    assert note_of(pets)["valid_images"] == LABELLED
    assert f"Submission by {'the mean probabilities of ' * (members == 'both')}{names[0]}" in out

    pets.run("default").final.unlink()
    pets.submission("default").unlink(missing_ok=True)
    assert predicted(pets, f"predict.members={members}") == 2
    error = capsys.readouterr().err
    assert "final.pt is missing or unfinished. First: " in error and "predict.members=folds" in error
    assert predicted(pets, f"predict.members={members}", "predict.members=folds") == 0


def test_other_views_than_those_of_the_set_predict_its_rows_again(
    pets: Layout, capsys: pytest.CaptureFixture[str]
) -> None:
    run = pets.run("default")
    before = run.oof.read_bytes()
    assert predicted(pets, "predict.mirror=true") == 0
    assert "Predicting the labelled rows again: oof.csv is missing, or of other networks" in capsys.readouterr().out
    mirrored, note = run.oof.read_bytes(), note_of(pets)
    assert mirrored != before and note["oof_made_from"]["mirror"] is True
    own = by(pets, "fold-1/best.pt", "valid", **{"train.fold": 1, "predict.mirror": "true"})
    oof = read_oof(run.oof, read_split_csv(pets.split_csv), CLASSES, "one_class")
    assert np.allclose(oof.predictions[oof.folds == 1].exp(), own, atol=1e-6)

    # The file is known by what it was made from, not by the last command; a changed one is known by its digest.
    assert predicted(pets, "predict.mirror=true", "predict.calibrate=false") == 0
    assert "rows again" not in capsys.readouterr().out
    assert predicted(pets) == 0
    assert "rows again" in capsys.readouterr().out and run.oof.read_bytes() == before
    run.oof.write_text(run.oof.read_text().replace("0.3", "0.4"))
    pets.submission("default").unlink()
    assert predicted(pets) == 0
    assert "rows again" in capsys.readouterr().out and run.oof.read_bytes() == before


def test_members_that_are_not_those_of_the_set(pets: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    member = pets.run("default").member("fold-1")
    record = member.record.read_text()
    member.record.write_text(record.replace('"lr": 0.1,', '"lr": 0.5,', 1))
    assert predicted(pets) == 2
    error = capsys.readouterr().err
    assert "runs/pets/default/fold-1 was trained with other settings than its set (train.lr: 0.5 now, 0.1" in error
    assert "rm -r runs/pets/default/fold-1" in error and "folds" in error.splitlines()[-1]
    assert not pets.submission("default").exists()
    member.record.write_text(record)
    member.best.unlink()
    assert predicted(pets) == 2
    assert "runs/pets/default/fold-1 lacks run.json or best.pt. Remove it, then train it" in capsys.readouterr().err
    shutil.copyfile(pets.run("default").member("fold-0").best, member.best)  # trained by hand, with the same settings
    assert predicted(pets) == 0
    assert "Predicting the labelled rows again" in capsys.readouterr().out
    shutil.rmtree(member.folder)
    assert predicted(pets) == 2
    assert "The set runs/pets/default is not finished: 1 of 2 members are trained." in capsys.readouterr().err


def test_settings_of_the_other_kind_of_run_have_no_effect(pets: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert predicted(pets, "predict.checkpoint=best") == 0
    assert "Note: predict.checkpoint is best, which has no effect: default is a fold set" in capsys.readouterr().out


def test_too_many_predictions_are_not_stored(
    pets: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stored_module, "MOST_STORED", 20)
    assert predicted(pets) == 0
    assert capsys.readouterr().out.count("are not stored, so a blend cannot use this run") == 1
    run, note = pets.run("default"), note_of(pets)
    assert not run.oof.exists() and not run.test_predictions.exists() and "oof" not in note
    assert note["valid_images"] == LABELLED


def test_the_audit_takes_the_rows_of_all_folds_once(pets: Layout, capsys: pytest.CaptureFixture[str]) -> None:
    assert predicted(pets) == 0
    capsys.readouterr()
    assert command.run(audit.main, ["pets.toml"]) == 0
    out = capsys.readouterr().out
    assert f" of {LABELLED} rows. " in out and "were never held out" not in out
    assert json.loads(pets.audit.record.read_text())["suspects"]["runs"] == ["default"]


def test_the_doctor_names_the_next_command_of_a_set(pets: Layout) -> None:
    words = command.parser("", "tools.doctor").parse_args(["pets.toml"], namespace=command.Words())
    pets.run("default").retrained.unlink()
    assert doctor.next_command(words.settings(), pets, words) == words.repeat("predict")
    final = words.plus("predict.members=final")
    assert doctor.next_command(final.settings(), pets, final) == final.repeat("retrain")
    pets.run("default").trained.unlink()
    assert doctor.next_command(words.settings(), pets, words) == words.repeat("folds")


def test_a_set_is_reproduced(pets: Layout, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert predicted(pets, "predict.members=both") == 0
    monkeypatch.setattr(command, "run_stage", run_stage_here)
    monkeypatch.setattr(folds, "run_side_by_side", trained_here)
    capsys.readouterr()
    assert command.run(reproduce.main, ["pets.toml", "--set", "predict.members=both"]) == 0
    out = capsys.readouterr().out
    assert [line.split(";")[0] for line in out.splitlines() if line.startswith("Stage")] == [
        "Stage 1 of 4: split",
        "Stage 2 of 4: folds",
        "Stage 3 of 4: retrain",
        "Stage 4 of 4: predict",
    ]
    assert out.splitlines()[-1].endswith(", byte for byte.")


def test_ranks_are_averaged_over_folds_and_probabilities_over_seeds(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    layout = toml_of(tmp_path, "signs", AUC)
    write_data(layout, ["0", "1"], ["target"], ["0.5"])
    make_set(layout, monkeypatch, "--seeds", "2")
    capsys.readouterr()
    assert predicted(layout) == 0
    out, note, run = capsys.readouterr().out, note_of(layout), layout.run("default")
    table = read_split_csv(layout.split_csv)
    means = [
        (by(layout, f"fold-{fold}/best.pt") + by(layout, f"fold-{fold}-seed-1/best.pt"))[:, 1] / 2 for fold in (0, 1)
    ]
    expected = sum(rankdata(mean) for mean in means) / 2 / (TEST + 1)
    ids = table.loc[table["split"] == "test", "id"]
    assert np.allclose(sent(layout).loc[ids, "target"], expected, atol=1e-6)
    assert "These are mean ranks from 0 to 1, not probabilities: auc takes their order." in out
    assert "Submission by the mean ranks of fold-0/best.pt, fold-1/best.pt, fold-0-seed-1/best.pt" in out

    oof = read_oof(run.oof, table, ["0", "1"], "one_class")
    truth = (table.loc[table["split"] != "test", "label"] == "1").to_numpy()
    within = ranks(oof.predictions, "one_class", oof.folds)[:, 1]
    assert note["valid_score"] == pytest.approx(roc_auc_score(truth, within), abs=1e-9)
    rows = pd.read_csv(run.valid_predictions)  # of probabilities: half of all ranks are above a half, whatever is rare
    assert np.allclose(rows["p_predicted"], oof.predictions.exp().amax(dim=1), atol=1e-5)
