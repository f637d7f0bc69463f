"""What all stages share at the command line: arguments, exit statuses, child processes and printed tables."""

import argparse
import errno
import os
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from pipelines.settings.competitions import find_competition
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import describe, load_settings, run_name, submission_name
from pipelines.settings.overrides import split_settings
from pipelines.settings.records import refuse_blend
from pipelines.settings.schema import DEFAULT_RECIPE, Settings
from pipelines.system.errors import TryAgainLater, UserError, printable, printable_lines, quoted
from pipelines.system.files import is_plain_name, only_one
from pipelines.system.group import SHARED, joined, leaving, started, take_part
from pipelines.system.memory import explained
from pipelines.system.screen import duration as duration
from pipelines.system.screen import table
from pipelines.system.screen import uncertainty as uncertainty
from pipelines.system.shell import as_called, elsewhere, make_command, make_works_here, module_command, unquoted
from pipelines.system.stopping import EXIT_INTERRUPTED as EXIT_INTERRUPTED
from pipelines.system.stopping import EXIT_TERMINATED as EXIT_TERMINATED
from pipelines.system.stopping import Terminated, describe_stop, stoppable
from pipelines.system.surroundings import prepare
from pipelines.system.watch import Noted

Item = TypeVar("Item")

GRACE_SECONDS = 0.5  # for an interrupted child process to end by itself
EXIT_USER_ERROR = 2
EXIT_TRY_LATER = 3
EXIT_BROKEN_PIPE = 141
PER_GPU = "gpu"  # a value of NPROC

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)
# Errors of disks, mounts, limits and impossible names: no bug of this project causes them.
OUTSIDE = (
    *(errno.EIO, errno.ESTALE, errno.ENODEV, errno.ENXIO, errno.ENOTCONN, errno.EHOSTDOWN, errno.ETIMEDOUT),
    *(errno.ENOTDIR, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP),
)
NOTED_BAR = "{l_bar}{bar}| {n_fmt}/{total_fmt} [{elapsed}<{remaining}{postfix}]"


class Words(argparse.Namespace):
    """The parsed arguments. The same arguments mean the same in every stage."""

    competition: str
    recipe: str
    run: str
    set: list[str]
    archive: Path | None  # of download
    solution: Path | None  # of score
    recipes: list[str]  # of compare
    runs: list[str]  # of blend and runs
    seeds: int  # of compare
    tries: list[str]  # of sweep
    at_once: int  # of folds: the most trainings at a time; 0: no limit
    processes: int = 1  # that share the stage

    def settings(self) -> Settings:
        return load_settings(self.competition, self.recipe, self.set)

    def layout(self) -> Layout:
        """Return the paths of the competition's files below the working folder."""
        return Layout(Path.cwd(), find_competition(self.competition).stem)

    def require_raw(self, layout: Layout) -> None:
        """Raise `UserError`, with the command that makes it, if the raw folder is missing."""
        if not layout.raw.is_dir():
            raise UserError(f"{layout.raw.relative_to(layout.root)} is missing. First: {self.repeat('download')}")

    def run_name(self) -> str:
        """Return the name given with --run, or the one that recipe and overrides give."""
        return self.run or run_name(self.recipe, self.set)

    def submission(self) -> Path:
        """Return the path of the submission that predict writes with these arguments."""
        return self.layout().submission(submission_name(self.run_name(), self.set))

    def only_one_in(self, run: RunLayout) -> AbstractContextManager[int]:
        """Hold the lock of `run`.  Raises `UserError` when another process works on this run."""
        refuse_blend(run, self.repeat)
        doing = f"training, retraining or predicting {self.competition}, run {run.folder.name}"
        return only_one(run.lock, doing, inherited=False)

    def most(self, trainings: int) -> int:
        """Return how many of so many `trainings` may run at a time."""
        return min(trainings, self.at_once or trainings)

    def plus(self, *settings: str) -> "Words":
        """Return these arguments with more settings."""
        return Words(**vars(self) | {"set": [*self.set, *settings]})

    def repeat(self, stages: str, **more: str) -> str:
        """Return the command that runs `stages`, make targets, with the same arguments and the variables `more`."""
        if not make_works_here():
            return " && ".join(self._direct(stage, more) for stage in stages.split())
        recipe = "" if self.recipe == DEFAULT_RECIPE else self.recipe
        variables = {"COMP": self.competition, "RECIPE": recipe, "RUN": self.run, "SET": " ".join(self.set)}
        if self.processes > 1 and set(stages.split()) & set(SHARED):
            variables["NPROC"] = str(self.processes)
        return make_command(stages, variables | more)

    def _direct(self, stage: str, more: dict[str, str]) -> str:
        """Return the call of the module of `stage`, for a working folder without a Makefile."""
        is_tool = not (Path(__file__).parent / f"{stage}.py").exists()
        module = f"pipelines.tools.{stage.replace('-', '_')}" if is_tool else f"pipelines.{stage}"
        words = [self.competition, *(["--recipe", self.recipe] if self.recipe != DEFAULT_RECIPE else [])]
        words += [f"--run={self.run}"] if self.run and "RUN" not in more else []
        if self.processes > 1 and stage in SHARED:
            module, words = "pipelines.tools.launch", [str(self.processes), stage, *words]
        for name, value in more.items():
            words.append("--again" if name == "AGAIN" else f"--{name.lower()}={value}")
        return module_command(module, [*words, *(["--set", *self.set] if self.set else [])])


class SettingsAction(argparse.Action):
    """Splits the words of an option into single settings; `const` is its make variable."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
        earlier = getattr(namespace, self.dest)
        setattr(namespace, self.dest, [*earlier, *split_settings(" ".join(values), str(self.const))])


def parser(doc: str, stage: str, several_runs: bool = False) -> argparse.ArgumentParser:
    """Return the parser of the shared arguments. `doc` is the docstring of the stage's module.

    several_runs: --run takes the names of several runs, `runs` of the words.
    """
    result = argparse.ArgumentParser(
        prog=f"python -m pipelines.{stage}",
        description=textwrap.dedent(doc),
        epilog="settings for --set, with their defaults:\n" + describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("competition", type=unquoted, help="name of a competition, or the path of its TOML")
    result.add_argument("--recipe", default=DEFAULT_RECIPE, help="name of a recipe in the competition's TOML")
    if several_runs:
        result.add_argument("--run", default=[], dest="runs", nargs="+", help="names of runs")
        result.set_defaults(run="")
    else:
        result.add_argument("--run", default="", type=_plain_name, help="name of the run; default: the recipe's")
    result.add_argument(
        *("--set",),
        nargs="+",
        default=[],
        action=SettingsAction,
        const="SET",
        metavar="KEY=VALUE",
        help="override settings: train.epochs=5 'input.mean=[0.5, 0.5, 0.5]'",
    )
    return result


def _plain_name(text: str) -> str:
    if text and (text.startswith("-") or not is_plain_name(text)):
        rule = "it names a folder, so it has no slashes, no dot or hyphen in front, and at most 215 bytes"
        raise argparse.ArgumentTypeError(f"RUN={quoted(text)} is not the name of a run: {rule}")
    return text


def run(main: Callable[..., None], arguments: Sequence[str] | None = None, shared: bool = False) -> int:
    """Call a stage's `main` and return its exit status.

    shared: the stage can use several processes, and gets their group; without torchrun it is a group of one.  A process
    of several returns from here only after success; else it ends, as described below.

    A `UserError`, a full disk, a forbidden path, a lost disk or a lack of memory gives one message on stderr and
    status 2; `TryAgainLater` gives status 3, SIGINT 130, SIGTERM 143.  Any other exception is a bug and is raised.
    """
    if not (shared and started()):
        return _run(main, arguments, shared)
    with leaving():
        if status := _run(main, arguments, shared):
            sys.exit(status)
    return 0


def _run(main: Callable[..., None], arguments: Sequence[str] | None, shared: bool) -> int:
    try:
        with stoppable(), explained("this stage"):  # a loader process can run out of memory at any moment
            prepare()
            if shared:
                with joined() as group:
                    if group.is_main:
                        main(arguments, group)
                    else:
                        take_part(group)
            else:
                _refuse_processes()
                main(arguments)
    except TryAgainLater as error:
        return _fail(str(error), EXIT_TRY_LATER)
    except UserError as error:
        return _fail(str(error))
    except (KeyboardInterrupt, Terminated) as stopped:
        message, status = describe_stop(stopped)
        print(message, end="", file=sys.stderr)
        return status
    except BrokenPipeError:  # the reader of stdout, for example `head`, has ended
        _discard_output()
        return EXIT_BROKEN_PIPE
    except OSError as error:
        if message := _explain(error):
            return _fail(message)
        raise
    return 0


def number_of_seeds(text: str) -> int:
    """Return the number in the argument `text`.  Raises what argparse turns into a usage error."""
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seeds (1 or more)")
    return int(text)


def number_of_processes(text: str) -> int:
    """Return the number in `text`, a value of NPROC; 0 for `gpu`.  Raises what argparse turns into a usage error."""
    if text == PER_GPU:
        return 0
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"NPROC={text} is no number of processes. Write 1 or more, or {PER_GPU}")
    return int(text)


def run_stage(stage: str, arguments: Sequence[str], folder: Path | None = None) -> int:
    """Run `stage` in a child process and return its exit status.  The child ends when this process ends.

    folder: the child's working folder.  There `<stage>.log` gets the child's stdout, because the hints in it do not
    apply here.  Errors and progress bars go to stderr as usual.
    """
    import multiprocessing

    from pipelines.system.processes import protected_start

    process = multiprocessing.get_context("spawn").Process(target=_be_stage, args=(stage, arguments, folder))
    try:
        with protected_start():
            process.start()
        process.join()
    except (KeyboardInterrupt, Terminated):
        if process.pid is None:
            raise
        try:
            process.join(GRACE_SECONDS)  # Ctrl-C in a terminal interrupts both processes
        finally:  # also when another signal ends the wait
            process.terminate()
        process.join()
        raise
    assert process.exitcode is not None
    return process.exitcode if process.exitcode >= 0 else 128 - process.exitcode  # negative: killed by this signal


def _be_stage(stage: str, arguments: Sequence[str], folder: Path | None) -> NoReturn:
    from pipelines.system.processes import end_with_parent, unblock_signals

    def main(arguments: Sequence[str] | None) -> None:
        unblock_signals()
        if folder:
            os.chdir(folder)
            log = os.open(f"{stage}.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o666)
            os.dup2(log, sys.stdout.fileno())
            os.close(log)
        import_module(f"pipelines.{stage}").main(arguments)

    end_with_parent()
    sys.exit(run(main, arguments))


def _refuse_processes() -> None:
    """Raise `UserError`, in the main process, where torchrun has started several for work that one process does."""
    if started():
        if os.environ["RANK"] != "0":
            sys.exit(0)
        raise UserError(f"This is done by one process: call it without torchrun. Several can do: {', '.join(SHARED)}.")


def _explain(error: OSError) -> str:
    """Return a message for an error that the user can solve, and an empty string for any other."""
    place = f" at {error.filename}" if error.filename else ""
    if error.errno in FULL:
        return f"The disk is full{place}. No partial file was kept. Free space, then run the same command again."
    if error.errno in FORBIDDEN:
        return f"No permission{place}: {error.strerror}. Change the permissions, or {elsewhere()}"
    if error.errno in OUTSIDE:
        check = "Check that the disk is mounted and the name is right, then run the same command again."
        return f"Cannot read or write{place}: {error.strerror}. No partial file was kept. {check}"
    if (link := Path(str(error.filename))).is_symlink() and not link.exists():
        return f"{link} is a link to {link.readlink()}, which is not there. Mount its disk, or correct the link."
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
    print(f"error: {printable_lines(as_called(message))}", file=sys.stderr)
    return status


def _discard_output() -> None:
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def progress(items: Iterable[Item], what: str, total: int | None = None, unit: str = "files") -> Iterator[Item]:
    """Yield `items` and show a progress bar, with the note of `Noted` ones.  Print nothing where stderr is not a
    terminal."""
    from tqdm import tqdm

    note = items.note if isinstance(items, Noted) else None
    bar = tqdm(items, desc=printable(what), total=total, unit=f" {unit}", disable=None, leave=False, dynamic_ncols=True)
    if bar.disable or note is None:
        yield from bar
        return
    bar.bar_format = NOTED_BAR
    for item in bar:
        yield item
        bar.set_postfix_str(note(), refresh=False)


def print_credential() -> None:
    """Print which Kaggle credential is used, with warnings.  Raises `UserError` when there is none."""
    from pipelines.kaggle.credentials import require_credential

    credential = require_credential(os.environ)
    print("\n".join([f"Kaggle: {credential}.", *credential.warnings]), flush=True)


def print_parts(rows: Sequence[dict[str, Any]]) -> None:
    """Print the parts of a network: in which epochs each is trained, and its peak learning rate."""
    cells = []
    for row in rows:
        lr = "frozen" if row["lr"] is None else f"{row['lr']:.2g}"
        decay = "-" if row["weight_decay"] is None else f"{row['weight_decay']:.2g}"
        cells.append((row["part"], row["epochs"], f"{row['parameters']:,}", lr, decay))
    if cells:
        print(table(("part", "epochs", "parameters", "lr", "weight decay"), cells))
