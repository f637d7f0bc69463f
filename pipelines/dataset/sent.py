"""What a submission depends on beside the predictions: the settings that say what is sent, the texts and the sample."""

from typing import Any

from pipelines.settings.layout import Layout
from pipelines.settings.loading import to_dict
from pipelines.settings.metrics import BOXES
from pipelines.settings.schema import Settings
from pipelines.system.files import file_sha256

FORM = {  # settings of an answer that no training depends on, by section
    "competition": tuple("submission positive guesses answer_separator no_label decimals long_form".split()),
    "data": ("sample_id",),
}
OF_BOXES = {"competition": ("box_answer", "no_boxes"), "data": ("box_units",)}


def form_of(settings: Settings) -> dict[str, Any]:
    """Return {key: value} of [competition] and [data] that say what is sent, and how it is written."""
    values, boxes = to_dict(settings), settings.competition.task == BOXES
    parts = (FORM, OF_BOXES) if boxes else (FORM,)
    return {
        f"{section}.{key}": values[section][key] for part in parts for section, keys in part.items() for key in keys
    }


def form_sent(settings: Settings, layout: Layout) -> dict[str, Any]:
    """Return what the note of a submission records of its form: the texts of classes, `form_of`, and the sample."""
    sample = layout.raw / settings.data.sample_submission
    digest = file_sha256(sample) if sample.is_file() else ""
    return {"answers": _texts(settings, layout), "form": form_of(settings), "sample": digest}


def _texts(settings: Settings, layout: Layout) -> dict[str, str]:
    """Return {class: text to submit} where data.submitted_labels names a CSV; else an empty dictionary."""
    if not settings.data.submitted_labels:
        return {}
    from pipelines.dataset.vocabulary import submitted_labels

    return submitted_labels(settings.data, layout.raw)
