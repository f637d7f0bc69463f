"""Frozen features computed once, against the chapter's way, which runs the backbone in every step.

The chapter's way follows d2l.ai, section 14.14 (PyTorch): images decoded and augmented in the main process, the frozen
network and a small head in float32, ten epochs of training with a validation after each, ten of retraining, and the
prediction. Its time is extrapolated from some batches after a warm-up. Ours: the stages train, retrain and predict with
empty caches, the same network and the same images.
"""

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import measuring
from benchmarks.measuring import Finding, run_stage

if TYPE_CHECKING:
    import pandas as pd
    from torch import nn

COMPETITION = "dog-breed-identification"
EPOCHS = 10
BATCH_SIZE = 128
NORMALISATION = ("input.mean=[0.5,0.5,0.5]", "input.std=[0.5,0.5,0.5]")
LEAST_RATIO = 25


def chapter_rates(
    rows: "pd.DataFrame", raw: Path, network: "nn.Module", classes: int, batches: int
) -> tuple[float, float]:
    """Return the images per second of the chapter's training and of its validation, over `batches` batches each."""
    import torch
    from PIL import Image
    from torch import nn
    from torchvision import transforms

    from pipelines.models.device import choose_hardware
    from pipelines.settings.running_sections import HardwareSettings

    normalise = transforms.Normalize([0.485, 0.456, 0.406], [0.229, 0.224, 0.225])
    training = transforms.Compose(
        [
            transforms.RandomResizedCrop(224, scale=(0.08, 1.0), ratio=(3.0 / 4.0, 4.0 / 3.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(brightness=0.4, contrast=0.4, saturation=0.4),
            transforms.ToTensor(),
            normalise,
        ]
    )
    validating = transforms.Compose(
        [transforms.Resize(256), transforms.CenterCrop(224), transforms.ToTensor(), normalise]
    )

    class Photos(torch.utils.data.Dataset[Any]):
        def __init__(self, transform: Callable[[Image.Image], torch.Tensor]) -> None:
            self.transform = transform

        def __len__(self) -> int:
            return len(rows)

        def __getitem__(self, index: int) -> tuple[torch.Tensor, int]:
            with Image.open(raw / rows["path"].iloc[index]) as image:
                return self.transform(image.convert("RGB")), index % classes

    device = choose_hardware(HardwareSettings()).device
    head = nn.Sequential(nn.Linear(1000, 256), nn.ReLU(), nn.Linear(256, classes))
    model = nn.Sequential(network, head).to(device)
    for parameter in network.parameters():
        parameter.requires_grad = False
    optimizer = torch.optim.SGD(head.parameters(), lr=1e-4, momentum=0.9, weight_decay=1e-4)
    criterion = nn.CrossEntropyLoss(reduction="none")

    def train_step(images: torch.Tensor, labels: torch.Tensor) -> None:
        model.train()
        optimizer.zero_grad()
        loss = criterion(model(images.to(device)), labels.to(device)).sum()
        loss.backward()
        optimizer.step()
        loss.item()

    def validation_step(images: torch.Tensor, labels: torch.Tensor) -> None:
        with torch.no_grad():
            criterion(model(images.to(device)), labels.to(device)).sum().item()

    def rate(transform: Callable[[Image.Image], torch.Tensor], step: Callable[..., None]) -> float:
        loader = torch.utils.data.DataLoader(Photos(transform), BATCH_SIZE, shuffle=True, drop_last=True)
        forever: Iterator[Any] = itertools.chain.from_iterable(itertools.repeat(loader))
        step(*next(forever))  # not counted: memory is allocated here
        started = time.perf_counter()
        for images, labels in itertools.islice(forever, batches):
            step(images, labels)
        return batches * BATCH_SIZE / (time.perf_counter() - started)

    return rate(training, train_step), rate(validating, validation_step)


def measure(folder: Path, archive: Path, name: str, weights: Path | None, batches: int) -> list[Finding]:
    """Return both times and their ratio with the network `name`; without `weights`, random ones, which take as long."""
    layout = measuring.prepared(folder, COMPETITION, archive)
    import torch
    from torchvision import models

    from pipelines.dataset.splits import read_split_csv

    table = read_split_csv(layout.split_csv)
    train, valid, test = ((table["split"] == split).sum() for split in ("train", "valid", "test"))
    network = models.get_model(name, weights=None)
    if weights is None:
        weights = folder / f"{name}.pth"
        torch.save(network.state_dict(), weights)
    training, validating = chapter_rates(table[table["split"] == "train"], layout.raw, network, 120, batches)
    chapter = EPOCHS * (train / training + valid / validating + (train + valid) / training) + test / validating
    print(f"  chapter: {training:.1f} images/s in training, {validating:.1f} in validation", flush=True)

    words = [COMPETITION, "--set", f"model.name={name}", f"model.weights={weights}", *NORMALISATION]
    ours = sum(run_stage(folder, stage, *words).seconds for stage in ("train", "retrain", "predict"))
    ratio = chapter / ours
    return [
        Finding(f"chapter's way, {name}: train, retrain, predict", "-", f"{chapter / 60:,.0f} min"),
        Finding("  images/s in training, in validation", "-", f"{training:.1f}, {validating:.1f}"),
        Finding(
            f"ours, {name}, all features computed: {ours / 60:.1f} min",
            f"chapter's way, {chapter / 60:,.0f} min",
            f"{ratio:.0f} times less",
            f"at least {LEAST_RATIO} times",
            ratio >= LEAST_RATIO,
        ),
    ]


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "frozen_vs_chapter")
    parser.add_argument("--archive", type=Path, required=True, help="dog-breed-identification's archive")
    parser.add_argument("--network", default="resnet34", help="a torchvision classifier")
    parser.add_argument("--weights", type=Path, help="its weights; random ones take as long")
    parser.add_argument("--batches", type=int, default=6, help="measured batches of 128 of the chapter's way")
    words = parser.parse_args(arguments)
    weights = words.weights.resolve() if words.weights else None
    with tempfile.TemporaryDirectory() as name:
        findings = measure(Path(name), words.archive.resolve(), words.network, weights, words.batches)
    sizes = (
        f"the whole archive; the chapter's way extrapolated from {words.batches} batches of {BATCH_SIZE} of each kind"
    )
    measuring.conclude(f"frozen_vs_chapter-{words.network}", __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
