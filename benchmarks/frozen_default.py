"""The head without settings (`train.search`) against a plain linear head on one frozen network, on held-back rows.

    python -m benchmarks.frozen_default digits --weights weights/mobilenet_v2.pth --size 64
    python -m benchmarks.frozen_default cifar-10 --weights weights/mobilenet_v2.pth --size 128 --rows 6000 --use 2000

The competition must be split already.  Each seed divides the labelled rows anew: some are held back, a tenth of the
others validates.  The plain head trains on pooled features for 20 epochs (AdamW, 1e-3, cosine), its best epoch counts.
Features are computed once, into the competition's cache.
"""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from pipelines import command
from pipelines.settings.layout import Layout, StateFiles
from pipelines.settings.loading import load_settings

if TYPE_CHECKING:
    from pipelines.core.job import Job
    from pipelines.dataset.image_set import ImageSet
    from pipelines.settings.schema import Settings

FROZEN = (
    *("model.name=mobilenet_v2", "input.source=photos", "input.mean=[0.5,0.5,0.5]", "input.std=[0.5,0.5,0.5]"),
    *("finetune.frozen_stages=-1", "finetune.head_epochs=0", "finetune.freeze_norms=false", "model.label_map="),
    *("model.dropout=0", "model.hidden=[]", "train.warmup_epochs=0", "train.label_smoothing=0", "train.weight_decay=0"),
    *("augment.mixup=0", "augment.cutmix=0", "augment.cutout=0", "augment.translate=0", "augment.resize=0"),
    *("augment.flip=false", "augment.alternating_flip=false", "augment.crop_scale=[1,1]", "augment.sizes=[]"),
    *("predict.shift=0", "train.ema_decay=0", "train.bias_lr=0", "train.output_lr=0", "model.whitening=0"),
)
HEADS = {
    "plain": (
        *("model.features=pooled", "train.optimizer=adamw", "train.lr=1e-3", "train.epochs=20"),
        *("train.batch_size=64", "train.schedule=cosine", "train.search=false"),
    ),
    "searched": (
        *("model.features=stages", "train.optimizer=lbfgs", "train.lr=1", "train.epochs=1", "train.batch_size=256"),
        *("train.schedule=constant", "train.search=true"),
    ),
}


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("competition")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--size", type=int, default=224, help="input.size; default: 224")
    parser.add_argument("--rows", type=int, default=0, help="first labelled rows to use; default: all")
    parser.add_argument("--use", type=int, default=0, help="of these, rows that train and validate; default: half")
    parser.add_argument("--seeds", type=int, default=3)
    words = parser.parse_args(arguments)
    import numpy as np

    from pipelines.dataset.image_set import open_images
    from pipelines.dataset.splits import read_split_csv

    layout = Layout(Path.cwd(), Path(words.competition).stem)
    common = (*FROZEN, f"model.weights={words.weights}", f"input.size={words.size}", f"input.resize={words.size}")
    scores: dict[str, list[float]] = {head: [] for head in HEADS}
    for seed in range(words.seeds):
        for head, more in HEADS.items():
            settings = load_settings(words.competition, "default", (*common, *more, f"train.seed={seed}"))
            table = read_split_csv(layout.split_csv, "make split")
            images = open_images(settings, layout, table, "make split").part(test=False)
            rows = images.rows.head(words.rows or len(images))
            rows = rows.iloc[np.random.default_rng(seed).permutation(len(rows))]
            use = words.use or len(rows) // 2
            train, valid, held = rows[: use - use // 10], rows[use - use // 10 : use], rows[use:]
            with tempfile.TemporaryDirectory() as folder:
                files = StateFiles(Path(folder, "last.pt"), Path(folder, "history.csv"), Path(folder, "best.pt"))
                job = _job(settings, images.select(train), images.select(valid), files)
                score, bounds, name = _held_back(job, images.select(held), layout.weights)
            scores[head].append(score)
            print(f"seed {seed}, {head}: {name} {score:.4f} ({bounds[0]:.4f} to {bounds[1]:.4f}, n = {len(held):,})")
    gains = np.array(scores["searched"]) - scores["plain"]
    error = gains.std(ddof=1) / len(gains) ** 0.5 if len(gains) > 1 else float("nan")
    cells = [(head, f"{np.mean(found):.4f}") for head, found in scores.items()]
    print(command.table(("head", f"{name}, held back"), cells))
    print(f"Difference: {gains.mean():+.4f}, standard error {error:.4f} over {len(gains)} divisions.")


def _job(settings: "Settings", train: "ImageSet", valid: "ImageSet", files: StateFiles) -> "Job":
    from pipelines.core.job import Job
    from pipelines.models.device import choose_hardware
    from pipelines.models.weights import find_origins, resolve

    settings = resolve(settings, find_origins(settings.model, Path("weights")))
    hardware = choose_hardware(settings.hardware)
    return Job(settings, train, valid, settings.train.epochs, files, hardware, command.progress)


def _held_back(job: "Job", held: "ImageSet", weights: Path) -> tuple[float, tuple[float, float], str]:
    """Train the job; return the score of its best checkpoint on `held`, its interval, and the metric's name."""
    from dataclasses import replace

    import torch

    from pipelines.core.job import prepare_features, run_job
    from pipelines.core.prediction import Resources, predict
    from pipelines.core.search import choose_head
    from pipelines.models.building import build_network
    from pipelines.models.transfer import FineTuned
    from pipelines.models.weights import find_origins

    network = build_network(job.settings, job.train.classes, find_origins(job.settings.model, weights))
    assert isinstance(network, FineTuned)
    prepare_features(job, network)
    if job.settings.train.search:
        job = replace(job, settings=choose_head(job, network)[0])
    for _ in run_job(job, network):
        pass
    assert job.files.best is not None
    blocks = predict(job.files.best, job.settings, held, Resources(weights, command.progress), "predicting")
    judge = job.judge()
    kept = torch.cat([judge.keep(block) for _, block in blocks])
    return *judge.judge(kept, held.labels), judge.name


if __name__ == "__main__":
    sys.exit(command.run(main))
