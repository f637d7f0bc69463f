"""The sections of `gpu_check` that show that everything works: tests, digits, determinism, memory, processes."""

import contextlib
import dataclasses
import io
import os
import re
import subprocess
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.gpu_visit import Skipped, Visit, installed, rounded
from benchmarks.measuring import ROOT
from pipelines.system.errors import UserError

if TYPE_CHECKING:
    from pipelines.dataset.loading import Batch, BatchSource

MARK = "pytest.mark.gpu"
LINES_SHOWN = 12  # of the output of a process that failed
LARGEST_DIFFERENCE = 0.03  # of two accuracies on 500 digits, whose standard deviation is 0.004
WAITED = "called a synchronizing CUDA operation"  # torch's warning
SPARE = 64 * 2**20  # bytes of the GPU that a network may use, where its memory is to run out
STEPS = 20  # in which waits are counted; twice as many are fewer than between two checks of the loss


def machine(visit: Visit) -> dict[str, Any]:
    """Name the device, the versions and the packages that are missing."""
    import torch

    from pipelines.system.processes import cores

    found: dict[str, Any] = dict(visit.hardware.record()) | {"cores": cores()}
    if visit.on_gpu:
        about = torch.cuda.get_device_properties(visit.hardware.device)
        found |= {
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "capability": f"{about.major}.{about.minor}",
            "gpu_memory_gib": rounded(about.total_memory / 2**30),
            "gpus": torch.cuda.device_count(),
        }
    missing = [name for name in ("pytest", "timm", "kaggle", "matplotlib", "py7zr") if not installed(name)]
    return found | {"missing_packages": missing}


def suite(visit: Visit) -> dict[str, Any]:
    """Run the tests that need a GPU."""
    visit.require_gpu()
    if not installed("pytest"):
        raise Skipped("pytest is not installed")
    files = gpu_tests()
    words = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-m", "gpu and not slow", *files]
    status, output = _run(words, ROOT)
    counts = {word: int(count) for count, word in re.findall(r"(\d+) (passed|failed|skipped|error)", output)}
    if status:
        raise UserError(f"The tests ended with status {status}:\n{_tail(output)}")
    return {"files": files, "passed": counts.get("passed", 0), "skipped": counts.get("skipped", 0)}


def gpu_tests() -> list[str]:
    """Return the files with tests that need a GPU."""
    tests = (ROOT / "tests").rglob("test_*.py")
    return sorted(str(path.relative_to(ROOT)) for path in tests if MARK in path.read_text(encoding="utf-8"))


def digits(visit: Visit) -> dict[str, Any]:
    """Train the digits from their archive on, on this device and on the processor; score the held-back labels."""
    from pipelines import download, split
    from pipelines.settings.layout import Layout

    folder = visit.folder / "digits"
    folder.mkdir(exist_ok=True)
    with contextlib.chdir(folder), contextlib.redirect_stdout(io.StringIO()):
        download.main(["digits"])
        split.main(["digits"])
    layout = Layout(folder, "digits")
    found: dict[str, Any] = {}
    for device in dict.fromkeys((str(visit.hardware.device), "cpu")):
        found[device] = _digits_on(device, layout, visit.sizes.digits)
    scores = [each["accuracy"] for each in found.values()]
    if not visit.toy and max(scores) - min(scores) > LARGEST_DIFFERENCE:
        raise UserError(f"The scores of the digits are too different: {found}")
    return found


def _digits_on(device: str, layout: Any, overrides: tuple[str, ...]) -> dict[str, Any]:
    """Train the digits on `device` and return the accuracy of the test images, the seconds, and the last losses."""
    from pipelines.core.job import Job, run_job
    from pipelines.core.prediction import Resources, predict
    from pipelines.dataset.image_set import all_images, open_images
    from pipelines.dataset.splits import read_split_csv
    from pipelines.dataset.tables import read_csv
    from pipelines.models.building import build_network
    from pipelines.models.device import choose_hardware
    from pipelines.settings.loading import load_settings

    settings = load_settings("digits", overrides=[f"hardware.device={device}", *overrides])
    table = read_split_csv(layout.split_csv)
    images = open_images(settings, layout, table)
    train, valid = images.divide(settings)
    files = layout.run(device).training
    job = Job(settings, train, valid, settings.train.epochs, files, choose_hardware(settings.hardware))
    started = time.perf_counter()
    rows = list(run_job(job, build_network(settings, images.classes, [])))
    seconds = time.perf_counter() - started
    tests = dataclasses.replace(all_images(settings, layout, table, "").part(test=True), classes=images.classes)
    answers = {
        tests.ids[place]: images.classes[best]
        for places, found in predict(files.best, settings, tests, Resources(layout.weights), "testing")
        for place, best in zip(places, found.argmax(dim=1).tolist(), strict=True)
    }
    truth = read_csv(layout.held_back)
    right = [answers[name] == label for name, label in zip(truth["id"], truth["label"], strict=True)]
    return {
        "accuracy": rounded(sum(right) / len(right)),
        "n": len(right),
        "epochs": len(rows),
        "seconds": rounded(seconds, 3),
        "last_train_loss": rounded(rows[-1]["train_loss"]),
    }


def determinism(visit: Visit) -> dict[str, Any]:
    """Train two epochs twice, and once with a break in between: the weights must be the same, bit for bit."""
    from pipelines.core.checkpoint import weights_sha256
    from pipelines.core.job import run_job
    from pipelines.models.building import build_network

    images, found = visit.images(), {}
    for recipe in visit.sizes.repeated:
        settings = visit.settings(recipe, "train.epochs=2", "augment.sizes=[]")
        hashes = {}
        for run in ("first", "second", "continued"):
            job = visit.job(settings, images, f"{recipe}-{run}-{os.getpid()}")
            if run == "continued":
                next(run_job(job, build_network(settings, images.classes, [])))  # and stops after an epoch
            list(run_job(job, build_network(settings, images.classes, [])))
            hashes[run] = weights_sha256(job.files.last)[:16]
        found[recipe] = hashes
        if len(set(hashes.values())) > 1:
            raise UserError(f"Trainings with the same seed have different weights: {recipe} {hashes}")
    return found


def waiting(visit: Visit) -> dict[str, Any]:
    """Count how often an epoch makes the processor wait for the GPU."""
    import torch

    from benchmarks.textbook_loop import our_speed

    visit.require_gpu()
    settings, images = visit.settings("default", "augment.sizes=[]"), visit.images()

    def places(steps: int) -> list[str]:
        some = images.select(images.rows.head(steps * settings.train.batch_size))
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            torch.cuda.set_sync_debug_mode("warn")
            try:
                our_speed(settings, some, visit.hardware)
            finally:
                torch.cuda.set_sync_debug_mode("default")
        return [f"{Path(each.filename).name}:{each.lineno}" for each in caught if WAITED in str(each.message)]

    places(STEPS)  # everything is loaded and chosen once
    fewer, more = places(STEPS), places(2 * STEPS)  # the difference is without start and end
    return {
        "steps": [STEPS, 2 * STEPS],
        "waits": [len(fewer), len(more)],
        "waits_per_step": (len(more) - len(fewer)) / STEPS,
        "places": {place: more.count(place) for place in sorted(set(more))},
    }


def memory(visit: Visit) -> dict[str, Any]:
    """Let memory run out in training; the message must name a smaller batch, and training must work again after."""
    from benchmarks.textbook_loop import our_speed

    with _little_memory(visit) as source:
        message = _shortage(visit, source)
    if "Set train.batch_size=" not in message:
        raise UserError(f"The message about memory does not name a smaller batch: {message or 'there was none'}")
    images = visit.images()
    settings = visit.settings("default")
    speed = our_speed(settings, images.select(images.rows.head(6 * settings.train.batch_size)), visit.hardware)
    return {"message": message, "works_again": speed > 0}


@contextlib.contextmanager
def _little_memory(visit: Visit) -> Iterator["BatchSource"]:
    """Yield a source whose only batch is too large: for the rest of a GPU's memory, or for any processor."""
    import numpy as np
    import torch

    from pipelines.dataset.loading import Batch, BatchSource, Loading

    count, size = (2048, 128) if visit.on_gpu else (1 << 16, 1 << 15)

    class TooLarge(BatchSource):
        def batches(self, epoch: int) -> Iterator["Batch"]:
            labels = torch.zeros(count, dtype=torch.int64, device=visit.hardware.device)
            pixels = torch.zeros(1, 1, 1, 1, device=visit.hardware.device).expand(count, 3, size, size)
            yield Batch(pixels, labels, torch.arange(count))

    settings = visit.settings("default")
    settings = dataclasses.replace(settings, train=dataclasses.replace(settings.train, batch_size=count))
    source = TooLarge(np.arange(count), torch.zeros(0), Loading(settings, 10, visit.hardware.device, training=True))
    if not visit.on_gpu:
        yield source
        return
    torch.cuda.empty_cache()
    total = torch.cuda.get_device_properties(visit.hardware.device).total_memory
    used = torch.cuda.memory_reserved(visit.hardware.device)
    torch.cuda.set_per_process_memory_fraction((used + SPARE) / total)
    try:
        yield source
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)
        torch.cuda.empty_cache()


def _shortage(visit: Visit, source: "BatchSource") -> str:
    """Train on `source` and return the message of its `UserError`; empty if there was none."""
    import numpy as np

    from pipelines.core import engine
    from pipelines.core.decide import make_judge
    from pipelines.core.job import to_device
    from pipelines.core.phases import make_learner, phases
    from pipelines.core.tasks import make_task
    from pipelines.models.building import build_network

    settings, classes = source.loading.settings, [str(number) for number in range(10)]
    network = to_device(build_network(settings, classes, []), visit.hardware)
    task, judge = make_task(settings, classes, {}), make_judge(settings, classes, np.arange(10))
    learner = make_learner(settings, network, phases(settings)[0], visit.hardware, task, judge)
    try:
        list(engine.fit(learner, source, None, [1], 0))
    except UserError as error:
        return str(error)
    return ""


def together(visit: Visit) -> dict[str, Any]:
    """Train in two processes at the same time on one device: both work, or say clearly why not."""
    outputs = [visit.folder / f"process-{number}.json" for number in (1, 2)]
    words = [sys.executable, "-m", "benchmarks.gpu_check", "--only", "determinism", "--minutes", "3"]
    words += ["--toy"] if visit.toy else []
    logs = [path.with_suffix(".log") for path in outputs]
    processes = []
    for path, log in zip(outputs, logs, strict=True):
        with open(log, "wb") as output:
            command = [*words, "--json", str(path)]
            processes.append(subprocess.Popen(command, cwd=ROOT, stdout=output, stderr=subprocess.STDOUT))
    try:
        statuses = [process.wait() for process in processes]
    finally:
        for process in processes:
            process.kill()
            process.wait()
    from pipelines.system.files import read_json

    texts = [log.read_text(errors="replace") for log in logs]
    found: dict[str, Any] = {"statuses": statuses}
    if not any(statuses):
        results = [read_json(path)["sections"]["determinism"]["result"] for path in outputs]
        found["same_weights"] = results[0] == results[1]
        if not found["same_weights"]:
            raise UserError(f"Two processes at the same time have different weights: {results}")
        return found
    if any("Traceback" in text for text in texts):
        raise UserError("\n".join(map(_tail, texts)))
    return found | {"said": [_tail(text) for status, text in zip(statuses, texts, strict=True) if status]}


def _run(words: list[str], folder: Path) -> tuple[int, str]:
    """Run a process until it ends; return its status and output."""
    with subprocess.Popen(words, cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        try:
            output, _ = process.communicate()
        except BaseException:  # the time is up
            process.kill()
            raise
    return process.returncode, output


def _tail(output: str) -> str:
    return "\n".join(output.splitlines()[-LINES_SHOWN:])
