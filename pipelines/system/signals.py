"""What SIGINT, the interrupt of a keyboard, and SIGTERM do for a while."""

import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM)
Handler = Callable[[int, FrameType | None], None]


@contextmanager
def handled_by(handler: Handler, numbers: Iterable[signal.Signals] = STOPPING) -> Iterator[None]:
    """Let `handler` answer the signals `numbers` until the block ends; only the main thread may say so."""
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
    """Let SIGINT and SIGTERM wait until the block ends: for compiled code that bears no exception in its midst."""
    if threading.current_thread() is not threading.main_thread():  # where no signal is handled
        yield
        return
    came: list[int] = []
    try:
        with handled_by(lambda number, frame: came.append(number)):
            yield
    finally:
        for each in came:  # the first one that is not ignored ends this
            signal.raise_signal(each)
