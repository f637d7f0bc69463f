"""Work spread over processes: all of it is done, and what goes wrong in one is raised here."""

import math
import multiprocessing
import os
from collections.abc import Iterable, Iterator
from typing import Any

import pytest

from pipelines.core.errors import UserError
from pipelines.core.processes import in_processes
from pipelines.core.watch import unwatched


def process_and_root(number: int) -> tuple[int, float]:
    if number < 0:
        raise UserError(f"{number} has no root.")
    return os.getpid(), math.sqrt(number)


@pytest.fixture(autouse=True)
def two_processors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 2)


def results(*work: int) -> list[tuple[int, float]]:
    return list(in_processes(process_and_root, work, unwatched, "taking", "roots"))


def test_several_pieces_are_done_by_other_processes() -> None:
    found = results(0, 1, 4, 9, 16)
    assert sorted(root for _, root in found) == [0, 1, 2, 3, 4]
    assert os.getpid() not in {process for process, _ in found}


def test_one_piece_is_done_in_this_process_and_none_in_none() -> None:
    assert results(49) == [(os.getpid(), 7)]
    assert results() == []


@pytest.mark.parametrize("work", [(-1,), (1, -1, 4)])
def test_a_mistake_is_raised_here_and_leaves_no_process(work: tuple[int, ...]) -> None:
    before = multiprocessing.active_children()
    with pytest.raises(UserError, match=r"-1 has no root"):
        results(*work)
    assert multiprocessing.active_children() == before


@pytest.mark.parametrize("work", [(4,), (1, 4, 9)])
def test_each_piece_is_watched(work: tuple[int, ...]) -> None:
    seen: list[object] = []

    def watch(items: Iterable[Any], what: str, total: int | None = None, unit: str = "files") -> Iterator[Any]:
        seen.append((what, total, unit))
        for item in items:
            seen.append("piece")
            yield item

    list(in_processes(process_and_root, work, watch, "taking", "roots"))
    assert seen == [("taking", len(work), "roots"), *["piece"] * len(work)]
