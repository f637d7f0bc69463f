"""Take the class of an image from its folder, and refuse folders that are no classes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path, PurePosixPath

from pipelines.dataset.image_paths import posix
from pipelines.settings.data_sections import DataSettings
from pipelines.settings.overrides import toml
from pipelines.system.errors import UserError, few, refuse, shown

TRAINING, TESTING = ("train", "training"), ("test", "testing", "holdout")
UNLABELLED = (*TESTING, "unlabeled", "unlabelled")
# Folders of segmentation data, as parts of their names.
PICTURES, MASKS = ("image", "img", "photo", "picture", "input"), ("mask", "label", "annotation", "segment", "ground")
SPLIT_NAMES = {*TRAINING, *TESTING, "val", "valid", "validation", "dev", "eval"}
Folders = Mapping[str, Sequence[tuple[str, ...]]]  # the folders below each first folder, one entry per image


def labels_of(ids: Sequence[str], raw: Path, data: DataSettings) -> list[str]:
    """Return the class of each image: the name of its folder on the level `data.class_level`, or what
    `in_class_folders` returns.

    ids: the paths below `data.train_images`. Raises `UserError` for images without a folder on that level, and for
    first folders that look like the parts of a split, or like a level above the classes.
    """
    if data.class_folders:
        return in_class_folders(ids, raw, data)
    folders = [PurePosixPath(name).parts[:-1] for name in ids]
    level = data.class_level - (data.class_level > 0)  # Python counts from 0
    inside = [-len(each) <= level < len(each) for each in folders]
    if not all(inside):
        loose = [name for name, found in zip(ids, inside, strict=True) if not found]
        raise UserError(_loose(raw / data.train_images, loose, data.class_level))
    if data.class_level == 1 and "class_folders" not in data.accept:
        below: dict[str, list[tuple[str, ...]]] = {}
        for each in folders:
            below.setdefault(each[0], []).append(each[1:])
        if problem := next(filter(None, (look(below, data) for look in LOOKS)), ""):
            raise UserError(f"{raw / data.train_images} {problem} {unless('class_folders', data)}")
    return [each[level] for each in folders]


def in_class_folders(names: Sequence[str], raw: Path, data: DataSettings) -> list[str]:
    """Return the class of each path below data.train_images by data.class_folders; an empty text if it is in none.

    Of two folders that hold it, the inner one counts. Raises `UserError` for a folder without an image.
    """
    entries = {}
    for entry in data.class_folders:
        folder, _, label = entry.partition("=")
        top = posix(folder.strip())
        entries[f"{top}/"] = label.strip() or top.rpartition("/")[2]
    inner_first = sorted(entries, key=len, reverse=True)
    classes, found = [], set()
    for name in names:
        top = next((top for top in inner_first if name.startswith(top)), "")
        found.add(top)
        classes.append(entries.get(top, ""))
    there = sorted({name.partition("/")[0] for name in names if "/" in name})
    remedy = f"Correct data.class_folders. {raw / data.train_images} has the folders: {few(there, 20) or 'none'}."
    refuse(f"{raw / data.train_images}: class folders without images", sorted(set(entries) - found), remedy)
    return classes


def unless(check: str, data: DataSettings) -> str:
    """Return how to overrule `check`; the end of its message."""
    return f"Or, if it is right as it is: data.accept = {toml([*data.accept, check])}"


def without_tests(images: Sequence[str], data: DataSettings) -> list[str]:
    """Return the images of class folders: without those of the test folder, if that is inside `data.train_images`."""
    top, tests = posix(data.train_images), posix(data.test_images)
    inside = bool(tests) and tests != top and f"{tests}/".startswith(f"{top}/" if top else "")
    return [image for image in images if not (inside and image.startswith(f"{tests}/"))]


def _loose(folder: Path, loose: Sequence[str], level: int) -> str:
    names = f"{len(loose)} in all: {', '.join(map(shown, loose[:3]))}{', …' if loose[3:] else ''}"
    if level == 1:
        return (
            f"{folder}: images beside the class folders, {names}. Move each into the folder of its class, or name the "
            "labels CSV in data.labels."
        )
    return f"{folder}: images that are not {abs(level)} folders deep, {names}. Correct data.class_level, now {level}."


def _joined(data: DataSettings, *names: str) -> str:
    """Return the setting that names a folder inside `data.train_images`."""
    return toml(PurePosixPath(data.train_images, *names).as_posix())


def _only_folders(below: Folders, data: DataSettings) -> str:
    """Return what is wrong with a single first folder that holds only folders, or an empty text."""
    path: tuple[str, ...] = ()
    while len(below) == 1 and all(len(each) > 0 for each in next(iter(below.values()))):
        path = (*path, *below)
        folders = next(iter(below.values()))
        below = {name: [each[1:] for each in folders if each[0] == name] for name in {each[0] for each in folders}}
    if not path:
        return ""
    inner = sorted(below)
    return (
        f"holds a single folder, {'/'.join(map(shown, path))}, which holds only folders: {few(inner, 5)}. If these are "
        f"the classes: data.train_images = {_joined(data, *path)}."
    )


def _parts_of_a_split(below: Folders, data: DataSettings) -> str:
    """Return what is wrong with first folders that are all named like parts of a split, or an empty text."""
    if not all(name.lower() in SPLIT_NAMES for name in below):
        return ""
    names = sorted(below)
    inner = {name: sorted({each[0] for each in below[name] if each}) for name in names}
    what = f"holds {', '.join(names)}: these are names of parts of a split, not of classes."
    training = next((name for name in names if name.lower() in TRAINING), names[0])
    if not inner[training]:
        return f"{what} {training} has no folders inside. Name the labels CSV in data.labels."
    testing = min(
        (name for name in names if name.lower() in TESTING), key=lambda name: TESTING.index(name.lower()), default=""
    )
    tested = f" and data.test_images = {_joined(data, testing)}" if testing else ""
    both = "" if testing else " To train on all of them together: data.class_level = 2."
    return (
        f"{what} In {training} are {few(inner[training], 5)}. If these are the classes: data.train_images = "
        f"{_joined(data, training)}{tested}.{both}"
    )


def _test_beside(below: Folders, data: DataSettings) -> str:
    """Return what is wrong with a first folder among others that is named like test images, or an empty text."""
    named = [name for name in sorted(below) if name.lower() in UNLABELLED]
    if not named:
        return ""
    classes = few([name for name in sorted(below) if name not in named], 5)
    return (
        f"holds {few(named)} beside {classes}: it would be a class. If it holds the test images: data.test_images = "
        f"{_joined(data, named[0])}."
    )


def _above_classes(below: Folders, data: DataSettings) -> str:
    """Return what is wrong with folders that hold only folders, or an empty text.

    A single name inside (`cat/images`, `dog/images`) tells no classes apart.
    """
    above = {name: folders for name, folders in below.items() if all(folders)}
    counts = Counter(name for folders in above.values() for name in {each[0] for each in folders})
    if not above or len(counts) < 2:
        return ""
    if len(above) < len(below):
        mixed = {name: folders for name, folders in above.items() if len({each[0] for each in folders}) > 1}
        if not mixed:
            return ""
        inner = sorted({each[0] for folders in mixed.values() for each in folders})
        return (
            f"holds {few(sorted(mixed))}, where images are only in inner folders: {few(inner, 5)}. If the folder of an "
            "image is its class: data.class_level = -1."
        )
    repeated = sorted(name for name, count in counts.items() if count > 1)
    same = 2 * len(repeated) >= len(counts)
    names = f", whose names repeat: {few(repeated, 5)}" if same else f": {few(sorted(counts), 5)}"
    return (
        f"holds the folders {few(sorted(below))}, and these hold only folders{names}. If the inner folders are the "
        "classes: data.class_level = 2."
    )


def _masks(below: Folders, data: DataSettings) -> str:
    """Return what is wrong with first folders that are named like pictures and their masks, or an empty text."""
    kinds = [
        [name for name in sorted(below) if any(part in name.lower() for part in kind)] for kind in (PICTURES, MASKS)
    ]
    if not all(kinds) or len({*kinds[0], *kinds[1]}) < len(below):
        return ""
    return (
        f"holds {few(sorted(below))}: these seem to be pictures and their masks, for segmentation, and not classes. If "
        f"another folder or a CSV has the classes, set data.train_images or data.labels; for pictures in {kinds[0][0]} "
        f"with a labels CSV: data.train_images = {_joined(data, kinds[0][0])}."
    )


LOOKS = (_only_folders, _parts_of_a_split, _test_beside, _masks, _above_classes)
