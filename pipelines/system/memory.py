"""What is said when memory runs out: here, on a GPU, or in a process that the system then kills."""

import errno
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager

from pipelines.system.errors import UserError

# What torch and the libraries below it say.  None of them has a type of its own for it on every device.
SHORTAGES = ("out of memory", "can't allocate memory", "Cannot allocate memory", "ALLOC_FAILED", "bad_alloc")
# Torch raises this wherever the main process is when a process of its loader ends, which may be in any computation.
# While it waits for a batch, torch raises the second from the first, and only that one knows the signal.
LOADER_DEATH = re.compile(r"DataLoader worker \(pid(?:\(s\))? ([\d, ]+)\) (?:is killed|exited)")
LOADER_SIGNAL = re.compile(r"DataLoader worker \(pid \d+\) is killed by signal: ([^.]*)")
SHARED_MEMORY = "/dev/shm"
LOCKS = 1_000_000  # bytes: each takes a page there, and a loader of 16 workers has about 70


SMALLER = "Choose a smaller input.size or model.name."


@contextmanager
def explained(what: str, advice: str = SMALLER) -> Iterator[None]:
    """Raise `UserError` with `advice` where memory does not suffice for `what`, or a process of the loader has died."""
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if found := LOADER_DEATH.search(str(error)):
            named = LOADER_SIGNAL.search(f"{error} {error.__cause__}")
            dead = death(found[1], named[1] if named else "")
            raise UserError(
                f"{dead} Lower hardware.workers (0: no such processes) or end other programs, and the same command "
                f"goes on after the last whole epoch. Where that is not enough: {advice}"
            ) from None
        if not _is_shortage(error):
            raise
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(
            f"Memory does not suffice for {what} ({reason.rstrip('. ')}). {advice} Or end what else uses this memory."
        ) from None


def smaller_batch(key: str, size: int) -> str:
    """Return what to do where batches of `size` images are too large; `key` is the setting of their size."""
    training = key.startswith("train.")
    if size < (4 if training else 2):  # no batch statistics can be taken of a single image
        return SMALLER
    return f"Set {key}={size // 2}{', perhaps with half the train.lr' if training else ''}."


def death(process: str, signal: str) -> str:
    """Return what is said of a process that ended while it decoded images; `signal` is empty if none is known."""
    how = f"was killed ({signal})" if signal else "ended unexpectedly"
    return f"Process {process}, which decoded images, {how}; most likely memory ran out."


def check_room_for_locks() -> None:
    """Raise `UserError` where Linux has no room for the locks that processes share; batches need none there."""
    try:
        room = shutil.disk_usage(SHARED_MEMORY)
    except OSError:  # another system, which keeps them elsewhere
        return
    if room.free < LOCKS:
        raise UserError(
            f"{SHARED_MEMORY}, through which processes share locks, is full: {room.free / 1e6:,.1f} of "
            f"{room.total / 1e6:,.1f} MB free, {LOCKS / 1e6:,.1f} needed. Free or enlarge it (docker run "
            "--shm-size=2g), or set hardware.workers=0."
        )


def _is_shortage(error: Exception) -> bool:
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or any(each in str(error) for each in SHORTAGES)
