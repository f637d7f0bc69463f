"""Serve a competition on this machine as Kaggle would, to try the whole round trip without an account.

Kaggle's own client talks to it: download, submit, scores and kernels.  It prints what to paste in another terminal.

    make kaggle-standin                                                                the bundled digits
    make kaggle-standin COMP=cifar-10 ARCHIVE=cifar-10.zip SOLUTION=labels.csv
"""

import argparse
import errno
import shutil
import sys
import tempfile
import threading
import zipfile
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path

from pipelines import command
from pipelines.dataset.digits import write_digits
from pipelines.settings.data_sections import CompetitionSettings
from pipelines.settings.loading import load_settings
from pipelines.settings.metrics import METRICS
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.shell import user_path
from pipelines.tools.standin.competitions import Competition
from pipelines.tools.standin.server import UNSET, Standin

PORT = 8917
OTHERS = "KAGGLE_API_TOKEN KAGGLE_TOKEN KAGGLE_PATH KAGGLE_COMPETITION KAGGLE_KERNEL_RUN_TYPE".split()


def main(arguments: Sequence[str] | None = None) -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.tools.kaggle_standin",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("competition", nargs="?", default="digits", help="name of a competition, or its TOML's path")
    parser.add_argument("--archive", type=user_path, help="zip to serve; for digits it is generated")
    parser.add_argument(
        "--solution", type=user_path, help="CSV of ids and true labels; default: the sample's own answers"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default {PORT}; 0: any free port")
    parser.add_argument("--scoring-seconds", type=float, default=3.0, help="how long scoring takes; default 3")
    parser.add_argument("--folder", type=user_path, help="folder for uploads and kernels; default: a temporary one")
    words = parser.parse_args(arguments)
    settings = load_settings(words.competition)
    for path, option in ((words.archive, "ARCHIVE="), (words.solution, "SOLUTION=")):
        if path is not None and not path.is_file():
            raise UserError(f"There is no file {path}. Give the right path with {option}.")
    with tempfile.TemporaryDirectory(prefix="kaggle-standin-") as temporary:
        archive, solution = words.archive or _make_archive(settings, Path(temporary)), words.solution
        if words.archive is None:
            solution = solution or archive.with_name("solution.csv")
        if not zipfile.is_zipfile(archive):
            raise UserError(f"{archive} is not a complete zip. Kaggle serves zips: give one with ARCHIVE=.")
        standin = Standin(words.folder or Path(temporary) / "kept", words.port)
        competition = standin.add(settings.competition.slug, archive.resolve(), settings, solution)
        competition.scoring_seconds = words.scoring_seconds
        competition.metric = _kaggle_name(settings.competition)
        competition.code_only = settings.competition.takes == "code"
        standin.log = lambda line: print(f"{datetime.now():%H:%M:%S}  {line}", flush=True)
        try:
            with standin:
                print(_welcome(standin, competition), flush=True)
                threading.Event().wait()
        except KeyboardInterrupt:
            print()
        except OSError as error:
            if error.errno not in (errno.EADDRINUSE, errno.EACCES):
                raise
            place = f"Port {words.port} is in use or not allowed ({error.strerror})"
            raise UserError(f"{place}. Give another with PORT=.") from None


def _make_archive(settings: Settings, folder: Path) -> Path:
    """Write digits.zip and solution.csv below `folder`; return the zip's path."""
    if settings.competition.source != "digits":
        raise UserError(f"No archive for {settings.name}. Give its zip with ARCHIVE=.")
    write_digits(folder / "raw", folder / "solution.csv")
    return Path(shutil.make_archive(str(folder / "digits"), "zip", folder / "raw"))


def _kaggle_name(competition: CompetitionSettings) -> str:
    """Return the metric as Kaggle's record would name it."""
    name = METRICS[competition.metric].kaggle[0]
    return name.replace("{k}", str(competition.guesses)).replace("{beta}", f"{competition.beta:g}")


def _welcome(standin: Standin, competition: Competition) -> str:
    """Return what is served, and the lines to paste."""
    exported = standin.variables
    if any((Path.home() / ".kaggle" / name).exists() for name in ("access_token", "access_token.txt")):
        standin.token = "standin"  # the client prefers a token file to a key, and this variable to both
        exported |= {"KAGGLE_API_TOKEN": standin.token}
    else:
        exported |= {"KAGGLE_USERNAME": standin.username, "KAGGLE_KEY": standin.key}
    unset = [name for name in (*UNSET, *OTHERS) if name not in exported]
    truth = f"scored by {competition.solution}"
    if competition.solution is None:
        truth = "scored by the answers of the sample submission itself (no SOLUTION=): these are not true scores"
    size = f"{competition.archive.stat().st_size / 1e6:,.1f} MB, {len(competition.files):,} files"
    return f"""\
A stand-in for Kaggle at {standin.url}: {competition.slug}, {competition.archive} ({size}), {truth}.
Uploads and kernels: {standin.folder}

Paste both lines in another terminal; there, make download, submit and kernel use this stand-in:
  unset {" ".join(unset)}
  export {" ".join(f"{name}={value}" for name, value in exported.items())}
To undo:
  unset {" ".join(exported)}

Ctrl-C ends it. Requests:"""


if __name__ == "__main__":
    sys.exit(command.run(main))
