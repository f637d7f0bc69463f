"""Train several recipes with several seeds, and draw their validation curves together.

Reads   data/<c>/split.csv and the images it lists.
Writes  runs/<c>/<recipe>-seed<k>/: a normal run of the stage train for each recipe and seed.
        runs/<c>/compare-<recipes>.csv (a row per recipe, seed and epoch) and compare-<recipes>.png.

Run the same command again after a kill: it continues, and does not repeat finished runs.
"""

import sys
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.settings.loading import load_settings, parse_overrides, recipe_names, run_name
from pipelines.settings.metrics import METRICS
from pipelines.settings.records import measured_choices
from pipelines.settings.schema import DEFAULT_RECIPE
from pipelines.system.errors import UserError
from pipelines.system.files import read_note
from pipelines.system.shell import names_in

if TYPE_CHECKING:
    from pipelines.analysis.plots import Values
    from pipelines.settings.layout import RunLayout

DEFAULT_RECIPES = [DEFAULT_RECIPE, "scratch"]


def main(arguments: Sequence[str] | None = None) -> None:
    parser = command.parser(__doc__, "tools.compare")
    parser.add_argument("--recipes", nargs="+", help=f"recipes to compare; default: {' '.join(DEFAULT_RECIPES)}")
    parser.add_argument(
        "--seeds", type=command.number_of_seeds, default=3, help="number of seeds, counted from 0; default: 3"
    )
    words = parser.parse_args(arguments, namespace=command.Words())
    recipes = _recipes(words)
    settings = [load_settings(words.competition, recipe, words.set) for recipe in recipes]
    metric = settings[0].competition.metric
    layout = words.layout()
    if not layout.split_csv.exists():
        raise UserError(f"{layout.split_csv.relative_to(Path.cwd())} is missing. First: {words.repeat('split')}")

    seeds = range(words.seeds)
    runs = {each: [layout.run(run_name(f"{each}-seed{seed}", words.set)) for seed in seeds] for each in recipes}
    for seed in seeds:  # all recipes of one seed before the next seed: early results can be compared
        for recipe in recipes:
            _train(words, recipe, seed, runs[recipe])

    import pandas as pd

    from pipelines.analysis import plots
    from pipelines.core.tasks import loss_unit
    from pipelines.dataset.tables import spreadsheet_safe, write_csv
    from pipelines.report.learning import read_history

    name = run_name("-".join(["compare", *recipes]), words.set)
    numbers, curves = layout.comparison(name, "csv"), layout.comparison(name, "png")
    histories = {recipe: [read_history(run.history) for run in runs[recipe]] for recipe in recipes}
    rows = [
        {"recipe": spreadsheet_safe(recipe), "seed": seed, **row}
        for recipe in recipes
        for seed in seeds
        for row in histories[recipe][seed]
    ]
    write_csv(numbers, pd.DataFrame(rows))
    title = f"{layout.competition}: {', '.join(recipes)}"
    losses = {loss_unit(each) for each in settings}
    loss = losses.pop() if len(losses) == 1 else "loss, each recipe's own"
    plots.draw_comparison(curves, histories, metric, title, loss)
    _print(runs, metric)
    print(f"Curves: {curves.relative_to(Path.cwd())}    Numbers: {numbers.relative_to(Path.cwd())}")


def _recipes(words: command.Words) -> list[str]:
    """Return the recipes to compare.  Raises `UserError` for wrong arguments, and for settings of a recipe."""
    if words.run or words.recipe != DEFAULT_RECIPE:
        raise UserError("compare trains several recipes and names the runs itself: use RECIPES=, not RECIPE= or RUN=.")
    if "seed" in parse_overrides(words.set).get("train", {}):
        raise UserError("compare sets train.seed itself: remove it from SET=, and set the number of seeds with SEEDS=.")
    known = recipe_names(words.competition)
    given = [[each] if each in known else names_in(each) for each in words.recipes or DEFAULT_RECIPES]
    recipes = list(dict.fromkeys(chain(*given)))
    for recipe in recipes:
        try:
            load_settings(words.competition, recipe, words.set)
        except UserError as error:
            chosen = words.recipes or recipe == DEFAULT_RECIPE
            hint = "" if chosen else f" Name the recipes to compare: RECIPES='{DEFAULT_RECIPE} …'."
            raise UserError(f"{error}{hint}") from None
    return recipes


def _train(words: command.Words, recipe: str, seed: int, runs: "list[RunLayout]") -> None:
    """Train the run of `recipe` with `seed` in a child process.  Exit with its status if that is not 0."""
    run = runs[seed].folder.name
    more = [f"train.seed={seed}"]
    if seed:
        more += measured_choices(runs[0], parse_overrides(words.set))
    print(f"Recipe {recipe}, seed {seed}:", flush=True)
    arguments = [words.competition, "--recipe", recipe, "--run", run, "--set", *words.set, *more]
    if status := command.run_stage("train", arguments):
        print(f"The comparison stopped at the run {run}. The same command continues from there.", file=sys.stderr)
        sys.exit(status)


def _print(runs: "dict[str, list[RunLayout]]", metric: str) -> None:
    """Print each recipe's best validation scores, and their difference from the first recipe's, paired by seed.

    runs: recipe to its runs, one per seed.
    """
    import numpy as np

    from pipelines.analysis.plots import CONFIDENCE, mean_interval

    def cells(values: "Values") -> tuple[str, str]:
        mean, margin = mean_interval(values)
        return f"{mean:.4f}", "-" if np.isnan(margin) else f"{mean - margin:.4f} to {mean + margin:.4f}"

    worst, best = (min, max) if METRICS[metric].higher_is_better else (max, min)
    scores, rows = {}, []
    for recipe, its_runs in runs.items():
        notes = [read_note(run.trained) for run in its_runs]
        scores[recipe] = values = np.array([note["score"] for note in notes])
        images = " or ".join(f"{count:,}" for count in sorted({note["valid_images"] for note in notes}))
        seconds = f"{np.mean([note['seconds'] for note in notes]):.1f}"
        extremes = f"{worst(values):.4f} to {best(values):.4f}"
        rows.append((recipe, len(values), images, *cells(values), extremes, seconds))
    interval = f"{CONFIDENCE:.0%} interval"
    headings = ("recipe", "seeds", "valid images", f"valid {metric}", interval, "worst to best", "seconds in epochs")
    print(command.table(headings, rows))
    first, *others = scores
    for other in others:
        mean, between = cells(scores[first] - scores[other])
        paired = f" ({interval} {between}, paired by seed)" if between != "-" else ""
        print(f"{first} minus {other}: {mean}{paired}")
    print("Each score is that of the run's best epoch by validation. Intervals are over seeds, on one split.")


if __name__ == "__main__":
    sys.exit(command.run(main))
