"""Classify Leaves from archive to submission, on a stand-in of its exact form: 176 classes, ids that are paths."""

import colorsys
import io
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from matplotlib.figure import Figure
from PIL import Image
from torch.optim.swa_utils import update_bn
from torchvision.models import resnet18

from pipelines import command, download, predict, retrain, split, train
from pipelines.core import checkpoint

CLASSES, LABELLED_EACH, SIZE = 176, 3, 32
TINY = [
    f"input.size={SIZE}",
    f"input.resize={SIZE}",
    "input.mean=[0.5,0.5,0.5]",
    "input.std=[0.25,0.25,0.25]",
    "model.name=resnet18",
    "model.weights=random.pth",
    "finetune.head_epochs=1",
    "train.epochs=2",
    "hardware.precision=float32",
    "hardware.workers=0",
]
QUICK = [*(override for override in TINY if "epochs" not in override), "train.lr=0.02", "features.crops=0"]


def leaf(number: int, random: np.random.Generator) -> bytes:
    """Return a JPEG of class `number`: one of 16 colours with one of 11 stripe directions."""
    colour, stripes = number % 16, number // 16
    row, column = np.mgrid[:SIZE, :SIZE] / SIZE
    angle = np.pi * stripes / 11
    waves = np.sin(2 * np.pi * 4 * (row * np.sin(angle) + column * np.cos(angle)) + random.uniform(0, 2 * np.pi))
    rgb = 255 * np.array(colorsys.hsv_to_rgb(colour / 16, 1, 1))
    pixels = rgb * (0.6 + 0.3 * waves[..., None]) + random.normal(0, 4, (SIZE, SIZE, 1))
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=95)
    return file.getvalue()


def write_archive(path: Path) -> dict[str, str]:
    """Write the stand-in like Kaggle's archive, labelled images first; return {test id: label} in its order."""
    random = np.random.default_rng(0)
    labelled = random.permutation(np.repeat(np.arange(CLASSES), LABELLED_EACH))
    tested = random.permutation(CLASSES)
    ids = [f"images/{number}.jpg" for number in range(len(labelled) + len(tested))]
    of_test = ids[len(labelled) :]
    rows = zip(ids, labelled, strict=False)
    with zipfile.ZipFile(path, "w") as archive:
        for identifier, number in zip(ids, [*labelled, *tested], strict=True):
            archive.writestr(identifier, leaf(number, random))
        archive.writestr("train.csv", "image,label\n" + "".join(f"{name},tree_{label}\n" for name, label in rows))
        archive.writestr("test.csv", "image\n" + "".join(f"{name}\n" for name in of_test))
        archive.writestr("sample_submission.csv", "image,label\n" + "".join(f"{name},tree_0\n" for name in of_test))
    return {name: f"tree_{number}" for name, number in zip(of_test, tested, strict=True)}


@pytest.fixture(scope="module")
def leaves(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """Return a folder with the archive and a file of random weights, and the true labels of the test images."""
    folder = tmp_path_factory.mktemp("leaves")
    truth = write_archive(folder / "classify-leaves.zip")
    torch.manual_seed(0)
    network = resnet18()
    update_bn([torch.randn(64, 3, SIZE, SIZE)], network)  # statistics that keep activations in range
    torch.save(network.state_dict(), folder / "random.pth")
    return folder, truth


@pytest.mark.parametrize(("recipe", "overrides"), [("default", TINY), ("quick", QUICK)])
def test_archive_to_submission(
    leaves: tuple[Path, dict[str, str]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    recipe: str,
    overrides: list[str],
) -> None:
    source, truth = leaves
    monkeypatch.chdir(tmp_path)
    if recipe == "quick":  # drawing 176 classes takes half of the time, and the other recipe draws the same pictures
        monkeypatch.setattr(Figure, "savefig", lambda figure, path, **options: Path(path).touch())
    (tmp_path / "random.pth").symlink_to(source / "random.pth")
    words = ["classify-leaves", "--recipe", recipe, "--run", "run", "--set", *overrides]
    assert command.run(download.main, [*words, "--archive", str(source / "classify-leaves.zip")]) == 0
    for stage in (split, train, retrain, predict):
        assert command.run(stage.main, words) == 0
    submission = pd.read_csv(tmp_path / "submissions/classify-leaves/run.csv")
    assert list(submission.columns) == ["image", "label"]
    assert list(submission["image"]) == list(truth)
    assert set(submission["label"]) <= set(truth.values())
    saved = checkpoint.load(tmp_path / "runs/classify-leaves/run/last.pt")  # not final.pt: the first epoch may be best
    assert sorted(saved.classes) == sorted(truth.values())
    assert len(saved.classes) == CLASSES
    assert saved.head_only == (recipe == "quick")
    if recipe == "quick":  # the other recipe learns nothing in two epochs
        assert (submission["label"] == list(truth.values())).mean() > 0.2
