"""Several processes against one: training, features and predictions, on the same cores and with one thread each.

A synthetic competition of small images; the network of cifar-10 trains and predicts, a frozen MobileNetV2 with random
weights computes features. One process of 2 threads, one of 1 thread, and 2 processes of 1 thread, started by torchrun's
own launcher, alternate. Starting the processes is not counted, and neither is the first epoch.
"""

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import measuring
from benchmarks.measuring import ROOT, Finding, run_stage, spread
from benchmarks.synthetic import make_competition
from pipelines import command
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError
from pipelines.system.group import ALONE, Group

if TYPE_CHECKING:
    from pipelines.dataset.image_set import ImageSet
    from pipelines.models.device import Hardware

TEMPLATE, SIDE = "cifar-10", 32
WORK = "--work"
NETWORK = "mobilenet_v2"
FROZEN = (
    *(f"model.name={NETWORK}", f"model.weights=weights/{NETWORK}.pth", "input.source=photos", "input.size=96"),
    *("input.mean=[0.5,0.5,0.5]", "input.std=[0.25,0.25,0.25]", "finetune.frozen_stages=-1"),
    *("augment.alternating_flip=false", "augment.translate=0", "augment.sizes=[]", "model.whitening_epochs=0"),
    *("train.optimizer=adamw", "train.lr=1e-3", "train.bias_lr=0", "train.output_lr=0"),
    "hardware.workers=0",  # decoding processes would give one process of one thread a second core
)
LEAST_OF_CORES, LEAST_OF_THREAD = 0.9, 1.8  # times as fast


class Way(NamedTuple):
    """An arrangement: so many processes, of so many threads each."""

    processes: int
    threads: int


TOGETHER, ALL_CORES, ONE = Way(2, 1), Way(1, 2), Way(1, 1)
Speeds = dict[str, float]  # images per second by what is measured


def speeds(folder: Path, toml: str, epochs: int, group: Group) -> Speeds:
    """Return the images per second of training, predicting and features; for the main process of `group`."""
    from pipelines.core.job import Job, run_job
    from pipelines.core.prediction import Resources, predict
    from pipelines.dataset.image_set import read_images
    from pipelines.models.building import build_network
    from pipelines.models.device import choose_hardware

    layout = Layout(folder, Path(toml).stem)
    settings = load_settings(toml, overrides=[f"train.epochs={epochs}", "hardware.precision=float32"])
    images = read_images(settings, layout, "split")
    train, valid = images.divide(settings)
    files = layout.run(f"of {os.getpid()}").training
    job = Job(settings, train, valid, epochs, files, choose_hardware(settings.hardware, group))
    rows = list(run_job(job, build_network(settings, images.classes, []), group))
    assert files.best is not None
    best, test = files.best, images.part(test=True)

    def predicted() -> None:
        for _ in predict(best, settings, test, Resources(layout.weights, group=group), "predicting"):
            pass

    predicted()  # decodes the images
    found = {"training": statistics.median(row["images_per_second"] for row in rows[1:])}
    found["predicting"] = len(test) / _seconds(predicted)
    return found | {"features": len(test) / _features(toml, layout, test, job.hardware, group)}


def _features(toml: str, layout: Layout, images: "ImageSet", hardware: "Hardware", group: Group) -> float:
    """Return the seconds that the features of `images` take."""
    from pipelines.models.building import build_network
    from pipelines.models.features import compute_features
    from pipelines.models.transfer import FineTuned
    from pipelines.models.weights import find_origins
    from pipelines.system.watch import unwatched

    settings = load_settings(toml, overrides=FROZEN)
    network = build_network(settings, images.classes, find_origins(settings.model, layout.weights))
    assert isinstance(network, FineTuned)
    shutil.rmtree(layout.cache / "features", ignore_errors=True)
    return _seconds(lambda: compute_features(settings, images, network, hardware, unwatched, group))


def _seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def measured(way: Way, folder: Path, toml: str, epochs: int) -> Speeds:
    """Return what `speeds` does with the processes and threads of `way`."""
    launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={way.processes}"]
    call = [*(launch if way.processes > 1 else []), "-m", "benchmarks.processes", WORK, toml, "--epochs", str(epochs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": str(way.threads)}
    done = subprocess.run([sys.executable, *call], cwd=folder, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{way} ended with status {done.returncode}:\n{done.stderr}")
    found: Speeds = json.loads(done.stdout.splitlines()[-1])
    return found


def measure(images: int, test: int, epochs: int, rounds: int, ways: Iterable[Way]) -> dict[Way, list[Speeds]]:
    """Return the speeds of each of the `ways` in each round."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        toml = make_competition(folder, TEMPLATE, SIDE, images, test)
        run_stage(folder, "split", toml)
        _write_weights(folder / "weights" / f"{NETWORK}.pth")
        found: dict[Way, list[Speeds]] = {way: [] for way in ways}
        for number in range(rounds):
            for way, each in found.items():
                each.append(measured(way, folder, toml, epochs))
                shown = ", ".join(f"{what} {speed:,.0f}" for what, speed in each[-1].items())
                print(f"  round {number + 1}, {way.processes} x {way.threads}: {shown} images/s", flush=True)
        return found


def _write_weights(path: Path) -> None:
    import torch
    from torchvision import models

    torch.manual_seed(0)
    path.parent.mkdir()
    torch.save(models.get_model(NETWORK).state_dict(), path)


def findings(found: dict[Way, list[Speeds]]) -> list[Finding]:
    """Return the ratios of two processes to one process, of as many threads in all and of one thread."""
    result = []
    for what in found[TOGETHER][0]:
        of = {way: [each[what] for each in speeds] for way, speeds in found.items()}
        for way, least in ((ALL_CORES, LEAST_OF_CORES), (ONE, LEAST_OF_THREAD)):
            if way == ONE and what == "training":
                continue
            ratios = [ours / theirs for ours, theirs in zip(of[TOGETHER], of[way], strict=True)]
            threads = f"{way.threads} thread{'s' * (way.threads > 1)}"
            result.append(
                Finding(
                    f"{what}, 2 processes of 1 thread: {spread(of[TOGETHER], ',.0f')} images/s",
                    f"1 process of {threads}, {spread(of[way], ',.0f')} images/s",
                    spread(ratios, ".2f", " times"),
                    f"at least {least} times",
                    statistics.median(ratios) >= least,
                )
            )
    return result


def main(arguments: Sequence[str] | None = None, group: Group = ALONE) -> list[Finding]:
    parser = measuring.parser(__doc__, "processes")
    parser.add_argument("--images", type=int, default=4000, help="labelled images; default: %(default)s")
    parser.add_argument("--test", type=int, default=2000, help="test images; default: %(default)s")
    parser.add_argument("--epochs", type=int, default=3, help="of each training; default: %(default)s")
    parser.add_argument("--rounds", type=int, default=3, help="default: %(default)s")
    parser.add_argument(WORK, metavar="TOML", help="used by the benchmark itself, in the processes that it measures")
    words = parser.parse_args(arguments)
    if words.work:
        print(json.dumps(speeds(Path.cwd(), words.work, words.epochs, group)))
        return []
    result = findings(measure(words.images, words.test, words.epochs, words.rounds, (TOGETHER, ALL_CORES, ONE)))
    sizes = f"{words.images:,} labelled and {words.test:,} test images, {words.epochs} epochs, {words.rounds} rounds"
    measuring.conclude("processes", __doc__, arguments, result, sizes)
    return result


def _be_one_of_several(arguments: Sequence[str] | None, group: Group) -> None:
    main(arguments, group)


if __name__ == "__main__":
    sys.exit(command.run(_be_one_of_several, shared=True))
