"""Every form of fine-tuning: what learns, how fast, from where; and a checkpoint that gives the same network again."""

import copy
import dataclasses
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision import models
from torchvision.models import ResNet34_Weights

from pipelines.core import checkpoint, engine
from pipelines.core.job import Job, Row, best_row, prepare_features, run_job
from pipelines.core.phases import Phase, describe_phases, phases
from pipelines.core.prediction import Resources, open_predictor
from pipelines.models import backbones, extractor, features
from pipelines.models import published as published_module
from pipelines.models.building import build_network
from pipelines.models.transfer import WHOLE, FineTuned, build_fine_tuned
from pipelines.models.weights import Origin, find_origins, resolve
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import file_sha256
from tests.support.histories import same_checkpoints, timeless
from tests.support.networks import outputs, pictures, save_network
from tests.support.tiny import LOG_LOSS, Tiny

NAME, OTHER = "shufflenet_v2_x0_5", "shufflenet_v2_x1_0"
STAGES = ["conv1", "stage2", "stage3", "stage4", "conv5"]
IMAGE = ("input.size=32", "input.mean=[0.5, 0.5, 0.5]", "input.std=[0.25, 0.25, 0.25]")
HEAD_ONLY, UNCACHED = "finetune.frozen_stages=-1", "features.cached=false"
TWO_PHASES = ("finetune.head_epochs=2", "finetune.head_lr=0.05", "train.lr=0.01", "train.epochs=4")
HEAD = "top.head."
CATEGORIES = list(ResNet34_Weights.IMAGENET1K_V1.meta["categories"])


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(extractor, "IMAGES_AT_ONCE", 9)
    monkeypatch.setattr(features, "IMAGES_AT_ONCE", 9)  # else most of each batch of features would be filling


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("weights") / "small.pth"
    save_network(path, NAME)
    return path


@pytest.fixture(scope="module")
def other_weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("weights") / "other.pth"
    save_network(path, OTHER)
    return path


def on(weights: Path, *more: str) -> tuple[str, ...]:
    return (f"model.name={NAME}", f"model.weights={weights}", *IMAGE, "train.lr=0.05", *more)


def start(tiny: Tiny, *overrides: str, run: str = "run") -> tuple[Job, FineTuned]:
    """The job and the fresh network, as the stage `train` makes them."""
    job = tiny.job(*overrides, run=run)
    found = find_origins(job.settings.model, tiny.layout.weights)
    job = dataclasses.replace(job, settings=resolve(job.settings, found))
    network = build_network(job.settings, tiny.classes, found)
    assert isinstance(network, FineTuned)
    return job, network


def train(tiny: Tiny, *overrides: str, run: str = "run") -> tuple[FineTuned, dict[str, Tensor], list[Row]]:
    """Return the network after training, what it was before, and the history."""
    job, network = start(tiny, *overrides, run=run)
    before = copied(network)
    return network, before, list(run_job(job, network))


def copied(network: nn.Module) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in network.state_dict().items()}


def changed(network: nn.Module, before: dict[str, Tensor]) -> set[str]:
    return {name for name, value in network.state_dict().items() if not torch.equal(value, before[name])}


def without_gradient(network: FineTuned) -> set[str]:
    """Return the names of the parameters whose gradient is zero, or too small to move a float32.

    The bias of a norm that another norm follows is one: that norm subtracts it again.  In float32 rounding moves such
    a parameter on one processor and not on another, so no test may expect either; float64 tells them apart.
    """
    trial = copy.deepcopy(network).double()
    trial.freeze(0, norms=False)
    nn.functional.cross_entropy(trial.train()(pictures(6, 32).double()), torch.arange(6) % 3).backward()
    return {name for name, value in trial.named_parameters() if value.grad is None or value.grad.abs().max() < 1e-6}


def check_learned(network: FineTuned, before: dict[str, Tensor], kept: set[str]) -> None:
    """Assert that all but `kept` has changed since `before`; nothing is said of what has no gradient."""
    moved, neither = changed(network, before), without_gradient(network)
    assert not moved & kept
    assert moved | kept | neither == set(before)


def in_head(name: str) -> bool:
    return name.startswith(HEAD)


# 1. Only the head


@pytest.mark.parametrize(
    "more",
    [
        (),
        ("features.crops=1", "augment.crop_scale=[0.5, 1]"),
        (UNCACHED,),
        (UNCACHED, "train.weight_decay=0.1", "train.ema_decay=0.5"),
        (UNCACHED, "model.features=both", "model.hidden=[8]", "augment.mixup=0.4", "input.source=photos"),
    ],
)
def test_only_the_head_learns_whatever_calls_train(tiny: Tiny, weights: Path, more: tuple[str, ...]) -> None:
    job, network = start(tiny, *on(weights, HEAD_ONLY, "train.epochs=2", *more))
    before = copied(network)

    def watch(items: Iterable[Any], *_: Any) -> Iterator[Any]:
        for item in items:
            for module in network.modules():
                module.train()
            yield item

    list(run_job(dataclasses.replace(job, watch=watch), network))  # type: ignore[arg-type]
    assert changed(network, before) == {name for name in before if in_head(name)}
    assert not [name for name, parameter in network.named_parameters() if parameter.requires_grad != in_head(name)]


def test_a_frozen_network_in_train_mode_treats_each_image_alone(tiny: Tiny, weights: Path) -> None:
    _, network = start(tiny, *on(weights, HEAD_ONLY))
    network.double().freeze(WHOLE, norms=False)  # in float32, batches of another size round differently
    inputs = pictures(4, 32).double()
    with torch.no_grad():
        alone = torch.cat([network.train()(inputs[place : place + 1]) for place in range(4)])
        assert torch.allclose(network.train()(inputs), alone, rtol=1e-9, atol=1e-9)


def test_the_textbooks_head_sees_the_networks_own_outputs(tiny: Tiny, weights: Path) -> None:
    _, network = start(tiny, *on(weights, HEAD_ONLY, "model.features=logits", "model.hidden=[256]"))
    first, relu, last = network.top.head
    assert isinstance(first, nn.Linear)
    assert isinstance(relu, nn.ReLU)
    assert isinstance(last, nn.Linear)
    assert [first.in_features, first.out_features, last.in_features, last.out_features] == [1000, 256, 256, 3]
    own = models.shufflenet_v2_x0_5()
    own.load_state_dict(torch.load(weights, weights_only=True))
    expected = outputs(network.top.head, outputs(own, pictures(size=32)))
    assert torch.allclose(outputs(network, pictures(size=32)), expected, atol=1e-6)


@pytest.mark.parametrize(
    ("overrides", "kinds"),
    [
        (["model.hidden=[]"], [nn.Linear]),
        (["model.dropout=0.2"], [nn.Dropout, nn.Linear]),
        (["model.hidden=[9, 8]"], [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Linear]),
        (["model.hidden=[9]", "model.dropout=0.2"], [nn.Dropout, nn.Linear, nn.ReLU, nn.Dropout, nn.Linear]),
    ],
)
def test_heads(tiny: Tiny, weights: Path, overrides: list[str], kinds: list[type]) -> None:
    _, network = start(tiny, *on(weights, *overrides))
    assert [type(layer) for layer in network.top.head] == kinds


@pytest.mark.parametrize(("sees", "dimensions"), [("pooled", 1024), ("logits", 1000), ("both", 2024)])
def test_what_the_head_sees(tiny: Tiny, weights: Path, sees: str, dimensions: int) -> None:
    _, network = start(tiny, *on(weights, f"model.features={sees}"))
    layer: Any = network.top.head[-1]
    assert layer.in_features == dimensions
    assert outputs(network, pictures(size=32)).shape == (2, 3)


# 2. Append layers and train all


def test_appended_layers_and_all_the_network_learn(tiny: Tiny, weights: Path) -> None:
    network, before, _ = train(tiny, *on(weights, "model.features=logits", "model.hidden=[16]", "train.epochs=1"))
    check_learned(network, before, kept=set())
    assert f"{HEAD}2.weight" in before
    assert "top.classifiers.0.weight" in before


# 3. The bottom stages stay


@pytest.mark.parametrize("more", [(), ("train.ema_decay=0.9", "train.weight_decay=0.1")])
@pytest.mark.parametrize("frozen", [1, 3, 5])
def test_bottom_stages_stay_and_the_rest_learns(tiny: Tiny, weights: Path, frozen: int, more: tuple[str, ...]) -> None:
    options = on(weights, f"finetune.frozen_stages={frozen}", "train.epochs=2", *more)
    network, before, _ = train(tiny, *options)
    kept = {name for name in before if name.split(".")[3:4] and name.split(".")[3] in STAGES[:frozen]}
    assert kept
    check_learned(network, before, kept)
    saved = checkpoint.load(tiny.layout.run("run").best).weights
    assert all(torch.equal(saved[name], before[name]) for name in kept)


def test_more_stages_than_there_are_is_refused(tiny: Tiny, weights: Path) -> None:
    job, network = start(tiny, *on(weights, "finetune.frozen_stages=6"))
    message = rf"frozen_stages is 6, but {NAME} has 5 stages: conv1, .*, conv5\. To freeze all of it: -1"
    with pytest.raises(UserError, match=message):
        describe_phases(job.settings, network)
    with pytest.raises(UserError, match=message):
        list(run_job(job, network))


def test_norms_that_cannot_be_folded_keep_their_statistics_too(tiny: Tiny, weights: Path) -> None:
    _, network = start(tiny, *on(weights))
    network.freeze(0, norms=True)
    before = copied(network)
    for module in network.modules():
        module.train()
    network(pictures(4, 32)).sum().backward()
    assert not changed(network, before)
    assert all(parameter.grad is not None for parameter in network.parameters())
    network.freeze(0, norms=False)
    network.train()(pictures(4, 32))
    assert {name.rpartition(".")[2] for name in changed(network, before)} == {
        "running_mean",
        "running_var",
        "num_batches_tracked",
    }


def test_with_frozen_norms_all_convolutions_learn_and_an_image_does_not_depend_on_its_batch(
    tiny: Tiny, weights: Path
) -> None:
    network, before, _ = train(tiny, *on(weights, "finetune.freeze_norms=true", "train.epochs=1", "train.lr=1e-4"))
    check_learned(network, before, kept=set())
    assert not [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    inputs = pictures(4, 32)
    with torch.no_grad():
        assert torch.allclose(network.train()(inputs)[:1], network.train()(inputs[:1]), atol=1e-5)


def test_frozen_norms_start_from_the_same_outputs(tiny: Tiny, weights: Path) -> None:
    plain, folded = (start(tiny, *on(weights, f"finetune.freeze_norms={value}"))[1] for value in ("false", "true"))
    assert torch.allclose(outputs(plain, pictures(size=32)), outputs(folded, pictures(size=32)), atol=1e-4)


@pytest.mark.parametrize(("frozen", "repeats"), [(14, True), (13, False)])
def test_dropout_inside_a_frozen_stage_is_off(tiny: Tiny, tmp_path: Path, frozen: int, repeats: bool) -> None:
    save_network(tmp_path / "weights.pth", "mobilenet_v3_small")
    settings = tiny.settings("model.name=mobilenet_v3_small", "model.weights=x", *IMAGE)
    found = [Origin("mobilenet_v3_small", tmp_path / "weights.pth")]
    network = build_fine_tuned(settings, tiny.classes, found)
    network.freeze(frozen, norms=True)
    with torch.no_grad():
        first, second = network.train()(pictures(size=32)), network.train()(pictures(size=32))
    assert torch.equal(first, second) == repeats


# 4. Two phases


@pytest.mark.parametrize("cached", ["true", "false"])
def test_first_the_head_then_all_at_another_rate(tiny: Tiny, weights: Path, cached: str) -> None:
    job, network = start(tiny, *on(weights, *TWO_PHASES, f"features.cached={cached}"))
    before = copied(network)
    rates = []
    for row in run_job(job, network):
        rates.append(row["lr"])
        check_learned(network, before, {name for name in before if not in_head(name)} if row["epoch"] <= 2 else set())
    assert rates == [0.05, 0.05, 0.01, 0.01]


def test_then_the_last_stages_only(tiny: Tiny, weights: Path) -> None:
    network, before, _ = train(tiny, *on(weights, *TWO_PHASES, "finetune.frozen_stages=3"))
    check_learned(network, before, {name for name in before if any(f".{stage}." in name for stage in STAGES[:3])})


def test_each_phase_has_a_whole_schedule_and_the_head_has_the_first_phases_weights(tiny: Tiny, weights: Path) -> None:
    options = on(weights, *TWO_PHASES, "train.schedule=linear", "train.batch_size=100")
    _, _, rows = train(tiny, *options)
    assert [row["lr"] for row in rows] == pytest.approx([0.05 * 0.75, 0.05 * 0.25, 0.01 * 0.75, 0.01 * 0.25])
    options = (*options, "finetune.head_epochs=1", "train.epochs=2", "finetune.head_lr=0", "train.lr=0.02")
    assert [row["lr"] for row in train(tiny, *options, run="same rate")[2]] == pytest.approx([0.01, 0.01])


class Killed(Exception):
    pass


def killed_in(epoch: int, batches: int) -> Any:
    def watch(items: Iterable[Any], what: str, *_: Any) -> Iterator[Any]:
        for number, item in enumerate(items):
            if what == f"epoch {epoch}" and number == batches:
                raise Killed
            yield item

    return watch


@pytest.mark.parametrize(
    ("epochs", "more"),
    [
        ((2, 3, 4), (UNCACHED, "train.ema_decay=0.6", "augment.flip=true", "model.dropout=0.2")),
        ((2, 3), ("train.ema_decay=0.6", "model.features=both", "train.optimizer=adam", "train.lr=0.001")),
        ((4,), ("finetune.freeze_norms=true", "finetune.frozen_stages=2", "model.hidden=[4]", "train.lr=0.002")),
    ],
)
def test_killed_in_any_phase_it_goes_on_to_the_same_weights(
    tiny: Tiny, weights: Path, epochs: tuple[int, ...], more: tuple[str, ...]
) -> None:
    options = on(weights, *TWO_PHASES, "input.size=16", "train.batch_size=9", *more)
    whole, network = start(tiny, *options, run="whole")
    rows = list(run_job(whole, network))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4]
    for epoch in epochs:
        job, network = start(tiny, *options, run=f"killed{epoch}")
        with pytest.raises(Killed):
            list(run_job(dataclasses.replace(job, watch=killed_in(epoch, batches=1)), network))
        torch.rand(9)
        went_on = list(run_job(*start(tiny, *options, run=f"killed{epoch}")))
        assert timeless(went_on) == timeless(rows[epoch - 1 :])
        assert same_checkpoints(checkpoint.load(job.files.last), checkpoint.load(whole.files.last))
        assert job.files.best is not None
        assert whole.files.best is not None
        assert same_checkpoints(checkpoint.load(job.files.best), checkpoint.load(whole.files.best))


def test_retraining_ends_inside_the_first_phase_where_the_best_epoch_was(tiny: Tiny, weights: Path) -> None:
    job, network = start(tiny, *on(weights, *TWO_PHASES))
    retrained = dataclasses.replace(tiny.retrain_job(), settings=job.settings, epochs=1)
    (row,) = run_job(retrained, network)
    assert row["lr"] == 0.05
    assert checkpoint.load(retrained.files.last).head_only


def test_the_first_phase_running_out_of_patience_leads_to_the_second(tiny: Tiny, weights: Path) -> None:
    """The head alone has learned what it can: that is when the network is to learn."""
    options = on(weights, *TWO_PHASES, "finetune.head_epochs=5", "train.epochs=7", "train.patience=1")
    _, _, rows = train(tiny, *options, "finetune.head_lr=1e-12")
    assert len(rows) > 5 or rows[-1]["lr"] == 0.01


# 5. Discriminative learning rates


@pytest.mark.parametrize("sees", ["pooled", "logits"])
def test_after_one_step_the_backbones_update_is_its_share(tiny: Tiny, weights: Path, sees: str) -> None:
    updates = {}
    for share in ("1.0", "0.1"):
        options = ("train.epochs=1", "train.batch_size=100", "train.weight_decay=0.001", f"model.features={sees}")
        network, before, _ = train(tiny, *on(weights, *options, f"finetune.backbone_lr={share}"), run=share)
        updates[share] = {name: value.detach() - before[name] for name, value in network.named_parameters()}
    for name, update in updates["1.0"].items():
        expected = update if in_head(name) else 0.1 * update
        assert torch.allclose(updates["0.1"][name], expected, rtol=1e-3, atol=3e-7), name
        assert update.any()


# 6. The last layer replaced


def test_it_is_a_resnet_whose_fc_was_replaced(tiny: Tiny) -> None:
    settings = tiny.settings("model.name=resnet18", "model.weights=x", "model.pretrained=false", *IMAGE)
    network = build_fine_tuned(settings, tiny.classes, [Origin("resnet18")])
    reference = models.resnet18()
    reference.fc = nn.Linear(512, 3)
    own = {name.removeprefix("backbones.0.body."): value for name, value in network.state_dict().items()}
    renamed = {name.replace("top.head.0.", "fc."): value for name, value in own.items()}
    reference.load_state_dict(renamed)  # strictly: all there is
    assert torch.equal(network.train()(pictures(size=32)), reference.train()(pictures(size=32)))
    assert torch.equal(outputs(network, pictures(size=32)), outputs(reference, pictures(size=32)))


def test_it_is_a_vgg_whose_last_classifier_was_replaced(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backbones, "load_into", lambda *_: [])  # its weights stay on the meta device
    settings = tiny.settings("model.name=vgg16", "model.weights=x", *IMAGE)
    network = build_fine_tuned(settings, tiny.classes, [Origin("vgg16", Path("x"))])
    *layers, last = network.get_submodule("backbones.0.body.classifier").children()
    assert [type(layer).__name__ for layer in layers] == ["Linear", "ReLU", "Dropout"] * 2
    assert isinstance(last, nn.Identity)
    (replaced,) = network.top.head
    assert isinstance(replaced, nn.Linear)
    assert (replaced.in_features, replaced.out_features) == (4096, 3)


# 7. From scratch


def test_from_scratch_it_is_the_same_network_with_other_weights_and_needs_no_file(tiny: Tiny, weights: Path) -> None:
    _, fine_tuned = start(tiny, *on(weights, "model.hidden=[8]"))
    options = on(Path("/nowhere/missing.pth"), "model.hidden=[8]", "model.pretrained=false")
    _, fresh = start(tiny, *options)
    pretrained, scratch = fine_tuned.state_dict(), fresh.state_dict()
    assert {name: value.shape for name, value in pretrained.items()} == {
        name: value.shape for name, value in scratch.items()
    }
    assert not torch.equal(pretrained["backbones.0.body.conv1.0.weight"], scratch["backbones.0.body.conv1.0.weight"])
    other_seed = start(tiny, *options, "train.seed=1")[1].state_dict()
    assert not torch.equal(other_seed["backbones.0.body.conv1.0.weight"], scratch["backbones.0.body.conv1.0.weight"])
    assert same_again(start(tiny, *options)[1], scratch)


def same_again(network: nn.Module, state: dict[str, Tensor]) -> bool:
    return not changed(network, state)


def test_from_scratch_with_a_published_name_downloads_nothing(tiny: Tiny, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.models.weights._download", None)
    options = (f"model.name={NAME}", "model.weights=IMAGENET1K_V1", "model.pretrained=false", "input.size=32")
    network, before, rows = train(tiny, *options, "train.epochs=1")
    check_learned(network, before, kept=set())
    assert len(rows) == 1
    saved = checkpoint.load(tiny.layout.run("run").best)
    assert saved.settings.input.mean == (0.485, 0.456, 0.406)  # the same images as with the weights
    assert not changed(saved.model(tiny.classes, tiny.layout.weights), network.state_dict())


def test_from_scratch_nothing_is_spared(tiny: Tiny, weights: Path) -> None:
    spared = (
        "finetune.frozen_stages=-1",
        "finetune.freeze_norms=true",
        "finetune.backbone_lr=0.1",
        "model.label_map=names",
    )
    options = on(weights, "model.pretrained=false", "train.epochs=1", *spared)
    assert phases(tiny.settings(*options)) == [Phase(1, 1, head_only=False, cached=False, lr=0.05)]
    network, before, _ = train(tiny, *options)
    check_learned(network, before, kept=set())


# 8. Known labels

DOGS = ["golden_retriever", "no such dog", "n02110958-pug"]


def own_logits(path: Path, name: str, inputs: Tensor) -> Tensor:
    network = models.get_model(name, weights=None)
    network.load_state_dict(torch.load(path, weights_only=True))
    return outputs(network, inputs)


def known(*names: str) -> list[int]:
    return [CATEGORIES.index(name) for name in names]


SEVERAL = ("competition.task=several_labels", "competition.metric=auc_columns", "competition.submission=probabilities")


@pytest.mark.parametrize("task", [(), SEVERAL])
def test_known_labels_start_from_their_rows_and_others_from_xavier(
    tiny: Tiny, weights: Path, task: tuple[str, ...]
) -> None:
    settings = tiny.settings(*on(weights, "model.label_map=names", *task))
    network = build_fine_tuned(settings, DOGS, find_origins(settings.model, tiny.layout.weights))
    assert network.notes() == [
        "Label map: 2 of 3 outputs start from the pretrained network's own.",
        "Labels without a category, whose outputs start at random: 'no such dog'",
    ]
    logits = outputs(network, pictures(size=32))
    expected = own_logits(weights, NAME, pictures(size=32))[:, known("golden retriever", "pug")]
    assert torch.allclose(logits[:, [0, 2]], expected, atol=1e-5)
    layer: Any = network.top.head[0]
    assert layer.bias[1] == 0
    bound = (6 / (1024 + 3)) ** 0.5
    assert 0.9 * bound < layer.weight[1].abs().max() <= bound


def test_two_networks_zero_shot_logits_are_averaged(tiny: Tiny, weights: Path, other_weights: Path) -> None:
    options = (f"model.name={NAME}+{OTHER}", f"model.weights={weights}+{other_weights}", "model.label_map=names")
    settings = tiny.settings(*options, *IMAGE)
    network = build_fine_tuned(settings, DOGS, find_origins(settings.model, tiny.layout.weights))
    both = [own_logits(path, name, pictures(size=32)) for path, name in ((weights, NAME), (other_weights, OTHER))]
    expected = torch.stack(both).mean(dim=0)[:, known("golden retriever", "pug")]
    assert torch.allclose(outputs(network, pictures(size=32))[:, [0, 2]], expected, atol=1e-5)


def test_a_label_map_file_pairs_other_names(tiny: Tiny, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("label,category\nblue,jay\nred,954\n")
    _, network = start(tiny, *on(weights, f"model.label_map={path}"))
    expected = own_logits(weights, NAME, pictures(size=32))[:, [CATEGORIES.index("jay"), 954]]
    assert torch.allclose(outputs(network, pictures(size=32))[:, [0, 2]], expected, atol=1e-5)
    path.write_text("label,category\npurple,jay\n")
    with pytest.raises(UserError, match=r"map\.csv, line 2: 'purple' is not a label"):
        start(tiny, *on(weights, f"model.label_map={path}"))


def test_a_checkpoint_does_not_need_the_label_map_again(tiny: Tiny, weights: Path, tmp_path: Path) -> None:
    path = tmp_path / "map.csv"
    path.write_text("label,category\nblue,jay\n")
    network, _, _ = train(tiny, *on(weights, f"model.label_map={path}", HEAD_ONLY, "train.epochs=1"))
    path.unlink()
    again = checkpoint.load(tiny.layout.run("run").best).model(tiny.classes, tiny.layout.weights)
    assert same_again(again, network.state_dict())


def test_a_label_map_takes_a_classifier_whose_outputs_have_names(tiny: Tiny, tmp_path: Path) -> None:
    save_network(tmp_path / "seven.pth", NAME, num_classes=7)
    with pytest.raises(UserError):  # 7 outputs are not ImageNet's
        start(tiny, *on(tmp_path / "seven.pth", "model.label_map=names"))


# 9. The best weights are kept


def check_best(tiny: Tiny, job: Job, rows: list[Row]) -> checkpoint.Checkpoint:
    assert job.files.best is not None
    assert job.valid is not None
    saved = checkpoint.load(job.files.best)
    row = best_row(rows, job.settings.competition.metric)
    predictor = open_predictor(saved, saved.settings, job.valid, Resources(tiny.layout.weights))
    judge, views = job.judge(), predictor.views
    found = engine.evaluate(predictor.model, predictor.source, predictor.task, judge, predictor.hardware, views)
    assert saved.epoch == row["epoch"]
    assert found.score == pytest.approx(row[judge.name], rel=1e-5)
    assert found.loss == pytest.approx(row["valid_loss"], rel=1e-5)
    return saved


@pytest.mark.parametrize(
    "more",
    [
        (HEAD_ONLY,),
        (HEAD_ONLY, "features.crops=2", "features.mirror=false", "augment.crop_scale=[0.3, 1]"),
        (HEAD_ONLY, UNCACHED, "train.ema_decay=0.5", "input.source=photos"),
        ("train.ema_decay=0.5", "model.features=both"),
        ("finetune.freeze_norms=true", "finetune.frozen_stages=2", "train.lr=0.002"),
        (*TWO_PHASES, "train.ema_decay=0.5"),
    ],
)
def test_the_best_checkpoint_scores_what_training_reported(tiny: Tiny, weights: Path, more: tuple[str, ...]) -> None:
    job, network = start(tiny, *on(weights, *LOG_LOSS, *more))
    saved = check_best(tiny, job, list(run_job(job, network)))
    assert saved.settings.model.weights_sha256 == file_sha256(weights)


def test_the_best_epoch_may_be_one_of_the_head_although_the_network_learned_after_it(tiny: Tiny, weights: Path) -> None:
    options = on(weights, *TWO_PHASES, *LOG_LOSS, "train.lr=100", "finetune.head_lr=0.01")
    job, network = start(tiny, *options)
    rows = []
    try:
        for row in run_job(job, network):
            rows.append(row)
    except UserError:  # at that rate, the loss may be no number any more
        pass
    saved = check_best(tiny, job, rows)
    assert saved.epoch <= 2
    assert saved.head_only
    assert not checkpoint.load(job.files.last).head_only or len(rows) == 2


def test_a_heads_checkpoint_holds_nothing_else(tiny: Tiny, weights: Path) -> None:
    job, network = start(tiny, *on(weights, HEAD_ONLY, "train.ema_decay=0.5", "model.hidden=[4]"))
    list(run_job(job, network))
    for path in (job.files.last, job.files.best):
        assert path is not None
        saved = checkpoint.load(path)
        assert set(saved.weights) == {f"{HEAD}{name}" for name in ("0.weight", "0.bias", "2.weight", "2.bias")}
        assert saved.head_only
        assert path.stat().st_size < 100_000
    assert set(checkpoint.load(job.files.last).training["model"]) == set(saved.weights)


def test_a_heads_checkpoint_is_refused_when_the_weights_have_changed(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_network(path, NAME)
    job, network = start(tiny, *on(path, HEAD_ONLY, "train.epochs=1"))
    list(run_job(job, network))
    saved = checkpoint.load(job.files.last)
    assert same_again(saved.model(tiny.classes, tiny.layout.weights), network.state_dict())
    torch.save(models.shufflenet_v2_x0_5().state_dict(), path)
    with pytest.raises(UserError, match=r"weights\.pth has the sha256 .* another file"):
        saved.model(tiny.classes, tiny.layout.weights)
    path.unlink()
    with pytest.raises(UserError, match=r"no file of weights .*weights\.pth"):
        saved.model(tiny.classes, tiny.layout.weights)


def test_the_whole_networks_checkpoint_needs_no_file_of_weights(tiny: Tiny, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    save_network(path, NAME)
    job, network = start(tiny, *on(path, "train.epochs=1", "finetune.freeze_norms=true", "train.lr=0.001"))
    list(run_job(job, network))
    path.unlink()
    again = checkpoint.load(job.files.last).model(tiny.classes, tiny.layout.weights)
    assert same_again(again, network.state_dict())


# What is found, and what it asks of images


def publish(monkeypatch: pytest.MonkeyPatch, **paths: tuple[Path, tuple[float, ...]]) -> None:
    """Let torchvision's published weights of networks be the files at these paths, with these means."""
    describe = published_module._describe

    def described(network: str, entry: Any) -> published_module.Published:
        real = describe(network, entry)
        if network not in paths:
            return real
        path, mean = paths[network]
        return dataclasses.replace(real, prefix=file_sha256(path)[:10], mean=mean)

    monkeypatch.setattr(published_module, "_describe", described)


def published_settings(
    tiny: Tiny, weights: Path, monkeypatch: pytest.MonkeyPatch, *overrides: str
) -> tuple[Settings, list[Origin]]:
    publish(monkeypatch, **{NAME: (weights, (0.485, 0.456, 0.406))})
    known = published_module.published(NAME, "IMAGENET1K_V1")
    tiny.layout.weights.mkdir()
    (tiny.layout.weights / known.filename).write_bytes(weights.read_bytes())
    tiny.toml.write_text(tiny.toml.read_text().replace("size = 8", ""))
    settings = tiny.settings(f"model.name={NAME}", "model.weights=IMAGENET1K_V1", *overrides)
    return settings, find_origins(settings.model, tiny.layout.weights)


@pytest.mark.parametrize(
    ("overrides", "size", "resize", "mean"),
    [
        ((), 224, 256, (0.485, 0.456, 0.406)),
        (("input.size=128",), 128, 0, (0.485, 0.456, 0.406)),
        (("input.size=128", "input.resize=150"), 128, 150, (0.485, 0.456, 0.406)),
        (("input.resize=300", "input.mean=[0.5, 0.5, 0.5]"), 224, 300, (0.5, 0.5, 0.5)),
    ],
)
def test_published_weights_say_what_images_they_take(
    tiny: Tiny,
    weights: Path,
    monkeypatch: pytest.MonkeyPatch,
    overrides: tuple[str, ...],
    size: int,
    resize: int,
    mean: tuple[float, ...],
) -> None:
    settings, found = published_settings(tiny, weights, monkeypatch, *overrides)
    resolved = resolve(settings, found)
    assert (resolved.input.size, resolved.input.resize, resolved.input.mean) == (size, resize, mean)
    assert resolved.input.std == (0.229, 0.224, 0.225)
    assert resolved.model.weights_sha256 == file_sha256(weights)
    assert resolve(resolved, found) == resolved


def test_a_file_says_nothing_about_its_images(tiny: Tiny, weights: Path) -> None:
    tiny.toml.write_text(tiny.toml.read_text().replace("size = 8", ""))
    for missing in range(3):
        image = [each for place, each in enumerate(IMAGE) if place != missing]
        settings = tiny.settings(f"model.name={NAME}", f"model.weights={weights}", *image)
        with pytest.raises(UserError, match=r"small\.pth does not give .* set input\.size, input\.mean and input\.std"):
            resolve(settings, find_origins(settings.model, tiny.layout.weights))


@pytest.mark.parametrize(
    ("name", "sources", "message"),
    [
        (f"{NAME}+{OTHER}", "a.pth", r"model\.weights has 1 parts, 'a\.pth', for the 2 networks of"),
        (f"{NAME}+{OTHER}", "a.pth+b.pth+c.pth", r"model\.weights has 3 parts"),
        (NAME, "c++.pth", r"There is no file of weights .*c\+\+\.pth"),
        ("shufflenet_v2_x05", "IMAGENET1K_V1", r"model\.name 'shufflenet_v2_x05'\. Did you mean 'shufflenet_v2_x0_5'"),
        (NAME, "IMAGENET1K_V9", r"No weights 'IMAGENET1K_V9' are published for shufflenet_v2_x0_5\. Did you mean"),
        (NAME, "missing.pth", r"There is no file of weights .*missing\.pth"),
    ],
)
def test_weights_that_are_not_to_be_had_are_named(tiny: Tiny, name: str, sources: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        start(tiny, f"model.name={name}", f"model.weights={sources}", *IMAGE)


def test_a_hash_for_each_of_several_files(tiny: Tiny, weights: Path, other_weights: Path) -> None:
    two = (f"model.name={NAME}+{OTHER}", f"model.weights={weights}+{other_weights}", *IMAGE)
    hashes = [file_sha256(weights), file_sha256(other_weights)]
    assert start(tiny, *two)[0].settings.model.weights_sha256 == "+".join(hashes)
    start(tiny, *two, f"model.weights_sha256={'+'.join(hashes)}")
    with pytest.raises(UserError, match="has the sha256"):
        start(tiny, *two, f"model.weights_sha256={'+'.join(reversed(hashes))}")
    with pytest.raises(UserError, match=r"weights_sha256 has 1 parts"):
        start(tiny, *two, f"model.weights_sha256={hashes[0]}")


def test_the_weights_of_another_network_are_refused(tiny: Tiny, other_weights: Path) -> None:
    with pytest.raises(UserError, match=rf"does not fit {NAME}: .* It seems to be for {OTHER}"):
        start(tiny, *on(other_weights))


# Several networks


def test_networks_side_by_side_each_see_images_in_their_own_normalisation(
    tiny: Tiny, weights: Path, other_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = (0.485, 0.456, 0.406), (0.1, 0.2, 0.3)
    publish(monkeypatch, **{NAME: (weights, first), OTHER: (other_weights, second)})
    options = (f"model.name={NAME}+{OTHER}", f"model.weights={weights}+{other_weights}", "input.size=32")
    _, network = start(tiny, *options, "model.features=logits")
    pixels, std = torch.rand(2, 3, 32, 32), torch.tensor((0.229, 0.224, 0.225)).view(3, 1, 1)

    def seen(mean: tuple[float, ...]) -> Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / std

    expected = [own_logits(weights, NAME, seen(first)), own_logits(other_weights, OTHER, seen(second))]
    logits = outputs(network.top.head, torch.cat(expected, dim=1))
    assert torch.allclose(outputs(network, seen(first)), logits, atol=1e-4)


@pytest.mark.parametrize("more", [(), (HEAD_ONLY,)])
def test_a_checkpoint_of_recognised_files_keeps_their_normalisation(
    tiny: Tiny, weights: Path, other_weights: Path, monkeypatch: pytest.MonkeyPatch, more: tuple[str, ...]
) -> None:
    publish(monkeypatch, **{NAME: (weights, (0.485, 0.456, 0.406)), OTHER: (other_weights, (0.1, 0.2, 0.3))})
    options = (f"model.name={NAME}+{OTHER}", f"model.weights={weights}+{other_weights}", "input.size=32")
    job, network = start(tiny, *options, "train.epochs=1", "train.lr=1e-3", *LOG_LOSS, *more)
    check_best(tiny, job, list(run_job(job, network)))


TWO = (f"model.name={NAME}+{OTHER}", "input.mean=[0.5, 0.5, 0.5]", "input.std=[0.25, 0.25, 0.25]")


def test_a_second_file_without_facts_needs_the_settings_too(
    tiny: Tiny, weights: Path, other_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, **{NAME: (weights, (0.485, 0.456, 0.406))})
    options = (f"model.weights={weights}+{other_weights}", "input.size=32")
    with pytest.raises(UserError, match=r"/other\.pth does not give .* so set input\.size, input\.mean and input\.std"):
        start(tiny, TWO[0], *options)
    # The first network is published with another normalisation: it would silently get that of the second.
    with pytest.raises(UserError, match=r"first: model\.name=shufflenet_v2_x1_0\+shufflenet_v2_x0_5") as caught:
        start(tiny, *TWO, *options)
    name = re.search(r"model\.name=\S+(?=,)", str(caught.value))
    assert name
    _, network = start(tiny, *TWO, name[0], f"model.weights={other_weights}+{weights}", "input.size=32")
    assert [body.rescale is None for body in network.bodies] == [True, False]


def test_published_sizes_that_differ_are_named_and_the_setting_decides(
    tiny: Tiny, weights: Path, other_weights: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish(monkeypatch, **{NAME: (weights, (0.485, 0.456, 0.406)), OTHER: (other_weights, (0.1, 0.2, 0.3))})
    settings = tiny.settings(TWO[0], f"model.weights={weights}+{other_weights}")
    settings = dataclasses.replace(settings, input=dataclasses.replace(settings.input, size=0))
    found = find_origins(settings.model, tiny.layout.weights)
    assert found[1].facts
    found[1] = dataclasses.replace(found[1], facts=dataclasses.replace(found[1].facts, size=299))
    with pytest.raises(UserError, match=rf"{NAME} 224, {OTHER} 299\. .* choose their size with input\.size"):
        resolve(settings, found)
    chosen = dataclasses.replace(settings, input=dataclasses.replace(settings.input, size=64))
    assert resolve(chosen, found).input.size == 64


# What is said about it


@pytest.mark.parametrize(
    "more",
    [
        (),
        (HEAD_ONLY, "model.features=logits", "model.hidden=[256]"),
        ("finetune.frozen_stages=2", "finetune.freeze_norms=true"),
        (*TWO_PHASES, "finetune.frozen_stages=5", "model.features=both"),
    ],
)
def test_the_parts_of_each_phase_are_all_parameters(tiny: Tiny, weights: Path, more: tuple[str, ...]) -> None:
    job, network = start(tiny, *on(weights, *more))
    total = sum(parameter.numel() for parameter in network.parameters())
    rows = describe_phases(job.settings, network)
    by_phase: dict[str, int] = {}
    for row in rows:
        by_phase[row["epochs"]] = by_phase.get(row["epochs"], 0) + row["parameters"]
    assert set(by_phase.values()) == {total}
    assert len(by_phase) == (2 if "finetune.head_epochs=2" in more else 1)


def test_parts_with_their_rates(tiny: Tiny, weights: Path) -> None:
    options = (*TWO_PHASES, "finetune.frozen_stages=2", "finetune.backbone_lr=0.1", "train.weight_decay=0.001")
    job, network = start(tiny, *on(weights, *options))
    rows = describe_phases(job.settings, network)
    assert [(row["epochs"], row["part"], row["lr"], row["weight_decay"]) for row in rows] == [
        ("1-2", f"{NAME}: conv1 to conv5", None, None),
        ("1-2", "head", 0.05, 0.001),
        ("3-4", f"{NAME}: conv1 to stage2", None, None),
        ("3-4", f"{NAME}: stage3 to conv5", 0.001, 0.001),
        ("3-4", "head", 0.01, 0.001),
    ]
    assert rows[1]["parameters"] == 1024 * 3 + 3


def test_other_networks_have_no_parts_and_no_features(tiny: Tiny) -> None:
    job = tiny.job()
    network = tiny.network(job.settings)
    assert describe_phases(job.settings, network) == []
    assert prepare_features(job, network) == ""
