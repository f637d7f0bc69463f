"""Scores of predictions during training."""

from dataclasses import dataclass
from typing import Any

import numpy.typing as npt
import torch
from torch import Tensor

from pipelines.core.metrics import METRICS, Metric, interval
from pipelines.settings.schema import Settings


@dataclass(frozen=True)
class Judge:
    """Scores predictions by a metric of one class."""

    metric: Metric

    @property
    def name(self) -> str:
        return self.metric.name

    @property
    def higher_is_better(self) -> bool:
        return self.metric.higher_is_better

    def keep(self, predictions: Tensor) -> Tensor:
        return predictions

    def __call__(self, kept: npt.NDArray[Any], targets: npt.NDArray[Any]) -> tuple[float, tuple[float, float]]:
        probabilities, labels = torch.from_numpy(kept).double().exp(), torch.from_numpy(targets)
        return self.metric.score(probabilities, labels), interval(self.metric, probabilities, labels)


def make_judge(settings: Settings, classes: list[str]) -> Judge:
    """Return the judge of the competition's metric."""
    return Judge(METRICS[settings.competition.metric])
