"""Scores of predictions during training."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from pipelines.core.calibration import cross_fitted
from pipelines.core.metrics import METRICS, Metric, interval
from pipelines.settings.schema import Settings


@dataclass(frozen=True)
class Judge:
    """Scores predictions by a metric of one class.  calibrated: with a temperature, each row's fitted on others."""

    metric: Metric
    calibrated: bool

    @property
    def name(self) -> str:
        return self.metric.name

    @property
    def higher_is_better(self) -> bool:
        return self.metric.higher_is_better

    def keep(self, predictions: Tensor) -> Tensor:
        """Return what a score needs of the predictions of a batch, on their device."""
        return predictions

    def judge(self, kept: Tensor, targets: Any) -> tuple[float, tuple[float, float]]:
        """Return the score of all images and its 95 % interval; kept: what `keep` returned, on the processor."""
        labels = torch.from_numpy(targets)
        if self.calibrated and self.name == "log_loss":
            kept = cross_fitted(kept, labels)
        probabilities = kept.double().exp()
        return self.metric.score(probabilities, labels), interval(self.metric, probabilities, labels)


def make_judge(settings: Settings, classes: Sequence[str], seen: Any, calibrated: bool = False) -> Judge:
    """Return the judge of the competition's metric.  seen: targets of the training rows."""
    return Judge(METRICS[settings.competition.metric], calibrated and settings.predict.calibrate)
