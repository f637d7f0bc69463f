"""A run keeps the settings and split that it was started with, even if the TOML or the split changes later."""

import dataclasses
from pathlib import Path

import pytest

from pipelines.settings.layout import Layout
from pipelines.settings.loading import merge
from pipelines.settings.records import (
    finished_run,
    in_todays_words,
    measured_choices,
    read_record,
    start_run,
    with_head_of,
)
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import read_json, write_json, write_text
from pipelines.system.seeds import derive_seed

SETTINGS = merge(Settings("tiny"), {"train": {"epochs": 3}}, "here")


def command_of(stage: str, **more: str) -> str:
    return " ".join([f"make {stage} COMP=tiny", *(f"{name}={value}" for name, value in more.items())])


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    layout = Layout(tmp_path, "tiny")
    write_text(layout.split_csv, "id,path,label,split,fold\n1,1.png,a,train,-1\n")
    return layout


def start(layout: Layout, settings: Settings = SETTINGS, trained_epochs: int = 0) -> None:
    """Start the run; with trained_epochs, also create the checkpoint of a run in progress."""
    run = layout.run("quick")
    start_run(run, settings, layout.split_csv)
    if trained_epochs:
        run.last.touch()


def changed(section: str, /, **values: object) -> Settings:
    return merge(SETTINGS, {section: values}, "here")


def test_a_record_keeps_the_settings(layout: Layout) -> None:
    start(layout)
    assert read_record(layout.run("quick")).settings == SETTINGS


def test_a_run_without_a_finished_epoch_starts_from_the_beginning(layout: Layout) -> None:
    start(layout)
    start(layout, changed("train", epochs=9))
    assert read_record(layout.run("quick")).settings.train.epochs == 9


def test_another_run_takes_what_a_run_has_measured_but_not_against_the_command(layout: Layout) -> None:
    run = layout.run("quick")
    assert measured_choices(run, {}) == []
    start(layout)
    write_json(run.precision, {"device": "a processor", "precision": "bfloat16", "side_by_side": 7})
    assert measured_choices(run, {}) == ["hardware.precision=bfloat16", "hardware.side_by_side=7"]
    assert measured_choices(run, {"hardware": {"side_by_side": 0}}) == ["hardware.precision=bfloat16"]


def test_a_run_that_starts_from_the_beginning_forgets_its_measured_precision(layout: Layout) -> None:
    run = layout.run("quick")
    start(layout)
    run.precision.write_text("{}")
    start(layout)
    assert not run.precision.exists()
    run.precision.write_text("{}")
    run.last.touch()
    start(layout)
    assert run.precision.exists()


def test_files_of_an_earlier_run_of_the_same_name_are_removed(layout: Layout) -> None:
    run = layout.run("quick")
    start(layout, trained_epochs=1)
    stale = (run.valid_predictions, run.retrained, run.retrain_last)
    for path in stale:
        path.touch()
    start(layout)
    assert all(path.exists() for path in stale)
    run.last.unlink()
    start(layout, changed("train", epochs=9))
    assert not any(path.exists() for path in stale)


def test_a_run_in_progress_continues_only_with_its_own_settings(layout: Layout) -> None:
    start(layout, trained_epochs=1)
    start(layout)
    with pytest.raises(UserError, match=r"runs/tiny/quick .*other settings \(train\.epochs: 9 now, 3 then\).*RUN="):
        start(layout, changed("train", epochs=9))
    assert read_record(layout.run("quick")).settings == SETTINGS


@pytest.mark.parametrize(
    ("section", "key", "value"), [("features", "crops", 3), ("finetune", "backbone_lr", 0.1), ("model", "dropout", 0.5)]
)
def test_fine_tuning_settings_are_part_of_the_run(layout: Layout, section: str, key: str, value: object) -> None:
    start(layout, trained_epochs=1)
    with pytest.raises(UserError, match=rf"{section}\.{key}: {value} now"):
        start(layout, changed(section, **{key: value}))


@pytest.mark.parametrize("section", [{"hardware": {"workers": 7}}, {"predict": {"mirror": True}}])
def test_hardware_and_prediction_settings_may_change_during_a_run(
    layout: Layout, section: dict[str, dict[str, object]]
) -> None:
    start(layout, trained_epochs=1)
    start(layout, merge(SETTINGS, section, "here"))


def test_a_run_in_progress_continues_only_with_its_own_split(layout: Layout) -> None:
    start(layout, trained_epochs=1)
    write_text(layout.split_csv, "id,path,label,split,fold\n1,1.png,a,valid,-1\n")
    with pytest.raises(UserError, match=r"runs/tiny/quick was trained on another split"):
        start(layout)


def test_a_finished_run_has_its_own_settings_and_the_current_prediction_and_hardware(layout: Layout) -> None:
    start(layout)
    write_json(layout.run("quick").trained, {"best_epoch": 2})
    today = merge(changed("train", epochs=9), {"predict": {"shift": 3}, "hardware": {"workers": 7}}, "here")
    _, record, trained = finished_run(layout, "quick", today, command_of)
    assert trained == {"best_epoch": 2}
    assert (record.settings.train.epochs, record.settings.predict.shift, record.settings.hardware.workers) == (3, 3, 7)


def test_a_finished_run_of_another_split_is_refused(layout: Layout) -> None:
    start(layout)
    write_json(layout.run("quick").trained, {"best_epoch": 2})
    write_text(layout.split_csv, "id,path,label,split,fold\n1,1.png,a,valid,-1\n")
    with pytest.raises(UserError, match="another split"):
        finished_run(layout, "quick", SETTINGS, command_of)
    layout.split_csv.unlink()
    with pytest.raises(UserError, match="is missing; runs/tiny/quick was trained on it"):
        finished_run(layout, "quick", SETTINGS, command_of)


def test_a_finished_run_of_another_recipe_is_refused(layout: Layout) -> None:
    start(layout)
    write_json(layout.run("quick").trained, {"best_epoch": 2})
    with pytest.raises(UserError, match=f"add RECIPE={SETTINGS.recipe}"):
        finished_run(layout, "quick", dataclasses.replace(SETTINGS, recipe="other"), command_of)


def test_a_finished_run_keeps_its_settings_even_without_its_last_checkpoint(layout: Layout) -> None:
    start(layout)
    write_json(layout.run("quick").trained, {"best_epoch": 2})
    with pytest.raises(UserError, match=r"train\.epochs: 9 now, 3 then"):
        start_run(layout.run("quick"), changed("train", epochs=9), layout.split_csv)


def test_a_new_title_is_no_difference_but_a_new_metric_is(layout: Layout) -> None:
    start(layout, trained_epochs=1)
    start_run(layout.run("quick"), changed("competition", title="New"), layout.split_csv)
    with pytest.raises(UserError, match=r"competition\.metric: 'f1_macro' now, 'accuracy' then"):
        start_run(layout.run("quick"), changed("competition", metric="f1_macro"), layout.split_csv)


@pytest.mark.parametrize(
    ("base", "key", "value", "depends"),
    [
        ({"metric": "auc", "submission": "probability", "positive": "a"}, "positive", "b", True),
        ({"metric": "fbeta_macro"}, "beta", 2.0, True),
        ({"metric": "map_at_k", "submission": "best_labels"}, "guesses", 3, True),
        ({"metric": "quadratic_kappa"}, "grades", (0, 1, 2), True),
        ({"metric": "rmse", "task": "numbers", "submission": "numbers"}, "decimals", 2, False),
        ({"metric": "map_at_k", "submission": "best_labels"}, "answer_separator", ";", False),
    ],
)
def test_a_run_depends_on_what_its_score_means(
    layout: Layout, base: dict[str, object], key: str, value: object, depends: bool
) -> None:
    then, now = changed("competition", **base), changed("competition", **(base | {key: value}))
    run = layout.run("quick")
    start(layout, then, trained_epochs=1)
    if depends:
        with pytest.raises(UserError, match=rf"competition\.{key}: .* now"):
            start_run(run, now, layout.split_csv)
        with pytest.raises(UserError, match=rf"competition\.{key}: .* now, .* then\)\. Undo these changes, or train"):
            in_todays_words(run, then, now)
        return
    start_run(run, now, layout.split_csv)
    assert in_todays_words(run, then, now) == now


def test_a_resumed_training_scores_as_it_began(layout: Layout) -> None:
    several = {"task": "several_labels", "metric": "fbeta_micro", "submission": "label_lists"}
    then = changed("competition", **several)
    start(layout, then, trained_epochs=1)
    now = merge(then, {"predict": {"thresholds": "per_label"}}, "here")
    assert start_run(layout.run("quick"), now, layout.split_csv).predict.thresholds == "one"


def test_a_missing_or_unfinished_run_names_the_training_command(layout: Layout) -> None:
    with pytest.raises(UserError, match=r"runs/tiny/quick does not exist\. First: make train COMP=tiny"):
        finished_run(layout, "quick", SETTINGS, command_of)
    start(layout)
    with pytest.raises(UserError, match=r"has not finished training\. First: make train COMP=tiny"):
        finished_run(layout, "quick", SETTINGS, command_of)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"settings": {}, "split_sha256": "x"}', '{"settings": 1}'])
def test_a_damaged_record_is_named(layout: Layout, content: str) -> None:
    run = layout.run("quick")
    write_text(run.record, content)
    with pytest.raises(UserError, match=r"run\.json cannot be read .*rm -r .*/runs/tiny/quick"):
        read_record(run)


def test_a_record_with_an_unknown_setting_names_the_key(layout: Layout) -> None:
    start(layout)
    run = layout.run("quick")
    content = read_json(run.record)
    content["settings"]["train"]["speed"] = 1
    write_json(run.record, content)
    with pytest.raises(UserError, match=r"run\.json: unknown key train\.speed"):
        read_record(run)


def test_seeds_are_stable_and_different() -> None:
    seeds = [derive_seed(seed, use, epoch) for seed in range(5) for use in ("order", "crop") for epoch in range(5)]
    assert len(set(seeds)) == 50
    assert all(0 <= seed < 2**63 for seed in seeds)
    assert derive_seed(1, 23) != derive_seed(12, 3)
    assert derive_seed(0, "weights") == 133441691874178746  # another number would change every published score


@pytest.mark.parametrize(
    ("asked", "chosen", "refused"), [(True, True, False), (True, False, False), (False, True, True)]
)
def test_a_searched_run_with_mirror_images_is_none_without(
    layout: Layout, asked: bool, chosen: bool, refused: bool
) -> None:
    run = layout.run("quick")
    found = merge(changed("train", weight_decay=0.3), {"features": {"mirror": chosen}}, "here")
    start(layout, found, trained_epochs=1)
    run.search.touch()
    searching = dataclasses.replace(SETTINGS.train, search=True)
    settings = dataclasses.replace(merge(SETTINGS, {"features": {"mirror": asked}}, "here"), train=searching)
    if refused:
        with pytest.raises(UserError, match=r"features\.mirror"):
            start_run(run, with_head_of(run, settings), layout.split_csv)
    else:
        assert start_run(run, with_head_of(run, settings), layout.split_csv) == found


def test_what_a_run_does_not_depend_on_may_change(layout: Layout) -> None:
    start(layout, trained_epochs=1)
    shown = changed("train", tensorboard=True)
    start(layout, shown)
    run = layout.run("quick")
    run.trained.write_text("{}")
    assert finished_run(layout, "quick", shown, command_of)[1].settings == shown
    assert finished_run(layout, "quick", SETTINGS, command_of)[1].settings == SETTINGS


def test_a_new_run_has_no_events_of_an_older_one(layout: Layout) -> None:
    (layout.run("quick").events / "train").mkdir(parents=True)
    start(layout)
    assert not layout.run("quick").events.exists()
