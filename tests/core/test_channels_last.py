"""Convolutions get and give maps with channels last in memory, in training, prediction and extraction."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from pipelines.core import engine
from pipelines.core.decide import make_judge
from pipelines.core.job import to_device
from pipelines.core.phases import make_learner, phases
from pipelines.core.tasks import make_task
from pipelines.dataset.batches import open_source
from pipelines.models.device import Hardware
from pipelines.models.extractor import Extractor
from pipelines.models.transfer import FineTuned
from tests.support.tiny import Tiny, pretrained

CPU = Hardware(torch.device("cpu"), torch.float32)
LAST = torch.channels_last
CASES = {
    "plain": (),
    "whitening": ("model.whitening=2", "augment.translate=1", "augment.sizes=[6, 8]"),
    "crops": ("augment.crop_scale=[0.5, 1.0]", "augment.resize=12", "augment.colour_jitter=0.2"),
    "mixup": ("augment.mixup=0.2", "augment.alternating_flip=true"),
    "photos": ("input.source=photos", "augment.crop_scale=[0.5, 1.0]", "augment.flip=true", "augment.cutout=2"),
    "torchvision": ("model.name=shufflenet_v2_x0_5",),
    "small resnet": ("model.name=resnet18-small",),
}


@contextmanager
def seen(network: nn.Module) -> Iterator[list[str]]:
    """Yield the convolutions that give maps in another layout, while the block runs; 1 x 1 maps have any."""
    wrong: list[str] = []

    def look(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        if not output.is_contiguous(memory_format=LAST):
            wrong.append(f"{module} gives {output.stride()}")

    hooks = [each.register_forward_hook(look) for each in network.modules() if isinstance(each, nn.Conv2d)]
    assert hooks
    yield wrong
    for hook in hooks:
        hook.remove()


@pytest.mark.parametrize("case", CASES)
def test_maps_in_training_and_prediction_are_channels_last(tiny: Tiny, case: str) -> None:
    settings = tiny.settings(*CASES[case])
    network, train = to_device(tiny.network(settings), CPU), tiny.part("train")
    assert all(
        each.weight.is_contiguous(memory_format=LAST) for each in network.modules() if isinstance(each, nn.Conv2d)
    )
    task, judge = make_task(settings, tiny.classes, {}), make_judge(settings, tiny.classes, train.labels)
    learner = make_learner(settings, network, phases(settings)[0], CPU, task, judge)
    source, test = (open_source(settings, tiny.part(part), CPU.device, part == "train") for part in ("train", "test"))
    with seen(network) as wrong:
        list(engine.fit(learner, source, None, [1], 0))
        list(engine.infer(network, test, task, CPU, engine.make_views(True, 1)))
    assert wrong == []
    assert all(batch.inputs.is_contiguous(memory_format=LAST) for batch in test.batches(0))


@pytest.mark.parametrize("folded", [False, True])
def test_maps_in_extraction_are_channels_last(tiny: Tiny, small_weights: Path, folded: bool) -> None:
    settings = tiny.settings(*pretrained(small_weights), "finetune.frozen_stages=-1")
    network = tiny.network(settings)
    assert isinstance(network, FineTuned)
    extractor = Extractor(network.bodies[0], settings, CPU, folded)
    with seen(extractor.plain) as wrong:
        extractor(torch.zeros(3, 8, 8, 3, dtype=torch.uint8), mirrored=True)
    assert wrong == []
