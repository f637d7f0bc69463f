"""Work spread over processes: every item is done, and an error in a process is raised here."""

import math
import multiprocessing
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.system import processes
from pipelines.system.errors import UserError
from pipelines.system.files import only_one
from pipelines.system.processes import AHEAD, decoding_processes, in_processes
from pipelines.system.watch import unwatched

ROOT = Path(__file__).parents[2]


def process_and_root(number: int) -> tuple[int, float]:
    if number < 0:
        raise UserError(f"{number} has no root.")
    return os.getpid(), math.sqrt(number)


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "cores", lambda: 2)


def results(*work: int) -> list[tuple[int, float]]:
    return list(in_processes(process_and_root, work, len(work), unwatched, "taking", "roots"))


def test_several_items_are_done_by_other_processes() -> None:
    found = results(*(number**2 for number in range(12)))
    assert [root for _, root in found] == list(range(12))
    assert os.getpid() not in {process for process, _ in found}


def test_one_item_is_done_in_this_process() -> None:
    assert results(49) == [(os.getpid(), 7)]
    assert results() == []


@pytest.mark.parametrize("work", [(-1,), (1, -1, 4)])
def test_an_error_is_raised_here_and_leaves_no_process(work: tuple[int, ...]) -> None:
    before = multiprocessing.active_children()
    with pytest.raises(UserError, match=r"-1 has no root"):
        results(*work)
    assert multiprocessing.active_children() == before


@pytest.mark.parametrize("work", [(4,), (1, 4, 9)])
def test_each_item_is_watched(work: tuple[int, ...]) -> None:
    seen: list[object] = []

    def watch(items: Iterable[Any], what: str, total: int | None = None, unit: str = "files") -> Iterator[Any]:
        seen.append((what, total, unit))
        for item in items:
            seen.append("piece")
            yield item

    list(in_processes(process_and_root, work, len(work), watch, "taking", "roots"))
    assert seen == [("taking", len(work), "roots"), *["piece"] * len(work)]


def test_work_runs_a_few_items_ahead_and_processes_end_when_the_iterator_is_closed() -> None:
    asked: list[int] = []

    def work() -> Iterator[int]:
        for number in range(100):
            asked.append(number)
            yield number

    before = multiprocessing.active_children()
    found = in_processes(process_and_root, work(), 100, unwatched, "taking", "roots")
    next(found), next(found)
    assert len(asked) == 2 * AHEAD + 1
    found.close()
    assert multiprocessing.active_children() == before
    assert len(asked) == 2 * AHEAD + 1


def end_by(number: int) -> None:
    if number:
        os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGSEGV])
def test_a_process_that_dies_is_named_with_its_signal_and_the_others_end(number: signal.Signals) -> None:
    before = multiprocessing.active_children()
    with pytest.raises(UserError, match=rf"Process \d+, which decoded images, was killed \({number.name}\)"):
        list(in_processes(end_by, [0, 0, number, 0, 0], 5, unwatched, "ending", "processes"))
    assert multiprocessing.active_children() == before


KILLED = """
import os, sys
from pathlib import Path
from pipelines.system import processes
from pipelines.system.watch import unwatched
from tests.system import test_processes

processes.cores = lambda: 2
list(processes.in_processes(test_processes.hold, map(Path, sys.argv[1:]), 2, unwatched, "holding", "locks"))
"""


def hold(lock: Path) -> None:
    with only_one(lock, "holding it"):
        time.sleep(120)


def test_processes_end_with_their_parent_even_if_it_is_killed(tmp_path: Path) -> None:
    locks = [tmp_path / "first", tmp_path / "second"]
    search = {"PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", KILLED, *map(str, locks)], env=os.environ | search) as process:
        deadline = time.monotonic() + 60
        while not all(lock.exists() for lock in locks) and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert process.returncode == -signal.SIGKILL, "it ended before it could be killed"
    for lock in locks:
        with only_one(lock, "holding it", patience=20):
            pass


@pytest.mark.parametrize(
    ("workers", "threads", "on_gpu", "here", "expected"),
    [
        (-1, 0, False, 16, 2),
        (-1, 0, False, 1, 1),
        (-1, 1, False, 16, 2),
        (-1, 0, True, 16, 15),
        (-1, 0, True, 1, 1),
        (-1, 4, True, 16, 3),  # one of four trainings, each on a GPU of its own
        (-1, 0, True, 128, 32),
        (0, 0, True, 16, 0),
        (5, 0, True, 16, 5),
        (5, 0, False, 4, 4),
    ],
)
def test_a_gpu_gets_a_decoding_process_for_each_core_but_one(
    workers: int, threads: int, on_gpu: bool, here: int, expected: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(processes, "cores", lambda: here)
    assert decoding_processes(workers, threads, on_gpu) == expected
