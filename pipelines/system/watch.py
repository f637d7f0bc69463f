"""The interface through which a stage shows the progress of work in other rooms, which never print."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

Item = TypeVar("Item")


class Watch(Protocol):
    """Yields `items` unchanged and may show progress: `what` is done to `total` of them, counted in `unit`."""

    def __call__(
        self, items: Iterable[Item], what: str, total: int | None = None, unit: str = "files"
    ) -> Iterable[Item]: ...


def unwatched(items: Iterable[Item], what: str, total: int | None = None, unit: str = "files") -> Iterable[Item]:
    """Return `items`; the `Watch` that shows nothing."""
    return items


@dataclass(frozen=True)
class Noted(Generic[Item]):
    """Items, and a note on them that a `Watch` may show and that changes meanwhile, such as the loss."""

    items: Iterable[Item]
    note: Callable[[], str]

    def __iter__(self) -> Iterator[Item]:
        return iter(self.items)
