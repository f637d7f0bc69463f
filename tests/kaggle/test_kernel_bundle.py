"""The bundled script: its content, and that it runs with nothing but Kaggle's folders."""

import ast
import base64
import functools
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import textwrap
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from pipelines.dataset.digits import write_digits
from pipelines.kaggle import kernel_bundle, kernel_script
from pipelines.kaggle.kernel_script import Task, attach_weights, find_data, weights_of
from pipelines.settings.competitions import COMPETITIONS
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.box_forms import TEST
from tests.support.small_boxes import make_small_boxes

ROOT = Path(__file__).parents[2]
QUICK = ("train.epochs=1", "hardware.device=cpu", "hardware.workers=0")
RUN_ID = "0123456789abcdef"
ROWS = 500


@functools.cache
def bundled(competition: str = "digits", overrides: tuple[str, ...] = QUICK, run_id: str = RUN_ID) -> str:
    settings = load_settings(competition, overrides=overrides)
    task = kernel_bundle.make_task(competition, settings, "trial", overrides, run_id)
    files = kernel_bundle.needed_files(COMPETITIONS / f"{competition}.toml", settings.model.label_map)
    return kernel_bundle.make_script(task, kernel_bundle.pack(files))


def contents(script: str) -> dict[str, bytes]:
    """Return the files in the zip of a script."""
    text = script.split('PIPELINE = """\n')[1].split('"""')[0]
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(text))) as archive:
        return {info.filename: archive.read(info) for info in archive.infolist()}


def environment(base: Path, **more: str) -> dict[str, str]:
    """Return an environment without this repository and without Kaggle's credentials."""
    kept = {name: value for name, value in os.environ.items() if "KAGGLE" not in name and name != "PYTHONPATH"}
    return {**kept, "PIPELINES_KAGGLE_FOLDER": str(base), "OMP_NUM_THREADS": "1", "HOME": str(base), **more}


def execute(base: Path, script: str, **more: str) -> "subprocess.CompletedProcess[str]":
    """Run `script` in `base`, which has Kaggle's folders."""
    (base / "working").mkdir(parents=True, exist_ok=True)
    (base / "temp").mkdir(exist_ok=True)
    (base / "script.py").write_text(script, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error::UserWarning", str(base / "script.py")],
        cwd=base / "working",
        env=environment(base, **more),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert "Traceback" not in done.stdout, done.stdout
    return done


def manifest_of(base: Path) -> dict[str, Any]:
    """Return the manifest, after a check that it describes the files."""
    manifest = json.loads((base / "working" / "manifest.json").read_text())
    there = {
        path.relative_to(base / "working").as_posix(): path.read_bytes()
        for path in (base / "working").rglob("*")
        if path.is_file() and path.name != "manifest.json"
    }
    described = {
        name: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()} for name, content in there.items()
    }
    assert manifest["files"] == described
    return dict(manifest)


def finished(base: Path, done: "subprocess.CompletedProcess[str]") -> dict[str, Any]:
    """Check that a run succeeded with all its files; return its manifest."""
    assert done.returncode == 0, done.stdout
    manifest = manifest_of(base)
    assert manifest["finished"] and manifest["run_id"] == RUN_ID
    submission = (base / "working" / "submission.csv").read_text().splitlines()
    assert submission[0] == "id,label" and len(submission) == 1 + ROWS
    assert (base / "working/submissions/digits/trial.csv").read_text().splitlines() == submission
    run = {path.name for path in (base / "working/runs/digits/trial").iterdir()}
    assert {"run.json", "train.json", "retrain.json", "predict.json", "best.pt", "final.pt", "history.csv"} <= run
    assert not {"last.pt", "retrain_last.pt"} & run
    assert sorted(path.name for path in (base / "working").iterdir()) == [
        "manifest.json",
        "runs",
        "submission.csv",
        "submissions",
    ]
    return manifest


@pytest.fixture(scope="module")
def raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits as a Kaggle competition."""
    folder = tmp_path_factory.mktemp("digits")
    write_digits(folder / "raw", folder / "held_back.csv")
    return folder / "raw"


@pytest.fixture(scope="module")
def small(raw: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The digits with only 100 labelled ones."""
    folder = tmp_path_factory.mktemp("small") / "raw"
    shutil.copytree(raw, folder)
    lines = (folder / "labels.csv").read_text().splitlines()
    (folder / "labels.csv").write_text("\n".join(lines[:101]) + "\n")
    for number in range(101, len(lines)):
        (folder / "train" / f"{number}.png").unlink()
    return folder


def seven_zip(archive: Path, folder: Path, name: str) -> None:
    import py7zr

    with py7zr.SevenZipFile(archive, "w") as content:
        content.writeall(folder / name, name)


def packed(folder: Path, raw: Path) -> None:
    """Lay out `raw` like cifar-10: 7z archives beside CSVs."""
    folder.mkdir(parents=True)
    for name in ("train", "test"):
        seven_zip(folder / f"{name}.7z", raw, name)
    for path in raw.glob("*.csv"):
        shutil.copyfile(path, folder / path.name)


def test_a_script_holds_what_is_needed_and_nothing_else() -> None:
    files = contents(bundled())
    stages = {f"pipelines/{stage}.py" for stage in ("download", "split", "train", "retrain", "predict")}
    outside_rooms = {name for name in files if name.count("/") == 1}
    assert outside_rooms == {*stages, "pipelines/__init__.py", "pipelines/command.py"}
    assert "pipelines/competitions/digits.toml" in files
    tools = [Path(name).stem for name in files if name.startswith("pipelines/tools/")]
    assert tools == ["__init__", "epoch_table", "launch", "obtaining", "reporting"]  # the stages import these
    assert {"pipelines/report/page.html", "pipelines/report/page.css"} <= set(files)
    assert all((ROOT / name).read_bytes() == content for name, content in files.items())
    assert {"pipelines/kaggle/kernel_script.py", "pipelines/core/job.py"} <= set(files)
    assert not {"pipelines/kaggle/kernel_bundle.py", "pipelines/kaggle/worker.py"} & set(files)


def test_the_label_map_goes_along() -> None:
    files = contents(bundled("dog-breed-identification", ()))
    assert [name for name in files if name.startswith("pipelines/competitions/")] == [
        "pipelines/competitions/dog-breed-identification-labels.csv",
        "pipelines/competitions/dog-breed-identification.toml",
    ]


def test_a_label_map_beside_the_working_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/mine.csv").write_text("label,category\n")
    toml = tmp_path / "cats.toml"
    toml.write_text("")
    files = kernel_bundle.needed_files(toml, "maps/mine.csv")
    assert files["pipelines/competitions/maps/mine.csv"].read_text() == "label,category\n"
    assert files["pipelines/competitions/cats.toml"] == toml
    with pytest.raises(UserError, match=r"There is no label map \S+/maps/yours\.csv"):
        kernel_bundle.needed_files(toml, "maps/yours.csv")
    for unreachable in (str(tmp_path / "maps/mine.csv"), "../mine.csv"):
        with pytest.raises(UserError, match="relative to the working folder"):
            kernel_bundle.needed_files(toml, unreachable)


def test_tables_of_the_working_folder_go_along(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "cats-labels.csv").write_text("label,answer\ncat,0\n")
    (toml := tmp_path / "cats.toml").write_text("")
    files = kernel_bundle.needed_files(toml, beside=("cats-labels.csv", "among-the-data.csv", ""))
    assert [name for name in files if name.startswith("beside/")] == ["beside/cats-labels.csv"]
    with pytest.raises(UserError, match="outside the working folder"):
        kernel_bundle.needed_files(toml, beside=(str(tmp_path / "cats-labels.csv"),))


def test_the_same_files_make_the_same_script(tmp_path: Path) -> None:
    files = {"b.py": tmp_path / "b.py", "a.py": tmp_path / "a.py"}
    for path in files.values():
        path.write_text("pass\n")
    first = kernel_bundle.pack(files)
    for path in files.values():
        os.utime(path, (0, 2_000_000_000))
        path.chmod(0o600)
    assert kernel_bundle.pack(dict(reversed(files.items()))) == first
    assert bundled() == bundled.__wrapped__()


def test_the_header_is_plain_and_the_script_is_small() -> None:
    script = bundled()
    header = script.split("PIPELINE = ")[0]
    for line in ('COMPETITION = "digits"', f'RUN_ID = "{RUN_ID}"', 'FOLDERS = ["train", "test"]', 'RUN = "trial"'):
        assert line in header.splitlines()
    assert max(map(len, script.splitlines())) <= 120
    assert len(script) < 1_000_000  # Kaggle's limit for a kernel's source
    compile(script, "script.py", "exec")


def test_values_of_overrides_cannot_leave_their_line() -> None:
    overrides = ('model.name=resnet18"]; import os #', "model.weights={x}\n'''\"\"\"")
    settings = load_settings("digits")
    script = kernel_bundle.make_script(kernel_bundle.make_task("digits", settings, "r", overrides, RUN_ID), b"")
    (line,) = [line for line in script.splitlines() if line.startswith("SET = ")]
    scope: dict[str, Any] = {}
    exec(line, scope)
    assert scope["SET"] == list(overrides)


@pytest.mark.parametrize(
    ("competition", "run", "slug"),
    [
        ("digits", "default", "digits-default"),
        ("cifar-10", "textbook-3fa2b1", "cifar-10-textbook-3fa2b1"),
        ("a", "b", "a-b-d44362"),
        ("Dogs", "My_run", "dogs-my-run-"),
        ("dog-breed-identification", "a" * 60, "dog-breed-identification-aaaaaaaaaaaaaaaaaa-"),
    ],
)
def test_names_of_kernels(competition: str, run: str, slug: str) -> None:
    made = kernel_bundle.kernel_slug(competition, run)
    assert made.startswith(slug) and made == kernel_bundle.kernel_slug(competition, run)
    assert 5 <= len(made) <= 50 and made.strip("-") == made
    assert kernel_bundle.kernel_slug(competition, run + "_") != made


def test_metadata() -> None:
    sources = ('kaggle.dataset_sources=["alice/weights"]', 'kaggle.model_sources=["a/b/c/d/1"]')
    settings = load_settings("cifar-10", overrides=sources)
    assert kernel_bundle.make_metadata("alice", "cifar-10-default", settings) == {
        "id": "alice/cifar-10-default",
        "title": "cifar 10 default",
        "code_file": "script.py",
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": True,
        "machine_shape": "NvidiaTeslaT4",
        "enable_tpu": False,
        "enable_internet": False,
        "competition_sources": ["cifar-10"],
        "dataset_sources": ["alice/weights"],
        "kernel_sources": [],
        "model_sources": ["a/b/c/d/1"],
    }
    settings = load_settings("digits", overrides=["kaggle.accelerator=", "kaggle.internet=true"])
    metadata = kernel_bundle.make_metadata("alice", "digits-default", settings)
    assert (metadata["enable_gpu"], metadata["enable_internet"]) == (False, True)
    assert "machine_shape" not in metadata and metadata["competition_sources"] == []


def test_names_of_any_alphabet_reach_the_script(tmp_path: Path) -> None:
    names = ["läbels.csv", "cats\U0001f600.csv", 'a"b\\c.csv']
    script = kernel_bundle.make_script(Task("cats", "cats", "default", "default", [], RUN_ID, names, []), b"")
    (statement,) = [line for line in script.splitlines() if line.startswith("FILES = ")]
    assert ast.literal_eval(statement.removeprefix("FILES = ")) == names


def task(files: tuple[str, ...] = ("labels.csv",), folders: tuple[str, ...] = ("train", "test")) -> Task:
    return Task("cats", "cats-2026", "default", "default", [], RUN_ID, files, folders)


def lay(folder: Path, *names: str) -> Path:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x")
    return folder


@pytest.mark.parametrize("place", ["competitions/cats-2026", "cats-2026", "somebodys-copy", "a/b/c/d", "."])
@pytest.mark.parametrize(
    "names",
    [
        ("labels.csv", "train/1.png", "test/1.png"),
        ("labels.csv", "train.7z", "test.zip"),
        ("labels.csv.zip", "train.tar.gz", "test.7z"),
    ],
)
def test_data_are_found_wherever_they_are_mounted(tmp_path: Path, place: str, names: tuple[str, ...]) -> None:
    lay(tmp_path, "other/labels.csv", "competitions/other/train/1.png")
    found = lay(tmp_path / place, *names)
    assert find_data(tmp_path, task()) == found


def test_the_competitions_own_folder_goes_before_others(tmp_path: Path) -> None:
    names = ("labels.csv", "train/1.png", "test/1.png")
    lay(tmp_path / "a-copy", *names)
    lay(tmp_path / "cats-2026", *names)
    assert find_data(tmp_path, task()) == tmp_path / "cats-2026"
    lay(tmp_path / "competitions" / "cats-2026", *names)
    assert find_data(tmp_path, task()) == tmp_path / "competitions" / "cats-2026"


def test_a_single_archive(tmp_path: Path) -> None:
    (tmp_path / "somewhere").mkdir()
    with zipfile.ZipFile(tmp_path / "somewhere" / "mine.zip", "w") as archive:
        for name in ("wrapper/labels.csv", "wrapper/train.7z", "wrapper/test/1.png"):
            archive.writestr(name, "x")
    assert find_data(tmp_path, task()) == tmp_path / "somewhere" / "mine.zip"
    assert find_data(tmp_path, task(files=("others.csv",))) is None
    assert find_data(tmp_path / "nothing", task()) is None


@pytest.mark.slow
def test_a_run_on_archives_within_a_folder(tmp_path: Path, small: Path) -> None:
    packed(tmp_path / "input/competitions/digits", small)
    done = execute(tmp_path, bundled())
    manifest = finished(tmp_path, done)
    assert manifest["python"] == sys.version.split()[0] and manifest["gpus"] >= 0
    assert f"Data: {tmp_path / 'input/competitions/digits'}" in done.stdout and RUN_ID in done.stdout
    assert (tmp_path / "temp/pipeline/work/data/digits/split.csv").exists()


@pytest.mark.slow
@pytest.mark.parametrize("mounted", ["competitions/digits", "digits"])
def test_a_run_on_unpacked_data(tmp_path: Path, small: Path, mounted: str) -> None:
    shutil.copytree(small, tmp_path / "input" / mounted)
    done = execute(tmp_path, bundled())
    finished(tmp_path, done)
    assert f"Data: {tmp_path / 'input' / mounted}" in done.stdout


@pytest.mark.slow
def test_a_run_on_boxes(tmp_path: Path) -> None:
    with zipfile.ZipFile(make_small_boxes(tmp_path)) as archive:
        archive.extractall(tmp_path / "input/boxes")
    settings = load_settings(str(tmp_path / "boxes.toml"))
    task = kernel_bundle.make_task("boxes", settings, "trial", (), RUN_ID)
    files = kernel_bundle.needed_files(tmp_path / "boxes.toml", settings.model.label_map)
    done = execute(tmp_path, kernel_bundle.make_script(task, kernel_bundle.pack(files)))
    assert done.returncode == 0, done.stdout
    assert manifest_of(tmp_path)["finished"]
    submission = (tmp_path / "working/submission.csv").read_text().splitlines()
    assert submission[0] == "img_name,PredictionString" and len(submission) == 1 + TEST


@pytest.mark.slow
def test_a_run_on_archives_within_a_folder_where_temp_cannot_be_made(tmp_path: Path, small: Path) -> None:
    packed(tmp_path / "input/digits", small)
    (tmp_path / "temp").mkdir()
    (tmp_path / "temp/pipeline").write_text("in the way")
    (tmp_path / "elsewhere").mkdir()
    finished(tmp_path, execute(tmp_path, bundled(), TMPDIR=str(tmp_path / "elsewhere")))
    assert list((tmp_path / "elsewhere").glob("pipeline-*/work/data/digits/split.csv"))


@pytest.mark.slow
def test_a_run_on_one_zip(tmp_path: Path, small: Path) -> None:
    folder = tmp_path / "input/competitions/digits"
    folder.mkdir(parents=True)
    shutil.make_archive(str(folder / "digits"), "zip", small)
    finished(tmp_path, execute(tmp_path, bundled()))


@pytest.fixture
def without_py7zr(tmp_path: Path) -> Iterator[Path]:
    """A folder for PYTHONPATH that hides py7zr."""
    folder = tmp_path / "hiding"
    folder.mkdir()
    (folder / "py7zr.py").write_text("raise ImportError('hidden')\n")
    yield folder


def program_7z(folder: Path) -> Path:
    """Write a program `7z` that understands the script's arguments into `folder`."""
    folder.mkdir()
    program = folder / "7z"
    program.write_text(
        textwrap.dedent(f"""\
        #!{sys.executable} -E
        import sys, zipfile
        import py7zr
        command, yes, target, archive = sys.argv[1:]
        assert (command, yes, target[:2]) == ("x", "-y", "-o")
        opened = (py7zr.SevenZipFile if archive.endswith("7z") else zipfile.ZipFile)(archive)
        opened.extractall(target[2:])
        """)
    )
    program.chmod(0o755)
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("zipped", [False, True])
def test_a_7z_is_unpacked_by_kaggles_program(tmp_path: Path, small: Path, without_py7zr: Path, zipped: bool) -> None:
    folder = tmp_path / "input/competitions/digits"
    packed(folder, small)
    if zipped:
        shutil.make_archive(str(tmp_path / "digits"), "zip", folder)
        shutil.rmtree(folder)
        folder.mkdir()
        shutil.move(tmp_path / "digits.zip", folder)
    path = f"{program_7z(tmp_path / 'bin')}:{os.environ['PATH']}"
    done = execute(tmp_path, bundled(), PYTHONPATH=str(without_py7zr), PATH=path)
    finished(tmp_path, done)
    assert "Unpacking train.7z" in done.stdout


def run_here(base: Path, task: Task) -> tuple[int, str]:
    """Do `task` in this process; return its status and what it said."""
    said: list[str] = []
    status = kernel_script.run(task, base, base / "temp/pipeline", said.append)
    assert manifest_of(base)["finished"] is False
    return status, "\n".join(said)


def test_a_7z_that_nothing_can_unpack(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lay(tmp_path / "input/competitions/digits", "labels.csv", "sample_submission.csv", "train.7z", "test.7z")
    monkeypatch.setitem(sys.modules, "py7zr", None)
    monkeypatch.setenv("PATH", str(tmp_path / "no programs"))
    task = kernel_bundle.make_task("digits", load_settings("digits"), "trial", QUICK, RUN_ID)
    status, said = run_here(tmp_path, task)
    assert status == 2
    assert "neither the package py7zr nor the program 7z is here: attach the unpacked data" in said


def test_no_data(tmp_path: Path) -> None:
    lay(tmp_path / "input", "other/labels.csv")
    task = kernel_bundle.make_task("cifar-10", load_settings("cifar-10"), "trial", QUICK, RUN_ID)
    status, said = run_here(tmp_path, task)
    assert status == 2
    (message,) = [line for line in said.splitlines() if line.startswith("error: ")]
    assert "searched for trainLabels.csv, sampleSubmission.csv, train, test" in message
    assert "There is: other/." in message and "competitions/cifar-10/rules" in message
    assert manifest_of(tmp_path)["files"] == {}


def test_a_process_for_each_of_two_gpus(tmp_path: Path, small: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    shutil.copytree(small, tmp_path / "input/digits")
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(bundled().split('PIPELINE = """\n')[1].split('"""')[0]))) as code:
        code.extractall(tmp_path / "temp/pipeline/code")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # of this process; the stages find none, and use cores
    for name, value in environment(tmp_path).items():
        monkeypatch.setenv(name, value)
    task = kernel_bundle.make_task(
        "digits", load_settings("digits"), "trial", ("train.epochs=1", "hardware.workers=0"), RUN_ID
    )
    said: list[str] = []
    assert kernel_script.run(task, tmp_path, tmp_path / "temp/pipeline", said.append) == 0, said
    assert manifest_of(tmp_path)["finished"]
    trained = json.loads((tmp_path / "working/runs/digits/trial/train.json").read_text())
    assert trained["hardware"]["processes"] == 2


def test_a_stage_that_fails_ends_the_run_with_its_status(tmp_path: Path) -> None:
    folder = lay(tmp_path / "input/digits", "train/1.png", "test/2.png")
    (folder / "sample_submission.csv").write_text("id,label\n2,0\n")
    (folder / "labels.csv").write_text("id,label\n1,5\n1,5\n")
    lay(tmp_path / "working", "manifest.json")  # of an earlier session
    done = execute(tmp_path, bundled())
    assert done.returncode == 2 and "labels.csv" in done.stdout
    assert "The stage split failed with status 2." in done.stdout
    assert not (tmp_path / "working/submission.csv").exists()
    assert manifest_of(tmp_path)["finished"] is False


@pytest.mark.slow
def test_what_a_failed_run_has_made_is_left(tmp_path: Path, small: Path) -> None:
    folder = tmp_path / "input/digits"
    shutil.copytree(small, folder)
    (folder / "test/7.png").write_bytes(b"not an image")
    done = execute(tmp_path, bundled())
    assert done.returncode == 2 and "7.png" in done.stdout
    manifest = manifest_of(tmp_path)
    assert manifest["finished"] is False and "runs/digits/trial/run.json" in manifest["files"]


def test_an_old_python(tmp_path: Path) -> None:
    script = bundled().replace("sys.version_info < (3, 11)", "sys.version_info < (9, 9)")
    done = execute(tmp_path, script)
    assert done.returncode == 2
    assert done.stdout.startswith("error: Python 3.11 or newer is needed, and this is 3.")
    assert not list((tmp_path / "working").iterdir())


def test_the_script_itself_is_python_3_10() -> None:
    ast.parse(bundled(), feature_version=(3, 10))


PRETRAINED = ("model.name=resnet18", "model.weights=IMAGENET1K_V1")


@pytest.mark.parametrize("name", ["small.pth", "small.safetensors", "small.ckpt"])
def test_weights_are_linked_from_what_is_attached(tmp_path: Path, name: str) -> None:
    attached = lay(tmp_path / "input" / "my-weights" / "pytorch" / "small" / "1", name)
    layout = Layout(tmp_path / "work", "digits")
    said: list[str] = []
    settings = weighted("model.name=shufflenet_v2_x0_5", f"model.weights=weights/{name}")
    attach_weights(settings, tmp_path / "input", None, layout, said.append)
    assert (layout.weights / name).readlink() == attached / name
    assert said == [f"Weights: {attached / name}"]


@pytest.mark.parametrize("place", ["mine/{0}.safetensors", "models/{0}/model.safetensors"])
def test_weights_of_timm_are_found_by_their_names(tmp_path: Path, place: str) -> None:
    name = "convnext_tiny.in12k_ft_in1k"
    lay(tmp_path / "input/others", "resnet18.a1_in1k.safetensors", "model.safetensors")
    attached = lay(tmp_path / "input", place.format(name)) / place.format(name)
    layout = Layout(tmp_path / "work", "digits")
    settings = weighted(f"model.name=timm/{name}", "model.weights=DEFAULT")
    attach_weights(settings, tmp_path / "input", None, layout, print)
    assert (layout.weights / f"{name}.safetensors").readlink() == attached
    attached.unlink()
    with pytest.raises(UserError, match=rf"The weights {name}\.safetensors of timm/{name} are not below"):
        attach_weights(settings, tmp_path / "input", None, layout, print)


def weighted(*overrides: str) -> Settings:
    return load_settings("digits", overrides=overrides)


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (PRETRAINED, r"resnet18-f37072fd\.pth of resnet18 .*kaggle\.dataset_sources.*or set kaggle\.internet=true"),
        (("model.name=resnet18", "model.weights=weights/x.pth", "kaggle.internet=true"), r"weights x\.pth of resnet18"),
    ],
)
def test_weights_that_are_not_attached(tmp_path: Path, overrides: tuple[str, ...], message: str) -> None:
    lay(tmp_path / "input", "data/resnet18-f37072fd.pth.txt", "data/resnet18-f37072fd.pth")  # another file of the name
    with pytest.raises(UserError, match=message):
        attach_weights(weighted(*overrides), tmp_path / "input", None, Layout(tmp_path, "digits"), print)


def test_weights_that_need_not_be_attached(tmp_path: Path) -> None:
    for overrides in ((), (*PRETRAINED, "model.pretrained=false"), (*PRETRAINED, "kaggle.internet=true")):
        attach_weights(weighted(*overrides), tmp_path / "input", None, Layout(tmp_path, "digits"), print)
    assert not (tmp_path / "weights").exists()


def test_each_network_has_weights() -> None:
    two = weighted("model.name=resnet34+vgg16", "model.weights=IMAGENET1K_V1")
    assert weights_of(two) == [("resnet34", "IMAGENET1K_V1"), ("vgg16", "IMAGENET1K_V1")]
    own = weighted("model.name=resnet34+vgg16", "model.weights=a.pth+b.pth")
    assert weights_of(own) == [("resnet34", "a.pth"), ("vgg16", "b.pth")]
    assert weights_of(weighted("model.name=resnet34", "model.weights=a+b.pth")) == [("resnet34", "a+b.pth")]


def test_the_files_of_a_task_are_those_that_the_settings_name() -> None:
    data = DataSettings(labels="a.json + b.json", sample_submission="s.csv.zip", test_table="t/t.csv")
    task = kernel_bundle.make_task("x", Settings("x", data=data), "run", [], "1")
    assert (task.files, task.folders) == (["a.json", "b.json", "s.csv", "t/t.csv"], ["train", "test"])
    table = DataSettings(labels="train.csv", test_table="test.csv", pixel_columns="pixel*")
    task = kernel_bundle.make_task("x", Settings("x", data=table), "run", [], "1")
    assert (task.files, task.folders) == (["train.csv", "test.csv"], [])
