"""Find the image files below the raw folder, and the image of each id."""

import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path, PurePosixPath

from pipelines.system.errors import UserError, did_you_mean, listed, refuse, shown

IMAGE_EXTENSIONS = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".avif"),
    *(".ppm", ".pgm", ".pbm", ".pnm"),
)

ARRAY = ".npy"  # an array of NumPy; see `image_files`
_ENDINGS = frozenset((*IMAGE_EXTENSIONS, ARRAY))
SEVERAL = re.compile(r"(.*)\{([^{}]*,[^{}]*)\}([^{}/]*)", re.DOTALL)  # the path of an image in several files
JUNK = ("__MACOSX", "@eaDir")  # folders of previews and the like, which macOS and Synology make
_CONVERT = "This format is not read. Convert them to PNG with a tool of that format, each to a file of its own name."
_UNPACK = "Unpack these archives there."
OTHER_FORMATS = (  # which hold images, but are not read
    *(".dcm", ".dicom", ".nii", ".gz", ".mha", ".nrrd", ".heic", ".heif", ".svg", ".psd"),
    *(".jp2", ".j2k", ".jxl", ".dng", ".cr2", ".nef", ".arw", ".raw", ".tga", ".exr", ".hdr"),
    *(".npz", ".mat", ".h5", ".hdf5", ".pkl", ".tfrec", ".tfrecord", ".parquet"),
)
KINDS_OF_FILES = {
    **dict.fromkeys(OTHER_FORMATS, _CONVERT),
    **dict.fromkeys((".zip", ".7z", ".tar", ".tgz", ".rar", ".bz2", ".xz"), _UNPACK),
    "": "If these are images, add the extension of their format to each name, such as .png or .jpg.",
}


def natural_key(text: str) -> tuple[tuple[str | int, ...], str]:
    """Return a sort key that compares runs of digits as numbers: `2` comes before `10`."""
    runs = re.split("([0-9]+)", text)  # text at even places, digits at odd ones
    return tuple(int(run) if place % 2 else run for place, run in enumerate(runs)), text


def normal(text: str) -> str:
    """Return `text` in Unicode's composed form: some systems store `ä` in file names as `a` and a combining mark."""
    return text if text.isascii() else unicodedata.normalize("NFC", text)


def without_extension(name: str) -> str:
    """Return an id or path without its image extension; other dots are part of the name."""
    stem, dot, extension = name.rpartition(".")
    return stem if dot + extension.lower() in _ENDINGS else name


def _has_ending(name: str) -> bool:
    return without_extension(name) != name


def file_name(path: str) -> str:
    """Return the last part of a POSIX path."""
    return path.rpartition("/")[2]


def posix(folder: str) -> str:
    """Return `train/` and `./train` as `train`, and the raw folder itself as an empty string."""
    path = PurePosixPath(folder).as_posix()
    return "" if path == "." else path


def files_of(path: str) -> list[str]:
    """Return the files of an image: several if its channels are in files of their own.

    `train/a{_red,_green}.png` is the path of an image in the files `train/a_red.png` and `train/a_green.png`.
    """
    if "{" not in path or not (several := SEVERAL.fullmatch(path)):
        return [path]
    start, endings, extension = several.groups()
    return [f"{start}{ending}{extension}" for ending in endings.split(",")]


def common_name(path: str) -> str:
    """Return the path that the files of an image have in common: `train/a.png` of `train/a{_red,_green}.png`."""
    several = SEVERAL.fullmatch(path) if "{" in path else None
    return several[1] + several[3] if several else path


def from_raw(raw: Path | str, path: str) -> str:
    """Return a path relative to the raw folder as one from the working folder.

    `../images/1.png` is beside the raw folder, even where that is a link to another place.
    """
    return f"{Path(raw).parent}/{path[3:]}" if path.startswith("../") else f"{raw}/{path}"


def files_at(raw: Path | str, path: str) -> list[str]:
    """Return the files of an image, whose path is relative to `raw`, as paths from the working folder."""
    if "{" not in path and not path.startswith("../"):  # the usual case, for speed
        return [f"{raw}/{path}"]
    return [from_raw(raw, name) for name in files_of(path)]


def join_channels(images: Sequence[str], endings: Sequence[str], where: str) -> list[str]:
    """Return one path for the files of each image, as `files_of` reads it; sorted as text.

    endings: of the names of the files, one per channel, without extension (`data.channel_files`). Files with another
    ending are left out. Raises `UserError`, with the folder `where`, if a file of an image is missing.
    """
    found: dict[tuple[str, str], set[str]] = {}
    longest_first = sorted(endings, key=len, reverse=True)
    for image in images:
        stem = without_extension(image)
        if ending := next((each for each in longest_first if stem.endswith(each)), None):
            found.setdefault((stem.removesuffix(ending), image[len(stem) :]), set()).add(ending)
    names = f"data.channel_files ({', '.join(endings)})"
    if images and not found:
        raise UserError(f"{where}: no image has a name with an ending of {names}, such as {shown(images[0])}.")
    lacking = [
        f"{stem}: no {' or '.join(each + extension for each in endings if each not in have)}"
        for (stem, extension), have in sorted(found.items())
        if len(have) < len(endings)
    ]
    refuse(f"{where}: images without a file for each of {names}", lacking, "Add these files, or correct the setting.")
    return sorted(f"{stem}{{{','.join(endings)}}}{extension}" for stem, extension in found)


def image_files(raw: Path, folder: str, key: str, endings: Sequence[str] = ()) -> list[str]:
    """Return the images at any depth below `raw/folder`: POSIX paths relative to `raw`, sorted as text.

    endings: `data.channel_files`, if the channels of an image are in files of their own. Hidden files and folders are
    skipped; symbolic links are followed. `.npy` files are images where there are no others. There is no `stat` per
    file. Raises `UserError` for a missing folder, which the setting `key` names, a broken link, and a name not in
    UTF-8.
    """
    top = posix(folder)
    if not Path(from_raw(raw, top)).is_dir():
        raise UserError(_no_folder(raw, top, key))
    images: list[str] = []
    arrays: list[str] = []
    broken: list[str] = []
    pending = [top and f"{top}/"]
    while pending:
        prefix = pending.pop()
        with os.scandir(from_raw(raw, prefix)) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in JUNK:
                    continue
                if entry.is_dir():
                    pending.append(f"{prefix}{entry.name}/")
                elif entry.name.lower().endswith(IMAGE_EXTENSIONS):
                    (images if entry.is_file() else broken).append(prefix + entry.name)
                elif entry.name.lower().endswith(ARRAY):
                    arrays.append(prefix + entry.name)
    refuse(f"{raw / top}: broken links", sorted(broken), "Correct or remove them.")
    images = images or arrays
    try:
        "".join(images).encode()
    except UnicodeEncodeError:
        names = sorted(ascii(image) for image in images if re.search("[\ud800-\udfff]", image))
        raise UserError(f"{raw}: file names that are not UTF-8, {listed(names)}. Rename them.") from None
    if endings:
        return join_channels(images, endings, str(raw / top))
    if "{" in "".join(images):
        odd = sorted(image for image in images if len(files_of(image)) > 1)
        refuse(f"{raw / top}: names with {{…,…}}, which would mean several files", odd, "Rename these files.")
    return sorted(images)


def _no_folder(raw: Path, top: str, key: str) -> str:
    """Return the message that the setting `key` names no folder: which one may be meant, and what there is."""
    folders = sorted(path.relative_to(raw).as_posix() for path in (*raw.glob("*/"), *raw.glob("*/*/")))
    same = [name for name in folders if file_name(name).casefold() == file_name(top).casefold()]
    hint = f" Did you mean {same[0]!r}?" if same else did_you_mean(top, folders)
    first = [name for name in folders if "/" not in name]
    there = f"Correct {key}. {raw} has the folders: {', '.join(map(shown, first[:20])) or 'none'}."
    if loose := sum(path.suffix.lower() in IMAGE_EXTENSIONS for path in raw.iterdir()):
        there += f' {loose:,} images are in no folder; for these, set {key} = ".".'
    return f"There is no folder {raw / top}, which {key} names.{hint} {there}"


def no_images(raw: Path, folder: str, key: str) -> str:
    """Return the message that `raw/folder`, which the setting `key` names, has no images: what it holds instead."""
    top = raw / posix(folder)
    kinds = Counter(Path(name).suffix.lower() for _, _, names in os.walk(top) for name in names if name[0] != ".")
    counts = [f"{count:,} {f'{kind} files' if kind else 'files without an extension'}" for kind, count in kinds.items()]
    remedy = f"Set {key} to the folder of the images."
    if kinds:
        remedy = KINDS_OF_FILES.get(max(kinds, key=lambda kind: kinds[kind]), remedy)
    return f"{top} holds no images: {', '.join(counts[:5]) or 'no files'}. {remedy}"


def images_by_id(ids: Iterable[str], images: Sequence[str], folder: str) -> dict[str, list[str]]:
    """Return for each id, in `normal` form, the `images` that match it: several if it is ambiguous.

    An id is compared with the path from the raw folder, then the path from `folder`, then the file name, then each of
    these without extension. The first form that matches any image counts. Ids without a match are left out.
    """
    top = posix(folder)
    below = len(top) + 1 if top else 0
    cuts: list[Callable[[str], str]] = [str, lambda image: image[below:], file_name]
    forms: list[Callable[[str], str]] = [*cuts, *(lambda image, cut=cut: without_extension(cut(image)) for cut in cuts)]
    pending = {normal(identifier) for identifier in ids}
    names = images if not any("{" in image for image in images) else list(map(common_name, images))
    # What cannot match is not compared: among millions of ids, each look-up takes longer.
    nested = any("/" in identifier for identifier in pending)
    if not any(map(_has_ending, pending)) and all(map(_has_ending, names)):
        forms = forms[len(cuts) :]
    found: dict[str, list[str]] = {}
    for form in forms:
        matches: dict[str, list[str]] = {}
        for image, name in zip(images, map(form, names), strict=True):
            if (nested or "/" not in name) and (identifier := normal(name)) in pending:
                matches.setdefault(identifier, []).append(image)
        found |= matches
        pending -= matches.keys()
        if not pending:
            break
    return found
