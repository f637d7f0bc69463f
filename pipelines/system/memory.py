"""Turn a shortage of memory, open files or processes into a message that says what to lower or raise.

Memory is that of the machine, of a GPU or of a killed worker.
"""

import errno
import gc
import multiprocessing
import os
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.system.errors import UserError

# Words of torch and its libraries; no exception type covers all devices.
SHORTAGES = ("out of memory", "can't allocate memory", "Cannot allocate memory", "ALLOC_FAILED", "bad_alloc")
# Torch raises this in the main process, at any point, when a DataLoader worker dies. While it waits for a batch, it is
# raised from a second error, and only that one names the signal.
LOADER_DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed|exited)")
LOADER_SIGNAL = re.compile(r"DataLoader worker \(pid \d+\) is killed by signal: ([^.]*)")
SHARED_MEMORY = "/dev/shm"
LOCKS = 1_000_000  # bytes: each lock takes a page there, and a DataLoader of 16 workers has about 70
FILES_PER_PROCESS, SPARE_FILES = 4, 8  # open in this process: pipes
# The soft limit is as high as the hard one already (see surroundings.py).
MORE_FILES = "Raise the hard limit of open files (ulimit -Hn): start from a shell with a higher one, or ask for it."
SMALLER = "Choose a smaller input.size or model.name."


@contextmanager
def explained(what: str, advice: str = SMALLER) -> Iterator[None]:
    """Raise `UserError` with `advice` if memory runs out during `what`, or if a DataLoader worker dies.

    The same for too many open files or processes.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError, ImportError) as error:
        if limit := _limit(error):
            raise UserError(limit) from None
        if found := LOADER_DEATH.search(str(error)):
            named = LOADER_SIGNAL.search(f"{error} {error.__cause__}")
            raise UserError(
                f"{death(found[1], named[1] if named else '')} Lower hardware.workers (0: no worker processes) or end "
                "other programs, then run the same command again; it continues after the last whole epoch. If that "
                f"is not enough: {advice}"
            ) from None
        if not _is_shortage(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(". ")
        problem = f"Memory does not suffice for {what} ({reason})."
        raise UserError(f"{problem} {advice} Or end other programs that use this memory.") from None


@contextmanager
def without_cycles() -> Iterator[None]:
    """Do not search for cycles of objects that refer to each other: tables have none, but millions of objects.

    For a million images, the search took a quarter of the processor time of `split`.
    """
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


def smaller_batch(key: str, size: int) -> str:
    """Return what to do if batches of `size` images are too large; `key` is the setting of the batch size."""
    training = key.startswith("train.")
    if size < (4 if training else 2):  # batch norm needs at least two images
        return SMALLER
    return f"Set {key}={size // 2}{', perhaps with half the train.lr' if training else ''}."


def death(process: str, signal: str) -> str:
    """Return the message about a dead process that decoded images; `signal` is empty if unknown."""
    how = f"was killed ({signal})" if signal else "ended unexpectedly"
    return f"Process {process}, which decoded images, {how}, most likely because memory ran out."


def check_room_for_processes(count: int) -> None:
    """Raise `UserError` if `count` more processes cannot share locks, or cannot be connected to this one."""
    if problem := problem_of_processes(count):
        raise UserError(f"{problem} Or set hardware.workers=0, which needs no processes.")


def problem_of_processes(count: int) -> str:
    """Return why `count` more processes cannot be started, with the remedy; empty if they can.

    Their locks need room in /dev/shm. Batches do not use it.
    """
    if (left := _files_left()) < (needed := count * FILES_PER_PROCESS + SPARE_FILES):
        return f"{count} processes need {needed} more open files, and the limit allows {left}. {MORE_FILES}"
    try:
        room = shutil.disk_usage(SHARED_MEMORY)
        if room.total and room.free < LOCKS:
            return (
                f"{SHARED_MEMORY}, where processes share locks, is full: {room.free / 1e6:,.1f} of "
                f"{room.total / 1e6:,.1f} MB free, {LOCKS / 1e6:,.1f} needed. Free or enlarge it (docker run "
                "--shm-size=2g)."
            )
    except OSError:  # not Linux: locks are kept elsewhere
        pass
    try:
        multiprocessing.Lock()
    except (OSError, ImportError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        return (
            f"Processes cannot share locks on this machine ({reason}): {SHARED_MEMORY} is missing or cannot be "
            "written. Mount it (mount -t tmpfs tmpfs /dev/shm), or let the container have it."
        )
    return ""


def _files_left() -> int:
    """Return how many more files this process may open; a large number where that is unknown."""
    try:
        import resource

        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        return limit - sum(1 for _ in os.scandir("/dev/fd")) if limit != resource.RLIM_INFINITY else 1 << 20
    except OSError as error:
        return 0 if error.errno == errno.EMFILE else 1 << 20
    except ImportError:  # Windows
        return 1 << 20


def _limit(error: Exception) -> str:
    """Return what to do about a limit of the system that `error` has met; empty for any other error."""
    text = str(error)
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return f"Too many files are open at once. No partial file was kept. {MORE_FILES} Or set hardware.workers=0."
    if "can't start new thread" in text or (isinstance(error, OSError) and error.errno == errno.EAGAIN):
        return (
            "The system allows no more processes or threads. End other programs, ask for a higher limit (ulimit -Hu), "
            "or use one core: put taskset -c 0 before the command, with hardware.workers=0. No partial file was kept."
        )
    if isinstance(error, ImportError) and ("failed to map segment" in text or "annot allocate memory" in text):
        return (
            f"A library cannot be loaded, because the memory of this process is limited ({text}). Raise the limit in "
            "the shell before the command: ulimit -v unlimited."
        )
    return ""


def _is_shortage(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(each in str(error) for each in SHORTAGES)
