"""What split says it understood, and its notes on data that is rarely meant so."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from PIL import Image

from pipelines.dataset import understood
from pipelines.dataset.answer_forms import sample_form
from pipelines.dataset.understood import summarise
from pipelines.dataset.vocabulary import counted
from pipelines.settings.loading import merge
from pipelines.settings.schema import Settings
from tests.support.raw_files import write


def settings_of(form: str, **data: object) -> Settings:
    return merge(Settings("x"), {"competition": {"submission": form}, "data": data}, "here")


def image(path: Path, mode: str, width: int, value: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.full((8, width, 3) if mode == "RGB" else (8, width), value, np.uint16 if mode == "I;16" else np.uint8)
    Image.fromarray(values).save(path)


def test_a_table_is_described(tmp_path: Path) -> None:
    image(tmp_path / "train/1.png", "RGB", 8, 10)
    image(tmp_path / "train/2.jpg", "L", 16, 200)
    image(tmp_path / "train/3.png", "I;16", 16, 4095)
    write(tmp_path / "train/4.png", "no image")
    write(tmp_path / "labels.csv", "id,note,breed\n1,,cat\n2,,dog\n3,,dog\n4,,cat\n")
    write(tmp_path / "sample.csv", "id,cat,dog\n9,0.5,0.5\n")
    paths = ["train/1.png", "train/2.jpg", "train/3.png", "train/4.png"]
    labelled = pd.DataFrame({"id": list("1234"), "path": paths, "label": ["cat", "dog", "dog", "cat"]})
    test = pd.DataFrame({"id": ["9"], "path": ["test/9.png"]})
    image(tmp_path / "test/9.png", "RGB", 8, 50)
    settings = settings_of("probabilities", labels="labels.csv", label_column="breed", sample_submission="sample.csv")
    columns = {
        "labels": "column 'breed' of labels.csv",
        "ids": "column 'id' of labels.csv",
        "tests": "a",
        "test ids": "b",
    }
    assert understood.describe(settings, tmp_path, labelled, test, columns, ["cat", "dog"]) == [
        ("target", "one of 2 classes; sent: a probability for each class; scored by accuracy, higher is better"),
        ("labels", "column 'breed' of labels.csv (to choose others: data.id_column)"),
        ("classes", "2: cat (2), dog (2)"),
        ("ids", "column 'id' of labels.csv: '1' is train/1.png"),
        (
            "images",
            "PNG (3), JPEG (1); 8 x 8 to 16 x 8 pixels; 8-bit RGB (2), 8-bit grey (1), 16-bit grey (1); "
            "values 10 to 4,095, white is 4,095 (5 of 5 looked at; 1 cannot be read)",
        ),
        ("tests", "a"),
        ("test ids", "b: '9' is test/9.png"),
        ("sample", "a probability for each of 2 classes and 1 ids"),
    ]


def test_different_whites_are_said_with_the_setting(tmp_path: Path) -> None:
    image(tmp_path / "train/1.png", "I;16", 8, 4000)
    image(tmp_path / "train/2.png", "I;16", 8, 900)
    labelled = pd.DataFrame({"id": ["1", "2"], "path": ["train/1.png", "train/2.png"], "label": ["a", "b"]})
    for white, words in (
        (0, "white is 4,095 (1), 1,023 (1) by each image's own values (data.white"),
        (4095, "4,095 ("),
    ):
        lines = understood.describe(settings_of("labels", white=white), tmp_path, labelled, labelled.head(0), {})
        assert words in dict(lines)["images"]


def test_class_folders_without_tests_are_described(tmp_path: Path) -> None:
    labelled = pd.DataFrame({"id": ["a/1.png"], "path": ["train/a/1.png"], "label": ["a"]})
    for level, words in (
        (1, "the folders in train"),
        (2, "the folders in train, on level 2"),
        (-1, "the folder of each image in train"),
    ):
        lines = understood.describe(settings_of("labels", class_level=level), tmp_path, labelled, labelled.head(0), {})
        assert [subject for subject, _ in lines] == ["target", "labels", "classes", "ids", "images"]
        assert lines[1][1] == words


NUMBERS: dict[str, object] = {"task": "numbers", "submission": "numbers", "metric": "rmse"}
TASKS: list[tuple[dict[str, object], list[str], list[str], list[str], dict[str, str]]] = [
    (
        NUMBERS,
        ["1", "100", ""],
        ["Pawpularity"],
        ["Id,Pawpularity", "9,99.24", "8,5.11"],
        {
            "target": "one number, Pawpularity, 1 to 100; sent: a number with 2 decimals; "
            "scored by rmse, lower is better",
            "targets": "Pawpularity 1 to 100, mean 50.5 (1 missing)",
            "sample": "a number for each of 2 ids in column 'Pawpularity', such as '99.24', '5.11'",
        },
    ),
    (
        NUMBERS,
        ["1|2", "3|", "|"],
        ["x", "y"],
        ["id,y,x", "9,0,0"],
        {
            "target": "2 numbers, 'x', 'y'; sent: a number with all digits; scored by rmse, lower is better",
            "targets": "x 1 to 3, mean 2 (1 missing); y 2 to 2, mean 2 (2 missing)",
            "sample": "2 numbers for each of 1 ids in 'y', 'x'",
        },
    ),
    (
        {**NUMBERS, "metric": "quadratic_kappa"},
        ["0", "4"],
        ["grade"],
        ["id,grade", "9,0"],
        {"target": "one number, grade, 0 to 4; sent: a whole number; scored by quadratic_kappa, higher is better"},
    ),
    (
        {"task": "several_labels", "submission": "label_lists", "metric": "fbeta_micro", "no_label": "none"},
        ["rust|scab", "", "rust"],
        ["rust", "scab"],
        ["id,labels", "9,rust"],
        {
            "target": "any of 2 labels; sent: its labels, separated by ' '; 'none' for none; "
            "scored by fbeta_micro, higher is better",
            "targets": "up to 2 labels per image of 2: rust (2), scab (1); images without a label: 1",
            "sample": "all labels for each of 1 ids in column 'labels', such as 'rust'",
        },
    ),
    (
        {"submission": "best_labels", "metric": "map_at_k", "guesses": 2},
        ["a", "b"],
        ["a", "b"],
        ["id,labels", "9,a b"],
        {
            "target": "one of 2 classes; sent: the 2 best labels, separated by ' '; "
            "scored by map_at_k, higher is better",
            "sample": "the 2 best labels for each of 1 ids in column 'labels', such as 'a b'",
        },
    ),
    (
        {"submission": "probability", "metric": "auc"},
        ["0", "1"],
        ["0", "1"],
        ["id,label", "9,0.5"],
        {"target": "one of 2 classes; sent: the probability of '1'; scored by auc, higher is better"},
    ),
    (
        {"submission": "probabilities", "metric": "log_loss", "long_form": "{id}_{target}"},
        ["a", "b"],
        ["a", "b"],
        ["id,p", "9_a,0.5", "9_b,0.5", "8_a,0.5", "8_b,0.5"],
        {
            "target": "one of 2 classes; sent: a probability for each class, in a row for each target; "
            "scored by log_loss, lower is better",
            "sample": "4 rows, for each of 2 ids and 2 targets",
        },
    ),
]


@pytest.mark.parametrize("number", range(len(TASKS)))
def test_what_an_image_has_and_what_is_sent_are_said(tmp_path: Path, number: int) -> None:
    competition, texts, classes, lines, wanted = TASKS[number]
    write(tmp_path / "sample.csv", "\n".join(lines) + "\n")
    settings = merge(Settings("x"), {"competition": competition, "data": {"sample_submission": "sample.csv"}}, "here")
    rows = pd.DataFrame({"id": ["a/1.png"] * len(texts), "path": "train/a/1.png", "label": texts})
    found = dict(understood.describe(settings, tmp_path, rows, rows.head(1), {}, classes))
    assert {subject: found[subject] for subject in wanted} == wanted


def test_an_empty_label_column_of_the_sample_is_said(tmp_path: Path) -> None:
    write(tmp_path / "sample.csv", "id,label\n9,\n8,\n")
    labelled = pd.DataFrame({"id": ["a/1.png"], "path": ["train/a/1.png"], "label": ["a"]})
    settings = settings_of("labels", sample_submission="sample.csv")
    sample = understood.describe(settings, tmp_path, labelled, labelled, {})[-1]
    assert sample == ("sample", "a label for each of 2 ids in column 'label', empty in the sample")


def test_only_the_largest_classes_are_named() -> None:
    labels = [str(n) for n in range(10) for _ in range(n + 1)]
    assert counted(labels) == "9 (10), 8 (9), 7 (8), 6 (7), 5 (6), 4 (5), …"


def test_what_is_rarely_meant_is_noted() -> None:
    rows = pd.DataFrame({"label": ["cat"] * 999 + ["dog"], "split": ["valid"] * 19 + ["train"] * 981})
    rows["id"] = [str(number) for number in range(1000)]
    found = understood.notes(rows, ["emu"], ["owl"])
    assert found[0].startswith("99.9% of the labelled images are 'cat': this answer alone has accuracy 0.9990")
    assert found[1].startswith("Only 19 validation images")
    assert found[2] == "Classes with a single image, which stays in train: 1 ('dog')."
    assert found[3].startswith("Classes without a validation image: 1.")
    assert found[4] == "Classes of the sample submission without any labelled image: 1 ('emu')."
    assert found[5] == "Folders without images, which are no classes: 'owl'."
    even = rows.assign(label=["cat", "dog"] * 500, split=["train"] * 500 + ["valid"] * 500)
    assert understood.notes(even, [], []) == []


def test_names_of_copies_are_noted() -> None:
    ids = ["a/1.png", "a/1 (1).png", "a/1_aug2.png", "a/1 - Copy.png", "a/2_flip.png", "a/3(1).png", "a/1_crop.png"]
    rows = pd.DataFrame({"id": ids, "label": ["cat", "dog"] * 3 + ["cat"], "split": ["valid"] * 7})
    found = [note for note in understood.notes(rows, [], []) if "copies" in note]
    assert [note.partition(" such")[0] for note in found] == ["4 images are named like copies of others,"]


def test_targets_of_each_task_are_described() -> None:
    assert understood.describe_targets(["a|b", "", "a"], "several_labels", ["a", "b"]) == (
        "targets",
        "up to 2 labels per image of 2: a (2), b (1); images without a label: 1",
    )
    assert understood.describe_targets(["1.5", "2"], "numbers", ["x"]) == ("targets", "x 1.5 to 2, mean 1.75")


@pytest.mark.parametrize(
    ("competition", "content", "expected"),
    [
        (
            {"task": "one_class", "metric": "auc", "submission": "probability", "positive": "dog"},
            "id,label\n1,0.5\n2,0.5\n",
            "the probability of 'dog' for each of 2 ids in column 'label', such as '0.5'",
        ),
        (
            {"task": "several_labels", "metric": "fbeta_micro", "submission": "label_lists"},
            "image,labels\n1.jpg,scab rust\n",
            "all labels for each of 1 ids in column 'labels', such as 'scab rust'",
        ),
        (
            {"task": "one_class", "metric": "map_at_k", "submission": "best_labels", "guesses": 3},
            "Image,Id\n1.jpg,\n",
            "the 3 best labels for each of 1 ids in column 'Id', empty in the sample",
        ),
        (
            {"task": "numbers", "metric": "rmse", "submission": "numbers"},
            "id,x,y\n1,0.5,2\n",
            "2 numbers for each of 1 ids in 'x', 'y'",
        ),
    ],
)
def test_the_sample_of_each_answer_is_described(
    tmp_path: Path, competition: dict[str, object], content: str, expected: str
) -> None:
    write(tmp_path / "sample.csv", content)
    settings = merge(Settings("x"), {"competition": competition, "data": {"sample_submission": "sample.csv"}}, "here")
    assert understood.describe_sample(sample_form(settings, tmp_path), settings) == expected


def test_notes_fit_the_task() -> None:
    parts = ["train"] * 30 + ["valid"] * 25
    ids = [str(number) for number in range(55)]
    labels = pd.DataFrame({"id": ids, "label": ["a|b", *["a"] * 54], "split": parts})
    assert understood.notes(labels, ["c"], [], "several_labels") == [
        "100.0% of the labelled images have 'a'.",
        "Labels with a single image, which stays in train: 1 ('b').",
        "Labels without a validation image: 1.",
        "Labels of the sample submission without any labelled image: 1 ('c').",
    ]
    assert understood.notes(labels.assign(label=""), [], [], "several_labels") == []
    assert understood.notes(labels.assign(label="1.5"), [], [], "numbers") == []


def test_what_training_says_of_the_targets() -> None:
    assert summarise(["b", "a", "b"], "one_class", ["a", "b"]) == "Classes: b (2), a (1)"
    several = summarise(["a|b", "", "b"], "several_labels", ["a", "b"])
    assert several == "Labels: b (2), a (1); images without a label: 1"
    numbers = summarise(["1|", "2.5|-0.001", "4|-0.002"], "numbers", ["age", "tilt"])
    assert numbers == "Numbers: age 1 to 4, mean 2.5; tilt -0.002 to -0.001, mean -0.0015 (1 missing)"
    names = [f"n{number}" for number in range(8)]
    assert summarise(["|".join("12345678")], "numbers", names).endswith("n5 6 to 6, mean 6; …")
    assert summarise(["", ""], "numbers", ["x"]) == "Numbers: x has no values"
