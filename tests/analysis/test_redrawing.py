"""A picture is redrawn rarely: by the clock, and by how long it takes to draw."""

import itertools
import time

from pipelines.analysis.redrawing import PAUSE, Redrawn


def test_nothing_is_drawn_before_its_time() -> None:
    drawn: list[int] = []
    redraw = Redrawn(drawn.append, seconds=3600)
    for number in range(100):
        redraw(number)
    assert drawn == []


def test_drawing_takes_a_small_share_of_the_time() -> None:
    drawn: list[float] = []

    def draw(number: int) -> None:
        time.sleep(0.01)
        drawn.append(time.monotonic())

    redraw = Redrawn(draw, seconds=0)
    while len(drawn) < 3:
        redraw(0)
    assert all(later - earlier >= PAUSE * 0.01 for earlier, later in itertools.pairwise(drawn))
