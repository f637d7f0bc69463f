"""Run trainings in child processes, some at a time, with their output in logs.

A child ends when this process ends, for any reason; it releases its locks then.
"""

import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import NoReturn

from pipelines import command
from pipelines.settings.running_sections import HardwareSettings
from pipelines.system.errors import UserError
from pipelines.system.processes import cores, end_with_parent, protected_start, unblock_signals

TICK_SECONDS = 0.5
PATIENCE_SECONDS = 20.0  # for a child to end after SIGTERM, before it is killed; it continues after its last epoch
VISIBLE = "CUDA_VISIBLE_DEVICES"
TRACEBACK = "Traceback (most recent call last)"


@dataclass(frozen=True)
class Training:
    """A call of the stage train: its name in messages, its arguments, and the log, to which its output is appended."""

    name: str
    arguments: Sequence[str]
    log: Path


def threads_for(hardware: HardwareSettings, trainings: int) -> int:
    """Return the number of threads of each of several `trainings`: as stated, or an equal share of the cores."""
    return hardware.threads or max(1, cores() // min(trainings, len(_gpus(hardware)) or cores()))


def places_for(hardware: HardwareSettings, trainings: int) -> list[dict[str, str]]:
    """Return the places of `run_side_by_side`: a GPU each, or as many as the cores allow with `hardware.threads`."""
    if gpus := _gpus(hardware):
        return [{VISIBLE: gpu} for gpu in gpus][:trainings]
    on_processor = hardware.device in ("auto", "cpu")
    return [{}] * (min(trainings, max(1, cores() // hardware.threads)) if on_processor else 1)


def describe(hardware: HardwareSettings, places: Sequence[Mapping[str, str]]) -> str:
    """Return how many trainings run at a time and on what, for the screen."""
    threads = f"{hardware.threads} thread{'s' * (hardware.threads != 1)} each"
    if gpus := [place[VISIBLE] for place in places if VISIBLE in place]:
        return f"one at a time on each GPU ({', '.join(gpus)}), {threads}"
    return f"{len(places)} at a time, {threads}"


def _gpus(hardware: HardwareSettings) -> list[str]:
    """Return the names, for CUDA_VISIBLE_DEVICES, of the GPUs that trainings may be spread over."""
    if hardware.device not in ("auto", "cuda"):
        return []
    import torch

    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    visible = os.environ.get(VISIBLE) or ",".join(map(str, range(count)))
    return visible.split(",")[:count]


def run_side_by_side(
    trainings: Sequence[Training], places: Sequence[Mapping[str, str]]
) -> Generator[Training | None, None, None]:
    """Yield each training when it has ended, and None every `TICK_SECONDS` meanwhile.

    places: as many as may run at a time; each is the variables of the environment of whoever trains there.  If one
    fails, the others are stopped, its own message is printed, and this process exits with its status.  When the
    iterator is closed, by an exception too, all of them are stopped.
    """
    waiting, free = [*trainings], [*places]
    running: dict[BaseProcess, tuple[Training, Mapping[str, str], int]] = {}
    failed = True
    try:
        while waiting or running:
            while waiting and free:
                training, place = waiting.pop(0), free.pop(0)
                training.log.parent.mkdir(parents=True, exist_ok=True)
                size = training.log.stat().st_size if training.log.exists() else 0
                process = _process(training, place)
                running[process] = training, place, size
                with protected_start():
                    process.start()
            ended = wait([process.sentinel for process in running], TICK_SECONDS)
            yield None
            for process in [each for each in running if each.sentinel in ended]:
                process.join()
                training, place, size = running.pop(process)
                free.append(place)
                if process.exitcode:
                    _stop(running)
                    _fail(training, process.exitcode, size)
                yield training
        failed = False
    finally:
        if failed:
            try:  # an interrupt in a terminal reaches the children too, and they end by themselves
                _join(running, command.GRACE_SECONDS)
            finally:  # also when another signal ends the wait
                _stop(running)


def _process(training: Training, place: Mapping[str, str]) -> BaseProcess:
    words = [*training.arguments], str(training.log), dict(place)
    return multiprocessing.get_context("spawn").Process(target=_be_training, args=words)


def _be_training(arguments: list[str], log: str, variables: dict[str, str]) -> NoReturn:
    end_with_parent()
    os.environ.update(variables)
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
    for stream in (sys.stdout, sys.stderr):
        os.dup2(descriptor, stream.fileno())
    os.close(descriptor)

    def main(arguments: Sequence[str] | None) -> None:
        unblock_signals()
        import_module("pipelines.train").main(arguments)

    sys.exit(command.run(main, arguments))


def _join(processes: Iterable[BaseProcess], seconds: float) -> None:
    """Wait until `processes` have ended, so many seconds for all of them."""
    end = time.monotonic() + seconds
    for process in processes:
        if process.pid is not None:
            process.join(max(end - time.monotonic(), 0))


def _stop(processes: Iterable[BaseProcess]) -> None:
    """End `processes` and wait for it; kill those that do not end in time."""
    started = [process for process in processes if process.pid is not None]
    try:
        for process in started:
            process.terminate()
        _join(started, PATIENCE_SECONDS)
    finally:
        for process in started:
            process.kill()
            process.join()


def _fail(training: Training, code: int, size: int) -> NoReturn:
    """Print why `training` failed, and exit with its status.  size: of its log before it started."""
    where = f"Its log: {training.log.relative_to(Path.cwd())}"
    if code in (command.EXIT_INTERRUPTED, -signal.SIGINT):
        raise KeyboardInterrupt
    if code in (command.EXIT_TERMINATED, -signal.SIGTERM):
        raise command.Terminated
    if code < 0:
        raise UserError(
            f"The training of {training.name} was killed ({signal.Signals(-code).name}), most likely because memory "
            "ran out. The same command continues. End other programs before, or train one at a time: put taskset -c 0 "
            f"before the command. {where}"
        )
    text = training.log.read_bytes()[size:].decode(errors="replace")
    places = [text.rfind(f"\n{word}") for word in ("error: ", TRACEBACK)]
    sys.stdout.flush()
    print(text[max(places) + 1 :].rstrip("\n"), file=sys.stderr)
    print(f"The training of {training.name} failed. The same command continues from there. {where}", file=sys.stderr)
    sys.exit(code)
