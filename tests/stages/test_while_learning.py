"""What a person sees of a training while it runs: the bar of an epoch, the curves, and the files for TensorBoard."""

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from pathlib import Path

import pandas as pd
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from pipelines import command, download, predict, retrain, split, train
from tests.support.starter import KILLED, REPOSITORY, Starter
from tests.support.tiny import Tiny

STAGES = {"download": download, "split": split, "train": train, "retrain": retrain, "predict": predict}
EVENTS = "train.tensorboard=true"


def run(stage: str, *words: str) -> int:
    return command.run(STAGES[stage].main, words)


@pytest.fixture
def divided(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    monkeypatch.chdir(tiny.layout.root)
    assert run("split", "tiny.toml") == 0
    return tiny


def in_terminal(words: list[str], columns: int, *streams: str) -> tuple[str, str]:
    """Run Python with `words`, these `streams` in a terminal; return what the terminal got, and stdout else."""
    main, side = pty.openpty()
    fcntl.ioctl(side, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    # Each step is shown, however fast it is.
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY), "TQDM_MININTERVAL": "0", "TQDM_MINITERS": "1"}
    variables.pop("COLUMNS", None)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL} | dict.fromkeys(streams, side)
    with subprocess.Popen([sys.executable, *words], env=variables, text=True, **pipes) as process:  # type: ignore[call-overload]
        os.close(side)
        got = b""
        while True:
            try:
                got += os.read(main, 65536)
            except OSError:  # the last process that had the terminal open has ended
                break
        os.close(main)
        printed = process.stdout.read() if process.stdout else ""
    assert process.returncode == 0, got
    return got.decode(), printed


def test_the_bar_of_an_epoch_shows_loss_and_speed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert run("download", "digits") == 0
    assert run("split", "digits") == 0
    settings = ["train.epochs=2", "train.batch_size=18", "hardware.precision=float32"]  # 58 steps: one reading, the end
    words = ["-m", "pipelines.train", "digits", "--run", "bar", "--set", *settings]
    shown, printed = in_terminal(words, 80, "stderr")
    bars = re.split(r"[\r\n]+", shown)
    assert all(len(bar) <= 80 for bar in bars)
    first = [bar for bar in bars if bar.startswith("epoch 1:")]
    assert re.search(r" 10/58 \[.*, [\d,]+ images/s\]", "\n".join(first)) and "loss" not in first[10]
    history = pd.read_csv("runs/digits/bar/history.csv")
    assert re.search(r" 50/58 \[.*, loss \d\.\d{4}, [\d,]+ images/s\]", "\n".join(first))
    assert f"loss {history['train_loss'][0]:.4f}, " in first[-1]
    assert f"loss {history['train_loss'][0]:.4f} in epoch 1, " in "\n".join(bars)
    assert any(bar.startswith("validating:") for bar in bars)
    assert "images/s]" not in printed and "1/2" in printed


def test_the_screen_is_as_wide_as_the_terminal() -> None:
    code = "from pipelines.system.screen import screen_width; print(screen_width())"
    assert in_terminal(["-c", code], 57, "stdout") == ("57\r\n", "")
    assert in_terminal(["-c", code], 57) == ("", "80\n")


def test_the_curves_are_there_while_a_training_still_runs(divided: Tiny, starter: Starter) -> None:
    run_files = divided.layout.run("long")
    stage = starter.start(divided.layout.root, "train", "tiny.toml", "--run", "long", "--set", "train.epochs=100000")
    stage.wait_for(run_files.curves)
    assert not run_files.trained.exists()
    assert stage.end(seconds=0.01).status == KILLED


def scalars(folder: Path) -> pd.DataFrame:
    """Return the scalars of the event files in `folder`, a column each, and the steps; a step that is there twice
    fails."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0})
    found.Reload()
    columns = {
        name: pd.Series([event.value for event in events], index=[event.step for event in events])
        for name in found.Tags()["scalars"]
        if (events := found.Scalars(name))
    }
    return pd.DataFrame(columns).reset_index(names="epoch")


def compare(folder: Path, history: Path) -> None:
    expected = pd.read_csv(history)
    pd.testing.assert_frame_equal(scalars(folder)[list(expected)], expected, check_dtype=False, rtol=1e-5)


def test_event_files_hold_each_epoch_once_also_after_a_kill(divided: Tiny, starter: Starter) -> None:
    words = ["tiny.toml", "--set", "train.epochs=8", EVENTS]
    root = divided.layout.root
    whole = [starter.run(root, "train", *words, "--run", name).changes for name in ("first", "whole")][1]
    for name, change in (("early", whole // 2), ("late", whole * 3 // 4)):
        files, named = divided.layout.run(name), [*words, "--run", name]
        assert starter.run(root, "train", *named, change=change).status == KILLED
        assert 0 < len(pd.read_csv(files.history)) < 8
        assert run("train", *named) == 0
        compare(files.events / "train", files.history)
    assert run("retrain", *named) == 0
    compare(files.events / "retrain", files.retrain_history)
    compare(files.events / "train", files.history)


def test_a_run_does_not_depend_on_its_event_files(divided: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    files = divided.layout.run("default")
    assert run("train", "tiny.toml") == 0
    weights = files.best.read_bytes()
    assert not files.events.exists()
    assert run("train", "tiny.toml", "--set", EVENTS) == 0
    assert "Already trained" in capsys.readouterr().out
    assert run("retrain", "tiny.toml", "--set", EVENTS) == 0
    compare(files.events / "retrain", files.retrain_history)
    assert files.best.read_bytes() == weights


@pytest.mark.parametrize("module", ["pipelines.train", "pipelines.tools.folds"])
def test_a_missing_package_is_told_before_any_work(divided: Tiny, module: str) -> None:
    words = ["tiny.toml", "--set", EVENTS]
    code = f"""
import sys
sys.modules["tensorboard"] = None  # as if it were not installed
from importlib import import_module
from pipelines import command
sys.exit(command.run(import_module("{module}").main, {words}))
"""
    variables = os.environ | {"PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run([sys.executable, "-c", code], env=variables, capture_output=True, text=True)
    assert done.returncode == 2 and done.stdout == ""
    assert "train.tensorboard is true" in done.stderr and done.stderr.endswith(" -m pip install tensorboard\n")
    assert not divided.layout.runs_folder.exists()


def test_each_stage_says_what_to_look_at(divided: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    said = {}
    for stage in ("train", "retrain", "predict"):
        assert run(stage, "tiny.toml") == 0
        said[stage] = [line for line in capsys.readouterr().out.splitlines() if line.startswith("Look at: ")]
    folder = "runs/tiny/default"
    assert said == {
        "train": [f"Look at: {folder}/curves.png"],
        "retrain": [f"Look at: {folder}/retrain_history.csv"],
        "predict": [f"Look at: {folder}/mistakes.png, {folder}/confusion.png"],
    }
