"""Work on image files spread over processes."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from typing import TypeVar

from pipelines.system.errors import UserError
from pipelines.system.memory import check_room_for_locks, death
from pipelines.system.watch import Watch

Work = TypeVar("Work")
Result = TypeVar("Result")

AHEAD = 2  # pieces a process: one that it does and one that waits for it


def cores() -> int:
    """Return how many processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def in_processes(
    function: Callable[[Work], Result], work: Iterable[Work], total: int, watch: Watch, what: str, unit: str
) -> Generator[Result, None, None]:
    """Yield `function` of each of `work`, in its order; what one raises is raised here.

    total: how many pieces there are; a single one is done in this process.  The processes work while others use what is
    yielded, but only a few pieces ahead, so that neither work nor results add up in memory.  They end when the
    iterator is exhausted or closed; and when this process ends, however that happens.
    """
    with closing(_results(function, work, total)) as results:
        yield from watch(results, what, total, unit)


def _results(function: Callable[[Work], Result], work: Iterable[Work], total: int) -> Generator[Result, None, None]:
    processes = min(cores(), total)
    if processes <= 1:
        yield from map(function, work)
        return
    # A fork server, since forking a process in which torch runs threads can deadlock.
    context = multiprocessing.get_context("forkserver")
    others = set(multiprocessing.active_children())
    check_room_for_locks()
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_depend_on_parent)
    ours: set[multiprocessing.process.BaseProcess] = set()
    pending: deque[Future[Result]] = deque()
    try:
        for piece in work:
            pending.append(pool.submit(function, piece))
            if len(ours) < processes:
                ours |= set(multiprocessing.active_children()) - others
            if len(pending) >= AHEAD * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        pool.shutdown()
        raise UserError(
            f"{_death(ours)} End other programs, or let fewer processor cores be used (taskset -c 0 make …), and type "
            "the same command again."
        ) from None
    finally:
        pool.shutdown(cancel_futures=True)


def _death(processes: Iterable[multiprocessing.process.BaseProcess]) -> str:
    """Return what is said of the one of `processes` that died first; the others were then told to end, by SIGTERM."""
    for process in processes:
        if process.exitcode not in (None, 0, -signal.SIGTERM):
            assert process.exitcode is not None
            name = signal.Signals(-process.exitcode).name if process.exitcode < 0 else ""
            return death(str(process.pid), name)
    return death("of a pool", "")


def _depend_on_parent() -> None:
    """Let this process end when the one that it works for does, and not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all; the other process ends this one
    end_with_parent()


def end_with_parent() -> None:
    """Let this process, started through multiprocessing, end at once when its parent does, however that happens."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # a pool would have this process wait for more work for ever, and a stage go on unseen

    threading.Thread(target=follow, daemon=True).start()
