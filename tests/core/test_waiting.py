"""No step of an epoch waits for the device; only the checks of the loss do.

The device is torch's `meta`, which has no values: whatever needs one raises an error there, as a GPU would make the
processor wait.  The images and all random numbers are real and on the processor.
"""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from pipelines.core import engine
from pipelines.core.decide import make_judge
from pipelines.core.job import to_device
from pipelines.core.phases import make_learner, phases
from pipelines.core.tasks import training_task
from pipelines.dataset.batches import PackedBatches, open_source
from pipelines.dataset.loading import BatchSource, Loading
from pipelines.models.device import Hardware
from pipelines.models.features import FeatureBatches, Features
from pipelines.models.transfer import FineTuned
from tests.support.tiny import LOG_LOSS, Tiny, pretrained

META = Hardware(torch.device("meta"), torch.float32)
NUMBERS = ("competition.task=numbers", "competition.metric=rmse", "competition.submission=numbers")
LABELS = ("competition.task=several_labels", "competition.metric=fbeta_macro", "competition.submission=label_lists")
COPIES = (torch.ops.aten._to_copy.default, torch.ops.aten.copy_.default)


class Checks(TorchFunctionMode):
    """Counts the values that are fetched from the device, and returns 0 for them."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if function in (Tensor.item, Tensor.tolist) and args[0].is_meta:
            self.count += 1
            return 0.0 if function is Tensor.item else [0.0] * args[0].numel()
        return function(*args, **(kwargs or {}))


class Copies(TorchDispatchMode):
    """Refuses copies to the device that wait until it has them."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = function(*args, **(kwargs or {}))
        if function in COPIES and isinstance(result, Tensor) and result.is_meta:
            source = args[1] if function is COPIES[1] else args[0]
            waits = not (args[2] if len(args) > 2 else (kwargs or {}).get("non_blocking"))
            assert source.is_meta or not waits, f"waits for a copy of {tuple(source.shape)}"
        return result


class Repeated(BatchSource):
    """The batches of `source`, several times."""

    def __init__(self, source: BatchSource, times: int) -> None:
        super().__init__(source.ids, source.labels, source.loading)
        self.source, self.times = source, times

    @property
    def steps(self) -> int:
        return self.source.steps * self.times

    def batches(self, epoch: int) -> Iterator[Any]:
        for _ in range(self.times):
            yield from self.source.batches(epoch)


CASES: dict[str, tuple[str, ...]] = {
    "muon, whitening": ("train.optimizer=muon", "train.lr=0.1", "train.momentum=0.6", "model.whitening=2"),
    "averages": ("train.ema_decay=0.9", "train.optimizer=adamw", "train.clip_norm=1"),
    "adam, smaller images": ("train.optimizer=adam", "augment.sizes=[4, 8]", "model.dropout=0.2"),
    "all augmentation": (
        *("augment.translate=1", "augment.flip=true", "augment.colour_jitter=0.2", "augment.cutout=2"),
        *("augment.resize=10", "augment.crop_scale=[0.5, 1.0]"),
    ),
    "alternating flips": ("augment.alternating_flip=true", "augment.translate=2"),
    "mixup": ("augment.mixup=0.2",),
    "cutmix": ("augment.cutmix=1.0",),
    "photos": ("input.source=photos", "augment.crop_scale=[0.5, 1.0]", "augment.flip=true"),
    "weights, focal": ("train.class_weights=['balanced']", "train.loss=focal", "train.label_smoothing=0.1"),
    "several labels": (*LABELS, "train.class_weights=['balanced']"),
    "numbers": (*NUMBERS, "train.loss=huber"),
    "grades": (*NUMBERS, "train.loss=ordinal", "competition.grades=[0, 1, 2]"),
}


def of_task(tiny: Tiny, case: str) -> Tiny:
    """Return the competition with the targets of `case`."""
    if case == "several labels":
        return tiny.with_targets("several_labels", ["dark", "red"], {"blue": "dark", "green": "", "red": "dark|red"})
    if case in ("numbers", "grades"):
        return tiny.with_targets("numbers", ["depth"], {"blue": "0", "green": "1", "red": "2"})
    return tiny


def learner_of(tiny: Tiny, *overrides: str) -> engine.Learner:
    settings = tiny.settings("model.widths=[8]", *overrides)
    network = to_device(tiny.network(settings), META)
    train = tiny.part("train")
    task, judge = training_task(settings, train, None), make_judge(settings, tiny.classes, train.labels)
    return make_learner(settings, network, phases(settings)[0], META, task, judge)


def train(learner: engine.Learner, source: BatchSource, epochs: int = 1) -> int:
    """Train, and return how often a value was fetched from the device."""
    with Checks() as checks, Copies():
        assert len(list(engine.fit(learner, source, None, range(1, epochs + 1), 0))) == epochs
    return checks.count


@pytest.mark.parametrize("case", CASES)
def test_training_waits_for_the_device_only_to_check_the_loss(tiny: Tiny, case: str) -> None:
    tiny = of_task(tiny, case)
    source = open_source(tiny.settings(*CASES[case]), tiny.part("train"), META.device, training=True)
    if isinstance(source, PackedBatches) and isinstance(source.pixels, Tensor):
        source.pixels = source.pixels.to(META.device)  # as on a GPU with room for them
    assert source.steps > 1
    assert train(learner_of(tiny, *CASES[case]), source, epochs=2) == 2


def test_a_check_comes_every_so_many_steps_and_at_the_end(tiny: Tiny) -> None:
    source = Repeated(open_source(tiny.settings(), tiny.part("train"), META.device, training=True), 18)
    assert engine.CHECK_EVERY < source.steps < 2 * engine.CHECK_EVERY
    assert train(learner_of(tiny), source) == 2


@pytest.mark.parametrize("mean", [False, True])
def test_training_on_features_waits_as_little(tiny: Tiny, small_weights: Any, mean: bool) -> None:
    options = (*pretrained(small_weights), "finetune.frozen_stages=-1", "features.mirror=true")
    if mean:
        options += ("model.features=pooled",)
    settings, images = tiny.settings(*options), tiny.part("train")
    learner = learner_of(tiny, *options)
    width = next(module.in_features for module in learner.model.modules() if isinstance(module, torch.nn.Linear))
    places = torch.arange(2 * len(images)).reshape(-1, 2).numpy()
    features = Features([torch.rand(2 * len(images), width).numpy()], [places], 0, 0, [])
    loading = Loading(settings, len(tiny.classes), META.device, training=True)
    assert train(learner, FeatureBatches(images.ids, features, torch.from_numpy(images.labels), loading)) == 1


@pytest.mark.parametrize("case", ["muon, whitening", "photos", "several labels", "numbers", "grades"])
@pytest.mark.parametrize("part", ["valid", "test"])
def test_prediction_never_waits(tiny: Tiny, case: str, part: str) -> None:
    tiny = of_task(tiny, case)
    learner, settings = learner_of(tiny, *CASES[case]), tiny.settings(*CASES[case])
    source = open_source(settings, tiny.part(part), META.device)
    with Checks() as checks, Copies():
        results = list(engine.infer(learner.model, source, learner.task, META, engine.make_views(True, 1)))
    assert len(results) == source.steps > 1 and checks.count == 0
    assert all(predictions.is_meta for _, predictions in results)


@pytest.mark.parametrize("options", [LOG_LOSS, ("competition.metric=f1_macro",)])
def test_a_validation_fetches_its_results_once(tiny: Tiny, options: tuple[str, ...]) -> None:
    """The judge gets them all at the end, from the processor."""
    settings = tiny.settings(*options)
    judge = make_judge(settings, tiny.classes, tiny.part("train").labels)
    for predictions in (torch.zeros(4, 3, device="meta"), torch.zeros(7, 3, device="meta")):
        assert judge.keep(predictions).is_meta


def test_a_backbone_that_renormalises_does_not_wait(tiny: Tiny, small_weights: Any) -> None:
    options = (*pretrained(small_weights), "finetune.frozen_stages=0")
    learner = learner_of(tiny, *options)
    assert isinstance(learner.model, FineTuned)
    (backbone,) = learner.model.bodies
    backbone.renormalise((0.5,) * 3, (0.5,) * 3, (0.4,) * 3, (0.2,) * 3)
    source = open_source(tiny.settings(*options), tiny.part("train"), META.device, training=True)
    assert train(learner, source) == 1


def test_these_tests_see_what_waits() -> None:
    """A value, a truth, a fetch and a plain copy are noticed."""
    there = torch.zeros(3, device="meta")
    with Checks() as checks, Copies():
        assert (there[0].item(), checks.count) == (0.0, 1)
        assert (there.tolist(), checks.count) == ([0.0] * 3, 2)
        for waiting in (lambda: bool(there[0]), lambda: there.cpu(), lambda: there.nonzero()):
            with pytest.raises((RuntimeError, NotImplementedError)):
                waiting()
        for copying in (lambda: torch.zeros(3).to("meta"), lambda: there.copy_(torch.ones(3))):
            with pytest.raises(AssertionError, match="waits for a copy"):
                copying()
        torch.zeros(3).to("meta", non_blocking=True)
