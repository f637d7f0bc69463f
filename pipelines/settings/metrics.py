"""The table of metrics: what each takes, its direction and Kaggle's names. `pipelines/core/scores.py` computes them."""

import math
from dataclasses import dataclass, replace
from typing import Literal

ONE_CLASS, SEVERAL_LABELS, NUMBERS, BOXES = "one_class", "several_labels", "numbers", "boxes"  # competition.task
Takes = Literal["label", "probabilities", "positive", "ranking", "label_sets", "columns", "numbers", "grades", "boxes"]


@dataclass(frozen=True)
class MetricFacts:
    """Facts about a metric.

    takes: what it compares with the targets. label: the most probable class; probabilities: (N, K); positive: the
    probability of competition.positive; ranking: the best labels in order; label_sets: the labels above a threshold,
    or for one class the most probable one; columns: the probability of each label, (N, K), column by column; numbers:
    (N, T); grades: whole numbers; boxes: see `pipelines/dataset/boxes.py`.
    tasks: the values of competition.task that it scores. sends: the values of competition.submission that fit.
    definition: for people. options: the keys of [competition] that it depends on, and `classes`, their number. kaggle:
    names that Kaggle or a competition's page gives it, lower case; {k} and {beta} are numbers. doubt: why Kaggle's name
    may mean another one. order_only: whether only the order of the predictions within a column counts, so that their
    ranks may be averaged.
    """

    takes: Takes
    higher_is_better: bool
    tasks: tuple[str, ...]
    sends: tuple[str, ...]
    definition: str
    options: tuple[str, ...] = ()
    kaggle: tuple[str, ...] = ()
    doubt: str = ""
    order_only: bool = False


_ONE, _SETS, _BOTH, _NUMBERS = (ONE_CLASS,), (SEVERAL_LABELS,), (ONE_CLASS, SEVERAL_LABELS), (NUMBERS,)
_BOXES = (BOXES,)
_LABELS, _COLUMNS, _LISTS = ("labels",), ("probabilities",), ("labels", "label_lists")
_MEAN_F = (
    "Kaggle says F-Score (Micro) or Mean F-Score for two metrics: of all labels together (fbeta_micro; f1_micro for "
    "one class), and per image, then the mean (fbeta_samples). Compare the formula on the competition's page."
)
_WHICH_F = "An F-score without a further word may be macro, micro or per image. Compare the competition's page."
_MEAN_AP = (
    "Mean average precision may be that of guesses (map_at_k), of columns, or of boxes. Compare the competition's page."
)
_LOG_LOSS = "With a column per class it is log_loss, with one probability per image log_loss_binary."

METRICS: dict[str, MetricFacts] = {
    "accuracy": MetricFacts(
        "label",
        True,
        _ONE,
        _LABELS,
        "share of images whose class is right",
        kaggle=("categorization accuracy", "accuracy", "accuracy score", "classification accuracy"),
    ),
    "balanced_accuracy": MetricFacts(
        "label",
        True,
        _ONE,
        _LABELS,
        "mean over the true classes of the share of their images whose class is right (macro recall)",
        kaggle=("balanced accuracy", "balanced accuracy score", "mean per class accuracy", "macro recall"),
    ),
    "log_loss": MetricFacts(
        "probabilities",
        False,
        _ONE,
        _COLUMNS,
        "mean of -ln p of the true class; rows are rescaled to sum 1, then clipped to 1e-15 … 1 - 1e-15",
        kaggle=("multi class log loss", "multiclass loss", "log loss", "logarithmic loss", "categorical cross entropy"),
        doubt=_LOG_LOSS,
    ),
    "log_loss_binary": MetricFacts(
        "positive",
        False,
        _ONE,
        ("probability",),
        "mean of -ln p of what is true; p is clipped to 1e-15 … 1 - 1e-15",
        kaggle=("log loss", "binary log loss", "logarithmic loss", "binary cross entropy"),
        doubt=_LOG_LOSS,
    ),
    "log_loss_columns": MetricFacts(
        "columns",
        False,
        _BOTH,
        _COLUMNS,
        "mean over the columns of the binary log loss",
        kaggle=("mean columnwise log loss", "columnwise log loss", "mean columnwise logarithmic loss"),
    ),
    "top_k_error": MetricFacts(
        "ranking",
        False,
        _ONE,
        ("best_labels",),
        "share of images whose class is not among the k best",
        ("guesses",),
        ("top {k} error", "mean best error@{k}", "meanbesterroratk", "top {k} classification error", "error@{k}"),
    ),
    "map_at_k": MetricFacts(
        "ranking",
        True,
        _BOTH,
        ("best_labels",),
        "mean over the images of the average precision of the k best: the sum of the precision at each right place, "
        "divided by k or by the number of true labels, if that is less; a repeated guess counts once",
        ("guesses",),
        ("map@{k}", "mean average precision@{k}", "average precision@{k}", "mean average precision"),
        _MEAN_AP,
    ),
    "auc": MetricFacts(
        "positive",
        True,
        _ONE,
        ("probability",),
        "area under the ROC curve",
        kaggle=(
            "area under receiver operating characteristic curve",
            "auc",
            "roc auc",
            "roc auc score",
            "auroc",
            "area under roc curve",
        ),
        order_only=True,
    ),
    "auc_columns": MetricFacts(
        "columns",
        True,
        _BOTH,
        _COLUMNS,
        "mean over the columns of the area under the ROC curve; columns with a single class are left out",
        kaggle=(
            "mean columnwise auc",
            "mean columnwise roc auc",
            "mean columnwise area under receiver operating characteristic curve",
            "mean columnwise area under roc curve",
            "columnwise auc",
            "macro roc auc",
            "macro auc",
            "mean auc",
            "mean roc auc",
        ),
        order_only=True,
    ),
    "auc_weighted": MetricFacts(
        "positive",
        True,
        _ONE,
        ("probability",),
        "area between the ROC curve and a false positive rate of 1, in ranges of the true positive rate, each with its "
        "weight, divided by the largest possible (ALASKA2)",
        ("auc_ranges", "auc_weights"),
        ("weighted auc", "weighted roc auc", "weighted area under receiver operating characteristic curve"),
        order_only=True,
    ),
    "auc_partial": MetricFacts(
        "positive",
        True,
        _ONE,
        ("probability",),
        "area between the ROC curve and a false positive rate of 1 above a true positive rate; above 0.8, at most 0.2 "
        "(ISIC 2024)",
        ("auc_above",),
        ("partial auc", "pauc", "isic pauc abovetpr", "pauc abovetpr", "partial area under roc curve"),
        order_only=True,
    ),
    "average_precision": MetricFacts(
        "positive",
        True,
        _ONE,
        ("probability",),
        "sum over the thresholds of the precision, times the growth of the recall, without interpolation",
        kaggle=("average precision", "average precision score", "auprc", "area under precision recall curve"),
        order_only=True,
    ),
    "average_precision_columns": MetricFacts(
        "columns",
        True,
        _BOTH,
        _COLUMNS,
        "mean over the columns of the average precision; columns without a positive image are left out",
        kaggle=("mean average precision", "mean columnwise average precision", "macro average precision"),
        doubt=_MEAN_AP,
        order_only=True,
    ),
    "f1_macro": MetricFacts(
        "label",
        True,
        _ONE,
        _LABELS,
        "mean over the classes, true or predicted, of 2 TP / (predicted + true)",
        ("classes",),
        kaggle=("f score (macro)", "macro f score", "macro f{beta}", "f{beta} macro", "f score", "f{beta}"),
        doubt=_WHICH_F,
    ),
    "f1_micro": MetricFacts(
        "label",
        True,
        _ONE,
        _LABELS,
        "F1 of all images together; with one class per image it is the accuracy",
        kaggle=(
            "f score (micro)",
            "micro f score",
            "micro f{beta}",
            "f{beta} micro",
            "mean f score",
            "mean f score (micro)",
        ),
        doubt=_MEAN_F,
    ),
    "fbeta_macro": MetricFacts(
        "label_sets",
        True,
        _BOTH,
        _LISTS,
        "mean over the labels of F-beta = (1 + b²) TP / (b² true + predicted); of one class, over those that are true "
        "or predicted; of several labels, over all, 0 for one that is neither",
        ("beta",),
        ("f score (macro)", "macro f score", "macro f{beta}", "f{beta} macro", "f score", "f{beta}"),
        _WHICH_F,
    ),
    "fbeta_micro": MetricFacts(
        "label_sets",
        True,
        _BOTH,
        _LISTS,
        "F-beta of all labels of all images together",
        ("beta",),
        ("f score (micro)", "micro f score", "micro f{beta}", "f{beta} micro", "mean f score", "mean f score (micro)"),
        _MEAN_F,
    ),
    "fbeta_samples": MetricFacts(
        "label_sets",
        True,
        _SETS,
        ("label_lists",),
        "F-beta of each image's labels, then the mean over the images; 0 for an image without true and sent labels",
        ("beta",),
        (
            "f score (micro)",
            "mean f score",
            "mean f score beta",
            "mean f{beta}",
            "f score",
            "f{beta}",
            "example based f score",
        ),
        _MEAN_F,
    ),
    "quadratic_kappa": MetricFacts(
        "grades",
        True,
        (ONE_CLASS, NUMBERS),
        ("labels", "numbers"),
        "Cohen's kappa with the squared distance of the places in the list of grades; a grade that does not occur "
        "keeps its place",
        ("grades",),
        ("quadratic weighted kappa", "qwk", "quadratic kappa", "quadratic cohen kappa", "kappa"),
    ),
    "rmse": MetricFacts(
        "numbers",
        False,
        _NUMBERS,
        ("numbers",),
        "root of the mean squared error of all numbers together",
        kaggle=("root mean squared error", "root mean square error", "rmse"),
    ),
    "mae": MetricFacts(
        "numbers",
        False,
        _NUMBERS,
        ("numbers",),
        "mean absolute error of all numbers together",
        kaggle=("mean absolute error", "mae"),
    ),
    "r2": MetricFacts(
        "numbers",
        True,
        _NUMBERS,
        ("numbers",),
        "mean over the columns of 1 - squared errors / squared deviations of the targets from their mean",
        kaggle=("r2", "r2 score", "r squared", "r squared score", "r^2", "coefficient of determination"),
    ),
    "mean_column_rmse": MetricFacts(
        "numbers",
        False,
        _NUMBERS,
        ("numbers",),
        "mean over the columns of the root mean squared error",
        kaggle=("mean columnwise root mean squared error", "mean columnwise rmse", "mcrmse"),
    ),
    "rmsle": MetricFacts(
        "numbers",
        False,
        _NUMBERS,
        ("numbers",),
        "root mean squared error of ln(1 + number), of all numbers together; an answer below 0 counts as 0",
        kaggle=("root mean squared logarithmic error", "root mean squared log error", "rmsle"),
    ),
    "pearson": MetricFacts(
        "numbers",
        True,
        _NUMBERS,
        ("numbers",),
        "mean over the columns of Pearson's correlation",
        kaggle=(
            "pearson correlation",
            "pearson correlation coefficient",
            "pearson",
            "mean columnwise pearson correlation",
        ),
    ),
    "spearman": MetricFacts(
        "numbers",
        True,
        _NUMBERS,
        ("numbers",),
        "mean over the columns of Spearman's correlation of the ranks; equal numbers share their mean rank",
        kaggle=(
            "spearman correlation",
            "spearman correlation coefficient",
            "spearman",
            "spearmans rho",
            "spearman rho",
            "spearman rank correlation",
            "mean columnwise spearman correlation",
            "mcspearmanr",
        ),
    ),
    "box_map": MetricFacts(
        "boxes",
        True,
        _BOXES,
        _BOXES,
        "mean over the classes, and over an IoU of 0.50 to 0.95, of the average precision of the boxes (COCO)",
        ("classes",),
        ("mean average precision", "coco mean average precision", "object detection map"),
        _MEAN_AP,
    ),
    "box_map_at": MetricFacts(
        "boxes",
        True,
        _BOXES,
        _BOXES,
        "mean over the classes of the average precision of the boxes at the IoU competition.box_iou (COCO, PASCAL VOC)",
        ("classes", "box_iou"),
        ("mean average precision", "pascal voc map", "map at iou", "average precision at iou"),
        _MEAN_AP,
    ),
    "box_precision": MetricFacts(
        "boxes",
        True,
        _BOXES,
        _BOXES,
        "per image the mean over an IoU of 0.50 to 0.75 of TP / (TP + FP + FN), then the mean over the images; boxes "
        "are matched in the order of confidence (global-wheat-detection)",
        kaggle=("mean precision at iou thresholds", "mean average precision at different intersection over union"),
        doubt=_MEAN_AP,
    ),
}


def facts_of(name: str, task: str) -> MetricFacts:
    """Return the facts of a metric under `task`: of one class, what takes label sets takes the label."""
    facts = METRICS[name]
    return replace(facts, takes="label") if facts.takes == "label_sets" and task == ONE_CLASS else facts


def badness(score: float, metric: str) -> float:
    """Return `score` with the sign for which lower is better; infinity for a score that is not defined (NaN)."""
    if math.isnan(score):
        return math.inf
    return -score if METRICS[metric].higher_is_better else score
