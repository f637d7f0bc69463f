"""Names of competitions, datasets and models, taken from the addresses that people copy."""

from pathlib import Path

import pytest

from pipelines.kaggle.kernel_bundle import make_metadata
from pipelines.settings.addresses import competition_name, dataset_name, model_name
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError


@pytest.mark.parametrize(
    "text",
    [
        "https://www.kaggle.com/competitions/cifar-10/overview",
        "https://www.kaggle.com/c/cifar-10",
        "kaggle.com/competitions/cifar-10/data?select=train.7z",
        "cifar-10/",
        " cifar-10 ",
    ],
)
def test_the_name_of_a_competition(text: str) -> None:
    assert competition_name(text) == "cifar-10"


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("you/weights", "you/weights"),
        ("https://www.kaggle.com/datasets/you/weights", "you/weights"),
        ("kaggle.com/datasets/you/weights/data?select=a.pth", "you/weights"),
        ("https://www.kaggle.com/you/weights", "you/weights"),
        ("https://www.kaggle.com/competitions/cifar-10", ""),
        ("https://www.kaggle.com/code/you/notebook", ""),
        ("weights", ""),
        ("you/weights/versions/3", ""),
        ("https://example.com/you/weights", ""),
    ],
)
def test_the_name_of_a_dataset(text: str, name: str) -> None:
    assert dataset_name(text) == name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("google/net/pyTorch/b0/1", "google/net/pyTorch/b0/1"),
        ("https://www.kaggle.com/models/google/net/pyTorch/b0/1", "google/net/pyTorch/b0/1"),
        ("kaggle.com/models/google/net/frameworks/pyTorch/variations/b0/versions/1", "google/net/pyTorch/b0/1"),
        ("https://www.kaggle.com/models/google/net", ""),
        ("google/net/pyTorch/b0", ""),
    ],
)
def test_the_name_of_a_model(text: str, name: str) -> None:
    assert model_name(text) == name


def test_addresses_in_the_settings_reach_kaggle_as_names(tmp_path: Path) -> None:
    toml = tmp_path / "cats.toml"
    toml.write_text("""
[kaggle]
dataset_sources = ["https://www.kaggle.com/datasets/you/weights?select=a.pth"]
model_sources = ["https://www.kaggle.com/models/google/net/pyTorch/b0/1"]
""")
    metadata = make_metadata("you", "cats-default", load_settings(str(toml)))
    assert metadata["dataset_sources"] == ["you/weights"]
    assert metadata["model_sources"] == ["google/net/pyTorch/b0/1"]


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ('kaggle.dataset_sources=["w","you/w","kaggle.com/c/x"]', "'w', 'kaggle.com/c/x'; each must be owner/name"),
        ('kaggle.model_sources=["a/b"]', "'a/b'; each must be owner/model/framework/variation/version"),
        ("competition.slug=https://www.kaggle.com/c/cifar-10/data", 'Write slug = "cifar-10".'),
    ],
)
def test_other_forms_are_refused_with_the_right_one(tmp_path: Path, override: str, words: str) -> None:
    (tmp_path / "cats.toml").write_text("")
    with pytest.raises(UserError) as caught:
        load_settings(str(tmp_path / "cats.toml"), overrides=[override])
    assert words in str(caught.value)
