"""Predict the test rows to a submission CSV, checked against the sample; draw what the network gets wrong.

Reads   runs/<c>/<run>/final.pt (best.pt with --set predict.checkpoint=best), data/<c>/split.csv and its images.
Writes  submissions/<c>/<run>.csv; runs/<c>/<run>/mistakes.png, confusion.png and valid_predictions.csv (of best.pt, on
        the valid rows, since final.pt has learned from them), predict.json.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.settings.loading import submission_name, to_dict
from pipelines.system.errors import UserError

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt
    import pandas as pd
    import torch

    from pipelines.settings.layout import Layout, RunLayout
    from pipelines.settings.schema import Settings

    Probabilities = npt.NDArray[np.float32]

MISTAKES_SHOWN = 24


def main(arguments: Sequence[str] | None = None) -> None:
    words = command.parser(__doc__, "predict").parse_args(arguments, namespace=command.Words())
    from pipelines.settings.records import finished_run

    layout = words.layout()
    run, record, _ = finished_run(layout, words.run_name(), words.settings(), words.repeat("train"))
    with words.only_one_in(run):
        _make_submission(words, layout, run, record.settings)


def _make_submission(words: command.Words, layout: "Layout", run: "RunLayout", settings: "Settings") -> None:
    from pipelines.system.files import file_sha256, read_note

    submission = layout.submission(submission_name(run.folder.name, words.set))
    shown = submission.relative_to(Path.cwd())
    if submission == layout.submission_log:
        raise UserError(f"{shown} is the log of what was sent. Name the run otherwise: RUN=")
    notes = read_note(run.predicted) if run.predicted.exists() else {}
    source = run.final if settings.predict.checkpoint == "final" else run.best
    if source == run.final and not (run.retrained.exists() and run.final.exists()):
        raise UserError(
            f"{source.relative_to(Path.cwd())} is missing or unfinished. First: {words.repeat('retrain')}; or predict "
            'with the validated weights: SET="predict.checkpoint=best"'
        )

    made_from = {"checkpoint": source.name, "weights": file_sha256(source), "predict": to_dict(settings)["predict"]}
    note = notes.get(submission.name, {})
    known = submission.exists() and run.valid_predictions.exists()
    if known and note == note | made_from | {"sha256": file_sha256(submission)}:
        print(f"Already predicted: {shown}.")
        print(f"To do it again: rm {shown}")
        return

    import torch

    from pipelines.analysis.suspects import write_valid_predictions
    from pipelines.core import calibration
    from pipelines.core.training import divide_rows, settle_precision
    from pipelines.dataset.batches import labels_of
    from pipelines.dataset.fingerprints import images_digest
    from pipelines.dataset.splits import read_split_csv
    from pipelines.dataset.submission import check_submission, class_list, make_submission, write_submission
    from pipelines.models.device import choose_hardware
    from pipelines.settings.records import code_version, split_inputs
    from pipelines.system.files import atomic_file, write_json

    table = read_split_csv(layout.split_csv, words.repeat("split"))
    test_rows = table[table["split"] == "test"]
    if test_rows.empty:
        raise UserError(f"{layout.split_csv} has no test rows, so nothing to predict. Is data.test_images right?")
    classes = class_list(table.loc[table["split"] != "test", "label"].tolist(), settings, layout.raw)
    _, valid_rows = divide_rows(table, settings)
    settings, _ = settle_precision(settings, run.precision)

    def predicted(checkpoint: Path, rows: "pd.DataFrame", what: str) -> torch.Tensor:
        return _predict(checkpoint, rows, what, settings, table, classes, layout)

    validated = predicted(run.best, valid_rows, "validating")
    temperature = 1.0
    if settings.competition.metric == "log_loss" and settings.predict.calibrate:
        labels = labels_of(valid_rows, classes)
        fitted = calibration.fit_temperature(validated, labels)
        if len(labels) >= calibration.PARTS and calibration.LOWEST < fitted < calibration.HIGHEST:
            temperature = fitted
            validated = calibration.cross_fitted(validated, labels)
            print(f"Temperature {temperature:.3f}, fitted on the {len(labels):,} valid images.")
        else:  # how sure to be cannot be learned from these
            print(f"No temperature: the {len(labels):,} valid images are too few, or all predicted right or wrong.")
    probabilities = validated.exp().numpy()
    write_valid_predictions(run.valid_predictions, valid_rows, classes, probabilities)
    score, bounds = _draw_validation(run, settings, valid_rows, classes, probabilities, layout)
    folder = run.folder.relative_to(Path.cwd())
    sure = command.uncertainty(bounds, len(valid_rows))
    how = "" if temperature == 1 else ", each image with a temperature that the others chose"
    print(f"best.pt, valid {settings.competition.metric} as predicted here{how}: {score:.4f}{sure}")
    print(f"What it gets wrong: {folder / run.mistakes.name}, {folder / run.confusion.name}")

    tested = predicted(source, test_rows, "predicting")
    if temperature != 1:
        tested = calibration.apply_temperature(tested, temperature)
    with atomic_file(submission) as partial:
        content = make_submission(test_rows["id"].tolist(), tested.exp().numpy(), classes, settings, layout.raw)
        write_submission(partial, content)
        count = check_submission(partial, classes, settings, layout.raw)
    notes[submission.name] = {**made_from, "sha256": file_sha256(submission), "rows": count, "valid_score": score}
    notes[submission.name] |= {"valid_interval": list(bounds), "valid_images": len(valid_rows)}
    notes[submission.name] |= {"temperature": temperature}
    made_on = {**choose_hardware(settings.hardware).record(), "code": code_version()}
    made_on |= {f"sha256 of {name}": sha256 for name, sha256 in split_inputs(layout, settings).items()}
    made_on["digest of all images"] = images_digest(table, layout.raw, layout.cache, command.progress)
    notes[submission.name] |= {"made_on": made_on}
    write_json(run.predicted, notes)
    against = f"checked against {settings.data.sample_submission}" if settings.data.sample_submission else "no sample"
    print(f"Submission by {source.name}: {shown} ({count:,} rows, {against})")
    print(f"Next: {words.repeat('submit' if settings.competition.source == 'kaggle' else 'score')}")


def _predict(
    checkpoint: Path,
    rows: "pd.DataFrame",
    what: str,
    settings: "Settings",
    table: "pd.DataFrame",
    classes: list[str],
    layout: "Layout",
) -> "torch.Tensor":
    """Return the log-probabilities, float32 (N, K), of `rows` by `checkpoint`, averaged over the settings' views."""
    import torch

    from pipelines.core.checkpoint import load
    from pipelines.core.engine import infer
    from pipelines.core.training import open_predictor
    from pipelines.dataset.batches import WatchedBatches

    predictor = open_predictor(load(checkpoint), settings, rows, table, layout, classes, command.progress)
    source = WatchedBatches(predictor.source, what, command.progress)
    device = predictor.hardware.device
    # Kept on the device: to fetch each batch is to wait for it, and leaves a GPU without work until the next one.
    computed = torch.full((len(rows), len(classes)), torch.nan, device=device)
    for batch, log_probabilities in infer(predictor.model, source, predictor.hardware, predictor.views):
        computed[batch.positions.to(device, non_blocking=True)] = log_probabilities
    predicted = computed.cpu()
    if not predicted.amax(dim=1).isfinite().all():  # nor is the largest of numbers of which one is none
        raise UserError(f"{checkpoint} predicts numbers that are not finite. Train again with a lower train.lr.")
    return predicted


def _draw_validation(
    run: "RunLayout",
    settings: "Settings",
    rows: "pd.DataFrame",
    classes: list[str],
    probabilities: "Probabilities",
    layout: "Layout",
) -> tuple[float, tuple[float, float]]:
    """Draw the most confident mistakes and the confusion matrix of the valid `rows`; return their score and the bounds
    of its interval."""
    import numpy as np
    import torch

    from pipelines.analysis import plots
    from pipelines.core.metrics import METRICS, interval
    from pipelines.dataset import images
    from pipelines.dataset.batches import evaluation_resize, labels_of

    labels = labels_of(rows, classes).numpy()
    predicted = probabilities.argmax(axis=1)
    metric = METRICS[settings.competition.metric]
    judged = torch.from_numpy(probabilities).double(), torch.from_numpy(labels)
    score, bounds = metric.value(metric.sums(*judged)), interval(metric, *judged)

    confidence = probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != labels)
    wrong = wrong[np.argsort(-confidence[wrong], kind="stable")][:MISTAKES_SHOWN]
    mistakes = []
    for index, row in zip(wrong, rows.iloc[wrong].itertuples(), strict=True):
        picture = images.open_image(layout.raw / str(row.path), images.place_of(row))
        shown = images.fit(picture, settings.input.size, evaluation_resize(settings))
        label = classes[predicted[index]]
        mistakes.append(plots.Mistake(str(row.id), shown, str(row.label), label, float(confidence[index])))
    title = f"{settings.name}, run {run.folder.name}: valid {metric.name} {score:.4f} on {len(rows):,} images"
    plots.draw_mistakes(run.mistakes, mistakes, f"{title}\n{np.sum(predicted != labels):,} wrong, most confident first")
    counts = np.zeros((len(classes), len(classes)), dtype=np.int64)
    np.add.at(counts, (labels, predicted), 1)
    plots.draw_confusion(run.confusion, counts, classes, title)
    return score, bounds


if __name__ == "__main__":
    sys.exit(command.run(main))
