"""Tasks: each is learned from images, and its predictions, scale and class weights are what they claim to be."""

import dataclasses
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.utils.class_weight import compute_class_weight
from torch import Tensor

from pipelines.core import checkpoint
from pipelines.core.engine import infer
from pipelines.core.job import read_history, run_job
from pipelines.core.losses import cumulative_logits
from pipelines.core.prediction import Resources, open_predictor
from pipelines.core.tasks import LOSS_OF, UNITS, class_weights, loss_unit, make_task, measure_scale, training_task
from pipelines.settings.checks import LOSSES
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.settings.training_sections import TrainSettings
from pipelines.system.errors import UserError
from tests.support.histories import same_checkpoints, timeless
from tests.support.tiny import CLASSES, Tiny, pretrained

SEVERAL = ("competition.task=several_labels", "competition.metric=fbeta_samples", "competition.submission=label_lists")
NUMBERS = ("competition.task=numbers", "competition.metric=rmse", "competition.submission=numbers")
KAPPA = ("competition.task=numbers", "competition.metric=quadratic_kappa", "competition.submission=numbers")
FAST = ("train.optimizer=adam", "train.lr=0.02", "train.epochs=20", "train.schedule=linear")
GRADES = ("competition.grades=[0,2,3]",)


def settings_of(task: str, **train: Any) -> Settings:
    """The settings of a task; `competition` may hold more of its keys."""
    options = {"one_class": (), "several_labels": SEVERAL, "numbers": NUMBERS}[task]
    competition: dict[str, Any] = dict(option.removeprefix("competition.").split("=") for option in options)
    competition |= train.pop("competition", {})
    return merge(Settings("x"), {"competition": competition, "train": train}, "here")


@pytest.fixture
def several(tiny: Tiny) -> Tiny:
    """A red image has both labels, a green one has one, a blue one has none."""
    return tiny.with_targets("several_labels", ["a", "b"], {"red": "a|b", "green": "b", "blue": ""})


@pytest.fixture
def numbers(tiny: Tiny) -> Tiny:
    """Two numbers of very different sizes; the second is missing for blue images."""
    return tiny.with_targets("numbers", ["x", "y"], {"red": "1003|-0.01", "green": "1002|0.03", "blue": "1000|"})


@pytest.fixture
def graded(tiny: Tiny) -> Tiny:
    return tiny.with_targets("numbers", ["grade"], {"red": "0", "green": "2", "blue": "3"})


def predicted(tiny: Tiny, job: Any) -> Tensor:
    """What the best checkpoint of `job` predicts for its validation images."""
    predictor = open_predictor(checkpoint.load(job.files.best), job.settings, job.valid, Resources(tiny.layout.weights))
    batches = infer(predictor.model, predictor.source, predictor.task, predictor.hardware, predictor.views)
    return torch.cat([predictions for _, predictions in batches])


# 1. Each task is learned


@pytest.mark.parametrize(
    "options",
    [
        (),
        ("train.loss=asymmetric",),
        ("train.loss=focal", "train.class_weights=[balanced]"),
        ("train.class_weights=['a=3']", "train.label_smoothing=0.1", "augment.mixup=0.2"),
    ],
)
def test_several_labels_are_learned(several: Tiny, options: tuple[str, ...]) -> None:
    job = several.job(*SEVERAL, *options, *FAST)
    rows = list(several.run(job))
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    assert job.valid is not None
    found = predicted(several, job).numpy()
    for column, flags in zip(found.T, job.valid.labels.T, strict=True):
        assert column[flags == 1].min() > column[flags == 0].max() + 0.1


@pytest.mark.parametrize("options", [(), ("train.loss=absolute",), ("train.loss=huber", "train.huber_delta=0.5")])
def test_numbers_are_learned_in_their_own_units(numbers: Tiny, options: tuple[str, ...]) -> None:
    job = numbers.job(*NUMBERS, *options, *FAST)
    rows = list(numbers.run(job))
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    assert job.valid is not None
    errors = (predicted(numbers, job).numpy() - job.valid.labels) / np.nanstd(job.valid.labels, axis=0)
    assert np.nanmean(errors**2) < 0.2  # the mean of the targets alone would give 1


def test_grades_are_learned_by_their_steps(graded: Tiny) -> None:
    job = graded.job(*KAPPA, *GRADES, "train.loss=ordinal", "train.label_smoothing=0.02", *FAST)
    rows = list(graded.run(job))
    assert rows[-1]["valid_loss"] < rows[0]["valid_loss"]
    assert job.valid is not None
    assert np.abs(predicted(graded, job).numpy() - job.valid.labels).mean() < 0.5
    saved = checkpoint.load(job.files.last)
    assert len(saved.weights["head.2.bias"]) == 2  # the steps between three grades
    assert saved.scale == {}


@pytest.mark.parametrize("options", [("train.loss=focal",), ("train.class_weights=[balanced]",)])
def test_one_class_is_learned_by_other_losses(tiny: Tiny, options: tuple[str, ...]) -> None:
    rows = list(tiny.run(tiny.job(*options, "train.epochs=12", "augment.mixup=0.1")))
    assert max(row["accuracy"] for row in rows) == 1


@pytest.mark.parametrize("frozen", ["finetune.frozen_stages=-1", "finetune.freeze_norms=true"])
def test_pretrained_networks_learn_numbers(numbers: Tiny, small_weights: Path, frozen: str) -> None:
    job = numbers.job(*pretrained(small_weights), *NUMBERS, frozen, "train.ema_decay=0.5", "train.lr=0.01")
    rows = list(numbers.run(job))
    assert len(rows) == 3 and all(math.isfinite(row["valid_loss"]) for row in rows)
    assert predicted(numbers, job).shape == (6, 2)


# 2. Predictions


def test_views_are_averaged_as_probabilities_numbers_or_grades() -> None:
    outputs = [torch.randn(5, 3, generator=torch.Generator().manual_seed(seed)) * 4 for seed in (0, 1, 2)]
    one = make_task(settings_of("one_class"), CLASSES, {})
    assert torch.allclose(one.merge(outputs).exp(), torch.stack(outputs).softmax(dim=2).mean(dim=0), atol=1e-6)
    several = make_task(settings_of("several_labels"), CLASSES, {})
    assert torch.allclose(several.merge(outputs), torch.stack(outputs).sigmoid().mean(dim=0), atol=1e-6)
    scale = {"mean": [1.0, 2.0, 3.0], "std": [10.0, 20.0, 30.0]}
    numbers = make_task(settings_of("numbers"), CLASSES, scale)
    expected = torch.stack(outputs).mean(dim=0) * torch.tensor(scale["std"]) + torch.tensor(scale["mean"])
    assert torch.allclose(numbers.merge(outputs), expected, atol=1e-4)
    assert numbers.scale == scale
    settings = settings_of("numbers", loss="ordinal", competition={"grades": [0, 1, 3, 5]})
    above = torch.stack([cumulative_logits(each) for each in outputs]).sigmoid().mean(dim=0)
    grades = make_task(settings, ["grade"], {}).merge(outputs)
    assert torch.allclose(grades[:, 0], above[:, 0] + 2 * above[:, 1] + 2 * above[:, 2], atol=1e-5)


def test_losses_of_averages_are_those_of_the_predictions() -> None:
    outputs = [torch.randn(6, 3, generator=torch.Generator().manual_seed(seed)) for seed in (0, 1)]
    flags = (torch.arange(18).view(6, 3) % 2).float()
    several = make_task(settings_of("several_labels", label_smoothing=0.3), CLASSES, {})
    found = several.losses(several.average(outputs), flags)
    expected = torch.nn.functional.binary_cross_entropy(several.merge(outputs), flags, reduction="none")
    assert torch.allclose(found, expected, atol=1e-6)  # label smoothing is in the training loss alone
    for smoothing in (0.0, 0.3):
        one = make_task(settings_of("one_class", label_smoothing=smoothing), CLASSES, {})
        labels = torch.arange(6) % 3
        expected = torch.nn.functional.nll_loss(one.merge(outputs), labels, reduction="none")
        assert torch.equal(one.losses(one.average(outputs), labels), expected)


# 3. The scale of numbers


def test_the_scale_is_that_of_the_known_numbers() -> None:
    targets = np.array([[1, 7, 0.1], [3, 7, np.nan], [np.nan, 7, 0.1]] * 3, np.float32)
    scale = measure_scale(targets)
    assert scale["mean"] == pytest.approx([2, 7, 0.1])
    assert scale["std"] == pytest.approx([1, 1, 1])  # constant columns, also where their mean is rounded


def test_a_constant_number_is_predicted(tiny: Tiny) -> None:
    constant = tiny.with_targets("numbers", ["x"], dict.fromkeys(CLASSES, "12.7"))
    job = constant.job(*NUMBERS, "train.epochs=8")
    list(constant.run(job))
    assert predicted(constant, job).numpy() == pytest.approx(12.7, abs=0.5)


def test_the_checkpoint_keeps_the_scale_of_the_training_rows_of_numbers_alone(numbers: Tiny, tiny: Tiny) -> None:
    job = numbers.job(*NUMBERS)
    list(numbers.run(job))
    rows = job.train.labels.astype(np.float64)
    saved = checkpoint.load(job.files.last)
    assert saved.scale["mean"] == pytest.approx(np.nanmean(rows, axis=0).tolist(), rel=1e-12)
    assert saved.scale["std"] == pytest.approx(np.nanstd(rows, axis=0).tolist(), rel=1e-12)
    again = numbers.retrain_job(*NUMBERS)
    list(numbers.run(again))
    everything = again.train.labels.astype(np.float64)
    assert checkpoint.load(again.files.last).scale["mean"] == pytest.approx(np.nanmean(everything, axis=0).tolist())
    plain = tiny.job(run="plain")
    list(tiny.run(plain))
    assert "scale" not in torch.load(plain.files.last, weights_only=True)


@pytest.mark.parametrize(
    "options", [("augment.mixup=0.4",), ("augment.cutmix=1.0", "train.ema_decay=0.8", "train.loss=huber")]
)
def test_a_stopped_training_on_numbers_continues_as_if_it_were_not(numbers: Tiny, options: tuple[str, ...]) -> None:
    whole, job = (numbers.job(*NUMBERS, *options, run=run) for run in ("whole", "stopped"))
    rows = list(numbers.run(whole))
    running = numbers.run(job)
    next(running)
    running.close()  # type: ignore[attr-defined]
    assert len(read_history(job)) == 1
    assert timeless(list(numbers.run(job))) == timeless(rows[1:])
    left, right = checkpoint.load(job.files.last), checkpoint.load(whole.files.last)
    assert same_checkpoints(left, right) and left.scale == right.scale


def test_missing_numbers_count_neither_in_training_nor_in_validation(numbers: Tiny) -> None:
    settings = numbers.settings(*NUMBERS)
    task = training_task(settings, numbers.images, None)
    targets = torch.from_numpy(numbers.images.labels)
    mean, std = (torch.tensor(task.scale[key]) for key in ("mean", "std"))
    outputs = torch.randn(len(targets), 2, generator=torch.Generator().manual_seed(0))
    errors = (outputs - (targets - mean) / std)[~targets.isnan()]
    assert task.loss(outputs, targets).item() == pytest.approx(errors.square().mean().item(), rel=1e-4)
    none = torch.full((4, 2), math.nan)
    outputs = torch.zeros(4, 2, requires_grad=True)
    loss = task.loss(outputs, none)  # a batch of images without targets
    loss.backward()
    assert loss.item() == 0 and outputs.grad is not None and not outputs.grad.any()


def test_rows_without_any_number_are_allowed_but_not_numbers_without_rows(tiny: Tiny) -> None:
    sparse = tiny.with_targets("numbers", ["x", "y"], {"red": "1|", "green": "2|3", "blue": "|"})
    rows = list(sparse.run(sparse.job(*NUMBERS, "train.epochs=2", "train.batch_size=3")))
    assert all(math.isfinite(row["valid_loss"]) for row in rows)
    absent = tiny.with_targets("numbers", ["x", "y"], {"red": "1|", "green": "2|", "blue": "3|"})
    with pytest.raises(UserError, match="No training row has a value of 'y'"):
        next(absent.run(absent.job(*NUMBERS, run="absent")))
    job = sparse.job(*NUMBERS, run="valid")
    assert job.valid is not None
    unknown = job.valid.select(job.valid.rows.assign(label="|"))
    with pytest.raises(UserError, match="No validation row has a target"):
        next(sparse.run(dataclasses.replace(job, valid=unknown)))


def test_targets_that_are_no_grades_are_listed(graded: Tiny) -> None:
    job = graded.job(*KAPPA, "competition.grades=[0,1,2]", "train.loss=ordinal")
    with pytest.raises(UserError, match=r"not in competition\.grades, \[0, 1, 2\]: '3 \(id \d+\)'\. Add them"):
        job.task()
    for advised in (("competition.grades=[0,1,2,3]", "train.loss=ordinal"), ("train.loss=squared",)):
        graded.job(*KAPPA, *advised).task()
    with pytest.raises(UserError, match=r"takes one number per image; there are 2: 'x', 'y'\. Set train\.loss"):
        make_task(job.settings, ["x", "y"], {})


# 4. Class weights


def test_balanced_weights_are_those_of_scikit_learn() -> None:
    labels = np.array([0, 0, 0, 1, 3, 3])  # no row has class 2
    found = class_weights(TrainSettings(class_weights=("balanced",)), labels, ["a", "b", "c", "d"])
    expected = compute_class_weight("balanced", classes=np.array([0, 1, 3]), y=labels)
    assert found is not None
    assert found[[0, 1, 3]].tolist() == pytest.approx(expected.tolist())
    assert found[torch.from_numpy(labels)].mean().item() == pytest.approx(1)


def test_balanced_weights_of_labels_are_absences_per_presence() -> None:
    flags = np.array([[1, 0, 0, 1], [1, 0, 0, 1], [1, 1, 0, 1], [0, 0, 0, 1]], np.float32)
    found = class_weights(TrainSettings(class_weights=("balanced",)), flags, ["a", "b", "c", "d"])
    assert found is not None
    assert found.tolist() == pytest.approx([1 / 3, 3, 1, 1])  # 1: what all rows have, or none, cannot be balanced


def test_given_weights_are_those_of_their_classes_alone() -> None:
    train = TrainSettings(class_weights=("b=2.5", "x=1=0.5"))
    found = class_weights(train, np.array([0, 1, 2]), ["a", "b", "x=1"])
    assert found is not None and found.tolist() == [1, 2.5, 0.5]
    assert class_weights(TrainSettings(), np.array([0]), ["a"]) is None


def test_a_weight_for_no_class_names_the_nearest_and_the_advice_works(tiny: Tiny) -> None:
    job = tiny.job("train.class_weights=['gren=2']")
    with pytest.raises(
        UserError, match=r"names 'gren', no class here\. Did you mean 'green'.*\? Classes: 'blue', 'gre"
    ):
        job.task()
    weights = tiny.job("train.class_weights=['green=2']").task()
    outputs, labels = torch.zeros(3, 3), torch.tensor([0, 1, 2])
    assert weights.losses(weights.average([outputs]), labels).tolist() == pytest.approx(
        [math.log(3), 2 * math.log(3), math.log(3)]
    )
    assert weights.loss(outputs, labels).item() == pytest.approx(4 / 3 * math.log(3))


# 5. Names


def test_every_loss_has_a_unit() -> None:
    assert set(UNITS) == {loss for losses in LOSSES.values() for loss in losses} | set(LOSS_OF.values())
    assert set(LOSSES) == set(LOSS_OF)
    assert loss_unit(settings_of("one_class")) == "cross-entropy (nats)"
    assert loss_unit(settings_of("several_labels", class_weights=["balanced"])).startswith("weighted binary")
    assert "standardised" in loss_unit(settings_of("numbers"))


def test_a_job_asks_for_no_more_outputs_than_its_task(several: Tiny) -> None:
    job = several.job(*SEVERAL)
    network = several.network(job.settings)
    next(run_job(job, network))
    assert len(checkpoint.load(job.files.last).weights["head.2.bias"]) == 2
