"""Adapt this process to its machine: encodings, temporary files, and the number of open files."""

import io
import logging
import multiprocessing.process
import os
import shutil
import sys
import tempfile
from contextlib import suppress
from multiprocessing.util import Finalize
from pathlib import Path

from pipelines.system.errors import UserError

try:
    import resource
except ImportError:  # Windows
    resource = None  # type: ignore[assignment]

LONGEST_SOCKET_NAME = 107  # bytes, of Linux; macOS takes 103
SOCKET_NAME = "/pymp-12345678/listener-12345678"  # what multiprocessing adds to the temporary folder
SHORT_FOLDERS = ("/tmp", "/var/tmp", "/dev/shm", "/run/user")
TEMPORARY_VARIABLES = ("TMPDIR", "TEMP", "TMP")  # in the order of Python's tempfile
MANY_FILES = 65_536  # some systems have no limit at all, and then a limit of billions slows down child processes


def prepare() -> None:
    """Adapt this process to its machine, and its children too. Safe to call repeatedly.

    Raises `UserError` before any work if there is no folder for temporary files.
    """
    _replace_closed_streams()
    _read_names_as_utf_8()
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # a name that the terminal cannot show is no reason to fail
            stream.reconfigure(errors="backslashreplace")
    _allow_many_files()
    folder = temporary_folder()
    if len(os.fsencode(folder + SOCKET_NAME)) > LONGEST_SOCKET_NAME - 4:
        _shorten_socket_names()
    logging.getLogger("matplotlib").setLevel(logging.ERROR)  # it warns of a HOME that it does not need


def _replace_closed_streams() -> None:
    """Open /dev/null in place of stdin, stdout and stderr that were closed at the start (`>&-`, some cron jobs).

    Otherwise Python sets them to None, and the next files to be opened take their numbers.
    """
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, os.fdopen(os.open(os.devnull, os.O_WRONLY), "w", encoding="utf-8"))


def temporary_folder() -> str:
    """Return the folder for temporary files. Raises `UserError` if none can be written."""
    try:
        return tempfile.gettempdir()
    except FileNotFoundError:
        raise UserError(
            f"No folder for temporary files can be written: {_temporary_folders()}. Each is missing, read-only or "
            "full. Set TMPDIR to a folder with free space that you may write."
        ) from None


def unusable_temporary_folder() -> str:
    """Return `NAME=folder` for the variable whose folder is not used because it cannot be written; empty for none."""
    used = temporary_folder()
    for name in TEMPORARY_VARIABLES:
        if folder := os.environ.get(name):
            return "" if Path(used) == Path(folder).absolute() else f"{name}={folder}"
    return ""


def _temporary_folders() -> str:
    named = [f"{folder} ({name})" for name in TEMPORARY_VARIABLES if (folder := os.environ.get(name))]
    return ", ".join([*named, "/tmp", "/var/tmp", "/usr/tmp and the working folder"])


def _read_names_as_utf_8() -> None:
    """Start this process again in Python's UTF-8 mode if its locale reads names of files in another encoding.

    Names in CSVs are UTF-8, so a file beyond ASCII would not be found. The terminal keeps its encoding.
    """
    if sys.getfilesystemencoding() == "utf-8" or os.name == "nt" or os.environ.get("PYTHONUTF8") == "1":
        return
    os.environ["PYTHONUTF8"] = "1"
    os.environ.setdefault("PYTHONIOENCODING", f"{sys.stdout.encoding}:backslashreplace")
    os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def _allow_many_files() -> None:
    """Raise the limit of open files as far as this user may: loader processes and archives need hundreds."""
    if resource:
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = MANY_FILES if hard == resource.RLIM_INFINITY else min(hard, MANY_FILES)
        if soft != resource.RLIM_INFINITY and soft < wanted:
            with suppress(OSError, ValueError):  # macOS has another, hidden limit
                resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))


def _shorten_socket_names() -> None:
    """Let multiprocessing keep its sockets in a short folder, which is removed at the end; its children inherit it."""
    config = multiprocessing.process.current_process()._config  # type: ignore[attr-defined]
    if config.get("tempdir") and len(os.fsencode(config["tempdir"])) < LONGEST_SOCKET_NAME // 2:
        return
    for place in SHORT_FOLDERS:
        try:
            folder = tempfile.mkdtemp(prefix="pymp-", dir=place)
        except OSError:
            continue
        config["tempdir"] = folder
        Finalize(None, shutil.rmtree, (folder, True), exitpriority=-100)
        return
    raise UserError(
        f"The folder for temporary files has too long a name for the sockets of processes: {tempfile.gettempdir()}. "
        f"None of {', '.join(SHORT_FOLDERS)} can be written either. Set TMPDIR to a folder with a short name."
    )
