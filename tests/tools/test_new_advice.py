"""What `make new` refuses or doubts names settings that work when they are written as the message says."""

import re
from pathlib import Path

from pipelines.dataset.splits import read_split_csv
from pipelines.settings.layout import Layout as Places
from tests.support import layouts
from tests.support.stages import run_stage_here


def test_a_probability_of_several_folders_gets_the_settings_that_work(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    layouts.steganograms().write(tmp_path / "folder")
    assert run_stage_here("tools.new", ["x", "--archive", str(tmp_path / "folder"), "--metric=AUC"], tmp_path) == 2
    advised = capsys.readouterr().err.partition("other class:\n")[2]
    more = 'test_images = "Test"\nsample_submission = "sample_submission.csv"\n'
    (tmp_path / "x.toml").write_text(advised.rstrip() + "\n" + more)
    for stage in ("download", "split"):
        words = ["x.toml", *(["--archive", str(tmp_path / "folder")] if stage == "download" else [])]
        assert run_stage_here(stage, words, tmp_path) == 0, capsys.readouterr().err
    rows = read_split_csv(Places(tmp_path, "x").split_csv)
    assert rows["label"].value_counts().to_dict() == {"1": 16, "0": 8, "": 8}
    sides = rows[rows["split"] != "test"].groupby(rows["path"].str[-9:])["split"].nunique()
    assert set(sides) == {1}  # the variants of an image are on one side


def test_columns_of_another_name_in_the_sample_get_a_table_that_works(tmp_path: Path, capsys) -> None:  # type: ignore[no-untyped-def]
    layouts.traits().write(tmp_path / "folder")
    words = ["x", "--archive", str(tmp_path / "folder"), "--metric=R2 Score"]
    assert run_stage_here("tools.new", words, tmp_path) == 2
    rows = re.search(r"a row per number \((.*)\)", capsys.readouterr().err)
    assert rows is not None
    (tmp_path / "answers.csv").write_text("label,answer\n" + rows[1].replace("; ", "\n") + "\n")
    toml = tmp_path / "x.toml"
    toml.write_text(toml.read_text().replace("[data]\n", '[data]\nsubmitted_labels = "answers.csv"\n'))
    assert run_stage_here("split", ["x.toml"], tmp_path) == 0, capsys.readouterr().err
