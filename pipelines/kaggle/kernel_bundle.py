"""The pipeline as one Python script for Kaggle, with its metadata: a short header, and a zip in base64.

The zip holds only the modules that the stages import, the competition's TOML and its label map, and in the folder
`beside` the tables that the settings name in the working folder.
"""

import ast
import base64
import hashlib
import io
import json
import re
import zipfile
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

from pipelines.dataset.encodings import AND, PACKED
from pipelines.kaggle.kernel_script import BESIDE, STAGES, Task
from pipelines.settings.addresses import dataset_name, model_name
from pipelines.settings.loading import label_map_file, missing_label_map
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError

PACKAGE = Path(__file__).parent.parent
TEMPLATES = (".html", ".css")  # of pages that modules beside them write
SCRIPT, METADATA = "script.py", "kernel-metadata.json"
ROOTS = (*(f"pipelines.{stage}" for stage in STAGES), "pipelines.tools.launch", "pipelines.kaggle.kernel_script")
LINE = 116  # characters of base64
LEAST, MOST = 5, 50  # length of Kaggle's slugs
HASH_LENGTH = 6

HEADER = '''\
"""One run of an image-classification pipeline, from the data attached to this kernel to submission.csv.

Written by `make kernel`.  The long text below is the pipeline: a zip, in base64, of its Python modules and this
competition's settings.  It is unpacked to a temporary folder, where its stages run one after another.
"""

import base64
import functools
import io
import json
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

COMPETITION = {competition}
SLUG = {slug}
RECIPE = {recipe}
RUN = {run}
SET = {overrides}
RUN_ID = {run_id}
FILES = {files}
FOLDERS = {folders}


def main():
    if sys.version_info < (3, 11):
        print("error: Python 3.11 or newer is needed, and this is " + sys.version.split()[0] + ": choose the latest")
        print("environment in the kernel's settings (docker_image_pinning_type is then 'latest').")
        return 2
    base = Path(os.environ.get("PIPELINES_KAGGLE_FOLDER", "/kaggle"))
    folder = base / "temp" / "pipeline"
    try:
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    except OSError:
        folder = Path(tempfile.mkdtemp(prefix="pipeline-"))
    with zipfile.ZipFile(io.BytesIO(base64.b64decode(PIPELINE))) as archive:
        archive.extractall(folder / "code")
    sys.path.insert(0, str(folder / "code"))
    from pipelines.kaggle.kernel_script import Task, run

    task = Task(COMPETITION, SLUG, RECIPE, RUN, SET, RUN_ID, FILES, FOLDERS)
    return run(task, base, folder, functools.partial(print, flush=True))


PIPELINE = """
{pipeline}
"""

if __name__ == "__main__":
    status = main()
    if status:
        sys.exit(status)
'''


def make_task(competition: str, settings: Settings, run: str, overrides: Iterable[str], run_id: str) -> Task:
    """Return the task of the kernel.  competition: name of the TOML; run: name of the run."""
    data = settings.data
    tables = [
        part.strip() for name in (data.labels, data.sample_submission, data.test_table) for part in name.split(AND)
    ]
    files = [str(PurePosixPath(name).with_suffix("")) if name.endswith(PACKED) else name for name in tables if name]
    images = () if data.pixel_columns else (data.train_images, data.test_images)
    folders = [name for name in dict.fromkeys(images) if name]
    return Task(competition, settings.competition.slug, settings.recipe, run, list(overrides), run_id, files, folders)


def needed_files(
    toml: Path, label_map: str = "", beside: Iterable[str] = (), package: Path = PACKAGE
) -> dict[str, Path]:
    """Return the kernel's files by their names in the zip: modules, `toml`, the CSV `label_map`, and those `beside`.

    beside: paths of CSVs, from the working folder; those that are not there are expected among the data.
    """
    files = imported_modules(ROOTS, package)
    files[f"{package.name}/competitions/{toml.name}"] = toml
    for name in filter(None, beside):
        if Path(name).is_file():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise UserError(
                    f"{name}, which the settings name, is outside the working folder, so a kernel on Kaggle cannot "
                    "reach it: copy it there, and name the copy."
                )
            files[f"{BESIDE}/{PurePosixPath(name)}"] = Path(name)
    if label_map and label_map != "names":
        if PurePosixPath(label_map).is_absolute() or ".." in PurePosixPath(label_map).parts:
            raise UserError(
                f"model.label_map is {label_map}, which a kernel on Kaggle cannot reach: use a path relative to the "
                "working folder or to pipelines/competitions, without '..'."
            )
        path = label_map_file(label_map)
        if path is None:
            raise missing_label_map(label_map)
        files[f"{package.name}/competitions/{PurePosixPath(label_map)}"] = path
    return files


def imported_modules(roots: Iterable[str], package: Path = PACKAGE) -> dict[str, Path]:
    """Return `roots`, all modules of `package` that they import, and the templates beside these.

    These are paths, by names relative to the package's folder.
    """
    home = package.parent
    found: dict[str, Path] = {}
    pending = list(roots)
    while pending:
        parts = pending.pop().split(".")
        prefixes = [Path(*parts[:length]) for length in range(1, len(parts) + 1)]  # the last may be no module
        for relative in [each for prefix in prefixes for each in (prefix / "__init__.py", prefix.with_suffix(".py"))]:
            if relative.as_posix() not in found and (home / relative).is_file():
                found[relative.as_posix()] = home / relative
                pending += _imports((home / relative).read_text(encoding="utf-8"), package.name)
    rooms = {path.parent for path in found.values()}
    templates = [path for room in rooms for path in room.iterdir() if path.suffix in TEMPLATES]
    return found | {path.relative_to(home).as_posix(): path for path in templates}


def _imports(source: str, package: str) -> list[str]:
    """Return the names in `package` that a module imports: modules, and names inside modules."""
    names: list[str] = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import | ast.ImportFrom):
            prefix = f"{node.module}." if isinstance(node, ast.ImportFrom) else ""
            names += [prefix + alias.name for alias in node.names]
    return [name for name in names if name.partition(".")[0] == package]


def pack(files: Mapping[str, Path]) -> bytes:
    """Return a zip of `files`: the same bytes for the same names and contents, on every system."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(files):
            info = zipfile.ZipInfo(name)  # with the earliest date, 1980
            info.create_system, info.external_attr = 3, 0o644 << 16
            info.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(info, files[name].read_bytes(), compresslevel=9)
    return buffer.getvalue()


def make_script(task: Task, packed: bytes) -> str:
    """Return the script that runs `task` with the pipeline in the zip `packed`."""
    text = base64.b64encode(packed).decode()
    lines = "\n".join(text[start : start + LINE] for start in range(0, len(text), LINE))
    # Python literals; JSON's escapes of characters beyond 16 bits would mean others in Python.
    values = {name: json.dumps(value, ensure_ascii=False) for name, value in asdict(task).items()}
    return HEADER.format(pipeline=lines, **values)


def kernel_slug(competition: str, run: str) -> str:
    """Return the kernel's name on Kaggle: 5 to 50 of a-z, 0-9 and single hyphens, with a hash if it was changed."""
    name = f"{competition}-{run}"
    slug = re.sub("[^a-z0-9]+", "-", name.lower()).strip("-")
    if slug == name and LEAST <= len(slug) <= MOST:
        return slug
    digest = hashlib.sha256(name.encode()).hexdigest()[:HASH_LENGTH]
    return f"{slug[: MOST - HASH_LENGTH - 1].strip('-')}-{digest}".lstrip("-")


def make_metadata(username: str, slug: str, settings: Settings) -> dict[str, Any]:
    """Return the kernel-metadata.json of the private kernel `username`/`slug`."""
    kaggle = settings.kaggle
    return {
        "id": f"{username}/{slug}",
        "title": slug.replace("-", " "),
        "code_file": SCRIPT,
        "language": "python",
        "kernel_type": "script",
        "is_private": True,
        "enable_gpu": bool(kaggle.accelerator),
        **({"machine_shape": kaggle.accelerator} if kaggle.accelerator else {}),
        "enable_tpu": False,
        "enable_internet": kaggle.internet,
        "competition_sources": [settings.competition.slug] if settings.competition.source == "kaggle" else [],
        "dataset_sources": list(map(dataset_name, kaggle.dataset_sources)),
        "kernel_sources": [],
        "model_sources": list(map(model_name, kaggle.model_sources)),
    }
