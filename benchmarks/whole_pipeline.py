"""From the archive to a checked submission: seconds and memory of each stage, and the validation score.

Each stage runs as a process, in a new working folder.  Memory is the peak of the stage's largest process.
"""

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measuring
from benchmarks.measuring import Finding, StageRun, run_stage
from pipelines.settings.layout import Layout
from pipelines.settings.schema import DEFAULT_RECIPE
from pipelines.system.errors import UserError
from pipelines.system.files import read_json

RUN = "run"
STAGES = ("download", "split", "train", "retrain", "predict")
WITHOUT_RETRAINING = "predict.checkpoint=best"  # this override predicts with the validated weights
WARM_SECONDS = 30


@dataclass(frozen=True)
class Goal:
    """The goal of a recipe: minutes from archive to submission, and validation score."""

    minutes: int
    score: float
    higher_is_better: bool

    def reached(self, score: float) -> bool:
        return score >= self.score if self.higher_is_better else score <= self.score


GOALS = {
    ("cifar-10", "default"): Goal(20, 0.91, higher_is_better=True),
    ("cifar-10", "best"): Goal(60, 0.935, higher_is_better=True),
    ("dog-breed-identification", "default"): Goal(8, 1.36, higher_is_better=False),
    ("dog-breed-identification", "best"): Goal(60, 1.20, higher_is_better=False),
}


def measure(
    folder: Path, archive: Path, competition: str, recipe: str, overrides: Sequence[str] = ()
) -> tuple[list[StageRun], list[Finding]]:
    """Run all stages below `folder` with the settings `overrides`; return time and memory of each, and the findings."""
    words = _words(competition, recipe, overrides)
    skipped = ("retrain",) if WITHOUT_RETRAINING in overrides else ()
    runs: list[StageRun] = []
    for stage in STAGES:
        if stage not in skipped:
            runs.append(run_stage(folder, stage, *words, *(["--archive", str(archive)] if stage == "download" else [])))
    run = Layout(folder, competition).run(RUN)
    trained = read_json(run.trained)
    ((submission, predicted),) = read_json(run.predicted).items()

    seconds = sum(each.seconds for each in runs)
    largest = max(each.memory.largest for each in runs)
    metric, count = trained["metric"], trained["valid_images"]
    goal = GOALS.get((competition, recipe))
    left_out = ", no retrain" if skipped else ""
    findings = [
        *(Finding(each.stage, "-", f"{each.seconds:,.0f} s, {each.memory.largest / 1e6:,.0f} MB") for each in runs),
        Finding(
            f"archive to {submission}{left_out}, {predicted['rows']:,} rows, checked",
            "-",
            f"{seconds / 60:.1f} min, {largest / 1e6:,.0f} MB",
            f"at most {goal.minutes} min" if goal else "-",
            seconds <= goal.minutes * 60 if goal else None,
        ),
    ]
    for how, score in (("while training", trained["score"]), ("as predicted", predicted["valid_score"])):
        text = f"{'at least' if goal.higher_is_better else 'at most'} {goal.score}" if goal else "-"
        reached = goal.reached(score) if goal else None
        findings.append(Finding(f"valid {metric} {how}, n = {count:,}", "-", f"{score:.4f}", text, reached))
    return runs, findings


def measure_warm(folder: Path, competition: str, recipe: str, overrides: Sequence[str]) -> list[Finding]:
    """Return the time to train again after `measure`, with all features cached."""
    run = Layout(folder, competition).run(RUN)
    shutil.rmtree(run.folder)
    again = run_stage(folder, "train", *_words(competition, recipe, overrides))
    note = read_json(run.trained)
    what = f"train again, features kept: {note['epochs']} epochs of {note['train_images']:,} images"
    return [
        Finding(what, "-", f"{again.seconds:.1f} s", f"under {WARM_SECONDS} s", again.seconds < WARM_SECONDS),
        Finding("  of these, epochs", "-", f"{note['seconds']:.1f} s"),
    ]


def _words(competition: str, recipe: str, overrides: Sequence[str]) -> list[str]:
    return [competition, "--recipe", recipe, "--run", RUN, *(["--set", *overrides] if overrides else [])]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "whole_pipeline")
    parser.add_argument("--archive", type=Path, required=True, help="the competition's archive")
    parser.add_argument("--competition", default="cifar-10")
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides")
    parser.add_argument("--warm", action="store_true", help="train again with all features cached")
    words = parser.parse_args(arguments)
    if not words.archive.exists():
        raise UserError(f"There is no archive {words.archive}.")
    overrides = measuring.absolute(words.set)
    with tempfile.TemporaryDirectory() as name:
        archive = words.archive.resolve()
        _, findings = measure(Path(name), archive, words.competition, words.recipe, overrides)
        if words.warm:
            findings += measure_warm(Path(name), words.competition, words.recipe, overrides)
    section = "whole_pipeline" if words.competition == "cifar-10" else f"whole_pipeline-{words.competition}"
    section += "" if words.recipe == DEFAULT_RECIPE else f"-{words.recipe}"
    section += "-validated" if WITHOUT_RETRAINING in words.set else ""
    measuring.conclude(section, __doc__, arguments, findings, "one run over the whole archive")
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
