"""A training from settings to checkpoints: repeatable, resumable to the byte, and honest about its score."""

import dataclasses
import itertools
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import torch

from pipelines.core import checkpoint
from pipelines.core.engine import evaluate
from pipelines.core.job import Job, Row, _take_part, best_row, patience_spent, read_history, run_job, to_device
from pipelines.core.phases import Phase, make_learner, phases
from pipelines.core.prediction import Resources, open_predictor
from pipelines.models.device import Hardware
from pipelines.models.networks import Whitening
from pipelines.system.errors import UserError
from pipelines.system.group import ALONE
from tests.support.histories import TIMES, same, same_checkpoints, timeless
from tests.support.tiny import LOG_LOSS, Tiny, pretrained

VARIED = ("augment.flip=true", "augment.translate=1", "augment.colour_jitter=0.2", "augment.cutout=2")
CASES: dict[str, tuple[str, ...]] = {
    "momentum": ("train.momentum=0.9", "train.nesterov=true"),
    "schedule": ("train.schedule=cosine", "train.warmup_epochs=1.5", "train.weight_decay=1e-3"),
    "adam, clipping": ("train.optimizer=adam", "train.lr=0.01", "train.clip_norm=0.5"),
    "averaged weights": ("train.ema_decay=0.8",),
    "dropout": ("model.dropout=0.5",),
    "augmentation": (*VARIED, "augment.crop_scale=[0.5, 1.0]", "train.label_smoothing=0.1"),
    "mixup": ("augment.mixup=0.4", "model.dropout=0.3"),
    "cutmix": ("augment.cutmix=1.0", "model.dropout=0.3", "train.ema_decay=0.8"),
    "muon, whitening, growing images": (
        *("train.optimizer=muon", "train.momentum=0.6", "train.bias_lr=0.05", "train.output_lr=0.01"),
        *("train.weight_decay=1e-3", "model.whitening=2", "model.identity_start=true", "model.norm_scales=false"),
        *("augment.alternating_flip=true", "augment.sizes=[4, 6, 8]", "train.ema_decay=0.8"),
        "model.whitening_epochs=1",
    ),
    "maps side by side": ("hardware.side_by_side=8", "model.depth=[2]", "train.ema_decay=0.8"),
    "photos": ("input.source=photos", "augment.mixup=0.4", "model.dropout=0.3", "augment.crop_scale=[0.5, 1.0]"),
    "photos, worker": ("input.source=photos", "hardware.workers=1", "augment.cutmix=1.0", "model.dropout=0.3"),
}


def stopped_after(tiny: Tiny, job: Job, epochs: int) -> None:
    """Train `epochs` epochs and abandon the rest."""
    rows = tiny.run(job)
    for _ in range(epochs):
        next(rows)
    rows.close()  # type: ignore[attr-defined]


def same_after_a_stop(tiny: Tiny, *options: str) -> None:
    """Assert that a training stopped after any epoch and gone on with ends as one that was not."""
    whole = tiny.job(*options, run="whole")
    rows = list(tiny.run(whole))
    assert [row["epoch"] for row in rows] == [1, 2, 3]
    for epoch in (1, 2):
        job = tiny.job(*options, run=f"stopped{epoch}")
        stopped_after(tiny, job, epoch)
        assert [row["epoch"] for row in read_history(job)] == list(range(1, epoch + 1))
        torch.rand(99)  # another process would find torch's generator in another state
        went_on = list(tiny.run(job))
        assert timeless(went_on) == timeless(rows[epoch:])
        assert same_checkpoints(checkpoint.load(job.files.last), checkpoint.load(whole.files.last))
        assert same_checkpoints(checkpoint.load(job.files.best), checkpoint.load(whole.files.best))  # type: ignore[arg-type]
        left, right = (pd.read_csv(each.files.history).drop(columns=list(TIMES)) for each in (job, whole))
        assert left.equals(right)


@pytest.mark.parametrize("case", CASES)
def test_going_on_after_a_stop_gives_what_an_undisturbed_run_gives(tiny: Tiny, case: str) -> None:
    same_after_a_stop(tiny, *CASES[case])


FINE_TUNING: dict[str, tuple[str, ...]] = {
    "all of it": ("finetune.backbone_lr=0.1", "train.ema_decay=0.8"),
    "the top": ("finetune.frozen_stages=2", "finetune.freeze_norms=true", "augment.flip=true"),
    "the head on kept features": ("finetune.frozen_stages=-1", "model.dropout=0.5", "train.ema_decay=0.8"),
    "the head on images": ("finetune.frozen_stages=-1", "features.cached=false", "augment.flip=true"),
    "the head first": ("finetune.head_epochs=1", "finetune.head_lr=0.3", "train.schedule=cosine", "train.lr=0.01"),
    "the head for two epochs": ("finetune.head_epochs=2", "train.ema_decay=0.8", "train.lr=0.01"),
}


@pytest.mark.parametrize("case", FINE_TUNING)
def test_fine_tuning_goes_on_too_in_whichever_phase_it_stopped(tiny: Tiny, small_weights: Path, case: str) -> None:
    same_after_a_stop(tiny, *pretrained(small_weights), *FINE_TUNING[case])


@pytest.mark.parametrize("case", FINE_TUNING)
def test_a_fine_tuned_network_scores_when_reloaded_what_training_reported(
    tiny: Tiny, small_weights: Path, case: str
) -> None:
    options = (*pretrained(small_weights), *FINE_TUNING[case], *LOG_LOSS)
    job = tiny.job(*options)
    assert job.valid is not None and job.files.best is not None
    rows = list(tiny.run(job))
    best = checkpoint.load(job.files.best)
    settings = tiny.settings(*options)
    predictor = open_predictor(best, settings, job.valid, Resources(tiny.layout.weights))
    judge, views = job.judge(), predictor.views
    evaluation = evaluate(predictor.model, predictor.source, predictor.task, judge, predictor.hardware, views)
    assert evaluation.score == pytest.approx(best_row(rows, "log_loss")["log_loss"], rel=1e-6)
    (phase,) = [each for each in phases(settings) if each.first <= best.epoch <= each.last]
    assert best.head_only is phase.head_only


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ((), [Phase(1, 9, head_only=False, cached=False, lr=0.1)]),
        (("finetune.frozen_stages=3",), [Phase(1, 9, head_only=False, cached=False, lr=0.1)]),
        (("finetune.frozen_stages=-1",), [Phase(1, 9, head_only=True, cached=True, lr=0.1)]),
        (
            ("finetune.frozen_stages=-1", "features.cached=false"),
            [Phase(1, 9, head_only=True, cached=False, lr=0.1)],
        ),
        (
            ("finetune.head_epochs=4",),
            [
                Phase(1, 4, head_only=True, cached=True, lr=0.1),
                Phase(5, 9, head_only=False, cached=False, lr=0.1),
            ],
        ),
        (
            ("finetune.head_epochs=4", "finetune.head_lr=0.5", "features.cached=false"),
            [
                Phase(1, 4, head_only=True, cached=False, lr=0.5),
                Phase(5, 9, head_only=False, cached=False, lr=0.1),
            ],
        ),
    ],
)
def test_settings_divide_a_training_into_phases(
    tiny: Tiny, small_weights: Path, options: tuple[str, ...], expected: list[Phase]
) -> None:
    assert phases(tiny.settings(*pretrained(small_weights), "train.epochs=9", *options)) == expected


def test_each_phase_has_a_schedule_of_its_own(tiny: Tiny, small_weights: Path) -> None:
    schedule = ("train.schedule=linear", "train.epochs=3", "train.lr=0.1", "train.batch_size=18")
    settings = ("finetune.head_epochs=1", "finetune.head_lr=0.4", *schedule)
    rows = list(tiny.run(tiny.job(*pretrained(small_weights), *settings)))
    # One step an epoch, with the rate of its middle: halfway through one epoch, then 1/4 and 3/4 of two.
    assert [row["lr"] for row in rows] == pytest.approx([0.4 * 0.5, 0.1 * 0.75, 0.1 * 0.25])


def test_the_pretrained_part_learns_at_its_own_rate(tiny: Tiny, small_weights: Path) -> None:
    job = tiny.job(*pretrained(small_weights), "finetune.backbone_lr=0.2")
    network = tiny.network(job.settings)
    (phase,) = phases(job.settings)
    learner = make_learner(job.settings, network, phase, job.hardware, job.task(), job.judge())
    head = {id(parameter) for parameter in network.get_submodule("top.head").parameters()}
    groups = learner.optimizer.param_groups
    assert sorted(group["lr_share"] for group in groups) == [0.2, 1.0]
    for group in groups:
        assert {id(each) in head for each in group["params"]} == {group["lr_share"] == 1.0}


def test_a_head_alone_changes_nothing_else(tiny: Tiny, small_weights: Path) -> None:
    job = tiny.job(*pretrained(small_weights), "finetune.frozen_stages=-1", "features.cached=false")
    network = tiny.network(job.settings)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    list(run_job(job, network))
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}
    assert changed == {"top.head.0.weight", "top.head.0.bias"} == set(checkpoint.load(job.files.last).weights)


def test_averaging_keeps_both_weights_and_plain_training_one(tiny: Tiny) -> None:
    for options, keys in ((), {"optimizer"}), (("train.ema_decay=0.8",), {"optimizer", "model", "averaged_steps"}):
        job = tiny.job(*options, run=f"run{len(keys)}")
        list(tiny.run(job))
        saved = checkpoint.load(job.files.last)
        assert set(saved.training) == keys
    assert saved.training["averaged_steps"] == 9
    assert not same(saved.training["model"], saved.weights)


@pytest.mark.parametrize("learning", [0, 1])
def test_the_biases_of_a_whitening_layer_learn_in_their_epochs(tiny: Tiny, learning: int) -> None:
    job = tiny.job("model.whitening=2", f"model.whitening_epochs={learning}")
    biases = [checkpoint.load(job.files.last).weights["stem.convolution.bias"] for _ in tiny.run(job)]
    assert biases[0].all()
    assert [torch.equal(bias, biases[0]) for bias in biases] == [True, bool(learning), bool(learning)]


@pytest.mark.parametrize("case", ["mixup", "photos"])
def test_the_same_seed_gives_the_same_history_and_another_seed_another(tiny: Tiny, case: str) -> None:
    first, same_seed, other = (
        list(tiny.run(tiny.job(*CASES[case], f"train.seed={seed}", run=run)))
        for seed, run in ((0, "first"), (0, "same"), (1, "other"))
    )
    assert timeless(first) == timeless(same_seed)
    assert all(left["train_loss"] != right["train_loss"] for left, right in zip(first, other, strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")
def test_the_number_of_workers_changes_no_history(tiny: Tiny) -> None:
    alone, helped = (
        list(tiny.run(tiny.job(*CASES["photos"], f"hardware.workers={workers}", run=f"workers{workers}")))
        for workers in (0, 3)
    )
    assert timeless(alone) == timeless(helped)


def test_each_epoch_is_saved_before_its_row_is_seen(tiny: Tiny) -> None:
    job = tiny.job()
    for number, row in enumerate(tiny.run(job), start=1):
        saved = checkpoint.load(job.files.last)
        assert (saved.epoch, saved.history[-1]) == (number, row)
        assert list(pd.read_csv(job.files.history)["epoch"]) == list(range(1, number + 1))
        assert read_history(job) == saved.history
        assert job.files.best is not None
        assert checkpoint.load(job.files.best).epoch == best_row(saved.history, "accuracy")["epoch"]


def test_a_finished_training_is_not_trained_again(tiny: Tiny) -> None:
    job = tiny.job()
    list(tiny.run(job))
    before = job.files.last.stat().st_mtime_ns
    assert list(tiny.run(job)) == []
    assert job.files.last.stat().st_mtime_ns == before


@pytest.mark.parametrize("metric", ["accuracy", "log_loss", "f1_macro", "f1_micro"])
@pytest.mark.parametrize("case", ["averaged weights", "photos", "mixup"])
def test_a_reloaded_checkpoint_scores_what_training_reported(tiny: Tiny, case: str, metric: str) -> None:
    scored = LOG_LOSS if metric == "log_loss" else (f"competition.metric={metric}",)
    job = tiny.job(*CASES[case], *scored, "train.lr=0.03")
    rows = list(tiny.run(job))
    assert job.files.best is not None
    best = checkpoint.load(job.files.best)
    row = best_row(rows, metric)
    hardware = Hardware(torch.device("cpu"), torch.float32)
    model = to_device(best.model(tiny.classes, tiny.layout.weights), hardware)
    valid = tiny.source("valid", *CASES[case])
    evaluation = evaluate(model, valid, job.task(), job.judge(), hardware)
    assert evaluation.score == row[metric] == best.score
    assert evaluation.loss == row["valid_loss"]
    assert best.training == {}


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
def test_a_compiled_network_learns_the_same_and_keeps_its_names(tiny: Tiny) -> None:
    options = ("train.epochs=1", "train.ema_decay=0.8", "model.widths=[8]")
    plain, compiled = tiny.job(*options), tiny.job(*options, "hardware.compile_training=true", run="compiled")
    (expected,), (row,) = list(tiny.run(plain)), list(tiny.run(compiled))
    assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=1e-4)
    assert row["valid_loss"] == pytest.approx(expected["valid_loss"], rel=1e-3)
    one, other = checkpoint.load(plain.files.last), checkpoint.load(compiled.files.last)
    assert one.weights.keys() == other.weights.keys()
    assert one.training["model"].keys() == other.training["model"].keys()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # of the compiler, about itself
@pytest.mark.parametrize("device", ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)])
def test_a_network_compiled_in_bfloat16_learns_the_same(tiny: Tiny, device: str) -> None:
    """The gradient of its maxima was not a number."""
    options = ("train.epochs=1", "model.widths=[8]", f"hardware.device={device}", "hardware.precision=bfloat16")
    (expected,) = tiny.run(tiny.job(*options))
    (row,) = tiny.run(tiny.job(*options, "hardware.compile_training=true", run="compiled"))
    assert row["train_loss"] == pytest.approx(expected["train_loss"], rel=0.02)
    assert row["valid_loss"] == pytest.approx(expected["valid_loss"], rel=0.05)


def test_without_a_compiler_the_setting_that_asked_for_it_is_named(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "inductor"))
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    job = tiny.job("hardware.compile_training=true", "model.widths=[9]")
    with pytest.raises(UserError, match=r"hardware\.compile_training: the network cannot be compiled here: .*false"):
        list(tiny.run(job))
    assert not job.files.last.exists()


@pytest.mark.parametrize("source", ["packed", "photos"])
def test_the_whitening_is_fitted_to_the_images_that_are_learned_from(tiny: Tiny, source: str) -> None:
    job = tiny.job("model.whitening=2", f"input.source={source}", "train.epochs=1")
    list(tiny.run(job))
    images = torch.cat([batch.inputs for batch in tiny.source("train").batches(0)])
    expected = Whitening(2)
    expected.fit([images])
    kept = checkpoint.load(job.files.last).weights["stem.convolution.weight"]
    assert torch.allclose(kept, expected.convolution.weight, atol=1e-5)


def test_it_learns_the_tiny_competition(tiny: Tiny) -> None:
    rows = list(tiny.run(tiny.job("train.epochs=15")))
    assert rows[-1]["train_loss"] < rows[0]["train_loss"]
    assert best_row(rows, "accuracy")["accuracy"] == 1


@pytest.mark.parametrize("batch_size", [1, 2, 5, 17, 1000])
def test_any_batch_size_trains_and_validates_every_image(tiny: Tiny, batch_size: int) -> None:
    job = tiny.job(f"train.batch_size={batch_size}", f"predict.batch_size={batch_size}", "train.epochs=1")
    (row,) = tiny.run(job)
    assert row["accuracy"] * len(job.valid) == pytest.approx(round(row["accuracy"] * 6))  # type: ignore[arg-type]


def test_the_validation_score_does_not_depend_on_the_batch_size(tiny: Tiny) -> None:
    scores = []
    for size in (1, 4, 5, 6):
        options = (f"predict.batch_size={size}", *LOG_LOSS, "train.epochs=1")
        (row,) = tiny.run(tiny.job(*options, run=f"size{size}"))
        scores.append(row["log_loss"])
    assert scores == pytest.approx([scores[0]] * 4, rel=1e-6)


def test_retraining_claims_no_score_and_keeps_no_best(tiny: Tiny) -> None:
    job = tiny.retrain_job()
    rows = list(tiny.run(job))
    assert [set(row) for row in rows] == [{"epoch", "train_loss", "lr", *TIMES}] * 3
    assert len(job.train) == 24
    last = checkpoint.load(job.files.last)
    assert last.score is None
    assert sorted(path.name for path in job.files.last.parent.iterdir()) == ["retrain_history.csv", "retrain_last.pt"]
    assert checkpoint.finished(last).model(tiny.classes, tiny.layout.weights)


def test_retraining_can_be_stopped_and_gone_on_with(tiny: Tiny) -> None:
    whole, job = tiny.retrain_job(run="whole"), tiny.retrain_job(run="stopped")
    rows = list(tiny.run(whole))
    stopped_after(tiny, job, 1)
    assert timeless(list(tiny.run(job))) == timeless(rows[1:])
    assert same_checkpoints(checkpoint.load(job.files.last), checkpoint.load(whole.files.last))


def test_retraining_for_fewer_epochs_follows_the_schedule_of_the_training(tiny: Tiny) -> None:
    job = dataclasses.replace(tiny.retrain_job("train.schedule=linear"), epochs=2)
    trained = list(tiny.run(tiny.job("train.schedule=linear", "train.batch_size=8", run="trained")))
    job = dataclasses.replace(job, settings=tiny.settings("train.schedule=linear", "train.batch_size=8"))
    retrained = list(tiny.run(job))
    assert [row["lr"] for row in retrained] == [row["lr"] for row in trained[:2]]


def test_training_stops_when_patience_has_run_out(tiny: Tiny) -> None:
    """The labels of the validation rows are wrong, so that learning soon makes the score worse."""
    wrong = {"red": "green", "green": "blue", "blue": "red"}
    table = tiny.table.copy()
    valid = table["split"] == "valid"
    table.loc[valid, "label"] = table.loc[valid, "label"].map(wrong)
    options = (*LOG_LOSS, "train.epochs=60", "train.patience=3", "train.lr=0.03")
    images = dataclasses.replace(tiny.images, table=table, rows=table[valid])
    job = dataclasses.replace(tiny.job(*options), valid=images)
    rows = list(tiny.run(job))
    best = best_row(rows, "log_loss")["epoch"]
    assert len(rows) == best + 3 < 60
    assert all(later["log_loss"] > rows[best - 1]["log_loss"] for later in rows[best:])
    for end in range(1, len(rows)):  # and it had not run out before
        assert end - best_row(rows[:end], "log_loss")["epoch"] < 3
    assert list(tiny.run(job)) == []  # the same command again does not go on


def test_patience_begins_when_images_are_whole(tiny: Tiny) -> None:
    options = ("augment.sizes=[4,6,8]", "train.epochs=9", "train.patience=1", "train.lr=1e-12")
    rows = list(tiny.run(tiny.job(*options)))
    assert len(rows) >= 7  # of which six are on smaller images
    settings = tiny.settings(*options)
    worse: list[Row] = [{"epoch": epoch, "accuracy": 1 / epoch, "valid_loss": 1.0} for epoch in range(1, 10)]
    spent = [patience_spent(worse[:count], settings) for count in range(9)]
    assert spent == [False] * 7 + [True] * 2


def test_without_patience_all_epochs_are_trained(tiny: Tiny) -> None:
    assert len(list(tiny.run(tiny.job("train.epochs=8", "train.lr=1e-9")))) == 8


def test_a_loss_that_is_no_number_keeps_the_last_good_epoch(tiny: Tiny) -> None:
    stopped_after(tiny, tiny.job(), 1)
    broken = dataclasses.replace(tiny.job(), settings=tiny.settings("train.lr=1e30"))
    with pytest.raises(UserError, match="not a finite number in epoch 2"):
        list(tiny.run(broken))
    assert checkpoint.load(broken.files.last).epoch == 1
    assert list(pd.read_csv(broken.files.history)["epoch"]) == [1]


@pytest.mark.parametrize(
    ("metric", "scores", "losses", "best"),
    [
        ("accuracy", [0.5, 0.7, 0.6], [1, 2, 3], 2),
        ("log_loss", [0.5, 0.7, 0.4], [0.5, 0.7, 0.4], 3),
        ("accuracy", [0.7, 0.7, 0.7], [3, 1, 2], 2),  # of equal scores, the lower loss
        ("f1_macro", [0.7, 0.7, 0.6], [1, 1, 0], 1),  # of equal losses, the earlier
    ],
)
def test_the_best_epoch_is_by_the_metrics_direction_then_by_the_loss(
    metric: str, scores: list[float], losses: list[float], best: int
) -> None:
    rows = [
        {"epoch": number, metric: score, "valid_loss": loss}
        for number, score, loss in zip(itertools.count(1), scores, losses, strict=False)
    ]
    assert best_row(rows, metric)["epoch"] == best


def test_fewer_than_five_batches_and_fewer_images_than_a_batch(tiny: Tiny) -> None:
    (row,) = tiny.run(tiny.job("train.limit=4", "train.epochs=1"))  # 3 images to learn from, 1 to validate on
    assert row["accuracy"] in (0.0, 1.0)


def test_the_watch_sees_every_epoch(tiny: Tiny, tmp_path: Path) -> None:
    seen: list[str] = []

    def watch(items: Any, what: str, total: int | None = None, unit: str = "files") -> Any:
        seen.append(what)
        return items

    list(tiny.run(dataclasses.replace(tiny.job("train.epochs=2"), watch=watch)))
    assert seen == ["decoding", "epoch 1", "validating", "epoch 2", "validating"]


def test_a_process_that_takes_part_has_the_threads_and_kernels_of_the_settings(
    tiny: Tiny, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = torch.get_num_threads()
    job = tiny.job("train.epochs=1", f"hardware.threads={threads + 1}")
    job.files.last.parent.mkdir(parents=True)
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    try:
        _take_part(ALONE, job, tiny.network(job.settings), None)
        assert torch.get_num_threads() == threads + 1
        assert not torch.backends.cudnn.allow_tf32
    finally:
        torch.set_num_threads(threads)
