"""Check and score a submission as Kaggle does: a public and a private part."""

import hashlib
import tempfile
import zipfile
from pathlib import Path

import pandas as pd

from pipelines.dataset.tables import read_csv
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError

PUBLIC_SHARE = 0.3


def score(content: bytes, archive: Path, settings: Settings, solution: Path | None) -> list[str]:
    """Return the public and the private score of the submission `content`.

    archive: the competition's zip; header and ids are checked against its sample submission.  solution: CSV of ids and
    true labels; None: the labels of the sample submission count as true.  Raises `UserError` for a bad submission.
    """
    from pipelines.analysis.scoring import score_submission  # imports torch, which nothing else here needs

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "submission.csv"
        path.write_bytes(content)
        try:
            sample = _read_sample(archive, settings, Path(folder))
            _check(read_csv(path), sample)
            truth, source = (read_csv(solution), solution) if solution else (_labels(sample, settings), archive)
            return [f"{score_submission(path, source, settings, part)[0]:.5f}" for part in _parts(truth)]
        except UserError as error:
            raise UserError(str(error).replace(str(path), "Submission")) from None


def _read_sample(archive: Path, settings: Settings, folder: Path) -> pd.DataFrame | None:
    name = settings.data.sample_submission
    if not name or not zipfile.is_zipfile(archive):
        return None
    with zipfile.ZipFile(archive) as opened:
        found = [each for each in opened.namelist() if f"/{each}".endswith(f"/{name}")]
        return read_csv(Path(opened.extract(min(found, key=len), folder))) if found else None


def _check(submitted: pd.DataFrame, sample: pd.DataFrame | None) -> None:
    if sample is None:
        return
    if list(submitted.columns) != list(sample.columns):
        raise UserError(f"Submission must have the columns {', '.join(sample.columns)}")
    if len(submitted) != len(sample):
        raise UserError(f"Submission must have {len(sample)} rows")
    if unknown := sorted(set(submitted.iloc[:, 0]) - set(sample.iloc[:, 0])):
        raise UserError(f"Submission contains the unexpected id {unknown[0]}")


def _labels(sample: pd.DataFrame | None, settings: Settings) -> pd.DataFrame:
    """Return ids and labels of the sample submission; for probabilities, the most probable class."""
    if sample is None:
        raise UserError("The competition has no solution")
    if settings.competition.submission == "labels":
        return sample
    return sample.iloc[:, [0]].assign(label=sample.iloc[:, 1:].astype(float).idxmax(axis=1))


def _parts(truth: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the public and the private rows of `truth`, drawn by the hashes of the ids."""
    hashes = [hashlib.sha256(name.encode()).digest() for name in truth.iloc[:, 0]]
    order = sorted(range(len(hashes)), key=hashes.__getitem__)
    count = max(1, round(PUBLIC_SHARE * len(truth)))
    return truth.iloc[order[:count]], truth.iloc[order[count:] or order]
