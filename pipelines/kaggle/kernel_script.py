"""The whole pipeline in a Kaggle session: find the data, run the stages, leave the results.

The script of `kernel_bundle` unpacks the pipeline and calls `run`.  Kaggle's folders are `input`, with the attached
data, `temp`, and `working`, whose files become the kernel's output.
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

from pipelines.dataset.archive_pieces import EXTENSIONS
from pipelines.models.timm_models import HUB_FILE
from pipelines.settings.detectors import parts_of
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings, submission_name
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256, write_json
from pipelines.system.group import SHARED

STAGES = ("download", "split", "train", "retrain", "predict")
MANIFEST = "manifest.json"
BESIDE = "beside"  # folder of the unpacked pipeline: tables from the working folder of whoever pushed it
SEARCH_DEPTH = 4  # folders below input: competitions/<slug>/, and the folders of a dataset
SHOWN_NAMES = 20

Say = Callable[[str], None]


@dataclass(frozen=True)
class Task:
    """The run of a kernel.  competition: the TOML's name; slug: Kaggle's name.  overrides: `section.key=value`.

    files, folders: the names in the settings of the data, relative to the data's folder.
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

    base: holds Kaggle's folders input and working.  folder: the working folder; its `code` holds the unpacked pipeline.
    Results, and last the manifest, are copied to `base`/working even if a stage fails.
    """
    import torch

    layout, working = Layout(folder / "work", task.competition), base / "working"
    layout.root.mkdir(parents=True)
    if (tables := folder / "code" / BESIDE).is_dir():
        shutil.copytree(tables, layout.root, dirs_exist_ok=True)
    working.mkdir(parents=True, exist_ok=True)
    (working / MANIFEST).unlink(missing_ok=True)
    gpus = torch.cuda.device_count()
    facts = {"python": platform.python_version(), "torch": torch.__version__, "gpus": gpus}
    say(f"{task.competition}, recipe {task.recipe}, run {task.run}; run id {task.run_id}")
    say(f"Python {facts['python']}, torch {facts['torch']}, GPUs: {facts['gpus']}")
    status = 2
    try:
        settings = load_settings(task.competition, task.recipe, task.overrides)
        source = find_data(base / "input", task)
        if source is None and settings.competition.source != "digits":
            raise _no_data(base / "input", task)
        say(f"Data: {source or 'bundled with scikit-learn'}")
        attach_weights(settings, base / "input", source, layout, say)
        if source and _needs_seven_zip(source):
            source = _without_seven_zip(source, folder / "given", settings.kaggle.internet, say)
        processes = gpus if settings.hardware.device in ("auto", "cuda") else 1
        status = _run_stages(task, source, folder, processes, say)
    except UserError as error:
        say(f"error: {error}")
    finally:
        _leave_results(task, layout, working, facts, finished=status == 0)
    say("All stages are finished." if status == 0 else f"Stopped with status {status}.")
    return status


def find_data(folder: Path, task: Task) -> Path | None:
    """Return the folder or archive below `folder` that holds the names of `task`, unpacked or packed; else None."""
    own = [place for place in (folder / "competitions" / task.slug, folder / task.slug) if place.is_dir()]
    wanted = [*task.files, *task.folders]
    for place in chain(own, _folders(folder)):  # lazily: listing 300,000 images is slow
        if all(any((place / name).exists() for name in _names_of(each)) for each in wanted):
            return place
    for place in chain(own, _folders(folder)):
        for archive in sorted(place.glob("*")):
            if archive.name.endswith(EXTENSIONS) and _archive_holds(archive, task.slug, wanted):
                return archive
    return None


def _folders(folder: Path) -> Iterator[Path]:
    """Yield `folder` and the folders below it, level by level, sorted by name."""
    level = [folder] if folder.is_dir() else []
    for _ in range(SEARCH_DEPTH + 1):
        yield from level
        below = (sorted(entry.path for entry in os.scandir(place) if entry.is_dir()) for place in level)
        level = [Path(path) for paths in below for path in paths]


def _names_of(name: str) -> list[str]:
    """Return `name`, of a file or folder, and the possible names of an archive that holds it."""
    path = PurePosixPath(name)
    packed = [name, str(path.with_suffix("")), path.parts[0]]
    return [name, *(base + extension for base in dict.fromkeys(packed) for extension in EXTENSIONS)]


def _archive_holds(archive: Path, slug: str, wanted: Sequence[str]) -> bool:
    if not zipfile.is_zipfile(archive):
        return archive.name in [slug + extension for extension in EXTENSIONS]  # the stage download checks its content
    with zipfile.ZipFile(archive) as content:
        parts = {part for name in content.namelist() for part in PurePosixPath(name.replace("\\", "/")).parts}
    return all(any(PurePosixPath(name).name in parts for name in _names_of(each)) for each in wanted)


def _no_data(folder: Path, task: Task) -> UserError:
    there = [str(place.relative_to(folder)) + "/" for place in _folders(folder) if place != folder]
    shown = ", ".join(there[:SHOWN_NAMES]) + (", …" if len(there) > SHOWN_NAMES else "") if there else "nothing"
    return UserError(
        f"The data of {task.slug} are not below {folder}: searched for {', '.join([*task.files, *task.folders])}, "
        f"unpacked or packed. There is: {shown}. Accept the competition's rules "
        f"(https://www.kaggle.com/competitions/{task.slug}/rules), or attach other data with kaggle.dataset_sources."
    )


def _needs_seven_zip(source: Path) -> bool:
    """Return whether `source` holds a 7z archive that the stages cannot unpack."""
    try:
        importlib.import_module("py7zr")
        return False
    except Exception:  # missing, or incompatible with other packages
        pass
    if source.is_dir():
        inside = any(name.lower().endswith(".7z") for _, _, names in os.walk(source) for name in names)
        return inside or any(map(_needs_seven_zip, source.glob("*.zip")))
    if zipfile.is_zipfile(source):
        with zipfile.ZipFile(source) as content:
            return any(name.lower().endswith(".7z") for name in content.namelist())
    return source.name.lower().endswith(".7z")


def _without_seven_zip(source: Path, folder: Path, internet: bool, say: Say) -> Path:
    """Unpack `source` to `folder` with the program 7z, or install py7zr; return the source for the stages."""
    program = next(filter(None, map(shutil.which, ("7z", "7zz", "7za"))), None)
    if program is None:
        advice = "attach the unpacked data with kaggle.dataset_sources, or set kaggle.internet=true"
        if internet:
            say("Neither the package py7zr nor the program 7z is here: installing py7zr.")
            if subprocess.run([sys.executable, "-m", "pip", "install", "-q", "py7zr"], check=False).returncode == 0:
                return source
            advice = "py7zr could not be installed; attach the unpacked data with kaggle.dataset_sources"
        missing = "neither the package py7zr nor the program 7z is here"
        raise UserError(f"{source} holds 7z archives, and {missing}: {advice}.")
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
    words = [program, "x", "-y", f"-o{folder}", str(archive)]
    done = subprocess.run(words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if status := done.returncode:
        raise UserError(f"{program} could not unpack {archive} (status {status}): {done.stdout[-500:].strip()}")


def attach_weights(settings: Settings, folder: Path, data: Path | None, layout: Layout, say: Say) -> None:
    """Link the pretrained weights of `settings`, found below `folder` but not below `data`, to where the stages look.

    A published file is identified by its SHA-256.  Raises `UserError` for a missing file that cannot be downloaded.
    """
    for network, weights in weights_of(settings):
        from pipelines.models.published import is_published_name, published

        found, by_name = _weight_files(folder, data), is_published_name(weights)
        if by_name:
            known = published(network, weights)
            name, target = known.filename, layout.weights / known.filename
            found.sort(key=lambda path: path.name != name)  # files of that name first
            if known.prefix:
                chosen = next((path for path in found if file_sha256(path).startswith(known.prefix)), None)
            else:
                chosen = next((path for path in found if _is_of_hub(path, name)), None)
        else:
            name, target = Path(weights).name, layout.root / weights
            chosen = next((path for path in found if path.name == name), None)
        if chosen and not target.exists():
            target.parent.mkdir(parents=True, exist_ok=True)
            target.symlink_to(chosen)
            say(f"Weights: {chosen}")
        if not (chosen or (by_name and settings.kaggle.internet)):
            raise UserError(
                f"The weights {name} of {network} are not below {folder}: attach a dataset with this file with "
                "kaggle.dataset_sources, or a model with kaggle.model_sources"
                + (", or set kaggle.internet=true." if by_name else ".")
            )


def _is_of_hub(path: Path, name: str) -> bool:
    """Return whether `path` is the file `name` of timm's weights, or as at the hub: in a folder of that name."""
    return path.name == name or (path.name == HUB_FILE and path.parent.name == PurePosixPath(name).stem)


def weights_of(settings: Settings) -> list[tuple[str, str]]:
    """Return the networks that need weights, each with the weights' name or file; the stages check their number."""
    model = settings.model
    if not (model.weights and model.pretrained):
        return []
    networks = [parts_of(name)[1] for name in model.name.split("+")]
    sources = model.weights.split("+") if len(networks) > 1 else [model.weights]
    return list(zip(networks, sources * len(networks) if len(sources) == 1 else sources, strict=False))


def _weight_files(folder: Path, data: Path | None) -> list[Path]:
    """Return the possible weight files below `folder`, without those below `data`."""
    from pipelines.models import weight_files

    found: list[Path] = []
    for place, folders, names in os.walk(folder, followlinks=True):
        folders[:] = sorted(name for name in folders if Path(place) / name != data)
        found += [Path(place) / name for name in sorted(names) if name.lower().endswith(weight_files.EXTENSIONS)]
    return found


def _run_stages(task: Task, source: Path | None, folder: Path, processes: int, say: Say) -> int:
    """Run the stages in order, with their output in the log; return the last status.

    processes: of the stages that can be shared; one for each GPU, such as two T4.
    """
    paths = [str(folder / "code"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "PYTHONUNBUFFERED": "1"}
    words = [task.competition, "--recipe", task.recipe, "--run", task.run]
    words += ["--set", *task.overrides] if task.overrides else []
    for stage in STAGES:
        say(f"\n{stage}")
        module = [f"pipelines.{stage}"]
        if processes > 1 and stage in SHARED:
            module = ["pipelines.tools.launch", str(processes), stage]
        program = [sys.executable, "-m", *module, *words]
        program += ["--archive", str(source)] if stage == "download" and source else []
        if status := subprocess.run(program, cwd=folder / "work", env=environment, check=False).returncode:
            say(f"The stage {stage} failed with status {status}.")
            return status
    return 0


def _leave_results(task: Task, layout: Layout, working: Path, facts: Mapping[str, Any], finished: bool) -> None:
    """Copy the run and its submission to `working`, and last write the manifest with their checksums."""
    run = layout.run(task.run)
    left_out = (run.last.name, run.retrain_last.name)  # needed only to resume
    results = {
        path.relative_to(layout.root).as_posix(): path
        for path in (*run.folder.rglob("*"), *layout.submission("any").parent.glob("*.csv"))
        if path.is_file() and path.name not in left_out and not path.name.startswith(".")
    }
    submission = layout.submission(submission_name(task.run, task.overrides))
    if submission.exists():
        results["submission.csv"] = submission  # the name that Kaggle's submit button expects
    described = {}
    for name, path in sorted(results.items()):
        target = working / name
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, target)
        described[name] = {"bytes": target.stat().st_size, "sha256": file_sha256(target)}
    write_json(working / MANIFEST, {"run_id": task.run_id, "finished": finished, **facts, "files": described})
