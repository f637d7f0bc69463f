"""Wait for the end of a run on Kaggle; verify its output by its manifest, fetch it and move it into place."""

import os
import re
import shutil
import time
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pipelines.kaggle.failures import NoSuchKernel
from pipelines.kaggle.kernel_run import FAILED, FETCHED, KernelRun, Say, State
from pipelines.kaggle.kernel_script import MANIFEST
from pipelines.kaggle.service import Kaggle, KernelOutput, KernelStatus
from pipelines.system.errors import TryAgainLater, UserError, printable
from pipelines.system.files import atomic_folder, file_sha256, read_json, write_text
from pipelines.system.shell import removal
from pipelines.system.watch import Watch

WAITING = ("new_script", "queued", "running")
FIRST_PAUSE, LONGEST_PAUSE, PAUSE_GROWTH = 0.5, 30.0, 1.5  # seconds between two requests
PATIENCE = 5  # failed requests in a row
GRACE_SECONDS = 60.0  # after a push, Kaggle may still show the previous session for so long
LOG_LINES = 20
SHOWN_NAMES = 5


@dataclass(frozen=True)
class _Session:
    """A kernel's last session.  output, manifest: None while it runs.  ours: whether of the pushed run, if known."""

    status: str
    message: str
    output: KernelOutput | None = None
    manifest: dict[str, Any] | None = None
    ours: bool | None = None


def has_arrived(kaggle: Kaggle, run: KernelRun, state: State) -> bool:
    """Return whether a push whose answer was lost has reached Kaggle, judged by the kernel's last session."""
    while True:
        try:
            status = kaggle.kernel_status(state.kernel)
        except NoSuchKernel:
            return False
        session = _session(kaggle, run, state, status)
        if not session.output or session.ours:
            return True
        if time.time() - state.pushed_at > GRACE_SECONDS:
            return False
        time.sleep(FIRST_PAUSE)


def wait(kaggle: Kaggle, run: KernelRun, state: State, say: Say) -> tuple[KernelOutput, dict[str, Any]]:
    """Wait for the end of the run, and return its output and manifest.

    Raises `UserError` if it failed; `TryAgainLater` if it has not ended in time, or Kaggle no longer answers.
    """
    hours = run.settings.kaggle.kernel_hours
    deadline = time.monotonic() + hours * 3600
    shown, unanswered, pause = "", 0, FIRST_PAUSE
    while True:
        try:
            session = _session(kaggle, run, state, kaggle.kernel_status(state.kernel))
            unanswered = 0
        except (TryAgainLater, NoSuchKernel) as error:
            unanswered += 1
            if unanswered == PATIENCE:
                if isinstance(error, NoSuchKernel):
                    again = f"To push it again, run this, then the same command: {removal(run.folder)}"
                    raise UserError(f"{error} {again}") from None
                raise
            say(f"{error} Asking again.")
        else:
            elapsed = time.time() - state.pushed_at
            text = session.status.replace("_", " ") + (" (of an earlier session)" if session.ours is False else "")
            if text != shown:
                say(text, elapsed)
                shown = text
            output, manifest = session.output, session.manifest
            if output and manifest and session.ours and session.status == "complete" and manifest["finished"]:
                return output, manifest
            if output:
                _raise_if_failed(run, state, session, elapsed, say)
        if time.monotonic() > deadline:
            raise TryAgainLater(
                f"The run on Kaggle has not ended in {hours:g} hours ({shown or 'no answer'}). See {state.page}; the "
                "same command continues to wait."
            )
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, PAUSE_GROWTH * pause)


def _session(kaggle: Kaggle, run: KernelRun, state: State, answer: KernelStatus) -> _Session:
    if answer.status in WAITING:
        return _Session(answer.status, answer.message)
    output = kaggle.kernel_output(state.kernel)
    manifest = _manifest(kaggle, run, output)
    if manifest:
        ours: bool | None = manifest["run_id"] == state.run_id
    else:
        found = re.findall(r"run id ([0-9a-f]{16})\b", output.log)  # the script's first line
        ours = state.run_id in found if found else None
    return _Session(answer.status, answer.message, output, manifest, ours)


def _raise_if_failed(run: KernelRun, state: State, session: _Session, elapsed: float, say: Say) -> None:
    """Raise `UserError` if an ended session shows that the run failed or was replaced; keep and show its log."""
    if session.ours is False:
        if elapsed > GRACE_SECONDS:
            run.save(replace(state, state=FAILED))
            raise UserError(
                f"The last session of {state.page} is another run than the one pushed from here: was it started in the "
                "browser, or from another machine? The same command pushes this one again."
            )
        return
    # A complete session without manifest may still get it: files may be listed after the log.
    failed = session.ours and (session.manifest or session.status != "complete")
    if not failed and elapsed <= GRACE_SECONDS:  # later without a sign of any run: a failure of Kaggle's own
        return
    log = session.output.log if session.output else ""
    write_text(run.log, log)
    run.save(replace(state, state=FAILED))
    lines = [f"\n  {printable(line)}" for line in log.splitlines()[-LOG_LINES:]]
    say("The last lines of its log:" + "".join(lines) if lines else "No log.")
    status = session.status.replace("_", " ") + (", without its results" if session.status == "complete" else "")
    said = f": {printable(session.message)}" if session.message else ""
    raise UserError(
        f"The run on Kaggle ended with the status {status}{said}. The whole log: {run.shown(run.log)}. Once the cause "
        "is fixed, the same command pushes again."
    )


def _manifest(kaggle: Kaggle, run: KernelRun, output: KernelOutput) -> dict[str, Any] | None:
    """Return the output's manifest or None, after a check of all file names."""
    _check_names(output.files)
    if MANIFEST not in output.files:
        return None
    path = run.folder / f".{MANIFEST}.partial"
    try:
        kaggle.fetch(output.files[MANIFEST], path)
        content = read_json(path)
        if all(isinstance(content[k], kind) for k, kind in (("run_id", str), ("finished", bool), ("files", dict))):
            return dict(content)
    except (ValueError, KeyError, TypeError):
        pass
    finally:
        path.unlink(missing_ok=True)
    raise TryAgainLater(f"The file {MANIFEST} from Kaggle is damaged. Try again later.")


def _check_names(names: Iterable[str]) -> None:
    if bad := [name for name in names if not _stays_inside(name)]:
        shown = ", ".join(ascii(name) for name in bad[:SHOWN_NAMES]) + (", …" if len(bad) > SHOWN_NAMES else "")
        raise UserError(
            f"The kernel's output has names that lead out of its folder: {shown}. Nothing was fetched. Look at the "
            "kernel on Kaggle: it is not the one pushed from here."
        )


def _stays_inside(name: str) -> bool:
    """Return whether `name` stays inside its folder on any system."""
    plain = name.isprintable() and "\\" not in name and not re.match("[A-Za-z]:", name)
    return plain and all(part not in ("", ".", "..") and len(os.fsencode(part)) < 256 for part in name.split("/"))


def fetch(kaggle: Kaggle, run: KernelRun, output: KernelOutput, manifest: dict[str, Any], watch: Watch) -> None:
    """Fetch the run's files and its submission to `run.fetched`, all of them as the manifest describes them or none."""
    files: dict[str, Any] = manifest["files"]
    _check_names(files)
    run_files = f"{run.shown(run.target.folder).as_posix()}/"
    submission = run.shown(run.submission).as_posix()
    if missing := [name for name in (run_files + run.target.trained.name, submission) if name not in files]:
        raise UserError(f"The run on Kaggle left no {' and no '.join(missing)}: see {run.shown(run.log)}")
    with atomic_folder(run.fetched) as folder:
        for name in watch(sorted({name for name in files if name.startswith(run_files)} | {submission}), "fetching"):
            if name not in output.files:
                raise TryAgainLater(f"Kaggle does not list {name}, which the run left. Try again later.")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            kaggle.fetch(output.files[name], path)
            if {"bytes": path.stat().st_size, "sha256": file_sha256(path)} != files[name]:
                raise TryAgainLater(f"The file {name} from Kaggle is not the one that the run left. Try again later.")


def put_in_place(run: KernelRun, state: State | None) -> None:
    """Move the fetched results to their places; after an interruption, move the rest."""
    if state is None:
        folder = run.shown(run.folder)
        raise UserError(
            f"{folder} holds results, but its state.json is missing. Remove it and run again: {removal(run.folder)}"
        )
    for target in (run.target.folder, run.submission):
        source = run.fetched / run.shown(target)
        if source.exists():  # else it was moved already
            check_free(run, [target])
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    run.save(replace(state, state=FETCHED))
    shutil.rmtree(run.fetched)


def check_free(run: KernelRun, targets: Iterable[Path]) -> None:
    """Raise `UserError` if one of the `targets` of results exists."""
    for path in targets:
        if path.exists():
            shown = run.shown(path)
            raise UserError(
                f"{shown} exists, and not from this run. Choose another RUN=, or remove it: {removal(path)}"
            )
