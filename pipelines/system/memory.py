"""Turn a shortage of memory, on the machine, a GPU or in a killed worker, into a message that says what to lower."""

import errno
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
SMALLER = "Choose a smaller input.size or model.name."


@contextmanager
def explained(what: str, advice: str = SMALLER) -> Iterator[None]:
    """Raise `UserError` with `advice` if memory runs out during `what`, or if a DataLoader worker dies."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
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


def check_room_for_locks() -> None:
    """Raise `UserError` if /dev/shm has no room for the locks of processes; batches do not use it."""
    try:
        room = shutil.disk_usage(SHARED_MEMORY)
    except OSError:  # not Linux: locks are kept elsewhere
        return
    if room.free < LOCKS:
        raise UserError(
            f"{SHARED_MEMORY}, where processes share locks, is full: {room.free / 1e6:,.1f} of "
            f"{room.total / 1e6:,.1f} MB free, {LOCKS / 1e6:,.1f} needed. Free or enlarge it (docker run "
            "--shm-size=2g), or set hardware.workers=0."
        )


def _is_shortage(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(each in str(error) for each in SHORTAGES)
