"""One page on a competition, in the order in which a competitor looks: standing, best run, mistakes, submission, data.

It is one HTML file that needs no other and no script, and nothing in it depends on the time: the same runs give the
same bytes. Everything comes from the files of finished stages. A section whose files are damaged says so.
"""

import csv
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from pipelines.kaggle.limits import read_limits
from pipelines.report import certainty, data, learning, mistakes, repeat, sending, standing
from pipelines.report.blocks import Block, Card, Section, Text
from pipelines.report.evidence import Evidence, read_evidence
from pipelines.report.inputs import digest
from pipelines.report.ledger import Entry, Ledger, read_ledger, submission_path
from pipelines.report.standing import Repeat
from pipelines.settings.layout import Layout
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import write_text

TEMPLATE = "page.html"
DAMAGE = (UserError, OSError, ValueError, LookupError, TypeError, AttributeError, csv.Error)


@dataclass(frozen=True)
class Subject:
    """A competition as the page sees it.

    competition: the name or TOML that was given.  sends: whether submissions go to Kaggle.  command: returns the
    command of stages, with make's variables.
    """

    settings: Settings
    layout: Layout
    competition: str
    sends: bool
    command: Repeat


def write_page(subject: Subject) -> None:
    """Write the page, which holds the digest of its inputs."""
    inputs = digest(subject.layout, subject.settings)
    ledger = read_ledger(subject.layout, subject.settings, subject.competition)
    write_text(subject.layout.report, render(subject, ledger, inputs))


def render(subject: Subject, ledger: Ledger, inputs: str) -> str:
    """Return the page.  inputs: their digest."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    loader = PackageLoader("pipelines.report", "")
    environment = Environment(
        loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    cards, sections = build(subject, ledger)
    competition = subject.settings.competition
    return environment.get_template(TEMPLATE).render(
        name=subject.settings.name,
        title=competition.title or subject.settings.name,
        cards=cards,
        sections=sections,
        inputs=inputs,
    )


def build(subject: Subject, ledger: Ledger) -> tuple[list[Card], list[Section]]:
    """Return the cards of the first screen, and the sections."""
    best = ledger.best
    chosen = repeat.predict_settings(best, subject.competition) if best else []
    sections, wrong = [standing.section(ledger, _limits(subject.layout))], ("", "")
    if best is not None:
        sections.append(_guarded("best", "The best run", lambda: learning.section(best, ledger.metric)))
        predicted = next((entry for entry in ledger.entries if entry.scored and entry.file), None)
        if predicted is not None:
            found, wrong = _of_predictions(subject, predicted)
            sections += found
    sections.append(_guarded("data", "The data", lambda: data.section(subject.layout, subject.command)))
    if best is not None:
        sections.append(_guarded("repeat", "How to repeat it", lambda: repeat.section(best, subject.command, chosen)))
    return standing.cards(ledger, wrong, subject.command, subject.sends, chosen), sections


def _of_predictions(subject: Subject, entry: Entry) -> tuple[list[Section], tuple[str, str]]:
    """Return the sections on the predictions of `entry`, and what it gets wrong most."""
    from pipelines.dataset.image_set import all_images
    from pipelines.dataset.splits import read_split_csv
    from pipelines.dataset.submission import class_list

    layout, settings = subject.layout, subject.settings
    try:
        split = subject.command("split")
        table = read_split_csv(layout.split_csv, split)
        labels = table.loc[table["split"] != "test", "label"].tolist()
        classes = class_list(labels, settings, layout.raw, checked=False)  # predict has checked the sample
        everything = all_images(settings, layout, table, split, classes)
        evidence: Evidence = read_evidence(entry, everything, settings)
        wrong_section, wrong = mistakes.section(evidence)
    except DAMAGE as error:
        return [_trouble("mistakes", f"What {entry.name} gets wrong", error)], ("", "")
    path = submission_path(layout, entry)
    shown = str(path.relative_to(layout.root))
    sure = _guarded("sure", "How sure it is", lambda: certainty.section(evidence))
    sent = _guarded("submission", "The submission", lambda: sending.section(evidence, path, shown))
    return [wrong_section, *([sure] if sure else []), sent], wrong


def _guarded(anchor: str, title: str, section: Callable[[], Any]) -> Any:
    """Return the section, or why its files cannot be read."""
    try:
        return section()
    except DAMAGE as error:
        return _trouble(anchor, title, error)


def _trouble(anchor: str, title: str, error: Exception) -> Section:
    said = str(error)
    if not isinstance(error, UserError):  # a file that no stage wrote like this, or that was removed meanwhile
        said = f"A file of this section is damaged or was removed ({type(error).__name__}: {error})."
    blocks: list[Block] = [Text(said, "strong")]
    return Section(anchor, title, blocks)


def _limits(layout: Layout) -> str:
    """Return how many submissions are left, as Kaggle said last."""
    known = read_limits(layout.submission_limits)
    if known is None or known.left is None:
        return ""
    return f"Submissions left: {known.left}, as Kaggle said at {known.time}."
