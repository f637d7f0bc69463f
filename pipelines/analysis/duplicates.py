"""Find images that are in a split twice: the same bytes, the same pixels, nearly the same picture, or its mirror image.

Near duplicates are found by a perceptual hash: the signs of the low frequencies of a picture's luminance, from its
discrete cosine transform (pHash: C. Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010).
Signs do not depend on contrast, and mirroring a picture only flips the signs of the odd horizontal frequencies.  The
distance of two hashes is the number of different signs; pictures with near hashes are then compared directly.  A
picture with fewer pixels than the hash has frequencies holds too little: it is a duplicate only of an equal picture,
and is left out before pictures are compared, because thousands of such pictures may have nearly one hash.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt
import pandas as pd
import torch
from scipy.fft import dctn
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from pipelines.dataset.channels import Pixels
from pipelines.dataset.fingerprints import fingerprint_of, fingerprints
from pipelines.dataset.image_paths import files_at
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.images import place_of, shorter_side
from pipelines.dataset.packed import PackedImages
from pipelines.dataset.splits import SPLITS
from pipelines.dataset.tables import spreadsheet_safe
from pipelines.dataset.targets import JOINT, encode
from pipelines.models.device import Hardware
from pipelines.settings.metrics import NUMBERS
from pipelines.settings.running_sections import AuditSettings
from pipelines.system.errors import UserError
from pipelines.system.watch import Watch, unwatched

SIZE = 32  # height and width of the pictures that are hashed and compared
SIDE = 16  # frequencies per side, without the first, the mean; also the least side in pixels of a hashed picture
BITS = SIDE * SIDE - 1
KINDS = ("bytes", "pixels", "near", "mirrored")
BETWEEN = ("train-valid", "train-test", "valid-test", "train-train", "valid-valid", "test-test")
LUMINANCE = np.array([0.299, 0.587, 0.114], np.float32)
LEAST_CONTRAST = 4.0  # standard deviation, of 255: below it the signs are noise
COLOUR_BOUND = 24.0  # largest mean absolute difference, of 255, between the colours of two pictures minus luminance
TOLERANCE = 0.1  # of a number's standard deviation, between the targets of two images of one thing
BLOCK = 4096  # images in a step
JUDGED_AT_ONCE = 1 << 18  # pairs; after each the number found is checked
MOST_PAIRS = 2_000_000  # a longer list would fill the memory

Places = npt.NDArray[np.int64]
Marks = npt.NDArray[np.uint64]
Bools = npt.NDArray[np.bool_]


def find_pairs(
    images: ImageSet,
    pixels: Pixels,
    marks: Marks,
    settings: AuditSettings,
    hardware: Hardware,
    watch: Watch = unwatched,
) -> tuple[pd.DataFrame, int]:
    """Return the pairs of duplicates in the split table: `kind`, `distance`, `first`, `second`, `between`, `conflict`;
    and the number of images with a near hash that were left out because they are too small.

    pixels, marks: of `small_copies`.  Near images have hashes that differ in at most `distance` signs, a luminance with
    at least `correlation`, and similar colours.  first, second: row numbers of the table, train before valid before
    test.  Of n equal images (or images of one hash) n - 1 pairs are listed, each with the first one, which alone is
    compared with other images.  conflict: both are labelled, with different targets (see `_differ`).
    """
    table, raw = images.table, images.raw
    parts = table["split"].map({name: number for number, name in enumerate(SPLITS)}).to_numpy()
    order = np.argsort(parts, kind="stable")  # a leader is the first of equal images: a train row, if there is one
    same_bytes, heads = _equal("bytes", marks[order], order)
    same_pixels, heads = _equal("pixels", _full_keys(images, pixels, heads, watch), heads)
    signs, flat = _signs(pixels, heads, watch)
    judge = _Judge(table, raw, pixels, settings.correlation)
    same_hash, heads, signs = _same_hash(heads[~flat], signs[~flat], judge)
    near = _near(heads, signs, settings.distance, judge, hardware, watch)
    pairs = pd.concat([same_bytes, same_pixels, same_hash, near], ignore_index=True)
    ends = np.sort(parts[pairs[["first", "second"]].to_numpy(np.int64)], axis=1)
    names = np.array(SPLITS)
    pairs["between"] = [f"{names[one]}-{names[two]}" for one, two in ends.tolist()]
    labelled = ends[:, 1] < SPLITS.index("test")
    pairs["conflict"] = labelled
    pairs.loc[labelled, "conflict"] = _differ(images, *(pairs.loc[labelled, end] for end in ("first", "second")))
    return pairs, int(judge.too_small.sum())


def _differ(images: ImageSet, first: "pd.Series[int]", second: "pd.Series[int]") -> Bools:
    """Return which pairs of labelled rows have different targets.

    Numbers differ if they are more than `TOLERANCE` of their standard deviation apart; a missing one never does.
    """
    texts = images.table["label"].to_numpy()
    if images.task != NUMBERS:
        different: Bools = texts[first] != texts[second]
        return different
    known = texts[images.table["split"] != "test"].tolist()
    names = [""] * (known[0].count(JOINT) + 1) if known else []
    deviations = np.nan_to_num(np.nanstd(encode(known, NUMBERS, names), axis=0))
    one, two = (encode(texts[rows].tolist(), NUMBERS, names) for rows in (first, second))
    apart: Bools = (np.abs(one - two) > TOLERANCE * deviations).any(axis=1)
    return apart


def _pairs(kind: str, distances: Places, first: Places, second: Places) -> pd.DataFrame:
    return pd.DataFrame({"kind": kind, "distance": distances, "first": first, "second": second})


def _equal(kind: str, keys: Marks, rows: Places) -> tuple[pd.DataFrame, Places]:
    """Return the pairs of `rows` with equal `keys`, each with the first one, its leader; and the leaders."""
    _, first, which = np.unique(keys, return_index=True, return_inverse=True)
    leaders = first[which].astype(np.int64)
    behind = np.flatnonzero(leaders != np.arange(len(leaders)))
    pairs = _pairs(kind, np.zeros(len(behind), np.int64), rows[leaders[behind]], rows[behind])
    return pairs, rows[np.unique(leaders)]


def _full_keys(images: ImageSet, pixels: Pixels, rows: Places, watch: Watch) -> Marks:
    """Return keys of the images of `rows`, uint64 (n,); decode only those whose small copies are equal."""
    keys = np.array([fingerprint_of(pixels[row].tobytes()) for row in rows.tolist()], np.uint64)
    _, which, counts = np.unique(keys, return_inverse=True, return_counts=True)
    shared = np.flatnonzero(counts[which] > 1)
    lines = list(images.table.iloc[rows[shared]].itertuples())
    for place, line in watch(zip(shared.tolist(), lines, strict=True), "comparing pixels", len(shared), "images"):
        picture = images.reader.open(str(line.path), place_of(line))
        keys[place] = fingerprint_of(str(picture.size).encode() + picture.tobytes())
    return keys


def _luminance(pixels: Pixels) -> npt.NDArray[np.float32]:
    channels = pixels.shape[-1]
    return pixels.astype(np.float32) @ (LUMINANCE if channels == 3 else np.full(channels, 1 / channels, np.float32))


def _signs(pixels: Pixels, rows: Places, watch: Watch) -> tuple[Bools, Bools]:
    """Return which low frequencies of `rows` are not negative, bool (n, BITS), and which rows are flat, (n,)."""
    signs = np.empty((len(rows), BITS), np.bool_)
    flat = np.empty(len(rows), np.bool_)
    starts = range(0, len(rows), BLOCK)
    for start in watch(starts, "hashing", len(starts), f"x {BLOCK} images"):
        block = slice(start, start + BLOCK)
        luminance = _luminance(pixels[rows[block]])
        flat[block] = luminance.std(axis=(1, 2)) < LEAST_CONTRAST
        low = dctn(luminance, axes=(1, 2), norm="ortho")[:, :SIDE, :SIDE]
        signs[block] = low.reshape(len(low), -1)[:, 1:] >= 0
    return signs, flat


class _Judge:
    """Compares pictures whose hashes are near."""

    def __init__(self, table: pd.DataFrame, raw: Path, pixels: Pixels, correlation: float) -> None:
        self.paths, self.raw, self.pixels, self.correlation = table["path"].to_numpy(), raw, pixels, correlation
        self.known = np.zeros(len(table), np.bool_)  # rows whose size was read
        self.too_small = np.zeros(len(table), np.bool_)  # of these: with a side of less than `SIDE` pixels

    def __call__(self, first: Places, second: Places, mirrored: bool = False) -> Bools:
        """Return which pairs of rows are nearly the same picture, bool (n,).  All must be large enough."""
        alike = np.zeros(len(first), np.bool_)
        for start in range(0, len(first), BLOCK):
            block = slice(start, start + BLOCK)
            one, two = self.pixels[first[block]], self.pixels[second[block]]
            alike[block] = self._alike(one, two[:, :, ::-1] if mirrored else two)
        return alike

    def large(self, rows: Places) -> Bools:
        """Return which of `rows` have enough pixels to be compared; the size of each file is read once."""
        asked = np.zeros(len(self.known), np.bool_)
        asked[rows] = True
        new = np.flatnonzero(asked & ~self.known)
        for row, path in zip(new.tolist(), self.paths[new].tolist(), strict=True):
            self.too_small[row] = shorter_side(Path(files_at(self.raw, path)[0])) < SIDE
        self.known[new] = True
        return ~self.too_small[rows]

    def _alike(self, one: Pixels, two: Pixels) -> Bools:
        lights = [_luminance(each) for each in (one, two)]
        centred = [each - each.mean(axis=(1, 2), keepdims=True) for each in lights]
        lengths = [np.sqrt((each**2).sum(axis=(1, 2))) for each in centred]
        products = (centred[0] * centred[1]).sum(axis=(1, 2))
        colours = [each.astype(np.float32) - light[..., None] for each, light in zip((one, two), lights, strict=True)]
        apart = np.abs(colours[0] - colours[1]).mean(axis=(1, 2, 3))
        alike: Bools = products >= self.correlation * lengths[0] * lengths[1]
        return alike & (apart <= COLOUR_BOUND)


def _same_hash(heads: Places, signs: Bools, judge: _Judge) -> tuple[pd.DataFrame, Places, Bools]:
    """Return the pairs with equal hashes, and the heads (with their signs) that remain to be compared."""
    hashes = np.packbits(signs, axis=1)
    keys = np.array([fingerprint_of(row.tobytes()) for row in hashes], np.uint64)
    order = np.argsort(keys, kind="stable")
    bounds = np.flatnonzero(np.diff(keys[order])) + 1
    kept = np.ones(len(heads), np.bool_)
    pairs: list[tuple[int, int]] = []
    for cluster in np.split(order, bounds):
        if len(cluster) > 1:
            cluster = cluster[judge.large(heads[cluster])]
        while len(cluster) > 1:  # each time with those that the last leader did not match
            leader, others = cluster[0], cluster[1:]
            alike = judge(np.full(len(others), heads[leader]), heads[others])
            pairs += [(int(heads[leader]), int(heads[other])) for other in others[alike]]
            kept[others[alike]] = False
            cluster = others[~alike]
    first, second = np.array(pairs, np.int64).reshape(-1, 2).T
    return _pairs("near", np.zeros(len(pairs), np.int64), first, second), heads[kept], signs[kept]


def _near(heads: Places, signs: Bools, distance: int, judge: _Judge, hardware: Hardware, watch: Watch) -> pd.DataFrame:
    """Return the pairs of `heads` with near hashes that are alike; a pair that is near and mirrored counts as near."""
    found, count = [_pairs("near", *np.zeros((3, 0), np.int64))], 0
    for kind, (ones, others, distances) in _blocks(signs, distance, hardware, watch):
        large = judge.large(heads[ones]) & judge.large(heads[others])
        pairs = np.stack([ones, others, distances])[:, large]
        for start in range(0, pairs.shape[1], JUDGED_AT_ONCE):
            first, second, apart = pairs[:, start : start + JUDGED_AT_ONCE]
            alike = judge(heads[first], heads[second], kind == "mirrored")
            found.append(_pairs(kind, apart[alike], heads[first[alike]], heads[second[alike]]))
            count += len(found[-1])
            if count > MOST_PAIRS:
                raise UserError(
                    f"More than {MOST_PAIRS:,} pairs of images are near duplicates with audit.distance={distance} and "
                    f"audit.correlation={judge.correlation:g}. Lower audit.distance or raise audit.correlation."
                )
    table = pd.concat(found, ignore_index=True)
    table = table.sort_values(["kind", "distance"], ascending=[False, True], kind="stable")  # near, then mirrored
    return table.sort_values("distance", kind="stable").drop_duplicates(["first", "second"])


def _blocks(
    signs: Bools, distance: int, hardware: Hardware, watch: Watch
) -> Iterator[tuple[str, tuple[Places, Places, Places]]]:
    """Yield a kind, and the places and distances of pairs with near hashes; each pair once per kind.

    The product of two hashes of 1 and -1 is the number of equal signs minus that of different ones.  It is computed for
    the even and the odd horizontal frequencies: the sum compares the pictures, the difference one picture with the
    mirror image of the other.  Both are integers up to 128, which bfloat16 represents exactly.
    """
    hashes = torch.from_numpy(signs).to(hardware.device, hardware.dtype) * 2 - 1
    odd = torch.arange(SIDE).repeat(SIDE)[1:] % 2 == 1
    parts = [hashes[:, ~odd].contiguous(), hashes[:, odd].contiguous()]
    starts = range(0, len(signs), BLOCK)
    corners = [(top, left) for top in starts for left in starts if top <= left]
    for top, left in watch(corners, "comparing", len(corners), f"x {BLOCK} x {BLOCK} images"):
        evens, odds = (part[top : top + BLOCK] @ part[left : left + BLOCK].T for part in parts)
        rows, columns = (evens + odds.abs() >= BITS - 2 * distance).nonzero().T
        ordered = rows + top < columns + left
        rows, columns = rows[ordered], columns[ordered]
        even, odd_ones = evens[rows, columns].long(), odds[rows, columns].long()
        for kind, product in (("near", even + odd_ones), ("mirrored", even - odd_ones)):
            near = product >= BITS - 2 * distance
            found = (rows[near] + top, columns[near] + left, (BITS - product[near]) // 2)
            first, second, distances = (each.cpu().numpy() for each in found)
            yield kind, (first, second, distances)


def groups_of(pairs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return `id` and `group` of all labelled rows that pairs connect; groups are numbered in order of the rows."""
    labelled = (table["split"] != "test").to_numpy()
    ties = pairs[labelled[pairs["first"]] & labelled[pairs["second"]]]
    numbers = _components(ties, len(table))
    sizes = np.bincount(numbers, minlength=len(table))
    rows = np.flatnonzero(sizes[numbers] > 1)
    names = {number: str(place) for place, number in enumerate(dict.fromkeys(numbers[rows].tolist()), 1)}
    groups = [names[number] for number in numbers[rows].tolist()]
    return pd.DataFrame({"id": table["id"].to_numpy()[rows], "group": groups}, dtype=str)


def with_twin_in_train(pairs: pd.DataFrame, table: pd.DataFrame) -> Bools:
    """Return which rows have a duplicate among the train rows, bool (N,): an equal one, or one near an equal one."""
    hidden = (pairs["kind"].isin(("bytes", "pixels")) | (pairs["distance"] == 0) & (pairs["kind"] == "near")).to_numpy()
    numbers = _components(pairs[hidden], len(table))  # rows of one leader, which alone was compared with others
    train = (table["split"] == "train").to_numpy()
    trained = np.bincount(numbers, weights=train, minlength=len(table))
    first, second = (numbers[pairs[end].to_numpy()[~hidden]] for end in ("first", "second"))
    near = np.zeros(len(table), np.bool_)
    np.logical_or.at(near, first, trained[second] > 0)
    np.logical_or.at(near, second, trained[first] > 0)
    twins: Bools = near[numbers] | (trained[numbers] - train > 0)
    return twins


def _components(pairs: pd.DataFrame, count: int) -> Places:
    """Return the number of the connected component, by `pairs`, of each of `count` rows."""
    ends = pairs["first"].to_numpy(), pairs["second"].to_numpy()
    numbers: Places = connected_components(coo_array((np.ones(len(pairs)), ends), (count, count)), directed=False)[1]
    return numbers


def most_telling(pairs: pd.DataFrame, most: int) -> pd.DataFrame:
    """Return at most `most` of `pairs`: those with conflicting labels, then those across the split, then the others.

    Each kind gets half of the remaining room while others follow.  A kind that does not fit is sampled over all
    distances: the nearest pairs are the surest, the farthest show whether the distance is well chosen.
    """
    places = {name: number for number, name in enumerate(BETWEEN)}
    importance = pairs["between"].map(places).where(~pairs["conflict"], -1)
    ordered = pairs.assign(importance=importance).sort_values(["importance", "distance"], kind="stable")
    chosen = []
    waiting = importance.nunique()
    for _, alike in ordered.groupby("importance"):
        waiting -= 1
        room = min(-(-most // 2) if waiting else most, len(alike))
        chosen.append(alike.iloc[np.linspace(0, len(alike) - 1, room).round().astype(int)])
        most -= room
    return pd.concat(chosen)[[*pairs]] if chosen else pairs


def listing(pairs: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return `pairs` as a table with id, split, label and path of both images, safe to open in a spreadsheet."""
    columns: dict[str, object] = {"kind": pairs["kind"].to_numpy(), "distance": pairs["distance"].to_numpy()}
    for number, end in enumerate(("first", "second"), 1):
        rows = table.iloc[pairs[end].to_numpy()]
        for name in ("id", "split", "label", "path"):
            columns[f"{name}_{number}"] = [spreadsheet_safe(text) for text in rows[name]]
    columns["conflict"] = np.where(pairs["conflict"], "yes", "no")
    return pd.DataFrame(columns)


def small_copies(images: ImageSet, by: Literal["time", "bytes"], watch: Watch = unwatched) -> tuple[Pixels, Marks]:
    """Return all images of the split table, uint8 (N, 32, 32, C), cached as for input.size 32; and fingerprints."""
    count = len(images.table)
    pixels, marks = np.empty((count, SIZE, SIZE, images.channels), np.uint8), np.empty(count, np.uint64)
    for part in (images.part(test=False), images.part(test=True)):
        if len(part):
            places = part.rows.index.to_numpy()
            marks[places] = fingerprints(part, watch)
            pixels[places] = PackedImages(part, SIZE, by, watch).whole()
    return pixels, marks
