"""Stages in several processes: from the command to the submission, interrupted, killed and refused."""

import contextlib
import json
import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pandas as pd
import pytest
import torch

from pipelines import command, split, train
from pipelines.dataset.loading import Loading
from pipelines.settings.schema import Settings
from pipelines.system.group import EXIT_AFTER_ANOTHER, Group
from pipelines.tools import launch
from tests.support.groups import Running, check_gone
from tests.support.launches import (
    EPOCHS,
    LONG,
    RUN,
    Ended,
    check_partial,
    end,
    epochs_of,
    results,
    split_tiny,
    start,
    wait_for_epochs,
)
from tests.support.small_boxes import make_small_boxes
from tests.support.stages import run_stage_here

STOPPED = {signal.SIGTERM: (143, "\nStopped by SIGTERM."), signal.SIGINT: (130, "\nInterrupted.")}
AGAIN = " Run the same command again to continue.\n"


@pytest.fixture(scope="module")
def fresh(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder before the training."""
    folder: Path = tmp_path_factory.mktemp("fresh")
    split_tiny(folder)
    return folder


@pytest.fixture
def work(fresh: Path, tmp_path: Path) -> Path:
    shutil.copytree(fresh, tmp_path, dirs_exist_ok=True)
    return tmp_path


class Whole(NamedTuple):
    """A working folder after all stages in two processes, and what each printed."""

    folder: Path
    said: dict[str, Ended]


@pytest.fixture(scope="module")
def whole(fresh: Path, tmp_path_factory: pytest.TempPathFactory) -> Whole:
    folder = tmp_path_factory.mktemp("whole")
    shutil.copytree(fresh, folder, dirs_exist_ok=True)
    return Whole(folder, {stage: end(start(folder, stage, "tiny.toml")) for stage in ("train", "retrain", "predict")})


def test_all_stages_in_two_processes(whole: Whole) -> None:
    for stage, ended in whole.said.items():
        assert ended.status == 0, (stage, ended.err)
        assert "error:" not in ended.err and "Traceback" not in ended.err and "Warning" not in ended.err
    said = {stage: ended.out for stage, ended in whole.said.items()}
    assert "2 processes, each: " in said["train"] and " thread" in said["train"]
    assert "Next: make retrain COMP=tiny.toml NPROC=2\n" in said["train"]
    assert "Next: make predict COMP=tiny.toml NPROC=2\n" in said["retrain"]
    assert "Next: make submit COMP=tiny.toml\n" in said["predict"]
    note = json.loads((whole.folder / RUN / "train.json").read_text())
    assert note["hardware"]["processes"] == 2
    assert note["epochs"] == EPOCHS
    sample = pd.read_csv(whole.folder / "data/tiny/raw/sample.csv")
    sent = pd.read_csv(whole.folder / "submissions/tiny/default.csv")
    assert sent["id"].tolist() == sample["id"].tolist()
    assert "checked against sample.csv" in said["predict"]


def test_boxes_in_two_processes(tmp_path: Path) -> None:
    make_small_boxes(tmp_path)
    for stage, words in (("download", ["--archive", "boxes.zip"]), ("split", [])):
        assert run_stage_here(stage, ["boxes.toml", *words], tmp_path) == 0
    for stage in ("train", "retrain", "predict"):
        ended = end(start(tmp_path, stage, "boxes.toml"))
        assert ended.status == 0, (stage, ended.err)
        assert "error:" not in ended.err and "Traceback" not in ended.err
    assert json.loads((tmp_path / "runs/boxes/default/train.json").read_text())["hardware"]["processes"] == 2
    sample = pd.read_csv(tmp_path / "data/boxes/raw/sample_submission.csv")
    sent = pd.read_csv(tmp_path / "submissions/boxes/default.csv")
    assert sent.columns.tolist() == sample.columns.tolist() and sent["img_name"].tolist() == sample["img_name"].tolist()


def test_stopped_and_killed_in_turn_it_ends_with_the_same_bytes(whole: Whole, work: Path) -> None:
    """By SIGTERM to the launcher, by Ctrl-C, and by the end of one process."""
    for number, (status, message) in STOPPED.items():
        running = start(work, "train", "tiny.toml")
        wait_for_epochs(running, work, epochs_of(work) + 2)
        with running.holding(1):
            members = running.members().values()
            if number == signal.SIGINT:
                os.killpg(running.process.pid, number)
            else:
                running.process.send_signal(number)
        ended = end(running)
        assert ended.status == status, ended.err
        assert ended.err == message + AGAIN
        check_gone(members)
        check_partial(work)
    shutil.copytree(work, work / "alone", ignore=shutil.ignore_patterns("alone"))

    running = start(work, "train", "tiny.toml")
    wait_for_epochs(running, work, epochs_of(work) + 2)
    members = running.members().values()
    os.kill(running.members()[1], signal.SIGKILL)
    ended = end(running)
    assert ended.status == 128 + signal.SIGKILL
    assert ended.err.startswith("error: Process 2 of 2 was killed (SIGKILL)") and ended.err.count("\n") == 1
    assert ended.err.endswith(AGAIN)
    check_gone(members)
    check_partial(work)

    ended = end(start(work, "train", "tiny.toml"))
    assert ended.status == 0, ended.err
    assert results(work) == results(whole.folder)

    with contextlib.chdir(work / "alone"):  # one process continues what two began
        assert command.run(train.main, ["tiny.toml"]) == 0
    assert epochs_of(work / "alone") == EPOCHS


def test_an_unknown_setting_gives_one_message(work: Path) -> None:
    ended = end(start(work, "train", "tiny.toml", "--set", "train.speed=3"))
    assert ended.status == 2
    assert ended.err.count("error:") == 1 and "train.speed" in ended.err and "Traceback" not in ended.err
    assert not ended.out


def test_a_damaged_image_found_by_another_process_gives_one_message(tmp_path: Path) -> None:
    tiny = split_tiny(tmp_path, LONG.replace("[input]", '[input]\nsource = "photos"'))
    with contextlib.chdir(tmp_path):
        settings = tiny.settings()
    table = pd.read_csv(tmp_path / "data/tiny/split.csv")
    images = table[table["split"] == "train"]
    running = start(tmp_path, "train", "tiny.toml")
    wait_for_epochs(running, tmp_path, 2)
    with holding_all(running):
        mine = next_of_second(settings, len(images), epochs_of(tmp_path))
        (tmp_path / "data/tiny/raw" / images["path"].iloc[mine]).write_bytes(b"damaged")
    ended = end(running)
    assert ended.status == 2, ended.err
    assert ended.err.count("error:") == 1 and "Traceback" not in ended.err
    assert Path(images["path"].iloc[mine]).name in ended.err


@contextlib.contextmanager
def holding_all(running: Running) -> Iterator[None]:
    """Stop both processes during the block."""
    pids = running.members().values()
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    yield
    for pid in pids:
        os.kill(pid, signal.SIGCONT)


def next_of_second(settings: Settings, count: int, epoch: int) -> int:
    """Return an image that the second process has in both epochs after `epoch`, so that it opens it next."""
    loading = Loading(settings, count, torch.device("cpu"), True, Group(1, 2))
    taken = [
        {place for part in loading.divide(count, each) for place in part.taken.tolist()}
        for each in (epoch + 1, epoch + 2)
    ]
    return int(min(taken[0] & taken[1]))


@pytest.mark.parametrize("given", ["0", "two", "-1", "1.5", ""])
def test_what_is_no_number_of_processes_is_refused(given: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stopped:
        command.run(launch.main, [given, "train", "digits"])
    assert stopped.value.code == 2
    assert f"NPROC={given} is no number of processes. Write 1 or more, or gpu" in capsys.readouterr().err


def test_a_process_for_each_gpu_needs_a_gpu(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert command.run(launch.main, ["gpu", "train", "digits"]) == 2
    assert capsys.readouterr().err.startswith("error: NPROC=gpu starts a process for each GPU, and torch finds none.")


def test_other_stages_are_no_choice(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.run(launch.main, ["2", "split", "digits"])
    assert "invalid choice: 'split'" in capsys.readouterr().err


def test_other_stages_below_torchrun_are_refused_once(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {"WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "1", "RANK": "0"}.items():
        monkeypatch.setenv(name, value)
    assert command.run(split.main, ["digits"]) == 2
    assert "This is done by one process: call it without torchrun." in capsys.readouterr().err
    monkeypatch.setenv("RANK", "1")
    with pytest.raises(SystemExit) as ended:
        command.run(split.main, ["digits"])
    assert ended.value.code == 0
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("exits", "status", "said"),  # by the number of the process: its status, or this and the second when it ended
    [
        ({0: 2}, 2, ""),
        ({0: (-signal.SIGKILL, 31), 1: (2, 1)}, 2, ""),  # the launcher killed it, because it did not end
        ({0: (143, 5), 1: (-signal.SIGKILL, 5)}, 137, "Process 2 of 3 was killed (SIGKILL)"),
        ({0: 1, 1: EXIT_AFTER_ANOTHER}, 1, ""),
        ({1: EXIT_AFTER_ANOTHER}, 2, ""),
        ({0: -signal.SIGTERM, 1: EXIT_AFTER_ANOTHER}, 2, ""),
        ({0: -signal.SIGTERM, 1: 1}, 1, ""),
        ({0: 2, 1: -signal.SIGKILL}, 137, "Process 2 of 3 was killed (SIGKILL), most likely because memory ran out"),
        ({0: -signal.SIGTERM, 2: -signal.SIGSEGV}, 139, "Process 3 of 3 was killed (SIGSEGV), so all have ended."),
    ],
)
def test_status_of_the_launcher(
    exits: dict[int, int | tuple[int, int]], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    ends = {rank: end if isinstance(end, tuple) else (end, 0) for rank, end in exits.items()}
    assert launch._status([launch.Exit(second, rank, code) for rank, (code, second) in ends.items()], 3) == status
    err = capsys.readouterr().err
    assert said in err and err.count("\n") == bool(said)


def test_one_process_is_the_stage_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[list[str]] = []
    monkeypatch.setattr(os, "execv", lambda path, words: calls.append(words))
    monkeypatch.setattr(launch, "_launch", lambda count, call: 0)
    command.run(launch.main, ["1", "train", "digits", "--run", "x"])
    assert calls[0][1:] == ["-m", "pipelines.train", "digits", "--run", "x"]
