"""A shortage of memory, on the machine, a GPU, in /dev/shm or in a worker process, ends with a message that helps."""

import dataclasses
import gc
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch

from pipelines import command
from pipelines import split as split_stage
from pipelines.core import engine
from pipelines.core.checkpoint import load
from pipelines.core.tasks import make_task
from pipelines.dataset.batches import open_source
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.loading import Loading
from pipelines.dataset.photos import PhotoBatches
from pipelines.dataset.splits import read_split_csv
from pipelines.models.device import choose_hardware
from pipelines.settings.loading import run_name
from pipelines.system import processes
from pipelines.system.errors import UserError
from pipelines.system.memory import explained, smaller_batch, without_cycles
from tests.support.tiny import Tiny

ROOT = Path(__file__).parents[2]
PHOTOS = "input.source=photos"
LINUX = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
SEARCH = {"PYTHONPATH": str(ROOT), "MALLOC_ARENA_MAX": "1"}  # arenas reserve memory that they never use
# A program that runs the Python line `prepare`, then `main` as a stage.
SCRIPT = """
import multiprocessing, resource, sys
from pipelines import command
{imports}

def limit(spare):
    import {heavy}
    (size,) = (int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmSize"))
    resource.setrlimit(resource.RLIMIT_AS, (size * 1024 + spare, -1))

if __name__ == "__main__":
    {prepare}
    sys.exit(command.run({main}))
"""
# The training of the stage `train` alone: without its plots and tables the process starts in half the time.
FIT = """
from pathlib import Path
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.layout import Layout
from tests.support.tiny import CLASSES, Tiny

def fit(_):
    tiny = Tiny(Path(sys.argv[1]), Layout(Path.cwd(), "tiny"), read_split_csv(Path("data/tiny/split.csv")), CLASSES)
    list(tiny.run(tiny.job(*sys.argv[3:])))
"""


@pytest.fixture
def split(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> Tiny:
    """The tiny competition, split by the stage."""
    monkeypatch.chdir(tiny.layout.root)
    assert command.run(split_stage.main, [str(tiny.toml)]) == 0
    return dataclasses.replace(tiny, table=read_split_csv(tiny.layout.split_csv))


def start(tiny: Tiny, stage: str, *settings: str, prepare: str = "pass", before: str = "") -> subprocess.Popen[str]:
    """Start `stage`, or `fit`, in a new process; before: a shell command that runs first, with its own mounts."""
    script = tiny.layout.root / f"{stage}_script.py"
    if stage == "fit":
        content = SCRIPT.format(imports=FIT, heavy="torch, pandas", prepare=prepare, main="fit")
    else:
        heavy = "torch, pandas, torchvision, matplotlib.pyplot, torch._dynamo"
        imports = f"from pipelines import {stage}"
        content = SCRIPT.format(imports=imports, heavy=heavy, prepare=prepare, main=f"{stage}.main")
    script.write_text(content)
    command = [sys.executable, str(script), str(tiny.toml), *(["--set", *settings] if settings else [])]
    if before:
        command = ["unshare", "--mount", "sh", "-c", f'{before} && exec "$@"', "sh", *command]
    environment = os.environ | SEARCH
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=tiny.layout.root, env=environment, stdout=pipe, stderr=pipe, text=True)


def run(tiny: Tiny, stage: str, *settings: str, prepare: str = "pass", before: str = "") -> tuple[int, str, str]:
    """Return the exit status, stdout and stderr of `stage`."""
    with start(tiny, stage, *settings, prepare=prepare, before=before) as process:
        try:
            output, errors = process.communicate(timeout=120)
        finally:
            process.kill()
    return process.returncode, output, errors


def children(process: int) -> list[int]:
    return [int(each) for each in Path(f"/proc/{process}/task/{process}/children").read_text().split()]


def alive(process: int) -> bool:
    status = Path(f"/proc/{process}/stat")
    return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"


@LINUX
@pytest.mark.parametrize(
    ("number", "name"),
    [
        (signal.SIGKILL, "Killed"),
        pytest.param(signal.SIGSEGV, "Segmentation fault", marks=pytest.mark.slow),
    ],
)
def test_a_worker_that_dies_ends_the_training_in_one_line_and_the_next_goes_on(
    split: Tiny, number: signal.Signals, name: str
) -> None:
    settings = (PHOTOS, "train.epochs=2000")
    with start(split, "train", *settings, "hardware.workers=2") as process:
        assert process.stdout is not None
        while not process.stdout.readline().lstrip().startswith("3/2000"):
            assert process.poll() is None, process.communicate()
        workers = children(process.pid)
        os.kill(workers[0], number)
        killed = time.monotonic()
        _, errors = process.communicate(timeout=60)
    assert process.returncode == 2, errors
    # After a segmentation fault torch's worker prints a line of its own.
    errors = errors.removeprefix("ERROR: Unexpected segmentation fault encountered in worker.\n\0")
    assert errors.startswith("error: ") and errors.count("\n") == 1
    assert f"Process {workers[0]}, which decoded images, was killed ({name})" in errors
    assert "hardware.workers" in errors and "batch_size=" in errors
    assert not any(map(alive, workers))
    assert time.monotonic() - killed < 15
    job = split.job(*settings, "hardware.workers=0", run=run_name("default", settings))
    assert next(iter(split.run(job)))["epoch"] > 3


def small_memory(size: str) -> str:
    """Return the shell command that limits /dev/shm to `size`; skip the test if that is not allowed."""
    line = f"mount -t tmpfs -o size={size} tmpfs /dev/shm"
    if (
        not shutil.which("unshare")
        or subprocess.run(["unshare", "--mount", "sh", "-c", line], capture_output=True).returncode
    ):
        pytest.skip("this account cannot mount a small /dev/shm")
    return line


@LINUX
def test_batches_need_no_shared_memory(split: Tiny) -> None:
    sizes = ("input.size=256", "train.batch_size=22", "train.epochs=1")  # a batch takes 4.3 MB
    found = run(split, "fit", PHOTOS, *sizes, "hardware.workers=2", before=small_memory("2m"))
    assert found[0] == 0, found
    assert not found[2]


@LINUX
def test_full_shared_memory_is_named_with_its_size_and_what_to_do(split: Tiny) -> None:
    fill = "; cat /dev/zero >/dev/shm/full 2>/dev/null; true"
    status, _, errors = run(split, "fit", PHOTOS, "hardware.workers=2", before=small_memory("64k") + fill)
    assert status == 2 and errors.count("\n") == 1, errors
    assert "/dev/shm" in errors and "0.0 of 0.1 MB free" in errors
    assert "--shm-size=2g" in errors and "hardware.workers=0" in errors


@LINUX
@pytest.mark.slow
@pytest.mark.parametrize("method", ["spawn", "forkserver"])
def test_every_way_to_start_workers_gives_the_same_weights(split: Tiny, method: str) -> None:
    varied = (PHOTOS, "train.epochs=2", "augment.crop_scale=[0.4, 1.0]")
    weights = []
    for start_method, workers in (("fork", 0), ("fork", 1), (method, 1)):
        prepare = f"multiprocessing.set_start_method({start_method!r})"
        status, _, errors = run(split, "train", *varied, f"hardware.workers={workers}", prepare=prepare)
        assert status == 0 and not errors, errors
        (folder,) = (path for path in (split.layout.root / "runs/tiny").iterdir() if path.is_dir())
        weights.append(load(folder / "last.pt").weights)
        shutil.rmtree(folder)
    for other in weights[1:]:
        assert all(torch.equal(other[name], value) for name, value in weights[0].items())


@LINUX
def test_too_large_a_batch_of_training_is_named_with_a_smaller_one(split: Tiny) -> None:
    large = ("input.size=512", "model.widths=[64, 64]", "train.batch_size=18")  # a layer's output takes 1.2 GB
    status, _, errors = run(split, "fit", *large, prepare="limit(900_000_000)")
    assert status == 2 and errors.count("\n") == 1, errors
    assert "training on batches of 11 images" in errors and "Set train.batch_size=5, perhaps with half" in errors


@LINUX
@pytest.mark.slow
def test_too_large_a_batch_of_prediction_is_named_with_a_smaller_one(split: Tiny) -> None:
    same = ("input.size=512", "train.epochs=1", "train.batch_size=2")
    assert [run(split, stage, *same)[0] for stage in ("train", "retrain")] == [0, 0]
    status, _, errors = run(split, "predict", *same, "predict.batch_size=12", prepare="limit(60_000_000)")
    assert status == 2 and errors.count("\n") == 1, errors
    assert "predicting batches of 2 images" in errors and "Set predict.batch_size=1." in errors


@pytest.mark.parametrize(
    ("key", "size", "expected"),
    [
        ("train.batch_size", 256, "Set train.batch_size=128, perhaps with half the train.lr."),
        ("train.batch_size", 3, "Choose a smaller input.size or model.name."),
        ("predict.batch_size", 3, "Set predict.batch_size=1."),
        ("predict.batch_size", 1, "Choose a smaller input.size or model.name."),
    ],
)
def test_the_advice_is_half_the_batch_while_that_is_possible(key: str, size: int, expected: str) -> None:
    assert smaller_batch(key, size) == expected


@pytest.mark.parametrize("error", [RuntimeError("a shape"), OSError(28, "No space left on device"), KeyError("x")])
def test_other_errors_stay_unchanged(error: Exception) -> None:
    with pytest.raises(type(error)) as caught, explained("this"):
        raise error
    assert caught.value is error


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError(
            "CUDA out of memory. Tried to allocate 2.25 GiB. GPU 0 has a total capacity of 139.80 GiB"
        ),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
        RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
        RuntimeError("CUDA error: out of memory\nCUDA kernel errors might be reported asynchronously"),
    ],
)
def test_errors_of_a_full_gpu_name_a_smaller_batch(error: Exception) -> None:
    with pytest.raises(UserError) as caught, explained("batches of 8 images", smaller_batch("train.batch_size", 8)):
        raise error
    message = str(caught.value)
    assert message.startswith(
        f"Memory does not suffice for batches of 8 images ({str(error).splitlines()[0].rstrip('. ')}"
    )
    assert "Set train.batch_size=4" in message and "\n" not in message


@pytest.fixture
def small_gpu() -> Iterator[None]:
    torch.cuda.set_per_process_memory_fraction(0.005)
    yield None
    torch.cuda.set_per_process_memory_fraction(1.0)
    torch.cuda.empty_cache()


@pytest.mark.gpu
@pytest.mark.parametrize("source", ["packed", "photos"])
def test_a_full_gpu_in_training_names_a_smaller_batch(tiny: Tiny, small_gpu: None, source: str) -> None:
    job = tiny.job(
        *(f"input.source={source}", "hardware.device=cuda", "input.size=512", "model.widths=[256, 256]"),
        *("train.batch_size=18", "hardware.workers=1"),
    )
    with pytest.raises(UserError, match=r"batches of 18 images \(CUDA out of memory.*Set train\.batch_size=9, perhaps"):
        list(tiny.run(job))


@pytest.mark.gpu
def test_a_full_gpu_in_prediction_names_a_smaller_batch(tiny: Tiny, small_gpu: None) -> None:
    settings = tiny.settings(
        "hardware.device=cuda", "input.size=512", "model.widths=[512, 512]", "predict.batch_size=12"
    )
    hardware = choose_hardware(settings.hardware)
    source = open_source(settings, tiny.part("test"), hardware.device)
    network = tiny.network(settings).to(hardware.device)
    with pytest.raises(UserError, match=r"batches of 12 images \(CUDA out of memory.*Set predict\.batch_size=6"):
        list(engine.infer(network, source, make_task(settings, tiny.classes, {}), hardware))


def private_memory(process: int) -> int:
    """Return the bytes of memory that a process shares with no other."""
    lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
    return 1024 * sum(int(line.split()[1]) for line in lines if line.startswith("Private_"))


def memory_of_workers(tiny: Tiny, count: int) -> list[int]:
    """Return the largest private memory of the workers, in bytes, after each of 3 epochs of `count` photos."""
    set_start_method("fork", force=True)  # torch's own on Linux; a spawned process would hand its own on
    rows = pd.DataFrame({"id": np.arange(count).astype(str), "path": "train/1.png", "label": "red", "split": "train"})
    settings = tiny.settings(PHOTOS, "train.batch_size=500", "augment.crop_scale=[0.4, 1.0]")
    loading = Loading(settings, 3, torch.device("cpu"), training=True)
    images = ImageSet(rows, rows, tiny.layout.raw, tiny.layout.cache, tiny.classes)
    source = PhotoBatches(images, loading, processes.cores())
    before = set(children(os.getpid()))
    gc.freeze()  # otherwise a worker's garbage collection would copy all objects of this process
    measured = []
    for epoch in range(1, 4):
        assert sum(len(batch.positions) for batch in source.batches(epoch)) == count
        workers = set(children(os.getpid())) - before
        assert len(workers) == processes.cores()
        measured.append(max(map(private_memory, workers)))
    return measured


@LINUX
@pytest.mark.slow
def test_the_memory_of_workers_does_not_grow_over_the_epochs_of_300_000_photos(tiny: Tiny) -> None:
    # In a fresh process: workers copy whatever other tests have left in this one, page by page.
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as fresh:
        measured = fresh.submit(memory_of_workers, tiny, 300_000).result()
    print([f"{each / 1e6:.1f} MB" for each in measured])
    assert measured[-1] - measured[0] < 4e6, measured  # the paths of all photos take 3 MB


def test_cycles_are_searched_for_again_after_an_error() -> None:
    with pytest.raises(UserError), without_cycles():
        assert not gc.isenabled()
        raise UserError("a fault of the data")
    assert gc.isenabled()
