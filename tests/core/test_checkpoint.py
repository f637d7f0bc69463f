"""Checkpoints stand alone, are whole or absent, and run nobody's code."""

import os
import pickle
import resource
import shutil
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import nn

from pipelines.core.checkpoint import FORMAT, Checkpoint, finished, load, save
from pipelines.models.building import build_network
from pipelines.models.networks import build_model
from pipelines.models.transfer import learned_state
from pipelines.models.weights import find_origins, resolve
from pipelines.settings.loading import merge, with_input
from pipelines.settings.schema import PLAIN_INPUT, Settings
from pipelines.system.errors import UserError

CLASSES = ["a", "b", "c"]
NOWHERE = Path("there is no such folder")  # of pretrained weights
SETTINGS = merge(Settings("tiny", "quick"), {"model": {"widths": [8]}, "train": {"epochs": 2}}, "here")


def small(**changes: Any) -> Checkpoint:
    torch.manual_seed(0)
    model = build_model(SETTINGS.model, 3)
    history = [{"epoch": 1, "train_loss": 0.1 + 0.2, "accuracy": 1 / 3}, {"epoch": 2, "train_loss": 0.1}]
    training = {"optimizer": torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9).state_dict()}
    return replace(Checkpoint(SETTINGS, CLASSES, model.state_dict(), 2, 2 / 3, history, training), **changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "run").mkdir()
    return tmp_path / "run" / "best.pt"


def test_everything_comes_back_to_the_last_digit(path: Path) -> None:
    saved = small()
    save(path, saved)
    loaded = load(path)
    assert replace(loaded, weights={}) == replace(saved, weights={})
    assert list(loaded.weights) == list(saved.weights)
    assert all(torch.equal(loaded.weights[name], value) for name, value in saved.weights.items())
    assert [entry.name for entry in path.parent.iterdir()] == ["best.pt"]


@pytest.mark.parametrize("room", [0, 43_000, 500_000])
def test_a_disk_that_fills_up_in_the_middle_is_an_os_error(path: Path, room: int) -> None:
    """torch adds a RuntimeError about the position in the file, which would be taken for a mistake of ours."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, before[1]))  # a larger file cannot be written
    try:
        with pytest.raises(OSError, match="File too large"):
            save(path, small(weights={"a": torch.zeros(10_000), "b": torch.zeros(1_000_000)}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert not list(path.parent.iterdir())


def test_the_network_comes_back_without_any_other_file(path: Path) -> None:
    images = torch.rand(4, 3, 8, 8)
    model = build_model(SETTINGS.model, 3).eval()
    save(path, small(weights=model.state_dict()))
    assert torch.equal(load(path).model(CLASSES, NOWHERE).eval()(images), model(images))


def fine_tuned(weights: Path, head_only: bool) -> tuple[Checkpoint, nn.Module]:
    """A checkpoint of a fine-tuned network, whose head alone may be in it, and that network."""
    overrides = {"model": {"name": "shufflenet_v2_x0_5", "weights": str(weights)}, "input": {"size": 8}}
    settings = with_input(merge(SETTINGS, overrides, "here"), **PLAIN_INPUT)
    found = find_origins(settings.model, NOWHERE)
    settings = resolve(settings, found)
    model = build_network(settings, CLASSES, found).eval()
    nn.init.normal_(model.get_parameter("top.head.0.weight"))  # as if it had learned
    return small(settings=settings, weights=learned_state(model, head_only)), model


@pytest.mark.parametrize("head_only", [True, False])
def test_a_fine_tuned_network_comes_back(path: Path, small_weights: Path, tmp_path: Path, head_only: bool) -> None:
    weights = Path(shutil.copy(small_weights, tmp_path))
    saved, model = fine_tuned(weights, head_only)
    save(path, saved)
    assert (path.stat().st_size < 100_000) is load(path).head_only is head_only
    if not head_only:
        weights.unlink()  # all is in the checkpoint
    images = torch.rand(4, 3, 8, 8)
    assert torch.equal(load(path).model(CLASSES, NOWHERE).eval()(images), model(images))


@pytest.mark.parametrize("damage", ["missing", "another"])
def test_a_head_is_not_put_on_other_weights(path: Path, small_weights: Path, tmp_path: Path, damage: str) -> None:
    weights = Path(shutil.copy(small_weights, tmp_path))
    save(path, fine_tuned(weights, head_only=True)[0])
    if damage == "missing":
        weights.unlink()
    else:
        state = torch.load(weights, weights_only=True)
        torch.save(state | {"fc.bias": state["fc.bias"] + 1}, weights)
    with pytest.raises(UserError, match=r"small\.pth"):
        load(path).model(CLASSES, NOWHERE)


def test_a_plain_networks_checkpoint_is_no_head() -> None:
    assert not small().head_only


def test_a_finished_checkpoint_keeps_all_but_what_training_needs() -> None:
    saved = small()
    done = finished(saved)
    assert done.training == {}
    assert replace(done, training=saved.training) == saved
    assert saved.training


@pytest.mark.parametrize(
    ("classes", "words"),
    [
        (["a", "b"], r"3 classes.*now has 2.*gone \['c'\]"),
        (["a", "b", "d"], r"new \['d'\], gone \['c'\]"),
        (["a", "c", "b"], "another order"),
        ([], "now has 0"),
    ],
)
def test_other_classes_or_another_order_are_refused(classes: list[str], words: str) -> None:
    with pytest.raises(UserError, match=words):
        small().model(classes, NOWHERE)


def test_a_missing_file_is_named(path: Path) -> None:
    with pytest.raises(UserError, match=r"no checkpoint .*best\.pt"):
        load(path)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.9, 0.999])
def test_a_truncated_file_is_refused(path: Path, share: float) -> None:
    save(path, small())
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UserError, match=r"best\.pt cannot be read as a checkpoint.*Remove the whole run"):
        load(path)


@pytest.mark.parametrize("content", [b"a text", b"PK\x03\x04", b"\x00" * 1000, pickle.dumps({"format": FORMAT})])
def test_a_file_of_another_kind_is_refused(path: Path, content: bytes) -> None:
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"best\.pt"):
        load(path)


class Hostile:
    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


@pytest.mark.parametrize("by_torch", [True, False])
def test_code_in_a_checkpoint_is_not_run(path: Path, tmp_path: Path, by_torch: bool) -> None:
    content = {"format": FORMAT, "weights": Hostile(f"touch {tmp_path / 'hacked'}")}
    if by_torch:
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    with pytest.raises(UserError, match=r"best\.pt cannot be read as a checkpoint"):
        load(path)
    assert not (tmp_path / "hacked").exists()


@pytest.mark.parametrize(
    "content",
    [
        {"format": FORMAT - 1},
        {"format": FORMAT},
        {},
        {"format": FORMAT, "settings": {}, "surprise": 1},
        [1],
        3,
        torch.zeros(2),
    ],
    ids=str,
)
def test_what_torch_can_read_but_is_not_ours_is_refused(path: Path, content: Any) -> None:
    torch.save(content, path)
    with pytest.raises(UserError, match=r"best\.pt is not a checkpoint of this project"):
        load(path)


def test_settings_that_no_longer_exist_are_named_with_the_file(path: Path) -> None:
    save(path, small())
    content = torch.load(path, weights_only=True)
    content["settings"]["train"]["speed"] = 1
    torch.save(content, path)
    with pytest.raises(UserError, match=r"best\.pt: unknown key train\.speed"):
        load(path)


def test_a_save_that_fails_leaves_the_older_checkpoint(path: Path) -> None:
    save(path, small())
    with pytest.raises(Exception, match="lambda"):
        save(path, small(epoch=3, training={"function": lambda: None}))
    assert load(path).epoch == 2
    assert [entry.name for entry in path.parent.iterdir()] == ["best.pt"]


def test_an_interrupt_while_saving_stays_one_and_leaves_a_whole_checkpoint(path: Path) -> None:
    """Amid its writing, torch would answer with an error of its own in one of six times."""
    saved, random = small(weights={str(number): torch.rand(300) for number in range(40)}), Random(0)
    for _ in range(20):
        interrupt = threading.Timer(random.uniform(0, 0.01), os.kill, (os.getpid(), signal.SIGINT))
        with pytest.raises(KeyboardInterrupt):
            interrupt.start()
            for _ in range(10_000):  # never so many: the timer ends it
                save(path, saved)
    assert load(path).epoch == 2
    assert [entry.name for entry in path.parent.iterdir()] == ["best.pt"]


INTERRUPTED = """
import signal, sys
from pathlib import Path
import torch
from pipelines.core.checkpoint import Checkpoint, save
from pipelines.settings.schema import Settings

def interrupt(frame, event, argument):
    if frame.f_code.co_name == "__exit__" and frame.f_code.co_filename == torch.serialization.__file__:
        sys.settrace(None)
        signal.raise_signal(signal.SIGINT)

sys.settrace(interrupt)
try:
    save(Path("best.pt"), Checkpoint(Settings("tiny", "quick"), ["a"], {"0": torch.rand(9)}, 1))
except KeyboardInterrupt:
    print("interrupted")
"""


def test_an_interrupt_as_a_file_is_ended_does_not_abort_the_process(path: Path) -> None:
    """Torch would end it later, in a destructor, when the file is closed: with SIGABRT."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2])}
    program = [sys.executable, "-c", INTERRUPTED]
    done = subprocess.run(program, cwd=path.parent, env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "interrupted\n", "")
    assert load(path).epoch == 1
