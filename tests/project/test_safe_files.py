"""What lies in files is data: no code in it is run, no formula or terminal sequence comes of it, no secret gets in."""

import ast
import base64
import csv
import io
import json
import os
import pickle
import shutil
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from pipelines import command, download, predict, retrain, split, submit, train
from pipelines.core.checkpoint import load
from pipelines.core.precision import settle_precision
from pipelines.dataset.splits import read_split_csv
from pipelines.dataset.tables import spreadsheet_safe
from pipelines.models.weights import find_weights
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError
from pipelines.system.files import partial_name
from pipelines.tools import doctor, kernel, submissions
from tests.support.kernels import leave
from tests.support.pictures import png_size
from tests.support.standin import CLOSED_PROXY, Body, Html, Kernel, Lost, Standin, Status
from tests.support.tiny import TOML, Tiny, pretrained

STAGES: dict[str, ModuleType] = {
    stage.__name__.rpartition(".")[2]: stage for stage in (download, predict, retrain, split, train)
}
PACKAGE = Path(__file__).parents[2] / "pipelines"


class Hostile:
    """What makes the folder `marker` where it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.marker),)


def of_torch(hostile: Hostile) -> bytes:
    file = io.BytesIO()
    torch.save({"format": 2, "weights": hostile}, file)
    return file.getvalue()


def of_numpy(hostile: Hostile) -> bytes:
    file = io.BytesIO()
    np.save(file, np.array([hostile], object), allow_pickle=True)
    return file.getvalue()


def of_numpy_zip(hostile: Hostile) -> bytes:
    file = io.BytesIO()
    objects = np.array([hostile], object)
    np.savez(file, format=objects, entries=objects)
    return file.getvalue()


FORMS: dict[str, Callable[[Hostile], bytes]] = {
    "torch": of_torch,
    "npy": of_numpy,
    "npz": of_numpy_zip,
    "pickle": pickle.dumps,
}


def make_competition(folder: Path, labels: list[str], names: list[str]) -> None:
    """Write `tiny.toml` and `source`, with an image of each of `names` in train and in test; label n % K is n's."""
    random = np.random.default_rng(0)
    for part in ("train", "test"):
        for number, name in enumerate(names):
            path = folder / "source" / part / f"{name}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            pixels = random.integers(0, 100, (8, 8, 3), dtype=np.uint8)
            pixels[..., number % len(labels) % 3] += 150
            Image.fromarray(pixels).save(path)
    with open(folder / "source/labels.csv", "w", newline="", encoding="utf-8") as file:
        rows = [(name, labels[number % len(labels)]) for number, name in enumerate(names)]
        csv.writer(file).writerows([("id", "label"), *rows])
    with open(folder / "source/sample.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("id", "label"), *((name, labels[0]) for name in names)])
    (folder / "tiny.toml").write_text(TOML.replace("epochs = 3", "epochs = 2") + PHOTOS)


PHOTOS = """
[split]
valid_ratio = 0.25
[recipes.photos]
input = { source = "photos", resize = 9 }
"""


def run(stage: str, *words: str) -> int:
    return command.run(STAGES[stage].main, ["tiny.toml", *words])


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory, small_weights: Path) -> Path:
    """A working folder in which all stages have ended, with what is packed, with photos and with cached features."""
    folder = tmp_path_factory.mktemp("finished")
    make_competition(folder, ["blue", "green", "red"], [str(number) for number in range(12)])
    features = feature_words(shutil.copy(small_weights, folder / "small.pth"))
    with pytest.MonkeyPatch.context() as place:
        place.chdir(folder)
        assert run("download", "--archive", "source") == run("split") == 0
        for words in ((), ("--recipe", "photos"), features):
            for stage in ("train", "retrain", "predict"):
                assert run(stage, *words) == 0
    return folder


def feature_words(weights: Path | str) -> tuple[str, ...]:
    chosen = [*pretrained(Path(Path(weights).name)), "finetune.frozen_stages=-1"]
    return ("--run", "features", "--set", *chosen)


@pytest.fixture
def work(finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, as the working folder."""
    shutil.copytree(finished, tmp_path / "work")
    monkeypatch.chdir(tmp_path / "work")
    return tmp_path / "work"


def test_the_plants_would_do_harm_if_they_were_let(tmp_path: Path) -> None:
    hostile = Hostile(tmp_path / "harmed")
    readers: dict[str, Callable[[io.BytesIO], Any]] = {
        "torch": lambda file: torch.load(file, weights_only=False),
        "npy": lambda file: np.load(file, allow_pickle=True),
        "npz": lambda file: np.load(file, allow_pickle=True)["entries"],
        "pickle": pickle.load,
    }
    for form, make in FORMS.items():
        readers[form](io.BytesIO(make(hostile)))
        hostile.marker.rmdir()


# What is planted, which files are removed before that, and the stage that reads it.  A plant in what a stage can make
# anew is made anew; one in what it cannot is refused.
RUN = "runs/tiny/default"
REFUSED: dict[str, tuple[str, str, tuple[str, ...]]] = {
    f"{RUN}/last.pt": (f"{RUN}/train.json", "train", ()),
    f"{RUN}/best.pt": (f"{RUN}/final.pt", "retrain", ()),
    f"{RUN}/best.pt ": ("submissions/tiny/default.csv", "predict", ()),
    f"{RUN}/final.pt": ("submissions/tiny/default.csv", "predict", ()),
    f"{RUN}/retrain_last.pt": (f"{RUN}/retrain.json {RUN}/final.pt", "retrain", ()),
    f"{RUN}/run.json": ("", "train", ()),
    f"{RUN}/train.json": ("", "train", ()),
    f"{RUN}/train.json ": (f"{RUN}/final.pt", "retrain", ()),
    f"{RUN}/predict.json": ("submissions/tiny/default.csv", "predict", ()),
    "data/tiny/split.json": ("", "train", ()),
    "data/tiny/split.csv": ("", "train", ("--run", "new")),
    "data/tiny/raw/labels.csv": ("data/tiny/split.json", "split", ()),
    "data/tiny/raw/train/1.png": ("", "train", ("--run", "new")),
    "data/tiny/raw/train/1.png ": ("", "train", ("--run", "new", "--recipe", "photos")),
    "data/tiny/cache/LABELLED": ("", "train", ("--run", "new")),
    "data/tiny/cache/TEST": ("submissions/tiny/default.csv", "predict", ()),
    "small.pth": ("", "train", ("--run", "new", *feature_words("small.pth")[2:])),
    "data/tiny/cache/ABOUT": ("", "train", ("--run", "new", *feature_words("small.pth")[2:])),
    "archive.zip": ("data/tiny/raw/.download.json", "download", ("--archive", "archive.zip")),
}


@pytest.mark.parametrize("plant", REFUSED)
def test_code_in_a_file_that_cannot_be_made_anew_is_refused(
    plant: str, work: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    removed, stage, words = REFUSED[plant]
    path = found(work, plant.strip())
    for name in removed.split():
        if plant == "archive.zip":
            shutil.rmtree(work / "data/tiny/raw")
        else:
            (work / name).unlink()
    hostile = Hostile(tmp_path / "harmed")
    for make in FORMS.values():
        path.unlink(missing_ok=True)  # the tree holds hard links to raw images
        path.write_bytes(make(hostile))
        capsys.readouterr()
        assert run(stage, *words) == command.EXIT_USER_ERROR
        message = capsys.readouterr().err
        assert message.startswith("error: ") and path.name in message and "trust" not in message
        assert not hostile.marker.exists()


def found(work: Path, name: str) -> Path:
    """The path of `name`, in which LABELLED, TEST and ABOUT stand for names that hold a digest."""
    cache = work / "data/tiny/cache"
    if name.endswith(("LABELLED", "TEST")):
        return next(cache.glob(f"{name.rpartition('/')[2].lower()}-8px-*.npy"))
    return next(cache.rglob("about.json")) if name.endswith("ABOUT") else work / name


MADE_ANEW: dict[str, tuple[str, str, tuple[str, ...]]] = {
    "data/tiny/cache/.labelled-8px.partial": ("", "train", ("--run", "new")),
    "data/tiny/cache/labelled-decodable.npy": ("", "train", ("--run", "new", "--recipe", "photos")),
    "data/tiny/cache/labelled-fingerprints.npz": ("", "train", ("--run", "new", "--recipe", "photos")),
    f"{RUN}/history.csv": (f"{RUN}/train.json", "train", ()),
}


@pytest.mark.parametrize("plant", MADE_ANEW)
def test_code_in_what_can_be_made_anew_is_not_run_and_changes_nothing(plant: str, work: Path, tmp_path: Path) -> None:
    removed, stage, words = MADE_ANEW[plant]
    path, hostile = found(work, plant), Hostile(tmp_path / "harmed")
    assert path.exists() or plant.endswith("partial")
    reference = load(work / ("runs/tiny/photos" if "photos" in words else RUN) / "best.pt")
    for make in (of_numpy, of_numpy_zip, pickle.dumps):
        for name in removed.split():
            (work / name).unlink()
        shutil.rmtree(work / "runs/tiny/new", ignore_errors=True)
        if plant.endswith("partial"):
            plant_partial(work, make(hostile))
        else:
            path.write_bytes(make(hostile))
        assert run(stage, *words) == 0
        assert not hostile.marker.exists()
        made = load(work / ("runs/tiny/new" if "new" in words else RUN) / "best.pt")
        assert all(torch.equal(made.weights[name], value) for name, value in reference.weights.items())


def plant_partial(work: Path, content: bytes) -> None:
    """Put `content` where a killed process leaves images and its journal, of the right length and "all done"."""
    (whole,) = (work / "data/tiny/cache").glob("labelled-8px-*.npy")
    partial = partial_name(whole)
    partial.write_bytes(content.ljust(whole.stat().st_size, b"x")[: whole.stat().st_size])
    partial.with_suffix(".journal").write_bytes(b"\1" * 12)
    whole.unlink()


def test_code_in_a_store_of_features_is_not_run(work: Path, tmp_path: Path) -> None:
    reference = load(work / "runs/tiny/features/best.pt")
    hostile = Hostile(tmp_path / "harmed")
    words = ("--run", "new", *feature_words("small.pth")[2:])
    for make in (of_numpy, pickle.dumps):
        shutil.rmtree(work / "runs/tiny/new", ignore_errors=True)
        for path in [*work.rglob("keys.u64"), *work.rglob("values.*")]:
            path.write_bytes(make(hostile)[: 8 if path.stem == "values" else None])  # less than a row
        assert run("train", *words) == 0
        assert not hostile.marker.exists()
        made = load(work / "runs/tiny/new/best.pt")
        assert all(torch.allclose(made.weights[name], value, atol=1e-5) for name, value in reference.weights.items())


def test_code_in_the_note_on_precision_is_not_run(tiny: Tiny, tmp_path: Path) -> None:
    hostile = Hostile(tmp_path / "harmed")
    settings = tiny.settings("hardware.precision=auto", "train.epochs=100000")
    note = tmp_path / "precision.json"
    for content in [*(make(hostile) for make in FORMS.values()), b"[]", b"3", b'{"device": 1}', b"{", b""]:
        note.write_bytes(content)
        assert settle_precision(settings, note) == (settings, "")  # nothing is tried without a network
        settled, reason = settle_precision(settings, note, tiny.network(settings), 10_000_000)
        assert settled.hardware.precision in ("bfloat16", "float32") and reason
        assert settle_precision(settings, note) == (settled, reason)
    assert not hostile.marker.exists()


# What would unpickle, evaluate or import what a file says.
FORBIDDEN = {
    "eval",
    "exec",
    "pickle.load",
    "pickle.loads",
    "pickle.Unpickler",
    "np.loads",
    "joblib.load",
    "marshal.loads",
}
FORBIDDEN |= {"yaml.load", "yaml.unsafe_load", "shelve.open", "dill.load", "dill.loads", "pd.read_pickle", "jit.load"}


def faults(source: str) -> list[str]:
    """The calls in `source` that could run what a file says."""
    bad = []
    for call in ast.walk(ast.parse(source)):
        if isinstance(call, ast.Call):
            name = ".".join(ast.unparse(call.func).split(".")[-2:])
            keywords = {word.arg: ast.unparse(word.value) for word in call.keywords}
            unsafe = name in FORBIDDEN or keywords.get("allow_pickle", "False") != "False"
            if unsafe or (name == "torch.load" and keywords.get("weights_only") != "True"):
                bad.append(ast.unparse(call))
    return bad


def test_nothing_in_the_project_could_run_what_a_file_says() -> None:
    for wrong in ("pickle.load(f)", "eval('1')", "torch.load(f)", "np.load(f, allow_pickle=True)", "torch.jit.load(f)"):
        assert faults(wrong), wrong
    assert not faults("model.eval(); torch.load(f, weights_only=True); np.load(f, allow_pickle=False)")
    for path in PACKAGE.rglob("*.py"):
        assert not faults(path.read_text(encoding="utf-8")), path


def test_what_people_open_in_a_spreadsheet_holds_no_formulas() -> None:
    for text in ("=1+1", "+cmd|' /C calc'!A0", "-2+3", "@SUM(A1)", "\t=1", "\r=1", "-", "=", "-1.5.2", "-١"):
        assert spreadsheet_safe(text) == f"'{text}"
    for text in ("-1.5", "+1", "-1e-05", "-.5", "1=1", "", "cat", " a", "'=1", "tabby - cat"):
        assert spreadsheet_safe(text) == text


ESCAPE = "\x1b[2J\x1b]0;owned\x07"
ODD_LABELS = [
    "=cmd|' /C calc'!A0",
    "<script>alert(1)</script>",
    r"$\frac$",
    'one\ntwo, "three"',
    f"{ESCAPE}red",
    "-1+1",
    "../../up",
    "@here",
]
ODD_NAMES = ["=1+1", r"$\frac$", "<b>", f"{ESCAPE}x", "new\nline", "-2", "@x", "%s{0}", "a'b", 'a"b', "a,b", "ä\u202eo"]


def test_odd_labels_and_names_go_through_all_stages_exactly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    names = [f"{name}{turn}" for turn in ("", "b") for name in ODD_NAMES]
    make_competition(tmp_path, ODD_LABELS, names)
    monkeypatch.chdir(tmp_path)
    assert run("download", "--archive", "source") == 0
    for stage in ("split", "train", "retrain", "predict"):
        assert run(stage) == 0
    table = read_split_csv(tmp_path / "data/tiny/split.csv", "split")
    labelled = table[table["split"] != "test"]
    expected = {name: ODD_LABELS[number % len(ODD_LABELS)] for number, name in enumerate(names)}
    assert dict(zip(labelled["id"], labelled["label"], strict=True)) == expected
    with open(tmp_path / "submissions/tiny/default.csv", newline="", encoding="utf-8") as file:
        header, *rows = csv.reader(file)
    assert header == ["id", "label"] and [row[0] for row in rows] == names  # Kaggle compares them
    assert {row[1] for row in rows} <= set(ODD_LABELS)
    for name in ("curves", "mistakes", "confusion"):
        assert png_size(tmp_path / f"runs/tiny/default/{name}.png")
    shown = capfd.readouterr()
    assert shown.err == "" and shows_nothing_odd(shown.out)


def shows_nothing_odd(text: str) -> bool:
    return all(line.isprintable() for line in text.split("\n"))


def test_odd_names_in_errors_do_not_steer_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    make_competition(tmp_path, ["red", "green"], [f"{ESCAPE}{number}" for number in range(8)])
    monkeypatch.chdir(tmp_path)
    assert run("download", "--archive", "source") == run("split") == 0
    path = tmp_path / f"data/tiny/raw/train/{ESCAPE}1.png"
    path.unlink()
    path.write_bytes(b"no picture")
    assert run("train") == command.EXIT_USER_ERROR
    shown = capfd.readouterr()
    assert "]0;owned" in shown.err and shows_nothing_odd(shown.out + shown.err)


# Where the client may find a credential; the marks stand nowhere else, and no secret shares eight signs with another.
USER, KEY, TOKEN, PROXY_PASSWORD = (
    "planted-user",
    "K3yPlantedSecret0017",
    "KGAT_T0kenPlantedSecret42",
    "Pr0xyPlantedSecret99",
)
SECRETS = [
    *(KEY, TOKEN, PROXY_PASSWORD),
    *(base64.b64encode(f"{name}:{value}".encode()).decode() for name, value in ((USER, KEY), ("bob", PROXY_PASSWORD))),
]


def plant_in_variables(home: Path) -> dict[str, str]:
    return {"KAGGLE_USERNAME": USER, "KAGGLE_KEY": KEY}


def plant_in_token_variable(home: Path) -> dict[str, str]:
    return plant_in_variables(home) | {"KAGGLE_API_TOKEN": TOKEN}


def plant_in_key_file(home: Path) -> dict[str, str]:
    keep(home / "kaggle/kaggle.json", json.dumps({"username": USER, "key": KEY}))
    return {}


def plant_in_token_file(home: Path) -> dict[str, str]:
    keep(home / ".kaggle/access_token", TOKEN)
    return plant_in_key_file(home)


def keep(path: Path, content: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content)
    path.chmod(0o600)


class Watched:
    """A working folder and a stand-in; what its stages print is kept."""

    def __init__(self, folder: Path, standin: Standin, environment: dict[str, str]) -> None:
        self.folder, self.standin, self.environment = folder, standin, environment
        self.said: list[str] = []

    def run(self, stage: ModuleType, *words: str) -> int | None:
        """Run the stage in this process; return its status, or None where it ended with a traceback."""
        out, err = io.StringIO(), io.StringIO()
        status = None
        with pytest.MonkeyPatch.context() as place, redirect_stdout(out), redirect_stderr(err):
            place.chdir(self.folder)
            for name in os.environ.keys() - self.environment.keys():
                place.delenv(name)
            for name, value in self.environment.items():
                place.setenv(name, value)
            try:
                status = command.run(stage.main, ["tiny.toml", *words])
            except Exception:
                self.said.append(traceback.format_exc())
        self.said += [out.getvalue(), err.getvalue()]
        return status

    def fail(self, stage: ModuleType, function: str) -> None:
        """Run the stage with a mistake of ours in `function`, which ends in a traceback."""
        with pytest.MonkeyPatch.context() as broken:
            broken.setattr(stage, function, None)
            assert self.run(stage) is None and "Traceback" in "".join(self.said)

    def leaks(self) -> list[str]:
        """Where a secret shows: in what was printed, or in a file."""
        texts = {f"output {number}": text.encode() for number, text in enumerate(self.said)}
        texts |= {str(path): path.read_bytes() for path in self.folder.rglob("*") if path.is_file()}
        return [f"{place}: {secret}" for place, text in texts.items() for secret in SECRETS if secret.encode() in text]


def watched_with(plant: Callable[[Path], dict[str, str]], tmp_path: Path, standin: Standin) -> Watched:
    """A working folder with `tiny.toml`, which the stand-in has; secrets are planted for the client and in proxies."""
    folder, home = tmp_path / "work", tmp_path / "home"
    make_competition(folder, ["blue", "green", "red"], [str(number) for number in range(12)])
    archive = Path(shutil.make_archive(str(folder / "tiny"), "zip", folder / "source"))
    standin.username, standin.key, standin.token = USER, KEY, TOKEN
    standin.add("tiny", archive, load_settings(str(folder / "tiny.toml")))
    standin.run_kernel = leave_results
    environment = standin.environment(home)
    del environment["KAGGLE_USERNAME"], environment["KAGGLE_KEY"]
    environment["http_proxy"] = standin.url.replace("//", f"//bob:{PROXY_PASSWORD}@")
    environment["https_proxy"] = CLOSED_PROXY.replace("//", f"//bob:{PROXY_PASSWORD}@")
    environment["TMPDIR"] = str(folder)
    return Watched(folder, standin, environment | plant(home))


def test_no_secret_shows_where_the_key_is_refused_or_the_stage_fails(tmp_path: Path) -> None:
    with Standin(tmp_path / "work/standin") as standin:
        watched = watched_with(plant_in_variables, tmp_path, standin)
        assert watched.run(submissions) == 0
        standin.key = "another"
        assert watched.run(submissions) == command.EXIT_USER_ERROR
        watched.fail(submissions, "_table_rows")
        assert not standin.violations
    assert watched.leaks() == []


@pytest.mark.parametrize("end", ["", "@127.0.0.1:x", "@", "/x@127.0.0.1:9", "@127.0.0.1:9"])
def test_a_proxys_password_does_not_show_where_weights_cannot_be_fetched(
    end: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("http_proxy", "https_proxy", "all_proxy"):
        monkeypatch.setenv(name, f"http://bob:{PROXY_PASSWORD}{end}")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(UserError, match="could not be downloaded") as caught:
        find_weights("resnet18", "IMAGENET1K_V1", "", tmp_path)
    assert PROXY_PASSWORD not in str(caught.value)


@pytest.mark.slow
@pytest.mark.parametrize("plant", [plant_in_variables, plant_in_token_variable, plant_in_key_file, plant_in_token_file])
def test_no_secret_shows_anywhere(plant: Callable[[Path], dict[str, str]], tmp_path: Path) -> None:
    folder = tmp_path / "work"
    with Standin(folder / "standin") as standin:  # whose uploads and kernels are looked through too
        watched = watched_with(plant, tmp_path, standin)

        assert watched.run(doctor) == 0, watched.said
        for stage in (download, split, train):
            assert watched.run(stage) == 0, watched.said
        assert watched.run(retrain) == watched.run(predict) == 0
        assert watched.run(submit) == watched.run(submissions) == 0, watched.said
        assert watched.run(kernel, "--run", "elsewhere") == 0, watched.said

        standin.fault("CreateSubmission", Status(500, "Internal"), Lost())
        watched.run(submit, "--again")
        standin.fault("ListSubmissions", Status(403, "no"), Html(), Body(b"{"))
        assert [watched.run(submissions) for _ in range(3)] != [0, 0, 0]
        standin.key, standin.token = "another", "another"
        assert watched.run(doctor) and watched.run(submit, "--again") and watched.run(kernel, "--run", "refused")
        (folder / "submissions/tiny/log.csv").unlink()
        watched.fail(submissions, "_table_rows")
        assert not standin.violations
    (folder / "submissions/tiny/log.csv").unlink(missing_ok=True)
    assert watched.run(submissions) == command.EXIT_USER_ERROR  # nobody is there: the proxy is closed
    assert watched.run(doctor)
    for bad in (
        f"http://bob:{PROXY_PASSWORD}@127.0.0.1:x",
        f"ftp://bob:{PROXY_PASSWORD}@[::1",
        f"bob:{PROXY_PASSWORD}@",
    ):
        watched.environment |= {"http_proxy": bad, "https_proxy": bad}
        assert watched.run(submissions) and watched.run(doctor)
        assert watched.run(train, "--run", "new", "--set", "model.name=resnet18", "model.weights=IMAGENET1K_V1")
    assert watched.leaks() == []


def leave_results(kernel: Kernel) -> None:
    """What a run on Kaggle leaves, as far as it is looked at here."""
    note = json.dumps({"metric": "accuracy", "score": 0.9, "best_epoch": 1}).encode()
    leave(kernel, {"submissions/tiny/elsewhere.csv": b"id,label\n", "runs/tiny/elsewhere/train.json": note})
