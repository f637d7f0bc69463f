"""Competitions with cheap runs for the report page, and what a page is made of."""

import contextlib
import re
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
from PIL import Image

from pipelines.command import Words
from pipelines.kaggle.submission_log import COMPLETE, Row, SubmissionLog
from pipelines.report.inputs import is_current
from pipelines.settings.layout import Layout
from pipelines.system.files import file_sha256
from tests.support.stages import run_stage_here

QUICK = (
    *("train.epochs=2", "train.warmup_epochs=0", "model.widths=[8]", "hardware.precision=float32"),
    *("hardware.threads=1", "hardware.device=cpu", "hardware.workers=0", "predict.checkpoint=best"),
)
TOML = """
[competition]
title = {title}
{competition}
[data]
labels = "labels.csv"
sample_submission = "sample.csv"
{data}
[split]
valid_ratio = 0.5
[input]
size = 8
[train]
batch_size = 12
"""
VOID = {"meta", "link", "img", "br", "hr", "input"}
SCRIPT = "<script>alert(1)</script>"
HOSTILE = (
    SCRIPT,
    "\"><img src=x onerror='alert(1)'>",
    "</title></style></svg><svg onload=alert(1)>",
    "a & b &lt;i&gt; &amp; {{ 7 * 7 }} {% raw %}",
    "cat\u202egnp.exe and \u2066more",
    "שלום שלום",
    "مرحبا بالعالم, 12",
    "🐈‍⬛🦜 emoji",
    "x" * 500,
    "many " * 100 + "words",
)


@dataclass(frozen=True)
class Site:
    """A competition in a working folder.  name: as the stages take it."""

    folder: Path
    name: str

    @property
    def layout(self) -> Layout:
        return Layout(self.folder, self.name.removesuffix(".toml"))

    def stage(self, stage: str, *words: str, expect: int = 0) -> str:
        """Run a stage in this process; return what it printed."""
        status = run_stage_here(stage, [self.name, *words], self.folder)
        printed = (self.folder / f"{stage}.log").read_text()
        assert status == expect, printed
        return printed

    def run(self, name: str, *settings: str, stages: Sequence[str] = ("train", "predict")) -> None:
        """Train the run, and predict with it."""
        for stage in stages:
            self.stage(stage, "--run", name, "--set", *QUICK, *settings)

    def page(self, *words: str) -> str:
        """Write the page, and return it."""
        self.stage("tools.report", *words)
        return self.layout.report.read_text()

    def current(self) -> bool:
        """Return whether the page is up to date, as stages ask."""
        with contextlib.chdir(self.folder):
            words = Words(competition=self.name, recipe="default", run="", set=[], processes=1)
            return is_current(self.layout, words.settings())

    def copied(self, folder: Path) -> "Site":
        """Return a copy in another folder, to damage it."""
        for part in ("runs", "submissions", "data"):
            if (self.folder / part).exists():
                shutil.copytree(self.folder / part, folder / part)
        for toml in self.folder.glob("*.toml"):
            shutil.copy(toml, folder)
        return replace(self, folder=folder)

    def look(self) -> None:
        """Write a picture and a table of the data, as `look` does."""
        noise = np.random.default_rng(0).integers(0, 256, (90, 160, 3), dtype=np.uint8)
        Image.fromarray(noise).resize((1600, 900)).save(self.layout.look_picture)
        table = pd.DataFrame({"split": ["train", "valid"], "images": [20, 10], "width": ["8 to 8", "8"]})
        table.to_csv(self.layout.look_table, index=False)

    def send(self, run: str, local: str, public: str, private: str = "", **values: str) -> None:
        """Add a submission to the log, as `submit` does."""
        log, file = SubmissionLog(self.layout.submission_log), self.layout.submission(run)
        number = len(log.rows) + 1
        sha256 = file_sha256(file) if file.exists() else f"{number}" * 64
        row = Row(f"2026-11-0{number}T10:00:00Z", run, f"{run}.csv", sha256, "m", number, COMPLETE, local, public)
        log.add(replace(row, private_score=private, **values))  # type: ignore[arg-type]


def make_site(
    folder: Path,
    labels: pd.DataFrame,
    sample: pd.DataFrame,
    name: str = "site",
    title: str = "A site",
    competition: str = "",
    data: str = "",
) -> Site:
    """Write and split a competition whose images are noise.  labels, sample: the first column holds the ids."""
    site, random = Site(folder, f"{name}.toml"), np.random.default_rng(0)
    for part, table in (("train", labels), ("test", sample)):
        for text in table.iloc[:, 0].unique():
            path = site.layout.raw / part / f"{text}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random.integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(path)
    labels.to_csv(site.layout.raw / "labels.csv", index=False)
    sample.to_csv(site.layout.raw / "sample.csv", index=False)
    title = '"' + title.replace("\\", "\\\\").replace('"', '\\"') + '"'
    (folder / site.name).write_text(TOML.format(title=title, competition=competition, data=data))
    site.stage("split", "--set", *QUICK)
    return site


def make_classes(folder: Path, classes: Sequence[str], ids: Sequence[str], title: str = "A site") -> Site:
    """Return a competition with a class per image.  ids: of training images; those of test images are alike."""
    labels = pd.DataFrame({"id": ids, "label": [classes[place % len(classes)] for place in range(len(ids))]})
    tests = [f"{each}-t" for each in ids[: len(classes)]]
    return make_site(folder, labels, pd.DataFrame({"id": tests, "label": [classes[0]] * len(tests)}), title=title)


def make_hostile(folder: Path) -> Site:
    """Return a competition whose names are of the worst kind, with two runs and a log."""
    short = [name.strip()[:60] for name in HOSTILE]
    ids = [f"{name}{copy}" for copy in range(4) for name in short]
    site = make_classes(
        folder, [name.strip() for name in HOSTILE], ids, title=f"{HOSTILE[0]} {HOSTILE[3]} {HOSTILE[5]}"
    )
    site.run("<b>&'run")
    site.run("b" * 150, "train.epochs=1", stages=["train"])
    site.send("<b>&'run", "0.5", "0.4", "0.3")
    site.send("<i>gone</i>\u202e", "", "", status=f"error: {HOSTILE[1]}")
    site.send("b" * 150, "0.25", "0.5")
    return site


@dataclass
class Page(HTMLParser):
    """A page as a browser reads it: elements with attributes, the words of each section, and of the rest."""

    text: str
    elements: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    sections: dict[str, str] = field(default_factory=dict)
    headings: list[tuple[str, str]] = field(default_factory=list)
    words: str = ""

    def __post_init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.section = ""
        self.feed(self.text)
        self.close()
        assert not self.open, self.open

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        assert len(found) == len(attrs), f"an attribute twice: {attrs}"
        self.elements.append((tag, found))
        if tag not in VOID:
            self.open.append(tag)
        if tag == "section":
            self.section = found["id"]
            self.sections[self.section] = ""
        if tag in ("h1", "h2", "h3"):
            self.headings.append((tag, ""))

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag
        if tag == "section":
            self.section = ""

    def handle_data(self, data: str) -> None:
        if "style" in self.open:
            return
        self.words += data
        if self.section:
            self.sections[self.section] += data
        if self.open and {"h1", "h2", "h3"} & set(self.open):
            tag, text = self.headings[-1]
            self.headings[-1] = (tag, text + data)

    def check_harmless(self) -> None:
        """Check that nothing in the page runs, and that it needs nothing from elsewhere."""
        for tag, attributes in self.elements:
            assert tag not in ("script", "iframe", "object", "embed", "base", "form", "foreignobject"), tag
            for name, value in attributes.items():
                assert not name.startswith("on"), (tag, name)
                if name in ("src", "href", "xlink:href", "srcset", "action", "style"):
                    assert value.startswith(("#", "data:,", "data:image/jpeg;base64,")), (tag, name, value[:80])
        style = re.sub(r"/\*.*?\*/", "", self.text.partition("<style>")[2].partition("</style>")[0], flags=re.S)
        assert "url(" not in style and "@import" not in style
        assert "</body>\n</html>" in self.text
