"""Spread work over processes that end with this one."""

import multiprocessing
import os
import signal
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing, contextmanager
from multiprocessing import resource_tracker
from multiprocessing.process import BaseProcess
from typing import TypeVar

from pipelines.system.errors import UserError
from pipelines.system.memory import death, problem_of_processes
from pipelines.system.signals import STOPPING
from pipelines.system.watch import Watch

Work = TypeVar("Work")
Result = TypeVar("Result")

DECODING = 2  # processes beside a processor's own computing
MOST_DECODING = 32  # processes by default, however many cores there are
AHEAD = 2  # items submitted per process: one in work, one waiting


def cores() -> int:
    """Return the number of processor cores that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def decoding_processes(workers: int, threads: int, on_gpu: bool, sharing: int = 1) -> int:
    """Return the number of processes that decode photos: `workers`, but at most one per core.

    workers: -1: two beside a processor's own computing; for a GPU one per core, except the core of the process that
    feeds it.  threads: of the cores, how many this process may use; 0: all.  sharing: the processes that share the
    cores; the result is for one of them.
    """
    own = max(1, cores() // sharing)
    if workers >= 0:
        return min(workers, own)
    if not on_gpu:
        return max(1, min(DECODING, cores()) // sharing)
    return max(1, min(threads or own, own, MOST_DECODING + 1) - 1)


def in_processes(
    function: Callable[[Work], Result], work: Iterable[Work], total: int, watch: Watch, what: str, unit: str
) -> Generator[Result, None, None]:
    """Yield `function(item)` for each item of `work`, in order; an exception of `function` is raised here.

    total: the number of items; a single item is done in this process. Processes run a few items ahead of the consumer
    at most, to save memory. They end when the iterator is exhausted or closed, or when this process ends.
    """
    with closing(_results(function, work, total)) as results:
        yield from watch(results, what, total, unit)


def _results(function: Callable[[Work], Result], work: Iterable[Work], total: int) -> Generator[Result, None, None]:
    processes = min(cores(), total)
    if processes <= 1 or problem_of_processes(processes + 1):  # slower, but complete; one more: the fork server
        yield from map(function, work)
        return
    # A fork server, since forking a process in which torch runs threads can deadlock.
    context = multiprocessing.get_context("forkserver")
    others = set(multiprocessing.active_children())
    pool = ProcessPoolExecutor(processes, mp_context=context, initializer=_depend_on_parent)
    ours: set[BaseProcess] = set()
    pending: deque[Future[Result]] = deque()
    try:
        for item in work:
            with protected_start():
                pending.append(pool.submit(function, item))
            if len(ours) < processes:
                ours |= set(multiprocessing.active_children()) - others
            if len(pending) >= AHEAD * processes:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()
    except BrokenProcessPool:
        pool.shutdown()
        advice = "End other programs, or use one core: run the same command again with taskset -c 0 before it."
        raise UserError(f"{_death(ours)} {advice}") from None
    finally:
        pool.shutdown(cancel_futures=True)


def _death(processes: Iterable[BaseProcess]) -> str:
    """Return the message about the process that died first; the pool then ended the others with SIGTERM."""
    for process in processes:
        if (code := process.exitcode) not in (None, 0, -signal.SIGTERM):
            assert code is not None
            return death(str(process.pid), signal.Signals(-code).name if code < 0 else "")
    return death("of a pool", "")


@contextmanager
def protected_start() -> Iterator[None]:
    """Block SIGINT and SIGTERM in the processes that the block starts, until these call `unblock_signals`.

    Without it, a signal during their imports, before they can handle it, prints a traceback.
    """
    resource_tracker.ensure_running()  # first, since its start unblocks the signals
    before = signal.pthread_sigmask(signal.SIG_BLOCK, STOPPING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def unblock_signals() -> None:
    """Let SIGINT and SIGTERM reach this process, also those that came in the meantime."""
    signal.pthread_sigmask(signal.SIG_UNBLOCK, STOPPING)


def _depend_on_parent() -> None:
    """End this process when its parent ends, and not before."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to all processes; the parent ends this one
    unblock_signals()
    end_with_parent()


def end_with_parent() -> None:
    """End this process, started through multiprocessing, as soon as its parent ends for any reason."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        parent.join()
        os._exit(1)  # a pool's process would otherwise wait for work for ever, and a stage would go on unseen

    threading.Thread(target=follow, daemon=True).start()
