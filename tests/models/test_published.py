"""What torchvision publishes: names, files, hashes and preprocessing."""

import pytest
from torchvision import models

from pipelines.models.published import is_published_name, networks_with, published, recognised
from pipelines.system.errors import UserError

IMAGENET_MEAN = (0.485, 0.456, 0.406)


@pytest.mark.parametrize("text", ["IMAGENET1K_V1", "DEFAULT", "IMAGENET1K_SWAG_E2E_V1"])
def test_a_published_name_is_recognised_as_one(text: str) -> None:
    assert is_published_name(text)


@pytest.mark.parametrize("text", ["", "resnet18.pth", "weights/resnet18.pth", "DEFAULT.pth", "./DEFAULT", "default"])
def test_a_path_is_not_a_published_name(text: str) -> None:
    assert not is_published_name(text)


def test_all_that_torchvision_publishes_can_be_described() -> None:
    described = [
        (entry, published(name, entry.name))
        for name in models.list_models(module=models)
        for entry in models.get_model_weights(name)
    ]
    assert len(described) >= 100
    for entry, known in described:
        assert is_published_name(known.name)
        assert entry.url.endswith(f"/{known.filename}")
        assert len(known.prefix) >= 8 and int(known.prefix, 16)
        assert f"-{known.prefix}.pth" in known.filename
        assert len(known.mean) == len(known.std) == 3
        assert 0 < known.size <= known.resize
        assert known.categories is None or len(known.categories) == 1000


def test_a_published_entry_says_what_the_network_was_trained_on() -> None:
    known = published("resnet50", "DEFAULT")
    assert known == published("resnet50", "IMAGENET1K_V2")
    assert (known.name, known.filename, known.prefix) == ("IMAGENET1K_V2", "resnet50-11ad3fa6.pth", "11ad3fa6")
    assert (known.mean, known.std, known.size, known.resize) == (IMAGENET_MEAN, (0.229, 0.224, 0.225), 224, 232)
    assert known.categories and known.categories[:2] == ["tench", "goldfish"]
    assert published("vgg16", "IMAGENET1K_FEATURES").categories is None
    assert published("googlenet", "DEFAULT").mean == IMAGENET_MEAN  # for `transform_input=True`


def test_an_unknown_name_or_network_is_refused_with_near_ones() -> None:
    with pytest.raises(UserError, match=r"'IMAGENET1K_V3'.*resnet18.*'IMAGENET1K_V1'.*DEFAULT.*path"):
        published("resnet18", "IMAGENET1K_V3")
    with pytest.raises(UserError, match=r"'resnet81'.*Did you mean 'resnet18'"):
        published("resnet81", "DEFAULT")


def test_a_published_file_is_recognised_by_its_sha256() -> None:
    for name in ("IMAGENET1K_V1", "IMAGENET1K_V2"):
        known = published("resnet50", name)
        assert recognised("resnet50", known.prefix + "0" * 56) == known
        assert recognised("resnet18", known.prefix + "0" * 56) is None
    assert recognised("resnet50", "0" * 64) is None
    assert recognised("resnet50", "") is None
    assert recognised("convnet", "0" * 64) is None


def test_networks_are_found_by_their_number_of_parameters() -> None:
    assert networks_with(11_689_512) == ["resnet18"]
    assert networks_with(7) == []
