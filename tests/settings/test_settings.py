"""Settings: an error names the key and what to do, and the same overrides name the same run."""

import dataclasses
import json
from pathlib import Path

import pytest

from pipelines.settings.checks import no_effect
from pipelines.settings.competitions import COMPETITIONS
from pipelines.settings.loading import (
    describe,
    differences,
    from_dict,
    load_settings,
    merge,
    run_name,
    submission_name,
    to_dict,
    with_input,
)
from pipelines.settings.schema import PLAIN_INPUT, SECTIONS, Settings
from pipelines.settings.training_sections import AugmentSettings, FinetuneSettings, TrainSettings
from pipelines.system.errors import UserError

RECIPES = """
[train]
epochs = 3
lr = 0.5
[recipes.quick.train]
epochs = 1
[recipes.wide]
model = { widths = [9] }
"""
OPTIONS = [(section, field) for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)]


def load(tmp_path: Path, text: str, *overrides: str, recipe: str = "default") -> Settings:
    path = tmp_path / "tiny.toml"
    path.write_text(text, encoding="utf-8")
    return load_settings(str(path), recipe, overrides)


def test_an_empty_file_gives_the_defaults_and_its_own_name_as_slug(tmp_path: Path) -> None:
    settings = load(tmp_path, "")
    assert settings.train == TrainSettings()
    assert (settings.name, settings.recipe, settings.competition.slug) == ("tiny", "default", "tiny")


def test_keys_that_are_not_in_the_file_keep_their_defaults(tmp_path: Path) -> None:
    settings = load(tmp_path, 'train.epochs = 7\ncompetition.slug = "other-name"')
    assert settings.train == dataclasses.replace(TrainSettings(), epochs=7)
    assert settings.competition.slug == "other-name"


def test_a_recipe_overrides_the_file_and_an_override_the_recipe(tmp_path: Path) -> None:
    quick = load(tmp_path, RECIPES, "train.epochs=9", recipe="quick").train
    assert (quick.epochs, quick.lr) == (9, 0.5)
    assert load(tmp_path, RECIPES, recipe="quick").train.epochs == 1
    assert load(tmp_path, RECIPES, recipe="wide").model.widths == (9,)
    assert load(tmp_path, RECIPES).train.epochs == 3


def test_a_whole_number_is_accepted_as_a_number(tmp_path: Path) -> None:
    settings = load(tmp_path, "train.lr = 1\naugment.crop_scale = [1, 1]")
    assert type(settings.train.lr) is float
    assert settings.augment.crop_scale == (1.0, 1.0)
    assert all(type(value) is float for value in settings.augment.crop_scale)


def test_a_byte_order_mark_is_accepted(tmp_path: Path) -> None:
    assert load(tmp_path, "\ufefftrain.epochs = 4").train.epochs == 4


MISTAKES = {
    "[trian]\nepochs = 1": ("unknown section [trian]", "Did you mean 'train'?", "Valid: competition, data, split"),
    "train.epoch = 1": ("unknown key train.epoch", "Did you mean 'epochs'", "Valid: epochs, batch_size"),
    "train = 3": ("[train] is a section", "write [train]"),
    'name = "x"': ("name is outside all sections; write it below [model].",),
    "epochs = 3\n[model]": ("epochs is outside all sections; write it below [train].",),
    "[input]\nepochs = 3": ("unknown key input.epochs. It is a key of [train]: move it there.",),
    "train.seeds = 3": ("unknown key train.seeds.", "Did you mean 'seed'"),
    "[data]\nseed = 3": ("unknown key data.seed. It is a key of [split] and [train]: move it there.",),
    "[train]\nepochs = '5'\nlr = '0,5'\nnesterov = 'yes'\nepoch = 1": (
        "train.epochs is '5', a text; expected a whole number. Write 5.",
        "train.lr is '0,5', a text; expected a number. Write 0.5.",
        "train.nesterov is 'yes', a text; expected true or false. Write true.",
        "unknown key train.epoch.",
    ),
    "data.label_column = 1": ('data.label_column is 1; expected text in quotes. Write "1".',),
    "split.folds = 1\nmodel.widths = []": ("split.folds is 1", "model.widths is []"),
    "train = { epochs = 2, warmup_epochs = 3 }": ("train.warmup_epochs is 3", "train.epochs, 2", "lower"),
    "[recipes.quick.train]\nwarmup_epochs = 30": ("recipe 'quick'", "train.warmup_epochs is 30", "train.epochs, 10"),
    "train = { epochs = 5, schedule = 'multistep', milestones = [3, 5, 9] }": (
        "train.milestones has 5, 9;",
        "less than train.epochs, 5",
    ),
    "train = { epochs = 4, schedule = 'step', step_epochs = 4 }": ("train.step_epochs is 4", "train.epochs, 4"),
    "model.weights = 'x.pth'\ntrain = { epochs = 4, warmup_epochs = 1.5 }\nfinetune.head_epochs = 1": (
        "train.warmup_epochs is 1.5",
        "longer than finetune.head_epochs, 1",
    ),
    'titel = "x"': ("unknown section [titel]",),
    'train.epochs = "5"': ("train.epochs is '5', a text", "expected a whole number"),
    "train.epochs = 1.5": ("train.epochs is 1.5; ", "expected a whole number"),
    "train.epochs = true": ("train.epochs is true", "expected a whole number"),
    "train.lr = true": ("train.lr is true", "expected a number"),
    "train.nesterov = 1": ("train.nesterov is 1", "expected true or false"),
    "data.labels = 1": ("data.labels is 1", "expected text in quotes"),
    "train.lr = 2020-01-01": ("train.lr is", "expected a number"),
    "train.epochs = 0": ("train.epochs is 0", "at least 1"),
    "input.size = 5000": ("input.size is 5000", "0 (the size of the weights) or 4 to 2048"),
    "input.size = 3": ("input.size is 3", "4 to 2048"),
    "input.size = -1": ("input.size is -1", "at least 0"),
    "train.lr = 0": ("train.lr is 0", "more than 0"),
    "train.lr = -1": ("train.lr is -1", "more than 0"),
    "train.momentum = 1": ("train.momentum is 1", "less than 1"),
    "split.valid_ratio = 1.0": ("split.valid_ratio is 1", "less than 1"),
    "train.lr = nan": ("train.lr is nan",),
    "train.lr = inf": ("train.lr is inf", "finite"),
    "train.weight_decay = inf": ("train.weight_decay is inf", "finite"),
    "input.mean = [0, nan, 0]": ("input.mean is nan", "finite"),
    'train.optimizer = "adamW"': ("train.optimizer is 'adamW'", "Did you mean", "Valid: sgd, adam, adamw, muon"),
    "train.schedule = 1": ("train.schedule is 1", "Valid: constant, step"),
    "train.milestones = 3": ("train.milestones is 3; expected a list of whole numbers, write [3].",),
    'train.milestones = "34"': ("train.milestones is '34', a text; expected a list of whole numbers, write [34].",),
    "train.milestones = [1, 2.5]": ("train.milestones is 2.5", "expected a whole number"),
    "model.widths = [8, true]": ("model.widths is true", "expected a whole number"),
    "model.widths = []": ("model.widths is []", "one or more positive"),
    "model.widths = [8, 0]": ("model.widths is [8, 0]", "one or more positive"),
    "input.mean = [0.5]": ("input.mean has 1 numbers", "takes 3"),
    "input.std = [1, 1, 1, 1]": ("input.std has 4 numbers", "takes 3"),
    "input.std = [1, 0, 1]": ("input.std is 0.0", "more than 0"),
    "augment.crop_scale = [0.5]": ("augment.crop_scale has 1 numbers", "takes 2"),
    "augment.crop_ratio = [1, 2, 3]": ("augment.crop_ratio has 3 numbers", "takes 2"),
    "augment.crop_scale = [1.0, 0.5]": ("augment.crop_scale is [1, 0.5]", "not above the second"),
    "augment.crop_scale = [0, 1]": ("augment.crop_scale is [0, 1]", "above 0"),
    "augment.crop_ratio = [-1, 1]": ("augment.crop_ratio is [-1, 1]", "above 0"),
    "augment.crop_scale = [0.5, 1.5]": ("augment.crop_scale", "at most 1"),
    "augment = { mixup = 1, cutmix = 1 }": ("augment.mixup and augment.cutmix", "choose one"),
    "augment = { flip = true, alternating_flip = true }": ("augment.alternating_flip", "choose one"),
    "augment.sizes = [16, 24]": ("augment.sizes is [16, 24]", "input.size, 32"),
    "augment.sizes = [40, 32]": ("augment.sizes is [40, 32]", "input.size, 32"),
    "augment.sizes = [3, 32]": ("augment.sizes is 3", "at least 4"),
    "model.whitening = 6": ("model.whitening is 6", "at most 5"),
    "model.depth = [0]": ("model.depth is 0", "at least 1"),
    "model.depth = [2, 3]": ("model.depth is [2, 3]", "one for each of model.widths"),
    "model.weights = 'x.pth'\ntrain.optimizer = 'muon'": ("train.optimizer is muon", "pretrained", "adamw"),
    "split.folds = 1": ("split.folds is 1", "at least 2"),
    "train.fold = 1": ("train.fold is 1", "no folds"),
    "split.folds = 3\ntrain.fold = 3": ("train.fold is 3", "folds 0 to 2"),
    "train = { nesterov = true, momentum = 0 }": ("train.nesterov", "train.momentum"),
    "predict.shift = 32": ("predict.shift is 32", "input.size"),
    "input = { size = 32, resize = 31 }": ("input.resize is 31", "input.size, 32"),
    "input.resize = 31": ("input.resize is 31", "input.size, 32"),
    "augment.cutout = 32": ("augment.cutout is 32", "input.size"),
    "input = { size = 8, mean = [], std = [] }\npredict.shift = 8": ("predict.shift is 8", "input.size, 8"),
    "model.hidden = [8]": ("model.hidden", "model.weights"),
    'model = { weights = "x.pth", hidden = [8, 0] }': ("model.hidden is [8, 0]", "positive"),
    'model.name = "resnet18+vgg11"': ("model.name", "model.weights"),
    'model.features = "both"': ("model.features", "model.weights", "model.pretrained=false"),
    'model.features = "all"': ("model.features is 'all'", "Valid: pooled, logits, both"),
    'model.label_map = "names"': ("model.label_map is 'names'", "model.weights"),
    "finetune.frozen_stages = 1": ("finetune.frozen_stages is 1", "model.weights"),
    "finetune.frozen_stages = -1": ("finetune.frozen_stages is -1", "model.weights"),
    "finetune.frozen_stages = -2": ("finetune.frozen_stages is -2", "at least -1"),
    "finetune.freeze_norms = true": ("finetune.freeze_norms is True", "model.weights"),
    "finetune.head_epochs = 1": ("finetune.head_epochs is 1", "model.weights"),
    "finetune.backbone_lr = 0": ("finetune.backbone_lr is 0", "more than 0"),
    "model.weights = 'x.pth'\nfinetune.frozen_stages = -1\naugment.cutmix = 1": ("augment.cutmix", "features.cached"),
    "model.weights = 'x.pth'\nfinetune = { head_epochs = 1, frozen_stages = -1 }": (
        "finetune.frozen_stages is -1",
        "finetune.head_epochs",
    ),
    "model.weights = 'x.pth'\ntrain.epochs = 4\nfinetune.head_epochs = 4": (
        "finetune.head_epochs is 4",
        "less than train.epochs, 4",
    ),
    "model = { weights = 'x.pth', label_map = 'names', hidden = [8] }": ("model.label_map", "model.hidden"),
    "model = { weights = 'x.pth', label_map = 'names', features = 'logits' }": ("model.label_map", "model.features"),
    "train.epochs = ": ("not valid TOML",),
    f"train.lr = 1{'0' * 400}": ("train.lr is a number of 333 hexadecimal digits",),
    f"train.epochs = {'9' * 5000}": ("not valid TOML", "thousands of digits"),
    f"train.epochs = {'[' * 5000}{']' * 5000}": ("not valid TOML", "nested too deeply"),
    "split.seed = 9223372036854775808": ("split.seed is a number of 16 hexadecimal digits",),
    '[train]\n"a\\nb" = 1': ("unknown key train.a\\nb",),
    '["a\\nb"]\nc = 1': ("unknown section [a\\nb]",),
    'data.labels = "a\\u0000b"': ("data.labels is 'a\\x00b'", "control characters"),
    f"data.labels = '{'a' * 256}'": ("data.labels cannot be a path", "longer than 255 bytes"),
    "data.test_images = '/tmp'": ("data.test_images is '/tmp'", "inside the raw folder"),
    "data.sample_submission = 'a/../../b.csv'": ("data.sample_submission is", "inside the raw folder"),
    f"model.weights = '{'a' * 256}'": ("model.weights cannot be a path",),
    "data.class_level = 0": ("data.class_level is 0", "count from 1"),
    "data = { class_level = 2, labels = 'a.csv' }": ("data.class_level is 2", "data.labels"),
    "data.accept = ['one_clas']": ("data.accept has 'one_clas'", "Did you mean 'one_class'", "Valid: one_class, "),
    "competition.metric = 'log_loss'": ("competition.metric is log_loss", "competition.submission", "probabilities"),
    "competition.slug = '../elsewhere'": ("competition.slug is '../elsewhere'", 'Write slug = "elsewhere"'),
    '[recipes."".train]\nepochs = 1': ("recipe ''", "must not be empty"),
    '[recipes."a\\nb".train]\nepochs = 1': ("recipe 'a\\nb'", "no control characters"),
    "[recipes.-x.train]\nepochs = 1": ("recipe '-x'", "no dot or hyphen first"),
    f"[recipes.{'a' * 250}.train]\nepochs = 1": ("recipe 'aaa", "overlong"),
    "recipes = 1": ("recipes must be tables",),
    "[recipes]\nquick = 1": ("recipes must be tables",),
    "[recipes.default.train]\nepochs = 1": ("recipe 'default'", "rename"),
    "[recipes.quick.split]\nseed = 1": ("recipe 'quick'", "[split] is the same for all recipes"),
    "[recipes.quick.competition]\ntitle = 'x'": ("recipe 'quick'", "[competition] is the same for all recipes"),
    "[recipes.quick.train]\nepoch = 1": ("recipe 'quick'", "unknown key train.epoch"),
    "[recipes.quick.augment]\ncutout = 32": ("recipe 'quick'", "augment.cutout is 32"),
    "[recipes.quick.model]\nhidden = [8]": ("recipe 'quick'", "model.hidden"),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_an_error_names_the_file_and_the_key(tmp_path: Path, text: str) -> None:
    with pytest.raises(UserError) as error:
        load(tmp_path, text)
    for words in ("tiny.toml", *MISTAKES[text]):
        assert words in str(error.value)


SENSIBLE: dict[str, dict[str, dict[str, object]]] = {
    "several networks": {"model": {"name": "resnet18+vgg11", "weights": "IMAGENET1K_V1", "features": "both"}},
    "from scratch": {"model": {"name": "resnet18+vgg11", "weights": "DEFAULT", "pretrained": False, "hidden": [8]}},
    "the head alone": {"model": {"weights": "x.pth", "label_map": "names"}, "finetune": {"frozen_stages": -1}},
    "the head first": {
        "model": {"weights": "x.pth"},
        "train": {"epochs": 4},
        "finetune": {"head_epochs": 3, "frozen_stages": 2, "freeze_norms": True},
    },
}


@pytest.mark.parametrize("name", SENSIBLE)
def test_valid_settings_of_pretrained_networks_are_accepted(name: str) -> None:
    changed = merge(Settings("x"), SENSIBLE[name], "here")
    assert differences(changed, Settings("x"), list(SECTIONS))


def test_a_network_without_weights_gets_plain_input(tmp_path: Path) -> None:
    image = load(tmp_path, "").input
    assert (image.size, image.mean, image.std) == (32, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    image = load(tmp_path, "input = { size = 64, std = [1, 1, 1] }").input
    assert (image.size, image.mean, image.std) == (64, (0.5, 0.5, 0.5), (1, 1, 1))


def test_input_stays_unset_until_the_pretrained_weights_are_known(tmp_path: Path) -> None:
    image = load(tmp_path, "input.size = 64", "model.weights=IMAGENET1K_V1").input
    assert (image.size, image.mean, image.std) == (64, (), ())


def test_unset_values_of_the_input_are_filled_in_and_others_stay() -> None:
    chosen = merge(Settings("x"), {"input": {"mean": [0, 0, 0]}}, "here")
    filled = with_input(chosen, size=48, mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), resize=0)
    assert dataclasses.replace(filled, input=chosen.input) == chosen
    assert (filled.input.size, filled.input.resize) == (48, 0)
    assert (filled.input.mean, filled.input.std) == ((0.0, 0.0, 0.0), (0.4, 0.5, 0.6))
    assert with_input(filled, **PLAIN_INPUT) == filled


@pytest.mark.parametrize(
    ("section", "key", "value"), [("augment", "cutout", 40), ("predict", "shift", 40), ("input", "resize", 20)]
)
def test_a_contradiction_with_the_filled_in_size_is_named(section: str, key: str, value: int) -> None:
    chosen = merge(Settings("x"), {"model": {"weights": "x.pth"}, section: {key: value}}, "here")
    with pytest.raises(UserError, match=rf"{section}\.{key} is {value}.*input\.size"):
        with_input(chosen, size=32)


def test_a_file_that_is_not_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "tiny.toml").write_bytes(b"title = '\xff'")
    with pytest.raises(UserError, match=r"tiny\.toml is not valid TOML"):
        load_settings(str(tmp_path / "tiny.toml"))


def test_an_unknown_recipe_lists_the_known_ones(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no recipe 'quik'.*Did you mean 'quick'.*default, quick, wide"):
        load(tmp_path, RECIPES, recipe="quik")


def test_an_unknown_competition_lists_the_known_ones(tmp_path: Path) -> None:
    (tmp_path / "flowers.toml").write_text("")
    (tmp_path / "birds.toml").write_text("")
    with pytest.raises(UserError, match=r"no competition 'flower'.*Did you mean 'flowers'.*birds, flowers"):
        load_settings("flower", folder=tmp_path)
    with pytest.raises(UserError, match=r"no file .*absent\.toml"):
        load_settings(str(tmp_path / "absent.toml"))
    assert load_settings("birds", folder=tmp_path).name == "birds"


@pytest.mark.parametrize("override", ["train.epochs", "epochs=5", "=5", "train=5"])
def test_a_malformed_override_shows_the_right_form(tmp_path: Path, override: str) -> None:
    with pytest.raises(UserError, match=r"SET: .* is not of the form section\.key=value"):
        load(tmp_path, "", override)


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("trian.epochs=5", r"SET: unknown section \[trian\]"),
        ("train.epoch=5", r"SET: unknown key train\.epoch"),
        ("train.epochs=five", "SET: train.epochs is 'five', a text; expected a whole number"),
        ("train.epochs=", "SET: train.epochs is ''"),
        ("train.epochs=0", "SET: train.epochs is 0; it must be at least 1"),
    ],
)
def test_an_error_in_an_override_names_it(tmp_path: Path, override: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        load(tmp_path, "", override)


def test_override_values_are_toml_or_text(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        "",
        "train.lr=1e-3",
        "augment.flip=true",
        "model.widths=[4, 5]",
        "hardware.device=cuda:1",
        "data.labels=a=b.csv",
    )
    assert (settings.train.lr, settings.augment.flip, settings.model.widths) == (1e-3, True, (4, 5))
    assert (settings.hardware.device, settings.data.labels) == ("cuda:1", "a=b.csv")


WARMED_UP = "train = { epochs = 4, warmup_epochs = 2, schedule = 'linear' }"


def test_an_override_that_has_no_effect_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"SET: train\.warmup_epochs is 9, longer than train\.epochs, 4"):
        load(tmp_path, WARMED_UP, "train.warmup_epochs=9")
    assert load(tmp_path, WARMED_UP, "train.warmup_epochs=0", "train.epochs=1").train.epochs == 1


def test_a_quick_trial_of_fewer_epochs_than_the_warm_up_is_possible_and_noted(tmp_path: Path) -> None:
    settings = load(tmp_path, WARMED_UP, "train.epochs=1")
    ((key, problem),) = no_effect(settings)
    assert key == "train.warmup_epochs" and "longer than train.epochs, 1" in problem
    assert not list(no_effect(load(tmp_path, WARMED_UP)))


def test_overrides_are_checked_together_not_one_by_one(tmp_path: Path) -> None:
    assert load(tmp_path, "", "train.fold=2", "split.folds=3").train.fold == 2


@pytest.mark.parametrize(("section", "field"), OPTIONS, ids=[f"{s}.{f.name}" for s, f in OPTIONS])
def test_every_setting_is_documented_and_has_a_valid_default(section: str, field: "dataclasses.Field[object]") -> None:
    assert len(field.metadata["help"]) > 5
    lines = describe().splitlines()
    beginning, documented = lines.index(next(line for line in lines if line.startswith(f"[{section}]"))), False
    for line in lines[beginning + 1 :]:
        if line.startswith("["):
            break
        documented |= (
            line.startswith(f"  {field.name} = {json.dumps(field.default)}") and field.metadata["help"] in line
        )
    assert documented
    value = json.loads(json.dumps(field.default))
    assert merge(Settings("x"), {section: {field.name: value}}, "here") == Settings("x")


def test_each_bundled_competition_loads_with_all_its_recipes() -> None:
    paths = sorted(COMPETITIONS.glob("*.toml"))
    assert len(paths) >= 3
    for path in paths:
        load_settings(path.stem)  # checks every recipe


def test_settings_are_the_same_after_json(tmp_path: Path) -> None:
    settings = load(tmp_path, RECIPES, "model.widths=[4, 5]", "train.milestones=[]", recipe="quick")
    assert from_dict(json.loads(json.dumps(to_dict(settings))), "here") == settings


def test_settings_of_another_version_name_their_origin() -> None:
    values = to_dict(Settings("x")) | {"train": {"colour": 1}}
    with pytest.raises(UserError, match=r"run\.json: unknown key train\.colour"):
        from_dict(values, "run.json")


def test_differences_name_key_and_both_values() -> None:
    ours = dataclasses.replace(Settings("x"), train=TrainSettings(lr=1.0), augment=AugmentSettings(flip=True))
    assert differences(ours, Settings("x"), ["train", "model"]) == ["train.lr: 1.0 now, 0.1 then"]
    assert differences(ours, ours, list(SECTIONS)) == []


def test_a_run_is_named_by_its_recipe_and_a_hash_of_training_overrides() -> None:
    assert run_name("quick", []) == run_name("quick", ["train.tensorboard=true"]) == "quick"
    name = run_name("quick", ["train.epochs=5", "model.dropout=0.5", "train.lr=0.1"])
    assert name.startswith("quick-")
    assert name == run_name("quick", ["train.lr=1e-1", "model.dropout = 0.50", "train.epochs=5"])
    assert name != run_name("quick", ["train.epochs=6", "model.dropout=0.5", "train.lr=0.1"])
    assert name != run_name("quick", ["train.epochs=5", "model.dropout=0.5"])
    assert run_name("default", ["train.epochs=5"]) == "default-14fd10"  # another hash would lose existing runs


def test_prediction_and_hardware_overrides_do_not_name_the_run() -> None:
    overrides = ["predict.mirror=true", "hardware.workers=4", "train.epochs=5"]
    run = run_name("quick", overrides)
    assert run == run_name("quick", ["train.epochs=5"])
    assert submission_name(run, ["train.epochs=5", "hardware.workers=4"]) == run
    assert submission_name(run, overrides) == submission_name(run, ["predict.mirror=true"]) != run


def test_a_run_has_a_name_for_any_value() -> None:
    assert run_name("x", ["train.lr=2020-01-01"]).startswith("x-")  # loading the settings reports the wrong type


def test_finetune_settings_are_ignored_for_random_weights(tmp_path: Path) -> None:
    text = 'model.weights = "x.pth"\nfinetune = { head_epochs = 1, freeze_norms = true }'
    assert load(tmp_path, text).tuning.head_epochs == 1
    assert load(tmp_path, f"{text}\nmodel.pretrained = false").tuning == FinetuneSettings()


@pytest.mark.parametrize("name", ["a" * 300, "a\0b", "a/" * 3000, "a" * 300 + ".toml", "a\nb.toml"])
def test_a_name_that_cannot_be_a_path_is_an_unknown_competition(name: str) -> None:
    with pytest.raises(UserError, match="cannot be a competition or a file") as error:
        load_settings(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("value", ["9" * 5000, "[" * 5000 + "]" * 5000, "1" + "0" * 400])
def test_an_override_too_large_for_toml_is_named(tmp_path: Path, value: str) -> None:
    with pytest.raises(UserError, match=r"SET: train\.epochs"):
        load(tmp_path, "", f"train.epochs={value}")


@pytest.mark.parametrize("text", ["[{name}]", "{name} = 1", "[train]\n{name} = 1"])
def test_a_very_long_name_is_shortened(text: str, tmp_path: Path) -> None:
    (tmp_path / "x.toml").write_text(text.format(name="9" * 20_000))
    with pytest.raises(UserError, match="unknown") as error:
        load_settings(str(tmp_path / "x.toml"))
    assert len(str(error.value)) < 2_000 + len(str(tmp_path)) and "999…999" in str(error.value)
