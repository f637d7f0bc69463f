"""Airbench's published recipe on the images of an archive: the accuracy that it reaches on the validation rows.

A control for the recipe of CIFAR-10: what do these copies of the images, or our code, cost? So it shares only the split
with the pipeline. Network, initialisation, optimisers, rates, augmentation and views are those of airbench94_muon
(github.com/KellerJordan/cifar10-airbench, f1c599c), which has 0.9401 on Kaggle's test rows with 50,000 original
training images (n = 200): 8 epochs, batches of 2,000, widths 64, 256 and 256. There all but the norms is float16; here
it is float32, or bfloat16 by autocast.
"""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
from PIL import Image

from benchmarks import measuring
from benchmarks.measuring import Finding, prepared
from pipelines.settings.layout import Layout

if TYPE_CHECKING:
    import torch
    from torch import Tensor, nn

COMPETITION = "cifar-10"
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
WIDTHS, CLASSES = (64, 256, 256), 10
EPOCHS, BATCH, WHITENING_EPOCHS = 8, 2000, 3
MUON_RATE, MUON_MOMENTUM = 0.24, 0.6
BIAS_RATE, HEAD_RATE, MOMENTUM, DECAY = 0.053, 0.67, 0.85, 2e-6  # of the sum of the losses; the decay for each image
SMOOTHING = 0.2
WHITENED, EPSILON = 5000, 5e-4  # images, added variance
SHIFT = 2  # pixels
POLYNOMIAL, ITERATIONS = (3.4445, -4.7750, 2.0315), 3
Forward = Callable[["Tensor"], "Tensor"]


def read(layout: Layout, part: str) -> "tuple[Tensor, Tensor]":
    """Return the normalised images of a part of the split, float32 (N, 3, 32, 32), and their classes, (N,)."""
    import torch

    table = pd.read_csv(layout.split_csv, dtype=str)
    classes = sorted(set(table["label"].dropna()))
    rows = table[table["split"] == part]
    pixels = np.stack([np.asarray(Image.open(layout.raw / path).convert("RGB")) for path in rows["path"]])
    images = ((pixels / 255 - MEAN) / STD).astype(np.float32)
    labels = rows["label"].map(classes.index).to_numpy()
    return torch.from_numpy(images).permute(0, 3, 1, 2), torch.tensor(labels)


def make_network() -> "nn.Sequential":
    """Return the random network without its whitening convolution and the division of its outputs."""
    from torch import nn

    layers: list[nn.Module] = [nn.GELU()]
    for inputs, outputs in zip((24, *WIDTHS), WIDTHS, strict=False):
        layers += [_convolution(inputs, outputs), nn.MaxPool2d(2), _norm(outputs), nn.GELU()]
        layers += [_convolution(outputs, outputs), _norm(outputs), nn.GELU()]
    head = nn.Linear(WIDTHS[-1], CLASSES, bias=False)
    head.weight.data /= head.weight.data.std()
    return nn.Sequential(*layers, nn.MaxPool2d(3), nn.Flatten(), head)


def _convolution(inputs: int, outputs: int) -> "nn.Conv2d":
    from torch import nn

    made = nn.Conv2d(inputs, outputs, 3, padding="same", bias=False)
    nn.init.dirac_(made.weight.data[:inputs])
    return made


def _norm(channels: int) -> "nn.BatchNorm2d":
    from torch import nn

    made = nn.BatchNorm2d(channels, eps=1e-12, momentum=0.4)
    made.weight.requires_grad_(False)
    return made


def whitening(images: "Tensor") -> "Tensor":
    """Return the filters of a 2x2 convolution that whitens patches of `images`, and their negatives, (24, 3, 2, 2)."""
    import torch
    import torch.nn.functional as F

    patches = F.unfold(images, 2).permute(0, 2, 1).reshape(-1, 12).double()
    variances, vectors = torch.linalg.eigh(patches.T @ patches / len(patches))
    filters = (vectors / (variances + EPSILON).sqrt()).T.flip(0).float().reshape(-1, 3, 2, 2)
    return torch.cat([filters, -filters])


def batches(images: "Tensor", labels: "Tensor", epoch: int) -> "Iterator[tuple[Tensor, Tensor]]":
    """Yield whole batches in random order, each image shifted at random, and mirrored in every other epoch."""
    import torch
    import torch.nn.functional as F

    side, padded = images.shape[-1], F.pad(images, (SHIFT,) * 4, "reflect")
    mirrored_first = torch.rand(len(images), generator=torch.Generator().manual_seed(0)) < 0.5
    order = torch.randperm(len(images))
    for places in order[: len(images) // BATCH * BATCH].split(BATCH):
        x, y = torch.randint(2 * SHIFT + 1, (2, len(places), 1))
        columns, rows = x + torch.arange(side), y + torch.arange(side)
        shifted = padded[places[:, None, None], :, rows[:, :, None], columns[:, None]].permute(0, 3, 1, 2)
        mirrored = mirrored_first[places] ^ bool(epoch % 2)
        yield torch.where(mirrored[:, None, None, None], shifted.flip(3), shifted), labels[places]


def orthogonal_step(weight: "Tensor", momentum: "Tensor", rate: float) -> None:
    """Take a step of Muon; this updates the `momentum` of `weight` too."""
    assert weight.grad is not None
    momentum.mul_(MUON_MOMENTUM).add_(weight.grad)
    update = weight.grad.add(momentum, alpha=MUON_MOMENTUM).flatten(1).bfloat16()
    update = update / update.norm()
    is_tall = update.shape[0] > update.shape[1]
    update = update.T if is_tall else update
    one, three, five = POLYNOMIAL
    for _ in range(ITERATIONS):
        square = update @ update.T
        update = one * update + (three * square + five * square @ square) @ update
    update = (update.T if is_tall else update).float().view_as(weight)
    weight.data.mul_(len(weight) ** 0.5 / weight.data.norm()).sub_(update, alpha=rate)


def train(images: "Tensor", labels: "Tensor", epochs: int, dtype: "torch.dtype") -> Forward:
    """Return the forward pass of a trained network, images to logits."""
    import torch
    import torch.nn.functional as F

    network, filters = make_network().to(memory_format=torch.channels_last), whitening(images[:WHITENED])
    bias = torch.zeros(len(filters), requires_grad=True)

    def forward(batch: "Tensor") -> "Tensor":
        with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
            whitened = F.conv2d(batch.contiguous(memory_format=torch.channels_last), filters, bias)
            result: Tensor = network(whitened) / WIDTHS[-1]
        return result.float()

    learning = [each for each in network.parameters() if each.requires_grad]
    matrices, others = [each for each in learning if each.ndim == 4], [each for each in learning if each.ndim < 4]
    momenta = [torch.zeros_like(each) for each in matrices]
    rates = [(bias, BIAS_RATE), *((each, BIAS_RATE if each.ndim == 1 else HEAD_RATE) for each in others)]
    groups = [{"params": [each], "lr": rate, "weight_decay": DECAY * BATCH / rate} for each, rate in rates]
    optimizer = torch.optim.SGD(groups, momentum=MOMENTUM, nesterov=True)
    steps_each = len(images) // BATCH
    steps, whitening_steps, step = epochs * steps_each, WHITENING_EPOCHS * steps_each, 0
    for epoch in range(epochs):
        started, total = time.perf_counter(), 0.0
        for batch, truth in batches(images, labels, epoch):
            bias.requires_grad_(step < whitening_steps)
            loss = F.cross_entropy(forward(batch), truth, label_smoothing=SMOOTHING, reduction="sum")
            loss.backward()
            for group, (parameter, rate) in zip(optimizer.param_groups, rates, strict=True):
                end = whitening_steps if parameter is bias else steps
                group["lr"] = rate * max(0.0, 1 - step / end)
            optimizer.step()
            for weight, momentum in zip(matrices, momenta, strict=True):
                orthogonal_step(weight, momentum, MUON_RATE * (1 - step / steps))
            network.zero_grad(set_to_none=True)
            bias.grad = None
            total, step = total + loss.item(), step + 1
        seconds = time.perf_counter() - started
        print(f"  epoch {epoch + 1}: training loss {total / steps_each / BATCH:.4f}, {seconds:.0f} s", flush=True)
    network.eval()
    return forward


def views(forward: Forward, images: "Tensor") -> "Tensor":
    """Return the logits of one view, and the mean of airbench's six: mirror images, and shifts by a pixel at half."""
    import torch
    import torch.nn.functional as F

    def both(batch: "Tensor") -> "Tensor":
        return (forward(batch) + forward(batch.flip(3))) / 2

    side, found = images.shape[-1], []
    with torch.inference_mode():
        for batch in images.split(BATCH):
            padded = F.pad(batch, (1,) * 4, "reflect")
            ends = [padded[:, :, start : start + side, start : start + side] for start in (0, 2)]
            found.append(torch.stack([forward(batch), both(batch) / 2 + sum(map(both, ends)) / 4]))
    return torch.cat(found, dim=1)


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    import torch

    parser = measuring.parser(__doc__, "airbench")
    parser.add_argument("--archive", type=Path, required=True, help="cifar-10.zip")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="default: %(default)s")
    parser.add_argument("--precision", choices=("float32", "bfloat16"), default="float32", help="default: %(default)s")
    parser.add_argument("--seed", type=int, default=0, help="default: %(default)s")
    words = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as name:
        layout = prepared(Path(name), COMPETITION, words.archive)
        (images, labels), (held, truth) = read(layout, "train"), read(layout, "valid")
    torch.manual_seed(words.seed)
    started = time.perf_counter()
    forward = train(images, labels, words.epochs, getattr(torch, words.precision))
    minutes = (time.perf_counter() - started) / 60
    plain, six = ((each.argmax(1) == truth).double().mean().item() for each in views(forward, held))
    findings = [
        Finding("valid accuracy, six views", "0.9401 with 50,000 original training images", f"{six:.4f}"),
        Finding("  one view", "-", f"{plain:.4f}"),
        Finding("minutes of training", "-", f"{minutes:.0f}"),
    ]
    sizes = f"{words.epochs} epochs of {len(images):,} images, {len(held):,} to validate, seed {words.seed}"
    measuring.conclude(f"airbench-{words.precision}", __doc__, arguments, findings, f"{words.precision}; {sizes}")
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
