"""Work on image files spread over processes."""

import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import TypeVar

from pipelines.core.watch import Watch

Work = TypeVar("Work")
Result = TypeVar("Result")


def in_processes(
    function: Callable[[Work], Result], work: Sequence[Work], watch: Watch, what: str, unit: str
) -> Iterator[Result]:
    """Yield `function` of each of `work`, in the order in which they end; what one raises is raised here.

    A single piece of work is done in this process.
    """
    processes = min(os.cpu_count() or 1, len(work))
    if processes <= 1:
        for piece in watch(work, what, len(work), unit):
            yield function(piece)
        return
    # A fork server, since forking a process in which torch runs threads can deadlock.
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(processes, mp_context=context) as pool:
        futures = [pool.submit(function, piece) for piece in work]
        try:
            for future in watch(as_completed(futures), what, len(work), unit):
                yield future.result()
        finally:
            pool.shutdown(cancel_futures=True)
