"""A whole training step with small maps side by side, against ordinary convolutions, and the processor's matrix rate.

The network, loss and optimiser of a recipe train on noise, on the processor, at each image size of the recipe. Both
ways and a large matrix product alternate in one process. Operations are counted as in `training_speed`.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from benchmarks import measuring
from benchmarks.extraction import MATRIX
from benchmarks.measuring import Finding, spread
from benchmarks.training_speed import COMPETITION, operations
from pipelines.settings.loading import load_settings
from pipelines.settings.schema import DEFAULT_RECIPE, Settings

if TYPE_CHECKING:
    from pipelines.models.device import Hardware

CLASSES = [f"class {number}" for number in range(10)]
LEAST_SPEED = 1.0  # times the ordinary step; 1.5 is the aim with AMX
LEAST_SHARE = 0.55


def stepper(settings: Settings, hardware: "Hardware", size: int) -> Callable[[], float]:
    """Return a function that trains a new network on one batch of images of `size` pixels and returns the seconds."""
    import numpy as np
    import torch
    import torch.nn.functional as F

    from pipelines.core.decide import make_judge
    from pipelines.core.job import to_device
    from pipelines.core.phases import make_learner, phases
    from pipelines.core.tasks import make_task
    from pipelines.models.building import build_network

    network = to_device(build_network(settings, CLASSES, []), hardware).train()
    task, judge = make_task(settings, CLASSES, {}), make_judge(settings, CLASSES, np.arange(len(CLASSES)))
    learner = make_learner(settings, network, phases(settings)[0], hardware, task, judge)
    count = settings.train.batch_size
    images = torch.randn(count, settings.input.channels, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(count) % len(CLASSES)

    def step() -> float:
        started = time.perf_counter()
        with hardware.autocast():
            outputs = network(images)
        F.cross_entropy(outputs.float(), labels).backward()
        learner.optimizer.step()
        learner.optimizer.zero_grad(set_to_none=True)
        return time.perf_counter() - started

    return step


def measure(settings: Settings, widest: int, steps: int) -> list[Finding]:
    """Return the findings over `steps` steps of each way at each image size, after one that does not count.

    widest: maps side by side, in pixels; -1: as a training measures it here.
    """
    import torch

    from pipelines.core.precision import time_convolutions, widest_faster
    from pipelines.models.building import build_network
    from pipelines.models.device import choose_hardware

    hardware = choose_hardware(replace(settings.hardware, device="cpu"))
    if widest < 0:
        widest = widest_faster(time_convolutions(build_network(settings, CLASSES, []), settings, hardware))
        print(f"Maps up to {widest} pixels wide lie side by side, as a training measures here.", flush=True)
    hardware = replace(hardware, side_by_side=widest)
    matrix = torch.randn(MATRIX, MATRIX, dtype=hardware.dtype)
    findings, images = [], settings.train.batch_size

    def multiply() -> float:
        started = time.perf_counter()
        (matrix @ matrix)[0, 0].item()
        return time.perf_counter() - started

    for size in sorted({settings.input.size, *settings.augment.sizes}, reverse=True):
        ways = {
            "matrix": multiply,
            "ordinary": stepper(settings, replace(hardware, side_by_side=0), size),
            "ours": stepper(settings, hardware, size),
        }
        seconds = measuring.alternating(ways, steps, f"{size} px")
        counted = images * operations(build_network(settings, CLASSES, []), size)
        findings += _findings(size, counted, images, seconds)
    return findings


def _findings(size: int, counted: int, images: int, seconds: dict[str, list[float]]) -> list[Finding]:
    """Return the findings at `size` pixels; counted: operations of a step."""
    ordinary, ours = seconds["ordinary"], seconds["ours"]
    times = [one / other for one, other in zip(ordinary, ours, strict=True)]
    rates = [2 * MATRIX**3 / each for each in seconds["matrix"]]
    shares = [counted / one / rate for one, rate in zip(ours, rates, strict=True)]
    speed, share = statistics.median(times), statistics.median(shares)
    return [
        Finding(
            f"training at {size} px, maps side by side: {spread([images / each for each in ours], ',.0f')} images/s",
            f"ordinary convolutions, {spread([images / each for each in ordinary], ',.0f')} images/s",
            spread(times, ".2f", " times as fast"),
            f"at least {LEAST_SPEED}",
            speed >= LEAST_SPEED,
        ),
        Finding(
            f"  share of the matrix rate, {counted / images / 1e9:.2f} GFLOP an image",
            f"matrix product, {spread([each / 1e9 for each in rates], ',.0f')} GFLOP/s",
            spread(shares, ".1%"),
            f"at least {LEAST_SHARE:.0%}",
            share >= LEAST_SHARE,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "side_by_side")
    parser.add_argument("--competition", default=COMPETITION)
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides")
    parser.add_argument("--widest", type=int, default=-1, help="widest maps side by side, in pixels (-1: as measured)")
    parser.add_argument("--steps", type=int, default=15, help="steps of each way at each image size (15)")
    words = parser.parse_args(arguments)
    settings = load_settings(words.competition, words.recipe, words.set)
    findings = measure(settings, words.widest, words.steps)
    sizes = f"{words.steps} alternating steps of {settings.train.batch_size} images"
    measuring.conclude("side_by_side", __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
