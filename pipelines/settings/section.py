"""What the sections of settings are made of."""

import dataclasses
from collections.abc import Iterator
from typing import Any


def option(default: Any, help: str, **bounds: float) -> Any:
    """Return a field with its help line; bounds of a number: `minimum`, `maximum`, `above`, `below`."""
    return dataclasses.field(default=default, metadata={"help": help, **bounds})


class Section:
    """A section of settings; `problems` yields a message for each contradiction within it."""

    def problems(self) -> Iterator[str]:
        yield from ()
