"""Optimizers and schedules are torch's own, with values from the settings."""

import dataclasses
import itertools
import math
import warnings
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import lr_scheduler

from pipelines.core.optim import make_optimizer, make_schedule
from pipelines.settings.training_sections import TrainSettings

EPOCHS = 12


def network(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.LazyLinear(2))


def trained(model: nn.Module, optimizer: torch.optim.Optimizer, steps: int = 5) -> dict[str, Any]:
    images = torch.randn(8, 3, 5, 5, generator=torch.Generator().manual_seed(1)).double()
    for _ in range(steps):
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(8) % 2).backward()
        optimizer.step()
    return model.state_dict()


def built(seed: int = 0) -> nn.Sequential:
    model = network(seed)
    with torch.no_grad():
        model(torch.zeros(2, 3, 5, 5))  # gives the lazy layer its size
    model[1].reset_running_stats()  # type: ignore[operator]
    return model.double()  # so that the order of sums hardly matters


@pytest.mark.parametrize(
    ("train", "reference"),
    [
        (TrainSettings(lr=0.1, momentum=0.0), lambda p: torch.optim.SGD(p, lr=0.1)),
        (TrainSettings(lr=0.1, momentum=0.8), lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8)),
        (
            TrainSettings(lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.3),
            lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.8, nesterov=True, weight_decay=0.3),
        ),
        (
            TrainSettings(optimizer="adam", lr=0.1, weight_decay=0.3),
            lambda p: torch.optim.Adam(p, lr=0.1, weight_decay=0.3),
        ),
        (
            TrainSettings(optimizer="adamw", lr=0.1, weight_decay=0.3),
            lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.3),
        ),
        # torch's default decay of AdamW is 0.01, ours is that of the settings
        (TrainSettings(optimizer="adamw", lr=0.1), lambda p: torch.optim.AdamW(p, lr=0.1, weight_decay=0.0)),
    ],
)
def test_each_optimiser_steps_as_torchs(train: TrainSettings, reference: Any) -> None:
    ours, theirs = built(), built()
    one, other = trained(ours, make_optimizer(ours, train)), trained(theirs, reference(theirs.parameters()))
    assert all(torch.allclose(one[name], other[name], rtol=1e-6, atol=1e-9) for name in one)
    assert any(not torch.allclose(one[name], value) for name, value in built().state_dict().items())


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_weight_decay_spares_norms_and_biases_when_told_to(optimizer: Any, everywhere: bool) -> None:
    train = TrainSettings(optimizer=optimizer, lr=0.1, weight_decay=0.5, decay_norms_and_biases=everywhere)
    model = built()
    for parameter in model.parameters():
        nn.init.constant_(parameter, 1.0)
        parameter.grad = torch.zeros_like(parameter)  # so that only decay changes anything
    make_optimizer(model, train).step()
    moved = {name for name, parameter in model.named_parameters() if (parameter < 0.999).all()}
    alone = {name for name, parameter in model.named_parameters() if (parameter == 1).all()}
    weights = {"0.weight", "3.weight"}
    assert moved == (weights | {"0.bias", "1.weight", "1.bias", "3.bias"} if everywhere else weights)
    assert moved | alone == {name for name, _ in model.named_parameters()}


def test_frozen_parameters_are_left_out() -> None:
    model = built()
    model[0].requires_grad_(False)
    for everywhere in (True, False):
        optimizer = make_optimizer(model, TrainSettings(decay_norms_and_biases=everywhere))
        held = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
        assert held == {id(parameter) for parameter in model.parameters() if parameter.requires_grad}


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adamw"])
@pytest.mark.parametrize("everywhere", [True, False])
def test_pretrained_parameters_take_their_share_of_the_rate(optimizer: Any, everywhere: bool) -> None:
    train = TrainSettings(optimizer=optimizer, lr=0.5, weight_decay=0.1, decay_norms_and_biases=everywhere)
    model = built()
    pretrained = {"0.weight", "0.bias", "1.weight", "1.bias"}
    made = make_optimizer(model, train, [*model[0].parameters(), *model[1].parameters()], 0.2)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    held = [name_of[id(parameter)] for group in made.param_groups for parameter in group["params"]]
    assert sorted(held) == sorted(name_of.values())
    for group in made.param_groups:
        for parameter in group["params"]:
            name = name_of[id(parameter)]
            share = 0.2 if name in pretrained else 1.0
            assert (group["lr_share"], group["lr"]) == (share, pytest.approx(0.5 * share))
            assert group["weight_decay"] == (0.1 if everywhere or parameter.ndim > 1 else 0.0)


def test_the_share_reaches_the_step_and_without_pretrained_parts_it_is_one() -> None:
    train = TrainSettings(lr=0.5, momentum=0.0)
    for pretrained, factor in ((True, 0.2), (False, 1.0)):
        model = built()
        for parameter in model.parameters():
            nn.init.constant_(parameter, 1.0)
            parameter.grad = torch.ones_like(parameter)
        make_optimizer(model, train, model[0].parameters() if pretrained else (), 0.2).step()
        for name, parameter in model.named_parameters():
            step = 0.5 * (factor if name.startswith("0.") else 1.0)
            assert torch.allclose(parameter, torch.full_like(parameter, 1.0 - step)), name


def torchs(kind: Any, **options: Any) -> list[float]:
    """The learning rates of torch's scheduler at the beginning of each epoch."""
    optimizer = torch.optim.SGD([torch.zeros(1)], lr=0.3)
    scheduler = kind(optimizer, **options)
    rates = []
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no optimizer step between its steps
        for _ in range(EPOCHS):
            rates.append(optimizer.param_groups[0]["lr"])
            scheduler.step()
    return rates


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"schedule": "constant"}, (lr_scheduler.ConstantLR, {"factor": 1.0})),
        ({"schedule": "step", "step_epochs": 3, "gamma": 0.2}, (lr_scheduler.StepLR, {"step_size": 3, "gamma": 0.2})),
        (
            {"schedule": "multistep", "milestones": (7, 2, 9), "gamma": 0.3},
            (lr_scheduler.MultiStepLR, {"milestones": [2, 7, 9], "gamma": 0.3}),
        ),
        ({"schedule": "exponential", "gamma": 0.9}, (lr_scheduler.ExponentialLR, {"gamma": 0.9})),
        ({"schedule": "cosine"}, (lr_scheduler.CosineAnnealingLR, {"T_max": EPOCHS})),
        (
            {"schedule": "linear"},
            (lr_scheduler.LinearLR, {"start_factor": 1.0, "end_factor": 0.0, "total_iters": EPOCHS}),
        ),
    ],
    ids=lambda value: value.get("schedule") if isinstance(value, dict) else "",
)
def test_each_schedule_is_torchs_at_the_beginning_of_epochs(options: Any, expected: Any) -> None:
    schedule = make_schedule(TrainSettings(epochs=EPOCHS, lr=0.3, **options))
    kind, their_options = expected
    assert [schedule(epoch) for epoch in range(EPOCHS)] == pytest.approx(torchs(kind, **their_options), rel=1e-9)


@pytest.mark.parametrize("schedule", ["step", "multistep", "exponential"])
def test_steps_happen_between_epochs_only(schedule: Any) -> None:
    rate = make_schedule(TrainSettings(epochs=EPOCHS, schedule=schedule, milestones=(2, 4), step_epochs=2))
    for epoch in range(EPOCHS):
        assert rate(epoch) == rate(epoch + 0.5) == rate(epoch + 0.999)


@pytest.mark.parametrize("schedule", ["cosine", "linear"])
def test_smooth_schedules_fall_within_epochs_down_to_zero(schedule: Any) -> None:
    rate = make_schedule(TrainSettings(epochs=4, lr=0.3, schedule=schedule))
    rates = [rate(step / 10) for step in range(41)]
    assert all(later < earlier for earlier, later in itertools.pairwise(rates))
    assert rates[0] == 0.3
    assert rates[-1] == pytest.approx(0, abs=1e-12)
    assert rate(2) == pytest.approx(0.15)


@pytest.mark.parametrize("schedule", ["constant", "cosine", "linear"])
@pytest.mark.parametrize("warmup", [1.5, 2])
def test_the_warm_up_rises_linearly_to_the_peak_and_the_rest_falls_from_there(schedule: Any, warmup: float) -> None:
    rate = make_schedule(TrainSettings(epochs=6, lr=0.3, schedule=schedule, warmup_epochs=warmup))
    assert rate(0) == 0
    assert rate(warmup / 2) == pytest.approx(0.15)
    assert rate(warmup) == pytest.approx(0.3)
    assert max(rate(step / 100) for step in range(600)) <= 0.3
    end = 0.3 if schedule == "constant" else 0.0
    assert rate(6) == pytest.approx(end, abs=1e-12)


def test_a_warm_up_as_long_as_the_training_is_no_mistake() -> None:
    rate = make_schedule(TrainSettings(epochs=2, lr=0.3, schedule="cosine", warmup_epochs=2.0))
    assert rate(1) == pytest.approx(0.15)
    assert math.isfinite(rate(2))


def test_a_schedule_depends_on_progress_alone() -> None:
    train = TrainSettings(epochs=EPOCHS, schedule="cosine", warmup_epochs=1.0)
    forwards, backwards = make_schedule(train), make_schedule(dataclasses.replace(train))
    places = [0.5, 3.25, 11.9]
    assert [forwards(place) for place in places] == [backwards(place) for place in reversed(places)][::-1]


def test_parameters_that_are_no_matrices_take_plain_steps() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer_scale = nn.Parameter(torch.ones(4, 1, 1))
            self.positions = nn.Parameter(torch.ones(1, 7, 4))
            self.linear, self.output = nn.Linear(4, 5), nn.Linear(5, 2)

    model = Scaled()
    groups = make_optimizer(model, TrainSettings(optimizer="muon", lr=0.1)).param_groups
    matrices = [parameter for group in groups if group["orthogonal"] for parameter in group["params"]]
    assert [id(parameter) for parameter in matrices] == [id(model.linear.weight)]
    assert sum(len(group["params"]) for group in groups) == len(list(model.parameters()))
