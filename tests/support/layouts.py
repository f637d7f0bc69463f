"""Raw folders of competitions and data sets, as people find them: names, tables and tiny images, without training."""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Files = dict[str, bytes | str]
TRAIN, TEST = 24, 8


@dataclass(frozen=True)
class Layout:
    """A raw folder.  settings: what is expected in the TOML, as `section.key`.  metric: in Kaggle's words.

    refused: words of the message for a folder that is not supported.  doubt: whether the TOML needs a correction.
    """

    name: str
    files: Files
    settings: dict[str, Any] = field(default_factory=dict)
    metric: str = ""
    refused: str = ""
    doubt: bool = False

    def write(self, raw: Path) -> None:
        for name, content in self.files.items():
            path = raw / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content.encode() if isinstance(content, str) else content)


@cache
def picture(kind: str, side: int = 64) -> bytes:
    if kind == "npy":
        content = io.BytesIO()
        np.save(content, np.zeros((6, 27, 25), np.float16))
        return content.getvalue()
    content = io.BytesIO()
    Image.new("RGB", (side, side), "green").save(content, {"jpg": "JPEG", "tif": "TIFF", "png": "PNG"}[kind])
    return content.getvalue()


def pictures(*names: str, side: int = 64) -> Files:
    return {name: picture(name.rpartition(".")[2].lower(), side) for name in names}


def hashes(count: int, start: int = 0) -> list[str]:
    return [f"{(number * 2654435761 + 97) % 2**32:08x}" for number in range(start, start + count)]


def sheet(header: str, *columns: Sequence[Any]) -> str:
    rows = (",".join(map(str, row)) for row in zip(*columns, strict=True))
    return "\n".join([header, *rows]) + "\n"


def cycle(values: Sequence[Any], count: int = TRAIN) -> list[Any]:
    return [values[number % len(values)] for number in range(count)]


def folders(train: str, test: str, kind: str = "jpg") -> tuple[list[str], list[str], Files]:
    """Return ids of training and test images, and the images in `train` and `test`."""
    names = hashes(TRAIN + TEST)
    labelled, tests = names[:TRAIN], names[TRAIN:]
    images = [f"{train}/{name}.{kind}" for name in labelled] + [f"{test}/{name}.{kind}" for name in tests]
    return labelled, tests, pictures(*images)


def binary(name: str, table: str, header: str, sample: Any, metric: str, **settings: Any) -> Layout:
    train, test, files = folders("train", "test")
    files |= {
        table: sheet(header, train, cycle([0, 1, 1])),
        "sample_submission.csv": sheet(header, test, cycle([sample], TEST)),
    }
    return Layout(name, files, settings, metric)


PROBABILITY = {"competition.task": "one_class", "competition.submission": "probability", "competition.positive": "1"}
LABEL = {"competition.task": "one_class", "competition.submission": "labels"}
EACH = {"competition.task": "one_class", "competition.submission": "probabilities", "competition.metric": "log_loss"}
SEVERAL = {"competition.task": "several_labels", "competition.submission": "probabilities"}
LISTS = {"competition.task": "several_labels", "competition.submission": "label_lists"}
NUMBERS = {"competition.task": "numbers", "competition.submission": "numbers"}
GUESSES = {"competition.task": "one_class", "competition.submission": "best_labels", "competition.metric": "map_at_k"}


def melanoma() -> Layout:
    train, test, files = folders("jpeg/train", "jpeg/test")
    patients = [f"IP_{number // 3}" for number in range(TRAIN)]
    files |= {
        "train.csv": sheet(
            "image_name,patient_id,sex,age_approx,diagnosis,benign_malignant,target",
            *(train, patients, cycle(["male", "female"]), cycle([45, 50, 60]), cycle(["nevus", "unknown", "melanoma"])),
            *(cycle(["benign", "benign", "malignant"]), cycle([0, 0, 1])),
        ),
        "test.csv": sheet("image_name,patient_id,sex", test, cycle(["IP_91", "IP_92"], TEST), cycle(["male"], TEST)),
        "sample_submission.csv": sheet("image_name,target", test, cycle([0], TEST)),
        "train/a.dcm": b"x",
    }
    expected = {
        **PROBABILITY,
        "data.label_column": "target",
        "split.group_column": "patient_id",
        "competition.metric": "auc",
    }
    return Layout("siim-isic-melanoma", files, {**expected, "data.train_images": "jpeg/train"}, "AUC")


def catheters() -> Layout:
    train, test, files = folders("train", "test")
    names = ["ETT - Abnormal", "ETT - Normal", "NGT - Normal"]
    flags = [cycle(each) for each in ([0, 1, 0, 0], [1, 0, 1, 0], [1, 1, 0, 1, 0])]
    files |= {
        "train.csv": sheet(
            f"StudyInstanceUID,{','.join(names)},PatientID", train, *flags, [f"p{n // 2}" for n in range(TRAIN)]
        ),
        "train_annotations.csv": sheet("StudyInstanceUID,label,data", train[:9], cycle(names, 9), cycle(["[1]"], 9)),
        "sample_submission.csv": sheet(f"StudyInstanceUID,{','.join(names)}", test, *[cycle([0], TEST)] * 3),
    }
    more = {"data.labels": "train.csv", "data.label_columns": names, "split.group_column": "PatientID"}
    return Layout("ranzcr-clip", files, {**SEVERAL, "competition.metric": "auc_columns", **more}, "Mean Columnwise AUC")


def galaxies() -> Layout:
    ids = [100000 + 37 * number for number in range(TRAIN + TEST)]
    train, test = ids[:TRAIN], ids[TRAIN:]
    names = [f"Class{a}.{b}" for a in range(1, 4) for b in range(1, 4)]
    values = [[f"{(number * place % 97) / 97:.4f}" for number in range(TRAIN)] for place in range(2, 11)]
    files = pictures(
        *(f"images_training_rev1/{n}.jpg" for n in train), *(f"images_test_rev1/{n}.jpg" for n in test), side=424
    )
    files |= {
        "training_solutions_rev1.csv": sheet(f"GalaxyID,{','.join(names)}", train, *values),
        "all_zeros_benchmark.csv": sheet(f"GalaxyID,{','.join(names)}", test, *[cycle([0], TEST)] * 9),
    }
    more = {
        "data.label_columns": names,
        "data.sample_submission": "all_zeros_benchmark.csv",
        "competition.metric": "rmse",
    }
    return Layout("galaxy-zoo", files, {**NUMBERS, **more}, "Root Mean Squared Error")


def attributes() -> Layout:
    train, test, files = folders("train", "test", "png")
    files |= {
        "train.csv": sheet("id,attribute_ids", train, cycle(["1 616", "51 1", "616", "51 1 616", "0 51", "2", "2 0"])),
        "labels.csv": sheet("attribute_id,attribute_name", [0, 1, 2, 51], ["a::b", "c::d", "e::f", "g::h"]),
        "sample_submission.csv": sheet("id,attribute_ids", test, cycle(["0 1 2"], TEST)),
    }
    more = {"competition.metric": "fbeta_samples", "competition.beta": 2.0, "data.label_separator": " "}
    return Layout("imet-2019", files, {**LISTS, **more, "data.labels": "train.csv"}, "Mean F2 Score")


def proteins() -> Layout:
    names, colours = hashes(TRAIN + TEST), ("red", "green", "blue", "yellow")
    files = pictures(
        *(
            f"{'train' if n < TRAIN else 'test'}/{name}_{colour}.png"
            for n, name in enumerate(names)
            for colour in colours
        )
    )
    files |= {
        "train.csv": sheet("Id,Target", names[:TRAIN], cycle(["16 0", "7 1 2 0", "5", "1", "16", "0 5", "2", "7"])),
        "sample_submission.csv": sheet("Id,Predicted", names[TRAIN:], cycle([0], TEST)),
    }
    more = {
        "data.channel_files": ["_red", "_green", "_blue", "_yellow"],
        "input.channels": 4,
        "competition.metric": "fbeta_macro",
    }
    return Layout("human-protein-atlas", files, {**LISTS, **more, "data.label_column": "Target"}, "Macro F-Score")


def dolphins() -> Layout:
    train, test, files = folders("train_images", "test_images")
    kinds = [f"{number * 7919 + 4096:012x}" for number in range(6)]
    files |= {
        "train.csv": sheet(
            "image,species,individual_id", [f"{n}.jpg" for n in train], cycle(["beluga", "orca"]), cycle(kinds)
        ),
        "sample_submission.csv": sheet(
            "image,predictions", [f"{n}.jpg" for n in test], cycle([" ".join(kinds[:5])], TEST)
        ),
    }
    more = {"competition.guesses": 5, "data.label_column": "individual_id"}
    return Layout("happy-whale-and-dolphin", files, {**GUESSES, **more}, "MAP@{K}")


def amazon() -> Layout:
    train, test = [f"train_{n}" for n in range(TRAIN)], [f"test_{n}" for n in range(TEST)]
    files = pictures(
        *(f"train-jpg/{n}.jpg" for n in train),
        *(f"train-tif-v2/{n}.tif" for n in train),
        *(f"test-jpg/{n}.jpg" for n in test),
        *(f"test-tif-v2/{n}.tif" for n in test),
    )
    tags = cycle(["haze primary", "agriculture clear primary water", "clear primary", "cloudy", "clear water"])
    files |= {
        "train_v2.csv": sheet("image_name,tags", train, tags),
        "sample_submission_v2.csv": sheet(
            "image_name,tags", test, cycle(["primary clear agriculture road water"], TEST)
        ),
    }
    more = {"data.train_images": "train-jpg", "data.test_images": "test-jpg", "competition.beta": 2.0}
    return Layout("planet-amazon", files, {**LISTS, **more, "competition.metric": "fbeta_samples"}, "F2 Score")


def right_whales() -> Layout:
    names = [f"w_{number}.jpg" for number in range(TRAIN + TEST)]
    kinds = [f"whale_{number:05d}" for number in (195, 442, 2411)]
    files = pictures(*(f"imgs/{name}" for name in names)) | {
        "train.csv": sheet("Image,whaleID", names[::4] + names[1::4] + names[2::4], cycle(kinds)),
        "sample_submission.csv": sheet(f"Image,{','.join(kinds)}", names[3::4], *[cycle([0.002], TEST)] * 3),
    }
    return Layout(
        "noaa-right-whale",
        files,
        {**EACH, "data.train_images": "imgs", "data.test_images": "imgs"},
        "Multi Class Log Loss",
    )


def retinas() -> Layout:
    names = [f"{number}_{side}" for number in range(10, 26) for side in ("left", "right")]
    files = pictures(*(f"{'train' if n < TRAIN else 'test'}/{name}.jpg" for n, name in enumerate(names))) | {
        "trainLabels.csv": sheet("image,level", names[:TRAIN], cycle([0, 0, 2, 1, 4, 3])),
        "sampleSubmission.csv": sheet("image,level", names[TRAIN:], cycle([0], TEST)),
    }
    more = {"competition.metric": "quadratic_kappa", "competition.grades": [0, 1, 2, 3, 4], "data.channel_files": None}
    return Layout("diabetic-retinopathy", files, {**NUMBERS, **more}, "Quadratic Weighted Kappa")


def scenes() -> Layout:
    kinds = ("buildings", "forest", "glacier", "sea")
    files = pictures(
        *(f"seg_train/seg_train/{kind}/{number}.jpg" for kind in kinds for number in range(6)),
        *(f"seg_test/seg_test/{kind}/{number + 90}.jpg" for kind in kinds for number in range(2)),
        *(f"seg_pred/seg_pred/{number + 900}.jpg" for number in range(TEST)),
    )
    more = {"data.labels": None, "data.train_images": "seg_train/seg_train", "data.test_images": "seg_pred/seg_pred"}
    return Layout("intel-scenes", files, {**LABEL, **more, "competition.metric": "accuracy"})


def cameras() -> Layout:
    kinds = ("HTC-1-M7", "iPhone-4s", "Sony-NEX-7")
    test = [f"img_{name}_unalt.tif" for name in hashes(TEST)]
    files = pictures(
        *(f"train/train/{k}/({k}){n}.jpg" for k in kinds for n in range(6)), *(f"test/test/{n}" for n in test)
    )
    files["sample_submission.csv"] = sheet("fname,camera", test, cycle(["HTC-1-M7"], TEST))
    more = {"data.train_images": "train/train", "data.test_images": "test"}
    return Layout("camera-model", files, {**LABEL, **more, "competition.metric": "accuracy"}, "CategorizationAccuracy")


def fish() -> Layout:
    kinds = ("ALB", "BET", "LAG", "NoF")
    test = [f"img_{number:05d}.jpg" for number in range(TEST)]
    files = pictures(
        *(f"train/{kind}/img_{n + 90:05d}.jpg" for n, kind in enumerate(cycle(kinds))),
        *(f"test_stg1/{n}" for n in test),
    )
    files["sample_submission_stg1.csv"] = sheet(f"image,{','.join(kinds)}", test, *[cycle([0.25], TEST)] * 4)
    return Layout(
        "noaa-fisheries",
        files,
        {**EACH, "data.train_images": "train", "data.test_images": "test_stg1"},
        "Multi Class Log Loss",
    )


def cervixes() -> Layout:
    test = [f"{number}.jpg" for number in range(TEST)]
    files = pictures(
        *(f"train/Type_{1 + n % 3}/{n + 100}.jpg" for n in range(TRAIN)),
        *(f"additional/Type_{1 + n % 3}/{n + 400}.jpg" for n in range(9)),
        *(f"test/{name}" for name in test),
    )
    files["sample_submission.csv"] = sheet("image_name,Type_1,Type_2,Type_3", test, *[cycle([0.33], TEST)] * 3)
    return Layout(
        "cervical-cancer",
        files,
        {**EACH, "data.train_images": "train", "data.class_level": None},
        "Multi Class Log Loss",
    )


def faces() -> Layout:
    cells = [" ".join(str((n * 31 + place) % 256) for place in range(64)) for n in range(TRAIN + TEST)]
    points = [[f"{(n * 7 + k) % 90 + 0.5}" if (n + k) % 5 else "" for n in range(TRAIN)] for k in range(4)]
    names = ["left_eye_center_x", "left_eye_center_y", "nose_tip_x", "nose_tip_y"]
    lookup = [(image, name) for image in range(1, TEST + 1) for name in names]
    rows = range(1, len(lookup) + 1)
    files: Files = {
        "training.csv": sheet(f"{','.join(names)},Image", *points, cells[:TRAIN]),
        "test.csv": sheet("ImageId,Image", range(1, TEST + 1), cells[TRAIN:]),
        "SampleSubmission.csv": sheet("RowId,Location", rows, cycle([0], len(lookup))),
        "IdLookupTable.csv": sheet(
            "RowId,ImageId,FeatureName,Location", rows, *zip(*lookup, strict=True), [""] * len(lookup)
        ),
    }
    return Layout("facial-keypoints", files, refused="IdLookupTable.csv")


def adverts() -> Layout:
    names, items = hashes(TRAIN + TEST), [f"item{number:04d}" for number in range(TRAIN + TEST)]
    files = pictures(*(f"{'train_jpg' if n < TRAIN else 'test_jpg'}/{name}.jpg" for n, name in enumerate(names)))
    price, deal = [str(100 + 7 * n) for n in range(TRAIN)], [f"{n % 9 / 10:.5f}" for n in range(TRAIN)]
    files |= {
        "train.csv": sheet(
            "item_id,region,price,image,deal_probability", items[:TRAIN], cycle(["A", "B"]), price, names[:TRAIN], deal
        ),
        "test.csv": sheet("item_id,region,image", items[TRAIN:], cycle(["A"], TEST), names[TRAIN:]),
        "sample_submission.csv": sheet("item_id,deal_probability", items[TRAIN:], cycle([0], TEST)),
    }
    more = {
        "data.id_column": None,
        "data.file_column": "image",
        "data.test_table": "test.csv",
        "competition.metric": "rmse",
    }
    return Layout(
        "avito-demand", files, {**NUMBERS, **more, "data.label_column": "deal_probability"}, "Root Mean Squared Error"
    )


def traps() -> Layout:
    train, test, files = folders("train_images", "test_images")
    files |= {
        "train.csv": sheet(
            "category_id,date_captured,file_name,id,location,seq_id",
            *(cycle([0, 3, 19]), cycle(["2011-05-13"]), [f"{n}.jpg" for n in train], train),
            *([n // 3 for n in range(TRAIN)], [f"s{n // 2}" for n in range(TRAIN)]),
        ),
        "test.csv": sheet(
            "date_captured,file_name,id,location", cycle(["2011"], TEST), [f"{n}.jpg" for n in test], test, range(TEST)
        ),
        "sample_submission.csv": sheet("Id,Category", test, cycle([0], TEST)),
    }
    more = {"data.label_column": "category_id", "split.group_column": "location", "competition.metric": "f1_macro"}
    return Layout("iwildcam-2019", files, {**LABEL, **more}, "Macro F1 Score")


def hotels() -> Layout:
    names = [f"{name}.jpg" for name in hashes(TRAIN + TEST)]
    chains = [number % 4 for number in range(TRAIN)]
    files = pictures(
        *(f"train_images/{c}/{n}" for c, n in zip(chains, names, strict=False)),
        *(f"test_images/{n}" for n in names[TRAIN:]),
    )
    files |= {
        "train.csv": sheet(
            "image,chain,hotel_id,timestamp",
            names[:TRAIN],
            chains,
            [24000 + n % 8 for n in range(TRAIN)],
            cycle(["2018"]),
        ),
        "sample_submission.csv": sheet("image,hotel_id", names[TRAIN:], cycle(["24000 24001 24002 24003 24004"], TEST)),
    }
    more = {
        "data.label_column": "hotel_id",
        "competition.guesses": 5,
        "data.train_images": "train_images",
        "split.group_column": None,
    }
    return Layout("hotel-id", files, {**GUESSES, **more}, "MAP@{K}")


def ovaries() -> Layout:
    ids = [str(number * 37 + 4) for number in range(TRAIN + TEST)]
    files = pictures(
        *(f"train_images/{n}.png" for n in ids[:TRAIN]), *(f"train_thumbnails/{n}_thumbnail.png" for n in ids[:TRAIN])
    )
    files |= pictures(*(f"test_images/{n}.png" for n in ids[TRAIN:])) | {
        "train.csv": sheet(
            "image_id,label,image_width,image_height,is_tma",
            ids[:TRAIN],
            cycle(["CC", "EC", "HGSC"]),
            *[cycle([9000, 8000])] * 2,
            cycle(["False"]),
        ),
        "test.csv": sheet("image_id,image_width,image_height", ids[TRAIN:], *[cycle([9000], TEST)] * 2),
        "sample_submission.csv": sheet("image_id,label", ids[TRAIN:], cycle(["HGSC"], TEST)),
    }
    return Layout(
        "ubc-ocean",
        files,
        {**LABEL, "data.train_images": "train_images", "competition.metric": "balanced_accuracy"},
        "Balanced Accuracy Score",
    )


def chests() -> Layout:
    names = [f"{number // 2:08d}_{number % 2:03d}.png" for number in range(TRAIN)]
    files = pictures(*(f"images_{1 + n // 12:03d}/images/{name}" for n, name in enumerate(names)))
    found = cycle(["No Finding", "Cardiomegaly|Effusion", "Effusion", "Cardiomegaly", "Hernia|Effusion", "Hernia"])
    files["Data_Entry_2017.csv"] = sheet(
        "Image Index,Finding Labels,Follow-up #,Patient ID", names, found, cycle([0, 1]), [n // 2 for n in range(TRAIN)]
    )
    more = {"data.label_separator": "|", "split.group_column": "Patient ID", "data.label_column": "Finding Labels"}
    return Layout("nih-chest-xrays", files, {"competition.task": "several_labels", **more, "data.train_images": "."})


def signs(name: str, test_ids: bool) -> Layout:
    cells = [[(n * 7 + k) % 256 for n in range(TRAIN)] for k in range(64)]
    columns = ",".join(f"pixel{place}" for place in range(64))
    tests = [column[:TEST] for column in cells]
    files: Files = {"train.csv": sheet(f"label,{columns}", cycle([0, 3, 7]), *cells)}
    if test_ids:
        files["test.csv"] = sheet(f"id,{columns}", range(TEST), *tests)
        files["sample_submission.csv"] = sheet("id,label", range(TEST), cycle([0], TEST))
    else:
        files["test.csv"] = sheet(f"label,{columns}", cycle([0, 3], TEST), *tests)
    more = {"data.pixel_columns": "pixel*", "data.test_table": "test.csv", "input.channels": 1, "input.size": 8}
    return Layout(name, files, {**LABEL, **more, "data.label_column": "label"})


def emotions() -> Layout:
    cells = [" ".join(str((n * 31 + place) % 256) for place in range(64)) for n in range(TRAIN)]
    files: Files = {
        "train.csv": sheet("emotion,pixels", cycle([0, 3, 6]), cells),
        "test.csv": sheet("pixels", cells[:TEST]),
    }
    return Layout(
        "facial-expressions", files, {**LABEL, "data.pixel_columns": "pixels", "data.label_column": "emotion"}
    )


def emotions_in_parts() -> Layout:
    """Return the table of the facial expressions as first published: spaces in its header, a column of parts."""
    cells = [" ".join(str((n * 31 + place) % 256) for place in range(64)) for n in range(TRAIN)]
    parts = cycle(["Training", "Training", "PublicTest"])
    files: Files = {"icml_face_data.csv": sheet("emotion, Usage, pixels", cycle([0, 3, 6]), parts, cells)}
    return Layout("faces-in-parts", files, {**LABEL, "data.pixel_columns": "pixels", "data.label_column": "emotion"})


def lists_of_numbers() -> Layout:
    """Return label lists of numbers in few combinations, whose parts are hardly labels of their own."""
    train, test, files = folders("train", "test")
    files |= {
        "train.csv": sheet("Id,Target", train, cycle(["16 0", "7 1 2 0", "5", "18"])),
        "sample_submission.csv": sheet("Id,Predicted", test, cycle([0], TEST)),
    }
    return Layout("few-lists", files, {**LISTS, "data.label_separator": " "}, "Macro F-Score")


def normal_ones() -> Layout:
    """Return a competition that wants the probability of the class that sounds like the negative one."""
    train, test, files = folders("train", "test")
    files |= {
        "train.csv": sheet("id,status", train, cycle(["abnormal", "normal"])),
        "sample_submission.csv": sheet("id,p_normal", test, cycle([0.5], TEST)),
    }
    return Layout("normal-ones", files, {**PROBABILITY, "competition.positive": "normal"}, "AUC")


def traits() -> Layout:
    """Return numbers whose columns have another name in the sample submission."""
    train, test, files = folders("train_images", "test_images")
    numbers = [[f"{(n * k) % 7 / 7:.3f}" for n in range(TRAIN)] for k in (1, 2, 3, 4, 5)]
    files |= {
        "train.csv": sheet("id,SOIL,X4_mean,X11_mean,X4_sd,X11_sd", train, *numbers),
        "test.csv": sheet("id,SOIL", test, cycle([0.5], TEST)),
        "sample_submission.csv": sheet("id,X4,X11", test, cycle([0.5], TEST), cycle([12.1], TEST)),
    }
    return Layout("plant-traits", files, {**NUMBERS, "data.label_columns": ["X4_mean", "X11_mean"]}, "R2 Score")


def coco(numbers: Sequence[int], *keys: str) -> str:
    """Return JSON in the form of COCO with the `keys`, of images by their numbers."""
    whole = {
        "images": [{"id": n, "file_name": f"{n:05}.jpg"} for n in numbers],
        "annotations": [{"id": n, "image_id": n, "category_id": 7 + n % 3} for n in numbers],
        "categories": [{"id": 7 + n, "name": name} for n, name in enumerate(("archery", "boxing", "chess"))],
    }
    return json.dumps({key: whole[key] for key in keys})


def sports() -> Layout:
    """Return annotations, images and categories in a file each."""
    files = pictures(*(f"images/{n:05}.jpg" for n in range(TRAIN + TEST))) | {
        "images_train.json": coco(range(TRAIN), "images"),
        "annotations_train.json": coco(range(TRAIN), "annotations"),
        "categories.json": coco((), "categories"),
        "images_test.json": coco(range(TRAIN, TRAIN + TEST), "images"),
        "sample_submission.csv": sheet("image_id,sport", range(TRAIN, TRAIN + TEST), cycle(["archery"], TEST)),
    }
    more = {"data.labels": "images_train.json+annotations_train.json+categories.json"}
    return Layout("sports", files, {**LABEL, **more, "data.label_column": "category_name"}, "Accuracy")


def validated(ending: str) -> Layout:
    """Return labelled images in two tables of the same columns."""
    numbers = range(TRAIN + TEST)
    files = pictures(*(f"{'train' if n < TRAIN else 'test'}/{n:05}.jpg" for n in numbers))
    for name, part in (("train", numbers[:18]), ("val", numbers[18:TRAIN])):
        rows = sheet("id,sport", [f"{n:05}" for n in part], [f"s{n % 3}" for n in part])
        files[f"{name}.{ending}"] = rows if ending == "csv" else coco(part, "images", "annotations", "categories")
    ids = [f"{n:05}" for n in numbers[TRAIN:]]
    files["sample_submission.csv"] = sheet("id,sport", ids, cycle(["s0" if ending == "csv" else "chess"], TEST))
    return Layout(f"validated-{ending}", files, {**LABEL, "data.labels": f"train.{ending}+val.{ending}"}, "Accuracy")


def flags_and_lists() -> Layout:
    """Return a column for each label, and a sample submission with the names of columns in a cell."""
    train, test, files = folders("train", "test")
    flags = [cycle([0, 1, 1]), cycle([1, 0, 1, 0]), cycle([0, 0, 0, 1, 1])]
    files |= {
        "train.csv": sheet("id,rust,scab,rot", train, *flags),
        "sample_submission.csv": sheet("id,labels", test, cycle(["rust rot"], TEST)),
    }
    more = {"data.label_columns": ["rust", "scab", "rot"]}
    return Layout("flags-and-lists", files, {**LISTS, **more}, "Micro F1")


def forgeries() -> Layout:
    train, test, files = folders("train", "test")
    files |= {
        "train.csv": sheet("filename,label", train, cycle(["FAKE", "REAL"])),
        "sample_submission.csv": sheet("filename,label", test, cycle([0.5], TEST)),
    }
    return Layout("forgeries", files, {**PROBABILITY, "competition.positive": "FAKE"}, "Log Loss")


def small(name: str, labels: Sequence[Any], header: str, column: str, cell: Any, **settings: Any) -> Layout:
    """Return images with one label each; `header` names the column of labels, `column` that of the sample."""
    train, test, files = folders("train", "test")
    files |= {
        "train.csv": sheet(f"id,{header}", train, cycle(labels)),
        "sample_submission.csv": sheet(f"id,{column}", test, cycle([cell], TEST)),
    }
    return Layout(name, files, settings, "AUC" if cell == 0.5 else "Mean F-Score")


def targets_first() -> Layout:
    train, test, files = folders("train", "test")
    files |= {
        "train.csv": sheet("id,mass,nodule", train, cycle([0, 1, 1]), cycle([1, 0, 1, 0])),
        "sample_submission.csv": sheet(
            "id,predicted", [f"{kind}_{name}" for name in test for kind in ("mass", "nodule")], cycle([0.5], 2 * TEST)
        ),
    }
    return Layout("targets-first", files, {**SEVERAL, "competition.long_form": "{target}_{id}"}, "Mean Columnwise AUC")


def written(cell: str, sample: str, refused: str) -> Layout:
    """Return numbers that are written in another way than programs read; `cell` has one place for the number."""
    train, test, files = folders("train", "test")
    files |= {
        "train.csv": "\n".join(["id;size", *(f"{name};{cell.format(n % 9)}" for n, name in enumerate(train))]) + "\n",
        "sample_submission.csv": "\n".join(["id;size", *(f"{name};{sample}" for name in test)]) + "\n",
    }
    return Layout(f"written-{sample}", files, refused=refused)


def steganograms() -> Layout:
    """Return variants of the same images in four folders, and one probability for all but one of them."""
    images = [f"{kind}/{n:05}.jpg" for kind in ("Cover", "JMiPOD", "UERD") for n in range(8)]
    tests = [f"{n:04}.jpg" for n in range(TEST)]
    files = pictures(*images, *(f"Test/{name}" for name in tests))
    files |= {"sample_submission.csv": sheet("Id,Label", tests, cycle([0.5], TEST))}
    return Layout("alaska2", files, metric="Weighted AUC", refused='class_folders = ["Cover=0", "JMiPOD=1", "UERD=1"]')


def signals() -> Layout:
    names = hashes(TRAIN + TEST)
    files = pictures(*(f"{'train' if n < TRAIN else 'test'}/{name[0]}/{name}.npy" for n, name in enumerate(names))) | {
        "train_labels.csv": sheet("id,target", names[:TRAIN], cycle([0, 1, 0])),
        "sample_submission.csv": sheet("id,target", names[TRAIN:], cycle([0.5], TEST)),
    }
    return Layout("seti-breakthrough", files, {**PROBABILITY, "input.channels": 6, "data.train_images": "train"}, "AUC")


def species() -> Layout:
    train = [f"train_val2019/Plants/{n % 4}/{name}.jpg" for n, name in enumerate(hashes(TRAIN))]
    test = [f"test2019/{name}.jpg" for name in hashes(TEST, TRAIN)]
    labelled = {
        "images": [{"id": n, "file_name": name, "width": 800} for n, name in enumerate(train)],
        "annotations": [{"id": n, "image_id": n, "category_id": n % 4} for n in range(TRAIN)],
        "categories": [{"id": n, "name": str(n)} for n in range(4)],
    }
    tests = {"images": [{"id": 900 + n, "file_name": name} for n, name in enumerate(test)]}
    files = pictures(*train, *test) | {
        "train2019.json": json.dumps(labelled),
        "test2019.json": json.dumps(tests),
        "kaggle_sample_submission.csv": sheet("id,predicted", range(900, 900 + TEST), cycle([2], TEST)),
    }
    more = {"data.labels": "train2019.json", "data.test_table": "test2019.json", "data.train_images": "train_val2019"}
    return Layout("inaturalist-2019", files, {**LABEL, **more, "data.test_images": "test2019"})


def skins() -> Layout:
    names = [f"ISIC_{number:07d}" for number in range(TRAIN)]
    kinds = cycle([0, 1, 2])
    flags = [[f"{float(kind == k)}" for kind in kinds] for k in range(3)]
    files = pictures(*(f"ISIC2018_Task3_Training_Input/{name}.jpg" for name in names))
    files["ISIC2018_Task3_Training_GroundTruth.csv"] = sheet("image,MEL,NV,BCC", names, *flags)
    return Layout("isic-2018", files, {"competition.task": "one_class", "data.label_columns": ["MEL", "NV", "BCC"]})


def bones() -> Layout:
    names = [str(1377 + number) for number in range(TRAIN)]
    files = pictures(*(f"boneage-training-dataset/boneage-training-dataset/{name}.png" for name in names))
    files["boneage-training-dataset.csv"] = sheet(
        "id,boneage,male", names, [12 + 7 * n for n in range(TRAIN)], cycle(["True", "False"])
    )
    return Layout(
        "bone-age", files, {"competition.task": "numbers", "data.label_column": "boneage"}, "Mean Absolute Error"
    )


def plants() -> Layout:
    kinds = ("Tomato___healthy", "Tomato___late_blight", "Potato___healthy")
    files = pictures(
        *(f"train/{k}/{n}.jpg" for n, k in enumerate(cycle(kinds))),
        *(f"valid/{k}/{n + 50}.jpg" for n, k in enumerate(kinds)),
    )
    files |= pictures(*(f"test/Unknown{n}.jpg" for n in range(TEST)))
    return Layout("plant-village", files, {**LABEL, "data.train_images": "train", "data.test_images": "test"})


def flowers() -> Layout:
    files = pictures(*(f"flowers/{kind}/{n}.jpg" for n, kind in enumerate(cycle(["daisy", "rose", "tulip"]))))
    return Layout(
        "flowers",
        files,
        {**LABEL, "data.train_images": "flowers", "data.test_images": "", "data.sample_submission": ""},
    )


def pets() -> Layout:
    files = pictures(
        *(f"images/{kind}_{n}.jpg" for n, kind in enumerate(cycle(["Abyssinian", "great_pyrenees", "pug"])))
    )
    return Layout("oxford-pets", files, {**LABEL, "data.train_images": "images"})


def paths() -> Layout:
    train, test, files = folders("data/train", "data/test")
    files |= {
        "train.csv": sheet("image_path,label", [f"train/{n}.jpg" for n in train], cycle(["a", "b"])),
        "sample_submission.csv": sheet(
            ",image_path,label", range(TEST), [f"test/{n}.jpg" for n in test], cycle(["a"], TEST)
        ),
    }
    return Layout(
        "paths-and-index", files, {**LABEL, "data.train_images": "data/train", "data.test_images": "data/test"}
    )


def same_names() -> Layout:
    """Return a competition whose training and test images have the same names."""
    train, test = [f"{n}.jpg" for n in range(TRAIN)], [f"{n}.jpg" for n in range(TEST)]
    files = pictures(*(f"training/{name}" for name in train), *(f"testing/{name}" for name in test)) | {
        "labels.csv": sheet("image,label", train, cycle(["a", "b"])),
        "sample_submission.csv": sheet("image,label", test, cycle(["a"], TEST)),
    }
    return Layout("same-names", files, {**LABEL, "data.train_images": "training", "data.test_images": "testing"})


def padded() -> Layout:
    """Return a competition whose ids are the numbers in the names of files."""
    files = pictures(
        *(f"train/img_{n:05d}.png" for n in range(TRAIN)), *(f"test/test_{n}.png" for n in range(TEST))
    ) | {
        "train.csv": sheet("id,species", range(TRAIN), cycle(["a", "b", "c"])),
        "sample_submission.csv": sheet("id,species", range(TEST), cycle(["a"], TEST)),
        "species.csv": sheet("number,name", range(3), ["a", "b", "c"]),
    }
    more = {"data.train_file": "img_{id:05}.png", "data.test_file": "test_{id}.png", "data.labels": "train.csv"}
    return Layout("padded-names", files, {**LABEL, **more})


def numbered_classes() -> Layout:
    """Return class folders beside a list of the classes, whose numbers are names of images too."""
    files = pictures(
        *(f"train/{kind}/{n}.jpg" for n, kind in enumerate(cycle(["cat", "dog"]))),
        *(f"test/{n + 90}.jpg" for n in range(TEST)),
    ) | {
        "classes.csv": sheet("id,name", range(2), ["cat", "dog"]),
        "sample_submission.csv": sheet("id,label", range(90, 90 + TEST), cycle(["cat"], TEST)),
    }
    return Layout("numbered-classes", files, {**LABEL, "data.labels": None, "data.train_images": "train"})


def rows_of_labels() -> Layout:
    """Return a data set with a row for each label of an image."""
    train, test, files = folders("train", "test")
    files |= {
        "train.csv": sheet("image_id,label", [*train, *train[:8]], [*cycle(["a", "b"]), *["c"] * 8]),
        "sample_submission.csv": sheet("image_id,a,b,c", test, *[cycle([0.5], TEST)] * 3),
    }
    return Layout("rows-of-labels", files, {**SEVERAL, "data.label_column": "label", "data.label_separator": None})


def long_columns() -> Layout:
    train, test, files = folders("train", "test")
    answers = [(name, what) for name in test for what in ("leaf", "stem")]
    files |= {
        "train.csv": sheet("id,leaf,stem", train, [f"{n}.5" for n in range(TRAIN)], [f"{n}.25" for n in range(TRAIN)]),
        "sample_submission.csv": sheet("id,part,value", *zip(*answers, strict=True), cycle([0.5], 2 * TEST)),
    }
    return Layout(
        "long-columns",
        files,
        {**NUMBERS, "competition.long_form": "{id},{target}", "data.label_columns": ["leaf", "stem"]},
    )


def long_ids() -> Layout:
    train, test, files = folders("train", "test")
    rows = [f"{name}_{what}" for name in test for what in ("any", "epidural")]
    files |= {
        "train.csv": sheet("id,any,epidural", train, cycle([1, 0, 1, 0]), cycle([0, 0, 1, 0])),
        "sample_submission.csv": sheet("ID,Label", rows, cycle([0.5], 2 * TEST)),
    }
    more = {
        "competition.long_form": "{id}_{target}",
        "data.label_columns": ["any", "epidural"],
        "competition.task": "several_labels",
    }
    return Layout("long-ids", files, {**more, "competition.submission": "probabilities"})


def long_labels() -> Layout:
    """Return a competition whose labels, as its sample, have a row for each image and target."""
    train, test, files = folders("train", "test")
    rows, tests = ([f"ID_{name}_{what}" for name in names for what in ("any", "epidural")] for names in (train, test))
    files = {name.replace("train/", "train/ID_").replace("test/", "test/ID_"): data for name, data in files.items()}
    files |= {
        "stage_1_train.csv": sheet("ID,Label", rows, cycle([1, 0, 0, 0, 1, 1], 2 * TRAIN)),
        "stage_1_sample_submission.csv": sheet("ID,Label", tests, cycle([0.5], 2 * TEST)),
    }
    more = {"competition.long_form": "{id}_{target}", "data.labels": "stage_1_train.csv", "data.label_columns": None}
    return Layout("rsna-hemorrhage", files, {**SEVERAL, **more})


def bengali() -> Layout:
    train, test, files = folders("train", "test", "png")
    rows = [f"{name}_{what}" for name in test for what in ("vowel", "root")]
    files |= {
        "train.csv": sheet("image_id,root,vowel", train, cycle([1, 9, 33]), cycle([0, 3, 7])),
        "sample_submission.csv": sheet("row_id,target", rows, cycle([0], 2 * TEST)),
    }
    return Layout("bengali", files, refused="Several classes for one image")


def answered(name: str, header: str, cell: Any, refused: str, label: Any = "a", metric: str = "") -> Layout:
    """Return a competition that is recognised by the cells of its sample submission."""
    train, test, files = folders("train", "test")
    column = header.split(",")[1]
    cells = [cell if cell != "ids" else f"{test[0]} {test[1]}"] * TEST
    files |= {
        "train.csv": sheet(f"id,{column}", train, cycle([label, "b"])),
        "sample_submission.csv": sheet(header, test, cells),
    }
    return Layout(name, files, metric=metric, refused=refused)


def without_images(name: str, *files: str, refused: str) -> Layout:
    return Layout(name, {**dict.fromkeys(files, b"x"), "train.csv": "id,label\n1,0\n2,1\n"}, refused=refused)


def restaurants() -> Layout:
    train, test = range(100, 100 + TRAIN), range(500, 500 + TEST)
    files = pictures(*(f"train_photos/{n}.jpg" for n in train), *(f"test_photos/{n}.jpg" for n in test)) | {
        "train_photo_to_biz_ids.csv": sheet("photo_id,business_id", train, [4000 + n // 4 for n in range(TRAIN)]),
        "test_photo_to_biz.csv": sheet("photo_id,business_id", test, [f"003s{n // 2}" for n in range(TEST)]),
        "train.csv": sheet("business_id,labels", range(4000, 4006), cycle(["1 2", "0 1 8", "3"], 6)),
        "sample_submission.csv": sheet("business_id,labels", [f"003s{n}" for n in range(4)], cycle(["1 2 3"], 4)),
    }
    return Layout("yelp-restaurants", files, refused="means several images")


MAKERS: tuple[Callable[[], Layout], ...] = (
    *(melanoma, catheters, galaxies, attributes, proteins, dolphins, amazon, right_whales, retinas, scenes, cameras),
    *(fish, cervixes, faces, adverts, traps, hotels, ovaries, chests, emotions, signals, species, skins, bones, plants),
    *(flowers, pets, paths, same_names, padded, numbered_classes, rows_of_labels, long_columns, long_ids, long_labels),
    *(bengali, restaurants, emotions_in_parts, lists_of_numbers, normal_ones, traits, steganograms),
    *(sports, lambda: validated("csv"), lambda: validated("json"), flags_and_lists, forgeries),
    targets_first,
    lambda: small("one-and-two", [1, 2, 2], "kind", "kind", 0.5, **PROBABILITY | {"competition.positive": "2"}),
    lambda: small("python-lists", ["\"['a', 'b']\"", "['c']", "[]"], "tags", "tags", "c", **LISTS),
    lambda: written("{},250", "0", "a comma, decimal or between thousands"),
    lambda: written("{},5", "0,0", "numbers with a decimal comma"),
    lambda: written("{}.5 cm", "0.0", "numbers with the unit 'cm'"),
    lambda: binary("histopathologic-cancer", "train_labels.csv", "id,label", 0, "AUC", **PROBABILITY),
    lambda: binary("histopathologic-no-metric", "train_labels.csv", "id,label", 0, "", **LABEL),
    lambda: binary("invasive-species", "train_labels.csv", "name,invasive", 0.5, "", **PROBABILITY),
    lambda: binary("ships-log-loss", "train.csv", "id,is_iceberg", 0.5, "Log Loss", **PROBABILITY),
    lambda: signs("sign-language-mnist", False),
    lambda: signs("kannada-mnist", True),
    lambda: answered("severstal", "ImageId_ClassId,EncodedPixels", "1 409600", "masks of pixels"),
    lambda: Layout("blood-vessels", pictures("images/1.png", "masks/1.png"), refused="masks of pixels"),
    lambda: answered("salt", "id,rle_mask", "1 1", "masks of pixels"),
    lambda: answered("global-wheat", "image_id,PredictionString", "1.0 0 0 50 50", "boxes of objects"),
    lambda: answered("landmarks", "id,landmarks", "137790 0.1", "a label and its confidence"),
    lambda: answered("landmark-retrieval", "id,images", "ids", "finding similar images"),
    lambda: answered("kuzushiji", "image_id,labels", "U+003F 1 1 U+FF2F 2 2", "labels with positions"),
    lambda: without_images("rsna-pneumonia", "stage_2_train/a.dcm", "stage_2_train/b.dcm", refused="DICOM"),
    lambda: without_images("flowers-tpu", "train/00-224.tfrec", refused="TFRecords"),
    lambda: without_images("cdiscount", "train.bson", refused="BSON"),
    lambda: without_images("deepfakes", "train/a.mp4", refused="videos"),
    lambda: without_images("birds", "train_audio/a.ogg", refused="sounds"),
    lambda: Layout(
        "statoil", {"train.json": '[{"id": "a", "band_1": [1.0, 2.0], "is_iceberg": 0}]'}, refused="in JSON"
    ),
)
