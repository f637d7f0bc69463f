"""Temperatures with NumPy are those of the submission, which torch computes."""

import numpy as np
import pytest
import torch

from pipelines.core import calibration
from pipelines.core.scores import KAGGLE_CLIP
from pipelines.report.temperatures import LEAST, apply_column_temperatures, apply_temperature


@pytest.mark.parametrize("temperature", [0.05, 0.7, 20.0])
def test_temperatures_are_those_of_the_submission(temperature: float) -> None:
    assert LEAST == KAGGLE_CLIP
    random = np.random.default_rng(0)
    probabilities = np.vstack([random.dirichlet([0.1] * 5, 200), np.eye(5), np.full((1, 5), 0.2)]).astype(np.float32)
    with np.errstate(divide="ignore"):
        logs = np.log(probabilities)
    found = apply_temperature(logs, temperature)
    expected = calibration.apply_temperature(torch.from_numpy(logs), temperature)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-6, atol=1e-12)
    several = [temperature, 1.0, 2.0, 0.5, 20.0]
    columns = apply_column_temperatures(probabilities, several)
    expected = calibration.apply_column_temperatures(torch.from_numpy(probabilities), several)
    np.testing.assert_allclose(columns, expected.numpy(), rtol=1e-6, atol=1e-12)
