"""The choice of a head for each task, on few rows and with classes that the validation rows lack."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from pipelines.core.job import Job, prepare_features
from pipelines.core.search import PENALTIES, Tried, _lowest, _surely_lower, choose_head
from pipelines.models.transfer import FineTuned
from pipelines.settings.metrics import NUMBERS, SEVERAL_LABELS
from pipelines.settings.schema import Settings
from tests.support.tiny import Tiny, pretrained

SEARCH = (
    *("finetune.frozen_stages=-1", "model.features=stages", "train.optimizer=lbfgs", "train.lr=1", "train.epochs=1"),
    "train.search=true",
)
TASKS = {
    "one_class": (),
    "several_labels": (
        "competition.task=several_labels",
        "competition.metric=fbeta_macro",
        "competition.submission=label_lists",
    ),
    "numbers": ("competition.task=numbers", "competition.metric=rmse", "competition.submission=numbers"),
    "ordinal": (
        *("competition.task=numbers", "competition.metric=quadratic_kappa", "competition.submission=numbers"),
        *("competition.grades=[0,1,2]", "train.loss=ordinal"),
    ),
}


def job_of(tiny: Tiny, weights: Path, task: str) -> tuple[Tiny, Job]:
    if task == "several_labels":
        tiny = tiny.with_targets(SEVERAL_LABELS, ["dark", "red"], {"blue": "dark", "green": "", "red": "dark|red"})
    elif task != "one_class":
        tiny = tiny.with_targets(NUMBERS, ["depth"], {"blue": "0", "green": "1", "red": "2"})
    return tiny, tiny.job(*pretrained(weights), *SEARCH, *TASKS[task])


def chosen(tiny: Tiny, job: Job) -> tuple[Settings, list[dict[str, object]]]:
    network = tiny.network(job.settings)
    assert isinstance(network, FineTuned)
    prepare_features(job, network)
    return choose_head(job, network)


@pytest.mark.parametrize("task", TASKS)
def test_each_task_finds_a_head_twice_the_same(tiny: Tiny, small_weights: Path, task: str) -> None:
    tiny, job = job_of(tiny, small_weights, task)
    settings, rows = chosen(tiny, job)
    assert settings.train.weight_decay in PENALTIES
    assert settings == replace(
        job.settings,
        train=replace(job.settings.train, weight_decay=settings.train.weight_decay, search=False),
        features=settings.features,
    )
    assert all(np.isfinite(float(str(row["valid_loss"]))) for row in rows)
    again, _ = chosen(tiny, job)
    assert again == settings


def test_few_rows_and_a_class_that_validation_lacks(tiny: Tiny, small_weights: Path) -> None:
    _, job = job_of(tiny, small_weights, "one_class")
    assert job.valid is not None
    rows = job.valid.rows[job.valid.rows["label"] != "red"]
    for count in (5, 1):
        settings, _ = chosen(tiny, replace(job, valid=job.valid.select(rows.head(count))))
        assert settings.train.weight_decay in PENALTIES


def test_rows_without_a_number_and_a_single_view(tiny: Tiny, small_weights: Path) -> None:
    tiny, job = job_of(tiny, small_weights, "numbers")
    labels = tiny.table["label"].mask(np.arange(len(tiny.table)) % 5 == 0, "")
    tiny = replace(tiny, table=tiny.table.assign(label=labels))
    job = tiny.job(*pretrained(small_weights), *SEARCH, *TASKS["numbers"], "features.mirror=false")
    settings, rows = chosen(tiny, job)
    assert not settings.features.mirror
    assert len(rows) <= len(PENALTIES)


def test_a_part_of_many_rows_chooses_a_penalty_for_all(
    tiny: Tiny, small_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, job = job_of(tiny, small_weights, "one_class")
    network = tiny.network(job.settings)
    assert isinstance(network, FineTuned)
    work = len(job.train) * sum(network.top.widths) * 3
    monkeypatch.setattr("pipelines.core.search.MOST_WORK", work / 2)
    settings, _ = chosen(tiny, job)
    assert any(settings.train.weight_decay == pytest.approx(penalty / 2, rel=0.01) for penalty in PENALTIES)


def heads(*losses: float) -> list[Tried]:
    settings = Settings("x")
    return [Tried(settings, torch.tensor([loss], dtype=torch.float64), {"number": n}) for n, loss in enumerate(losses)]


def test_of_almost_equal_heads_the_strongest_penalty_wins() -> None:
    assert _lowest(heads(0.9, 0.5004, 0.5, 0.7)).row["number"] == 1
    assert _lowest(heads(0.9, 0.52, 0.5, 0.7)).row["number"] == 2
    assert _lowest(heads(0.0, 0.0)).row["number"] == 0


def test_other_views_must_be_better_by_more_than_the_standard_error() -> None:
    ours, theirs = torch.tensor([0.1, 0.5, 0.2]), torch.tensor([0.2, 0.6, 0.31])
    assert _surely_lower(ours, theirs)
    assert not _surely_lower(theirs, ours)
    assert not _surely_lower(ours, theirs + torch.tensor([1.0, -1.0, 0.0]))
    assert not _surely_lower(ours[:1], theirs[:1])
