"""Check everything that the stages need, on this machine and at Kaggle, and print what to do.

Reads   the environment, the competition's TOML, the stages' outputs; asks Kaggle if there are credentials.
Writes  nothing.

Verdicts: ok; ! works, but read the note; missing or fails: fix it; - is absent, and not needed now.
Exit status: 0 if nothing has to be fixed, 3 if only Kaggle or the connection to it fails, else 2.
"""

import shlex
import sys
from collections.abc import Iterator, Sequence

from pipelines import command
from pipelines.dataset.split_record import split_is_made, split_parts
from pipelines.kaggle.submission_log import SubmissionLog
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.records import blended, members_of
from pipelines.settings.schema import Settings
from pipelines.system.errors import TryAgainLater, UserError, printable_lines
from pipelines.system.files import read_json
from pipelines.tools.doctor_checks import Check, first_line, short
from pipelines.tools.doctor_checks.kaggle import check_kaggle
from pipelines.tools.doctor_checks.machine import check_device, check_machine, check_packages

RUNS_SHOWN = 3


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.doctor").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    checks: list[Check] = []
    for check in _checks(settings, layout, words):
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
    print(f"\nNext: {next_command(settings, layout, words)}")


def _checks(settings: Settings, layout: Layout, words: command.Words) -> Iterator[Check]:
    """Yield all checks; what has to be fixed first comes first."""
    usable = {}
    for check in (*check_packages(settings), *check_machine(settings)):
        usable[check.name] = not check.fails
        yield check
    yield check_device(settings) if usable["torch"] else Check("device", "-", "not asked, as torch is missing")
    yield from check_kaggle(settings, usable["kaggle"])
    yield from _stages(settings, layout, words)


def _stages(settings: Settings, layout: Layout, words: command.Words) -> Iterator[Check]:
    """Yield the checks of the stages' outputs."""
    raw = layout.raw.is_dir()
    yield Check("data", "ok" if raw else "-", short(layout.raw) if raw else "not downloaded yet")
    try:
        made = raw and split_is_made(layout, settings, words.repeat("split"))
        parts = split_parts(layout, settings)
        absent = [path.name for path in parts if not path.exists()]
        state = "not made yet" if len(absent) == len(parts) else f"not complete: {', '.join(absent)} is missing"
        yield Check("split", "ok" if made else "-", short(layout.split_csv) if made else state)
    except (UserError, OSError, ImportError) as error:  # a package that reads images may be missing
        yield Check("split", "fails", first_line(error).partition(": ")[0], (str(error),))
    runs = sorted(layout.runs(), key=lambda run: -run.record.stat().st_mtime)
    shown = ", ".join(f"{run.folder.name} ({_state(run, settings)})" for run in runs[:RUNS_SHOWN])
    more = f" and {len(runs) - RUNS_SHOWN} more" if len(runs) > RUNS_SHOWN else ""
    yield Check("runs", "ok" if runs else "-", shown + more if runs else "none yet")
    log = layout.submission_log
    files = [path for path in log.parent.glob("*.csv") if path != log and not path.name.startswith(".")]
    try:
        sent = len(SubmissionLog(log).refs)
    except (UserError, OSError) as error:
        yield Check("predictions", "fails", f"{short(log)} cannot be read", (str(error),))
        return
    count = f"{len(files)} file{'s' * (len(files) != 1)} in {short(log.parent)}"
    count += f"; {sent} sent" if sent or settings.competition.source == "kaggle" else ""
    yield Check("predictions", "ok", count) if files or sent else Check("predictions", "-", "none yet")


def _state(run: RunLayout, settings: Settings) -> str:
    if combined := blended(run):
        return f"blend of {len(combined)} runs"
    members = members_of(run)
    if missing := _untrained(run):
        return f"{len(members) - missing} of {len(members)} members"
    if not run.trained.exists():
        return "not finished"
    try:
        note = read_json(run.trained)
        score = f"{note.get('metric', settings.competition.metric)} {note['score']:.4f}"
        state = f"{len(members)} members, {score}" if members else f"valid {score}"
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        state = "train.json is damaged"
    return state + (", retrained" if run.retrained.exists() else "")


def _untrained(run: RunLayout) -> int:
    """Return how many members of a fold set are not trained."""
    return sum(not run.member(name).trained.exists() for name in members_of(run))


def next_command(settings: Settings, layout: Layout, words: command.Words) -> str:
    """Return the make command of the first stage whose output is absent."""
    source, run, submission = settings.competition.source, layout.run(words.run_name()), words.submission()
    if not layout.raw.is_dir():
        return words.repeat("download", **({"ARCHIVE": "<its archive>"} if source == "address" else {}))
    sent = SubmissionLog(layout.submission_log).rows
    train, needs_final = "train", settings.predict.checkpoint == "final"
    if members_of(run):
        train, needs_final = "folds", settings.predict.members != "folds"
    if combined := blended(run):
        if not (run.blend.exists() and submission.exists()):
            return words.repeat("blend", RUNS=shlex.join(combined))
        train, needs_final = "blend", False
    outputs = {
        "split": split_is_made(layout, settings, words.repeat("split")),
        train: run.blend.exists() or (run.trained.exists() and not _untrained(run)),
        "retrain": not needs_final or run.retrained.exists(),
        "predict": submission.exists(),
        "score": source == "kaggle",  # the last stage of the others
        "submit": any(row.file == submission.name and row.ref for row in sent),
    }
    if settings.competition.takes == "code":  # the kernel runs all stages; the log names its version, not the file
        run_name = run.folder.name
        outputs = {"kernel": submission.exists(), "submit": any(row.run == run_name and row.ref for row in sent)}
    return words.repeat(next((stage for stage, done in outputs.items() if not done), "submissions"))


if __name__ == "__main__":
    sys.exit(command.run(main))
