"""Whether the page is as new as the files that it is made from. Finished stages ask this, so the imports are few."""

import hashlib
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from pipelines.settings.layout import Layout
from pipelines.settings.schema import Settings

READ = (  # files of each run and member that the page depends on
    *("run.json", "train.json", "retrain.json", "predict.json", "folds.json", "blend.json", "history.csv"),
    *("valid_predictions.csv", "oof.csv", "test_predictions.npy"),
)
HEAD = 1000  # characters of the page, which hold the digest
CODE = Path(__file__).parent


def is_current(layout: Layout, settings: Settings) -> bool:
    """Return whether the page holds the digest of its inputs, and none of them is newer."""
    with suppress(OSError, UnicodeDecodeError):  # a file may vanish meanwhile
        page = layout.report.stat()
        with open(layout.report, encoding="utf-8") as file:
            head = file.read(HEAD)
        newest = max((path.stat().st_mtime_ns for path in _inputs(layout)), default=0)
        return digest(layout, settings) in head and newest <= page.st_mtime_ns
    return False


def digest(layout: Layout, settings: Settings) -> str:
    """Return the SHA-256 of the names and sizes of all inputs, and of the settings that the page shows."""
    found = [f"{settings.competition} {settings.data}"]
    for path in _inputs(layout):
        name = path.name if path.parent == CODE else path.relative_to(layout.root).as_posix()
        found.append(f"{name} {path.stat().st_size}")
    return hashlib.sha256("\n".join(found).encode()).hexdigest()


def _inputs(layout: Layout) -> Iterator[Path]:
    """Yield the files that there are, of data, runs, submissions and of the code that writes the page."""
    files = [layout.split_csv, layout.submission_log, layout.submission_limits, layout.look_picture, layout.look_table]
    files += [layout.boxes_csv, layout.audit.record, layout.audit.suspects]
    files += sorted(layout.submissions.glob("*.csv"))
    for run in layout.runs():
        files += [path for name in READ for path in (run.folder / name, *sorted(run.folder.glob(f"*/{name}")))]
    files += [path for path in sorted(CODE.iterdir()) if path.suffix in (".py", ".html", ".css")]
    return (path for path in files if path.exists())
