"""The textbook's way with CIFAR-10, the baseline of the benchmarks: its copies, its loops, its network.

Written from the description in d2l.ai, section 14.13 (PyTorch): images copied into class folders; ImageFolder and
torchvision transforms on single images in the main process; its ResNet-18 for small images, summed loss, float32.
"""

import os
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks.measuring import Stopwatch

if TYPE_CHECKING:
    import torch
    from torch import nn

COMPETITION = "cifar-10"
BATCH_SIZE = 32
EPOCHS = 20
VALID_RATIO = 0.1
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def copy_images(raw: Path, tree: Path) -> None:
    """Copy the images into `tree` as the textbook does: each labelled image twice, each test image once."""
    with open(raw / "trainLabels.csv") as file:
        labels = dict(line.rstrip().split(",") for line in file.readlines()[1:])
    share = max(1, int(min(Counter(labels.values()).values()) * VALID_RATIO))
    taken: Counter[str] = Counter()
    for name in os.listdir(raw / "train"):  # noqa: PTH208
        label = labels[name.split(".")[0]]
        source = os.path.join(raw, "train", name)  # noqa: PTH118 - as in the textbook, and faster
        _copy(source, os.path.join(tree, "train_valid", label))  # noqa: PTH118
        part = "valid" if taken[label] < share else "train"
        taken[label] += 1
        _copy(source, os.path.join(tree, part, label))  # noqa: PTH118
    for name in os.listdir(raw / "test"):  # noqa: PTH208
        _copy(os.path.join(raw, "test", name), os.path.join(tree, "test", "unknown"))  # noqa: PTH118


def _copy(source: str, folder: str) -> None:
    os.makedirs(folder, exist_ok=True)  # noqa: PTH103
    shutil.copy(source, folder)


def decode_all(tree: Path) -> None:
    """Decode each image in `tree`/<class>/ once, in batches, as the textbook's loader does, without augmentation."""
    from torch.utils.data import DataLoader
    from torchvision import datasets, transforms

    for _ in DataLoader(datasets.ImageFolder(str(tree), transform=transforms.ToTensor()), BATCH_SIZE):
        pass


def resnet18(classes: int) -> "nn.Module":
    """Return the textbook's ResNet-18 for small images: a 3x3 stem, no max-pooling, biases in all convolutions."""
    from torch import nn

    class Residual(nn.Module):
        def __init__(self, inputs: int, outputs: int, stride: int) -> None:
            super().__init__()
            self.first = nn.Conv2d(inputs, outputs, 3, padding=1, stride=stride)
            self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
            self.shortcut = nn.Conv2d(inputs, outputs, 1, stride=stride) if stride > 1 else nn.Identity()
            self.first_norm, self.second_norm = nn.BatchNorm2d(outputs), nn.BatchNorm2d(outputs)

        def forward(self, images: "torch.Tensor") -> "torch.Tensor":
            features = nn.functional.relu(self.first_norm(self.first(images)))
            return nn.functional.relu(self.second_norm(self.second(features)) + self.shortcut(images))

    layers: list[nn.Module] = [nn.Conv2d(3, 64, 3, padding=1), nn.BatchNorm2d(64), nn.ReLU()]
    for inputs, outputs, stride in ((64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)):
        layers += [Residual(inputs, outputs, stride), Residual(outputs, outputs, 1)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(512, classes))


def training_speed(tree: Path, device: "torch.device", batches: int | None = None) -> float:
    """Return the images per second of the textbook's training on the images in `tree`/<class>/.

    batches: how many are measured; None: all.
    """
    import torch
    from torch import nn
    from torchvision import datasets, transforms

    torch.backends.cudnn.deterministic = False  # our own training turns it on
    transform = transforms.Compose(
        [
            transforms.Resize(40),
            transforms.RandomResizedCrop(32, scale=(0.64, 1.0), ratio=(1.0, 1.0)),
            transforms.RandomHorizontalFlip(),
            transforms.ToTensor(),
            transforms.Normalize(MEAN, STD),
        ]
    )
    dataset = datasets.ImageFolder(str(tree), transform=transform)
    loader = torch.utils.data.DataLoader(dataset, BATCH_SIZE, shuffle=True, drop_last=True)
    model = resnet18(len(dataset.classes)).to(device)
    criterion = nn.CrossEntropyLoss(reduction="none")
    optimizer = torch.optim.SGD(model.parameters(), lr=2e-4, momentum=0.9, weight_decay=5e-4)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.9)
    stopwatch = Stopwatch(device, batches)
    total_loss = total_correct = 0.0
    for images, labels in stopwatch.watch(loader, _size):
        images, labels = images.to(device), labels.to(device)
        model.train()
        optimizer.zero_grad()
        logits = model(images)
        loss = criterion(logits, labels).sum()
        loss.backward()
        optimizer.step()
        total_loss += loss.item()
        total_correct += (logits.argmax(dim=1) == labels).sum().item()
    scheduler.step()
    return stopwatch.images_per_second


def prediction_speed(tree: Path, device: "torch.device", batches: int) -> float:
    """Return the images per second of the textbook's prediction of the first images in `tree`/<folder>/."""
    import torch
    from torchvision import datasets, transforms

    transform = transforms.Compose([transforms.ToTensor(), transforms.Normalize(MEAN, STD)])
    loader = torch.utils.data.DataLoader(datasets.ImageFolder(str(tree), transform=transform), BATCH_SIZE)
    model = resnet18(10).to(device).eval()
    stopwatch = Stopwatch(device, batches)
    predicted: list[int] = []
    with torch.no_grad():
        for images, _ in stopwatch.watch(loader, _size):
            predicted.extend(model(images.to(device)).argmax(dim=1).cpu().tolist())
    return stopwatch.images_per_second


def training_and_prediction(
    train: Path, test: Path, device: "torch.device", batches: int, rounds: int
) -> tuple[list[float], list[float]]:
    """Return the images per second of both loops in each of `rounds`, alternating; `batches` of each in all rounds."""
    each = -(-batches // rounds)
    rates: tuple[list[float], list[float]] = ([], [])
    for number in range(rounds):
        rates[0].append(training_speed(train, device, each))
        rates[1].append(prediction_speed(test, device, each))
        print(
            f"  round {number + 1}: the textbook's {rates[0][-1]:.1f} images/s in training, "
            f"{rates[1][-1]:.1f} in prediction",
            flush=True,
        )
    return rates


def seconds(train: int, valid: int, test: int, training: float, predicting: float, copying: float) -> float:
    """Return the seconds of the textbook's way: numbers of images, images per second, and seconds of `copying`."""
    return copying + EPOCHS * (train + train + valid) / training + test / predicting


def _size(batch: Any) -> int:
    return len(batch[0])
