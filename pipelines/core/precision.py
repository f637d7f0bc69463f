"""Choose the faster way to train on a processor, by measuring once per run: the precision, and maps side by side."""

import copy
import statistics
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.core.phases import freeze, phases
from pipelines.models.device import Hardware, choose_hardware
from pipelines.models.side_by_side import WIDEST, SideBySide, lay_side_by_side
from pipelines.models.transfer import FineTuned
from pipelines.settings.schema import Settings
from pipelines.system.files import read_json, write_json

PIXELS = 128 * 32 * 32  # per measured step: enough for threads and caches to behave as in training
STEPS = 3  # measured per way, alternately, after one warm-up step each
CLEARLY = 1.25  # a smaller factor is timing noise, which must not make runs of the same seed differ
WORTHWHILE = 200_000 * 32 * 32  # training pixels in total; a shorter training gains less than the measurement takes
OTHER = {"bfloat16": "float32", "float32": "bfloat16"}
MAPS = 128  # at most, per measured convolution
SECONDS = 1.0  # at most, per measured convolution; on a busy machine, fewer than `STEPS` are measured
ALL_SECONDS = 15.0  # for all steps of the network, and for all convolutions; more on a machine that gets slower
GAIN = 1.1  # convolutions of maps side by side must be faster by this factor


def settle_precision(
    settings: Settings, note: Path, network: nn.Module | None = None, images: int = 0
) -> tuple[Settings, str]:
    """Return `settings` with the chosen precision and `side_by_side`, and the reason, to be printed after its name.

    Measured only on a processor, for `precision = "auto"` and `side_by_side = -1`, by a few steps of `network` and its
    convolutions, if training on `images` per epoch takes long.  The file `note` keeps the results, so that a resumed
    run computes as it began.
    """
    if settings.trains_on_cache:  # a head trains in float32; the precision of features is chosen by their accuracy
        return settings, ""
    hardware, given = choose_hardware(settings.hardware), settings.hardware
    if given.compile_training and given.side_by_side < 0:  # compiled, its maps could not be changed in place
        given = replace(given, side_by_side=0)
        settings = replace(settings, hardware=given)
    if hardware.device.type != "cpu" or (given.precision != "auto" and given.side_by_side >= 0):
        return settings, ""
    device = str(hardware.record()["device"])
    tried = _read(note)
    if tried.get("device") != device:
        pixels = images * settings.train.epochs * settings.input.size**2
        if network is None or pixels < WORTHWHILE:
            return settings, ""
        tried = {"device": device, **_measure(network, settings, hardware)}
        write_json(note, tried)
    reasons = []
    if given.precision == "auto" and "precision" in tried:
        given = replace(given, precision=tried["precision"])
        reasons.append(_reason(tried["precision"], tried["images_per_second"]))
    if given.side_by_side < 0:  # the note of a run that began before this was measured lacks it
        given = replace(given, side_by_side=tried.get("side_by_side", 0))
        reasons += [f"maps up to {given.side_by_side} pixels wide side by side"] if given.side_by_side else []
    return replace(settings, hardware=given), f" ({'; '.join(reasons)})" if reasons else ""


def _read(note: Path) -> dict[str, Any]:
    """Return the content of `note`; empty if it is missing or damaged, so that everything is measured again."""
    try:
        tried = dict(read_json(note))
        known = "side_by_side" in tried and tried["side_by_side"] >= 0
        if "precision" in tried or not known:
            known = tried["precision"] in OTHER and all(tried["images_per_second"][name] > 0 for name in OTHER)
        return tried if known else {}
    except (FileNotFoundError, ValueError, KeyError, TypeError, RecursionError):
        return {}


def _measure(network: nn.Module, settings: Settings, hardware: Hardware) -> dict[str, Any]:
    """Return what is measured where the settings leave it open, for the note."""
    found: dict[str, Any] = {}
    if settings.hardware.precision == "auto":
        found["precision"], found["images_per_second"] = faster_precision(network, settings, hardware)
        hardware = replace(hardware, dtype=getattr(torch, found["precision"]))
    if settings.hardware.side_by_side < 0:
        timed = time_convolutions(network, settings, hardware)
        found |= {"side_by_side": widest_faster(timed), "convolutions": timed}
    return found


def _reason(chosen: str, speeds: Mapping[str, float]) -> str:
    other = OTHER[chosen]
    ratio = speeds[chosen] / speeds[other]
    return f"{ratio:.1f} times as fast as {other} when tried" if ratio >= 1 else f"{other} is not clearly faster"


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

    def step(tried: Hardware, some: int = count) -> float:
        started = time.perf_counter()
        with tried.autocast():
            logits = network(images[:some])
        F.cross_entropy(logits.float(), labels[: len(logits)]).backward()  # a detector returns one row
        network.zero_grad()
        return time.perf_counter() - started

    seconds: dict[str, list[float]] = {name: [] for name in OTHER}
    with torch.random.fork_rng(devices=[]):
        some = max(2, count // 8)
        expected = step(hardware, some) / some * (1 + STEPS) * len(OTHER)  # per image
        count = max(2, min(count, int(ALL_SECONDS / expected)))
        for _ in range(1 + STEPS):
            for name, measured in seconds.items():
                measured.append(step(replace(hardware, dtype=getattr(torch, name)), count))
    speeds = {name: round(count / statistics.median(measured[1:]), 1) for name, measured in seconds.items()}
    detected = str(hardware.dtype).removeprefix("torch.")
    other = OTHER[detected]
    return (other if speeds[other] > CLEARLY * speeds[detected] else detected), speeds


def time_convolutions(network: nn.Module, settings: Settings, hardware: Hardware) -> list[dict[str, Any]]:
    """Return the milliseconds of a training step of each shape of convolution: ordinary, and maps side by side.

    Shapes of all image sizes of the training, with maps up to `WIDEST` pixels wide.  The network, its statistics and
    torch's random state are unchanged.
    """
    network = copy.deepcopy(network).to(hardware.device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    if isinstance(network, FineTuned):
        freeze(network, settings, phases(settings)[-1])
    lay_side_by_side(network, 0)
    found: dict[tuple[Any, ...], tuple[SideBySide, Tensor]] = {}

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        assert isinstance(module, SideBySide)
        if module.training and output.requires_grad and inputs[0].shape[3] <= WIDEST:
            key = (module.weight.shape, inputs[0].shape[2:], inputs[0].requires_grad, module.weight.requires_grad)
            found.setdefault(key, (module, inputs[0]))

    hooks = [each.register_forward_hook(look) for each in network.modules() if isinstance(each, SideBySide)]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for size in sorted({settings.input.size, *settings.augment.sizes}):
            with hardware.autocast():
                network(torch.zeros(2, settings.input.channels, size, size))  # 2: the minimum for batch norms
        for hook in hooks:
            hook.remove()
        count = min(settings.train.batch_size, MAPS)
        limit = min(SECONDS, ALL_SECONDS / max(1, len(found)))
        return [_time_convolution(module, maps, count, hardware, limit) for module, maps in found.values()]


def _time_convolution(module: SideBySide, maps: Tensor, count: int, hardware: Hardware, limit: float) -> dict[str, Any]:
    """Return the shape of `module` and its milliseconds forward and backward, for `count` maps like `maps`.

    limit: seconds, after which no further step begins.
    """
    inputs = torch.randn(count, *maps.shape[1:]).to(maps.dtype).contiguous(memory_format=torch.channels_last)
    inputs.requires_grad_(maps.requires_grad)
    width, gradient = inputs.shape[3], None
    seconds: dict[int, list[float]] = {0: [], width: []}
    began = time.perf_counter()
    for step in range(1 + STEPS):
        if step > 1 and time.perf_counter() - began > limit:
            break
        for widest, measured in seconds.items():
            module.widest = widest
            module.zero_grad()
            started = time.perf_counter()
            with hardware.autocast():
                outputs = module(inputs)
            if gradient is None:
                gradient = torch.randn_like(outputs)
            outputs.backward(gradient)
            measured.append(time.perf_counter() - started)
    ordinary, side_by_side = (round(1000 * min(each[1:]), 3) for each in seconds.values())  # the least disturbed
    shape = {"channels": [module.in_channels, module.out_channels], "kernel": list(module.kernel_size)}
    return shape | {"width": width, "milliseconds": ordinary, "side_by_side": side_by_side}


def widest_faster(timed: Sequence[Mapping[str, Any]]) -> int:
    """Return the width up to which the convolutions of each width are clearly faster side by side; 0 for none."""
    widest = 0
    for width in sorted({each["width"] for each in timed}):
        same = [each for each in timed if each["width"] == width]
        if sum(each["milliseconds"] for each in same) < GAIN * sum(each["side_by_side"] for each in same):
            break
        widest = width
    return widest
