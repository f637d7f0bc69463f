"""A submission of a run or of a blend: its file, and what is recorded and said of it and of its validation rows."""

from pathlib import Path
from typing import Any

import numpy as np

from pipelines.analysis.pictures import draw_results
from pipelines.analysis.results import Results, write_valid_predictions
from pipelines.core.choices import how_fitted
from pipelines.core.decide import Judge
from pipelines.core.validation import Validation
from pipelines.dataset.answer_cells import Answers
from pipelines.dataset.answer_summary import describe_answers
from pipelines.dataset.boxes import FOUND
from pipelines.dataset.fingerprints import images_digest
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.image_sizes import image_sizes
from pipelines.dataset.split_record import split_inputs
from pipelines.dataset.submission import write_submission
from pipelines.dataset.submission_check import check_submission
from pipelines.models.device import choose_hardware
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.metrics import BOXES
from pipelines.settings.records import code_version
from pipelines.settings.schema import Settings
from pipelines.system.files import atomic_file
from pipelines.system.screen import table, uncertainty
from pipelines.system.watch import Watch


def report(
    run: RunLayout,
    settings: Settings,
    images: ImageSet,
    judge: Judge,
    found: Validation,
    by: tuple[str, str] = ("best.pt", "valid"),
) -> tuple[dict[str, Any], list[str]]:
    """Write and draw the predictions of labelled `images` that are not trained on.

    by: what has predicted them, and what they are.  Return the score and what was chosen, for the note, and lines for
    the screen.
    """
    who, what = by
    said = [judge.describe(found.choice, images.classes, len(images))]
    results = Results(images, found.predicted, found.decided, found.of_label, found.thresholds)
    write_valid_predictions(run.valid_predictions, results)
    title = f"{settings.name}, run {run.folder.name}: {what} {judge.name} {found.score:.4f} on {len(images):,} images"
    drawn = draw_results(run, settings, results, title)
    how = how_fitted(found.choice)
    sure = uncertainty(found.bounds, len(images))
    said += [f"{who}, {what} {judge.name} as predicted here{how}: {found.score:.4f}{sure}"]
    said += [f"Note: {note}" for note in found.notes]
    said += [f"Look at: {', '.join(str(path.relative_to(Path.cwd())) for path in drawn.files)}"]
    said += [table(drawn.headings, drawn.rows)] if drawn.rows else []
    facts = {"valid_score": found.score, "valid_interval": list(found.bounds), "valid_images": len(images)}
    return facts | judge.facts(found.choice, images.classes), list(filter(None, said))


def write_answers(
    submission: Path, answers: Answers, test: ImageSet, settings: Settings, by: str, by_rank: bool
) -> tuple[int, str]:
    """Write the checked file of the `answers` for the images of `test`; return its number of rows, and what to say.

    by: what has predicted.  by_rank: whether these are mean ranks.  Raises `UserError` if they do not fit the sample;
    then nothing is written.
    """
    sent = in_units(answers, test, settings) if test.task == BOXES else answers
    with atomic_file(submission) as partial:
        write_submission(partial, test.ids.tolist(), sent, test.classes, settings, test.raw)
        count = check_submission(partial, test.classes, settings, test.raw)
    sample = settings.data.sample_submission
    how = f"checked against {sample}" if sample else "no sample"
    said = [f"Submission by {by}: {submission.relative_to(Path.cwd())} ({count:,} rows, {how})"]
    said += describe_answers(answers, test.classes, settings, test.raw)
    if by_rank:
        said.append(
            f"These are mean ranks from 0 to 1, not probabilities: {settings.competition.metric} takes their order."
        )
    return count, "\n".join(said)


def in_units(answers: Answers, images: ImageSet, settings: Settings) -> Answers:
    """Return predicted boxes (N, MOST * 6) within their images, in data.box_units, float64."""
    boxes = answers.reshape(len(answers), -1, FOUND).astype(np.float64)
    boxes[..., 2:] = boxes[..., 2:].clip(0, 1)
    if settings.data.box_units == "pixels":
        boxes[..., 2:] *= np.tile(image_sizes(images), 2)[:, None]
    return boxes.reshape(answers.shape)


def made_on(settings: Settings, layout: Layout, images: ImageSet, watch: Watch) -> dict[str, Any]:
    """Return the hardware, code and data that the submission depends on."""
    facts = {**choose_hardware(settings.hardware).record(), "code": code_version()}
    facts |= {f"sha256 of {name}": sha256 for name, sha256 in split_inputs(layout, settings).items()}
    return facts | {"digest of all images": images_digest(images, watch)}
