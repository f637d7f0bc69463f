"""The results of a fold set: out-of-fold predictions, the score of each member, and that of all rows together."""

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pipelines import command
from pipelines.core.choices import how_fitted
from pipelines.core.decide import make_judge
from pipelines.core.out_of_fold import Predicted, pool, predict_members
from pipelines.core.precision import settle_precision
from pipelines.core.prediction import Resources
from pipelines.core.run_networks import RunNetworks, in_blocks
from pipelines.core.stored import Stored, fits, write_oof
from pipelines.core.validation import Validation, validate
from pipelines.dataset.image_set import ImageSet
from pipelines.settings.choices import by_ranks
from pipelines.settings.fold_sets import Member
from pipelines.settings.layout import RunLayout
from pipelines.settings.schema import Settings
from pipelines.system.files import file_sha256, read_note, write_json


def finish_set(run: RunLayout, members: Sequence[Member], settings: Settings, images: ImageSet, weights: Path) -> None:
    """Predict the validation rows of each member; write and print the scores.

    settings: of the set, with the current [hardware].  images: all labelled ones.  weights: the folder of these.
    """
    settings, _ = settle_precision(settings, run.precision)
    found, results = [], []
    for train, predicted in predict_members(run, members, settings, images, Resources(weights, command.progress)):
        found.append(predicted)
        results.append(_score(settings, images, train.labels, predicted, run))
    pooled = pool(found)
    result = _score(settings, images, images.labels, pooled, run)
    kept = fits(*pooled.predictions.shape)
    if kept:
        stored = Stored(pooled.images.ids, pooled.folds, pooled.predictions)
        write_oof(run.oof, stored, images.classes, images.task)
    notes = [read_note(run.member(member.name).trained) for member in members]
    write_json(run.trained, _trained(notes, result, len(pooled.images)))
    scores = [each.score for each in results]
    folds = {
        "members": [member.name for member in members],
        "folds": settings.split.folds,
        "seeds": len({member.seed for member in members}),
        "metric": settings.competition.metric,
        "scores": scores,
        "intervals": [list(each.bounds) for each in results],
        "best_epochs": [note["best_epoch"] for note in notes],
        "valid_images": [len(each.images) for each in found],
        "mean": statistics.fmean(scores),
        "sd": statistics.stdev(scores),
        "score": result.score,
        "interval": list(result.bounds),
        "images": len(pooled.images),
    }
    if kept:
        networks = RunNetworks(run, settings, members, Resources(weights, command.progress))
        folds |= {"oof": file_sha256(run.oof), "oof_made_from": networks.oof_made_from()}
    write_json(run.folds, folds)
    _print(folds, result)
    if unseen := len(images.used(settings)) - len(pooled.images):
        print(f"{unseen:,} labelled rows are in the training rows of every member, so no score covers them.")
    if kept:
        print(f"Out-of-fold predictions: {run.oof.relative_to(Path.cwd())}")
    else:
        rows, columns = pooled.predictions.shape
        print(f"Note: {rows:,} rows of {columns:,} predictions are too many to be kept: there is no {run.oof.name}.")


def _score(settings: Settings, images: ImageSet, seen: Any, predicted: Predicted, run: RunLayout) -> Validation:
    """Return the score of `predicted` as the stage predict makes it.  seen: targets of the training rows."""
    judge, final = (make_judge(settings, images.classes, each, calibrated=True) for each in (seen, images.labels))
    targets, blocks = predicted.images.labels, in_blocks(predicted.predictions)
    groups = predicted.folds if by_ranks(settings.competition, images.classes) else None
    return validate(judge, final, targets, blocks, run.folder, groups)


def _trained(notes: Sequence[dict[str, Any]], result: Validation, images: int) -> dict[str, Any]:
    """Return the note of the set in the form of a run's, from the `notes` of its members.  images: validated rows."""
    first = notes[0]
    return {
        "best_epoch": round(statistics.fmean(note["best_epoch"] for note in notes)),
        "epochs": max(note["epochs"] for note in notes),
        "metric": first["metric"],
        "score": result.score,
        "interval": list(result.bounds),
        "train_images": round(statistics.fmean(note["train_images"] for note in notes)),
        "valid_images": images,
        "seconds": sum(note["seconds"] for note in notes),
        "features_seconds": sum(note["features_seconds"] for note in notes),
        "labelled images": first["labelled images"],
        "hardware": first["hardware"],
    }


def _print(folds: dict[str, Any], result: Validation) -> None:
    rows = []
    columns = ("members", "valid_images", "best_epochs", "scores", "intervals")
    for name, images, epoch, score, (low, high) in zip(*(folds[column] for column in columns), strict=True):
        rows.append((name, f"{images:,}", epoch, f"{score:.4f}", f"{low:.4f} to {high:.4f}"))
    print(command.table(("run", "valid images", "best epoch", folds["metric"], "95% interval"), rows))
    print(f"Mean of the {len(rows)} runs: {folds['mean']:.4f}, standard deviation {folds['sd']:.4f}.")
    sure = command.uncertainty(result.bounds, folds["images"])
    together = "All rows together" if folds["folds"] else "The mean of their predictions"
    print(f"{together}, as predicted here{how_fitted(result.choice)}: {folds['score']:.4f}{sure}")
    print("".join(f"Note: {note}\n" for note in result.notes), end="")
