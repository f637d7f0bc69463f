"""Run all stages on Kaggle, on its GPU, and fetch the run and its submission as if they were made here.

Reads   the competition's TOML and the pipeline itself, pushed as one private script.  Pretrained weights have to be
        attached (kaggle.dataset_sources, kaggle.model_sources), unless the kernel may use the internet
        (kaggle.internet).
Writes  runs/<c>/<run>-kernel/: the pushed script.py and kernel-metadata.json, state.json, and Kaggle's log.txt;
        runs/<c>/<run>/ and submissions/<c>/<run>.csv, verified by their checksums.

After an interruption, run the same command again to continue: it waits for the pushed run, and pushes nothing twice.
"""

import shutil
import sys
from collections.abc import Sequence
from dataclasses import replace

from pipelines import command
from pipelines.kaggle import kernel_output, kernel_run
from pipelines.kaggle.kernel_run import FAILED, FETCHED, PUSHED, PUSHING, KernelRun, State
from pipelines.kaggle.service import Kaggle
from pipelines.settings.competitions import find_competition
from pipelines.system.files import only_one, read_note, write_text
from pipelines.system.shell import removal


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.kernel").parse_args(arguments, namespace=command.Words())
    run = KernelRun(find_competition(words.competition), words.settings(), words.layout(), words.run_name(), words.set)
    results = (run.target.folder, run.submission)
    folder, submission = (run.shown(path) for path in results)
    with only_one(run.folder.with_name(f".{run.folder.name}.lock"), "running this on Kaggle") as lock:
        state = run.state()
        if state and state.state == FETCHED:
            shutil.rmtree(run.fetched, ignore_errors=True)  # its results are in place already
            if all(path.exists() for path in results):
                print(f"Already run on Kaggle: {folder}, {submission}.")
                print(f"To run it again: {removal(run.target.folder, run.folder, run.submission)}")
                print(f"Next: {words.repeat('submit')}")
                return
        if not run.fetched.is_dir():
            kernel_output.check_free(run, results)
            state = _run_on_kaggle(run, state, lock)
        kernel_output.put_in_place(run, state)
    note = read_note(run.target.trained)
    print(f"Run: {folder}, valid {note['metric']} {note['score']:.4f} in epoch {note['best_epoch']}")
    print(f"Submission: {submission}    Kaggle's log: {run.shown(run.log)}")
    print(f"Next: {words.repeat('submit')}")


def _run_on_kaggle(run: KernelRun, state: State | None, lock: int) -> State:
    """Push unless already done, wait for the end of the run, and fetch its log and results."""
    kernel_run.check_possible(run.settings)
    if run.settings.competition.takes == "code" and run.settings.kaggle.internet:
        _say("Note: kaggle.internet is on, but most competitions that take code allow only kernels without internet.")
    command.print_credential()
    with Kaggle(run.settings.competition.slug, run.settings.kaggle.stall_seconds, (lock,)) as kaggle:
        if state and state.state == PUSHING:
            _say("It is unknown whether Kaggle received the last push: asking.")
            arrived = kernel_output.has_arrived(kaggle, run, state)
            state = run.save(replace(state, state=PUSHED)) if arrived else None
        if state is None or state.state == FAILED:
            state = kernel_run.push(kaggle, run, _say)
        else:
            _say(f"Continuing with {state.page}, pushed before.")
            if state.bundle_sha256 != run.bundle()[1]:
                _say(f"The pipeline or the TOML has changed since. To push again: {removal(run.folder)}")
        output, manifest = kernel_output.wait(kaggle, run, state, _say)
        write_text(run.log, output.log)
        kernel_output.fetch(kaggle, run, output, manifest, command.progress)
    return state


def _say(text: str, seconds: float | None = None) -> None:
    """Print `text`, after `seconds` as a duration if they are given."""
    print(text if seconds is None else f"{command.duration(max(0, seconds)):>11}  {text}", flush=True)


if __name__ == "__main__":
    sys.exit(command.run(main))
