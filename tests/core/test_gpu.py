"""What only a GPU can show: it is never waited for, its results repeat, and they are those of the processor."""

import warnings

import pytest
import torch

from benchmarks.gpu_work import WAITED
from pipelines.core import engine
from pipelines.core.checkpoint import weights_sha256
from pipelines.core.decide import make_judge
from pipelines.core.job import to_device
from pipelines.core.phases import make_learner, phases
from pipelines.core.tasks import make_task
from pipelines.dataset.batches import open_source
from pipelines.models.device import choose_hardware
from tests.support.tiny import Tiny

pytestmark = pytest.mark.gpu  # all of them
GPU = "hardware.device=cuda"
CASES = {
    "muon": ("train.optimizer=muon", "train.momentum=0.6", "model.whitening=2", "augment.translate=1"),
    "averages": ("train.ema_decay=0.9", "train.optimizer=adamw", "train.clip_norm=1", "augment.cutmix=1.0"),
    "photos": ("input.source=photos", "augment.crop_scale=[0.5, 1.0]", "augment.flip=true", "hardware.workers=1"),
}


@pytest.mark.parametrize("case", CASES)
def test_an_epoch_waits_for_the_gpu_only_to_check_the_loss(tiny: Tiny, case: str) -> None:
    settings = tiny.settings(GPU, *CASES[case])
    hardware, train = choose_hardware(settings.hardware), tiny.part("train")
    network = to_device(tiny.network(settings), hardware)
    task, judge = make_task(settings, tiny.classes, {}), make_judge(settings, tiny.classes, train.labels)
    learner = make_learner(settings, network, phases(settings)[0], hardware, task, judge)
    source = open_source(settings, train, hardware.device, training=True)
    list(engine.fit(learner, source, None, [1], 0))  # libraries are loaded in the first steps
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            list(engine.fit(learner, source, None, [2], 0))
        finally:
            torch.cuda.set_sync_debug_mode("default")
    assert [str(each.filename) for each in caught if WAITED in str(each.message)] == [engine.__file__]


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_the_same_seed_gives_the_same_weights_on_a_gpu(tiny: Tiny, case: str, precision: str) -> None:
    options = (GPU, f"hardware.precision={precision}", *CASES[case])
    jobs = [tiny.job(*options, run=run) for run in ("one", "other")]
    rows = [list(tiny.run(job)) for job in jobs]
    assert [row["train_loss"] for row in rows[0]] == [row["train_loss"] for row in rows[1]]
    assert weights_sha256(jobs[0].files.last) == weights_sha256(jobs[1].files.last)


@pytest.mark.parametrize("case", CASES)
def test_a_gpu_learns_what_the_processor_learns(tiny: Tiny, case: str) -> None:
    (here,) = tiny.run(tiny.job("train.epochs=1", *CASES[case]))
    (there,) = tiny.run(tiny.job("train.epochs=1", GPU, *CASES[case], run="gpu"))
    assert there["train_loss"] == pytest.approx(here["train_loss"], rel=0.05)
    assert there["valid_loss"] == pytest.approx(here["valid_loss"], rel=0.05)
