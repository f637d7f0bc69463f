"""Run a stage, here or in a child process: errors and signals become one message and an exit status."""

import errno
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from pathlib import Path
from types import FrameType
from typing import NoReturn

from pipelines.system.errors import TryAgainLater, UserError, printable_lines
from pipelines.system.memory import explained
from pipelines.system.signals import STOPPING, handled_by

GRACE_SECONDS = 0.5  # for an interrupted child process to end by itself
EXIT_USER_ERROR = 2
EXIT_TRY_LATER = 3
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# Errors of disks, mounts, limits and impossible names: no bug of this project causes them.
OUTSIDE = (
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT),
    *(errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
)


class Terminated(BaseException):
    """SIGTERM was received: the machine shuts down, or a job's time limit is over."""


def run(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> int:
    """Call a stage's `main` and return its exit status.

    A `UserError`, a full disk, a forbidden path, a lost disk or a lack of memory gives one message on stderr and
    status 2; `TryAgainLater` gives status 3, SIGINT 130, SIGTERM 143.  Any other exception is a bug and is raised.
    """
    try:
        with _stoppable(), explained("this stage"):  # a loader process can run out of memory at any moment
            main(arguments)
    except TryAgainLater as error:
        return _fail(str(error), EXIT_TRY_LATER)
    except UserError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, Terminated) as stopped:
        message, status = _describe_stop(stopped)
        print(message, file=sys.stderr)
        return status
    except BrokenPipeError:  # the reader of stdout, for example `head`, has ended
        _discard_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if message := _explain(error):
            return _fail(message)
        raise
    return 0


def run_stage(stage: str, arguments: Sequence[str], folder: Path | None = None) -> int:
    """Run `stage` in a child process and return its exit status.  The child ends when this process ends.

    folder: the child's working folder.  There `<stage>.log` gets the child's stdout, because the hints in it do not
    apply here.  Errors and progress bars go to stderr as usual.
    """
    import multiprocessing

    process = multiprocessing.get_context("spawn").Process(target=_be_stage, args=(stage, arguments, folder))
    process.start()
    try:
        process.join()
    except (KeyboardInterrupt, Terminated):
        try:
            process.join(GRACE_SECONDS)  # Ctrl-C in a terminal interrupts both processes
        finally:  # also when another signal ends the wait
            process.terminate()
        process.join()
        raise
    assert process.exitcode is not None
    return process.exitcode if process.exitcode >= 0 else 128 - process.exitcode  # negative: killed by this signal


def _be_stage(stage: str, arguments: Sequence[str], folder: Path | None) -> NoReturn:
    from pipelines.system.processes import end_with_parent

    def main(arguments: Sequence[str] | None) -> None:
        if folder:
            os.chdir(folder)
            log = os.open(f"{stage}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(log, sys.stdout.fileno())
            os.close(log)
        import_module(f"pipelines.{stage}").main(arguments)

    end_with_parent()
    sys.exit(run(main, arguments))


@contextmanager
def _stoppable() -> Iterator[None]:
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
    message, status = _describe_stop(stopped)
    with suppress(OSError, RuntimeError):  # a closed pipe; a signal during a write
        sys.stdout.flush()
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"{message}\n".encode())
    os._exit(status)


def _describe_stop(stopped: BaseException) -> tuple[str, int]:
    """Return the message and the exit status of a stage that `stopped` has ended."""
    if isinstance(stopped, Terminated):
        return "\nStopped by SIGTERM. Run the same command again to continue.", EXIT_TERMINATED
    return "\nInterrupted. Run the same command again to continue.", EXIT_INTERRUPTED


def _explain(error: OSError) -> str:
    """Return a message for an error that the user can solve, and an empty string for any other."""
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in FULL:
        return f"The disk is full{place}. No partial file was kept. Free space, then run the same command again."
    if error.errno in FORBIDDEN:
        return f"No permission{place}: {error.strerror}. Change the permissions, or work in another folder."
    if error.errno in OUTSIDE:
        check = "Check that the disk is mounted and the name is right, then run the same command again."
        return f"Cannot read or write{place}: {error.strerror}. No partial file was kept. {check}"
    if isinstance(error, FileNotFoundError) and not _working_folder_exists():
        return "The working folder is no longer there. Check that its disk is mounted."
    return ""


def _working_folder_exists() -> bool:
    try:
        return Path.cwd().is_dir()
    except FileNotFoundError:
        return False


def _fail(message: str, status: int = EXIT_USER_ERROR) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _discard_output()
    print(f"error: {printable_lines(message)}", file=sys.stderr)
    return status


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
