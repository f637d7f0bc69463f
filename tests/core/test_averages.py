"""Lookahead follows its formula; its network trains on from the average."""

from types import NoneType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.core.averages import Average, Lookahead, make_average
from pipelines.settings.training_sections import TrainSettings


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))


def disturb(model: nn.Module, amount: float) -> None:
    """Add `amount` to all numbers, as training changes weights and running statistics."""
    for value in model.state_dict().values():
        value.add_(amount if value.is_floating_point() else 1)


def copied(model: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in model.state_dict().items()}


def test_lookahead_pulls_the_network_back_to_its_average_every_few_steps() -> None:
    model = network()
    lookahead = Lookahead(model, every=2, start=1, epochs=4)
    kept: dict[str, Tensor] = {}
    for step in range(1, 9):  # two steps an epoch, after one epoch without it
        disturb(model, 0.5)
        fast = copied(model)
        lookahead.after_step(model, step, progress=1 + step / 2)
        if step % 2:
            assert all(torch.equal(value, fast[name]) for name, value in model.state_dict().items())
            continue
        share = 0.95**2 * (step / 8) ** 3 if kept else 0.0  # the first average is the network
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                expected = fast[name] if not kept else kept[name] * share + fast[name] * (1 - share)
                assert torch.allclose(value, expected, atol=1e-6), name
            else:
                assert value == step  # counted, not averaged
            assert torch.equal(value, lookahead.module.state_dict()[name])
        kept = copied(model)


@pytest.mark.parametrize(
    ("train", "kind"), [({}, NoneType), ({"ema_decay": 0.9}, Average), ({"lookahead": 5}, Lookahead)]
)
def test_the_settings_choose_the_average(train: dict[str, Any], kind: type) -> None:
    assert type(make_average(network(), TrainSettings(**train))) is kind
