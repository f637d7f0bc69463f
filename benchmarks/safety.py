"""The cost of safety: its share of a whole run, from the archive to the submission.

Counted: each epoch's checkpoints and history, flushing and renaming files, hashing, locks, the intervals of scores, and
the check of the submission. Each stage runs in a process, in a new working folder, with a clock around these functions;
time inside two nested ones counts once. Flushing in decoding processes is not counted.
"""

import contextlib
import importlib
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import Finding
from pipelines import command
from pipelines.system.errors import UserError

STAGES = ("download", "split", "train", "retrain", "predict")
GOAL = 0.03
FLUSH = "flushing to disk, giving names"
# For each part, the functions of pipelines that do nothing else.
PARTS = {
    "checkpoints and history, each epoch": ("core.checkpoint.save", "core.job.write_history"),
    FLUSH: ("system.files.atomic_file", "system.files.atomic_folder"),
    "hashing": ("system.files.file_sha256", "dataset.fingerprints.fingerprints", "dataset.fingerprints.images_digest"),
    "locks": ("system.files.only_one",),
    "intervals of scores": ("core.metrics.interval",),
    "checking the submission": ("dataset.submission.check_submission",),
}


@dataclass
class Tally:
    """Adds up the seconds inside counted functions; a nested call counts for the outer one."""

    seconds: dict[str, float] = field(default_factory=lambda: dict.fromkeys(PARTS, 0.0))
    busy: bool = False

    @contextlib.contextmanager
    def counting(self, part: str) -> Iterator[None]:
        if self.busy:
            yield
            return
        self.busy, started = True, time.perf_counter()
        try:
            yield
        finally:
            self.busy = False
            self.seconds[part] += time.perf_counter() - started

    def counted(self, part: str, function: Callable[..., Any]) -> Callable[..., Any]:
        """Return `function`, counted for `part`; of a context manager, entering and leaving count."""

        @wraps(function)
        def call(*arguments: Any, **options: Any) -> Any:
            with self.counting(part):
                result = function(*arguments, **options)
            return self._entered(part, result) if isinstance(result, contextlib.AbstractContextManager) else result

        return call

    @contextlib.contextmanager
    def _entered(self, part: str, context: contextlib.AbstractContextManager[Any]) -> Iterator[Any]:
        with contextlib.ExitStack() as stack:
            with self.counting(part):
                value = stack.enter_context(context)
            yield value
            with self.counting(part):
                stack.close()

    def install(self) -> None:
        """Replace the plain functions with the counted ones in all modules that have them."""
        for part, names in PARTS.items():
            for name in names:
                module, _, function = name.rpartition(".")
                plain = getattr(importlib.import_module(f"pipelines.{module}"), function)
                counted = self.counted(part, plain)
                for each in [each for each in sys.modules.values() if each.__name__.startswith("pipelines.")]:
                    if vars(each).get(function) is plain:
                        setattr(each, function, counted)
        os.fsync = self.counted(FLUSH, os.fsync)  # packing flushes its decoded images


@dataclass(frozen=True)
class Stage:
    """The seconds of a stage, and those of each safety part."""

    seconds: float
    parts: dict[str, float]


def run_stage(folder: Path, stage: str, words: Sequence[str]) -> Stage:
    """Run a stage in this process, in `folder`; its output goes to `<stage>.log`.  Raises `UserError` when it fails."""
    os.chdir(folder)
    started, tally = time.perf_counter(), Tally()
    log = folder / f"{stage}.log"
    with (
        open(log, "w", encoding="utf-8") as output,
        contextlib.redirect_stdout(output),
        contextlib.redirect_stderr(output),
    ):
        module = importlib.import_module(f"pipelines.{stage}")
        tally.install()
        status = command.run(module.main, words)
    if status:
        raise UserError(f"pipelines.{stage} {measuring.plain(words)} ended with status {status}:\n{log.read_text()}")
    return Stage(time.perf_counter() - started, tally.seconds)


def measure(folder: Path, archive: Path, competition: str, overrides: Sequence[str] = ()) -> dict[str, Stage]:
    """Run all stages below `folder`, each in a process, and return the seconds of each."""
    words = [competition, *(["--set", *overrides] if overrides else [])]
    found = {}
    for stage in STAGES:
        more = ["--archive", str(archive)] if stage == "download" else []
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
            found[stage] = pool.submit(run_stage, folder, stage, [*words, *more]).result()
        print(f"  {stage:<9}{command.duration(found[stage].seconds):>14}", flush=True)
    return found


def findings(stages: dict[str, Stage]) -> list[Finding]:
    """Return each part's share of the whole run, largest first, then the share of all parts."""
    whole = sum(stage.seconds for stage in stages.values())
    parts = {part: sum(stage.parts[part] for stage in stages.values()) for part in PARTS}
    safe = sum(parts.values())
    against = f"the whole run, {command.duration(whole)}"
    found = [
        Finding(part, against, f"{seconds / whole:.2%} ({seconds:.2f} s)")
        for part, seconds in sorted(parts.items(), key=lambda item: -item[1])
    ]
    return [
        *found,
        Finding("being safe", against, f"{safe / whole:.2%} ({safe:.2f} s)", f"under {GOAL:.0%}", safe < GOAL * whole),
    ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "safety")
    parser.add_argument("--archive", type=Path, required=True, help="the competition's archive")
    parser.add_argument("--competition", default="cifar-10")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides")
    words = parser.parse_args(arguments)
    if not words.archive.exists():
        raise UserError(f"There is no archive {words.archive}.")
    with tempfile.TemporaryDirectory() as name:
        stages = measure(Path(name), words.archive.resolve(), words.competition, measuring.absolute(words.set))
    found = findings(stages)
    measuring.conclude("safety", __doc__, arguments, found, f"one run over the whole archive of {words.competition}")
    return found


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
