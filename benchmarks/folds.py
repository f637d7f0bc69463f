"""Five folds against one split: accuracy on labelled rows that are held back, and the difference with its interval.

The single split is trained, and trained again on all rows (final.pt), as `make all` does. The networks of the folds are
averaged; the final.pt of the set is a third way. All predict the same held-back rows, so the differences are paired by
row: the 95 % interval is that of 2,000 bootstrap samples of the rows. For recipes that send labels.

With --archive, labelled rows are drawn from it, and others that are held back as test rows. Without it: the digits.
"""

import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from benchmarks import measuring
from benchmarks.measuring import Finding, run_stage
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings, submission_name
from pipelines.settings.schema import DEFAULT_RECIPE
from pipelines.system.files import read_json

SAMPLES, SEED, RUN = 2000, 0, "run"
Right = npt.NDArray[Any]  # of each held-back row and way of predicting it, 1 where the label is right


def draw(folder: Path, competition: str, archive: Path, rows: int, held_back: int) -> Path:
    """Unpack `archive`; return a folder in its form with `rows` labelled images, and `held_back` others as test images.

    The labels of these are in `held_back.csv` beside the folder.
    """
    run_stage(folder, "download", competition, "--archive", str(archive))
    raw, data, small = Layout(folder, competition).raw, load_settings(competition).data, folder / "small"
    table = pd.read_csv(raw / data.labels, dtype=str).sample(rows + held_back, random_state=SEED).sort_index()
    order = np.random.default_rng(SEED).permutation(len(table))
    kept, out = table.iloc[np.sort(order[:rows])], table.iloc[np.sort(order[rows:])]
    files = {path.stem: path for path in (raw / data.train_images).iterdir()}
    for name, part in ((data.train_images, kept), (data.test_images, out)):
        (small / name).mkdir(parents=True)
        for each in part.iloc[:, 0]:
            (small / name / files[each].name).hardlink_to(files[each])
    kept.to_csv(small / data.labels, index=False)
    out.assign(**{table.columns[1]: str(table.iloc[0, 1])}).to_csv(small / data.sample_submission, index=False)
    out.to_csv(folder / "held_back.csv", index=False)
    shutil.rmtree(folder / "data")
    return small


def predicted(folder: Path, call: Sequence[str], seeds: int, folds: int, source: Sequence[str]) -> list[Right]:
    """Train and predict with each seed below `folder`; return what is right of the single run, the folds, the final.

    call: the words of each stage, which end in overrides.  source: of the stage download.
    """
    competition = call[0]
    layout = Layout(folder, competition)
    found = []
    for place, split in (("single", "split.folds=0"), ("folds", f"split.folds={folds}")):
        home = folder / place
        home.mkdir()
        shared = [*call, split]
        run_stage(home, "download", competition, *source)
        run_stage(home, "split", *shared)
        for seed in range(seeds):
            found += _ways(home, [*shared, f"train.seed={seed}"], place == "folds", layout)
    half = len(found) // 3
    return [np.stack(found[:half]), np.stack(found[half::2]), np.stack(found[half + 1 :: 2])]


def _ways(home: Path, shared: list[str], is_set: bool, layout: Layout) -> list[Right]:
    copy = Layout(home, layout.competition)
    shutil.rmtree(copy.run(RUN).folder, ignore_errors=True)
    run_stage(home, "tools.folds" if is_set else "train", *shared)
    note = read_json(copy.run(RUN).trained)
    print(f"  valid {note['metric']} {note['score']:.4f} of {note['valid_images']:,}, best epoch {note['best_epoch']}")
    run_stage(home, "retrain", *shared)
    ways = []
    for members in ("folds", "final") if is_set else ("",):
        words = [*shared, *([f"predict.members={members}"] if members else [])]
        run_stage(home, "predict", *words)
        submission = copy.submission(submission_name(RUN, words[words.index("--set") + 1 :]))
        ways.append(_right(submission, _truth(layout.root, copy)))
        submission.unlink()
    return ways


def _truth(folder: Path, layout: Layout) -> pd.DataFrame:
    drawn = folder / "held_back.csv"
    return pd.read_csv(drawn if drawn.exists() else layout.held_back, dtype=str)


def _right(submission: Path, truth: pd.DataFrame) -> Right:
    sent = pd.read_csv(submission, dtype=str)
    both = truth.merge(sent, on=sent.columns[0], suffixes=("", "_sent"), validate="one_to_one")
    assert len(both) == len(truth)
    return (both.iloc[:, 1] == both.iloc[:, 2]).to_numpy(np.float64)


def compare(one: Right, other: Right) -> tuple[float, float, float]:
    """Return the mean of `other` minus `one`, (seeds, rows), and its 95 % interval over samples of the rows."""
    difference = (other - one).mean(axis=0)
    random = np.random.default_rng(SEED)
    means = [random.choice(difference, len(difference)).mean() for _ in range(SAMPLES)]
    low, high = np.quantile(means, (0.025, 0.975))
    return float(difference.mean()), float(low), float(high)


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "folds")
    parser.add_argument("--archive", type=Path, help="cifar-10.zip; default: the bundled digits")
    parser.add_argument("--competition", default="cifar-10", help="whose archive it is")
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--rows", type=int, default=10_000, help="labelled rows of the archive")
    parser.add_argument("--held-back", type=int, default=5_000, help="other rows of it, to score")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seeds", type=int, default=1)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides")
    words = parser.parse_args(arguments)
    competition = words.competition if words.archive else "digits"
    with tempfile.TemporaryDirectory() as name:
        folder, source = Path(name), list[str]()
        if words.archive:
            archive = draw(folder, competition, words.archive.resolve(), words.rows, words.held_back)
            source = ["--archive", str(archive)]
        call = [competition, "--recipe", words.recipe, "--run", RUN, "--set", *words.set]
        single, mean, final = predicted(folder, call, words.seeds, words.folds, source)
    findings = [Finding("one split, final.pt", "-", f"{single.mean():.4f}")]
    for what, right in ((f"mean of {words.folds} folds", mean), ("final.pt of the set", final)):
        difference, low, high = compare(single, right)
        figure = f"{right.mean():.4f}: {difference:+.4f} ({low:+.4f} to {high:+.4f})"
        findings.append(Finding(what, "one split, final.pt", figure, "better, by the interval", low > 0))
    sizes = f"{competition}: accuracy on {single.shape[1]:,} held-back rows, {words.seeds} seed(s)"
    sizes += f", {words.rows:,} labelled rows" if words.archive else ""
    measuring.conclude(f"folds-{competition}", __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
