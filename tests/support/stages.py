"""Stages in the process of the test."""

import contextlib
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from pipelines import command


def run_stage_here(stage: str, arguments: Sequence[str], folder: Path | None = None) -> int:
    """Do what `command.run_stage` does, without a process and its imports; test_command.py tests that one."""
    main = import_module(f"pipelines.{stage}").main
    if folder is None:
        return command.run(main, arguments)
    with contextlib.chdir(folder), open(f"{stage}.log", "w") as log, contextlib.redirect_stdout(log):
        return command.run(main, arguments)
