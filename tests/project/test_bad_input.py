"""Thousands of generated inputs, well-formed and damaged: each ends in the right result or in one clear message.

The cases run in processes of their own, under limits of time for a case and of memory for all of them.
They are the same every time.
"""

import io
import json
import lzma
import math
import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import sys
import tarfile
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import Any, Literal, get_args, get_origin, get_type_hints

import py7zr
import pytest
from hypothesis import HealthCheck, Phase, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from PIL import Image
from py7zr.properties import FILTER_COPY

from pipelines import command, split
from pipelines.dataset.archives import unpack
from pipelines.dataset.images import MAX_PIXELS, fit, open_image
from pipelines.dataset.splits import read_split_csv
from pipelines.dataset.tables import INVISIBLE
from pipelines.settings.data_sections import CHECKS
from pipelines.settings.loading import load_settings, merge, to_dict
from pipelines.settings.schema import SECTIONS, Settings

FAST_CASES, SLOW_CASES = 40, 2_000  # of each of the five kinds
SECONDS_A_CASE = 60  # of milliseconds, on any machine however busy
MEMORY_BYTES = 700 << 20  # resident, of which about 150 MB are the interpreter and its libraries
ADDRESS_BYTES = 6 << 30
LONGEST_MESSAGE = 5_000
ROOT = Path(__file__).parents[2]

TEXT = st.text(st.characters(codec="utf-8"), max_size=12)
TOML = (  # random texts may be alike, or stand for a missing value
    '[data]\nlabels = "labels.csv"\nsample_submission = "sample.csv"\n'
    f"accept = {list(CHECKS)}\n[split]\nvalid_ratio = 0.3\n"
)
LABELLED, TEST = 12, 4
Draw = Callable[[st.SearchStrategy[Any]], Any]


# How a case is run and judged


class Hang(BaseException):
    """A case took too long; not an `Exception`, which the project could take for damage."""


def _ring(signal_number: int, frame: object) -> None:
    raise Hang(f"a case took more than {SECONDS_A_CASE} s")


@contextmanager
def in_time() -> Iterator[None]:
    signal.signal(signal.SIGALRM, _ring)
    signal.setitimer(signal.ITIMER_REAL, SECONDS_A_CASE)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)


class Sandbox:
    """A working folder within a watched one: what a case leaves outside of `allowed` is a fault."""

    def __init__(self, folder: Path) -> None:
        self.outside, self.work = folder, folder / "within" / "work"
        self.work.mkdir(parents=True)
        self.results: Counter[str] = Counter()
        self.allowed: list[Path] = []
        self.before: set[str] = set()

    def settle(self, *allowed: Path) -> None:
        """Take what is there now for what was there before; `allowed` may come and is removed after each case."""
        self.allowed = list(allowed)
        self.before = self._listing()

    def _listing(self) -> set[str]:
        found = {f"{folder}/{name}" for folder, _, names in os.walk(self.outside) for name in (*names, "")}
        return {path for path in found if not path.endswith("/.split.lock")}  # which holds nothing, and stays

    def end(self, action: Callable[[], Any]) -> Any:
        """Return what `action` returns, or None where it ends in status 2 and one line, or a list of mistakes."""
        result: list[Any] = []
        said = io.StringIO()
        with in_time(), redirect_stdout(io.StringIO()), redirect_stderr(said):
            status = command.run(lambda arguments: result.append(action()))
        self.message = message = said.getvalue()
        self.results["cases"] += 1
        if status == 0:
            assert message == ""
            self.results["answered"] += 1
            return result[0]
        assert status == command.EXIT_USER_ERROR
        assert message.startswith("error: ") and message.endswith("\n")
        first, *more = message.splitlines()
        assert not more or re.search(r" has \d+ mistakes:$", first), message
        assert 20 < len(message) < LONGEST_MESSAGE, message
        assert "Traceback" not in message and "MemoryError" not in message, message
        assert not any(path.exists() for path in self.allowed), "something was left behind"
        self.results["refused"] += 1
        return None

    def refuse(self, action: Callable[[], Any]) -> str:
        """Return the message in which `action` ends, with nothing left behind."""
        self.end(action)
        assert self.results["answered"] == 0
        self.clean()
        return self.message

    def clean(self) -> None:
        """See that nothing was made but what is allowed, and remove that."""
        for path in self.allowed:
            if path.is_dir():
                shutil.rmtree(path)
            path.unlink(missing_ok=True)
        assert self._listing() == self.before

    def right(self, holds: bool) -> None:
        """Count a result that was known beforehand, which must hold."""
        assert holds
        self.results["right"] += 1


def damaged(draw: Draw, content: bytes, tokens: list[bytes]) -> bytes:
    """Cut, delete, insert, overwrite or double parts of `content`, one to four times."""
    for _ in range(draw(st.integers(1, 4))):
        # a share of the length: an archive's own length changes with the time that it holds
        start = draw(st.integers(0, 1_000)) * len(content) // 1_000
        end = min(len(content), start + draw(st.integers(1, 40)))
        new = draw(st.one_of(st.binary(max_size=8), st.sampled_from(tokens)))
        match draw(st.sampled_from(("overwrite", "insert", "delete", "double", "cut"))):
            case "overwrite":
                content = content[:start] + new + content[start + len(new) :]
            case "insert":
                content = content[:start] + new + content[start:]
            case "delete":
                content = content[:start] + content[end:]
            case "double":
                content = content[:end] + content[start:]
            case "cut":
                content = content[:start]
    return content


NUMBERS = [
    b"\0\0\0\0",
    b"\xff\xff\xff\xff",
    b"\xff\xff\xff\x7f",
    b"\x7f\xff\xff\xff",
    b"\0\0\0\x80",
    b"\0\x01\0\0",
    b"\xff" * 8,
]


# Labels and the stage that reads them


def competition(sandbox: Sandbox) -> Path:
    raw = sandbox.work / "data/tiny/raw"
    for part, count in (("train", LABELLED), ("test", TEST)):
        (raw / part).mkdir(parents=True)
        for number in range(1, count + 1):
            (raw / part / f"{number}.png").write_bytes(b"image")
    (raw / "labels.csv").write_text("id,label\n" + "".join(f"{n},{'ab'[n % 2]}\n" for n in range(1, LABELLED + 1)))
    (raw / "sample.csv").write_text("id,label\n" + "".join(f"{n},a\n" for n in range(1, TEST + 1)))
    (sandbox.work / "tiny.toml").write_text(TOML)
    os.chdir(sandbox.work)
    data = sandbox.work / "data/tiny"
    sandbox.settle(data / "split.csv", data / "split.json", data / "train_valid_test")
    return raw


def table_text(draw: Draw, rows: list[list[str]]) -> bytes:
    """Write a CSV as one of the many programs that write CSVs might."""
    end = draw(st.sampled_from(("\n", "\r\n", "\r")))
    blanks = draw(st.booleans())
    quoted = draw(st.booleans())
    lines = []
    for row in rows:
        cells = []
        for value in row:
            if quoted or any(sign in value for sign in ',"\r\n'):
                value = '"' + value.replace('"', '""') + '"'
            elif blanks:
                value += " "
            cells.append(value)
        lines.append(",".join(cells) + end + (end if blanks else ""))
    text = "".join(lines)
    return (b"\xef\xbb\xbf" if draw(st.booleans()) else b"") + text.encode()


def names(draw: Draw, count: int) -> list[str]:
    """So many different texts, without spaces at their ends and not empty."""
    stripped = TEXT.map(lambda text: text.strip(INVISIBLE)).filter(
        lambda text: text != "" and not text.startswith("\ufeff")
    )
    return draw(st.lists(stripped, min_size=count, max_size=count, unique=True))


CSV_TOKENS = [
    b'"',
    b",",
    b"\n",
    b"\r",
    b"\0",
    b"\xff",
    b'"""',
    b"\xe2\x80\xa8",
    b"../",
    b"9" * 5000,
    b"train/1.png",
    b"=",
]


def labels_case(draw: Draw, sandbox: Sandbox, raw: Path) -> None:
    classes = names(draw, draw(st.integers(1, 4)))
    order = draw(st.permutations(range(1, LABELLED + 1)))
    rows = [
        [draw(st.sampled_from(("{}", "{}.png", "train/{}.png"))).format(n), classes[n % len(classes)]] for n in order
    ]
    whole = table_text(draw, [names(draw, 2), *rows])
    content = damaged(draw, whole, CSV_TOKENS) if draw(st.booleans()) else whole
    (raw / "labels.csv").write_bytes(content)

    def act() -> Any:
        split.main(["tiny.toml"])
        return read_split_csv(sandbox.work / "data/tiny/split.csv")

    table = sandbox.end(act)
    if content == whole:
        labelled = table[table["split"] != "test"]
        sandbox.right(labelled[["id", "label"]].to_numpy().tolist() == rows)
        assert list(labelled["path"]) == [f"train/{number}.png" for number in order]
    sandbox.clean()


# Samples and submissions


def submission_case(draw: Draw, sandbox: Sandbox, raw: Path) -> None:
    import numpy as np

    from pipelines.dataset.submission import class_list, write_submission
    from pipelines.dataset.submission_check import check_submission
    from pipelines.dataset.tables import read_csv
    from tests.support.answers import answers_for

    form = draw(st.sampled_from(("labels", "probabilities")))
    header = names(draw, draw(st.integers(3, 5)))
    classes = sorted(header[1:])
    ids = [str(number) for number in draw(st.permutations(range(1, TEST + 1)))]
    columns = header[:2] if form == "labels" else header
    whole = table_text(draw, [columns, *([name, *["0.5"] * (len(columns) - 1)] for name in ids)])
    content = damaged(draw, whole, CSV_TOKENS) if draw(st.booleans()) else whole
    (raw / "sample.csv").write_bytes(content)
    settings = merge(
        Settings("x"),
        {"competition": {"submission": form}, "data": {"sample_submission": "sample.csv", "accept": ["sample_labels"]}},
        "here",
    )
    probabilities = np.random.default_rng(0).random((TEST, len(classes)), dtype=np.float32)
    written = sandbox.work / "submission.csv"
    harmed = draw(st.booleans())

    def act() -> Any:
        known = class_list(classes, settings, raw)
        answers = answers_for(probabilities, settings)
        write_submission(written, [str(n) for n in range(1, TEST + 1)], answers, known, settings, raw)
        table = read_csv(written, strip=False)
        if harmed:
            written.write_bytes(damaged(draw, written.read_bytes(), CSV_TOKENS))
        return table, check_submission(written, known, settings, raw)

    made = sandbox.end(act)
    if content == whole and not harmed:
        table, count = made
        sandbox.right(count == TEST and list(table.iloc[:, 0]) == ids and list(table.columns) == columns)
    written.unlink(missing_ok=True)
    sandbox.clean()


# Settings


def value_of(kind: Any) -> st.SearchStrategy[Any]:
    """Values of the type that a setting has, most of them allowed."""
    if get_origin(kind) is Literal:
        return st.sampled_from(get_args(kind))
    if get_origin(kind) is tuple:
        return st.lists(value_of(get_args(kind)[0]), max_size=4)
    return {
        int: st.one_of(st.integers(0, 40), st.integers(-(2**70), 2**70)),
        float: st.one_of(st.floats(0, 1), st.floats(), st.integers(0, 10**400)),
        bool: st.booleans(),
        str: st.one_of(
            TEXT, st.sampled_from(("../x", "/tmp", "a" * 300, "labels.csv", "train", "a\0b", ".", "sample.csv"))
        ),
    }[kind]


ODD_VALUES: st.SearchStrategy[Any] = st.recursive(
    st.one_of(st.booleans(), st.integers(), st.floats(), TEXT),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(TEXT, inner, max_size=3)),
    max_leaves=6,
)


def toml(value: Any) -> str:
    """Return `value` in TOML."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):  # JSON's escapes are TOML's too, but for DEL
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{toml(name)} = {toml(each)}" for name, each in value.items()) + "}"
    return repr(value)


TOML_TOKENS = [
    b'"',
    b"[",
    b"]]",
    b"=",
    b"\n",
    b"\0",
    b"\xff",
    b"9" * 5000,
    b"[" * 3000,
    b"{",
    b"'''",
    b"nan",
    b".",
    b"e999",
]
SETTINGS = [
    (section, name, expected) for section, kind in SECTIONS.items() for name, expected in get_type_hints(kind).items()
]
# Of these any value within the bounds goes with any other.
FREE: dict[tuple[str, str], st.SearchStrategy[Any]] = {
    ("split", "seed"): st.integers(0, 2**63 - 1),
    ("train", "epochs"): st.integers(1, 10**6),
    ("train", "lr"): st.floats(1e-9, 1e3),
    ("train", "seed"): st.integers(0, 2**63 - 1),
    ("augment", "flip"): st.booleans(),
    ("predict", "mirror"): st.booleans(),
    ("competition", "title"): TEXT.filter(str.isprintable),
    ("hardware", "workers"): st.integers(-1, 100),
    ("kaggle", "dataset_sources"): st.lists(st.sampled_from(["you/weights", "kaggle.com/datasets/you/w?select=a"])),
}


def settings_case(draw: Draw, sandbox: Sandbox, raw: Path) -> None:
    chosen: dict[str, dict[str, Any]] = {"data": {"labels": "labels.csv", "sample_submission": "sample.csv"}}
    chosen["split"] = {"valid_ratio": 0.3}
    kind = draw(st.sampled_from(("valid", "typed", "odd", "damaged", "override")))
    for section, name in draw(st.lists(st.sampled_from(list(FREE)), max_size=5)):
        chosen.setdefault(section, {})[name] = draw(FREE[section, name])
    overrides: list[str] = []
    if kind in ("typed", "override"):
        for section, name, expected in draw(st.lists(st.sampled_from(SETTINGS), min_size=1, max_size=4)):
            value = draw(value_of(expected))
            if kind == "override":
                overrides.append(f"{section}.{name}={draw(TEXT) if draw(st.booleans()) else toml(value)}")
            else:
                chosen.setdefault(section, {})[name] = value
    if kind == "odd":
        section = draw(st.one_of(st.sampled_from((*SECTIONS, "recipes")), TEXT))
        chosen[section] = draw(st.one_of(ODD_VALUES, st.dictionaries(TEXT, ODD_VALUES, max_size=2)))
    content = "".join(f"{toml(section)} = {toml(values)}\n" for section, values in chosen.items()).encode()
    if kind == "damaged":
        content = damaged(draw, content, TOML_TOKENS)
    path = sandbox.work / "tiny.toml"
    path.write_bytes(content)
    loaded = sandbox.end(lambda: load_settings(str(path), overrides=overrides))
    if loaded is not None:
        if kind in ("valid", "typed"):
            plain = to_dict(loaded)
            stated = [
                (plain[section][name], each) for section, values in chosen.items() for name, each in values.items()
            ]
            # an empty or zero value of [input], and an empty slug, are filled in
            sandbox.right(all(now == value for now, value in stated if value or type(value) is bool))
        words = ["tiny.toml", *(["--set", *overrides] if overrides else [])]
        with in_time(), redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()) as said:
            status = command.run(split.main, words)
        assert status in (0, 2) and len(said.getvalue().splitlines()) == status // 2, said.getvalue()
    assert loaded is not None or kind != "valid"
    sandbox.clean()


# Archives


def zip_of(draw: Draw, path: Path, files: dict[str, bytes]) -> None:
    methods = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
    with zipfile.ZipFile(path, "w", draw(st.sampled_from(methods))) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def tar_of(draw: Draw, path: Path, files: dict[str, bytes]) -> None:
    form = draw(st.sampled_from((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT)))
    mode: Any = draw(st.sampled_from(("w", "w:gz", "w:bz2", "w:xz")))
    with tarfile.open(path, mode, format=form) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def seven_zip_of(draw: Draw, path: Path, files: dict[str, bytes]) -> None:
    filters = draw(st.sampled_from(([{"id": FILTER_COPY}], [{"id": py7zr.FILTER_LZMA2, "preset": 0}])))
    with py7zr.SevenZipFile(path, "w", filters=filters) as archive:
        for name, content in files.items():
            archive._writestr(content, name)  # the public method refuses the names that we want refused by ourselves


PLAIN = st.text("abc é猫-_.", min_size=1, max_size=6).filter(lambda text: text.strip(". ")[:1] not in ("", "_"))
HOSTILE = ["../x", "/x", "a/../../x", "C:/x", "a\\..\\x", "a" * 300, "a/" * 2000 + "x", "..", "a\0b", "./../x", "\n"]
ARCHIVE_TOKENS = [*NUMBERS, b"PK\3\4", b"PK\1\2", b"PK\5\6", b"../", b"ustar", b"\0" * 512, b"7z\xbc\xaf'\x1c"]


def archive_case(draw: Draw, sandbox: Sandbox, raw: Path) -> None:
    path, target = sandbox.work / "archive", sandbox.work / "target"
    make = draw(st.sampled_from((zip_of, tar_of, seven_zip_of)))
    paths = draw(st.lists(PLAIN, min_size=1, max_size=4, unique=True))
    files = {
        f"folder-{n}/{name}" if n % 2 else f"{name}-{n}": draw(st.binary(max_size=60)) for n, name in enumerate(paths)
    }
    kind = draw(st.sampled_from(("valid", "hostile", "damaged", "damaged")))
    written = dict(files)
    if kind == "hostile":
        written[draw(st.sampled_from(HOSTILE))] = b"x"
    make(draw, path, written)
    if kind == "damaged":
        whole = path.read_bytes()
        harmed = damaged(draw, whole, ARCHIVE_TOKENS)
        if harmed[:2] == whole[:2] and draw(st.booleans()):
            harmed = with_right_7z_checksums(harmed)
        path.write_bytes(harmed)
    with_libarchive = draw(st.booleans())
    unpacked = sandbox.end(lambda: unpack(path, target, with_libarchive=with_libarchive))
    if kind == "valid":
        found = {each.relative_to(target).as_posix(): each.read_bytes() for each in target.rglob("*") if each.is_file()}
        sandbox.right(found == files and unpacked.files == len(files))
    path.unlink()
    sandbox.clean()


def with_right_7z_checksums(content: bytes) -> bytes:
    """Return a damaged 7z whose header has the checksums of what it now is, so that its reader goes on."""
    if not content.startswith(b"7z\xbc\xaf'\x1c") or len(content) < 32:
        return content
    offset, size = struct.unpack("<QQ", content[12:28])
    start = content[12:28] + struct.pack("<I", zlib.crc32(content[32 + offset : 32 + offset + min(size, 1 << 20)]))
    return content[:8] + struct.pack("<I", zlib.crc32(start)) + start + content[32:]


# Images


def with_right_png_checksums(content: bytes) -> bytes:
    """Return a damaged PNG whose chunks have the checksums of what they now are, so that its reader goes on."""
    place, parts = 8, [content[:8]]
    while place + 12 <= len(content):
        size = struct.unpack(">I", content[place : place + 4])[0]
        body = content[place + 4 : place + 8 + size]
        parts += [content[place : place + 4], body, struct.pack(">I", zlib.crc32(body))]
        place += 12 + size
    return b"".join(parts)


MODES = {
    "PNG": ("RGB", "L", "RGBA", "P", "1", "I;16", "LA"),
    "JPEG": ("RGB", "L", "CMYK"),
    "BMP": ("RGB", "L", "P", "1"),
    "GIF": ("L", "P", "RGB"),
    "WEBP": ("RGB", "RGBA"),
    "TIFF": ("RGB", "L", "RGBA", "CMYK", "1", "I;16", "F", "P"),
}
IMAGE_TOKENS = [*NUMBERS, b"IHDR", b"IDAT", b"zTXt", b"Exif\0\0", b"\xff\xd8", b"\xff\xc4", b"II*\0", b"\0\0", b"\xff"]


def image_case(draw: Draw, sandbox: Sandbox, raw: Path) -> None:
    path = sandbox.work / "image"
    kind = draw(st.sampled_from(list(MODES)))
    mode = draw(st.sampled_from(MODES[kind]))
    size = draw(st.integers(1, 40)), draw(st.integers(1, 40))
    bits = {"1": 1 / 8, "I;16": 2, "RGB": 3, "LA": 2, "RGBA": 4, "CMYK": 4, "F": 4}.get(mode, 1)
    row = -(-size[0] // 8) if mode == "1" else int(size[0] * bits)
    pixels = (draw(st.binary(min_size=1, max_size=64)) * (row * size[1]))[: row * size[1]]
    image = Image.frombytes(mode, size, pixels)
    options: dict[str, Any] = {"compression": draw(st.sampled_from((None, "tiff_lzw", "tiff_deflate")))}
    image.save(path, kind, **(options if kind == "TIFF" else {"lossless": True}))
    harmed = draw(st.booleans())
    if harmed:
        content = damaged(draw, path.read_bytes(), IMAGE_TOKENS)
        path.write_bytes(with_right_png_checksums(content) if kind == "PNG" and draw(st.booleans()) else content)

    def act() -> Any:
        opened = open_image(path, "id '7', line 9 of split.csv")
        return opened, fit(opened, 8, 9)

    result = sandbox.end(act)
    if result is not None:
        opened, fitted = result
        assert opened.mode == "RGB" and fitted.shape == (8, 8, 3)
        if not harmed:
            exact = mode in ("RGB", "L") and kind not in ("JPEG", "GIF")
            sandbox.right(opened.size == size and (not exact or opened.tobytes() == image.convert("RGB").tobytes()))
    else:
        assert harmed or mode == "F"
    path.unlink()
    sandbox.clean()


# Bombs: small files that unpack to gigabytes


BOMB_BYTES = 4 << 30


def deflated_zeros(count: int) -> bytes:
    """A raw Deflate stream of `count` zeros, a multiple of 2**20; blocks that are alike are computed once."""
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    block = packer.compress(bytes(1 << 20)) + packer.flush(zlib.Z_FULL_FLUSH)
    return block * (count >> 20) + packer.flush()


def zip_bomb(path: Path, declared: int) -> None:
    """A zip whose one file unpacks to BOMB_BYTES, `declared` to be another number of bytes perhaps."""
    packed = deflated_zeros(BOMB_BYTES)
    sizes = struct.pack("<III", 0, len(packed), min(declared, 0xFFFFFFFE))
    local = b"PK\3\4" + struct.pack("<HHHHH", 20, 0, 8, 0, 33) + sizes + struct.pack("<HH", 5, 0) + b"z.png"
    entry = b"PK\1\2" + struct.pack("<HHHHHH", 20, 20, 0, 8, 0, 33) + sizes
    entry += struct.pack("<HHHHHII", 5, 0, 0, 0, 0, 0, 0) + b"z.png"
    end = b"PK\5\6" + struct.pack("<HHHHIIH", 0, 0, 1, 1, len(entry), len(local) + len(packed), 0)
    path.write_bytes(local + packed + entry + end)


def lzma2_zeros(count: int) -> bytes:
    """A raw LZMA2 stream of `count` zeros, a multiple of 2**20; chunks that are alike are computed once."""
    filters = [{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}]
    block = lzma.compress(bytes(1 << 20), lzma.FORMAT_RAW, filters=filters)
    return block[:-1] * (count >> 20) + b"\0"


def seven_zip_number(value: int) -> bytes:
    return b"\xff" + struct.pack("<Q", value)


def seven_zip_bomb(path: Path, declared: int, in_header: bool) -> None:
    """A 7z of BOMB_BYTES zeros in its one file, or where its table of contents should be; `declared` is its length."""
    number = seven_zip_number
    packed = lzma2_zeros(BOMB_BYTES)
    streams = b"\x06" + number(0) + number(1) + b"\x09" + number(len(packed)) + b"\0"
    streams += b"\x07\x0b" + number(1) + b"\0" + number(1) + b"\x21\x21\x01\x10\x0c" + number(declared)
    name = "z.png\0".encode("utf-16-le")
    files = b"\x05" + number(1) + b"\x11" + number(len(name) + 1) + b"\0" + name + b"\0"
    checksum = b"\x0a\x01" + bytes(4)
    header = (
        b"\x17" + streams + b"\0\0" if in_header else b"\x01\x04" + streams + checksum + b"\0\x08\0\0" + files + b"\0"
    )
    start = struct.pack("<QQI", len(packed), len(header), zlib.crc32(header))
    path.write_bytes(b"7z\xbc\xaf'\x1c\0\4" + struct.pack("<I", zlib.crc32(start)) + start + packed + header)


def table_bomb(count: int) -> bytes:
    """A 7z whose packed table of contents has so many nameless, empty entries."""
    number = seven_zip_number
    flags = b"\xff" * (count // 8)
    table = b"\x01\x05" + number(count) + b"\x0e" + number(len(flags)) + flags
    table += b"\x11" + number(2 * count + 1) + b"\0" + bytes(2 * count) + b"\0\0"
    packed = lzma.compress(table, lzma.FORMAT_RAW, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 1 << 16}])
    header = b"\x17\x06" + number(0) + number(1) + b"\x09" + number(len(packed)) + b"\0"
    header += b"\x07\x0b" + number(1) + b"\0" + number(1) + b"\x21\x21\x01\x10\x0c" + number(len(table)) + b"\0\0"
    start = struct.pack("<QQI", len(packed), len(header), zlib.crc32(header))
    return b"7z\xbc\xaf'\x1c\0\4" + struct.pack("<I", zlib.crc32(start)) + start + packed + header


def zip_table_bomb(path: Path) -> None:
    """A zip that holds a zip of nothing but a table of contents of two million entries."""
    count = 2_000_000
    entry = struct.pack("<4sHHHHHHIIIHHHHHII", b"PK\1\2", 20, 20, 0, 0, 0, 33, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"z"
    length = count * len(entry)
    end = struct.pack("<4sQHHIIQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, count, count, length, 4)
    end += struct.pack("<4sIQI", b"PK\6\7", 0, 4 + length, 1)
    end += struct.pack("<4sHHHHIIH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    with (
        zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive,
        archive.open("inner.zip", "w") as inner,
    ):
        inner.write(b"PK\3\4")
        for _ in range(20):
            inner.write(entry * (count // 20))
        inner.write(end)


def tar_bomb(path: Path, kind: bytes) -> None:
    """A tar.gz whose first header has, or claims to have, BOMB_BYTES."""
    header = tarfile.TarInfo("z.png")
    header.size, header.type = BOMB_BYTES, kind
    first = header.tobuf(tarfile.GNU_FORMAT)
    packer = zlib.compressobj(9, zlib.DEFLATED, -15)
    head = packer.compress(first) + packer.flush(zlib.Z_FULL_FLUSH)
    gzip_head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff"
    path.write_bytes(gzip_head + head + deflated_zeros(BOMB_BYTES) + bytes(8))


def zipped(path: Path, content: bytes) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("inner.7z", content)


# With what is said of each.
ARCHIVE_BOMBS: dict[str, tuple[Callable[[Path], object], str]] = {
    "zip": (lambda path: zip_bomb(path, BOMB_BYTES), "would exceed"),
    "zip that claims little": (lambda path: zip_bomb(path, 1000), "damaged"),
    "7z": (lambda path: seven_zip_bomb(path, BOMB_BYTES, in_header=False), "would exceed"),
    "7z that claims little": (
        lambda path: seven_zip_bomb(path, 1000, in_header=False),
        "packed data for files of 1,000",
    ),
    "7z header": (lambda path: seven_zip_bomb(path, BOMB_BYTES, in_header=True), "decoded header size"),
    "7z header that claims little": (lambda path: seven_zip_bomb(path, 1000, in_header=True), "damaged"),
    "7z of millions of entries": (lambda path: path.write_bytes(table_bomb(4_000_000)), "too long for an archive of"),
    "7z of millions of entries in a zip": (lambda path: zipped(path, table_bomb(4_000_000)), "too long for an archive"),
    "zip of millions of entries in a zip": (zip_table_bomb, "too long for an archive of its size"),
    "tar": (lambda path: tar_bomb(path, tarfile.REGTYPE), "would exceed"),
    "tar with a long name": (lambda path: tar_bomb(path, tarfile.GNUTYPE_LONGNAME), "headers of an entry"),
    "tar with pax headers": (lambda path: tar_bomb(path, tarfile.XHDTYPE), "headers of an entry"),
    "tar with global headers": (lambda path: tar_bomb(path, tarfile.XGLTYPE), "headers of an entry"),
}
SIDE = 60_000
PNG_HEAD = b"\x89PNG\r\n\x1a\n"


def png_chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def png_of(side: int, *chunks: bytes) -> bytes:
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 0, 0, 0, 0))
    return PNG_HEAD + header + b"".join(chunks) + png_chunk(b"IEND", b"")


def zlib_zeros(count: int) -> bytes:
    return b"\x78\xda" + deflated_zeros(count) + struct.pack(">I", 0)


IMAGE_BOMBS: dict[str, Callable[[], bytes]] = {
    "PNG of the largest size": lambda: png_of(2**31 - 1, png_chunk(b"IDAT", zlib.compress(b"\0"))),
    "PNG that holds what it claims": lambda: png_of(
        SIDE, png_chunk(b"IDAT", zlib_zeros((SIDE * SIDE >> 20) + 2 << 20))
    ),
    "PNG with an endless text": lambda: png_of(1, png_chunk(b"zTXt", b"a\0\0" + zlib_zeros(1 << 30))),
    "PNG with an endless colour profile": lambda: png_of(1, png_chunk(b"iCCP", b"a\0\0" + zlib_zeros(1 << 30))),
    "BMP": lambda: (
        b"BM" + struct.pack("<IIIIiiHHIIiiII", 60, 0, 54, 40, SIDE, SIDE, 1, 24, 0, 0, 0, 0, 0, 0) + bytes(9)
    ),
    "GIF": lambda: b"GIF89a" + b"\xff" * 4 + b"\0\0\0," + b"\0" * 4 + b"\xff" * 4 + b"\0\x08\x01\0\0;",
    "JPEG": lambda: (
        b"\xff\xd8\xff\xc0" + struct.pack(">HBHHB", 11, 8, 65_500, 65_500, 1) + b"\1\x11\0\xff\xda\0\x08\1\1\0\0?\0"
    ),
    "TIFF": lambda: (
        b"II*\0\x08\0\0\0\x04\0"
        + b"".join(
            struct.pack("<HHII", tag, 4, 1, value) for tag, value in ((256, SIDE), (257, SIDE), (273, 8), (279, 9))
        )
        + bytes(4)
    ),
}


def run_bombs(kind: str, folder: Path) -> dict[str, Any]:
    """See that each bomb of a kind ends in its message and leaves nothing; return the memory that this took."""
    sandbox = Sandbox(folder)
    path, target = sandbox.work / "bomb", sandbox.work / "target"
    path.touch()
    sandbox.settle()

    def image() -> None:
        open_image(path, "id '7', line 9 of split.csv")

    if kind == "image":
        for name, content in IMAGE_BOMBS.items():
            path.write_bytes(content())
            said = sandbox.refuse(image)
            assert "cannot be read as an image" in said and ("pixels, the limit" in said or "too large" in said), (
                name,
                said,
            )
    else:
        for name, (make, words) in ARCHIVE_BOMBS.items():
            make(path)
            for action in (lambda: unpack(path, target), lambda: unpack(path, target, with_libarchive=False)):
                said = sandbox.refuse(action)
                assert words in said, (name, said)
    return {"refused": sandbox.results["refused"], "peak": resident_peak()}


def run_largest(folder: Path) -> dict[str, int]:
    """Decode pictures that are as large as they may be, of the modes whose conversion takes most."""
    path = folder / "large.png"
    side = math.isqrt(MAX_PIXELS)
    for mode in ("RGBA", "LA", "I;16"):
        Image.new(mode, (side, side), 0).save(path, compress_level=1)
        assert open_image(path, "id '7', line 9 of split.csv").size == (side, side)
    return {"peak": resident_peak()}


# Running the cases


KINDS: dict[str, Callable[[Draw, Sandbox, Path], None]] = {
    "labels": labels_case,
    "submission": submission_case,
    "settings": settings_case,
    "archive": archive_case,
    "image": image_case,
}


def resident_peak() -> int:
    """The most bytes that this process ever held; `getrusage` would count those of the process that started it."""
    status = Path("/proc/self/status")
    if not status.exists():  # macOS, which counts bytes
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    lines = status.read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith("VmHWM")))


def run_cases(kind: str, count: int, folder: Path) -> dict[str, int]:
    """Run `count` cases and return how many were answered, refused, and answered as was known beforehand."""
    sandbox = Sandbox(folder)
    raw = competition(sandbox)
    if kind == "archive":
        sandbox.settle(sandbox.work / "target")
    elif kind in ("submission", "image"):
        sandbox.settle()

    @hypothesis_settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        phases=(Phase.generate, Phase.shrink),
    )
    @given(st.data())
    def run_one(data: st.DataObject) -> None:
        KINDS[kind](data.draw, sandbox, raw)

    run_one()
    return {**sandbox.results, "peak": resident_peak()}


def in_child(*words: str) -> Any:
    """Call this file as a process under a limit of memory, and return what it prints, read as JSON."""
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, *words],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-6000:]
    return json.loads(done.stdout.splitlines()[-1])


def check(kind: str, count: int, result: dict[str, int]) -> None:
    print(kind, result)
    assert result["cases"] >= count
    assert result["answered"] + result["refused"] == result["cases"]
    assert result["right"] >= count / 10 and result["refused"] >= count / 10
    assert result["peak"] < MEMORY_BYTES


@pytest.mark.parametrize("kind", ["archive", "image"])
def test_bombs_end_in_one_message_and_leave_nothing(kind: str) -> None:
    result = in_child("bombs", kind)
    assert result["refused"] == (len(IMAGE_BOMBS) if kind == "image" else 2 * len(ARCHIVE_BOMBS))
    assert result["peak"] < MEMORY_BYTES


@pytest.mark.slow
def test_a_picture_as_large_as_it_may_be_takes_less_than_a_gigabyte() -> None:
    assert in_child("largest", "image")["peak"] < 1 << 30


def test_each_input_ends_in_its_result_or_in_one_message() -> None:
    for kind, result in in_child("all", str(FAST_CASES)).items():
        check(kind, FAST_CASES, result)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_each_of_ten_thousand_inputs_ends_in_its_result_or_in_one_message(kind: str) -> None:
    check(kind, SLOW_CASES, in_child(kind, str(SLOW_CASES)))


if __name__ == "__main__":
    resource.setrlimit(resource.RLIMIT_AS, (ADDRESS_BYTES, ADDRESS_BYTES))
    with tempfile.TemporaryDirectory() as temporary:
        if sys.argv[1] == "bombs":
            outcome = run_bombs(sys.argv[2], Path(temporary))
        elif sys.argv[1] == "largest":
            outcome = run_largest(Path(temporary))
        elif sys.argv[1] == "all":
            outcome = {kind: run_cases(kind, int(sys.argv[2]), Path(temporary) / kind) for kind in KINDS}
        else:
            outcome = run_cases(sys.argv[1], int(sys.argv[2]), Path(temporary))
        os.chdir(ROOT)
    print(json.dumps(outcome))
