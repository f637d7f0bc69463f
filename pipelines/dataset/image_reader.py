"""Open the images of a competition by their paths; without torch, because decoding processes import it."""

from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from pipelines.dataset.channels import PLANE, Picture, merge
from pipelines.dataset.image_paths import files_at
from pipelines.dataset.images import UnreadableImage, decode, settled_warnings


@dataclass(frozen=True)
class Reader:
    """Opens images. raw: the folder that paths start from. white: `data.white`. channels: `input.channels`."""

    raw: Path
    white: int = 0
    channels: int = 3

    def open(self, path: str, place: str) -> Picture:
        """Return the image of a `path` as in split.csv: upright, 8 bits, with `channels` channels.

        Raises `UnreadableImage` with `place`, the row that names it.
        """
        with settled_warnings():
            return self.decode(path, place)

    def decode(self, path: str, place: str) -> Picture:
        """Return what `open` returns; for use inside `settled_warnings`."""
        first, *others = files_at(self.raw, path)
        if not others:
            return decode(first, place, self.white, self.channels)
        planes: list[Image.Image] = []
        for file in map(Path, (first, *others)):
            try:
                plane = decode(file, place, self.white, PLANE)
            except UnreadableImage as error:
                raise UnreadableImage(file, place, f"{file.name}: {error.problem}") from None
            assert isinstance(plane, Image.Image)
            if planes and plane.size != planes[0].size:
                (width, height), (wide, high) = plane.size, planes[0].size
                problem = f"{file.name} has {width} x {height} pixels, and {Path(first).name} has {wide} x {high}"
                raise UnreadableImage(file, place, problem)
            planes.append(plane)
        if len(planes) != self.channels:
            problem = f"it has {len(planes)} channels (data.channel_files), and input.channels is {self.channels}"
            raise UnreadableImage(Path(first), place, problem)
        return merge(planes)
