"""The interface through which a stage shows the progress of work in other rooms, which never print."""

from collections.abc import Callable, Iterable, Iterator
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")


class Watch(Protocol):
    """Yields `items` unchanged and may show progress: `what` is done to `total` of them, counted in `unit`."""

    def __call__(
        self, items: Iterable[Item], what: str, total: int | None = None, unit: str = "files"
    ) -> Iterable[Item]: ...


class Noted(Generic[Item]):
    """Items with a note: a short text on the work so far, which a `Watch` may ask for after each item and show."""

    def __init__(self, items: Iterable[Item], note: Callable[[], str]) -> None:
        self.items, self.note = items, note

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)


def unwatched(items: Iterable[Item], what: str, total: int | None = None, unit: str = "files") -> Iterable[Item]:
    """Return `items`; the `Watch` that shows nothing."""
    return items
