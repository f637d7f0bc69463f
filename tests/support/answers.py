"""Submissions made of probabilities, as tests compare them, and the settings that messages advise."""

import re
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt
import pandas as pd

from pipelines.dataset.submission import write_submission
from pipelines.dataset.tables import read_csv
from pipelines.settings.schema import Settings


def answers_for(probabilities: npt.NDArray[Any], settings: Settings) -> npt.NDArray[Any]:
    """Return the answers for the `probabilities` of one class, (N, K): these, or the numbers of the best classes."""
    return probabilities.argmax(axis=1) if settings.competition.submission == "labels" else probabilities


def made(
    ids: Sequence[str], probabilities: npt.NDArray[Any], classes: Sequence[str], settings: Settings, raw: Path
) -> pd.DataFrame:
    """Return the submission that is written for the `probabilities` of one class, as text."""
    path = raw / "made.csv"
    write_submission(path, ids, answers_for(probabilities, settings), classes, settings, raw)
    return read_csv(path, strip=False).reset_index(drop=True)


def advised(message: str) -> list[dict[str, Any]]:
    """Return the settings that the TOML lines of `message` say, {section: {key: value}}, of each block of lines."""
    blocks = re.findall(r"(?:^  (?:\[\w+\]|\w+ = .*)$\n?)+", message, re.MULTILINE)
    return [tomllib.loads(block) for block in blocks]
