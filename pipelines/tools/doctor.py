"""Check everything that the stages need, on this machine and at Kaggle, and print what to do.

Reads   the environment, the competition's TOML, the stages' outputs; asks Kaggle where it finds credentials.
Writes  nothing.

Verdicts: ok; ! works, but read it; missing and fails have to be fixed; - is absent and not needed now.
Exit status: 0 if nothing has to be fixed, 3 if only Kaggle or the connection to it fails, else 2.
"""

import sys
from collections.abc import Iterator, Sequence

from pipelines import command
from pipelines.kaggle.submission_log import SubmissionLog
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import submission_name
from pipelines.settings.records import split_is_made
from pipelines.settings.schema import Settings
from pipelines.system.errors import TryAgainLater, UserError, printable_lines
from pipelines.system.files import read_json
from pipelines.tools.doctor_checks.check import Check, first_line, short
from pipelines.tools.doctor_checks.kaggle import check_kaggle
from pipelines.tools.doctor_checks.machine import check_device, check_machine, check_packages

RUNS_SHOWN = 3


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.doctor").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    checks: list[Check] = []
    for check in _checks(settings, layout):
        print(check, flush=True)
        checks.append(check)
    steps = list(dict.fromkeys(step for check in checks if check.verdict != "ok" for step in check.steps))
    failed = [check for check in checks if check.fails]
    if failed:
        steps.append(f"Look again: {words.repeat('doctor')}")
    if steps:
        print("\nWhat to do:")
        for number, step in enumerate(steps, 1):
            print(f"{number:3}. {printable_lines(step)}")
    if failed:
        kind = TryAgainLater if all(check.later for check in failed) else UserError
        raise kind(f"{len(failed)} of {len(checks)} checks failed; see above.")
    print(f"\nNext: {_next(settings, layout, words)}")


def _checks(settings: Settings, layout: Layout) -> Iterator[Check]:
    """Yield all checks, ordered by what has to be fixed first."""
    usable = {}
    for check in (*check_packages(settings), *check_machine(settings)):
        usable[check.name] = not check.fails
        yield check
    yield check_device(settings) if usable["torch"] else Check("device", "-", "not asked, as torch is missing")
    yield from check_kaggle(settings, usable["kaggle"])
    yield from _stages(settings, layout)


def _stages(settings: Settings, layout: Layout) -> Iterator[Check]:
    raw = layout.raw.is_dir()
    yield Check("data", "ok" if raw else "-", short(layout.raw) if raw else "not downloaded yet")
    try:
        made = raw and split_is_made(layout, settings)
        yield Check("split", "ok" if made else "-", short(layout.split_csv) if made else "not made yet")
    except (UserError, OSError) as error:
        yield Check("split", "fails", first_line(error).partition(": ")[0], (str(error),))
    runs = sorted(layout.runs(), key=lambda run: -run.record.stat().st_mtime)
    shown = ", ".join(f"{run.folder.name} ({_state(run, settings)})" for run in runs[:RUNS_SHOWN])
    more = f" and {len(runs) - RUNS_SHOWN} more" if len(runs) > RUNS_SHOWN else ""
    yield Check("runs", "ok" if runs else "-", shown + more if runs else "none yet")
    yield _predictions(layout)


def _state(run: RunLayout, settings: Settings) -> str:
    if not run.trained.exists():
        return "not finished"
    try:
        state = f"valid {settings.competition.metric} {read_json(run.trained)['score']:.4f}"
    except (OSError, ValueError, KeyError, TypeError):
        state = "train.json is damaged"
    return state + (", retrained" if run.retrained.exists() else "")


def _predictions(layout: Layout) -> Check:
    log = layout.submission_log
    files = [path for path in log.parent.glob("*.csv") if path != log and not path.name.startswith(".")]
    try:
        refs = SubmissionLog(log).refs
    except (UserError, OSError) as error:
        return Check("predictions", "fails", f"{short(log)} cannot be read", (str(error),))
    if not files and not refs:
        return Check("predictions", "-", "none yet")
    count = f"{len(files)} file{'s' * (len(files) != 1)} in {short(log.parent)}"
    return Check("predictions", "ok", f"{count}; {len(refs)} sent")


def _next(settings: Settings, layout: Layout, words: command.Words) -> str:
    """Return the make command of the first stage whose output is absent."""
    name = words.run_name()
    run, submission = layout.run(name), layout.submission(submission_name(name, words.set))
    if not layout.raw.is_dir():
        return words.repeat("download") + " ARCHIVE=<its archive>" * (settings.competition.source == "address")
    if not split_is_made(layout, settings):
        return words.repeat("split")
    if not run.trained.exists():
        return words.repeat("train")
    if settings.predict.checkpoint == "final" and not run.retrained.exists():
        return words.repeat("retrain")
    if not submission.exists():
        return words.repeat("predict")
    if settings.competition.source != "kaggle":
        return words.repeat("score")
    sent = any(row.file == submission.name and row.ref for row in SubmissionLog(layout.submission_log).rows)
    return words.repeat("submissions" if sent else "submit")


if __name__ == "__main__":
    sys.exit(command.run(main))
