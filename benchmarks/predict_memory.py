"""Predicting a large test set: memory against a smaller test set, speed against the textbook's loop.

The competition is generated: 32x32 PNGs in the form and with the settings of CIFAR-10, trained for one epoch on a few
labelled images. Prediction runs as a process with child processes that decode. The images are packed into a file that
is read batch by batch. The system can reclaim resident file pages, so the peaks are also given without them. The peak
of the largest process is exact; the peak of all processes together is sampled.

The textbook's loop (`benchmarks/textbook.py`) predicts each image once, measured after a warm-up. Ours is timed from
the start of the process to the finished submission, with packed images: once with one view of each image, as in the
textbook, and once with the recipe's views, on fewer images. All alternate.
"""

import statistics
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measuring, textbook
from benchmarks.measuring import Finding, StageRun, run_stage, spread
from benchmarks.synthetic import make_competition
from pipelines.settings.layout import Layout
from pipelines.settings.loading import submission_name

TEMPLATE, RUN = "cifar-10", "run"
SIDE, LABELLED = 32, 500
MOST_BYTES = 1_500_000_000
LEAST_RATIO = 10
ONE_VIEW = ("predict.mirror=false", "predict.shift=0")
PEAKS = {"largest": "largest process", "together": "all processes", "private": "all without pages of files"}


def frozen(network: str, folder: Path) -> list[str]:
    """Return the settings for a frozen `network` with random weights and cached features."""
    import torch
    from torchvision import models

    weights = folder / f"{network}.pth"
    torch.save(models.get_model(network, weights=None).state_dict(), weights)
    return [
        *(f"model.name={network}", f"model.weights={weights}", "finetune.frozen_stages=-1", "features.mirror=false"),
        *("input.source=photos", "hardware.precision=float32"),
        *("train.optimizer=sgd", "train.lr=0.1", "train.bias_lr=0", "train.output_lr=0"),
    ]


def trained(folder: Path, count: int, overrides: Sequence[str]) -> str:
    """Split and train a competition of `count` test images below `folder`; return its TOML."""
    print(f"{count:,} test images")
    toml = make_competition(folder, TEMPLATE, SIDE, LABELLED, count)
    for stage in ("split", "train"):
        run_stage(folder, stage, toml, "--run", RUN, "--set", *overrides)
    return toml


def predict(folder: Path, toml: str, overrides: Sequence[str]) -> StageRun:
    """Predict the test images of `toml` below `folder`, even if done before; return time and memory."""
    name = submission_name(RUN, list(overrides))
    Layout(folder, Path(toml).stem).submission(name).unlink(missing_ok=True)
    return run_stage(folder, "predict", toml, "--run", RUN, "--set", *overrides)


def memory_findings(count: int, large: StageRun, fewer: int, small: StageRun, most_bytes: int | None) -> list[Finding]:
    """Return the memory of predicting `count` images against `fewer`; most_bytes: the goal, if any."""
    findings = []
    for name, what in PEAKS.items():
        least, most = getattr(small.memory, name), getattr(large.memory, name)
        findings.append(
            Finding(
                f"predict {count:,} images, {what}",
                f"{fewer:,} images: {least / 1e6:,.0f} MB",
                f"{most / 1e6:,.0f} MB",
                "-" if most_bytes is None else f"under {most_bytes / 1e6:,.0f} MB",
                None if most_bytes is None else most < most_bytes,
            )
        )
    speeds = [f"{images / run.seconds:,.0f} images/s" for images, run in ((count, large), (fewer, small))]
    return [*findings, Finding("  speed, decoding and start included", f"{fewer:,} images: {speeds[1]}", speeds[0])]


def against_loop(what: str, ours: Sequence[float], theirs: Sequence[float]) -> Finding:
    """Return the ratio of our images per second to the textbook's, measured in alternation."""
    ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
    return Finding(
        f"{what}: {spread(ours, ',.0f')} images/s",
        f"textbook's loop, {spread(theirs, ',.0f')} images/s",
        spread(ratios, ".1f", " times"),
        f"at least {LEAST_RATIO} times",
        statistics.median(ratios) >= LEAST_RATIO,
    )


def measure(count: int, fewer: int, batches: int, rounds: int, overrides: Sequence[str] = ()) -> list[Finding]:
    """Return memory and speed of predicting `count` test images, against `fewer` and against the textbook's loop.

    batches: of the textbook's loop, in all `rounds` together.
    """
    settings = ("train.epochs=1", "predict.checkpoint=best", *overrides)
    one_view = (*settings, *ONE_VIEW)
    with tempfile.TemporaryDirectory() as name:
        few, many = Path(name, "few"), Path(name, "many")
        tomls, cold = {}, {}
        for folder, number in ((few, fewer), (many, count)):
            folder.mkdir()
            tomls[folder] = trained(folder, number, settings)
            cold[folder] = predict(folder, tomls[folder], one_view)

        from pipelines.models.device import choose_hardware
        from pipelines.settings.running_sections import HardwareSettings

        device, raw = choose_hardware(HardwareSettings()).device, Layout(many, Path(tomls[many]).stem).raw
        once: list[float] = []
        own_views: list[float] = []
        theirs: list[float] = []
        for _ in range(rounds):
            once.append(count / predict(many, tomls[many], one_view).seconds)
            own_views.append(fewer / predict(few, tomls[few], settings).seconds)
            theirs.append(textbook.prediction_speed(raw, device, -(-batches // rounds)))
    return [
        *memory_findings(count, cold[many], fewer, cold[few], MOST_BYTES),
        against_loop(f"predict {count:,} images, warm, one view", once, theirs),
        against_loop(f"predict {fewer:,} images, warm, the recipe's views", own_views, theirs),
    ]


def measure_frozen(network: str, count: int, fewer: int, overrides: Sequence[str] = ()) -> list[Finding]:
    """Return the memory of predicting `count` test images with the frozen `network`, against `fewer`; the features are
    computed and cached."""
    runs = []
    for number in (fewer, count):
        with tempfile.TemporaryDirectory() as name:
            settings = ("train.epochs=1", "predict.checkpoint=best", *frozen(network, Path(name)), *overrides)
            runs.append(predict(Path(name), trained(Path(name), number, settings), settings))
    small, large = runs
    return memory_findings(count, large, fewer, small, None)


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "predict_memory")
    parser.add_argument("--images", type=int, default=300_000, help="test images (300000, as at Kaggle)")
    parser.add_argument("--fewer", type=int, default=30_000, help="test images to compare with")
    parser.add_argument("--batches", type=int, default=60, help="batches of the textbook's loop (60)")
    parser.add_argument("--pairs", type=int, default=3, help="rounds in which the speeds are measured (3)")
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides, for quick trials")
    parser.add_argument("--network", default="", help="cache the features of this frozen network")
    words = parser.parse_args(arguments)
    if words.network:
        findings = measure_frozen(words.network, words.images, words.fewer, words.set)
    else:
        findings = measure(words.images, words.fewer, words.batches, words.pairs, words.set)
    section = "predict_memory" + (f"-{words.network}" if words.network else "")
    sizes = f"{words.images:,} and {words.fewer:,} test images of 32x32, settings of {TEMPLATE}; memory of one run each"
    if not words.network:
        sizes += (
            f"; speed in {words.pairs} rounds, the textbook's over {words.batches} batches of {textbook.BATCH_SIZE}"
        )
    measuring.conclude(section, __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
