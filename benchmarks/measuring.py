"""Shared by the benchmarks: findings, their table and section in RESULTS.md, and stages run as processes."""

import argparse
import importlib
import itertools
import multiprocessing
import os
import re
import resource
import select
import shlex
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pipelines import command
from pipelines.settings.layout import Layout
from pipelines.system.errors import UserError
from pipelines.system.files import write_text

if TYPE_CHECKING:
    import torch

Item = TypeVar("Item")

ROOT = Path(__file__).parent.parent
RESULTS = Path(__file__).parent / "RESULTS.md"
HEADINGS = ("measured", "against", "median (min-max)", "goal", "reached")
PREFACE = "# Results\n\nWritten by the commands shown, each its own section.\n"
POLL_SECONDS = 1.0  # reading a process's memory slows it: ten times a second made a training a fifth slower
LINES_SHOWN = 15  # of a failed stage's output
KIBIBYTE = 1024
WARM_UP = 3  # batches


@dataclass(frozen=True)
class Finding:
    """One line of a benchmark: the measurement, what it is compared with, the figure, and the goal if any."""

    what: str
    against: str
    figure: str
    goal: str = "-"
    reached: bool | None = None

    def row(self) -> tuple[str, ...]:
        reached = "-" if self.reached is None else "yes" if self.reached else "no"
        return self.what, self.against, self.figure, self.goal, reached


@dataclass(frozen=True)
class Memory:
    """Peaks of resident memory in bytes: of the largest process; of all processes, shared pages counted once; of all
    processes without file pages, which the system can reclaim."""

    largest: int
    together: int
    private: int


@dataclass(frozen=True)
class StageRun:
    """Time and memory of one stage, run as a process with its child processes."""

    stage: str
    seconds: float
    memory: Memory


@dataclass
class Stopwatch:
    """Measures the images per second of the batches that pass through it, without the first `WARM_UP`.

    batches: how many are measured; then the source ends.  None: all.
    """

    device: "torch.device"
    batches: int | None = None
    images_per_second: float = 0.0

    def watch(self, batches: Iterable[Item], size: Callable[[Item], int]) -> Iterator[Item]:
        images, started = 0, 0.0
        iterator = itertools.islice(batches, None if self.batches is None else WARM_UP + self.batches)
        for number in itertools.count():
            if number == WARM_UP:
                started = now(self.device)
            if (batch := next(iterator, None)) is None:
                break
            images += size(batch) if number >= WARM_UP else 0
            yield batch
        self.images_per_second = images / (now(self.device) - started)


def now(device: "torch.device") -> float:
    """Wait until `device` has finished its queued work, and return the time in seconds."""
    if device.type == "cuda":
        import torch

        torch.cuda.synchronize(device)
    return time.perf_counter()


def timed(work: Callable[[], object]) -> float:
    """Flush the disk, then return the seconds that `work` takes."""
    os.sync()
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def alternating(ways: dict[str, Callable[[], float]], steps: int, what: str) -> dict[str, list[float]]:
    """Return the seconds of `steps` steps of each of `ways`, which return theirs, after one that does not count.

    Print the milliseconds of each step; what: its name.
    """
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(1 + steps):
        for way in ways if number % 2 else reversed(ways):
            seconds[way].append(ways[way]())
        shown = ", ".join(f"{way} {1000 * each[-1]:,.0f} ms" for way, each in seconds.items())
        print(f"  {what}, step {number}: {shown}", flush=True)
    return {way: each[1:] for way, each in seconds.items()}


def spread(values: Sequence[float], form: str = ",.1f", unit: str = "") -> str:
    """Return `median (min-max)`, each formatted with `form`; of a single value, only that value."""
    median = f"{statistics.median(values):{form}}{unit}"
    return median if len(values) == 1 else f"{median} ({min(values):{form}}-{max(values):{form}})"


def table(findings: Sequence[Finding]) -> str:
    return command.table(HEADINGS, [finding.row() for finding in findings])


def parser(doc: str | None, name: str) -> argparse.ArgumentParser:
    """Return the argument parser of the benchmark `name`, with the common options; `doc` is its module docstring."""
    result = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}", description=_title(doc))
    result.add_argument("--no-record", action="store_true", help="only print the figures; do not change RESULTS.md")
    return result


def conclude(name: str, doc: str | None, arguments: Sequence[str] | None, findings: list[Finding], sizes: str) -> None:
    """Print `findings` and, without --no-record, write them as the section `name` of RESULTS.md.

    arguments: those of the benchmark.  sizes: what was measured, how many, how often.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    print(f"Measured: {sizes}.\n{table(findings)}")
    if "--no-record" not in words:
        repeat = f"python -m benchmarks.{name.split('-')[0]} {plain(words)}".rstrip()
        body = f"{_title(doc)}\n\n{date.today()}; {hardware_line()}; {sizes}.\n\n    {repeat}\n\n{_fenced(findings)}"
        replace_section(RESULTS, name, f"## {name}\n\n{body}")


def absolute(overrides: Sequence[str]) -> list[str]:
    """Return `overrides` with absolute paths of weights, because stages run in another folder."""
    made = []
    for override in overrides:
        key, _, value = override.partition("=")
        if key == "model.weights":
            files = [Path(each) for each in value.split("+")]
            value = "+".join(str(file.resolve()) if file.is_file() else str(file) for file in files)
        made.append(f"{key}={value}")
    return made


def plain(words: Sequence[str]) -> str:
    """Return `words` as a shell command, without the folders of this machine."""
    return re.sub(r"[^\s='\"]*/", "", shlex.join(words))


def replace_section(path: Path, name: str, text: str) -> None:
    """Replace the section `name` of the Markdown file `path` with `text`, or append it."""
    begin, end = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    section = f"{begin}\n{text.strip()}\n{end}\n"
    content = path.read_text(encoding="utf-8") if path.exists() else PREFACE
    before, found, rest = content.partition(begin)
    after = rest.partition(f"{end}\n")[2]
    write_text(path, before + section + after if found else f"{content.rstrip()}\n\n{section}")


def hardware_line() -> str:
    """Return one line on the hardware and versions, as runs record them."""
    # Not imported at the top: memory of this process would count in the system's peak of the stages that it starts.
    from pipelines.models.device import choose_hardware
    from pipelines.settings.running_sections import HardwareSettings

    record = choose_hardware(HardwareSettings()).record()
    return (
        f"{record['device']}, {record['threads']} threads, {record['precision']}, torch {record['torch']}, "
        f"Python {record['python']}"
    )


def run(main: Callable[[Sequence[str] | None], object]) -> int:
    """Call a benchmark's `main` and return its exit status; errors are printed as by the stages."""

    def without_result(arguments: Sequence[str] | None) -> None:
        main(arguments)

    return command.run(without_result)


def in_a_process(name: str, words: Sequence[str]) -> list[Finding]:
    """Call the benchmark `name` in a new process, so that its memory does not count in later measurements."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(_call, name, list(words)).result()


def _call(name: str, words: list[str]) -> list[Finding]:
    findings: list[Finding] = importlib.import_module(f"benchmarks.{name}").main(words)
    return findings


def run_stage(folder: Path, stage: str, *words: str) -> StageRun:
    """Run `python -m pipelines.<stage> <words>` in `folder`, print one line, and return time and memory.

    The output goes to `<stage>.log`.  Raises `UserError` with the end of it when the stage fails.
    """
    log = folder / f"{stage}.log"
    started = time.perf_counter()
    with open(log, "wb") as output:
        process = subprocess.Popen(
            [sys.executable, "-m", f"pipelines.{stage}", *words],
            cwd=folder,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            stdout=output,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # to find its child processes
        )
        try:
            process.returncode, memory = _watch(process.pid)
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    seconds = time.perf_counter() - started
    if process.returncode:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-LINES_SHOWN:])
        raise UserError(f"pipelines.{stage} {plain(words)} ended with status {process.returncode}:\n{tail}")
    print(f"  {stage:<9}{command.duration(seconds):>14}{memory.largest / 1e6:>9,.0f} MB", flush=True)
    return StageRun(stage, seconds, memory)


def prepared(folder: Path, competition: str, archive: Path) -> Layout:
    """Run download from `archive` and split below `folder`; return the layout."""
    run_stage(folder, "download", competition, "--archive", str(archive.resolve()))
    run_stage(folder, "split", competition)
    return Layout(folder, competition)


def _watch(pid: int) -> tuple[int, Memory]:
    """Wait for the session leader `pid`; return its exit status and the peak memory of its session."""
    largest = together = private = 0
    ending = os.pidfd_open(pid)  # readable when the process has ended, which may be before `POLL_SECONDS`
    inherited = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    while True:
        ended, status, usage = os.wait4(pid, os.WNOHANG)
        if ended:
            break
        members = list(_session(pid))
        largest = max([largest, *(_kibibytes(member / "status", "VmHWM") for member in members)])
        together = max(together, sum(_kibibytes(member / "smaps_rollup", "Pss") for member in members))
        private = max(private, sum(_kibibytes(member / "status", "RssAnon") for member in members))
        select.select([ending], [], [], POLL_SECONDS)
    os.close(ending)
    # The system's figure is exact, but includes the memory of this process at the start of the other.
    if usage.ru_maxrss > inherited:
        largest = max(largest, usage.ru_maxrss)
    memory = Memory(largest * KIBIBYTE, max(largest, together) * KIBIBYTE, private * KIBIBYTE)
    return os.waitstatus_to_exitcode(status), memory


def _session(leader: int) -> Iterator[Path]:
    """Yield the /proc folder of each process in the session of `leader`."""
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if int((folder / "stat").read_text().rpartition(")")[2].split()[3]) == leader:
                yield folder
        except OSError:
            continue  # the process has ended


def resident(key: str) -> int:
    """Return the resident memory of this process in bytes: now (`VmRSS`) or its peak (`VmHWM`)."""
    return _kibibytes(Path("/proc/self/status"), key) * KIBIBYTE


def _kibibytes(path: Path, key: str) -> int:
    """Return the value of `key`, in kB, in a file of /proc; 0 for a process that has ended."""
    try:
        found = re.search(rf"^{key}:\s+(\d+) kB", path.read_text(), re.MULTILINE)
    except OSError:
        return 0
    return int(found[1]) if found else 0


def _title(doc: str | None) -> str:
    return (doc or "").strip().split("\n\n")[0].replace("\n", " ")


def _fenced(findings: Sequence[Finding]) -> str:
    return f"```\n{table(findings)}\n```"
