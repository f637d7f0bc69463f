"""Writing the files of a raw folder."""

from pathlib import Path


def touch(folder: Path, *names: str) -> None:
    """Write a file that stands for an image under each of `names` below `folder`."""
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"image")


def write(path: Path, content: str | bytes) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path
