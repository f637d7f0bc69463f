"""What the sections of `gpu_check` share: the sizes, the device, and generated images in the shape of CIFAR-10."""

import shutil
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pipelines.settings.loading import load_settings

if TYPE_CHECKING:
    from pipelines.core.job import Job
    from pipelines.dataset.image_set import ImageSet
    from pipelines.models.device import Hardware
    from pipelines.settings.schema import Settings

COMPETITION = "cifar-10"
SIDE = 32  # pixels
CLASSES = 10


class Skipped(Exception):
    """A section cannot run on this machine; the text says why."""


@dataclass(frozen=True)
class Sizes:
    """How much is measured.

    overrides: of the recipes of CIFAR-10.  labelled: images.  batches, rounds: of each measurement.  seconds, side: of
    rates of matrix products, and of the matrices.  networks, extraction: names and overrides for features.  photos: how
    many, and their width and height.  digits: overrides of that recipe.  repeated: recipes of CIFAR-10 that are trained
    several times with one seed.
    """

    overrides: tuple[str, ...] = ()
    labelled: int = 24_000
    batches: int = 40
    rounds: int = 3
    seconds: float = 1.0
    side: int = 8192
    networks: tuple[str, ...] = ("resnet34", "vit_b_16")
    extraction: tuple[str, ...] = ()
    photos: tuple[int, int, int] = (6400, 500, 375)
    digits: tuple[str, ...] = ()
    repeated: tuple[str, ...] = ("default", "best")


TOY = Sizes(
    overrides=("train.batch_size=4", "model.widths=[4, 4, 4]", "input.size=8", "augment.sizes=[]", "augment.cutout=2"),
    labelled=24,
    batches=2,
    rounds=1,
    seconds=0.01,
    side=64,
    networks=("shufflenet_v2_x0_5",),
    extraction=("input.size=32",),
    photos=(24, 32, 24),
    digits=("train.epochs=2", "model.widths=[8]", "train.warmup_epochs=0"),
    repeated=("default",),
)


@dataclass
class Visit:
    """A try of one device.  found: the results of the sections so far.  until: the end, by `time.monotonic`."""

    folder: Path
    hardware: "Hardware"
    sizes: Sizes
    until: float
    found: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def on_gpu(self) -> bool:
        return self.hardware.device.type == "cuda"

    @property
    def toy(self) -> bool:
        return self.sizes is TOY

    def require_gpu(self) -> None:
        """Raise `Skipped` without a GPU."""
        if not self.on_gpu:
            raise Skipped("it needs a GPU")

    def settings(self, recipe: str, *overrides: str) -> "Settings":
        """Return settings of CIFAR-10 on this device."""
        device = f"hardware.device={self.hardware.device}"
        return load_settings(COMPETITION, recipe, [*overrides, *self.sizes.overrides, device])

    def images(self) -> "ImageSet":
        """Return generated images in the shape of CIFAR-10's; a quarter of them is for validation."""
        import pandas as pd

        from benchmarks.synthetic import make_competition
        from pipelines.dataset.image_set import ImageSet
        from pipelines.settings.layout import Layout

        count, data = self.sizes.labelled, load_settings(COMPETITION).data
        layout = Layout(self.folder, f"synthetic-{count}-1")
        if not layout.raw.exists():
            try:
                make_competition(self.folder, COMPETITION, SIDE, count, 1)
            except BaseException:  # the next section makes them again
                shutil.rmtree(layout.raw, ignore_errors=True)
                raise
        numbers = range(1, count + 1)
        table = pd.DataFrame(
            {
                "id": [str(number) for number in numbers],
                "path": [f"{data.train_images}/{number}.png" for number in numbers],
                "label": [str(number % CLASSES) for number in numbers],
                "split": ["train" if number % 4 else "valid" for number in numbers],
            }
        )
        return ImageSet(table, table, layout.raw, layout.cache, [str(number) for number in range(CLASSES)])

    def job(self, settings: "Settings", images: "ImageSet", run: str) -> "Job":
        """Return a training on `images` whose state is kept in a folder of its own."""
        from pipelines.core.job import Job
        from pipelines.models.device import choose_hardware
        from pipelines.settings.layout import Layout

        train, valid = images.divide(settings)
        files = Layout(self.folder, "jobs").run(run).training
        return Job(settings, train, valid, settings.train.epochs, files, choose_hardware(settings.hardware))


def rounded(value: float, digits: int = 4) -> float:
    """Return `value` with so many significant digits."""
    return float(f"{value:.{digits}g}")


def installed(module: str) -> bool:
    """Return whether `module` can be imported."""
    try:
        return find_spec(module) is not None
    except ModuleNotFoundError:
        return False
