"""Try everything on the GPU of this machine, in six minutes at most: what works, how fast, how much memory.

Reads   nothing but this repository; needs no network.
Writes  one JSON, after each section: gpu-check.json in the working folder, or --json.

Sections are independent: one that fails is recorded, and the next one runs. When the time is used up, the current
section stops, and the rest is left out and named. Without a GPU everything runs on the processor, at toy sizes, whose
figures mean nothing. It needs torch, torchvision, numpy, pandas, pillow, scikit-learn and tqdm; a section that needs
another package says so.
"""

import argparse
import contextlib
import math
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import gpu_speed, gpu_work, measuring
from benchmarks.gpu_visit import TOY, Sizes, Skipped, Visit
from pipelines.system.errors import UserError, did_you_mean
from pipelines.system.files import write_json
from pipelines.system.shell import user_path

MINUTES = 6.0
LINES_KEPT = 8  # of a traceback
LEAST_SECONDS = 0.001
Section = Callable[[Visit], dict[str, Any]]
SECTIONS: Mapping[str, Section] = {  # what a visit must find out comes first
    "machine": gpu_work.machine,
    "digits": gpu_work.digits,
    "determinism": gpu_work.determinism,
    "waiting": gpu_work.waiting,
    "memory": gpu_work.memory,
    "training": gpu_speed.training,
    "predicting": gpu_speed.predicting,
    "parts": gpu_speed.parts,
    "tests": gpu_work.suite,
    "extraction": gpu_speed.extraction,
    "decoding": gpu_speed.decoding,
    "compiling": gpu_speed.compiling,
    "together": gpu_work.together,
}


class TimeUp(BaseException):
    """The time of the visit is used up.  Not an Exception, which sections may take for a failed compilation."""


def try_all(visit: Visit, sections: Mapping[str, Section], path: Path) -> dict[str, Any]:
    """Run the sections, print what each found, and write the record to `path` after each; return the record."""
    started = time.monotonic()
    record: dict[str, Any] = {
        "date": str(date.today()),
        "device": str(visit.hardware),
        "toy_sizes": visit.toy,
        "sections": visit.found,
        "left_out": [],
    }
    for name, section in sections.items():
        if time.monotonic() > visit.until:
            record["left_out"].append(name)
            write_json(path, record)
            continue
        print(f"{name}: {(section.__doc__ or '').splitlines()[0]}", flush=True)
        began = time.monotonic()
        outcome = _outcome(section, visit)
        visit.found[name] = {"seconds": round(time.monotonic() - began, 1)} | outcome
        for line in _lines(outcome.get("result", outcome)):
            print(f"  {line}", flush=True)
        record["seconds"] = round(time.monotonic() - started, 1)
        write_json(path, record)
    return record


@contextlib.contextmanager
def stopped_at(moment: float) -> Iterator[None]:
    """Raise `TimeUp` in the block at `moment`, by `time.monotonic`; infinity: never."""
    if moment == math.inf:
        yield
        return

    def ring(number: int, frame: FrameType | None) -> None:
        raise TimeUp

    before = signal.signal(signal.SIGALRM, ring)
    try:
        signal.setitimer(signal.ITIMER_REAL, max(moment - time.monotonic(), LEAST_SECONDS))
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _outcome(section: Section, visit: Visit) -> dict[str, Any]:
    """Return what `section` found, or why it was skipped, or its error."""
    try:
        with stopped_at(visit.until):
            return {"result": section(visit)}
    except Skipped as reason:
        return {"skipped": str(reason)}
    except TimeUp:
        return {"skipped": "the time was used up before it had finished"}
    except ModuleNotFoundError as error:
        if (error.name or "").partition(".")[0] in ("pipelines", "benchmarks"):
            raise
        return {"skipped": f"{error.name} is not installed"}
    except UserError as error:
        return {"error": str(error)}
    except Exception as error:
        lines = traceback.format_exc().splitlines()[-LINES_KEPT:]
        return {"error": f"{type(error).__name__}: {error}", "traceback": lines}


def _lines(found: Mapping[str, Any], indent: str = "") -> list[str]:
    """Return the lines that show `found`, nested values indented."""
    lines = []
    for name, value in found.items():
        if isinstance(value, Mapping):
            lines += [f"{indent}{name}", *_lines(value, f"{indent}  ")]
        elif value is not None:
            shown = ", ".join(map(str, value)) if isinstance(value, list) else value
            lines.append(f"{indent}{name}: {shown}")
    return lines


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_check", description=__doc__)
    parser.add_argument("--json", type=user_path, default=Path("gpu-check.json"), help="the file to write")
    parser.add_argument("--minutes", type=float, default=MINUTES, help=f"the time for all sections ({MINUTES:g})")
    parser.add_argument("--toy", action="store_true", help="toy sizes, as without a GPU")
    parser.add_argument("--only", nargs="+", default=list(SECTIONS), metavar="SECTION", help=", ".join(SECTIONS))
    words = parser.parse_args(arguments)
    for name in words.only:
        if name not in SECTIONS:
            raise UserError(
                f"There is no section {name}.{did_you_mean(name, SECTIONS)} Sections: {', '.join(SECTIONS)}."
            )
    until = time.monotonic() + 60 * words.minutes

    from pipelines.models.device import choose_hardware
    from pipelines.settings.running_sections import HardwareSettings

    hardware = choose_hardware(HardwareSettings())
    toy = words.toy or hardware.device.type != "cuda"
    print(f"{hardware}{': toy sizes, whose figures mean nothing' if toy else ''}", flush=True)
    with tempfile.TemporaryDirectory() as name:
        visit = Visit(Path(name), hardware, TOY if toy else Sizes(), until)
        record = try_all(visit, {each: SECTIONS[each] for each in words.only}, words.json)
    print(f"Written: {words.json}")
    conclude(record)


def conclude(record: Mapping[str, Any]) -> None:
    """Print what was left out; raise `UserError` if a section failed."""
    failed = [each for each, found in record["sections"].items() if "error" in found]
    if record["left_out"]:
        print(f"The time is used up. Left out: {', '.join(record['left_out'])}. Run them with --only.")
    if failed:
        raise UserError(f"{len(failed)} of {len(record['sections'])} sections failed, see above: {', '.join(failed)}.")


if __name__ == "__main__":
    sys.exit(measuring.run(main))
