"""A training step of networks with depthwise convolutions, with our gradients against torch's own.

Networks with random weights train on noise, on the processor: in bfloat16 with our gradients and without, and in
float32. All ways alternate in one process. A step is forward and backward, without optimiser.
"""

import contextlib
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from benchmarks import measuring
from benchmarks.measuring import Finding, spread

if TYPE_CHECKING:
    from torch import nn

NETWORKS = ("mobilenet_v2", "efficientnet_b0", "timm/tf_efficientnet_lite0", "timm/convnext_atto")
SIZES = (64, 96, 224)
PIXELS = 128 * 64 * 64  # of a batch
LEAST_SPEED = 1.0
CLASSES = [f"class {number}" for number in range(10)]


def stepper(network: "nn.Module", size: int, count: int, way: str) -> Callable[[], float]:
    """Return a function that trains `network` on one batch of noise, `count` images, and returns the seconds."""
    import torch
    import torch.nn.functional as F

    from pipelines.models.device import Hardware

    precisions = {
        "ours": Hardware(torch.device("cpu"), torch.bfloat16).autocast,
        "torch's": lambda: torch.autocast("cpu", dtype=torch.bfloat16),
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
    ways = {
        way: stepper(build_network(settings, CLASSES, []), size, count, way) for way in ("ours", "torch's", "float32")
    }
    seconds: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(1 + steps):
        for way in ways if number % 2 else reversed(ways):
            seconds[way].append(ways[way]())
    ours, others = seconds["ours"][1:], {way: each[1:] for way, each in seconds.items() if way != "ours"}
    findings = []
    for way, theirs in others.items():
        times = [one / other for one, other in zip(theirs, ours, strict=True)]
        findings.append(
            Finding(
                f"{name}, {size} px: {spread([count / each for each in ours], ',.0f')} images/s",
                f"{'float32' if way == 'float32' else way + ' bfloat16'}, "
                f"{spread([count / each for each in theirs], ',.0f')} images/s",
                spread(times, ".2f", " times as fast"),
                f"at least {LEAST_SPEED}",
                sorted(times)[len(times) // 2] >= LEAST_SPEED,
            )
        )
    print(f"  {name}, {size} px: {', '.join(each.figure for each in findings)}", flush=True)
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
