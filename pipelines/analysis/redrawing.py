"""Redraw a picture while its data grow, so rarely that it costs little time."""

import time
from collections.abc import Callable
from typing import Generic, TypeVar

Data = TypeVar("Data")

SECONDS = 10.0  # between two drawings, at least, and before the first
PAUSE = 20  # times as long as the last drawing, at least: drawing takes 5 % of the time at most


class Redrawn(Generic[Data]):
    """Calls `draw` with the newest data, not more often than every so many `seconds`."""

    def __init__(self, draw: Callable[[Data], None], seconds: float = SECONDS) -> None:
        self.draw, self.seconds = draw, seconds
        self._due = time.monotonic() + seconds

    def __call__(self, data: Data) -> None:
        started = time.monotonic()
        if started < self._due:
            return
        self.draw(data)
        ended = time.monotonic()
        self._due = ended + max(self.seconds, PAUSE * (ended - started))
