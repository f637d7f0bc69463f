"""A competition's archive, from Kaggle to a file that is whole: nothing takes its name before it was verified.

Kaggle's client checks no more than a length, and that not always; it saves a web page or the text of an error as if it
were the archive, and goes on from what an earlier run left there.  So what it made is judged here, and where it had
gone on from something that turns out wrong, all is downloaded once more from the beginning.
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

from pipelines.kaggle.service import ConnectionLost, Damaged, Kaggle
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256, write_text
from pipelines.system.watch import Watch, unwatched

LATER = "Try again later; if it stays so, download it in a browser and give it with ARCHIVE=."
MB = 1_000_000
READ_BYTES = 1 << 16  # larger pieces come from malloc as fresh pages each time, which makes it three times as slow
MARKER = ".kaggle-partial"  # the client's note beside an unfinished file, without which it does not go on


def fetch_archive(kaggle: Kaggle, target: Path, watch: Watch = unwatched) -> str:
    """Download the archive of the competition that `kaggle` talks about to `target`, and return its SHA-256.

    The archive is a whole zip, each of whose members has its checksum, and holds the files that Kaggle lists, in their
    sizes.  `target`.sha256 comes to lie beside it, in the form of sha256sum.  A download that the network broke off is
    kept aside, and gone on with in the next call; of one that was damaged nothing is left.  One process at a time: the
    stage holds a lock.

    Raises `UserError`; where Kaggle or the way there fails `TryAgainLater`, and `Damaged` when what came is not the
    archive.
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
            raise ConnectionLost(f"{error} {kept / MB:,.1f} MB of it are kept; the next call goes on there.") from None
        except Exception:  # not an interrupt, after which all that is there is of use
            _kept(folder)
            raise
    write_text(target.with_name(f"{target.name}.sha256"), f"{sha256}  {target.name}\n")
    os.replace(path, target)
    shutil.rmtree(folder)
    return sha256


def verify(archive: Path, listed: Mapping[str, int]) -> str:
    """Return the SHA-256 of the zip `archive` whose members are whole and are those `listed`, with their bytes.

    Raises `Damaged`.
    """
    with open(archive, "rb") as file:
        head = file.read(512)
    if not head.startswith((b"PK\3\4", b"PK\5\6")):
        what = "a web page" if head.lstrip()[:1] == b"<" else f"something that begins with {head[:40]!r}"
        raise Damaged(f"What came from Kaggle is not a zip but {what}. It was removed. {LATER}")
    try:
        with zipfile.ZipFile(archive) as content, ThreadPoolExecutor(1) as thread:
            _compare([member for member in content.infolist() if not member.is_dir()], listed)
            sha256 = thread.submit(file_sha256, archive)
            for member in content.infolist():
                with content.open(member) as file:
                    while file.read(READ_BYTES):  # to its end, where zipfile compares the checksum
                        pass
            return sha256.result()
    except UserError:
        raise
    except Exception as error:  # zipfile raises whatever the bytes lead it into, IndexErrors included
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk's fault
        reason = " ".join(str(error).split()) or type(error).__name__
        raise Damaged(f"The archive that came from Kaggle is damaged ({reason}). It was removed. {LATER}") from None


def _compare(members: Sequence[zipfile.ZipInfo], listed: Mapping[str, int]) -> None:
    """See that each file of Kaggle's list is among `members`, by its path or its mere name, with the same bytes."""
    if not members:
        raise Damaged(f"The archive that came from Kaggle is empty. It was removed. {LATER}")
    sizes: dict[str, set[int]] = {}
    for member in members:
        for spelling in _spellings(member.filename):
            for name in (spelling, PurePosixPath(spelling).name):
                sizes.setdefault(name, set()).add(member.file_size)
    for listed_name, size in listed.items():
        name = unicodedata.normalize("NFC", listed_name)
        if name not in sizes:
            raise Damaged(
                f"The archive that came from Kaggle lacks {name!r}, which Kaggle lists. It was removed. {LATER}"
            )
        if size not in sizes[name]:
            raise Damaged(
                f"In the archive that came from Kaggle {name!r} has {max(sizes[name]):,} bytes, where Kaggle lists "
                f"{size:,}. It was removed. {LATER}"
            )


def _spellings(name: str) -> set[str]:
    """The ways in which a member's name may be meant: zips that forget to say that it is UTF-8 are read as cp437."""
    found = {name}
    with contextlib.suppress(UnicodeError):
        found.add(name.encode("cp437").decode("utf-8"))
    return {unicodedata.normalize("NFC", each) for each in found}


def _check_disk(folder: Path, needed: int) -> None:
    """Raise a `UserError` where the disk has no room for what is `needed` beyond what is in `folder` already."""
    folder.mkdir(parents=True, exist_ok=True)
    needed -= sum(path.stat().st_size for path in folder.iterdir())
    if needed > (free := shutil.disk_usage(folder).free):
        raise UserError(
            f"The competition's files have {needed / MB:,.1f} MB and the disk has {free / MB:,.1f} MB free. Free "
            "space, or work in a folder on another disk."
        )


def _downloaded(folder: Path) -> Path:
    """The one file that the client left; raises `Damaged` for anything else."""
    found = [path for path in folder.iterdir() if not path.name.endswith(MARKER)]
    if len(found) != 1:
        raise Damaged(f"Kaggle's client left {len(found)} files where one archive was expected. Try again later.")
    return found[0]


def _kept(folder: Path) -> int:
    """Return how many bytes are there to go on from; what the client cannot go on from is removed."""
    parts = [path for path in folder.iterdir() if path.with_name(path.name + MARKER).exists()]
    if size := sum(path.stat().st_size for path in parts):
        return size
    shutil.rmtree(folder)
    return 0


class _Arriving:
    """A look at the bytes as they arrive, behind a progress bar in MB."""

    def __init__(self, folder: Path, name: str, watch: Watch) -> None:
        self.folder, self.name, self.watch = folder, name, watch
        self.ticks: Iterator[int] | None = None
        self.shown = 0

    def look(self) -> int:
        """Show how many bytes are there, and return their number."""
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
    except (OSError, ValueError, KeyError, TypeError):  # half-written, or without a length
        return None
