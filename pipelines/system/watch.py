"""The seam through which a stage looks on while core works, so that core never prints."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

Item = TypeVar("Item")


class Watch(Protocol):
    """Yields `items` as they are, and may show how far they have come: `what` is done to `total` of them."""

    def __call__(
        self, items: Iterable[Item], what: str, total: int | None = None, unit: str = "files"
    ) -> Iterable[Item]: ...


def unwatched(items: Iterable[Item], what: str, total: int | None = None, unit: str = "files") -> Iterable[Item]:
    """The `Watch` that shows nothing."""
    return items
