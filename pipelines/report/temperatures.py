"""Temperatures applied with NumPy, as `pipelines/core/calibration.py` does with torch, which takes long to import."""

import math
from typing import Any

import numpy as np
import numpy.typing as npt

LEAST = 1e-15  # a probability, as Kaggle clips it

Array = npt.NDArray[Any]


def apply_temperature(log_probabilities: Array, temperature: float) -> Array:
    """Return log softmax(log p / T), finite, in the shape (N, K) and type of `log_probabilities`."""
    scores = np.maximum(log_probabilities.astype(np.float64), math.log(LEAST)) / temperature
    scores -= scores.max(axis=1, keepdims=True)
    return (scores - np.log(np.exp(scores).sum(axis=1, keepdims=True))).astype(log_probabilities.dtype)


def apply_column_temperatures(probabilities: Array, temperatures: list[float]) -> Array:
    """Return sigmoid(logit p / T) with the temperature of each column, in the shape (N, K) and type of
    `probabilities`."""
    clipped = np.clip(probabilities.astype(np.float64), LEAST, 1 - LEAST)
    logits = np.log(clipped / (1 - clipped))
    return (1 / (1 + np.exp(-logits / np.array(temperatures)))).astype(probabilities.dtype)
