"""Which precision a processor trains a network faster in: detected, then tried, once for each run."""

import copy
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from pipelines.models.device import Hardware, choose_hardware
from pipelines.settings.schema import Settings
from pipelines.system.files import read_json, write_json

PIXELS = 128 * 32 * 32  # in a step that is tried: enough for threads and caches to behave as in training
STEPS = 3  # of each precision, in turn, after one that is not counted
# What the processor's instructions speak for is kept unless the other precision is faster by as much: where both are
# about as fast, runs of the same seed must not differ by the noise of a clock.
CLEARLY = 1.25
WORTHWHILE = 200_000 * 32 * 32  # pixels to train on in all: less is over before it matters


def settle_precision(
    settings: Settings, note: Path, network: nn.Module | None = None, images: int = 0
) -> tuple[Settings, str]:
    """Return `settings` with the precision that is to be computed in, and the reason for it, to stand behind its name.

    Found out only for `precision = "auto"` on a processor, by a few steps of `network` in both; what came out is kept
    in `note`, so that what goes on with the run computes as it began.  Nothing is tried without a network, or where the
    training, of so many `images` an epoch, is short.
    """
    if settings.trains_on_cache:  # such a head trains in float32, and the precision of features is chosen by likeness
        return settings, ""
    hardware = choose_hardware(settings.hardware)
    if settings.hardware.precision != "auto" or hardware.device.type != "cpu":
        return settings, ""
    device = str(hardware.record()["device"])
    tried = _read(note)
    if tried.get("device") != device:
        pixels = images * settings.train.epochs * settings.input.size**2
        if network is None or pixels < WORTHWHILE:
            return settings, ""
        chosen, speeds = faster_precision(network, settings, hardware)
        tried = {"device": device, "precision": chosen, "images_per_second": speeds}
        write_json(note, tried)
    speeds = tried["images_per_second"]
    other = "float32" if tried["precision"] == "bfloat16" else "bfloat16"
    ratio = speeds[tried["precision"]] / speeds[other]
    decided = replace(settings.hardware, precision=tried["precision"])
    reason = f"{ratio:.1f} times as fast as {other} when tried" if ratio >= 1 else f"{other} is not clearly faster"
    return replace(settings, hardware=decided), f" ({reason})"


def _read(note: Path) -> dict[str, Any]:
    """Return what is kept in `note`; nothing where it is not there or not what was written, and is then tried anew."""
    try:
        tried = read_json(note)
        if tried["precision"] in ("bfloat16", "float32") and all(
            tried["images_per_second"][name] > 0 for name in ("bfloat16", "float32")
        ):
            return dict(tried)
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return {}


def faster_precision(network: nn.Module, settings: Settings, hardware: Hardware) -> tuple[str, dict[str, float]]:
    """Return the precision to train `network` in, and how many images a second each did in steps of noise.

    The network, its statistics and torch's random numbers stay as they are.  hardware: what was detected, which
    is kept unless the other precision is clearly faster.
    """
    size = settings.input.size
    count = max(2, min(settings.train.batch_size, PIXELS // size**2))
    network = copy.deepcopy(network).to(hardware.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, size, size, generator=generator).contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(count, dtype=torch.int64)

    def step(tried: Hardware) -> float:
        started = time.perf_counter()
        with tried.autocast():
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()
        network.zero_grad()
        return time.perf_counter() - started

    seconds: dict[str, list[float]] = {"bfloat16": [], "float32": []}
    with torch.random.fork_rng(devices=[]):
        for _ in range(1 + STEPS):
            for name, measured in seconds.items():
                measured.append(step(replace(hardware, dtype=getattr(torch, name))))
    speeds = {name: round(count / statistics.median(measured[1:]), 1) for name, measured in seconds.items()}
    detected = str(hardware.dtype).removeprefix("torch.")
    other = "float32" if detected == "bfloat16" else "bfloat16"
    return (other if speeds[other] > CLEARLY * speeds[detected] else detected), speeds
