"""The report page of a competition with 30 runs: seconds of its process, its size, and the same bytes again.

Competitions of three forms: the digits; 35,000 small PNGs with a label each, as CIFAR-10; photos with a probability for
each of 120 classes, as the dogs. One run is trained for an epoch and predicted; the others are copies of it with other
scores.
"""

import shutil
import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import measuring
from benchmarks.measuring import Finding, run_stage, spread
from benchmarks.startup import seconds
from benchmarks.synthetic import make_competition
from pipelines.kaggle.submission_log import COMPLETE, Row, SubmissionLog
from pipelines.settings.layout import Layout
from pipelines.system.files import read_json, read_note, write_json

RUNS, SENT = 30, 5
MOST_SECONDS, MOST_BYTES = 5.0, 3_000_000
FIRST = "run-00"
QUICK = ("train.epochs=1", "model.widths=[8]", "predict.checkpoint=best")
DOGS = (
    *("model.name=convnet", "model.weights=", "model.label_map=", "model.dropout=0", "finetune.frozen_stages=0"),
    *("input.size=32", "input.resize=32", "input.mean=[0.5,0.5,0.5]", "input.std=[0.5,0.5,0.5]"),
)


def measure(folder: Path, rounds: int, share: float) -> list[Finding]:
    """Return the time and the size of each page, written in `rounds` in turn.  share: of the numbers of images."""

    def made(template: str, side: int, labelled: int, test: int, *kind: Any) -> str:
        return make_competition(folder, template, side, int(share * labelled), int(share * test), *kind)

    run_stage(folder, "download", "digits")
    forms: dict[str, tuple[str, tuple[str, ...]]] = {
        "the digits": ("digits", ()),
        "CIFAR-10's form": (made("cifar-10", 32, 5_000, 30_000), ()),
        "the dogs' form": (made("dog-breed-identification", 375, 2_000, 8_580, 120, "jpeg"), DOGS),
    }
    layouts = {form: Layout(folder, name.removesuffix(".toml")) for form, (name, _) in forms.items()}
    for form, (name, words) in forms.items():
        run_stage(folder, "split", name)
        for stage in ("train", "predict"):
            run_stage(folder, stage, name, "--run", FIRST, "--set", *QUICK, *words)
        _copy_runs(layouts[form])
    took: dict[str, list[float]] = {form: [] for form in forms}
    pages: dict[str, set[bytes]] = {form: set() for form in forms}
    for _ in range(rounds):
        for form, (name, _) in forms.items():
            took[form].append(seconds(folder, ("pipelines.tools.report", name), "report:"))
            pages[form].add(layouts[form].report.read_bytes())
    findings = []
    for form, each in took.items():
        largest, fast = max(map(len, pages[form])), statistics.median(each) < MOST_SECONDS
        goal = f"under {MOST_SECONDS:g} s"
        findings.append(Finding(f"report of {form}, {RUNS} runs", "-", spread(each, ".2f", " s"), goal, fast))
        findings.append(Finding("  its size", "-", f"{largest / 1e6:.2f} MB", "under 3 MB", largest < MOST_BYTES))
        findings.append(Finding("  different pages", "-", f"{len(pages[form])}", "1", len(pages[form]) == 1))
    return findings


def _copy_runs(layout: Layout) -> None:
    """Copy the first run and its submission under other names, with other seeds and scores; log some as sent."""
    first, log = layout.run(FIRST), SubmissionLog(layout.submission_log)
    ((predicted, note),) = read_note(first.predicted).items()
    for number in range(1, RUNS):
        run, score = layout.run(f"run-{number:02}"), note["valid_score"] * (1 - number / 1000)
        shutil.copytree(first.folder, run.folder)
        file = layout.submission(run.folder.name)
        shutil.copy(layout.submissions / predicted, file)
        record: Any = read_json(run.record)
        record["settings"]["train"]["seed"] += number
        write_json(run.record, record)
        write_json(run.predicted, {file.name: note | {"valid_score": score}})
        if number <= SENT:
            day, shown = f"2026-11-0{number}T10:00:00Z", f"{score:.5f}"
            log.add(Row(day, run.folder.name, file.name, note["sha256"], "", number, COMPLETE, shown, shown))


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "report_page")
    parser.add_argument("--rounds", type=int, default=7, help="pages of each competition (7)")
    parser.add_argument("--share", type=float, default=1.0, help="of the images of the last two (1)")
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        findings = measure(Path(name), words.rounds, words.share)
    sizes = f"{words.rounds} pages of each in turn, {words.share:g} of the images"
    measuring.conclude("report_page", __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
