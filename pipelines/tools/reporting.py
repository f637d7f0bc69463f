"""The report page, as stages and tools write it when they have ended."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.settings.layout import Layout
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError

if TYPE_CHECKING:
    from pipelines.report.page import Subject


def refresh(words: command.Words) -> None:
    """Write the page if it is out of date, and print where it is; a page that cannot be written stops nothing."""
    from pipelines.report.page import is_current, write_page

    layout = words.layout()
    if not layout.runs():
        return
    try:
        subject = subject_of(words, words.settings(), layout)
        if not is_current(subject):
            write_page(subject)
    except (UserError, OSError) as error:  # the stage has done its work
        print(f"Note: the report was not written: {error}")
        return
    print(f"Report: {layout.report.relative_to(Path.cwd())}")


def subject_of(words: command.Words, settings: Settings, layout: Layout) -> "Subject":
    """Return what the page is about.  Its commands name their own run, so those of `words` are left out."""
    from pipelines.kaggle.service import takes_submissions
    from pipelines.report.page import Subject

    sends = takes_submissions(settings.competition.source)
    plain = command.Words(competition=words.competition, recipe="default", run="", set=[], processes=1)
    return Subject(settings, layout, words.competition, sends, plain.repeat)
