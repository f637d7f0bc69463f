"""The command-line arguments that all stages share."""

import argparse
import shlex
import textwrap
from contextlib import AbstractContextManager
from pathlib import Path

from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import describe, find_competition, load_settings, run_name, submission_name
from pipelines.settings.schema import DEFAULT_RECIPE, Settings
from pipelines.system.files import only_one


class Words(argparse.Namespace):
    """The parsed arguments. The same arguments mean the same in every stage."""

    competition: str
    recipe: str
    run: str
    set: list[str]
    archive: Path | None
    solution: Path | None

    def settings(self) -> Settings:
        return load_settings(self.competition, self.recipe, self.set)

    def layout(self) -> Layout:
        """Return the paths of the competition's files below the working folder."""
        return Layout(Path.cwd(), find_competition(self.competition).stem)

    def run_name(self) -> str:
        """Return the name given with --run, or the one that recipe and overrides give."""
        return self.run or run_name(self.recipe, self.set)

    def submission(self) -> Path:
        """Return the path of the submission that predict writes with these arguments."""
        return self.layout().submission(submission_name(self.run_name(), self.set))

    def only_one_in(self, run: RunLayout) -> AbstractContextManager[int]:
        """Hold the lock of `run`.  Raises `UserError` when another process works on this run."""
        doing = f"training, retraining or predicting {self.competition}, run {run.folder.name}"
        return only_one(run.lock, doing, inherited=False)

    def repeat(self, stage: str) -> str:
        """Return the make command that runs `stage` with the same arguments."""
        words = [f"make {stage}", f"COMP={shlex.quote(self.competition)}"]
        words += [f"RECIPE={shlex.quote(self.recipe)}"] if self.recipe != DEFAULT_RECIPE else []
        words += [f"RUN={shlex.quote(self.run)}"] if self.run else []
        words += [f'SET="{" ".join(self.set)}"'] if self.set else []
        return " ".join(words)


def parser(doc: str, stage: str) -> argparse.ArgumentParser:
    """Return the parser of the shared arguments. `doc` is the docstring of the stage's module."""
    result = argparse.ArgumentParser(
        prog=f"python -m pipelines.{stage}",
        description=textwrap.dedent(doc),
        epilog="settings for --set, with their defaults:\n" + describe(),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    result.add_argument("competition", help="name of a competition, or the path of its TOML")
    result.add_argument("--recipe", default=DEFAULT_RECIPE, help="name of a recipe in the competition's TOML")
    result.add_argument("--run", default="", type=_plain_name, help="name of the run; default: the recipe's")
    result.add_argument(
        "--set", nargs="+", default=[], action="extend", metavar="KEY=VALUE", help="override a setting: train.epochs=5"
    )
    return result


def _plain_name(text: str) -> str:
    if text and (Path(text).name != text or text.startswith(".")):
        raise argparse.ArgumentTypeError(f"{text!r} is not a run name: no slashes, and no dot in front, are allowed")
    return text
