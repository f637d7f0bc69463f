"""From the archive of CIFAR-10 to a checked submission with the default recipe: seconds and memory of each stage.

Each stage is a process of its own, in a fresh working folder.  Memory is the peak of the stage's largest process.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measuring
from benchmarks.measuring import Finding, StageRun, run_stage
from pipelines.core.files import read_json
from pipelines.core.layout import Layout

COMPETITION, RUN = "cifar-10", "default"
STAGES = ("download", "split", "train", "retrain", "predict")
MOST_SECONDS = 20 * 60
LEAST_ACCURACY = 0.88


def measure(folder: Path, archive: Path, overrides: Sequence[str]) -> list[Finding]:
    """Run all stages below `folder` with the settings `overrides`; return what each took and what came out."""
    words = [COMPETITION, "--run", RUN, *(["--set", *overrides] if overrides else [])]
    runs: list[StageRun] = []
    for stage in STAGES:
        runs.append(run_stage(folder, stage, *words, *(["--archive", str(archive)] if stage == "download" else [])))
    run = Layout(folder, COMPETITION).run(RUN)
    trained = read_json(run.trained)
    ((submission, predicted),) = read_json(run.predicted).items()

    seconds = sum(each.seconds for each in runs)
    largest = max(each.memory.largest for each in runs)
    score, as_predicted, count = trained["score"], predicted["valid_score"], trained["valid_images"]
    return [
        *(Finding(each.stage, "-", f"{each.seconds:,.0f} s, {each.memory.largest / 1e6:,.0f} MB") for each in runs),
        Finding(
            f"archive to {submission}, {predicted['rows']:,} rows, checked",
            "-",
            f"{seconds / 60:.1f} min, {largest / 1e6:,.0f} MB",
            f"at most {MOST_SECONDS // 60} min",
            seconds <= MOST_SECONDS,
        ),
        *(
            Finding(f"valid accuracy {how}, n = {count:,}", "-", f"{value:.4f}", f"at least {LEAST_ACCURACY}", reached)
            for how, value, reached in (
                ("while training, of one view", score, score >= LEAST_ACCURACY),
                ("as predicted, over the recipe's views", as_predicted, as_predicted >= LEAST_ACCURACY),
            )
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "whole_pipeline")
    parser.add_argument("--archive", type=Path, required=True, help="Kaggle's cifar-10.zip")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides, for quick trials")
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        findings = measure(Path(name), words.archive.resolve(), words.set)
    measuring.conclude("whole_pipeline", __doc__, arguments, findings, "one run over the whole archive")
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
