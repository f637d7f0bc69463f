"""Write files and folders atomically, lock them, hash them, and check their names."""

import errno
import hashlib
import json
import os
import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipelines.system.errors import UserError
from pipelines.system.shell import path_word, removal

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None  # type: ignore[assignment]

CHUNK_BYTES = 1 << 20
NO_LOCKS = (errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOLCK)  # raised by some network file systems
LONGEST_NAME, LONGEST_PATH = 255, 4000  # bytes; the limits of common file systems
MOST_IN_FOLDER = 100_000  # new files in one folder: some file systems and tools are slow with more, or refuse them
CONTROL_CHARACTERS = re.compile(r"[\x00-\x1f\x7f]")


def path_problem(text: str) -> str:
    """Return why `text` cannot be a path on any file system; empty if it can."""
    if CONTROL_CHARACTERS.search(text):
        return "it has control characters"
    if len(os.fsencode(text)) > LONGEST_PATH or any(len(os.fsencode(part)) > LONGEST_NAME for part in text.split("/")):
        return f"a name in it is longer than {LONGEST_NAME} bytes"
    return ""


def is_plain_name(text: str) -> bool:
    """Return whether `text` can name a file or folder, with 40 characters to spare for prefixes and suffixes."""
    return Path(text).name == text != "" and not text.startswith(".") and not path_problem(text + "-" * 40)


def numbered_folders(count: int) -> Iterator[str]:
    """Yield for each of `count` files where it belongs in its folder: `/0`, `/1`, … such that none holds too many.

    Up to `MOST_IN_FOLDER` files are in the folder itself: an empty text.
    """
    return (f"/{number // MOST_IN_FOLDER}" if count > MOST_IN_FOLDER else "" for number in range(count))


def partial_name(path: Path) -> Path:
    """Return the name of `path` while it is written; always the same, so a killed process's file is overwritten."""
    return path.with_name(f".{path.name}.partial")


@contextmanager
def atomic_file(path: Path, make_folder: bool = True) -> Iterator[Path]:
    """Yield a temporary path beside `path`; if the block succeeds, flush it to disk and rename it to `path`.

    make_folder: False if the folder exists; creating it after its disk was unmounted would write to another disk.
    Raises `UserError` if the folder vanishes.
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
                f"The folder {path.parent} is no longer there, so {path.name} cannot be written. Is its disk still "
                "mounted? Restore it, and run the same command again to continue."
            ) from None
        raise


@contextmanager
def atomic_folder(path: Path) -> Iterator[Path]:
    """Yield a new empty folder beside `path`; if the block succeeds, it replaces `path`.

    Raises `UserError` if another process is writing `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial, outgoing = partial_name(path), path.with_name(f".{path.name}.outgoing")
    with suppress(FileNotFoundError), _sole_writer(partial, path):
        shutil.rmtree(partial, ignore_errors=True)  # left by a killed process
    shutil.rmtree(outgoing, ignore_errors=True)
    partial.mkdir()
    with _sole_writer(partial, path):
        try:
            yield partial
            if path.exists():
                os.replace(path, outgoing)
            os.replace(partial, path)
            if outgoing.exists():
                shutil.rmtree(outgoing)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise


@contextmanager
def _sole_writer(folder: Path, path: Path) -> Iterator[None]:
    """Hold the lock of `folder`, which becomes `path`.  Raises `UserError` if another process holds it."""
    if not fcntl:
        yield
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"Another process is writing {path}. Wait until it has ended, or stop it.") from None
        except OSError:  # a file system that cannot lock folders
            pass
        yield
    finally:
        os.close(descriptor)


@contextmanager
def only_one(path: Path, doing: str, patience: float = 5.0, inherited: bool = True) -> Iterator[int]:
    """Hold the lock file `path` and yield its descriptor, until the block or the process ends.

    inherited: a child process that inherits the descriptor holds the lock too, until it ends. Raises `UserError`, with
    what the other process is `doing`, if the lock is not free within `patience` seconds.
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


def reserve(file: BinaryIO, size: int) -> None:
    """Give `file` the length `size`, and reserve its space: a full disk is an error here, not as pages are written."""
    if hasattr(os, "posix_fallocate"):
        os.posix_fallocate(file.fileno(), 0, size)
    file.truncate(size)


def write_text(path: Path, text: str) -> None:
    """Write `text` to `path` atomically, as UTF-8 with Unix line ends."""
    with atomic_file(path) as partial:
        partial.write_text(text, encoding="utf-8", newline="\n")


def write_json(path: Path, value: Any) -> None:
    """Write `value` to `path` atomically, as indented JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> Any:
    """Return the JSON value in `path`."""
    return json.loads(path.read_text(encoding="utf-8"))


def read_note(path: Path) -> dict[str, Any]:
    """Return the JSON object that a stage wrote to `path` when it ended. Raises `UserError` if it is damaged."""
    try:
        content = read_json(path)
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        remedy = f"Remove it, then run the same command again: {removal(path)}"
        raise UserError(f"{path_word(path)} is damaged: it is not a JSON object. {remedy}")
    return content


def plain_sha256(text: str) -> str:
    """Return a SHA-256 that a user wrote in the form of `file_sha256`: lower case, no white space."""
    return "".join(text.split()).lower()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of the bytes of `path`, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
