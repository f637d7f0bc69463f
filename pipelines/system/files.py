"""Writing so that nothing half-written ever looks whole, and identifying files by their bytes."""

import errno
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pipelines.system.errors import UserError

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK_BYTES = 1 << 20
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # from some network file systems


def partial_name(path: Path) -> Path:
    """The name under which `path` is written until it is whole.

    It is the same every time, so that what a killed process left behind is overwritten by the next one.
    """
    return path.with_name(f".{path.name}.partial")


@contextmanager
def atomic_file(path: Path, make_folder: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; when the block succeeds, flush it to disk and rename it to `path`.

    make_folder: False where the folder has been there, and making it anew could only be below the place from which a
    disk has vanished.  Raises `UserError` when the folder vanishes.
    """
    if make_folder:
        path.parent.mkdir(parents=True, exist_ok=True)
    partial = partial_name(path)
    try:
        yield partial
        with open(partial, "rb+") as file:
            os.fsync(file.fileno())
        os.replace(partial, path)
    except BaseException as error:
        partial.unlink(missing_ok=True)
        if isinstance(error, OSError) and not path.parent.is_dir():
            raise UserError(
                f"{path.parent} is no longer there, where {path.name} was to be written. Is its disk still mounted? "
                "Put it back, and type the same command again to go on."
            ) from None
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `path`; when the block succeeds, rename it to `path`.

    An older folder at `path` is replaced: it stays whole until the new one is.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, outgoing = partial_name(path), path.with_name(f".{path.name}.outgoing")
    for left in (partial, outgoing):  # by a killed process
        shutil.rmtree(left, ignore_errors=True)
    partial.mkdir()
    try:
        yield partial
        if path.exists():
            os.replace(path, outgoing)
            os.replace(partial, path)
            shutil.rmtree(outgoing)
        else:
            os.replace(partial, path)
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise


@contextmanager
def only_one(path: Path, doing: str, patience: float = 5.0, inherited: bool = True) -> Iterator[int]:
    """Hold the lock file `path` and yield its descriptor, until the block or the process ends, however that happens.

    inherited: a process that inherits the descriptor holds the lock too, until it ends; else only this process holds
    it, and no worker that outlives it for a moment.  Raises `UserError`, which says what the other process is `doing`,
    when it is still held after `patience` seconds.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    deadline = time.monotonic() + patience
    with open(path, "ab") as lock:
        while fcntl:
            try:
                (fcntl.flock if inherited else fcntl.lockf)(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError as error:
                if error.errno in NO_LOCKS:
                    break
                if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                    raise
            if time.monotonic() > deadline:
                raise UserError(f"Another process is {doing}. Wait until it has ended, or stop it.")
            time.sleep(0.1)
        yield lock.fileno()


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` as UTF-8 with Unix line ends, atomically."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` as indented JSON, atomically."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Read the JSON value that `write_json` wrote."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_note(path: Path) -> dict[str, Any]:
    """Read the JSON object that a stage left in `path` when it had ended; raises `UserError` where it is none."""
    try:
        content = read_json(path)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise UserError(
            f"{path} is damaged: it holds no JSON object. Remove it, and call the stage that makes it again."
        )
    return content


def plain_sha256(text: str) -> str:
    """Return a SHA-256 that a person typed as `file_sha256` spells it: lower case, without white space."""
    return "".join(text.split()).lower()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the bytes of `path` in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
