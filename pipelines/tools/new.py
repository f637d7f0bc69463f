"""Write the TOML of a new competition from its data.

Reads   data/<competition>/raw, which is downloaded from Kaggle, or unpacked from --archive, unless it is there;
        the competition's record at Kaggle: its title, its metric, and whether it takes code.
Writes  <competition>.toml in the working folder, which all stages then find: each value has a comment that says what
        was seen, why the value is so, and what else it could be. An existing TOML is never overwritten;
        <competition>-labels.csv beside it, if the sample names the classes in other words;
        data/<competition>/look.png, look.csv and look.json, as `look` does, for the split that it would make; if the
        stages would refuse the TOML, look.png alone, with sixteen training images and their targets.

Where the data leave two readings, the safer one is taken, and a comment says so. The TOML is tried before it is
written: if the stages would refuse it, their message stands on top of it, and the exit status is 2.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.settings.addresses import SITE, competition_name
from pipelines.settings.competitions import COMPETITIONS, ENDING
from pipelines.settings.data_sections import CompetitionSettings, DataSettings
from pipelines.settings.layout import Layout
from pipelines.settings.loading import load_settings
from pipelines.settings.schema import DEFAULT_RECIPE, Settings
from pipelines.system.errors import UserError, printable, quoted
from pipelines.system.files import is_plain_name, write_text
from pipelines.system.shell import make_works_here, path_word, unquoted, user_path
from pipelines.tools.obtaining import obtain

if TYPE_CHECKING:
    from pipelines.analysis.recognise.compose import Known, Seen


def main(arguments: Sequence[str] | None = None) -> None:
    words = _parser().parse_args(arguments, namespace=command.Words())
    words.competition = _name(words.competition)
    target = Path.cwd() / f"{words.competition}{ENDING}"
    run = words.repeat("all" if make_works_here() else "split train retrain predict")
    _refuse_existing(words, target, run)
    layout = Layout(Path.cwd(), words.competition)
    settings = Settings(
        words.competition,
        competition=CompetitionSettings(slug=words.competition),
        data=DataSettings(train_images="", test_images=""),
    )
    obtain(settings, layout, words, "new")

    from pipelines.analysis.recognise.compose import recognise

    known = _known(settings, words)
    draft, seen = recognise(words.competition, layout.raw, known)
    header = f"make all COMP={quote(words.competition)}"
    for name, text in draft.files.items():
        if not (Path.cwd() / name).exists():
            write_text(Path.cwd() / name, text)
            print(f"Written: {name}")
    problem, lines = _look(draft.text(header), layout)
    if problem:
        draft.doubts.append(problem)
        _draw_examples(layout, seen)
    write_text(target, draft.text(header))
    width = max(len(subject) for subject, _ in draft.found)
    for subject, text in draft.found:
        print(f"{subject:<{width}}  {printable(text)}")
    for line in lines:
        print(printable(line))
    print(f"Pictures: {layout.look_picture.relative_to(layout.root)}")
    for note in draft.notes:
        print(f"Note: {printable(note)}")
    if draft.doubts:
        raise UserError("\n  ".join([f"{target.name} was written, but needs a correction:", *draft.doubts]))
    print(f"Written: {target.name}. Read its comments once.\nNext: {run}")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m pipelines.tools.new",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("competition", type=unquoted, help="the competition's name in its Kaggle address, or any name")
    parser.add_argument("--archive", type=user_path, help="an archive or a folder with the data, instead of Kaggle")
    parser.add_argument("--metric", default="", help="the metric, in Kaggle's words or as docs/settings.md names it")
    parser.set_defaults(recipe=DEFAULT_RECIPE, run="", set=[])
    return parser


def _name(text: str) -> str:
    """Return the name of the competition, also from its address. Raises `UserError` if it cannot name a file."""
    name = competition_name(text) if SITE.match(text) else text.removesuffix(ENDING)
    if not is_plain_name(name) or name.startswith("-"):
        raise UserError(
            f"{quoted(text)} cannot be the name of a competition: it names a file, so it has no slashes, no dot or "
            "hyphen in front, and at most 215 bytes. Give the last part of its address at Kaggle."
        )
    return name


def _refuse_existing(words: command.Words, target: Path, run: str) -> None:
    """Raise `UserError` if the working folder has a TOML of this name."""
    if target.exists():
        again = f"mv {path_word(target)} {path_word(target)}.old"
        raise UserError(
            f"There is {target} already; it is not overwritten. To use it: {run}\nTo write it again, first: {again}"
        )
    if (COMPETITIONS / target.name).exists():
        print(
            f"Note: {words.competition} comes with the pipeline ({COMPETITIONS / target.name}). The new {target.name} "
            "is used instead, as long as it is in this folder."
        )


def _known(settings: Settings, words: command.Words) -> "Known":
    """Return what the user and Kaggle say about the competition; print why Kaggle says nothing."""
    from pipelines.analysis.recognise.compose import Known

    given = Known(words.metric, "given with METRIC=")
    if words.archive:
        return given
    from pipelines.kaggle.credentials import require_credential
    from pipelines.kaggle.service import Kaggle

    slug = settings.competition.slug
    try:
        require_credential(os.environ)
        with Kaggle(slug, settings.kaggle.stall_seconds) as kaggle:
            record = kaggle.competition()
    except UserError as error:
        print(f"Note: Kaggle was not asked for the metric of {slug}: {printable(str(error).partition(chr(10))[0])}")
        return given
    metric = replace(given, title=record.title, takes_code=record.code_only)
    if words.metric or not record.metric:
        return metric
    return replace(metric, metric=record.metric, source="Kaggle's record of the competition")


def _look(text: str, layout: Layout) -> tuple[str, Sequence[str]]:
    """Look at the data as the TOML `text` divides them.

    Return why the stages would refuse the TOML, empty if they would not, and what to look at.
    """
    from pipelines.analysis.look.looking import look
    from pipelines.dataset.division import divide
    from pipelines.dataset.image_set import all_images
    from pipelines.dataset.splits import with_test
    from pipelines.dataset.tables import write_csv

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / f"{layout.competition}{ENDING}"
        path.write_text(text, encoding="utf-8")
        trial = Layout(Path(folder), layout.competition)  # images that are rows of a table are written there
        trial.data.mkdir(parents=True)
        trial.raw.symlink_to(layout.raw.absolute())
        try:
            settings = load_settings(str(path))
            found = divide(trial, settings)
        except UserError as error:
            return str(error).replace(f"{folder}/", ""), []
        write_csv(trial.boxes_csv, found.boxes)
        table = with_test(found.labelled, found.test)
        images = all_images(settings, trial, table, "make split", found.classes)
        return "", look(settings, images, layout, None, "", command.progress).lines


def _draw_examples(layout: Layout, seen: "Seen") -> None:
    """Draw training images with their targets where the data cannot be divided."""
    from pipelines.analysis.plots import draw_examples
    from pipelines.analysis.recognise.examples import examples

    for stale in (layout.look_record, layout.look_table):
        stale.unlink(missing_ok=True)
    draw_examples(layout.look_picture, examples(seen), f"{layout.competition}: training images and their targets")


if __name__ == "__main__":
    sys.exit(command.run(main))
