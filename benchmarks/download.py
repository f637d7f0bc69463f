"""Our download, verified, against that of Kaggle's bare client, from the stand-in on the same machine: seconds.

Both are whole processes, from the start of Python to its end, and take turns.  The bare one is `kaggle competitions
download`.  Ours asks for the list of files as well, downloads through the same client, then reads the archive once more
for its SHA-256 and the checksum of each member, and compares the members with the list.
"""

import contextlib
import hashlib
import json
import random
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from benchmarks import measuring
from benchmarks.measuring import Finding, spread
from pipelines import command

MOST_OVERHEAD = 1.3  # times
MEMBER_BYTES = 100_000  # as photos have
MB = 1_000_000
SERVE = """
import json, sys, time
from pathlib import Path
from kaggle_standin import Standin
from pipelines.core.settings import Settings

with Standin(Path(sys.argv[2])) as standin:
    standin.add("photos", Path(sys.argv[1]), Settings("photos"))
    print(json.dumps(standin.environment(Path(sys.argv[2]) / "home")), flush=True)
    sys.stdin.read()
"""
OURS = """
from pathlib import Path
from pipelines.core.kaggle_service import Kaggle
with Kaggle("photos") as kaggle:
    from pipelines.core.kaggle_download import fetch_archive
    fetch_archive(kaggle, Path("photos.zip"))
"""
BARE = ("-m", "kaggle", "competitions", "download", "-q", "photos")


def make_archive(path: Path, size: int) -> None:
    """Write a zip of about `size` bytes that deflate cannot shrink, as it cannot shrink photos."""
    generator = random.Random(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(size // MEMBER_BYTES):
            archive.writestr(f"train/{number}.jpg", generator.randbytes(MEMBER_BYTES))


@contextlib.contextmanager
def serving(archive: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Yield the environment in which Kaggle's client talks to a stand-in that has `archive`, in its own process."""
    search = f"{measuring.ROOT}:{measuring.ROOT / 'tests'}"
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(archive), str(folder)],
        env={"PYTHONPATH": search, "PATH": "/usr/bin:/bin"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            assert process.stdout
            yield json.loads(process.stdout.readline())
        finally:
            process.kill()


def seconds(words: Sequence[str], folder: Path, environment: dict[str, str], content: str) -> float:
    """Run Python with `words` in a new `folder` and return how long it took; see that the archive came whole."""
    folder.mkdir()
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, check=True, capture_output=True)
    took = time.perf_counter() - started
    found = hashlib.sha256((folder / "photos.zip").read_bytes()).hexdigest()
    if found != content:
        raise RuntimeError(f"{' '.join(words)} left another archive than it was sent")
    shutil.rmtree(folder)
    return took


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "download")
    parser.add_argument("--megabytes", type=int, default=200, help="size of the archive (200)")
    parser.add_argument("--pairs", type=int, default=5, help="downloads of each kind (5)")
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        archive = folder / "there.zip"
        make_archive(archive, words.megabytes * MB)
        content = hashlib.sha256(archive.read_bytes()).hexdigest()
        with serving(archive, folder / "standin") as environment:
            pairs = []
            for _ in command.progress(range(words.pairs), "pairs", words.pairs, "pairs"):
                bare = seconds(BARE, folder / "bare", environment, content)
                ours = seconds(("-c", OURS), folder / "ours", environment, content)
                pairs.append((bare, ours))
    ratios = [ours / bare for bare, ours in pairs]
    findings = [
        Finding("bare client", "-", spread([bare for bare, _ in pairs], ".2f", " s")),
        Finding("download, verified", "-", spread([ours for _, ours in pairs], ".2f", " s")),
        Finding(
            "download, verified",
            "bare client",
            spread(ratios, ".2f", " times"),
            f"under {MOST_OVERHEAD} times",
            sorted(ratios)[len(ratios) // 2] < MOST_OVERHEAD,
        ),
    ]
    sizes = f"{words.megabytes} MB in members of {MEMBER_BYTES // 1000} kB over loopback, {words.pairs} pairs"
    measuring.conclude("download", __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
