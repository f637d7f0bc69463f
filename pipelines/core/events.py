"""Event files of a training, which TensorBoard reads: a scalar for each column of the history, at each epoch."""

import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.shell import pip_command

PACKAGE = "tensorboard"


def require_tensorboard(settings: Settings) -> None:
    """Raise `UserError` if `settings` ask for event files and the package that writes them is missing."""
    if settings.train.tensorboard and find_spec(PACKAGE) is None:
        raise UserError(
            f"train.tensorboard is true, but the package {PACKAGE} is missing. Set it to false, or install the "
            f"package: {pip_command(PACKAGE)}"
        )


@contextmanager
def event_log(folder: Path, wanted: bool) -> Iterator[Callable[[Sequence[dict[str, Any]]], None]]:
    """Yield a function that writes the last of the rows of a history into an event file; into none if not `wanted`.

    A new file replaces those in `folder`, so give it the rows of all epochs, one after another, also after a restart:
    then no epoch is there twice.
    """
    if not wanted:
        yield lambda rows: None
        return
    from torch.utils.tensorboard import SummaryWriter

    shutil.rmtree(folder, ignore_errors=True)
    with SummaryWriter(folder) as writer:

        def write(rows: Sequence[dict[str, Any]]) -> None:
            for column, value in rows[-1].items():
                if column != "epoch":
                    writer.add_scalar(column, value, rows[-1]["epoch"])
            writer.flush()

        yield write
