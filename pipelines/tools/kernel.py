"""Run all stages on Kaggle, on a GPU of theirs, and fetch the run and its submission as if they were made here.

Reads   the competition's TOML and the pipeline itself, which are pushed as one private script; [kaggle] says what it
        may use.  Pretrained weights have to be attached (kaggle.dataset_sources, kaggle.model_sources), unless the
        kernel may use the internet (kaggle.internet).
Writes  runs/<c>/<run>-kernel/: script.py and kernel-metadata.json as pushed, state.json, log.txt as Kaggle wrote it;
        runs/<c>/<run>/ and submissions/<c>/<run>.csv: verified by the sums that the kernel left, and this run's.

Killed at any moment, the same command goes on: it waits for what it pushed, and pushes nothing twice.
"""

import json
import os
import re
import secrets
import shutil
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from pipelines import command
from pipelines.kaggle.service import Kaggle, KernelOutput, NoSuchKernel
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import find_competition, submission_name
from pipelines.settings.schema import Settings
from pipelines.system.errors import TryAgainLater, UserError
from pipelines.system.files import atomic_folder, file_sha256, only_one, read_json, read_note, write_json, write_text
from pipelines.system.terminal import printable

PUSHING, PUSHED, FAILED, FETCHED = "pushing", "pushed", "failed", "fetched"
FETCHED_FOLDER = "output"  # below the kernel's folder: whole, and not yet where it belongs
WAITING = ("new_script", "queued", "running")
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 30.0  # seconds between two questions
PATIENCE = 5  # unanswered questions in a row
GRACE_SECONDS = 60.0  # in which Kaggle may still show the session before this one
LOG_LINES = 20
SHOWN_NAMES = 5
HOW_TO_ATTACH = {
    "competition": "accept its rules (https://www.kaggle.com/competitions/{name}/rules), or correct competition.slug",
    "dataset": "kaggle.dataset_sources takes owner/name, as in the dataset's address, of one that this account may see",
    "model": "kaggle.model_sources takes owner/model/framework/variation/version, of one whose licence is accepted",
    "kernel": "it is attached by nothing in the settings; try again",
}


@dataclass(frozen=True)
class State:
    """How far a run on Kaggle has come, as state.json has it.

    run_id: what the output must hold to be this run's.  words: recipe and overrides that it was pushed with.
    bundle_sha256: of what was pushed.  pushed_at: seconds since 1970.
    """

    run_id: str
    state: str
    kernel: str
    words: list[str]
    bundle_sha256: str
    pushed_at: float = 0.0
    version: int = 0
    url: str = ""


@dataclass(frozen=True)
class Errand:
    """What is to be run on Kaggle, and where its results belong."""

    words: command.Words
    settings: Settings
    layout: Layout
    run: RunLayout
    submission: Path

    @property
    def folder(self) -> Path:
        """What is kept of the kernel itself."""
        return self.layout.run(f"{self.run.folder.name}-kernel").folder

    @property
    def fetched(self) -> Path:
        return self.folder / FETCHED_FOLDER

    @property
    def meant(self) -> list[str]:
        """Recipe and overrides, but for those of how Kaggle is talked to."""
        return [self.words.recipe, *(each for each in self.words.set if not each.startswith("kaggle."))]

    def shown(self, path: Path) -> Path:
        return path.relative_to(self.layout.root)

    def save(self, state: State) -> State:
        write_json(self.folder / "state.json", asdict(state))
        return state

    def state(self) -> State | None:
        path = self.folder / "state.json"
        try:
            return State(**read_json(path))
        except FileNotFoundError:
            return None
        except (ValueError, TypeError) as error:
            raise UserError(
                f"{self.shown(path)} cannot be read ({error}). Remove it and run on Kaggle again: "
                f"rm -r {self.shown(self.folder)}"
            ) from None


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.kernel").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    run = layout.run(words.run_name())
    submission = layout.submission(submission_name(run.folder.name, words.set))
    errand = Errand(words, settings, layout, run, submission)
    with only_one(errand.folder.with_name(f".{errand.folder.name}.lock"), "running this on Kaggle") as lock:
        state = errand.state()
        if state:
            _check_words(errand, state)
        if state and state.state == FETCHED:
            shutil.rmtree(errand.fetched, ignore_errors=True)  # what is left of it has been put in place
        if state and state.state == FETCHED and run.folder.exists() and submission.exists():
            print(f"Already run on Kaggle: {errand.shown(run.folder)}, {errand.shown(submission)}.")
            places = " ".join(str(errand.shown(path)) for path in (run.folder, errand.folder, submission))
            print(f"To do it again: rm -r {places}")
            print(f"Next: {words.repeat('submit')}")
            return
        if not errand.fetched.is_dir():
            _check_free(errand)
            state = _run_on_kaggle(errand, state, lock)
        _put_in_place(errand, state)
    note = read_note(run.trained)
    print(f"Run: {errand.shown(run.folder)}, valid {note['metric']} {note['score']:.4f} in epoch {note['best_epoch']}")
    print(f"Submission: {errand.shown(submission)}    Kaggle's log: {errand.shown(errand.folder / 'log.txt')}")
    print(f"Next: {words.repeat('submit')}")


def _check_words(errand: Errand, state: State) -> None:
    """Raise a `UserError` where the run was pushed with other words, unless that has come to nothing."""
    if state.state != FAILED and state.words != errand.meant:
        recipe, *overrides = state.words
        raise UserError(
            f"{errand.shown(errand.folder)} was pushed with RECIPE={recipe} and "
            f"{'SET=' + json.dumps(' '.join(overrides)) if overrides else 'no SET'}. Name a new run with RUN=, or "
            f"remove it: rm -r {errand.shown(errand.folder)}"
        )


def _check_free(errand: Errand) -> None:
    """Raise a `UserError` where something is where the results belong."""
    for path in (errand.run.folder, errand.submission):
        _refuse(errand, path)


def _refuse(errand: Errand, path: Path) -> None:
    if path.exists():
        raise UserError(
            f"{errand.shown(path)} is already here, and not from this run on Kaggle. Name a new run with RUN=, or "
            f"remove it: rm -r {errand.shown(path)}"
        )


def _check_possible(settings: Settings) -> None:
    """Raise a `UserError` for what would only come out on Kaggle: data or weights that nothing brings there."""
    attached = bool(settings.kaggle.dataset_sources or settings.kaggle.model_sources)
    how = "SET='kaggle.dataset_sources=[\"owner/name\"]' (or kaggle.model_sources)"
    if settings.competition.source == "address" and not settings.kaggle.dataset_sources:
        raise UserError(
            f"{settings.name} is no competition of Kaggle's: put its archive into a dataset of yours there and attach "
            f"that with {how}."
        )
    if settings.split.group_file:
        raise UserError(
            f"split.group_file names {settings.split.group_file}, which a kernel on Kaggle does not have: run the "
            "stages here, or empty split.group_file."
        )
    from pipelines.kaggle.kernel_script import weights_of

    for network, weights in weights_of(settings):
        from pipelines.models.published import is_published_name, published

        by_name = is_published_name(weights)
        if not by_name and (Path(weights).is_absolute() or weights.startswith("~") or ".." in Path(weights).parts):
            raise UserError(
                f"model.weights names {weights}, a place that Kaggle does not have: give it relative to the working "
                f"folder and within it, such as weights/{Path(weights).name}, and attach the file with {how}."
            )
        if not attached and not (by_name and settings.kaggle.internet):
            name = published(network, weights).filename if by_name else Path(weights).name
            without = ", or let the kernel download it: SET=kaggle.internet=true" if by_name else ""
            raise UserError(
                f"The kernel needs the weights {name} of {network}, and nothing brings them to Kaggle: put the file "
                f"into a dataset of yours there and attach that with {how}{without}."
            )


def _run_on_kaggle(errand: Errand, state: State | None, lock: int) -> State:
    """Push, unless that is done; wait until the run has ended; fetch what it left, whole, and the log."""
    settings = errand.settings
    _check_possible(settings)
    command.print_credential()
    with Kaggle(settings.competition.slug, settings.kaggle.stall_seconds, (lock,)) as kaggle:
        if state and state.state == PUSHING:
            arrived = _has_arrived(kaggle, errand, state)
            state = errand.save(replace(state, state=PUSHED)) if arrived else None
        if state is None or state.state == FAILED:
            state = _push(kaggle, errand)
        else:
            print(f"Going on with {state.url or state.kernel}, which was pushed before.")
            if state.bundle_sha256 != _bundle(errand)[1]:
                print(
                    "The pipeline or the TOML has changed since; that run knows nothing of it. To push anew: "
                    f"rm -r {errand.shown(errand.folder)}"
                )
        output, manifest = _wait(kaggle, errand, state)
        write_text(errand.folder / "log.txt", output.log)
        _fetch(kaggle, errand, output, manifest)
    return state


def _bundle(errand: Errand) -> tuple[bytes, str]:
    """Return the pipeline packed, and its SHA-256."""
    import hashlib

    from pipelines.kaggle.kernel_bundle import needed_files, pack

    toml = find_competition(errand.words.competition)
    packed = pack(needed_files(toml, errand.settings.model.label_map))
    return packed, hashlib.sha256(packed).hexdigest()


def _push(kaggle: Kaggle, errand: Errand) -> State:
    """Write script and metadata, and push them; raises `UserError` where Kaggle takes them not, or not whole.

    Where the answer is lost the state says so, and the next call asks what became of it.
    """
    from pipelines.kaggle import kernel_bundle

    settings, run = errand.settings, errand.run.folder.name
    username = kaggle.username()
    if not username:
        raise UserError(
            "Kaggle's client does not say whose credentials these are; get a new token: make doctor shows how."
        )
    if settings.kaggle.accelerator:
        used, allowed = kaggle.gpu_hours()
        print(f"GPU hours this week: {used:.1f} of {allowed:.1f} used.")
        if used >= allowed > 0:
            raise UserError("None are left: wait until the week is over, or run without a GPU: SET=kaggle.accelerator=")
    slug = kernel_bundle.kernel_slug(errand.layout.competition, run)
    packed, sha256 = _bundle(errand)
    state = State(secrets.token_hex(8), PUSHING, f"{username}/{slug}", errand.meant, sha256, time.time())
    task = kernel_bundle.make_task(errand.layout.competition, settings, run, errand.words.set, state.run_id)
    with atomic_folder(errand.folder) as folder:
        write_text(folder / kernel_bundle.SCRIPT, kernel_bundle.make_script(task, packed))
        write_json(folder / kernel_bundle.METADATA, kernel_bundle.make_metadata(username, slug, settings))
        write_json(folder / "state.json", asdict(state))
    try:
        pushed = kaggle.push_kernel(errand.folder, settings.kaggle.kernel_hours)
    except TryAgainLater:
        raise
    except UserError:
        errand.save(replace(state, state=FAILED))
        raise
    if pushed.error or pushed.invalid:
        errand.save(replace(state, state=FAILED))
        raise UserError(_refusal(pushed.error, pushed.invalid))
    state = errand.save(replace(state, state=PUSHED, version=pushed.version, url=pushed.url, pushed_at=time.time()))
    print(f"Pushed {len(packed) / 1e3:,.0f} kB as version {state.version} of {state.url}", flush=True)
    return state


def _refusal(error: str, invalid: dict[str, list[str]]) -> str:
    """What Kaggle did not take, and how to mend that."""
    if not invalid:
        return f"Kaggle refuses the kernel: {printable(error)}"
    lines = [
        f"{kind} {name!r}: {HOW_TO_ATTACH.get(kind, 'see [kaggle] in the settings').format(name=name)}"
        for kind, names in invalid.items()
        for name in names
    ]
    said = f' Kaggle says: "{printable(error)}"' if error else ""
    return (
        f"Kaggle could not attach what the kernel needs, so its run there is of no use.{said}\n  "
        + "\n  ".join(lines)
        + "\nThen type the same command again."
    )


def _has_arrived(kaggle: Kaggle, errand: Errand, state: State) -> bool:
    """Whether a push whose answer was lost has reached Kaggle, as far as its last session tells."""
    print("Whether Kaggle has taken the last push is not known: asking.", flush=True)
    while True:
        try:
            status = kaggle.kernel_status(state.kernel).status
        except NoSuchKernel:
            return False
        if status in WAITING:
            return True
        output = kaggle.kernel_output(state.kernel)
        if _belongs(output, _manifest(kaggle, errand, output), state.run_id):
            return True
        if time.time() - state.pushed_at > GRACE_SECONDS:
            return False
        time.sleep(FIRST_PAUSE)


def _wait(kaggle: Kaggle, errand: Errand, state: State) -> tuple[KernelOutput, dict[str, Any]]:
    """Wait until the run has ended, and return its output and its manifest.

    Raises `UserError`, with the end of the log on the screen, where it failed; `TryAgainLater` where it has not ended
    in time, or Kaggle no longer answers.
    """
    deadline = time.monotonic() + errand.settings.kaggle.kernel_hours * 3600
    shown, unanswered, pause = "", 0, FIRST_PAUSE
    while True:
        try:
            status = kaggle.kernel_status(state.kernel)
            output = manifest = None
            if status.status not in WAITING:
                output = kaggle.kernel_output(state.kernel)
                manifest = _manifest(kaggle, errand, output)
            unanswered = 0
        except (TryAgainLater, NoSuchKernel) as error:
            unanswered += 1
            if unanswered == PATIENCE:
                raise
            print(f"{error} Asking again.", flush=True)
        else:
            elapsed = time.time() - state.pushed_at
            belongs = _belongs(output, manifest, state.run_id) if output else None
            words = status.status.replace("_", " ") + (" (of an earlier session)" if belongs is False else "")
            if words != shown:
                print(f"{command.duration(max(0, elapsed)):>11}  {words}", flush=True)
                shown = words
            if output and manifest and belongs and status.status == "complete" and manifest["finished"]:
                return output, manifest
            if output and belongs is False and elapsed > GRACE_SECONDS:
                errand.save(replace(state, state=FAILED))
                raise UserError(
                    f"What runs, or ran last, as {state.url or state.kernel} is another run than the one pushed from "
                    "here: was it started in the browser, or from another machine? The same command pushes this one "
                    "again."
                )
            ours = belongs and (manifest or status.status != "complete")  # the files may be listed after the log
            late = belongs is not False and elapsed > GRACE_SECONDS  # no sign of any run: a failure of Kaggle's own
            if output and (ours or late):
                _fail(errand, state, status.status, status.message, output)
        if time.monotonic() > deadline:
            raise TryAgainLater(
                f"The run on Kaggle has not ended in {errand.settings.kaggle.kernel_hours:g} hours "
                f"({shown or 'no answer'}). Look at {state.url or state.kernel}; the same command goes on waiting."
            )
        time.sleep(pause)
        pause = min(LONGEST_PAUSE, 1.5 * pause)


def _belongs(output: KernelOutput, manifest: dict[str, Any] | None, run_id: str) -> bool | None:
    """Whether an output is of the run `run_id`; None where nothing tells."""
    if manifest:
        return bool(manifest["run_id"] == run_id)
    found = re.findall(r"run id ([0-9a-f]{16})\b", output.log)  # the script's first line
    return run_id in found if found else None


def _fail(errand: Errand, state: State, status: str, message: str, output: KernelOutput) -> None:
    """Keep and show the log of a run that failed, and raise the `UserError`."""
    log = errand.folder / "log.txt"
    write_text(log, output.log)
    errand.save(replace(state, state=FAILED))
    lines = output.log.splitlines()[-LOG_LINES:]
    print(
        "\n".join(["The last lines of its log:", *(f"  {printable(line)}" for line in lines)] if lines else ["No log."])
    )
    said = f": {printable(message)}" if message else ""
    results = ", without its results" if status == "complete" else ""
    raise UserError(
        f"The run on Kaggle ended with the status {status.replace('_', ' ')}{results}{said}. The whole log: "
        f"{errand.shown(log)}. Once the cause is mended, the same command pushes anew."
    )


def _manifest(kaggle: Kaggle, errand: Errand, output: KernelOutput) -> dict[str, Any] | None:
    """Return the manifest of an output whose names are all harmless, or None where there is none.

    Raises `UserError` for names that lead out of a folder, before anything is written.
    """
    from pipelines.kaggle.kernel_script import MANIFEST

    _check_names([file.name for file in output.files])
    address = next((file.url for file in output.files if file.name == MANIFEST), None)
    if address is None:
        return None
    path = errand.folder / f".{MANIFEST}.partial"
    try:
        kaggle.fetch(address, path)
        content = read_json(path)
        known = {"run_id": str, "finished": bool, "files": dict}
        if all(isinstance(content[key], kind) for key, kind in known.items()):
            return dict(content)
    except (ValueError, KeyError, TypeError):
        pass
    finally:
        path.unlink(missing_ok=True)
    raise TryAgainLater(f"What came from Kaggle as {MANIFEST} is not one. Try again later.")


def _check_names(names: Sequence[str]) -> None:
    bad = [name for name in names if not _is_harmless(name)]
    if bad:
        shown = ", ".join(ascii(name) for name in bad[:SHOWN_NAMES]) + (", …" if len(bad) > SHOWN_NAMES else "")
        raise UserError(
            f"The kernel's output has names that lead elsewhere: {shown}. Nothing was fetched. Look at the kernel on "
            "Kaggle: it is not what was pushed from here."
        )


def _is_harmless(name: str) -> bool:
    """Whether `name` stays inside the folder that it is put into, on any system."""
    parts = name.split("/")
    plain = name.isprintable() and "\\" not in name and not re.match("[A-Za-z]:", name)
    return plain and all(part not in ("", ".", "..") and len(os.fsencode(part)) < 256 for part in parts)


def _fetch(kaggle: Kaggle, errand: Errand, output: KernelOutput, manifest: dict[str, Any]) -> None:
    """Fetch the files that the manifest vouches for, all of them whole or none."""
    competition, run = errand.layout.competition, errand.run.folder.name
    files: dict[str, Any] = manifest["files"]
    _check_names(list(files))
    needed = [
        f"runs/{competition}/{run}/{errand.run.trained.name}",
        f"submissions/{competition}/{errand.submission.name}",
    ]
    wanted = {name for name in files if name.startswith(f"runs/{competition}/{run}/")} | {needed[1]}
    if missing := [name for name in needed if name not in files]:
        raise UserError(
            f"The run on Kaggle left no {' and no '.join(missing)}: see {errand.shown(errand.folder)}/log.txt"
        )
    addresses = {file.name: file.url for file in output.files}
    with atomic_folder(errand.fetched) as folder:
        for name in command.progress(sorted(wanted), "fetching"):
            if name not in addresses:
                raise TryAgainLater(f"Kaggle does not list {name}, which the run left. Try again later.")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            kaggle.fetch(addresses[name], path)
            if {"bytes": path.stat().st_size, "sha256": file_sha256(path)} != files[name]:
                raise TryAgainLater(
                    f"What came from Kaggle as {name} is not the file that the run left. Try again later."
                )


def _put_in_place(errand: Errand, state: State | None) -> None:
    """Move what was fetched to where it belongs; interrupted, it goes on."""
    if state is None:
        raise UserError(
            f"{errand.shown(errand.folder)} holds results, but not whose they are: state.json is missing. Remove it "
            f"and run on Kaggle again: rm -r {errand.shown(errand.folder)}"
        )
    run, submission = errand.run.folder, errand.submission
    for target in (run, submission):
        source = errand.fetched / target.relative_to(errand.layout.root)
        if source.exists():  # else it has been moved
            _refuse(errand, target)
            target.parent.mkdir(parents=True, exist_ok=True)
            os.replace(source, target)
    errand.save(replace(state, state=FETCHED))
    shutil.rmtree(errand.fetched)


if __name__ == "__main__":
    sys.exit(command.run(main))
