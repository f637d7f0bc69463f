"""Handle or delay SIGINT (a keyboard interrupt) and SIGTERM during a block."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled_by(handler: Handler, numbers: Iterable[signal.Signals] = STOPPING) -> Iterator[None]:
    """Let `handler` handle the signals `numbers` during the block; only in the main thread."""
    before = {number: signal.getsignal(number) for number in numbers}
    try:
        for number in before:
            signal.signal(number, handler)
        yield
    finally:
        for number, handler_before in before.items():
            signal.signal(number, handler_before)


@contextmanager
def undisturbed() -> Iterator[None]:
    """Delay SIGINT and SIGTERM until the block ends: for compiled code that must not be interrupted by an exception."""
    if threading.current_thread() is not threading.main_thread():  # only the main thread handles signals
        yield
        return
    came: list[int] = []
    try:
        with handled_by(lambda number, frame: came.append(number)):
            yield
    finally:
        for each in came:  # the first one that is not ignored raises
            signal.raise_signal(each)
