"""The report page, as stages and tools write it when they have ended."""

from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.report.inputs import is_current
from pipelines.settings.layout import Layout
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError

if TYPE_CHECKING:
    from pipelines.report.page import Subject


def refresh(words: command.Words) -> None:
    """Write the page if it is out of date, and print where it is; a page that cannot be written stops nothing.

    Finished stages call it too: the process may have been killed before it wrote the page.
    """
    layout = words.layout()
    try:
        settings = words.settings()
        if not layout.runs() or is_current(layout, settings):
            return
        from pipelines.report.page import write_page

        write_page(subject_of(words, settings, layout))
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
