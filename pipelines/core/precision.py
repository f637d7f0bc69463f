"""Choose the faster precision for training on a processor: detect it, then measure it once per run."""

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

PIXELS = 128 * 32 * 32  # per measured step: enough for threads and caches to behave as in training
STEPS = 3  # measured per precision, alternately, after one warm-up step each
CLEARLY = 1.25  # a smaller factor is timing noise, which must not make runs of the same seed differ
WORTHWHILE = 200_000 * 32 * 32  # training pixels in total; a shorter training gains less than the measurement takes
OTHER = {"bfloat16": "float32", "float32": "bfloat16"}


def settle_precision(
    settings: Settings, note: Path, network: nn.Module | None = None, images: int = 0
) -> tuple[Settings, str]:
    """Return `settings` with the chosen precision, and the reason, to be printed after its name.

    Measured only for `precision = "auto"` on a processor, by a few steps of `network` in both precisions, if training
    on `images` per epoch takes long.  The file `note` keeps the result, so that a resumed run computes as it began.
    """
    if settings.trains_on_cache:  # a head trains in float32; the precision of features is chosen by their accuracy
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
    chosen, speeds = tried["precision"], tried["images_per_second"]
    other = OTHER[chosen]
    ratio = speeds[chosen] / speeds[other]
    reason = f"{ratio:.1f} times as fast as {other} when tried" if ratio >= 1 else f"{other} is not clearly faster"
    return replace(settings, hardware=replace(settings.hardware, precision=chosen)), f" ({reason})"


def _read(note: Path) -> dict[str, Any]:
    """Return the content of `note`; empty if it is missing or damaged, so that the precision is measured again."""
    try:
        tried = read_json(note)
        known = tried["precision"] in OTHER and all(tried["images_per_second"][name] > 0 for name in OTHER)
        return dict(tried) if known else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def faster_precision(network: nn.Module, settings: Settings, hardware: Hardware) -> tuple[str, dict[str, float]]:
    """Return the precision to train `network` in, and the images per second of both, measured on noise.

    hardware: the detected one; its precision is kept unless the other is clearly faster.  The network, its statistics
    and torch's random state are unchanged.
    """
    size = settings.input.size
    count = max(2, min(settings.train.batch_size, PIXELS // size**2))
    network = copy.deepcopy(network).to(hardware.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, settings.input.channels, size, size, generator=generator)
    images = images.contiguous(memory_format=torch.channels_last)
    labels = torch.zeros(count, dtype=torch.int64)

    def step(tried: Hardware) -> float:
        started = time.perf_counter()
        with tried.autocast():
            logits = network(images)
        F.cross_entropy(logits.float(), labels).backward()
        network.zero_grad()
        return time.perf_counter() - started

    seconds: dict[str, list[float]] = {name: [] for name in OTHER}
    with torch.random.fork_rng(devices=[]):
        for _ in range(1 + STEPS):
            for name, measured in seconds.items():
                measured.append(step(replace(hardware, dtype=getattr(torch, name))))
    speeds = {name: round(count / statistics.median(measured[1:]), 1) for name, measured in seconds.items()}
    detected = str(hardware.dtype).removeprefix("torch.")
    other = OTHER[detected]
    return (other if speeds[other] > CLEARLY * speeds[detected] else detected), speeds
