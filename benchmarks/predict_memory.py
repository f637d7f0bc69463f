"""The memory that predicting a large test set takes, against a smaller one.

The competition is made here: 32x32 PNGs in the form and with the settings of CIFAR-10, trained for one epoch on a few
labelled images.  Predicting is a process of its own, with processes that decode.  The images are packed into a file
that is mapped: 3,072 bytes of it per image end up resident, which the system can take back, so the peaks are also given
without pages of files.  The largest process is exact; what processes take together is sampled.
"""

import io
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks import measuring
from benchmarks.measuring import Finding, StageRun, run_stage
from pipelines.core.layout import Layout
from pipelines.core.settings import find_competition

TEMPLATE = "cifar-10"
CLASSES = 10
LABELLED = 500
DISTINCT = 256  # images that differ: what is in them changes neither time nor memory
MOST_BYTES = 1_500_000_000
PEAKS = {"largest": "largest process", "together": "all processes", "private": "all without pages of files"}


def make_competition(folder: Path, count: int) -> str:
    """Write a competition of `count` test images below `folder` as its download would leave it; return its TOML."""
    toml = folder / f"synthetic-{count}.toml"
    shutil.copy(find_competition(TEMPLATE), toml)
    raw = Layout(folder, toml.stem).raw
    random = np.random.default_rng(0)
    pictures = []
    for _ in range(DISTINCT):
        buffer = io.BytesIO()
        Image.fromarray(random.integers(0, 256, (32, 32, 3), dtype=np.uint8)).save(buffer, "PNG")
        pictures.append(buffer.getvalue())
    for part, number in (("train", LABELLED), ("test", count)):
        (raw / part).mkdir(parents=True)
        for index in range(1, number + 1):
            # The number behind the picture is not read, but makes the file another one, of which nothing is known yet.
            (raw / part / f"{index}.png").write_bytes(pictures[index % DISTINCT] + index.to_bytes(4, "big"))
    labels = "".join(f"{index},class-{index % CLASSES}\n" for index in range(1, LABELLED + 1))
    (raw / "trainLabels.csv").write_text(f"id,label\n{labels}")
    sample = "".join(f"{index},class-0\n" for index in range(1, count + 1))
    (raw / "sampleSubmission.csv").write_text(f"id,label\n{sample}")
    return toml.name


def frozen(network: str, folder: Path) -> list[str]:
    """Return the settings for a frozen `network` with random weights, whose features of each image are kept."""
    import torch
    from torchvision import models

    weights = folder / f"{network}.pth"
    torch.save(models.get_model(network, weights=None).state_dict(), weights)
    return [
        *(f"model.name={network}", f"model.weights={weights}", "finetune.frozen_stages=-1", "features.mirror=false"),
        *("input.source=photos", "hardware.precision=float32"),
    ]


def predict(folder: Path, count: int, overrides: Sequence[str]) -> StageRun:
    """Split, train and predict a competition of `count` test images below `folder`; return how predicting went."""
    print(f"{count:,} test images")
    words = (make_competition(folder, count), "--set", "train.epochs=1", "predict.checkpoint=best", *overrides)
    return [run_stage(folder, stage, *words) for stage in ("split", "train", "predict")][-1]


def measure(count: int, fewer: int, overrides: Sequence[str] = (), network: str = "") -> list[Finding]:
    """Return what predicting `count` test images takes, and what it takes beyond `fewer` of them.

    network: one that is frozen, whose features of the images are computed and kept; empty: the template's own.
    """
    runs = []
    for number in (fewer, count):
        with tempfile.TemporaryDirectory() as name:
            chosen = [*(frozen(network, Path(name)) if network else []), *overrides]
            runs.append(predict(Path(name), number, chosen))
    small, large = runs
    findings = []
    for name, what in PEAKS.items():
        least, most = getattr(small.memory, name), getattr(large.memory, name)
        findings.append(
            Finding(
                f"predict {count:,} images, {what}",
                f"{fewer:,} images: {least / 1e6:,.0f} MB",
                f"{most / 1e6:,.0f} MB",
                "-" if network else f"under {MOST_BYTES / 1e6:,.0f} MB",
                None if network else most < MOST_BYTES,
            )
        )
    speeds = [f"{images / run.seconds:,.0f} images/s" for images, run in ((count, large), (fewer, small))]
    findings.append(Finding("  speed, decoding and start included", f"{fewer:,} images: {speeds[1]}", speeds[0]))
    return findings


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "predict_memory")
    parser.add_argument("--images", type=int, default=100_000, help="test images")
    parser.add_argument("--fewer", type=int, default=20_000, help="test images to compare with")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides, for quick trials")
    parser.add_argument("--network", default="", help="compute and keep the features of this network, frozen")
    words = parser.parse_args(arguments)
    findings = measure(words.images, words.fewer, words.set, words.network)
    section = "predict_memory" + (f"-{words.network}" if words.network else "")
    sizes = f"{words.images:,} and {words.fewer:,} test images of 32x32, settings of {TEMPLATE}, one run each"
    measuring.conclude(section, __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
