"""The tool `kernel` with Kaggle's client against the stand-in: a run on Kaggle, fetched as if it was made here."""

import hashlib
import json
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.dataset.digits import write_digits
from pipelines.kaggle.kernel_run import check_possible
from pipelines.settings.competitions import COMPETITIONS
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError
from pipelines.tools import kernel
from tests.support.advice import follow
from tests.support.clients import forget, run_stage, shared_environment
from tests.support.kernels import FILES, leave, run_id, standin_for_kernels
from tests.support.standin import Body, Html, Kernel, Lost, Standin, Status

TOML = '[data]\nlabels = "labels.csv"\nsample_submission = "sample.csv"\n'
RUN, FOLDER, SUBMISSION = (
    Path("runs/cats/default"),
    Path("runs/cats/default-kernel"),
    Path("submissions/cats/default.csv"),
)


class Stage(subprocess.Popen[str]):
    """A process that ends with a failed test; it would wait for half a day."""

    def __exit__(self, kind: Any, error: Any, trace: Any) -> None:
        if kind:
            self.kill()
        super().__exit__(kind, error, trace)


class Trial:
    """A working folder with a competition `cats`, and a stand-in that has it."""

    def __init__(self, folder: Path, standin: Standin) -> None:
        self.folder, self.standin = folder, standin
        self.environment = shared_environment(standin)

    def start(self, *words: str, competition: str = "cats.toml") -> Stage:
        """Start the stage as a process."""
        return Stage(
            [sys.executable, "-m", "pipelines.tools.kernel", competition, *words],
            cwd=self.folder,
            env=self.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def run(self, *words: str, competition: str = "cats.toml") -> tuple[int, str, str]:
        """Run the stage in this process; return its status, what it printed, and its errors."""
        return run_stage(kernel, [competition, *words], self.folder, self.environment)

    def succeeds(self, *words: str) -> str:
        status, printed, errors = self.run(*words)
        assert status == 0, errors
        for name, content in FILES.items():
            if name != "submission.csv":
                assert (self.folder / name).read_bytes() == content
        assert not (self.folder / FOLDER / "output").exists()
        return printed

    def fails(self, status: int, *words: str) -> str:
        """Run the stage, check that it fails with `status` and leaves no results; return the message."""
        code, printed, errors = self.run(*words)
        assert (code, errors.count("error: ")) == (status, 1), printed + errors
        assert not (self.folder / RUN).exists() and not (self.folder / SUBMISSION).exists()
        return errors

    def state(self) -> dict[str, Any]:
        return dict(json.loads((self.folder / FOLDER / "state.json").read_text()))

    def change_state(self, **values: Any) -> None:
        (self.folder / FOLDER / "state.json").write_text(json.dumps(self.state() | values))

    def pushes(self) -> int:
        return len(self.standin.calls("SaveKernel"))


@pytest.fixture(scope="module")
def standin(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Standin]:
    with standin_for_kernels(tmp_path_factory.mktemp("standin")) as standin:
        yield standin


@pytest.fixture
def trial(tmp_path: Path, standin: Standin) -> Iterator[Trial]:
    (tmp_path / "cats.toml").write_text(TOML)
    (tmp_path / "archive").mkdir()
    archive = shutil.make_archive(str(tmp_path / "cats"), "zip", tmp_path / "archive")
    standin.add("cats", Path(archive), load_settings(str(tmp_path / "cats.toml")))
    standin.run_kernel = leave
    yield Trial(tmp_path, standin)
    assert not standin.violations
    forget(standin)


def test_a_run_is_fetched_as_if_it_had_been_made_here(trial: Trial) -> None:
    printed = trial.succeeds()
    assert "GPU hours this week: 1.0 of 30.0 used." in printed
    assert re.search(r"Pushed \d+ kB as version 1 of https://www\.kaggle\.com/code/alice/cats-default\n", printed)
    assert re.search(r"\d s  complete\n", printed)
    assert printed.endswith(
        "Run: runs/cats/default, valid accuracy 0.9312 in epoch 3\n"
        "Submission: submissions/cats/default.csv    Kaggle's log: runs/cats/default-kernel/log.txt\n"
        "Next: make submit COMP=cats.toml\n"
    )
    kept = {path.name for path in (trial.folder / FOLDER).iterdir()}
    assert kept == {"script.py", "kernel-metadata.json", "state.json", "log.txt"}
    assert (trial.folder / FOLDER / "log.txt").read_text().endswith("\nthe end\n")
    (pushed,) = trial.standin.calls("SaveKernel")
    assert pushed.body is not None
    script = pushed.body.pop("text")
    assert script == (trial.folder / FOLDER / "script.py").read_text()
    assert trial.standin.key not in script and str(trial.folder) not in script
    assert pushed.body == pushed.body | {
        "slug": "alice/cats-default",
        "newTitle": "cats default",
        "language": "python",
        "kernelType": "script",
        "isPrivate": True,
        "enableGpu": True,
        "machineShape": "NvidiaTeslaT4",
        "sessionTimeoutSeconds": 43200,
        "competitionDataSources": ["cats"],
    }
    assert not pushed.body.get("enableInternet") and not pushed.body.get("enableTpu")

    requests = len(trial.standin.requests)
    status, printed, _ = trial.run()
    assert status == 0 and len(trial.standin.requests) == requests
    assert printed.splitlines() == [
        "Already run on Kaggle: runs/cats/default, submissions/cats/default.csv.",
        "To run it again: rm -r runs/cats/default runs/cats/default-kernel submissions/cats/default.csv",
        "Next: make submit COMP=cats.toml",
    ]


def test_what_is_here_is_not_overwritten(trial: Trial) -> None:
    (trial.folder / RUN).mkdir(parents=True)
    status, _, errors = trial.run()
    assert status == 2 and "runs/cats/default exists" in errors and "RUN=" in errors
    (trial.folder / RUN).rmdir()
    (trial.folder / SUBMISSION).parent.mkdir(parents=True)
    (trial.folder / SUBMISSION).write_text("mine")
    status, _, errors = trial.run()
    assert status == 2 and "rm submissions/cats/default.csv" in errors
    assert not trial.standin.requests


def test_sources_that_kaggle_does_not_know(trial: Trial) -> None:
    trial.standin.competitions.clear()
    message = trial.fails(2, "--set", 'kaggle.dataset_sources=["bob/cats"]', 'kaggle.model_sources=["a/b/c/d/1"]')
    for part in (
        "competition 'cats': accept its rules (https://www.kaggle.com/competitions/cats/rules)",
        "dataset 'bob/cats': kaggle.dataset_sources takes owner/name",
        "model 'a/b/c/d/1': kaggle.model_sources takes",
    ):
        assert part in message


def test_a_push_that_is_refused(trial: Trial) -> None:
    trial.standin.fault(
        "SaveKernel", Body(b'{"error": "Kernel quota\\u001b[31m used up"}', {"Content-Type": "application/json"})
    )
    message = trial.fails(2)
    assert "Kaggle refuses the kernel: Kernel quota [31m used up" in message
    trial.standin.fault("SaveKernel", Status(403, "Permission 'kernels.update' was denied"))
    assert "403" in trial.fails(2)
    trial.succeeds()


def test_data_that_nothing_brings_to_kaggle(trial: Trial) -> None:
    (trial.folder / "cats.toml").write_text('[competition]\nsource = "address"\naddress = "http://example.org/cats"\n')
    assert "no competition of Kaggle" in trial.fails(2)
    assert not trial.standin.requests


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model.weights=IMAGENET1K_V1",), "resnet18-f37072fd.pth of resnet18"),
        (("model.weights=weights/mine.pth", "kaggle.internet=true"), "the weights mine.pth of resnet18"),
        (("model.weights=/home/me/mine.pth",), "relative to the working folder"),
    ],
)
def test_weights_that_nothing_brings_to_kaggle(overrides: tuple[str, ...], message: str, tmp_path: Path) -> None:
    settings = load_settings("digits", overrides=["model.name=resnet18", *overrides])
    with pytest.raises(UserError, match=re.escape(message)) as caught:
        check_possible(settings)
    assert "kaggle.dataset_sources" in str(caught.value)


def test_groups_that_kaggle_does_not_have(trial: Trial) -> None:
    toml = trial.folder / "cats.toml"
    toml.write_text(toml.read_text() + '\n[split]\ngroup_file = "data/cats/audit/groups.csv"\n')
    message = trial.fails(2)
    assert "data/cats/audit/groups.csv, which a kernel on Kaggle does not have" in message
    assert "empty split.group_file" in message
    assert not trial.standin.requests


def test_no_credentials(trial: Trial) -> None:
    del trial.environment["KAGGLE_USERNAME"], trial.environment["KAGGLE_KEY"]
    assert "no credentials" in trial.fails(2)
    assert not trial.standin.requests


def test_no_gpu_hours_left(trial: Trial) -> None:
    quota = b'{"gpuQuota": {"timeUsed": "108000s", "totalTimeAllowed": "108000s"}}'
    body = Body(quota, {"Content-Type": "application/json"})
    trial.standin.fault("GetAcceleratorQuotaStatistics", body, times=None)
    assert "kaggle.accelerator=" in trial.fails(2)
    assert not trial.pushes()
    trial.standin.fault("GetAcceleratorQuotaStatistics", Status(500), times=None)
    trial.succeeds("--set", "kaggle.accelerator=")
    assert not (trial.standin.calls("SaveKernel")[0].body or {}).get("enableGpu")


@pytest.mark.parametrize("status", ["ERROR", pytest.param("CANCEL_ACKNOWLEDGED", marks=pytest.mark.slow)])
def test_a_run_that_fails_shows_the_end_of_its_log(trial: Trial, status: str) -> None:
    def fail(kernel: Kernel) -> None:
        leave(kernel, finished=False)
        lines = [f"run id {run_id(kernel)}\n", *(f"line {number}\n" for number in range(30)), "\x1b[2Jclear\n"]
        kernel.log = json.dumps([{"stream_name": "stdout", "time": 0.1, "data": line} for line in lines])
        kernel.status, kernel.failure_message = status, "exit code 2"

    trial.standin.run_kernel = fail
    code, printed, errors = trial.run()
    assert code == 2 and not (trial.folder / RUN).exists()
    shown = printed.split("The last lines of its log:\n")[1].splitlines()
    assert shown == [*(f"  line {number}" for number in range(11, 30)), "   [2Jclear"]
    assert "exit code 2. The whole log: runs/cats/default-kernel/log.txt" in errors
    assert (trial.folder / FOLDER / "log.txt").read_text().count("\n") == 32

    trial.standin.run_kernel = leave  # the cause is mended
    trial.succeeds()
    assert trial.pushes() == 2


def test_status_changes_are_shown_once_each(trial: Trial) -> None:
    def slowly(kernel: Kernel) -> None:
        kernel.status = "QUEUED"

    trial.standin.run_kernel = slowly
    with trial.start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            (kernel,) = trial.standin.kernels or [None]  # type: ignore[list-item]
            if line.endswith("queued\n"):
                kernel.status = "RUNNING"
            if line.endswith("running\n"):
                leave(kernel)
            if "complete" in line:
                break
        rest, _ = process.communicate()
    assert process.returncode == 0 and "queued" not in rest and "running" not in rest


def test_an_earlier_sessions_output_is_not_taken(trial: Trial) -> None:
    """Right after a push Kaggle may still show the previous session."""

    def before(kernel: Kernel) -> None:
        leave(kernel, run_id="0" * 16)

    trial.standin.run_kernel = before
    with trial.start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if "complete (of an earlier session)" in line:
                leave(trial.standin.kernels[0])
        process.wait()
    assert process.returncode == 0
    trial.succeeds()


def test_a_run_that_another_one_replaced_is_not_waited_for(trial: Trial) -> None:
    def slowly(kernel: Kernel) -> None:
        kernel.status = "RUNNING"

    trial.standin.run_kernel = slowly
    trial.fails(3, "--set", "kaggle.kernel_hours=0.0001")
    state = trial.state() | {"pushed_at": time.time() - 3600}  # after the grace period
    (trial.folder / FOLDER / "state.json").write_text(json.dumps(state))
    leave(trial.standin.kernels[0], run_id="0" * 16)
    assert "is another run than the one pushed from here" in trial.fails(2)
    assert trial.state()["state"] == "failed"
    trial.standin.run_kernel = leave
    trial.succeeds()
    assert trial.pushes() == 2


def test_results_of_nobody_knows_what(trial: Trial) -> None:
    (trial.folder / FOLDER / "output").mkdir(parents=True)
    message = trial.fails(2)
    assert "state.json is missing" in message and f"rm -r {FOLDER}" in message


def test_a_run_that_does_not_end_is_waited_for_later(trial: Trial) -> None:
    def slowly(kernel: Kernel) -> None:
        kernel.status = "RUNNING"

    trial.standin.run_kernel = slowly
    message = trial.fails(3, "--set", "kaggle.kernel_hours=0.0001")
    assert "has not ended in 0.0001 hours (running)" in message
    assert trial.state()["state"] == "pushed"
    leave(trial.standin.kernels[0])
    assert "Continuing with https://www.kaggle.com/code/alice/cats-default" in trial.succeeds()
    assert trial.pushes() == 1


def test_what_is_waited_for_is_what_was_pushed(trial: Trial) -> None:
    trial.standin.run_kernel = lambda kernel: None
    trial.fails(3, "--set", "kaggle.kernel_hours=0.0001")
    message = trial.fails(2, "--run", "default", "--set", "train.epochs=3")
    assert "was pushed with RECIPE=default and no SET" in message
    (trial.folder / "cats.toml").write_text(TOML + "[train]\nepochs = 3\n")
    leave(trial.standin.kernels[0])
    assert "has changed since" in trial.succeeds()


NAMES = ("../x", "/etc/x", "a/../../x", "C:x", "a\\x", "a//x", "a/./x", "x\n", "x" * 300)


@pytest.mark.parametrize("listed", [True, pytest.param(False, marks=pytest.mark.slow)])
def test_names_that_lead_elsewhere_are_refused(trial: Trial, listed: bool) -> None:
    def leave_bad(kernel: Kernel) -> None:
        leave(kernel, FILES | dict.fromkeys(NAMES, b"x"))
        for name in () if listed else NAMES:
            del kernel.outputs[name]

    trial.standin.run_kernel = leave_bad
    message = trial.fails(2)
    assert "names that lead out of its folder: '../x', '/etc/x', 'a/../../x', 'C:x', 'a\\\\x', …" in message
    assert len(trial.standin.calls("output")) == (0 if listed else len(trial.standin.calls("GetKernelSessionStatus")))
    assert not {path.name for path in trial.folder.rglob("*")} & {"x", "output", ".output.partial"}


FINAL = FILES["runs/cats/default/final.pt"]


@pytest.mark.parametrize(
    "fault",
    [
        Html(),
        Body(FINAL[:-1]),
        pytest.param(Status(404, "gone"), marks=pytest.mark.slow),
        pytest.param(Body(b'{"code": 403}', {"Content-Type": "application/json"}), marks=pytest.mark.slow),
        pytest.param(Body(bytes(len(FINAL))), marks=pytest.mark.slow),
    ],
)
def test_an_error_body_is_not_taken_for_a_file(trial: Trial, fault: Status | Html | Body) -> None:
    def leave_and_spoil(kernel: Kernel) -> None:
        leave(kernel)
        trial.standin.fault("output", Body(kernel.outputs["manifest.json"]), fault)

    trial.standin.run_kernel = leave_and_spoil
    message = trial.fails(3)
    assert (
        "404" in message
        or "The file runs/cats/default/final.pt from Kaggle is not the one that the run left" in message
    )
    assert not (trial.folder / FOLDER / "output").exists()
    trial.succeeds()
    assert trial.pushes() == 1


def test_a_damaged_manifest_is_asked_for_again(trial: Trial) -> None:
    trial.standin.fault("output", Body(b"<html>"), Body(b'{"run_id": 1}'))
    assert trial.succeeds().count("The file manifest.json from Kaggle is damaged.") == 2


def test_questions_that_are_not_answered_are_asked_again(trial: Trial) -> None:
    trial.standin.fault("GetKernelSessionStatus", Status(503), Html())
    trial.standin.fault("ListKernelSessionOutput", Status(429, "", {"Retry-After": "1"}))
    assert trial.succeeds().count("Asking again.") == 3


@pytest.mark.slow
@pytest.mark.parametrize("method", ["GetKernelSessionStatus", "ListKernelSessionOutput"])
def test_questions_that_are_never_answered(trial: Trial, method: str) -> None:
    trial.standin.fault(method, Status(503), Lost(), Html(), Status(503), times=None)
    assert "503" in trial.fails(3)
    trial.standin.fault(method)
    trial.succeeds()
    assert trial.pushes() == 1


@pytest.mark.slow
def test_a_kernel_that_was_removed_at_kaggle_is_pushed_again(trial: Trial, monkeypatch: pytest.MonkeyPatch) -> None:
    trial.standin.fault("GetKernelSessionStatus", Status(404), times=None)
    message = trial.fails(2)
    trial.standin.fault("GetKernelSessionStatus")
    monkeypatch.chdir(trial.folder)
    follow(message)
    trial.succeeds()
    assert trial.pushes() == 2


def test_a_push_whose_answer_is_lost_is_not_made_again(trial: Trial) -> None:
    trial.standin.fault("SaveKernel", Lost())
    trial.fails(3)
    assert trial.state()["state"] == "pushing"
    assert "It is unknown whether Kaggle received the last push" in trial.succeeds()
    assert trial.pushes() == 1


def test_a_push_that_did_not_arrive_is_made_again(trial: Trial) -> None:
    trial.standin.fault("SaveKernel", Status(503))
    trial.fails(3)
    trial.succeeds()
    assert len(trial.standin.kernels) == 1


def test_a_push_that_did_not_arrive_after_an_earlier_one_is_made_again(trial: Trial) -> None:
    trial.succeeds()
    for path in (RUN, FOLDER):
        shutil.rmtree(trial.folder / path)
    (trial.folder / SUBMISSION).unlink()
    trial.standin.fault("SaveKernel", Status(503))
    trial.fails(3)
    trial.change_state(pushed_at=time.time() - 100)  # after the grace period
    trial.succeeds()
    assert len(trial.standin.kernels) == 2


@pytest.mark.parametrize(
    "moment",
    ["running", pytest.param("Pushed", marks=pytest.mark.slow), pytest.param("Continuing", marks=pytest.mark.slow)],
)
def test_killed_at_any_time_it_goes_on(trial: Trial, moment: str) -> None:
    trial.standin.run_kernel = lambda kernel: setattr(kernel, "status", "RUNNING")
    if moment == "Continuing":
        trial.fails(3, "--set", "kaggle.kernel_hours=0.0001")
    with trial.start() as process:
        assert process.stdout is not None
        for line in process.stdout:
            if moment in line:
                process.send_signal(signal.SIGKILL)
                break
    leave(trial.standin.kernels[0])
    trial.succeeds()
    assert trial.pushes() == 1


def move_run(trial: Trial) -> None:
    (trial.folder / RUN).rename(trial.folder / FOLDER / "output" / RUN)


@pytest.mark.parametrize(
    "moved", ["run", pytest.param("neither", marks=pytest.mark.slow), pytest.param("both", marks=pytest.mark.slow)]
)
def test_killed_while_results_are_put_in_place_it_goes_on(trial: Trial, moved: str) -> None:
    trial.succeeds()
    output = trial.folder / FOLDER / "output"
    (output / RUN.parent).mkdir(parents=True)
    (output / SUBMISSION.parent).mkdir(parents=True)
    if moved == "neither":
        move_run(trial)
    if moved != "both":
        (trial.folder / SUBMISSION).rename(output / SUBMISSION)
    trial.change_state(state="pushed")
    requests = len(trial.standin.requests)
    trial.succeeds()
    assert len(trial.standin.requests) == requests


def test_a_damaged_state(trial: Trial) -> None:
    trial.succeeds()
    (trial.folder / FOLDER / "state.json").write_text("{")
    status, _, errors = trial.run()
    assert status == 2 and "runs/cats/default-kernel/state.json cannot be read" in errors


def test_results_that_are_missing(trial: Trial) -> None:
    def forget(kernel: Kernel) -> None:
        leave(kernel, {name: content for name, content in FILES.items() if "submissions/" not in name})

    trial.standin.run_kernel = forget
    assert "left no submissions/cats/default.csv" in trial.fails(2)


@pytest.mark.slow
def test_the_digits_run_on_the_standin(tmp_path: Path) -> None:
    """The stand-in mounts the data and executes the pushed script."""
    write_digits(tmp_path / "raw", tmp_path / "solution.csv")
    archive = Path(shutil.make_archive(str(tmp_path / "digits"), "zip", tmp_path / "raw"))
    toml = (COMPETITIONS / "digits.toml").read_text().replace('source = "digits"\n', "")
    (tmp_path / "digits.toml").write_text(toml)
    with Standin(tmp_path / "standin") as standin:
        standin.add("digits", archive, load_settings(str(tmp_path / "digits.toml")), tmp_path / "solution.csv")
        trial = Trial(tmp_path, standin)
        words = ("--run", "trial", "--set", "train.epochs=2", "hardware.device=cpu")
        status, printed, errors = trial.run(*words, competition="digits.toml")
        assert status == 0, printed + errors
        assert not standin.violations
    assert len((tmp_path / "submissions/digits/trial.csv").read_text().splitlines()) == 501
    run = tmp_path / "runs/digits/trial"
    note = json.loads((run / "predict.json").read_text())["trial.csv"]
    assert note["sha256"] == hashlib.sha256((tmp_path / "submissions/digits/trial.csv").read_bytes()).hexdigest()
    assert f"valid accuracy {json.loads((run / 'train.json').read_text())['score']:.4f}" in printed
    assert not (run / "last.pt").exists()
    assert "\npredict\n" in (tmp_path / "runs/digits/trial-kernel/log.txt").read_text()
