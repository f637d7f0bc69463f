"""Training the default recipe's network: against a plain loop, the processor's matrix rate, and airbench's network.

The plain loop trains the same network on images of the same size, float32 and contiguous, with torch's SGD and a
DataLoader that processes single images: random crop of the reflected image, flip, normalisation. It does nothing else
that the recipe does, to the loop's advantage. Operations are the multiplications and additions of convolutions and
linear layers: forward, and backward for weights and for inputs where needed. Airbench's network is the one for 94 %
(arXiv 2404.00498): whitening, widths 64, 256 and 256, two convolutions per block, batches of 500. Its 8 epochs are
compared with all epochs of the recipe, each at its image size. All ways alternate; the first batches do not count;
epochs are extrapolated.
"""

import statistics
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import measuring
from benchmarks.extraction import multiplication, rate
from benchmarks.measuring import Finding, Stopwatch, spread
from benchmarks.profile import Kind, kinds
from benchmarks.textbook_loop import our_speed
from pipelines.settings.loading import load_settings
from pipelines.settings.schema import DEFAULT_RECIPE, Settings

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

COMPETITION = "cifar-10"
AIRBENCH = (
    *('model.name="convnet"', "model.widths=[64,256,256]", "model.depth=[2]", "model.whitening=2"),
    *("augment.sizes=[]", "train.batch_size=500"),
)
AIRBENCH_EPOCHS = 8
EPOCH_IMAGES = 50_000
LEAST_BATCHES = 4
LEAST_RATIO = 6
LEAST_SHARE = 0.35
MOST_TIME = 1.0  # times


def operations(network: "nn.Module", size: int) -> int:
    """Return the operations of a training step of `network` per image of `size` x `size` pixels.

    Counted are multiplications and additions of convolutions and linear layers: once forward, once for the gradients of
    the weights and once for those of the inputs, where they are computed.
    """
    import torch
    from torch import nn

    counted = 0

    def count(module: nn.Module, inputs: "tuple[Tensor, ...]", output: "Tensor") -> None:
        nonlocal counted
        weight = module.weight
        assert isinstance(weight, torch.Tensor)
        passes = 1 + weight.requires_grad + inputs[0].requires_grad
        counted += passes * 2 * output.numel() * weight[0].numel()

    layers = [module for module in network.modules() if isinstance(module, nn.Conv2d | nn.Linear)]
    hooks = [layer.register_forward_hook(count) for layer in layers]
    images = 2  # the minimum for batch norms
    network.train()(torch.zeros(images, 3, size, size))
    for hook in hooks:
        hook.remove()
    return counted // images


def plain_speed(settings: Settings, tree: Path, device: "torch.device", batches: int, workers: int) -> float:
    """Return the images per second of a plain loop with the network of `settings` over the images in `tree`/<class>/.

    workers: processes that decode and augment; 0: the main process.
    """
    import torch
    import torch.nn.functional as F
    from torchvision import datasets, transforms

    from pipelines.models.building import build_network

    torch.backends.cudnn.deterministic = False  # our own training turns it on
    augment, train = settings.augment, settings.train
    flip = augment.flip or augment.alternating_flip
    transform = transforms.Compose(
        [
            transforms.RandomCrop(settings.input.size, padding=augment.translate, padding_mode="reflect"),
            *([transforms.RandomHorizontalFlip()] if flip else []),
            transforms.ToTensor(),
            transforms.Normalize(settings.input.mean, settings.input.std),
        ]
    )
    dataset = datasets.ImageFolder(str(tree), transform=transform)
    loader = torch.utils.data.DataLoader(
        dataset, train.batch_size, shuffle=True, num_workers=workers, pin_memory=device.type == "cuda"
    )
    model = build_network(settings, dataset.classes, []).to(device).train()
    optimizer = torch.optim.SGD(
        (parameter for parameter in model.parameters() if parameter.requires_grad), lr=1e-2, momentum=0.9, nesterov=True
    )
    stopwatch = Stopwatch(device, batches)
    for images, labels in stopwatch.watch(loader, lambda batch: len(batch[0])):
        optimizer.zero_grad()
        F.cross_entropy(model(images.to(device)), labels.to(device)).backward()
        optimizer.step()
    return stopwatch.images_per_second


def measure(
    folder: Path, archive: Path, recipe: str, overrides: Sequence[str], images: int, rounds: int, workers: int
) -> list[Finding]:
    """Return the findings of `rounds`; in each, every way trains on about `images` images."""
    layout = measuring.prepared(folder, COMPETITION, archive)

    from pipelines.core.precision import settle_precision
    from pipelines.dataset.image_set import ImageSet
    from pipelines.dataset.splits import read_split_csv
    from pipelines.models.building import build_network
    from pipelines.models.device import choose_hardware

    table = read_split_csv(layout.split_csv, "the stage split")
    rows = table[table["split"] == "train"]
    images_used = ImageSet(table, rows, layout.raw, layout.cache, sorted(set(rows["label"])))
    recipes_own = load_settings(COMPETITION, recipe, overrides)
    network = build_network(recipes_own, images_used.classes, [])
    counted = operations(network, recipes_own.input.size)
    settled, _ = settle_precision(recipes_own, folder / "precision.json", network, len(rows))
    hardware = choose_hardware(settled.hardware)

    def load(*changes: str) -> Settings:
        return load_settings(COMPETITION, recipe, [*overrides, *changes])

    def ours(settings: Settings) -> Callable[[], float]:
        batches = max(images // settings.train.batch_size, LEAST_BATCHES)
        return lambda: our_speed(settings, images_used, hardware, batches)

    multiply = multiplication(hardware)
    full, found = recipes_own.input.size, kinds(recipes_own)
    smaller = sorted({kind.size for kind in found} - {full})
    steps = max(images // recipes_own.train.batch_size, LEAST_BATCHES)
    ways: dict[str, Callable[[], float]] = {
        "matrix": lambda: rate(multiply),
        "plain": lambda: plain_speed(load(), layout.tree / "train", hardware.device, steps, workers),
        f"{full}px": ours(load("augment.sizes=[]")),
        **{f"{size}px": ours(load(f"augment.sizes=[{size},{full}]")) for size in smaller},
        "airbench": ours(load(*AIRBENCH)),
    }
    rates: dict[str, list[float]] = {way: [] for way in ways}
    for number in range(rounds):
        for way, measured in ways.items():
            rates[way].append(measured())
        shown = ", ".join(f"{way} {each[-1]:,.4g}" for way, each in rates.items())
        print(f"  round {number + 1}: {shown}", flush=True)

    precision = str(hardware.dtype).removeprefix("torch.")
    return [*_speeds(rates, full, smaller, precision, counted, workers), *_epochs(rates, found)]


def _speeds(
    rates: dict[str, list[float]], full: int, smaller: Sequence[int], precision: str, counted: int, workers: int
) -> list[Finding]:
    """Return the findings on training speed; counted: operations per image of `full` size."""
    ours, plain, matrix = rates[f"{full}px"], rates["plain"], rates["matrix"]
    times = [one / other for one, other in zip(ours, plain, strict=True)]
    shares = [one * counted / other for one, other in zip(ours, matrix, strict=True)]
    where = f"{workers} processes" if workers else "the main process"
    return [
        Finding(f"training at {full} px, {precision}, packed: images/s", "-", spread(ours, ",.0f")),
        Finding(
            "  times as fast",
            f"float32, contiguous, DataLoader in {where}: {spread(plain, ',.0f')} images/s",
            spread(times, ".2f"),
            f"at least {LEAST_RATIO}",
            statistics.median(times) >= LEAST_RATIO,
        ),
        Finding(
            f"  share of the matrix rate, {counted / 1e9:.2f} GFLOP an image",
            f"{precision} matrix product, {spread([each / 1e9 for each in matrix], ',.0f')} GFLOP/s",
            spread(shares, ".1%"),
            f"at least {LEAST_SHARE:.0%}",
            statistics.median(shares) >= LEAST_SHARE,
        ),
        *(Finding(f"  at {size} px: images/s", "-", spread(rates[f"{size}px"], ",.0f")) for size in smaller),
    ]


def _epochs(rates: dict[str, list[float]], found: Sequence[Kind]) -> list[Finding]:
    """Return the findings on the time of epochs; found: the recipe's kinds of epochs."""
    epochs = sum(kind.epochs for kind in found)
    rounds = [dict(zip(rates, each, strict=True)) for each in zip(*rates.values(), strict=True)]
    ours = [sum(kind.epochs * EPOCH_IMAGES / each[f"{kind.size}px"] for kind in found) for each in rounds]
    airbench = [AIRBENCH_EPOCHS * EPOCH_IMAGES / each["airbench"] for each in rounds]
    times = [one / other for one, other in zip(ours, airbench, strict=True)]
    against_plain = [epochs * EPOCH_IMAGES / one / each["plain"] for one, each in zip(ours, rounds, strict=True)]
    return [
        Finding(
            "  over the recipe's image sizes, times as fast", "the plain loop, as above", spread(against_plain, ".2f")
        ),
        Finding(
            f"an epoch of {EPOCH_IMAGES:,} images, mean of all {epochs}",
            f"airbench's shape, {spread([each / AIRBENCH_EPOCHS for each in airbench])} s",
            spread([each / epochs for each in ours], unit=" s"),
        ),
        Finding(
            f"a whole training, {epochs} epochs: {spread(ours, ',.0f')} s",
            f"{AIRBENCH_EPOCHS} epochs of airbench's shape, {spread(airbench, ',.0f')} s",
            spread(times, ".2f", " times"),
            f"at most {MOST_TIME} times",
            statistics.median(times) <= MOST_TIME,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "training_speed")
    parser.add_argument("--archive", type=Path, required=True, help="Kaggle's cifar-10.zip")
    parser.add_argument("--recipe", default=DEFAULT_RECIPE)
    parser.add_argument("--set", nargs="+", default=[], metavar="KEY=VALUE", help="overrides")
    parser.add_argument("--images", type=int, default=5000, help="images that each way trains on in a round (5000)")
    parser.add_argument("--pairs", type=int, default=3, help="rounds in which each way is measured (3)")
    parser.add_argument("--workers", type=int, default=0, help="processes of the plain loop's DataLoader (0)")
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        findings = measure(Path(name), words.archive, words.recipe, words.set, words.images, words.pairs, words.workers)
    section = "training_speed" + ("" if words.recipe == DEFAULT_RECIPE else f"-{words.recipe}")
    sizes = f"{words.pairs} rounds of about {words.images:,} images of each way"
    measuring.conclude(section, __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
