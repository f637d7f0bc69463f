"""A training step of networks with depthwise convolutions, with our gradients against torch's own.

Networks with random weights train on noise, on the processor: in bfloat16 with our gradients and without, and in
float32. All ways alternate in one process. A step is forward and backward, without optimiser.
"""

import contextlib
import statistics
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks import measuring
from benchmarks.measuring import Finding, spread
from benchmarks.side_by_side import CLASSES, LEAST_SPEED

if TYPE_CHECKING:
    from torch import nn

NETWORKS = ("mobilenet_v2", "efficientnet_b0", "timm/tf_efficientnet_lite0", "timm/convnext_atto")
SIZES = (64, 96, 224)
PIXELS = 128 * 64 * 64  # of a batch
OURS = "ours"
WAYS = (OURS, "torch's bfloat16", "float32")


def stepper(network: "nn.Module", size: int, count: int, way: str) -> Callable[[], float]:
    """Return a function that trains `network` on one batch of noise, `count` images, and returns the seconds."""
    import torch
    import torch.nn.functional as F

    from pipelines.models.device import Hardware

    precisions = {
        OURS: Hardware(torch.device("cpu"), torch.bfloat16).autocast,
        "torch's bfloat16": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
        "float32": contextlib.nullcontext,
    }
    network = network.train().to(memory_format=torch.channels_last)
    images = torch.randn(count, 3, size, size).contiguous(memory_format=torch.channels_last)
    labels = torch.arange(count) % len(CLASSES)

    def step() -> float:
        started = time.perf_counter()
        with precisions[way]():
            outputs = network(images)
        F.cross_entropy(outputs.float(), labels).backward()
        seconds = time.perf_counter() - started
        network.zero_grad(set_to_none=True)
        return seconds

    return step


def measure(name: str, size: int, steps: int) -> list[Finding]:
    """Return the findings over `steps` steps of each way, after one that does not count."""
    from pipelines.models.building import build_network
    from pipelines.settings.loading import load_settings

    settings = load_settings("cifar-10", overrides=[f"model.name={name}", f"input.size={size}", "augment.sizes=[]"])
    count = max(2, PIXELS // size**2)
    ways = {way: stepper(build_network(settings, CLASSES, []), size, count, way) for way in WAYS}
    seconds = measuring.alternating(ways, steps, f"{name}, {size} px")
    ours = seconds.pop(OURS)
    findings = []
    for way, theirs in seconds.items():
        times = [one / other for one, other in zip(theirs, ours, strict=True)]
        findings.append(
            Finding(
                f"{name}, {size} px: {spread([count / each for each in ours], ',.0f')} images/s",
                f"{way}, {spread([count / each for each in theirs], ',.0f')} images/s",
                spread(times, ".2f", " times as fast"),
                f"at least {LEAST_SPEED}",
                statistics.median(times) >= LEAST_SPEED,
            )
        )
    return findings


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "depthwise")
    parser.add_argument("--networks", nargs="+", default=NETWORKS)
    parser.add_argument("--sizes", nargs="+", type=int, default=SIZES, help="image sides in pixels")
    parser.add_argument("--steps", type=int, default=7, help="steps of each way (7)")
    words = parser.parse_args(arguments)
    findings = [each for name in words.networks for size in words.sizes for each in measure(name, size, words.steps)]
    measuring.conclude("depthwise", __doc__, arguments, findings, f"{words.steps} alternating steps")
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
