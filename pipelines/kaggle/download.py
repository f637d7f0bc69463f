"""Download a competition's archive: the file gets its name only after it was verified.

Kaggle's client checks at most a length.  It saves a web page or an error's text as the archive, and resumes from any
partial file.  So the result is verified here, and a damaged resumed download restarts from the beginning.
"""

import contextlib
import errno
import json
import os
import shutil
import unicodedata
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pipelines.dataset.archive_entries import Refusal
from pipelines.dataset.archive_zip import open_entry
from pipelines.kaggle.failures import ConnectionLost, Damaged
from pipelines.kaggle.service import Kaggle
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256, write_text
from pipelines.system.watch import Watch, unwatched

LATER = "It was removed. Try again later; if it happens again, download it in a browser and pass it with ARCHIVE=."
MB = 1_000_000
READ_BYTES = 1 << 16  # larger pieces are fresh pages of malloc each time, which is three times as slow
MARKER = ".kaggle-partial"  # suffix of the client's note beside a partial file, which it needs to resume


def fetch_archive(kaggle: Kaggle, target: Path, watch: Watch = unwatched) -> str:
    """Download the archive of `kaggle`'s competition to `target`, and return its SHA-256.

    The archive is a zip whose members match their checksums and Kaggle's list.  Also write `target`.sha256, as
    sha256sum does.  A broken connection keeps the partial file for the next call.  The caller holds a lock.

    Raises `UserError`; `TryAgainLater` if Kaggle or the network failed, and `Damaged` if the file is not the archive.
    """
    folder = target.with_name(f".{target.name}.download")
    listed = kaggle.files()
    _check_disk(folder, sum(listed.values()))
    while True:
        folder.mkdir(parents=True, exist_ok=True)
        resumed = any(folder.iterdir())
        try:
            kaggle.download(folder, _Arriving(folder, target.name, watch).look)
            path = _downloaded(folder)
            sha256 = verify(path, listed)
            break
        except Damaged:
            shutil.rmtree(folder)
            if not resumed:
                raise
        except ConnectionLost as error:
            if not (kept := _kept(folder)):
                raise
            raise ConnectionLost(f"{error} {kept / MB:,.1f} MB of it are kept; the next call resumes there.") from None
        except Exception:  # but keep all after an interrupt
            _kept(folder)
            raise
    write_text(target.with_name(f"{target.name}.sha256"), f"{sha256}  {target.name}\n")
    os.replace(path, target)
    shutil.rmtree(folder)
    return sha256


def verify(archive: Path, listed: Mapping[str, int]) -> str:
    """Return the SHA-256 of the zip `archive`.  Raises `Damaged` unless its members are whole and as `listed`."""
    with open(archive, "rb") as file:
        head = file.read(512)
    if not head.startswith((b"PK\3\4", b"PK\5\6")):
        what = "a web page" if head.lstrip().startswith(b"<") else f"something that begins with {head[:40]!r}"
        raise Damaged(f"The file from Kaggle is not a zip but {what}. {LATER}")
    try:
        with zipfile.ZipFile(archive) as content, ThreadPoolExecutor(1) as thread:
            _compare([member for member in content.infolist() if not member.is_dir()], listed)
            sha256 = thread.submit(file_sha256, archive)
            for member in content.infolist():
                with contextlib.suppress(Refusal), open_entry(content, member) as file:  # `unpack` says what to do
                    while file.read(READ_BYTES):  # zipfile compares the checksum at the end
                        pass
            return sha256.result()
    except UserError:
        raise
    except Exception as error:  # damaged bytes make zipfile raise anything, IndexErrors included
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # an error of the disk
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Damaged(f"The archive that came from Kaggle is damaged ({reason}). {LATER}") from None


def _compare(members: Sequence[zipfile.ZipInfo], listed: Mapping[str, int]) -> None:
    """Raise `Damaged` unless every `listed` file is in `members`, by its path or file name, with the same size."""
    if not members:
        raise Damaged(f"The archive that came from Kaggle is empty. {LATER}")
    sizes: dict[str, set[int]] = {}
    for member in members:
        for spelling in _spellings(member.filename):
            for name in (spelling, PurePosixPath(spelling).name):
                sizes.setdefault(name, set()).add(member.file_size)
    for listed_name, size in listed.items():
        name = unicodedata.normalize("NFC", listed_name)
        if name not in sizes:
            raise Damaged(f"The archive that came from Kaggle lacks {name!r}, which Kaggle lists. {LATER}")
        if size not in sizes[name]:
            raise Damaged(
                f"In the archive from Kaggle {name!r} has {max(sizes[name]):,} bytes, where Kaggle lists "
                f"{size:,}. {LATER}"
            )


def _spellings(name: str) -> set[str]:
    """Return the possible spellings of a member's name: zipfile reads UTF-8 as cp437 if the zip does not mark it."""
    found = {name}
    with contextlib.suppress(UnicodeError):
        found.add(name.encode("cp437").decode("utf-8"))
    return {unicodedata.normalize("NFC", each) for each in found}


def _check_disk(folder: Path, needed: int) -> None:
    """Raise `UserError` if the disk has no space for `needed` bytes less those already in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    needed -= sum(path.stat().st_size for path in folder.iterdir())
    if needed > (free := shutil.disk_usage(folder).free):
        raise UserError(
            f"The competition's files need {needed / MB:,.1f} MB and the disk has {free / MB:,.1f} MB free. Free "
            "space, or work in a folder on another disk."
        )


def _downloaded(folder: Path) -> Path:
    """Return the one file that the client left.  Raises `Damaged` for none or several."""
    found = [path for path in folder.iterdir() if not path.name.endswith(MARKER)]
    if len(found) != 1:
        raise Damaged(f"Kaggle's client left {len(found)} files where one archive was expected. Try again later.")
    return found[0]


def _kept(folder: Path) -> int:
    """Return the bytes of the partial file; remove files that the client cannot resume."""
    parts = [path for path in folder.iterdir() if path.with_name(path.name + MARKER).exists()]
    if size := sum(path.stat().st_size for path in parts):
        return size
    shutil.rmtree(folder)
    return 0


class _Arriving:
    """A progress bar of the received bytes, in MB."""

    def __init__(self, folder: Path, name: str, watch: Watch) -> None:
        self.folder, self.name, self.watch = folder, name, watch
        self.ticks: Iterator[int] | None = None
        self.shown = 0

    def look(self) -> int:
        """Show and return the number of received bytes."""
        path = next((path for path in self.folder.iterdir() if not path.name.endswith(MARKER)), None)
        if not path:
            return 0
        size = path.stat().st_size
        if not self.ticks:
            total = _total(path.with_name(path.name + MARKER))
            count = -(-total // MB) if total else None
            self.ticks = iter(self.watch(range(count or 1 << 40), self.name, count, "MB"))
        while self.shown < size // MB:
            next(self.ticks, None)
            self.shown += 1
        return size


def _total(marker: Path) -> int | None:
    try:
        return int(json.loads(marker.read_text(encoding="utf-8"))["size"])
    except (OSError, ValueError, KeyError, TypeError):  # partly written, or without a length
        return None
