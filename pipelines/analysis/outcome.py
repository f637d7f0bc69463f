"""What is recorded and said of the validation predictions behind a submission, of a run or of a blend."""

from pathlib import Path
from typing import Any

from pipelines.analysis.pictures import draw_results
from pipelines.analysis.results import Results, write_valid_predictions
from pipelines.core.choices import how_fitted
from pipelines.core.decide import Judge
from pipelines.core.validation import Validation
from pipelines.dataset.fingerprints import images_digest
from pipelines.dataset.image_set import ImageSet
from pipelines.dataset.split_record import split_inputs
from pipelines.models.device import choose_hardware
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.records import code_version
from pipelines.settings.schema import Settings
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
    said += [f"Mistakes: {', '.join(str(path.relative_to(Path.cwd())) for path in drawn.files)}"]
    said += [table(drawn.headings, drawn.rows)] if drawn.rows else []
    facts = {"valid_score": found.score, "valid_interval": list(found.bounds), "valid_images": len(images)}
    return facts | judge.facts(found.choice, images.classes), list(filter(None, said))


def made_on(settings: Settings, layout: Layout, images: ImageSet, watch: Watch) -> dict[str, Any]:
    """Return the hardware, code and data that the submission depends on."""
    facts = {**choose_hardware(settings.hardware).record(), "code": code_version()}
    facts |= {f"sha256 of {name}": sha256 for name, sha256 in split_inputs(layout, settings).items()}
    return facts | {"digest of all images": images_digest(images, watch)}
