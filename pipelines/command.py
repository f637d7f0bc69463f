"""The frame of every stage: its words, its tables and progress bars, and how its errors reach the person."""

import argparse
import errno
import os
import shlex
import signal
import sys
import textwrap
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from importlib import import_module
from itertools import chain
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn, TypeVar

from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import describe, find_competition, load_settings, run_name
from pipelines.settings.schema import DEFAULT_RECIPE, Settings
from pipelines.system.errors import TryAgainLater, UserError
from pipelines.system.files import only_one
from pipelines.system.memory import explained
from pipelines.system.signals import STOPPING, handled_by
from pipelines.system.terminal import printable, printable_lines

Item = TypeVar("Item")

EPOCH_CELL = len("100/100")  # of an epoch's row: no number in it is wider
LEFT_CELL = len("59 min 59 s")
GRACE_SECONDS = 0.5  # for a stage that was interrupted too, before it is ended
EXIT_USER_ERROR = 2
EXIT_TRY_LATER = 3
EXIT_INTERRUPTED = 130
EXIT_BROKEN_PIPE = 141
EXIT_TERMINATED = 143

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# What disks, mounts and limits answer, and names that cannot be: never a mistake of ours.
OUTSIDE = (
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT),
    *(errno.EMFILE, errno.ENFILE, errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
)


class Terminated(BaseException):
    """SIGTERM has come, as from a machine that shuts down or a queue whose time is up."""


class Words(argparse.Namespace):
    """What the person typed: the same words mean the same in every stage."""

    competition: str
    recipe: str
    run: str
    set: list[str]
    archive: Path | None
    solution: Path | None

    def settings(self) -> Settings:
        return load_settings(self.competition, self.recipe, self.set)

    def layout(self) -> Layout:
        """The files of the competition below the working folder."""
        return Layout(Path.cwd(), find_competition(self.competition).stem)

    def run_name(self) -> str:
        """The run that is meant: the one named, or the one that recipe and overrides lead to."""
        return self.run or run_name(self.recipe, self.set)

    def only_one_in(self, run: RunLayout) -> AbstractContextManager[int]:
        """Hold the lock of `run`; where another process works on it, raise `UserError` that says so.

        A run that does not exist yet gets its folder's parent, to hold the lock.
        """
        doing = f"training, retraining or predicting {self.competition}, run {run.folder.name}"
        return only_one(run.lock, doing, inherited=False)

    def repeat(self, stage: str) -> str:
        """The make command that calls `stage` with the same words."""
        words = [f"make {stage}", f"COMP={shlex.quote(self.competition)}"]
        words += [f"RECIPE={shlex.quote(self.recipe)}"] if self.recipe != DEFAULT_RECIPE else []
        words += [f"RUN={shlex.quote(self.run)}"] if self.run else []
        words += [f'SET="{" ".join(self.set)}"'] if self.set else []
        return " ".join(words)


def parser(doc: str, stage: str) -> argparse.ArgumentParser:
    """Return the parser of the words that all stages share; `doc` is the stage's module docstring."""
    result = argparse.ArgumentParser(
        prog=f"python -m pipelines.{stage}",
        description=textwrap.dedent(doc),
        epilog="settings for --set, with their defaults:\n" + describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("competition", help="name of a competition, or the path of its TOML")
    result.add_argument("--recipe", default=DEFAULT_RECIPE, help="named recipe of the competition's TOML")
    result.add_argument("--run", default="", type=_plain_name, help="name of the run; default: the recipe's")
    result.add_argument(
        "--set", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="override a setting: train.epochs=5"
    )
    return result


def _plain_name(text: str) -> str:
    if text and (Path(text).name != text or text.startswith(".")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a plain name; a run is a folder name without slashes")
    return text


def run(main: Callable[[Sequence[str] | None], None], arguments: Sequence[str] | None = None) -> int:
    """Call a stage's `main` and return its exit status.

    A `UserError`, a full disk, a forbidden path, a vanished disk or too little memory ends in one message on stderr and
    status 2, `TryAgainLater` in status 3, an interrupt in status 130, SIGTERM in status 143.  Any other exception is
    our own mistake and keeps its traceback.
    """
    try:
        # Not only while it computes is memory short: a loader's process may die at any moment.
        with _stoppable(), explained("this stage"):
            main(arguments)
    except TryAgainLater as error:
        return _fail(str(error), EXIT_TRY_LATER)
    except UserError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, Terminated) as stopped:
        message, status = _stop_said(stopped)
        print(message, file=sys.stderr)
        return status
    except BrokenPipeError:  # the reader of our output has left, as `head` does, before all was done
        _print_to_nobody()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if error.errno in FULL:
            return _fail(
                f"The disk is full{_place(error)}. Nothing half-written was kept. Free space and type it again."
            )
        if error.errno in FORBIDDEN:
            return _fail(
                f"No permission{_place(error)}: {error.strerror}. Change the permissions, or work in another folder."
            )
        if error.errno in OUTSIDE:
            return _fail(
                f"Cannot read or write{_place(error)}: {error.strerror}. Is its disk still there, and the name right? "
                "Nothing half-written was kept; then type the same command again."
            )
        if isinstance(error, FileNotFoundError) and not _working_folder_is_there():
            return _fail("The folder in which this was started is no longer there. Is its disk still mounted?")
        raise
    return 0


def run_stage(stage: str, words: Sequence[str], elsewhere: Path | None = None) -> int:
    """Let a process of its own do `stage`, and return its exit status.

    It ends when this process does, so that nothing trains on unseen, and holds a run's lock, after a kill.

    elsewhere: the folder to work in, where `<stage>.log` then takes what it prints, but for errors and progress bars:
    what it would have the person type next is not what to do here.
    """
    import multiprocessing

    process = multiprocessing.get_context("spawn").Process(target=_do_stage, args=(stage, words, elsewhere))
    process.start()
    try:
        process.join()
    except (KeyboardInterrupt, Terminated):
        try:
            process.join(GRACE_SECONDS)  # a terminal interrupts both
        finally:  # also where another signal ends the wait
            process.terminate()
        process.join()
        raise
    status = process.exitcode
    assert status is not None
    return status if status >= 0 else 128 - status  # negative: the signal that killed it


def _do_stage(stage: str, words: Sequence[str], elsewhere: Path | None) -> NoReturn:
    from pipelines.system.processes import end_with_parent

    def main(arguments: Sequence[str] | None) -> None:
        if elsewhere:
            os.chdir(elsewhere)
            log = os.open(f"{stage}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(log, sys.stdout.fileno())
            os.close(log)
        import_module(f"pipelines.{stage}").main(arguments)

    end_with_parent()
    sys.exit(run(main, words))


@contextmanager
def _stoppable() -> Iterator[None]:
    """Let SIGINT and SIGTERM unwind the stage: what is half-written is removed, and workers are ended.

    The process ends at once within an import, where an exception can leave compiled modules so that Python aborts when
    it ends, and where the exception would be lost, as in destructors and callbacks.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    owner = os.getpid()

    def stop(number: int, frame: FrameType | None) -> None:
        if os.getpid() != owner and number == signal.SIGTERM:  # a forked worker, to be ended as if we were not here
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        stopped = KeyboardInterrupt() if number == signal.SIGINT else Terminated()
        if os.getpid() == owner and _imports(frame):
            _end_at_once(stopped)
        raise stopped

    def lost(unraisable: "sys.UnraisableHookArgs") -> None:
        if os.getpid() == owner and isinstance(unraisable.exc_value, KeyboardInterrupt | Terminated):
            _end_at_once(unraisable.exc_value)
        hook(unraisable)

    hook = sys.unraisablehook
    plain = (signal.SIG_DFL, signal.default_int_handler)  # others are left, which nohup or a caller wants
    with handled_by(stop, [number for number in STOPPING if signal.getsignal(number) in plain]):
        try:
            sys.unraisablehook = lost
            yield
        finally:
            sys.unraisablehook = hook


def _imports(frame: FrameType | None) -> bool:
    """Whether `frame` runs below an import."""
    while frame and frame.f_code.co_filename != "<frozen importlib._bootstrap>":
        frame = frame.f_back
    return frame is not None


def _end_at_once(stopped: BaseException) -> NoReturn:
    message, status = _stop_said(stopped)
    with suppress(OSError, RuntimeError):  # a reader that has left; a signal amid writing
        sys.stdout.flush()
    with suppress(OSError):
        os.write(sys.stderr.fileno(), f"{message}\n".encode())
    os._exit(status)


def _stop_said(stopped: BaseException) -> tuple[str, int]:
    """Return what is said of a stage that was `stopped`, and its exit status."""
    if isinstance(stopped, Terminated):
        return "\nStopped by SIGTERM. Type the same command again to go on.", EXIT_TERMINATED
    return "\nInterrupted. Type the same command again to go on.", EXIT_INTERRUPTED


def _working_folder_is_there() -> bool:
    try:
        return Path.cwd().is_dir()
    except FileNotFoundError:
        return False


def _fail(message: str, status: int = EXIT_USER_ERROR) -> int:
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        _print_to_nobody()
    print(f"error: {printable_lines(message)}", file=sys.stderr)
    return status


def _print_to_nobody() -> None:
    """Let what is still to be printed go nowhere, since its reader has left."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _place(error: OSError) -> str:
    return f" at {error.filename}" if error.filename else ""


def progress(items: Iterable[Item], what: str, total: int | None = None, unit: str = "files") -> Iterator[Item]:
    """Yield `items` behind a progress bar: what, how many, how fast, how long still.  Quiet when not a terminal."""
    from tqdm import tqdm

    yield from tqdm(
        items, desc=printable(what), total=total, unit=f" {unit}", disable=None, leave=False, dynamic_ncols=True
    )


def print_credential() -> None:
    """Print which credential Kaggle's client finds here, and what is wrong with it.  Raises `UserError` without one."""
    from pipelines.kaggle.credentials import require_credential

    credential = require_credential(os.environ)
    print("\n".join([f"Kaggle: {credential}.", *credential.warnings]), flush=True)


def print_parts(rows: Sequence[dict[str, Any]]) -> None:
    """Print which parts of a network learn in which epochs, at which peak learning rate."""
    if rows:
        cells = [
            (
                row["part"],
                row["epochs"],
                f"{row['parameters']:,}",
                "frozen" if row["lr"] is None else f"{row['lr']:.2g}",
                "-" if row["weight_decay"] is None else f"{row['weight_decay']:.2g}",
            )
            for row in rows
        ]
        print(table(("part", "epochs", "parameters", "lr", "weight decay"), cells))


def print_epochs(
    new: Iterable[dict[str, Any]], earlier: Sequence[dict[str, Any]], epochs: int, metric: str, head_epochs: int = 0
) -> list[dict[str, Any]]:
    """Print one aligned row per epoch as it ends, and return all rows; `earlier` ones were trained before.

    head_epochs: the first epochs, which say nothing of how long the others take.
    """
    rows: list[dict[str, Any]] = []
    for row in chain(earlier, new):
        rows.append(row)
        cells = {"epoch": f"{row['epoch']}/{epochs}", "train_loss": f"{row['train_loss']:.4f}"}
        if metric in row:
            cells |= {"valid_loss": f"{row['valid_loss']:.4f}", metric: f"{row[metric]:.4f}"}
        alike = [each["seconds"] for each in rows if (each["epoch"] > head_epochs) == (row["epoch"] > head_epochs)]
        left = duration((epochs - row["epoch"]) * sum(alike) / len(alike))
        cells |= {"lr": f"{row['lr']:.2g}", "images/s": f"{row['images_per_second']:,.0f}"}
        cells |= {"left": "-" if row["epoch"] <= head_epochs < epochs else left}
        widths = [max(len(name), LEFT_CELL if name == "left" else EPOCH_CELL) for name in cells]
        if len(rows) == 1:
            print("  ".join(name.rjust(width) for name, width in zip(cells, widths, strict=True)))
        if earlier and len(rows) == len(earlier) + 1:
            print(f"Going on after epoch {len(earlier)}.")
        print("  ".join(cell.rjust(width) for cell, width in zip(cells.values(), widths, strict=True)), flush=True)
    return rows


def table(headings: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return an aligned table: the first column to the left, the others to the right."""
    cells = [[printable(str(value)) for value in row] for row in (headings, *rows)]
    widths = [max(len(row[column]) for row in cells) for column in range(len(headings))]
    lines = []
    for first, *others in cells:
        padded = [first.ljust(widths[0]), *(text.rjust(width) for text, width in zip(others, widths[1:], strict=True))]
        lines.append("  ".join(padded).rstrip())
    return "\n".join(lines)


def uncertainty(bounds: tuple[float | None, ...], images: int) -> str:
    """Return what is printed after a score: ` (0.9723 to 0.9979, n = 259)`; `bounds` are those of its 95 % interval."""
    known = [bound for bound in bounds if bound is not None]
    return f" ({' to '.join(f'{bound:.4f}' for bound in known)}, n = {images:,})" if known else f" (n = {images:,})"


def duration(seconds: float) -> str:
    """Return a time for people: `42 s`, `3 min 05 s`, `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02} min"
