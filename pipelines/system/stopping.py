"""End a stage on SIGINT and SIGTERM, so that it removes its partial files first."""

import os
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType
from typing import NoReturn

from pipelines.system.group import started
from pipelines.system.signals import STOPPING, handled_by

EXIT_INTERRUPTED = 130
EXIT_TERMINATED = 143


class Terminated(BaseException):
    """SIGTERM was received: the machine shuts down, or a job's time limit is over."""


@contextmanager
def stoppable() -> Iterator[None]:
    """Raise `KeyboardInterrupt` on SIGINT and `Terminated` on SIGTERM, so that the stage removes its partial files.

    During an import the process exits at once instead: an exception there can leave compiled modules half initialised,
    and Python then aborts at exit.  It also exits at once where Python would discard the exception, as in destructors.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner and number == signal.SIGTERM:  # a forked worker: end it as if no handler were set
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        stopped = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        if os.getpid() == owner and _in_import(frame):
            _exit_at_once(stopped)
        raise stopped

    def discarded(unraisable: "sys.UnraisableHookArgs") -> None:
        if os.getpid() == owner and isinstance(unraisable.exc_value, KeyboardInterrupt | Terminated):
            _exit_at_once(unraisable.exc_value)
        hook(unraisable)

    hook = sys.unraisablehook
    defaults = (signal.SIG_DFL, signal.default_int_handler)  # keep what nohup or a caller has set instead
    with handled_by(stop, [number for number in STOPPING if signal.getsignal(number) in defaults]):
        try:
            sys.unraisablehook = discarded
            yield
        finally:
            sys.unraisablehook = hook


def _in_import(frame: FrameType | None) -> bool:
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _exit_at_once(stopped: BaseException) -> NoReturn:
    message, status = describe_stop(stopped)
    with suppress(OSError, RuntimeError):  # a closed pipe; a signal during a write
        sys.stdout.flush()
    with suppress(OSError):
        os.write(sys.stderr.fileno(), message.encode())
    os._exit(status)


def describe_stop(stopped: BaseException) -> tuple[str, int]:
    """Return the message and the exit status of a stage that `stopped` has ended; of several processes none speaks."""
    by_signal = isinstance(stopped, Terminated)
    what = "Stopped by SIGTERM" if by_signal else "Interrupted"
    message = "" if started() else f"\n{what}. Run the same command again to continue.\n"
    return message, EXIT_TERMINATED if by_signal else EXIT_INTERRUPTED
