"""Feature extraction: its share of the processor's matrix rate, and whether decoding photos is the bottleneck.

The network runs on the same batch repeatedly. Its images per second times its operations per image, divided by the rate
of a large matrix product in the same precision and run, gives the share. Decoding is measured with the same loader
without a network.
"""

import copy
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import measuring
from benchmarks.measuring import Finding, run_stage, spread
from pipelines.settings.layout import Layout

if TYPE_CHECKING:
    import torch

    from pipelines.models.device import Hardware
    from pipelines.settings.schema import Settings

COMPETITION = "dog-breed-identification"
MATRIX = 4096
LEAST_SHARE = 0.6
GPU_PRODUCTS = 16  # of matrices, queued together: between single ones a GPU would wait for the processor
SECONDS = 2.0  # of each measurement
ROUNDS = 5  # in which the photos are decoded


@dataclass(frozen=True)
class Rates:
    """What a network and a matrix product did in each round: images, and operations of the product, per second.

    operations: of the network, for an image of `size` x `size` pixels.  by_way: `matrix`, `plain`, `folded` and, if it
    was tried, `compiled`.
    """

    size: int
    operations: int
    by_way: dict[str, list[float]]

    def shares(self, way: str) -> list[float]:
        """Return the share of the matrix rate that `way` reached in each round."""
        return [
            each * self.operations / whole for each, whole in zip(self.by_way[way], self.by_way["matrix"], strict=True)
        ]


def rate(step: Callable[[], int], seconds: float = SECONDS) -> float:
    """Return the sum of the results of `step` per second, over `seconds`, after two calls that do not count."""
    step(), step()
    done, started = 0, time.perf_counter()
    while (passed := time.perf_counter() - started) < seconds:
        done += step()
    return done / passed


def multiplication(hardware: "Hardware", side: int = MATRIX) -> Callable[[], int]:
    """Return a step that multiplies matrices of `side` x `side` and returns its operations, for `rate`."""
    import torch

    matrix = torch.randn(side, side, device=hardware.device, dtype=hardware.dtype)
    times = GPU_PRODUCTS if hardware.device.type == "cuda" else 1

    def multiply() -> int:
        for _ in range(times):
            product = matrix @ matrix
        product[0, 0].item()
        return times * 2 * side**3

    return multiply


def settings_for(name: str, *overrides: str) -> "Settings":
    """Return settings for features of photos by the network `name`, at its usual image size."""
    from pipelines.settings.loading import load_settings

    normalised = ("input.mean=[0.5,0.5,0.5]", "input.std=[0.25,0.25,0.25]", "model.label_map=", f"model.name={name}")
    return load_settings(COMPETITION, overrides=[*normalised, *overrides])


def measure_rates(
    settings: "Settings", rounds: int, compiled: bool = True, seconds: float = SECONDS, side: int = MATRIX
) -> Rates:
    """Return the rates of the network of `settings`, with random weights, over alternating rounds.

    compiled: try the compiled network too.  seconds: of each measurement.  side: of the matrices.
    """
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    from pipelines.models import extractor as extractors
    from pipelines.models.backbones import build_backbone
    from pipelines.models.device import choose_hardware

    name, hardware = settings.model.name, choose_hardware(settings.hardware)
    exact = replace(hardware, dtype=torch.float32)
    torch.manual_seed(0)
    backbone, _ = build_backbone(name, None)
    size = settings.input.size
    with FlopCounterMode(display=False) as counter, torch.inference_mode():
        backbone.eval()(torch.zeros(1, 3, size, size))
    operations = counter.get_total_flops()
    count = extractors.IMAGES_AT_ONCE
    pixels = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (count, size, size, 3), dtype=np.uint8))

    def run(extractor: extractors.Extractor) -> Callable[[], int]:
        def step() -> int:
            return len(extractor(pixels, mirrored=False))

        return step

    plain = copy.deepcopy(backbone).eval().to(exact.device)

    def untouched() -> int:
        with torch.inference_mode():
            images = pixels.permute(0, 3, 1, 2).float().contiguous().to(exact.device)
            plain(images).sum().item()
        return count

    ways = {
        "matrix": multiplication(hardware, side),
        "plain": untouched,
        "folded": run(extractors.Extractor(backbone, settings, hardware, folded=True)),
    }
    if compiled:
        ways["compiled"] = run(extractors.Extractor(backbone, settings, hardware, folded=True).compile())
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, step in ways.items():
            rates[way].append(rate(step, seconds))
        print(
            f"  round {number + 1}: " + ", ".join(f"{way} {each[-1]:,.4g}" for way, each in rates.items()), flush=True
        )
    return Rates(size, operations, rates)


def measure(folder: Path, archive: Path | None, name: str, pairs: int) -> list[Finding]:
    """Return the rates of the network `name` at its usual image size over `pairs` rounds, and of decoding, if there is
    an archive of photos."""
    from pipelines.models.device import choose_hardware

    settings = settings_for(name)
    hardware = choose_hardware(settings.hardware)
    found = measure_rates(settings, pairs)
    size, rates = found.size, found.by_way
    precision = str(hardware.dtype).removeprefix("torch.")
    matrix_rate = f"{precision} matrix product, {spread([each / 1e9 for each in rates['matrix']], ',.0f')} GFLOP/s"
    findings = [
        Finding(f"{name}, {size} px, as torchvision gives it, float32: images/s", "-", spread(rates["plain"])),
    ]
    for way, label in {"folded": f"norms folded, {precision}, channels last", "compiled": "the same, compiled"}.items():
        shares = found.shares(way)
        times = [each / slow for each, slow in zip(rates[way], rates["plain"], strict=True)]
        reached = statistics.median(shares) >= LEAST_SHARE
        findings += [
            Finding(f"  {label}: images/s", "-", spread(rates[way])),
            Finding("    times as fast", "torchvision's, float32", spread(times)),
            Finding(
                "    share of the matrix rate",
                matrix_rate,
                spread(shares, ".2f"),
                f"at least {LEAST_SHARE}",
                reached,
            ),
        ]
    if archive is not None:
        findings += _decoding(folder, archive, settings, statistics.median(rates["folded"]), pairs, hardware.device)
    return findings


def _decoding(
    folder: Path, archive: Path, settings: "Settings", network: float, pairs: int, device: "torch.device"
) -> list[Finding]:
    """Return the rate of decoding and cropping the photos in `archive`, against the network's images per second."""
    import numpy as np
    import pandas as pd
    from torch.utils.data import DataLoader

    from pipelines.dataset.image_set import ImageSet
    from pipelines.dataset.photos import Photos, collate, workers_for
    from pipelines.dataset.splits import read_split_csv
    from pipelines.models import features

    run_stage(folder, "download", COMPETITION, "--archive", str(archive))
    run_stage(folder, "split", COMPETITION)
    layout = Layout(folder, COMPETITION)
    table = read_split_csv(layout.split_csv)
    rows = pd.concat([table] * ROUNDS).reset_index(drop=True)  # so many that the start of the processes is negligible
    cuts = features.ViewCuts(settings, [-1], np.zeros(len(rows), dtype=np.uint64))
    rates, workers = [], workers_for(settings, device)
    for _ in range(pairs):
        loader: DataLoader[Any] = DataLoader(
            Photos(ImageSet(rows, rows, layout.raw, layout.cache), cuts),
            batch_sampler=features.Chunks(np.arange(len(rows))),
            num_workers=workers,
            collate_fn=collate,
        )
        started = time.perf_counter()
        images = sum(len(batch[1]) for batch in loader)
        rates.append(images / (time.perf_counter() - started))
    decoded = statistics.median(rates)
    views = 2 if settings.features.mirror else 1
    return [
        Finding(f"decoding and cutting photos, {workers} processes: images/s", "-", spread(rates)),
        Finding(
            f"  times as fast as the network, {views} views an image",
            f"{network / views:,.0f} images/s",
            f"{decoded / (network / views):.1f}",
            "above 1",
            decoded > network / views,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "extraction")
    parser.add_argument("--archive", type=Path, help="dog-breed-identification's photos, to measure decoding too")
    parser.add_argument("--network", default="resnet34", help="a torchvision classifier; its weights are random here")
    parser.add_argument("--pairs", type=int, default=3, help="rounds in which each way is measured")
    words = parser.parse_args(arguments)
    archive = words.archive.resolve() if words.archive else None
    with tempfile.TemporaryDirectory() as name:
        findings = measure(Path(name), archive, words.network, words.pairs)
    measuring.conclude(f"extraction-{words.network}", __doc__, arguments, findings, f"{words.pairs} alternating rounds")
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
