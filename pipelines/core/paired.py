"""Compare the predictions of two runs on the same labelled rows: is the second really better, or was it luck?

Both score the same bootstrap samples of the rows, so rows that are difficult for both cancel out: the difference is
known better than each score.  Its interval is ± 1.96 standard errors of these samples, which serves every metric.  Rows
are drawn one by one, also where groups of them belong together in the split.
"""

import math
from dataclasses import dataclass

import numpy as np

from pipelines.core import bootstrap
from pipelines.core.blending import Pool
from pipelines.core.bootstrap import Bounds
from pipelines.core.intervals import NORMAL_QUANTILE
from pipelines.core.scores import Array, losses_of_rows
from pipelines.core.selection import Candidates
from pipelines.settings.metrics import ONE_CLASS
from pipelines.system.watch import Watch, unwatched

SHARES = ("accuracy", "f1_micro")  # metrics that are the share of right rows, which McNemar's test is for
QUICK = (*SHARES, "f1_macro", "log_loss", "log_loss_binary", "rmse", "mae")  # to score: these get more resamples
LEVEL = 0.05  # of the test; the interval has 95 %
LEAST_ROWS = 20  # of fewer, no interval is believed


@dataclass(frozen=True)
class Paired:
    """How the second run differs from the first.

    scores: of each, on these rows.  gain: of the second over the first; positive is better, whatever the metric's
    direction.  bounds: of its 95 % interval.  NaN: not defined.  rows: their number.  alone: of one class, the number
    of rows that the first alone has right, and the second alone.  p_value: of McNemar's exact test that both are right
    equally often; NaN where the metric is no share of right rows.
    """

    scores: tuple[float, float]
    gain: float
    bounds: Bounds
    rows: int
    alone: tuple[int, int] | None = None
    p_value: float = math.nan

    @property
    def verdict(self) -> int:
        """1: the second is better; -1: the first is; 0: no clear difference."""
        low, high = self.bounds
        if self.rows < LEAST_ROWS or self.p_value >= LEVEL:
            return 0
        return 1 if low > 0 else -1 if high < 0 else 0


def compare(pool: Pool, watch: Watch = unwatched) -> Paired:
    """Return how the second member of `pool` differs from the first.  Predictions are scored as `predict` does."""
    candidates, metric = pool.candidates, pool.judge.metric
    (first, known), (second, _) = map(candidates.compared, candidates.members)
    scores = metric.score(first, known), metric.score(second, known)
    score, (first, second), drawn = metric.by_rows((first, second), known)
    if metric.name == "log_loss":  # the mean of a loss of each row: quicker to draw than all probabilities
        first, second = (losses_of_rows(each, known).numpy() for each in (first, second))
        score = _mean
    number = bootstrap.RESAMPLES if metric.name in QUICK else bootstrap.FEWEST_RESAMPLES
    reach = NORMAL_QUANTILE * bootstrap.error_of_difference(score, (first, second), drawn, watch, number)
    gain = scores[1] - scores[0] if metric.higher_is_better else scores[0] - scores[1]
    alone = _alone(pool.plain) if pool.judge.task == ONE_CLASS else None
    p_value = mcnemar(alone) if alone and metric.name in SHARES else math.nan
    return Paired(scores, gain, (gain - reach, gain + reach), len(known), alone, p_value)


def mcnemar(alone: tuple[int, int]) -> float:
    """Return the p-value of McNemar's exact test for the numbers of rows that one of two alone has right.

    Q. McNemar, Psychometrika 12, 1947; the exact form is the binomial test of these numbers.
    """
    from scipy.stats import binomtest

    return float(binomtest(alone[0], sum(alone)).pvalue) if any(alone) else 1.0


def _alone(candidates: Candidates) -> tuple[int, int]:
    first, second = (member.numpy().argmax(axis=1) == candidates.targets for member in candidates.members)
    return int((first & ~second).sum()), int((second & ~first).sum())


def _mean(values: Array, targets: Array) -> float:
    return float(np.mean(values))
