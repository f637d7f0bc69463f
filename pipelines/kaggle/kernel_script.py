"""The run of the whole pipeline inside a Kaggle session: it finds the data, runs the stages and leaves the results.

The script that `kernel_bundle` writes unpacks the pipeline and calls `run`.  The folders are Kaggle's: `input` with
what is attached, `temp`, and `working`, whose files become the output of the kernel.
"""

import importlib
import os
import platform
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings, submission_name
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256, write_json

STAGES = ("download", "split", "train", "retrain", "predict")
MANIFEST = "manifest.json"
FAILED = 2
SEARCH_DEPTH = 4  # folders below input: competitions/<slug>/ and what somebody packed into a dataset
ARCHIVES = (".zip", ".7z", ".tar", ".tar.gz", ".tgz")
WEIGHT_FILES = (".pth", ".pt", ".bin")
SEVEN_ZIP_PROGRAMS = ("7z", "7zz", "7za")
SHOWN_NAMES = 20

Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """What is to be run.

    competition: the TOML's name; slug: Kaggle's own.  run: the run's name.  overrides: `section.key=value`.
    files, folders: what the settings name of the data, relative to where they lie.
    """

    competition: str
    slug: str
    recipe: str
    run: str
    overrides: Sequence[str]
    run_id: str
    files: Sequence[str]
    folders: Sequence[str]


def run(task: Task, base: Path, folder: Path, say: Say) -> int:
    """Run all stages for `task` and return the exit status.

    base: holds Kaggle's folders input and working.  folder: where to work, with the unpacked pipeline in `code`.  What
    there is of results is copied to `base`/working even where a stage fails; the manifest, written last, says so.
    """
    import torch

    work, working = folder / "work", base / "working"
    layout = Layout(work, task.competition)
    work.mkdir(parents=True)
    working.mkdir(parents=True, exist_ok=True)
    (working / MANIFEST).unlink(missing_ok=True)
    facts = {"python": platform.python_version(), "torch": torch.__version__, "gpus": torch.cuda.device_count()}
    say(f"{task.competition}, recipe {task.recipe}, run {task.run}; run id {task.run_id}")
    say(f"Python {facts['python']}, torch {facts['torch']}, GPUs: {facts['gpus']}")
    status = FAILED
    try:
        settings = load_settings(task.competition, task.recipe, task.overrides)
        source = find_data(base / "input", task)
        if source is None and settings.competition.source != "digits":
            raise _no_data(base / "input", task)
        say(f"Data: {source or 'bundled with scikit-learn'}")
        attach_weights(settings, base / "input", source, layout, say)
        if source and _needs_seven_zip(source):
            source = _without_seven_zip(source, folder / "given", settings.kaggle.internet, say)
        status = _run_stages(task, source, folder, work, say)
    except UserError as error:
        say(f"error: {error}")
    finally:
        _leave_results(task, layout, working, facts, finished=status == 0)
    say("All stages are finished." if status == 0 else f"Stopped with status {status}.")
    return status


def find_data(folder: Path, task: Task) -> Path | None:
    """Return the folder or the archive below `folder` that holds what `task` names, unpacked or packed; None where
    there is none.

    Looked at are competitions/<slug>, <slug>, and then all folders, those near the top first.
    """
    own = [place for place in (folder / "competitions" / task.slug, folder / task.slug) if place.is_dir()]
    wanted = [*task.files, *task.folders]
    for place in chain(own, _folders(folder)):  # as far as need be: listing 300,000 images takes its time
        if all(any((place / name).exists() for name in _names_of(each)) for each in wanted):
            return place
    for place in chain(own, _folders(folder)):
        for archive in sorted(place.glob("*")):
            if archive.name.endswith(ARCHIVES) and _archive_holds(archive, task.slug, wanted):
                return archive
    return None


def _folders(folder: Path) -> Iterator[Path]:
    """Yield `folder` and the folders below it, level by level in the order of their names."""
    level = [folder] if folder.is_dir() else []
    for _ in range(SEARCH_DEPTH + 1):
        yield from level
        level = [
            Path(path)
            for place in level
            for path in sorted(entry.path for entry in os.scandir(place) if entry.is_dir())
        ]


def _names_of(name: str) -> list[str]:
    """The names under which the file or folder `name` may lie: its own, or those of an archive that holds it."""
    path = PurePosixPath(name)
    packed = [name, str(path.with_suffix("")), path.parts[0]]
    return [name, *(base + extension for base in dict.fromkeys(packed) for extension in ARCHIVES)]


def _archive_holds(archive: Path, slug: str, wanted: Sequence[str]) -> bool:
    if not zipfile.is_zipfile(archive):
        return archive.name in [slug + extension for extension in ARCHIVES]  # `download` looks into it
    with zipfile.ZipFile(archive) as content:
        parts = {part for name in content.namelist() for part in PurePosixPath(name).parts}
    return all(any(PurePosixPath(name).name in parts for name in _names_of(each)) for each in wanted)


def _no_data(folder: Path, task: Task) -> UserError:
    there = [str(place.relative_to(folder)) + "/" for place in _folders(folder) if place != folder]
    shown = ", ".join(there[:SHOWN_NAMES]) + (", …" if len(there) > SHOWN_NAMES else "") if there else "nothing"
    return UserError(
        f"The data of {task.slug} are not below {folder}: looked for {', '.join([*task.files, *task.folders])}, "
        f"unpacked or packed. There is: {shown}. Has the account that runs this accepted the competition's rules "
        f"(https://www.kaggle.com/competitions/{task.slug}/rules)? Data from elsewhere are attached by "
        "kaggle.dataset_sources."
    )


def _needs_seven_zip(source: Path) -> bool:
    """Whether there is a 7z in `source` that the pipeline cannot unpack itself."""
    try:
        importlib.import_module("py7zr")
        return False
    except Exception:  # missing, or of no use with what else is installed
        pass
    if source.is_dir():
        return any(name.lower().endswith(".7z") for _, _, names in os.walk(source) for name in names) or any(
            _needs_seven_zip(archive) for archive in source.glob("*.zip")
        )
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as content:
            return any(name.lower().endswith(".7z") for name in content.namelist())
    return source.name.lower().endswith(".7z")


def _without_seven_zip(source: Path, folder: Path, internet: bool, say: Say) -> Path:
    """Return a source that the pipeline can unpack: `source` itself after py7zr is installed, or `folder`, to which all
    was unpacked by the program 7z.

    Raises `UserError` where neither can be had.
    """
    program = next(filter(None, map(shutil.which, SEVEN_ZIP_PROGRAMS)), None)
    if program is None:
        advice = "attach the data unpacked by kaggle.dataset_sources, or allow kaggle.internet"
        if internet:
            say("Neither the package py7zr nor the program 7z is here: installing py7zr.")
            if subprocess.run([sys.executable, "-m", "pip", "install", "-q", "py7zr"], check=False).returncode == 0:
                return source
            advice = "py7zr could not be installed; attach the data unpacked by kaggle.dataset_sources"
        raise UserError(
            f"{source} holds 7z archives, and neither the package py7zr nor the program 7z is here: {advice}."
        )
    if source.is_dir():
        say(f"Copying {source} to {folder}, to unpack its 7z archives there.")
        shutil.copytree(source, folder, copy_function=shutil.copyfile)
    else:
        _call_seven_zip(program, source, folder, say)
    while archives := sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".7z", ".zip")):
        for archive in archives:
            _call_seven_zip(program, archive, archive.parent, say)
            archive.unlink()
    return folder


def _call_seven_zip(program: str, archive: Path, folder: Path, say: Say) -> None:
    say(f"Unpacking {archive.name}")
    done = subprocess.run(
        [program, "x", "-y", f"-o{folder}", str(archive)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        raise UserError(
            f"{program} could not unpack {archive} (status {done.returncode}): {done.stdout[-500:].strip()}"
        )


def attach_weights(settings: Settings, folder: Path, data: Path | None, layout: Layout, say: Say) -> None:
    """Link the files of pretrained weights that `settings` name from below `folder` to where the stages look for them.

    data: what need not be searched.  A published file is told by its SHA-256, whatever it is called.  Raises
    `UserError` for one that is missing and cannot be downloaded.
    """
    for network, weights in weights_of(settings):
        from pipelines.models.published import is_published_name, published

        found = _weight_files(folder, data)
        if is_published_name(weights):
            known = published(network, weights)
            name, target = known.filename, layout.weights / known.filename
            found.sort(key=lambda path: path.name != name)  # stable: those of that name first
            chosen = next((path for path in found if file_sha256(path).startswith(known.prefix)), None)
            may_download = settings.kaggle.internet
        else:
            name, target = Path(weights).name, layout.root / weights
            chosen = next((path for path in found if path.name == name), None)
            may_download = False
        if chosen and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(chosen)
            say(f"Weights: {chosen}")
        if not (chosen or may_download):
            raise UserError(
                f"The weights {name} of {network} are not below {folder}: attach a dataset with this file by "
                "kaggle.dataset_sources, or a model by kaggle.model_sources"
                + (", or allow kaggle.internet." if is_published_name(weights) else ".")
            )


def weights_of(settings: Settings) -> list[tuple[str, str]]:
    """Return each network of `settings` whose weights must be there, with their name or file; none where all is fresh.

    What the parts mean and whether their numbers agree is for the stages.
    """
    model = settings.model
    if not (model.weights and model.pretrained):
        return []
    networks = model.name.split("+")
    sources = model.weights.split("+") if len(networks) > 1 else [model.weights]
    return list(zip(networks, sources * len(networks) if len(sources) == 1 else sources, strict=False))


def _weight_files(folder: Path, data: Path | None) -> list[Path]:
    """Return the files below `folder`, but not below `data`, that may hold weights."""
    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if Path(place) / name != data)
        found += [Path(place) / name for name in sorted(names) if name.lower().endswith(WEIGHT_FILES)]
    return found


def _run_stages(task: Task, source: Path | None, folder: Path, work: Path, say: Say) -> int:
    """Run the stages one after the other, their output straight to the log; return the status of the last."""
    paths = [str(folder / "code"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    words = [task.competition, "--recipe", task.recipe, "--run", task.run]
    words += ["--set", *task.overrides] if task.overrides else []
    for stage in STAGES:
        more = ["--archive", str(source)] if stage == "download" and source else []
        say(f"\n{stage}")
        done = subprocess.run(
            [sys.executable, "-m", f"pipelines.{stage}", *words, *more], cwd=work, env=environment, check=False
        )
        if done.returncode:
            say(f"The stage {stage} failed with status {done.returncode}.")
            return done.returncode
    return 0


def _leave_results(task: Task, layout: Layout, working: Path, facts: Mapping[str, Any], finished: bool) -> None:
    """Copy the run and its submission to `working`, and last write the manifest that vouches for them."""
    run = layout.run(task.run)
    left_out = (run.last.name, run.retrain_last.name)  # of use only to go on from
    results = {
        path.relative_to(layout.root).as_posix(): path
        for path in (*run.folder.rglob("*"), *layout.submission("any").parent.glob("*.csv"))
        if path.is_file() and path.name not in left_out and not path.name.startswith(".")
    }
    submission = layout.submission(submission_name(task.run, task.overrides))
    if submission.exists():
        results["submission.csv"] = submission  # where Kaggle's own button looks for it
    described = {}
    for name, path in sorted(results.items()):
        target = working / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        described[name] = {"bytes": target.stat().st_size, "sha256": file_sha256(target)}
    write_json(working / MANIFEST, {"run_id": task.run_id, "finished": finished, **facts, "files": described})
