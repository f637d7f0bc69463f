"""List all runs of a competition, best first; or compare runs: what differs, and is one really better?

Reads   runs/<c>/<run>/ of all runs: run.json, train.json, folds.json, blend.json, predict.json;
        submissions/<c>/log.csv; to compare runs: oof.csv of each, data/<c>/split.csv.
Writes  nothing.

With --run a b, and perhaps more names, each run is compared with the first: the settings that differ, and the
difference of the scores on the validation rows that both have predicted, with its 95 % interval.
"""

import math
import shlex
import shutil
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.kaggle.service import takes_submissions
from pipelines.report.ledger import BLEND, FOLDS, Entry, Ledger, read_ledger
from pipelines.report.run_table import HEADINGS, LEFT_ALIGNED, compared_settings, fitted, table_row
from pipelines.settings.schema import DEFAULT_RECIPE, Settings
from pipelines.system.errors import UserError, did_you_mean, few
from pipelines.system.screen import cut

if TYPE_CHECKING:
    from pipelines.core.paired import Paired

WIDTH = 100  # characters of a line, where there is no terminal
LONGEST_STATE = 75


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.runs", several_runs=True).parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    ledger = read_ledger(layout, settings, words.competition)
    if not ledger.entries:
        raise UserError(f"{layout.competition} has no runs yet. First: {words.repeat('train')}")
    if words.runs:
        _compare(_chosen(layout.names_in(words.runs), ledger, words), ledger, settings, words)
    else:
        _list(ledger, settings, words)


def _list(ledger: Ledger, settings: Settings, words: command.Words) -> None:
    """Print the table of all runs, and below it those that cannot be ranked."""
    ranked = [entry for entry in ledger.entries if entry.scored]
    others = [entry for entry in ledger.entries if not entry.scored]
    if ranked:
        direction = "highest" if ledger.higher_is_better else "lowest"
        print(f"Runs of {settings.name} by {ledger.metric} of the validation rows, {direction} first:")
        headings = [ledger.metric if each == "score" else each for each in HEADINGS]
        rows = [table_row(entry, ledger, time.time()) for entry in ranked]
        shown, cells = fitted(headings, rows, shutil.get_terminal_size((WIDTH, 24)).columns)
        print(command.table(shown, cells, LEFT_ALIGNED))
    if early := [entry.name for entry in ranked if not entry.as_predicted and entry.kind != BLEND]:
        print(f"Not predicted yet, so the score is that of the best epoch: {few(early, 5)}.")
    if others:
        print("Not ranked:")
        states = [(each.name, cut(_state(each), LONGEST_STATE)) for each in others]
        print(command.table(("run", "state"), states, left=2))
    if ledger.problem:
        print(f"No submission is shown: {ledger.problem}")
    print(f"Next: {_next(ledger, settings, words)}")


def _state(entry: Entry) -> str:
    return entry.state or ("trained on another split" if entry.other_split else "its score is not defined")


def _next(ledger: Ledger, settings: Settings, words: command.Words) -> str:
    """Return the most useful command: predict or send the best run, else compare it with the second best."""
    if ledger.best is None:
        return words.repeat("train")
    if first := _next_of(ledger.best, settings, words):
        return first
    stored = [entry.name for entry in ledger.entries if entry.scored and entry.run.oof.exists()]
    if len(stored) > 1:
        return words.repeat("runs", RUN=shlex.join(stored[1::-1]))
    return (
        words.repeat("submissions")
        if takes_submissions(settings.competition.source)
        else words.repeat("score", RUN=ledger.best.name)
    )


def _next_of(entry: Entry, settings: Settings, words: command.Words) -> str:
    """Return the command that predicts a run or sends its submission; empty where that is done."""
    if entry.sent:
        return ""
    if not words.layout().submission(entry.name).exists():
        if entry.kind == BLEND:
            return words.repeat("blend", RUN=entry.name, RUNS=shlex.join(entry.members))
        recipe = "" if entry.recipe == DEFAULT_RECIPE else entry.recipe
        stages = "predict" if entry.kind == FOLDS or entry.run.retrained.exists() else "retrain predict"
        return words.repeat(stages, RUN=entry.name, RECIPE=recipe)
    return words.repeat("submit", RUN=entry.name) if takes_submissions(settings.competition.source) else ""


def _chosen(names: Sequence[str], ledger: Ledger, words: command.Words) -> list[Entry]:
    """Return the runs `names`.  Raises `UserError` for fewer than two, for unknown ones and for repeated ones."""
    known = [entry.name for entry in ledger.entries]
    for name in names:
        if name not in known:
            folder = f"runs/{words.layout().competition}/"
            raise UserError(f"{folder} has no run {name!r}.{did_you_mean(name, known)} It has: {few(known, 20)}.")
    if len(set(names)) < max(2, len(names)):
        two = words.repeat("runs", RUN=shlex.join(known[1::-1])) if len(known) > 1 else words.repeat("runs")
        raise UserError(f"RUN= must name two or more runs, each once. The first is compared with the others: {two}")
    return [entry for name in names for entry in ledger.entries if entry.name == name]


def _compare(runs: Sequence[Entry], ledger: Ledger, settings: Settings, words: command.Words) -> None:
    """Print how each of the other runs differs from the first, in its settings and on the rows that both predicted."""
    first, *others = runs
    for other in others:
        if rows := compared_settings(first, other):
            print(command.table(("settings that differ", first.name, other.name), rows))
        else:
            print(f"{first.name} and {other.name} have the same settings.")
    from pipelines.core.paired import compare
    from pipelines.dataset.image_set import read_images
    from pipelines.report.pairs import predicted_run, read_pair

    layout = words.layout()
    found = [predicted_run(entry.name, layout, settings, words.repeat) for entry in runs]
    images = read_images(settings, layout, words.repeat("split"))
    results = [compare(read_pair(found[0], run, images, settings), command.progress) for run in found[1:]]
    for other, result in zip(others, results, strict=True):
        print(*_describe(first.name, other.name, result, ledger), sep="\n")
    if settings.split.group_column or settings.split.group_file:
        print("Note: rows are drawn one by one, not in the groups of the split, so an interval may be too narrow.")
    print(f"Next: {_after(first, others, results, settings, words)}")


def _describe(first: str, second: str, found: "Paired", ledger: Ledger) -> list[str]:
    """Return the lines on the difference of two runs."""
    one, other = found.scores
    both = f"the {found.rows:,} validation rows that both have predicted"
    if math.isnan(found.gain):
        return [f"{ledger.metric} is not defined on {both}."]
    low, high = found.bounds
    lines = [
        f"{ledger.metric} on {both}: {first} {one:.4f}, {second} {other:.4f}",
        f"Gain of {second} over {first}: {found.gain:+.4f} ({low:.4f} to {high:.4f}, n = {found.rows:,})",
    ]
    if found.alone:
        test = "" if math.isnan(found.p_value) else f" (McNemar's exact test: p = {found.p_value:.2g})"
        lines.append(f"Rows right in {second} alone: {found.alone[1]:,}; in {first} alone: {found.alone[0]:,}{test}")
    better, worse = (second, first) if found.verdict > 0 else (first, second)
    return [
        *lines,
        f"{better} is better than {worse}." if found.verdict else f"No clear difference ({found.rows:,} rows).",
    ]


def _after(
    first: Entry, others: Sequence[Entry], results: Sequence["Paired"], settings: Settings, words: command.Words
) -> str:
    """Return the command for the winner; a blend of both runs where neither is clearly better."""
    better = [(each.gain, place) for place, each in enumerate(results) if each.verdict > 0]
    winner = others[max(better)[1]] if better else first
    if len(others) == 1 and not results[0].verdict and BLEND not in (first.kind, others[0].kind):
        return words.repeat("blend", RUNS=shlex.join([first.name, others[0].name]))
    return _next_of(winner, settings, words) or words.repeat("runs")


if __name__ == "__main__":
    sys.exit(command.run(main))
