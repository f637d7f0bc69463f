"""The metrics: what each takes, its direction and Kaggle's names for it. `pipelines/core/scores.py` computes them."""

from dataclasses import dataclass
from typing import Literal

ONE_CLASS, SEVERAL_LABELS, NUMBERS = "one_class", "several_labels", "numbers"  # the values of competition.task
Takes = Literal["label", "probabilities", "positive", "ranking", "label_sets", "columns", "numbers", "grades"]


@dataclass(frozen=True)
class MetricFacts:
    """Facts about a metric.

    takes: what it compares with the targets. label: the most probable class; probabilities: (N, K); positive: the
    probability of competition.positive; ranking: the best labels in order; label_sets: the labels above a threshold;
    columns: the probability of each label, (N, K), column by column; numbers: (N, T); grades: whole numbers.
    tasks: the values of competition.task that it scores. sends: the values of competition.submission that fit.
    kaggle: names that Kaggle gives it, lower case.
    """

    takes: Takes
    higher_is_better: bool
    tasks: tuple[str, ...]
    sends: tuple[str, ...]
    kaggle: tuple[str, ...] = ()


METRICS: dict[str, MetricFacts] = {
    "accuracy": MetricFacts("label", True, (ONE_CLASS,), ("labels",), ("categorization accuracy", "accuracy")),
    "balanced_accuracy": MetricFacts("label", True, (ONE_CLASS,), ("labels",)),
    "log_loss": MetricFacts("probabilities", False, (ONE_CLASS,), ("probabilities",), ("multi class log loss",)),
    "log_loss_binary": MetricFacts("positive", False, (ONE_CLASS,), ("probability",), ("log loss",)),
    "log_loss_columns": MetricFacts("columns", False, (SEVERAL_LABELS,), ("probabilities",)),
    "top_k_error": MetricFacts("ranking", False, (ONE_CLASS,), ("best_labels",)),
    "map_at_k": MetricFacts("ranking", True, (ONE_CLASS, SEVERAL_LABELS), ("best_labels",), ("map@{k}",)),
    "auc": MetricFacts("positive", True, (ONE_CLASS,), ("probability",)),
    "auc_columns": MetricFacts("columns", True, (ONE_CLASS, SEVERAL_LABELS), ("probabilities",)),
    "auc_weighted": MetricFacts("positive", True, (ONE_CLASS,), ("probability",)),
    "auc_partial": MetricFacts("positive", True, (ONE_CLASS,), ("probability",)),
    "average_precision": MetricFacts("positive", True, (ONE_CLASS,), ("probability",)),
    "average_precision_columns": MetricFacts("columns", True, (ONE_CLASS, SEVERAL_LABELS), ("probabilities",)),
    "f1_macro": MetricFacts("label", True, (ONE_CLASS,), ("labels",)),
    "f1_micro": MetricFacts("label", True, (ONE_CLASS,), ("labels",)),
    "fbeta_macro": MetricFacts("label_sets", True, (ONE_CLASS, SEVERAL_LABELS), ("labels", "label_lists")),
    "fbeta_micro": MetricFacts("label_sets", True, (ONE_CLASS, SEVERAL_LABELS), ("labels", "label_lists")),
    "fbeta_samples": MetricFacts("label_sets", True, (SEVERAL_LABELS,), ("label_lists",)),
    "quadratic_kappa": MetricFacts("grades", True, (ONE_CLASS, NUMBERS), ("labels", "numbers")),
    "rmse": MetricFacts("numbers", False, (NUMBERS,), ("numbers",)),
    "mae": MetricFacts("numbers", False, (NUMBERS,), ("numbers",)),
    "r2": MetricFacts("numbers", True, (NUMBERS,), ("numbers",)),
    "mean_column_rmse": MetricFacts("numbers", False, (NUMBERS,), ("numbers",)),
    "rmsle": MetricFacts("numbers", False, (NUMBERS,), ("numbers",)),
    "pearson": MetricFacts("numbers", True, (NUMBERS,), ("numbers",)),
    "spearman": MetricFacts("numbers", True, (NUMBERS,), ("numbers",)),
}
