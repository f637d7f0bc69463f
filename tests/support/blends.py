"""Runs with stored predictions, as predict leaves them, without a training."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from pipelines.core.stored import Stored, save_test, write_oof
from pipelines.dataset.image_set import read_images
from pipelines.dataset.splits import read_split_csv
from pipelines.settings.layout import Layout, RunLayout
from pipelines.settings.loading import to_dict
from pipelines.settings.metrics import NUMBERS, ONE_CLASS
from pipelines.settings.schema import Settings
from pipelines.system.files import file_sha256, write_json


def labelled_ids(layout: Layout, part: str = "valid") -> list[str]:
    table = read_split_csv(layout.split_csv)
    return table.loc[table["split"] == part, "id"].tolist()


def predicted_run(
    layout: Layout,
    settings: Settings,
    name: str,
    noise: float = 1.0,
    ids: Sequence[str] = (),
    folds: Sequence[int] = (),
) -> RunLayout:
    """Write a finished run that has predicted the rows `ids`, by default the validation rows, and the test rows.

    The predictions know the targets under noise; those of the test rows are noise.  They depend on the name.
    """
    images = read_images(settings, layout, "make split")
    ids = list(ids) or labelled_ids(layout)
    rows = images.rows.set_index("id").index.get_indexer(pd.Index(ids))
    random = np.random.default_rng(sum(map(ord, name)))
    targets = images.labels[rows]
    if images.task == ONE_CLASS:
        known = np.eye(len(images.classes))[targets]
    else:
        known = np.nan_to_num(targets).astype(np.float64)
    run = layout.run(name)
    tests = len(labelled_ids(layout, "test"))
    write_json(run.record, {"settings": to_dict(settings), "split_sha256": file_sha256(layout.split_csv)})
    write_json(run.trained, {"best_epoch": 1, "score": 0.5})
    predictions = _predictions(known * 2 + random.normal(0, noise, known.shape), images.task)
    stored = Stored(np.array(ids, object), np.array(folds or [0] * len(ids), np.int64), predictions)
    write_oof(run.oof, stored, images.classes, images.task)
    save_test(
        run.test_predictions, _predictions(random.normal(0, 2, (tests, len(images.classes))), images.task).numpy()
    )
    digests = {"oof": file_sha256(run.oof), "test_predictions": file_sha256(run.test_predictions)}
    write_json(run.predicted, {f"{name}.csv": {"checkpoint": "best.pt", **digests}})
    return run


def _predictions(values: np.ndarray, task: str) -> Tensor:
    outputs = torch.from_numpy(values).float()
    if task == ONE_CLASS:
        return outputs.log_softmax(dim=1)
    return outputs if task == NUMBERS else (outputs * 2 - 2).sigmoid()
