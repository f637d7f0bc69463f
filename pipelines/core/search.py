"""Choose the settings of a linear head on cached features by its loss on the validation rows: `train.search`.

Tried: penalties from strong to weak, each solution starting from the one before; on the mean of each image and its
mirror image, and on the image alone.
"""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from pipelines.core.job import Job, to_device
from pipelines.core.phases import make_learner, phases
from pipelines.core.solve import Examples, solve
from pipelines.models.transfer import FineTuned
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.watch import unwatched

PENALTIES = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)  # values of train.weight_decay
WORSE = 2  # penalties in a row without a lower loss, after which weaker ones are not tried
CLEARLY = 1e-3  # share by which a loss must be lower to be chosen: less may be rounding
MOST_WORK = 1e9  # multiplications in one evaluation of the loss; where all rows need more, a part of them is used
LEAST_PART = 20  # of 1 in so many rows, all heads take about as long as the final one of all rows

Row = dict[str, Any]


@dataclass(frozen=True)
class Tried:
    """A head: what is tried, the loss of each validation row, float64 (n,), and the row of the table."""

    settings: Settings
    losses: Tensor
    row: Row

    @property
    def loss(self) -> float:
        return self.losses.mean().item()


def choose_head(job: Job, network: FineTuned) -> tuple[Settings, list[Row]]:
    """Return the settings of `job` with those of the best head, and without `train.search`; and a row for each head.

    The features are computed already.  Raises `UserError` if no head has a finite loss.
    """
    to_device(network, job.hardware)
    sides = (True, False) if job.settings.features.mirror else (False,)
    bars = iter(job.watch(range(len(sides) * len(PENALTIES)), "choosing the head", None, "heads"))
    best: list[Tried] = []
    rows: list[Row] = []
    for mirror in sides:
        settings = replace(job.settings, features=replace(job.settings.features, mirror=mirror))
        found = list(_path(replace(job, settings=settings), network, bars))
        rows += [tried.row for tried in found]
        if finite := [tried for tried in found if tried.losses.isfinite().all()]:
            best.append(_lowest(finite))
    if not best:
        raise UserError("No head has a finite loss. Check that these weights belong to input.mean and input.std.")
    chosen = best[0]
    if len(best) > 1 and _surely_lower(best[1].losses, chosen.losses):
        chosen = best[1]
    return chosen.settings, rows


def _path(job: Job, network: FineTuned, bars: Iterator[int]) -> Iterator[Tried]:
    """Yield the heads of one choice of views, from the strongest penalty, as long as they get better."""
    assert job.valid is not None
    (phase,) = phases(job.settings)
    judge, task = job.judge(), job.task()
    learner = make_learner(job.settings, network, phase, job.hardware, task, judge)
    assert isinstance(learner.optimizer, torch.optim.LBFGS)
    sources = job.sources(network)
    outputs = next(reversed(network.top.head.state_dict().values())).shape[0]
    every = min(LEAST_PART, max(1, round(len(job.train) * sum(network.top.widths) * outputs / MOST_WORK)))
    order = torch.randperm(len(job.train), generator=torch.Generator().manual_seed(0))
    some = job.train.select(job.train.rows.iloc[order[: -(-len(job.train) // every)].sort().values.numpy()])
    examples = Examples(sources.open(some, cached=True, training=True), epoch=1)
    batches = list(sources.open(job.valid, cached=True).batches(0))
    targets = torch.cat([batch.labels for batch in batches])
    lowest, worse = float("inf"), 0
    for penalty in PENALTIES:
        next(bars, None)
        started = time.perf_counter()
        solve(learner.model, learner.optimizer, examples, task, penalty, unwatched)
        with torch.inference_mode():
            averaged = torch.cat([task.average([learner.model(batch.inputs[:, 0])]) for batch in batches])
        losses = _by_row(task.losses(averaged, targets), targets)
        score = judge.score_alone(judge.keep(task.predictions(averaged)).cpu(), job.valid.labels)
        # Of n images the data outweigh a penalty n times: for all rows it must be that much weaker to mean the same.
        decay = float(f"{penalty * len(some) / len(job.train):.3g}")
        row = {"features.mirror": job.settings.features.mirror, "train.weight_decay": decay}
        row |= {"valid_loss": losses.mean().item(), judge.name: score, "seconds": time.perf_counter() - started}
        train = replace(job.settings.train, weight_decay=decay, search=False)
        tried = Tried(replace(job.settings, train=train), losses, row)
        yield tried
        better = tried.loss < lowest * (1 - CLEARLY)
        lowest, worse = (tried.loss, 0) if better else (lowest, worse + 1)
        if worse == WORSE or not losses.isfinite().all():
            return


def _by_row(losses: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of the known targets of each row that has any, float64 (n,), on the processor."""
    losses, known = losses.double().cpu(), ~targets.isnan().cpu()
    if losses.dim() == 1:
        return losses
    sums, counts = (losses.nan_to_num() * known).sum(dim=1), known.sum(dim=1)
    return (sums / counts)[counts > 0]


def _lowest(tried: Iterable[Tried]) -> Tried:
    """Return the head with the lowest loss; of those that are almost equal, the one with the strongest penalty."""
    ordered = list(tried)
    least = min(each.loss for each in ordered)
    return next(each for each in ordered if each.loss <= least + CLEARLY * abs(least))


def _surely_lower(ours: Tensor, theirs: Tensor) -> bool:
    """Return whether the mean of `ours` is lower than that of `theirs` by more than the standard error."""
    gains = theirs - ours
    return len(gains) > 1 and gains.mean().item() > gains.std().item() / len(gains) ** 0.5
