"""Our verified download against Kaggle's bare client, both from the stand-in on this machine: seconds.

Both are timed as whole processes, from the start of Python to its end, in turn. The bare client is `kaggle competitions
download`. Ours also asks for the list of files, downloads with the same client, reads the archive again for its SHA-256
and the checksum of each member, and compares the members with the list.
"""

import contextlib
import json
import random
import shutil
import statistics
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
from pipelines.system.files import file_sha256

MOST_OVERHEAD = 1.3  # times
FORMS = {"photos": 2_000, "two archives, as in cifar-10.zip": 2}  # members of the archive
MB = 1_000_000
SERVE = """
import json, sys, time
from pathlib import Path
from pipelines.tools.standin.server import Standin
from pipelines.settings.schema import Settings

with Standin(Path(sys.argv[2])) as standin:
    standin.add("photos", Path(sys.argv[1]), Settings("photos"))
    print(json.dumps(standin.environment(Path(sys.argv[2]) / "home")), flush=True)
    sys.stdin.read()
"""
OURS = """
from pathlib import Path
from pipelines.kaggle.service import Kaggle
with Kaggle("photos") as kaggle:
    from pipelines.kaggle.download import fetch_archive
    fetch_archive(kaggle, Path("photos.zip"))
"""
BARE = ("-m", "kaggle", "competitions", "download", "-q", "photos")


def make_archive(path: Path, size: int, members: int) -> None:
    """Write a zip of about `size` random bytes: like photos, they do not compress."""
    generator = random.Random(0)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for number in range(members):
            archive.writestr(f"train/{number}.jpg", generator.randbytes(size // members))


@contextlib.contextmanager
def serving(archive: Path, folder: Path) -> Iterator[dict[str, str]]:
    """Run a stand-in that serves `archive` in a process; yield the environment that sends Kaggle's client to it."""
    with subprocess.Popen(
        [sys.executable, "-c", SERVE, str(archive), str(folder)],
        env={"PYTHONPATH": str(measuring.ROOT), "PATH": "/usr/bin:/bin"},
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
    """Return the seconds that Python with `words` takes in a new `folder`; check the downloaded archive."""
    folder.mkdir()
    started = time.perf_counter()
    subprocess.run([sys.executable, *words], cwd=folder, env=environment, check=True, capture_output=True)
    took = time.perf_counter() - started
    if file_sha256(folder / "photos.zip") != content:
        raise RuntimeError(f"{' '.join(words)} downloaded a different archive")
    shutil.rmtree(folder)
    return took


def measure(folder: Path, size: int, members: int, count: int) -> list[tuple[float, float]]:
    """Return `count` pairs of seconds: the bare client's, ours."""
    archive = folder / "there.zip"
    make_archive(archive, size, members)
    content = file_sha256(archive)
    with serving(archive, folder / "standin") as environment:
        return [
            (
                seconds(BARE, folder / "bare", environment, content),
                seconds(("-c", OURS), folder / "ours", environment, content),
            )
            for _ in command.progress(range(count), "pairs", count, "pairs")
        ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "download")
    parser.add_argument("--megabytes", type=int, default=200, help="size of the archive (200)")
    parser.add_argument("--pairs", type=int, default=5, help="downloads of each kind and form (5)")
    words = parser.parse_args(arguments)
    findings = []
    for form, members in FORMS.items():
        with tempfile.TemporaryDirectory() as temporary:
            pairs = measure(Path(temporary), words.megabytes * MB, members, words.pairs)
        ratios = [ours / bare for bare, ours in pairs]
        reached = statistics.median(ratios) < MOST_OVERHEAD
        goal = f"under {MOST_OVERHEAD} times"
        findings += [
            Finding(f"bare client: {form}", "-", spread([bare for bare, _ in pairs], ".2f", " s")),
            Finding(f"download, verified: {form}", "-", spread([ours for _, ours in pairs], ".2f", " s")),
            Finding(f"download, verified: {form}", "bare client", spread(ratios, ".2f", " times"), goal, reached),
        ]
    sizes = f"{words.megabytes} MB over loopback, {words.pairs} pairs of each form"
    measuring.conclude("download", __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
