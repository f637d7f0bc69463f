"""Pictures: noise to make, PNGs to measure."""

from pathlib import Path

import numpy as np
import numpy.typing as npt
from PIL import Image


def png_size(path: Path) -> tuple[int, int]:
    """Width and height of a whole PNG; raises when it is anything else."""
    with Image.open(path, formats=["PNG"]) as image:
        image.load()
        return image.size


def write_squares(raw: Path, counts: dict[str, int], noisy: int, step: int, steps: int) -> None:
    """Write squares `<part>/<part><n>.png` of 8 pixels: noise below `noisy`, brighter by `step` * (n % `steps`)."""
    random = np.random.default_rng(0)
    for part, count in counts.items():
        (raw / part).mkdir(parents=True)
        for number in range(count):
            pixels = random.integers(0, noisy, (8, 8, 3)) + step * (number % steps)
            Image.fromarray(pixels.astype(np.uint8)).save(raw / part / f"{part}{number}.png")


def noise(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
