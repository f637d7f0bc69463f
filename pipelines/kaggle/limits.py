"""The record of how many submissions were left when Kaggle last said so, limits.json."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path

from pipelines.kaggle.service import Limits
from pipelines.kaggle.submission_log import now
from pipelines.system.files import read_json, write_json


@dataclass(frozen=True)
class KnownLimits:
    """left: None if Kaggle reported no limit.  today, total: sent so far.  time: of the answer, ISO 8601 in UTC."""

    left: int | None
    today: int
    total: int
    time: str


def write_limits(path: Path, limits: Limits, sent: int = 0) -> None:
    """Write what Kaggle has answered.  sent: submissions that it has received since this answer."""
    known = limits.left or limits.spent  # all zeros: no limit is reported, see `Limits`
    left = max(limits.left - sent, 0) if known else None
    record = KnownLimits(left, limits.today + sent, limits.total + sent, now())
    with suppress(OSError):  # no stage needs this record
        write_json(path, asdict(record))


def read_limits(path: Path) -> KnownLimits | None:
    """Return the record; None if there is none that can be read."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        values = read_json(path)
        left = None if values["left"] is None else int(values["left"])
        return KnownLimits(left, int(values["today"]), int(values["total"]), str(values["time"]))
    return None
