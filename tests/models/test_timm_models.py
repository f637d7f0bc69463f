"""Classifiers of timm: features, last layers, stages, folded norms and facts about images, as timm itself has them."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from pipelines.models import timm_models
from pipelines.models.backbones import build_timm, fold_norms, stages
from pipelines.models.building import build_network
from pipelines.models.published import published, recognised
from pipelines.models.stage_features import add_stages
from pipelines.models.transfer import build_fine_tuned
from pipelines.models.weights import Origin, find_origins, resolve
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from tests.support.networks import outputs, pictures, settled

timm: Any = pytest.importorskip("timm")

LITE0 = Path(__file__).parents[3] / "shared/weights/tf_efficientnet_lite0-imagenet.pth"
needs_lite0 = pytest.mark.skipif(
    not LITE0.exists(), reason="needs ../shared/weights/tf_efficientnet_lite0-imagenet.pth"
)
FAMILIES = ("test_resnet", "test_convnext", "test_vit", "test_efficientnet")


def close(found: Tensor, expected: Tensor) -> bool:
    return float((found - expected).norm() / expected.norm()) < 1e-5


def saved(path: Path, architecture: str, **options: Any) -> Any:
    """Write the weights of a new network of timm; return it."""
    torch.manual_seed(0)
    network = timm.create_model(architecture, **options)
    if not architecture.startswith("test_vit"):
        settled(network)
    torch.save(network.state_dict(), path)
    return network.eval()


def features_of(network: Any, images: Tensor) -> Tensor:
    with torch.inference_mode():
        found: Tensor = network.forward_head(network.forward_features(images), pre_logits=True)
    return found


def settings(**model: Any) -> Settings:
    return merge(Settings("x"), {"model": model}, "here")


@pytest.mark.parametrize("architecture", FAMILIES)
def test_features_and_logits_are_timms_own_before_and_after_folding(tmp_path: Path, architecture: str) -> None:
    network = saved(tmp_path / "w.pth", architecture)
    size = 160 if architecture == "test_vit" else 64
    backbone, classifier = build_timm(f"timm/{architecture}", tmp_path / "w.pth", (3, size), "model.features=logits")
    images = pictures(size=size)
    found = outputs(backbone, images)
    assert found.shape == (2, backbone.dimensions)
    assert torch.equal(found, features_of(network, images))
    assert torch.equal(outputs(classifier, found), outputs(network, images))
    folded = fold_norms(backbone)
    assert close(outputs(folded, images), found)
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]
    assert [stage.name for stage in stages(folded)] == [stage.name for stage in stages(backbone)]
    names = [name for stage in stages(folded) for name in stage.parameters]
    assert sorted(names) == sorted(name for name, _ in folded.named_parameters())


@needs_lite0
def test_real_weights_whose_norms_are_not_folded() -> None:
    network = timm.create_model("tf_efficientnet_lite0")
    network.load_state_dict(torch.load(LITE0, weights_only=True))
    backbone, classifier = build_timm("timm/tf_efficientnet_lite0", LITE0, (3, 96))
    images = pictures(size=96)
    expected = features_of(network.eval(), images)
    assert torch.equal(outputs(backbone, images), expected)
    assert torch.equal(outputs(classifier, expected), outputs(network, images))
    folded = fold_norms(backbone)
    assert close(outputs(folded, images), expected)
    assert not [module for module in folded.modules() if isinstance(module, nn.BatchNorm2d)]


@pytest.mark.parametrize(
    ("architecture", "expected"),
    [
        ("test_resnet", ["conv1", "layer1", "layer2", "layer3", "layer4"]),
        ("test_convnext", ["stem", *(f"stages.{number}" for number in range(4)), "head"]),
        ("test_vit", ["cls_token", *(f"blocks.{number}" for number in range(6)), "norm"]),
        ("test_efficientnet", ["conv_stem", *(f"blocks.{number}" for number in range(5)), "conv_head"]),
    ],
)
def test_stages_from_the_bottom_up(architecture: str, expected: list[str]) -> None:
    backbone, _ = build_timm(f"timm/{architecture}", None, (3, 160))
    assert [stage.name for stage in stages(backbone)] == expected


def test_a_transformers_stem_is_its_first_stage() -> None:
    first = stages(build_timm("timm/test_vit", None, (3, 160))[0])[0]
    assert {name.removeprefix("body.").partition(".")[0] for name in first.parameters} == {
        "cls_token",
        "pos_embed",
        "patch_embed",
    }


def test_positions_are_resampled_for_other_sizes_as_timm_does(tmp_path: Path) -> None:
    network = saved(tmp_path / "w.pth", "test_vit")
    backbone, _ = build_timm("timm/test_vit", tmp_path / "w.pth", (3, 64))
    network.set_input_size(64)
    images = pictures(size=64)
    assert close(outputs(backbone, images), features_of(network, images))


@pytest.mark.parametrize("channels", [1, 5])
def test_other_channels_take_the_weights_as_timm_adapts_them(tmp_path: Path, channels: int) -> None:
    network = saved(tmp_path / "w.pth", "test_efficientnet")
    backbone, _ = build_timm("timm/test_efficientnet", tmp_path / "w.pth", (channels, 64))
    stem = backbone.body.get_submodule("conv_stem").weight
    expected = timm.models.adapt_input_conv(channels, network.conv_stem.weight.detach())
    assert torch.equal(torch.as_tensor(stem), expected)
    assert outputs(backbone, torch.rand(2, channels, 64, 64)).shape == (2, backbone.dimensions)


@pytest.mark.parametrize("architecture", FAMILIES)
def test_moments_of_the_stages_stand_before_timms_own_features(tmp_path: Path, architecture: str) -> None:
    saved(tmp_path / "w.pth", architecture)
    size = 160 if architecture == "test_vit" else 64
    backbone, _ = build_timm(f"timm/{architecture}", tmp_path / "w.pth", (3, size))
    images = pictures(size=size)
    own = outputs(backbone, images)
    add_stages(backbone, 3, size)
    found = outputs(backbone, images)
    assert len(backbone.taps) > 1
    assert found.shape[1] == backbone.dimensions > own.shape[1]
    assert torch.equal(found[:, -own.shape[1] :], own)
    assert close(outputs(fold_norms(backbone), images), found)


@pytest.mark.parametrize(
    ("name", "size", "what"),
    [
        ("deit_tiny_distilled_patch16_224", 32, "2 last layers"),
        ("vit_tiny_patch16_dinov3_qkvb", 32, "no last layer"),
    ],
)
def test_a_network_without_one_linear_last_layer_has_features_but_no_logits(name: str, size: int, what: str) -> None:
    backbone, classifier = build_timm(f"timm/{name}", None, (3, size))
    assert (backbone.dimensions, classifier.out_features) == (192, 1)
    assert outputs(backbone, pictures(size=size)).shape == (2, 192)
    with pytest.raises(UserError, match=rf"has {what}, but model\.features=both uses it\. Set model\.features=pooled"):
        build_timm(f"timm/{name}", None, (3, size), "model.features=both")


def test_from_scratch_a_network_of_timm_takes_classes_channels_and_size() -> None:
    chosen = merge(settings(name="timm/test_vit"), {"input": {"size": 32, "channels": 4}}, "here")
    network = build_network(chosen, ["a", "b", "c"], [])
    assert outputs(network, torch.rand(2, 4, 32, 32)).shape == (2, 3)
    again = build_network(chosen, ["a", "b", "c"], [])
    assert all(torch.equal(*pair) for pair in zip(network.parameters(), again.parameters(), strict=True))


def test_side_by_side_each_network_gets_images_in_its_own_normalisation(tmp_path: Path) -> None:
    networks = {name: saved(tmp_path / f"{name}.pth", name) for name in ("test_efficientnet", "test_resnet")}
    names, files = ("+".join(f"{a}{name}{b}" for name in networks) for a, b in (("timm/", ""), ("", ".pth")))
    chosen = settings(name=names, weights=files)
    found = find_origins(chosen.model, tmp_path)
    chosen = resolve(merge(chosen, {"input": {"size": 64}}, "here"), found)
    assert chosen.input.interpolation == "bicubic"
    network = build_fine_tuned(chosen, ["a", "b"], found)
    pixels = torch.rand(2, 3, 64, 64)

    def normalised(mean: Any, std: Any) -> Tensor:
        return (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)

    ours = normalised(chosen.input.mean, chosen.input.std)
    for body, (name, theirs) in zip(network.bodies, networks.items(), strict=True):
        config = timm.get_pretrained_cfg(name)
        assert close(outputs(body, ours), features_of(theirs, normalised(config.mean, config.std)))
    network.freeze(2, norms=True)
    assert outputs(network, ours).shape == (2, 2)


def test_images_are_as_timms_configuration_says() -> None:
    known = recognised("timm/tf_efficientnet_lite0", "")
    assert known and (known.mean, known.std, known.size) == ((0.5,) * 3, (0.5,) * 3, 224)
    assert (known.resize, known.interpolation) == (256, "bicubic")
    known = published("timm/convnext_tiny.in12k_ft_in1k", "DEFAULT")
    assert (known.filename, known.hub) == (
        "convnext_tiny.in12k_ft_in1k.safetensors",
        "timm/convnext_tiny.in12k_ft_in1k",
    )
    assert known.url == "https://huggingface.co/timm/convnext_tiny.in12k_ft_in1k/resolve/main/model.safetensors"
    elsewhere = published("timm/legacy_seresnet18", "DEFAULT")
    assert (elsewhere.filename, elsewhere.prefix) == ("seresnet18-4bb0ce65.pth", "4bb0ce65")


def test_settings_follow_timms_configuration(tmp_path: Path) -> None:
    saved(tmp_path / "w.pth", "test_resnet")
    chosen = settings(name="timm/test_resnet", weights="w.pth")
    image = resolve(chosen, find_origins(chosen.model, tmp_path)).input
    config = timm.get_pretrained_cfg("test_resnet")
    assert (image.size, image.mean, image.std) == (config.input_size[1], config.mean, config.std)
    assert (image.resize, image.interpolation) == (int(config.input_size[1] / config.crop_pct), config.interpolation)


def test_a_name_that_leaves_the_normalisation_open_is_asked_for_its_tag(tmp_path: Path) -> None:
    (tmp_path / "w.pth").write_bytes(b"anything")
    chosen = settings(name="timm/vit_base_patch16_224", weights="w.pth")
    found = find_origins(chosen.model, tmp_path)
    with pytest.raises(UserError, match=r"add the tag of the weights to model\.name.*timm/vit_base_patch16_224\.dino"):
        resolve(chosen, found)
    tagged = settings(name="timm/vit_base_patch16_224.dino", weights="w.pth")
    assert resolve(tagged, find_origins(tagged.model, tmp_path)).input.mean == (0.485, 0.456, 0.406)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/convnext_tinny", r"has no network 'convnext_tinny'\. Did you mean 'convnext_tiny'"),
        (
            "timm/resnet18.foo",
            r"no weights 'foo' of resnet18\..* It has: 'timm/resnet18\.a1_in1k', .*Or leave the tag out",
        ),
        ("timm/resnet18.a1_in2k", "Did you mean 'a1_in1k'"),
        ("timm/hf-hub:someone/something", "has no network 'hf-hub:someone/something'"),
        ("timm/", "has no network ''"),
    ],
)
def test_an_unknown_name_or_tag_gets_the_near_ones(name: str, message: str) -> None:
    for build in (lambda: build_timm(name, None, (3, 64)), lambda: build_network(settings(name=name), ["a", "b"], [])):
        with pytest.raises(UserError, match=message):
            build()


def test_weights_of_another_architecture_are_refused(tmp_path: Path) -> None:
    saved(tmp_path / "w.pth", "test_resnet")
    with pytest.raises(
        UserError, match=r"w\.pth does not fit timm/test_vit: .*missing.* Give weights of timm/test_vit"
    ):
        build_timm("timm/test_vit", tmp_path / "w.pth", (3, 160))
    saved(tmp_path / "r.pth", "resnet18")
    with pytest.raises(UserError, match=r"It seems to be for resnet18: write resnet18 for .* in model\.name"):
        build_timm("timm/test_vit", tmp_path / "r.pth", (3, 160))


def test_weights_of_timm_without_a_last_layer_do_where_none_is_used(tmp_path: Path) -> None:
    network = saved(tmp_path / "w.pth", "test_convnext", num_classes=7)
    backbone, _ = build_timm("timm/test_convnext", tmp_path / "w.pth", (3, 64))
    assert torch.equal(outputs(backbone, pictures()), features_of(network, pictures()))
    assert backbone.notes == ["it has a last layer of 7 outputs, which is not used"]
    with pytest.raises(UserError, match=r"a last layer of 7 outputs, but model\.features=both uses"):
        build_timm("timm/test_convnext", tmp_path / "w.pth", (3, 64), "model.features=both")


def test_published_weights_of_timm_are_named_default() -> None:
    with pytest.raises(
        UserError, match=r"by the tag in model\.name, as in timm/resnet18\.a1_in1k\. Set model\.weights=DE"
    ):
        published("timm/resnet18", "IMAGENET1K_V1")
    with pytest.raises(UserError, match="timm publishes no weights for timm/efficientnet_lite1"):
        published("timm/efficientnet_lite1", "DEFAULT")


def test_names_of_outputs_are_imagenets() -> None:
    assert timm_models.categories_of("timm/convnext_tiny.in12k_ft_in1k") is None  # the usual ones
    names = timm_models.categories_of("timm/convnext_tiny.in12k")
    assert names and len(names) == 11821 and "affenpinscher" in names


@needs_lite0
def test_a_label_map_starts_from_the_rows_of_timms_last_layer() -> None:
    origin = Origin("timm/tf_efficientnet_lite0", LITE0, "0" * 64, recognised("timm/tf_efficientnet_lite0", ""))
    chosen = merge(settings(name=origin.name, weights="x", label_map="names"), {"input": {"size": 64}}, "here")
    network = build_fine_tuned(resolve(chosen, [origin]), ["tench", "no fish"], [origin])
    last = torch.load(LITE0, weights_only=True)["classifier.weight"]
    assert torch.equal(torch.as_tensor(network.top.head[-1].weight)[0], last[0])
    assert "1 of 2 outputs start" in network.notes()[0]


def test_networks_of_torchvision_do_not_import_timm() -> None:
    code = (
        "import sys\nfrom pipelines.models.building import build_network\n"
        "from pipelines.settings.loading import merge\n"
        "from pipelines.models.weights import Origin; from pipelines.settings.schema import Settings\n"
        "chosen = merge(Settings('x'), {'model': {'name': 'resnet18', 'pretrained': False, 'weights': 'IMAGENET1K_V1'},"
        " 'finetune': {'freeze_norms': True}, 'input': {'size': 32, 'mean': [0.5] * 3, 'std': [0.5] * 3}}, 'here')\n"
        "build_network(chosen, ['a', 'b'], [Origin('resnet18')])\n"
        "assert not {'timm', 'huggingface_hub', 'safetensors'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


@pytest.mark.parametrize(
    "name", ["tf_efficientnet_lite0", "convnext_tiny.in12k_ft_in1k", "hf_hub:timm/tf_efficientnet_lite0"]
)
@pytest.mark.parametrize("weights", ["", "DEFAULT"])
def test_a_name_without_its_prefix_gets_the_one_with_it(name: str, weights: str, tmp_path: Path) -> None:
    chosen, proposed = settings(name=name, weights=weights), "timm/" + name.rpartition("/")[2]
    with pytest.raises(UserError, match=f"Did you mean '{proposed}', a network of timm"):
        build_network(chosen, ["a"], find_origins(chosen.model, tmp_path))
    assert timm_models.configuration(proposed)
