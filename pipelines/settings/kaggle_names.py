"""The names that Kaggle and the pages of competitions give metrics, and the settings that such a name states."""

import re

from pipelines.settings.metrics import METRICS

_K = re.compile(r"(?:@|\b(?:at|top))[\s_-]*\{?(k|\d+)\}?(?![a-z0-9])")
_BETA = re.compile(r"\bf[\s_-]*\{?(beta|\d+(?:\.\d+)?)\}?(?![a-z0-9.])")


def metric_of_kaggle_name(text: str) -> list[str]:
    """Return the metrics that Kaggle or a competition's page may mean by `text`; an empty list if none is known.

    Case, spaces and punctuation do not count, nor does a number such as that of `MAP@5` or `F2`.
    """
    if text.strip() in METRICS:
        return [text.strip()]
    wanted = _plain(text)
    return [name for name, facts in METRICS.items() if wanted in map(_plain, (name, *facts.kaggle))]


def options_of_kaggle_name(text: str) -> dict[str, float]:
    """Return the settings of [competition] that a name such as `MAP@5` or `F2 score` states, by their keys."""
    found = {"guesses": _K.search(text.casefold()), "beta": _BETA.search(text.casefold())}
    kinds = {"guesses": int, "beta": float}
    return {key: kinds[key](match[1]) for key, match in found.items() if match and match[1] not in ("k", "beta")}


def _plain(name: str) -> str:
    """Return a form of a metric's name without case, spaces, punctuation and numbers."""
    text = _BETA.sub("f", _K.sub("@", name.casefold()))
    return re.sub(r"[^a-z0-9@]|\bthe\b", "", text)
