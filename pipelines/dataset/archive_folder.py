"""The files of a folder that is given instead of an archive, and how they come into the raw folder."""

import errno
import os
import shutil
from collections.abc import Iterator, Sequence
from pathlib import Path

from pipelines.dataset.archive_kinds import is_junk
from pipelines.system.errors import UserError

SHOWN = 10


def files_below(source: Path, target: Path, label: str) -> dict[str, Path]:
    """Return the plain files of the folder `source` by their paths below it; links are followed.

    Raises `UserError` that lists broken links, links in a circle, files that cannot be read, pipes and devices.
    """
    problems: list[str] = []
    found = dict(_walk(source, "", (source.resolve(),), target.resolve(), problems))
    if problems:
        more = f"; and {len(problems) - SHOWN} more" if len(problems) > SHOWN else ""
        raise UserError(
            f"{label}: {'; '.join(problems[:SHOWN])}{more}. Correct or remove {'them' if problems[1:] else 'it'}."
        )
    if not found:
        raise UserError(f"{label}: the folder holds no files. Give the folder that holds the competition's files.")
    return found


def _walk(
    folder: Path, prefix: str, around: Sequence[Path], target: Path, problems: list[str]
) -> Iterator[tuple[str, Path]]:
    """Yield the files below `folder`, sorted by name. around: the real folders that lead here."""
    try:
        with os.scandir(folder) as entries:
            found = sorted(entries, key=lambda entry: entry.name)
    except PermissionError:
        problems.append(f"the folder {prefix or '.'} cannot be read (permission denied)")
        return
    for entry in found:
        name, path = prefix + entry.name, Path(entry.path)
        if is_junk(entry.name):
            continue
        link = f" (a link to {path.readlink()})" if entry.is_symlink() else ""
        if _is_folder(entry):
            real = path.resolve() if link else around[-1] / entry.name
            if link and (real in around or any(each.is_relative_to(real) for each in (*around, target))):
                problems.append(f"{name}{link} leads to a folder that it is in itself, in a circle")
            else:
                yield from _walk(path, f"{name}/", (*around, real), target, problems)
        elif problem := _problem(path):
            problems.append(f"{name}{link} {problem}")
        else:
            yield name, path.resolve() if link else path


def _is_folder(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a link to itself
        return False


def _problem(path: Path) -> str:
    """Return why `path` cannot be used as a file; empty if it can."""
    if not path.is_file():
        return "is not a file and not a link to one" if path.exists() or not path.is_symlink() else "is a broken link"
    return "" if os.access(path, os.R_OK) else "cannot be read (permission denied)"


def linked(source: Path, target: Path) -> bool:
    """Hard-link `source` to `target`, or copy it; return whether it was linked."""
    try:
        os.link(source, target)
    except OSError as error:
        # another file system, one without hard links, too many links, a file of another user
        if error.errno not in (errno.EXDEV, errno.EPERM, errno.ENOTSUP, errno.EMLINK, errno.EACCES):
            raise
        shutil.copyfile(source, target)
        return False
    return True
