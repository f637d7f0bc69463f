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


def noise(*shape: int, seed: int = 0) -> npt.NDArray[np.uint8]:
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)
