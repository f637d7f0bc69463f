"""The engine: it learns, it stops when it must, and its scores depend on weights and images alone."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipelines.core.decide import Judge, make_judge
from pipelines.core.engine import EpochResult, Learner, evaluate, feature_views, fit, infer, make_views
from pipelines.core.optim import make_optimizer
from pipelines.core.phases import make_learner, phases
from pipelines.core.tasks import make_task
from pipelines.dataset.batches import PackedBatches
from pipelines.dataset.loading import Loading
from pipelines.models.building import build_network
from pipelines.models.device import Hardware
from pipelines.settings.loading import merge, with_input
from pipelines.settings.schema import PLAIN_INPUT, Settings
from pipelines.system.errors import UserError
from tests.support.pictures import noise

CPU = Hardware(torch.device("cpu"), torch.float32)
CLASSES = ["a", "b", "c"]
METRICS = ("accuracy", "log_loss", "f1_macro", "f1_micro")


def settings_of(**train: Any) -> Settings:
    model = {"widths": [8, 8], "dropout": train.pop("dropout", 0.0)}
    changes = {"model": model, "train": {"epochs": 100, "lr": 0.1, "batch_size": 8} | train, "input": {"size": 8}}
    return with_input(merge(Settings("x"), changes, "here"), **PLAIN_INPUT)


def judge_of(metric: str) -> Judge:
    """What scores 3 classes by `metric`."""
    sent = {"submission": "probabilities"} if metric == "log_loss" else {}
    return make_judge(merge(settings_of(), {"competition": {"metric": metric} | sent}, "here"), CLASSES, np.arange(3))


TASK, ACCURACY = make_task(settings_of(), CLASSES, {}), judge_of("accuracy")


def learner_of(settings: Settings) -> Learner:
    """What learns 3 classes by `settings`, from fresh weights."""
    (phase,) = phases(settings)
    task = make_task(settings, CLASSES, {})
    return make_learner(settings, build_network(settings, CLASSES, []), phase, CPU, task, ACCURACY)


def source(count: int, training: bool, settings: Settings, batch_size: int = 0, seed: int = 0) -> PackedBatches:
    """`count` noise images of 3 classes."""
    pixels = torch.from_numpy(noise(count, 8, 8, 3, seed=seed))
    size = {"batch_size": batch_size or settings.train.batch_size}
    settings = merge(settings, {"train": size, "predict": size}, "here")
    loading = Loading(settings, 3, torch.device("cpu"), training)
    ids = np.arange(count) + 1000 * seed  # what differs by its seed is other images
    return PackedBatches(ids, pixels, torch.arange(count), torch.arange(count) % 3, loading)


def fitted(
    settings: Settings, count: int = 8, epochs: Sequence[int] = (1,), valid: int = 0
) -> tuple[Learner, list[EpochResult]]:
    learner = learner_of(settings)
    validation = source(valid, False, settings, seed=1) if valid else None
    results = fit(learner, source(count, True, settings), validation, epochs, settings.train.seed)
    return learner, list(results)


def weights_of(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def distance(one: dict[str, Tensor], other: dict[str, Tensor], model: nn.Module) -> float:
    """The norm of the difference of all parameters."""
    return math.sqrt(sum(((one[name] - other[name]) ** 2).sum().item() for name, _ in model.named_parameters()))


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
def test_one_batch_is_learned_by_heart(optimizer: str) -> None:
    settings = settings_of(optimizer=optimizer, lr=0.3 if optimizer == "sgd" else 0.03)
    learner, results = fitted(settings, epochs=range(1, 61))
    assert results[0].train_loss > 0.9
    assert results[-1].train_loss < 0.02
    assert evaluate(learner.result, source(8, False, settings), TASK, ACCURACY, CPU).score == 1


def test_a_result_says_what_happened() -> None:
    settings = settings_of(schedule="linear", epochs=4)
    learner, (first, second) = fitted(settings, count=20, epochs=[1, 2], valid=10)
    assert (first.epoch, second.epoch) == (1, 2)
    # Steps are 3 an epoch, and each has the rate of its middle.
    assert first.lr == pytest.approx(0.1 * (1 - (2.5 / 3) / 4))
    assert second.lr == pytest.approx(0.1 * (1 - (1 + 2.5 / 3) / 4))
    assert learner.optimizer.param_groups[0]["lr"] == second.lr
    assert first.valid is not None
    assert first.seconds > 0
    assert first.images_per_second > 20 / first.seconds  # validation is not counted as training


def test_without_validation_no_score_is_claimed() -> None:
    assert [result.valid for result in fitted(settings_of(), epochs=[1, 2])[1]] == [None, None]


def test_the_training_loss_is_the_mean_over_images_of_what_was_learned_from() -> None:
    settings = settings_of(lr=1e-30, batch_size=4)
    learner = learner_of(settings)
    train = source(10, True, settings)  # batches of 4, 3 and 3: a mean over batches would be another number
    losses = []
    learner.model.train()
    for batch in train.batches(1):
        losses.append(F.cross_entropy(learner.model(batch.inputs), batch.labels, reduction="none"))
    (result,) = fitted(settings, count=10)[1]
    assert result.train_loss == pytest.approx(torch.cat(losses).mean().item(), rel=1e-6)


def test_label_smoothing_is_in_the_training_loss_alone() -> None:
    plain, smooth = settings_of(lr=1e-30), settings_of(lr=1e-30, label_smoothing=0.4)
    learner = learner_of(smooth)
    (batch,) = source(8, True, smooth).batches(1)
    logits = learner.model.train()(batch.inputs)
    expected = F.cross_entropy(logits, batch.labels, label_smoothing=0.4).item()
    (with_smoothing,), (without,) = fitted(smooth, valid=9)[1], fitted(plain, valid=9)[1]
    assert with_smoothing.train_loss == pytest.approx(expected, rel=1e-6)
    assert with_smoothing.train_loss != without.train_loss
    assert with_smoothing.valid == without.valid


@pytest.mark.parametrize("epoch", [1, 3])
def test_a_loss_that_is_no_number_stops_with_the_way_out(epoch: int) -> None:
    settings = settings_of(lr=1e30)
    learner = learner_of(settings)
    results = []
    with pytest.raises(UserError, match=r"training loss is not a finite number in epoch \d, by step 2.*Lower"):
        for result in fit(learner, source(16, True, settings), None, range(epoch, 9), 0):
            results.append(result)
    assert all(math.isfinite(result.train_loss) for result in results)


def test_a_loss_that_is_no_number_speaks_of_kept_epochs_only_where_there_are_some() -> None:
    settings = settings_of(lr=1e30)
    for epoch, kept in ((1, False), (2, True)):
        with pytest.raises(UserError) as caught:
            list(fit(learner_of(settings), source(16, True, settings), None, [epoch], 0))
        assert ("epochs before are kept" in str(caught.value)) == kept


def test_validation_that_is_no_number_stops_too() -> None:
    settings = settings_of()
    learner = learner_of(settings)
    # Statistics that overflowed once: batches are still normalised by their own in training, but not in validation.
    learner.model.stem[1].running_mean.fill_(math.inf)  # type: ignore[index, union-attr]
    with pytest.raises(UserError, match="validation loss is not a finite number in epoch 1"):
        list(fit(learner, source(8, True, settings), source(8, False, settings, seed=1), [1, 2], 0))


def test_an_image_that_is_trained_on_is_never_validated_on() -> None:
    settings = settings_of()
    train, valid = source(8, True, settings), source(3, False, settings)
    with pytest.raises(ValueError, match="3 images are in both training and validation set, such as id 0"):
        next(fit(learner_of(settings), train, valid, [1], 0))


def test_clipping_bounds_the_step_and_only_where_it_is_longer() -> None:
    def moved(**train: Any) -> float:
        settings = settings_of(momentum=0.0, lr=0.5, **train)
        before = weights_of(learner_of(settings).model)
        learner, _ = fitted(settings)
        return distance(weights_of(learner.model), before, learner.model)

    free = moved()
    assert moved(clip_norm=0.01) == pytest.approx(0.5 * 0.01, rel=1e-3)
    assert free > 0.02
    assert moved(clip_norm=1e6) == free


def test_each_group_takes_its_share_of_the_schedules_rate() -> None:
    settings = settings_of(momentum=0.0, schedule="linear", epochs=2)

    def moved(share: float) -> tuple[dict[str, Tensor], EpochResult]:
        plain = learner_of(settings)
        stem = plain.model.get_submodule("stem").parameters()
        learner = dataclasses.replace(plain, optimizer=make_optimizer(plain.model, settings.train, stem, share))
        before = weights_of(learner.model)
        (result,) = fit(learner, source(8, True, settings), None, [1], 0)  # one step
        after = weights_of(learner.model)
        return {name: after[name] - before[name] for name, _ in learner.model.named_parameters()}, result

    (slow, slow_result), (even, even_result) = moved(0.25), moved(1.0)
    assert slow_result.lr == even_result.lr == pytest.approx(0.075)  # what is reported is the schedule's
    assert even["stem.0.weight"].norm() > 1e-4
    for name, change in even.items():
        factor = 0.25 if name.startswith("stem.") else 1.0
        assert torch.allclose(slow[name], factor * change, rtol=1e-4, atol=1e-7), name


def test_a_group_that_names_no_share_takes_the_whole_rate() -> None:
    settings = settings_of(schedule="linear")
    plain = learner_of(settings)
    stem = list(plain.model.get_submodule("stem").parameters())
    rest = [each for each in plain.model.parameters() if all(each is not one for one in stem)]
    groups: list[dict[str, Any]] = [{"params": stem, "lr_share": 0.5}, {"params": rest}]
    optimizer = torch.optim.SGD(groups, lr=9.0)
    learner = dataclasses.replace(plain, optimizer=optimizer)
    for result in fit(learner, source(8, True, settings), None, [1, 2], 0):
        assert [group["lr"] for group in optimizer.param_groups] == [result.lr * 0.5, result.lr]


def test_gradients_do_not_pile_up_over_steps() -> None:
    settings = settings_of(momentum=0.0)
    learner, _ = fitted(settings, epochs=[1, 2])
    assert all(parameter.grad is None or not parameter.grad.any() for parameter in learner.model.parameters())


def test_averaged_weights_follow_their_formula_and_are_what_is_validated() -> None:
    settings = settings_of(ema_decay=0.7)
    learner = learner_of(settings)
    valid = source(12, False, settings, seed=1)
    expected: dict[str, Tensor] = {}
    results = fit(learner, source(8, True, settings), valid, range(1, 6), 0)  # one step an epoch
    for result in results:
        now = weights_of(learner.model)
        expected = (
            {name: expected[name] * 0.7 + value * 0.3 for name, value in now.items()}
            if expected
            else weights_of(learner.model)
        )
        averaged = weights_of(learner.result)
        for name in now:
            if now[name].is_floating_point():
                assert torch.allclose(averaged[name], expected[name], atol=1e-6), name
        assert result.valid == evaluate(learner.result, valid, TASK, ACCURACY, CPU)
    assert distance(weights_of(learner.model), weights_of(learner.result), learner.model) > 1e-3
    assert result.valid != evaluate(learner.model, valid, TASK, ACCURACY, CPU)


def test_without_averaging_the_network_itself_is_the_result() -> None:
    learner = learner_of(settings_of())
    assert learner.result is learner.model


def test_training_goes_on_in_train_mode_after_a_validation() -> None:
    learner, _ = fitted(settings_of(dropout=0.5), epochs=[1], valid=4)
    assert not learner.model.training
    train = source(8, True, settings_of())
    next(fit(learner, train, None, [2], 0))
    assert learner.model.training


def test_training_depends_on_seed_and_epoch_alone() -> None:
    def trained(seed: int, disturbed: bool = False) -> dict[str, Tensor]:
        settings = settings_of(dropout=0.5, seed=seed)
        learner = learner_of(settings)
        for _ in fit(learner, source(20, True, settings), None, [1, 2], seed):
            if disturbed:
                torch.rand(7)  # whoever iterates may draw random numbers of its own
        return weights_of(learner.model)

    first, disturbed, other = trained(0), trained(0, disturbed=True), trained(1)
    assert all(torch.equal(first[name], disturbed[name]) for name in first)
    assert not torch.equal(first["stem.0.weight"], other["stem.0.weight"])


@pytest.mark.parametrize("metric", METRICS)
def test_a_validation_score_does_not_depend_on_the_batch_size(metric: str) -> None:
    settings = settings_of()
    learner, _ = fitted(settings, count=30, epochs=range(1, 4))
    evaluations = [
        evaluate(learner.result, source(23, False, settings, size, seed=1), TASK, judge_of(metric), CPU)
        for size in (23, 1, 5, 22, 1000)
    ]
    for evaluation in evaluations:
        assert evaluation.loss == pytest.approx(evaluations[0].loss, rel=1e-6)
        assert evaluation.score == pytest.approx(evaluations[0].score, rel=1e-6)
    assert evaluations[0].score > 0
    assert evaluations[0].score != 1


@pytest.mark.parametrize("metric", METRICS)
def test_a_score_alone_is_that_with_an_interval(metric: str) -> None:
    judge = judge_of(metric)
    kept = judge.keep(torch.randn(20, 3, generator=torch.Generator().manual_seed(0)).log_softmax(dim=1))
    targets = np.arange(20) % 3
    assert judge.score_alone(kept, targets) == judge.judge(kept, targets)[0]


def test_evaluation_is_mean_cross_entropy_and_the_metric_over_all_images() -> None:
    settings = settings_of()
    learner, _ = fitted(settings, count=30)
    valid = source(11, False, settings, 4, seed=1)
    images = torch.cat([batch.inputs for batch in valid.batches(0)])
    with torch.no_grad():
        logits = learner.model.eval()(images)
    evaluation = evaluate(learner.model, valid, TASK, ACCURACY, CPU)
    assert evaluation.loss == pytest.approx(F.cross_entropy(logits, valid.labels).item(), rel=1e-6)
    assert evaluation.score == (logits.argmax(1) == valid.labels).double().mean().item()


def test_log_loss_is_the_validation_loss() -> None:
    settings = settings_of()
    learner, _ = fitted(settings, count=30)
    evaluation = evaluate(learner.result, source(11, False, settings, 4, seed=1), TASK, judge_of("log_loss"), CPU)
    assert evaluation.score == pytest.approx(evaluation.loss, rel=1e-6)


def test_a_prediction_does_not_depend_on_its_batch_mates() -> None:
    settings = settings_of(dropout=0.5)
    learner, _ = fitted(settings, count=30)

    def predictions(size: int) -> Tensor:
        return torch.cat([logs for _, logs in infer(learner.model, source(13, False, settings, size), TASK, CPU)])

    together = predictions(13)
    assert torch.allclose(together, predictions(1), atol=1e-6)
    assert torch.allclose(together, predictions(4), atol=1e-6)
    assert torch.allclose(together.exp().sum(dim=1), torch.ones(13))


def test_evaluation_changes_nothing_in_the_network() -> None:
    settings = settings_of(dropout=0.5)
    learner, _ = fitted(settings, count=30)
    before = weights_of(learner.model)
    learner.model.train()
    evaluate(learner.model, source(13, False, settings), TASK, ACCURACY, CPU)
    after = weights_of(learner.model)
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_precision_is_respected() -> None:
    seen: list[torch.dtype] = []

    class Spy(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(3 * 8 * 8, 3)

        def forward(self, images: Tensor) -> Tensor:
            logits: Tensor = self.linear(images.flatten(1))
            seen.append(logits.dtype)
            return logits

    settings = settings_of()
    for dtype in (torch.bfloat16, torch.float32):
        model, hardware = Spy(), Hardware(torch.device("cpu"), dtype)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        learner = Learner(model, optimizer, lambda progress: 0.1, hardware, TASK, ACCURACY)
        (result,) = fit(learner, source(8, True, settings), source(8, False, settings, seed=1), [1], 0)
        assert seen == [dtype, dtype]
        assert model.linear.weight.dtype == torch.float32
        ((_, logs),) = infer(model, source(8, False, settings, seed=1), TASK, hardware)
        assert logs.dtype == torch.float32
        assert math.isfinite(result.train_loss)
        seen.clear()


def test_views_are_the_image_its_mirror_and_its_shifts() -> None:
    images = torch.from_numpy(noise(2, 6, 7, 3)).movedim(3, 1).float()
    assert len(make_views(False, 0)) == 1
    assert torch.equal(make_views(False, 0)[0](images), images)
    same, mirror = make_views(True, 0)
    assert torch.equal(same(images), images)
    assert torch.equal(mirror(images), images.flip(3))
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (2, 2), (2, 2)), mode="reflect")
    up_left, down_right = padded[:, :, :6, :7], padded[:, :, 4:, 4:]
    views = make_views(True, 2)
    assert len(views) == 6
    expected = [images.numpy(), up_left, down_right]
    for view, picture in zip(views[:3], expected, strict=True):
        assert (view(images).numpy() == picture).all()
    for view, plain in zip(views[3:], views[:3], strict=True):
        assert torch.equal(view(images), plain(images.flip(3)))


@pytest.mark.parametrize(("mirror", "shift"), [(True, 0), (False, 1), (True, 7)])
def test_views_keep_shape_and_leave_a_constant_image_as_it_is(mirror: bool, shift: int) -> None:
    constant = torch.full((2, 3, 8, 8), 0.3)
    for view in make_views(mirror, shift):
        assert torch.equal(view(constant), constant)


def test_validation_averages_over_the_learners_views() -> None:
    settings, views = settings_of(lr=1e-30), make_views(True, 1)
    learner = dataclasses.replace(learner_of(settings), views=views)
    valid = source(12, False, settings, seed=1)
    (result,) = fit(learner, source(8, True, settings), valid, [1], 0)
    assert result.valid == evaluate(learner.result, valid, TASK, ACCURACY, CPU, views)
    assert result.valid != evaluate(learner.result, valid, TASK, ACCURACY, CPU)


def test_the_views_of_features_are_their_second_dimension() -> None:
    features = torch.rand(4, 3, 5)
    views = feature_views(3)
    assert len(views) == 3
    for number, view in enumerate(views):
        assert torch.equal(view(features), features[:, number])


class Corner(nn.Module):
    """Sees only the first pixel, of which every view of an image has another, and is sure of what it sees."""

    def forward(self, images: Tensor) -> Tensor:
        return images[:, :, 0, 0] * 3


def test_the_probabilities_of_views_are_averaged() -> None:
    settings, model, views = settings_of(), Corner(), make_views(True, 1)
    (batch,) = source(5, False, settings).batches(0)
    each = torch.stack([model(view(batch.inputs)) for view in views])
    expected = each.softmax(dim=2).mean(dim=0)
    assert not torch.allclose(expected, each.mean(dim=0).softmax(dim=1), atol=0.1)  # logits averaged would be others
    ((_, logs),) = infer(model, source(5, False, settings), TASK, CPU, views)
    assert torch.allclose(logs.exp(), expected, atol=1e-6)
    score = evaluate(model, source(5, False, settings), TASK, judge_of("log_loss"), CPU, views).score
    assert score == pytest.approx(F.nll_loss(expected.log(), torch.arange(5) % 3).item(), rel=1e-5)
