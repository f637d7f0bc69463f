"""Write one page on all runs of a competition: scores, curves, mistakes, the submission, the data.

Reads   runs/<c>/*/, submissions/<c>/, data/<c>/split.csv and the images that it shows.
Writes  runs/<c>/report.html, one file that needs no other.

Stages write the page too when they end. Nothing is computed again for it.
"""

import sys
from collections.abc import Sequence
from pathlib import Path

from pipelines import command
from pipelines.system.errors import UserError
from pipelines.tools.reporting import subject_of


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "tools.report").parse_args(arguments, namespace=command.Words())
    settings, layout = words.settings(), words.layout()
    if not layout.runs():
        raise UserError(
            f"{settings.name} has no runs yet, so there is nothing to report. First: {words.repeat('train')}"
        )
    from pipelines.report.page import write_page

    write_page(subject_of(words, settings, layout))
    size = layout.report.stat().st_size / 1e6
    print(f"Report: {layout.report.relative_to(Path.cwd())} ({size:.1f} MB)")


if __name__ == "__main__":
    sys.exit(command.run(main))
