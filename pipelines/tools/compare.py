"""Train several recipes over several seeds, and draw their validation curves side by side.

Reads   data/<c>/split.csv and the images it lists.
Writes  runs/<c>/<recipe>-seed<k>/: an ordinary run for each recipe and seed, made by the stage train.
        runs/<c>/compare-<recipes>.csv (a row for each recipe, seed and epoch) and compare-<recipes>.png.

Killed at any moment, the same command goes on where it was; runs that have finished are not repeated.
"""

import argparse
import csv
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.settings.loading import load_settings, parse_overrides, run_name
from pipelines.settings.schema import DEFAULT_RECIPE
from pipelines.system.errors import UserError

if TYPE_CHECKING:
    from pipelines.analysis.plots import Values
    from pipelines.settings.layout import RunLayout

    Runs = dict[str, list[RunLayout]]  # for each recipe the run of each seed
    Histories = dict[str, list[list[dict[str, float]]]]  # and the epochs' rows of these

DEFAULT_RECIPES = [DEFAULT_RECIPE, "scratch"]


class Words(command.Words):
    """What the person typed."""

    recipes: list[str]
    seeds: int


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "tools.compare")
    parser.add_argument("--recipes", nargs="+", help=f"recipes to compare; default: {' '.join(DEFAULT_RECIPES)}")
    parser.add_argument("--seeds", type=_count, default=3, help="how many seeds, counted from 0; default: 3")
    words = parser.parse_args(arguments, namespace=Words())
    recipes = _recipes(words)
    metric = load_settings(words.competition, recipes[0], words.set).competition.metric
    layout = words.layout()
    if not layout.split_csv.exists():
        raise UserError(f"{layout.split_csv.relative_to(Path.cwd())} is missing. First: {words.repeat('split')}")

    runs = {
        recipe: [layout.run(run_name(f"{recipe}-seed{seed}", words.set)) for seed in range(words.seeds)]
        for recipe in recipes
    }
    for seed in range(words.seeds):  # all recipes of a seed first: what is there early can be compared
        for recipe in recipes:
            more = _settled(words, runs[recipe][0]) if seed else []
            _train(words, recipe, seed, runs[recipe][seed].folder.name, more)

    from pipelines.analysis import plots

    name = run_name("-".join(["compare", *recipes]), words.set)
    numbers, curves = layout.comparison(name, "csv"), layout.comparison(name, "png")
    histories = {recipe: [_history(run.history) for run in its_runs] for recipe, its_runs in runs.items()}
    _write_csv(numbers, histories)
    plots.draw_comparison(curves, histories, metric, f"{layout.competition}: {', '.join(recipes)}")
    _print(runs, metric)
    print(f"Curves: {curves.relative_to(Path.cwd())}    Numbers: {numbers.relative_to(Path.cwd())}")


def _count(text: str) -> int:
    if not (text.isdecimal() and int(text) > 0):
        raise argparse.ArgumentTypeError(f"{text!r} is not a number of seeds, 1 or more")
    return int(text)


def _recipes(words: Words) -> list[str]:
    """Return the recipes to compare; raise `UserError` for words that make no sense here."""
    if words.run or words.recipe != DEFAULT_RECIPE:
        raise UserError("compare trains several recipes and names the runs itself: give RECIPES=, not RECIPE= or RUN=.")
    if "seed" in parse_overrides(words.set).get("train", {}):
        raise UserError("compare sets train.seed itself: leave it out of SET=, and say how many with SEEDS=.")
    recipes = list(dict.fromkeys(words.recipes or DEFAULT_RECIPES))
    for recipe in recipes:
        try:
            load_settings(words.competition, recipe, words.set)
        except UserError as error:
            chosen = words.recipes or recipe == DEFAULT_RECIPE
            hint = "" if chosen else f' What to compare: RECIPES="{DEFAULT_RECIPE} …".'
            raise UserError(f"{error}{hint}") from None
    return recipes


def _settled(words: Words, first: "RunLayout") -> list[str]:
    """Return as overrides the precision that the first seed found out by trying: a clock is not to decide for each seed
    anew."""
    from pipelines.system.files import read_note

    if "precision" in parse_overrides(words.set).get("hardware", {}) or not first.precision.exists():
        return []
    return [f"hardware.precision={read_note(first.precision)['precision']}"]


def _train(words: Words, recipe: str, seed: int, run: str, more: Sequence[str]) -> None:
    """Let a process of its own train `run`, with `more` overrides; end with its exit status where that is not 0."""
    print(f"Recipe {recipe}, seed {seed}:", flush=True)
    arguments = [words.competition, "--recipe", recipe, "--run", run, "--set", *words.set, f"train.seed={seed}", *more]
    if status := command.run_stage("train", arguments):
        print(f"The comparison ends with the run {run}. The same command goes on from here.", file=sys.stderr)
        sys.exit(status)


def _history(path: Path) -> list[dict[str, float]]:
    """Return the epochs' rows of a run."""
    with open(path, newline="", encoding="utf-8") as file:
        return [
            {key: int(value) if key == "epoch" else float(value) for key, value in row.items()}
            for row in csv.DictReader(file)
        ]


def _write_csv(path: Path, histories: "Histories") -> None:
    import pandas as pd

    from pipelines.dataset.tables import spreadsheet_safe, write_csv

    rows = [
        {"recipe": spreadsheet_safe(recipe), "seed": seed, **row}
        for recipe, runs in histories.items()
        for seed, history in enumerate(runs)
        for row in history
    ]
    write_csv(path, pd.DataFrame(rows))


def _print(runs: "Runs", metric: str) -> None:
    """Print the best validation scores of each recipe, and how far the first recipe is ahead of each other one."""
    import numpy as np

    from pipelines.analysis.plots import CONFIDENCE, mean_interval
    from pipelines.core.metrics import METRICS
    from pipelines.system.files import read_note

    worst, best = (min, max) if METRICS[metric].higher_is_better else (max, min)
    notes = {recipe: [read_note(run.trained) for run in its_runs] for recipe, its_runs in runs.items()}
    scores = {recipe: np.array([note["score"] for note in its_notes]) for recipe, its_notes in notes.items()}

    def cells(values: "Values") -> tuple[str, str]:
        mean, margin = mean_interval(values)
        return f"{mean:.4f}", "-" if np.isnan(margin) else f"{mean - margin:.4f} to {mean + margin:.4f}"

    rows = []
    for recipe, values in scores.items():
        images = " or ".join(f"{count:,}" for count in sorted({note["valid_images"] for note in notes[recipe]}))
        seconds = np.mean([note["seconds"] for note in notes[recipe]])
        rows.append(
            (
                recipe,
                len(values),
                images,
                *cells(values),
                f"{worst(values):.4f} to {best(values):.4f}",
                f"{seconds:.1f}",
            )
        )
    interval = f"{CONFIDENCE:.0%} interval"
    headings = ("recipe", "seeds", "valid images", f"valid {metric}", interval, "worst to best", "seconds in epochs")
    print(command.table(headings, rows))
    first, *others = scores
    for other in others:
        mean, between = cells(scores[first] - scores[other])
        paired = f" ({interval} {between}, paired by seed)" if between != "-" else ""
        print(f"{first} less {other}: {mean}{paired}")
    print("Scores are those of each run's best epoch by validation; intervals are over seeds, on one split.")


if __name__ == "__main__":
    sys.exit(command.run(main))
