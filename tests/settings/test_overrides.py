"""The text of SET= is split into settings as its author means it, or refused with the word that does not fit."""

import pytest

from pipelines.settings.loading import parse_overrides
from pipelines.settings.overrides import setting, split_settings
from pipelines.system.errors import UserError

MEANT: dict[str, list[str]] = {
    "": [],
    "train.epochs=5 train.lr=1e-3": ["train.epochs=5", "train.lr=1e-3"],
    "train.epochs = 5\ntrain.lr =.5": ["train.epochs=5", "train.lr=.5"],
    'kaggle.dataset_sources=["you/a", "you/b"]': ['kaggle.dataset_sources=["you/a", "you/b"]'],
    "train.epochs=1 input.mean=[0.5, 0.5, 0.5]": ["train.epochs=1", "input.mean=[0.5, 0.5, 0.5]"],
    "competition.title=A title with spaces": ["competition.title=A title with spaces"],
    "competition.title=it's 5$ train.lr=1": ["competition.title=it's 5$", "train.lr=1"],
    'competition.title="a lr=3 x.y=4" train.lr=1': ['competition.title="a lr=3 x.y=4"', "train.lr=1"],
    "competition.title= 'a.b=c' train.lr=1": ["competition.title='a.b=c'", "train.lr=1"],
    "'kaggle.dataset_sources=[\"you/a\"]' train.lr=1": ['kaggle.dataset_sources=["you/a"]', "train.lr=1"],
    "train.lr=1 'train.epochs=5 train.seed=1'": ["train.lr=1", "train.epochs=5", "train.seed=1"],
    "kaggle.accelerator= train.epochs=1": ["kaggle.accelerator=", "train.epochs=1"],
    "model.weights=my weights/x y.pth data.labels=a=b.csv": [
        "model.weights=my weights/x y.pth",
        "data.labels=a=b.csv",
    ],
    "train.lr=1e-3, 3e-4 model.hidden=[],[256, 128]": ["train.lr=1e-3, 3e-4", "model.hidden=[],[256, 128]"],  # TRY=
    "augment.crop_scale=[0.5, train.lr=1": ["augment.crop_scale=[0.5,", "train.lr=1"],  # refused by its type
}


@pytest.mark.parametrize("text", MEANT)
def test_settings_are_split_as_they_are_meant_and_stay_so(text: str) -> None:
    assert split_settings(text) == MEANT[text]
    assert split_settings(" ".join(MEANT[text])) == MEANT[text]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("train.epochs 5", ("'train.epochs' is not of the form section.key=value", "mean 'train.epochs=5'?")),
        ("train.epochs:5", ("'train.epochs:5'", "mean 'train.epochs=5'?")),
        ("epochs=5", ("'epochs=5'", "mean 'train.epochs=5'?")),
        ("size=64", ("'size=64'", "mean 'input.size=64'?")),
        ("seed=1", ("'seed=1'", "'split.seed=1' or 'train.seed=1'")),
        ("train.epochs=5 lr=1e-3", ("'lr=1e-3'", "mean 'train.lr=1e-3'?")),
        ("train.epochs=1 train.lr 5", ("'train.lr'", "mean 'train.lr=5'?")),
        ("model.name=resnet18 train.epochs 5", ("'train.epochs'", 'model.name="…"')),
        ("competition.title=A E=mc2", ("'E=mc2'", 'put that in quotes: competition.title="…"')),
        ("train.epochs=5, train.lr=1", ("remove the ',' after 'train.epochs=5'",)),
        ("five", ("'five' is not of the form", "SET='train.epochs=5 input.mean=[0.5, 0.5, 0.5]'")),
    ],
)
def test_a_word_that_belongs_to_no_setting_is_named_with_what_is_meant(text: str, words: tuple[str, ...]) -> None:
    with pytest.raises(UserError) as error:
        split_settings(text)
    for each in ("SET: ", *words):
        assert each in str(error.value)


def test_the_type_of_a_setting_decides_what_a_bare_word_is() -> None:
    texts = ["data.id_column=0", "competition.title=2024", 'data.labels="a b.csv"', "kaggle.accelerator="]
    lists = ["kaggle.dataset_sources=[you/a, you/b]", "kaggle.model_sources=you/a"]
    parsed = parse_overrides([*texts, *lists])
    assert parsed["data"] == {"id_column": "0", "labels": "a b.csv"}
    assert parsed["competition"] == {"title": "2024"}
    assert parsed["kaggle"] == {"accelerator": "", "dataset_sources": ["you/a", "you/b"], "model_sources": "you/a"}


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("train.nesterov", True),
        ("train.lr", 1e-05),
        ("model.hidden", [256, 128]),
        ("model.weights", "weights/a b=c.pth"),
        ("model.weights", "weights/größe-1.pth"),
        ("competition.title", 'a "quoted" train.lr=1 title'),
        ("model.label_map", ""),
    ],
)
def test_a_setting_is_written_so_that_it_is_read_back(key: str, value: object) -> None:
    section, _, name = key.partition(".")
    assert parse_overrides([setting(key, value), "train.seed=1"])[section][name] == value
