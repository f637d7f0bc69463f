"""Miniatures of the competitions that people enter: 60 images each, the sample submission, and the hidden solution.

Each is what a person finds at Kaggle: an archive with the nested archives, tables and names of the real competition.
The values that its TOML must have, and a scorer that uses none of the project's code, come with it.
"""

import io
import json
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from PIL import Image
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score, log_loss, roc_auc_score

LABELLED, TEST = 44, 16  # images
SIDE = 16  # pixels
Files = dict[str, bytes]
Score = Callable[[pd.DataFrame, pd.DataFrame], float]  # of the solution and the submission, both as text


@dataclass(frozen=True)
class Made:
    """A competition's files, and its solution: the answers to the rows of the sample, in its own form."""

    files: Files
    solution: pd.DataFrame


@dataclass(frozen=True)
class Form:
    """A competition.  settings: what its TOML must say, by section.  metric: in Kaggle's words.

    score: the score of a submission as the competition's page defines it.
    """

    name: str
    make: Callable[[], Made]
    metric: str
    settings: dict[str, dict[str, Any]]
    score: Score
    code: bool = False

    def archive(self, folder: Path) -> tuple[Path, pd.DataFrame]:
        """Write the archive into `folder`; return its path and the solution."""
        made = self.make()
        path = folder / f"{self.name}.zip"
        path.write_bytes(zipped(made.files))
        return path, made.solution


def zipped(files: Files) -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return content.getvalue()


def picture(value: float, number: int, kind: str = "png") -> bytes:
    """Return an image whose colours follow `value`, 0 to 1, with noise of its own."""
    random = np.random.default_rng(number)
    base = np.array([255 * value, 255 * (1 - value), 127 + 120 * np.sin(9 * value)])
    pixels = np.clip(base + random.normal(0, 25, (SIDE, SIDE, 3)), 0, 255).astype(np.uint8)
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, {"png": "PNG", "jpg": "JPEG"}[kind])
    return content.getvalue()


def table(rows: Sequence[Sequence[Any]], *header: str) -> pd.DataFrame:
    return pd.DataFrame([[str(cell) for cell in row] for row in rows], columns=list(header), dtype=str)


def csv(frame: pd.DataFrame) -> bytes:
    return frame.to_csv(index=False, lineterminator="\n").encode()


def hashes(count: int, start: int = 0) -> list[str]:
    """Return names as competitions give them: hexadecimal digits in no order."""
    return [f"{(number * 2654435761 + 97) % 2**32:08x}{number:04x}" for number in range(start, start + count)]


def images(names: Sequence[str], values: Sequence[float], start: int = 0, kind: str = "") -> Files:
    """Return an image file for each name; its kind is that of the name."""
    return {
        name: picture(value, start + number, kind or name.rpartition(".")[2])
        for number, (name, value) in enumerate(zip(names, values, strict=True))
    }


def cycle(values: Sequence[Any], count: int, start: int = 0) -> list[Any]:
    return [values[(start + number) % len(values)] for number in range(count)]


def shade(number: int, count: int) -> float:
    """Return the value of the picture of class `number` of `count`."""
    return (number + 0.5) / count


def below(folder: str, files: Files) -> Files:
    return {f"{folder}/{name}": data for name, data in files.items()}


def divided(files: Files, train: str, test: str) -> Files:
    """Return the first LABELLED files below the folder `train`, the others below `test`."""
    return {f"{train if number < LABELLED else test}/{name}": data for number, (name, data) in enumerate(files.items())}


def numbers(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
    """Return the values beside the id column as numbers."""
    return frame.iloc[:, 1:].astype(float).to_numpy()


def joined(solution: pd.DataFrame, submission: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return both by id; they must have the same header and the same ids, each once."""
    assert list(solution.columns) == list(submission.columns)
    one, other = (frame.sort_values(frame.columns[0]).reset_index(drop=True) for frame in (solution, submission))
    assert one.iloc[:, 0].tolist() == other.iloc[:, 0].tolist()
    return one, other


def of_labels(score: Callable[[list[str], list[str]], float]) -> Score:
    def by_id(solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        truth, answers = joined(solution, submission)
        return float(score(truth.iloc[:, 1].tolist(), answers.iloc[:, 1].tolist()))

    return by_id


def of_numbers(score: Callable[[Any, Any], float]) -> Score:
    def by_id(solution: pd.DataFrame, submission: pd.DataFrame) -> float:
        truth, answers = joined(solution, submission)
        return float(score(numbers(truth), numbers(answers)))

    return by_id


def map_at_5(truth: list[str], answers: list[str]) -> float:
    return float(
        np.mean(
            [
                next((1 / place for place, guess in enumerate(cell.split()[:5], 1) if guess == label), 0.0)
                for label, cell in zip(truth, answers, strict=True)
            ]
        )
    )


def micro_f1_of_sets(truth: list[str], answers: list[str]) -> float:
    true, sent = ([set(cell.split()) for cell in cells] for cells in (truth, answers))
    both = sum(len(one & other) for one, other in zip(true, sent, strict=True))
    return 2 * both / (sum(map(len, true)) + sum(map(len, sent)))


def multiclass_log_loss(truth: npt.NDArray[np.float64], answers: npt.NDArray[np.float64]) -> float:
    assert np.abs(answers.sum(axis=1) - 1).max() < 1e-6
    return float(log_loss(truth.argmax(axis=1), answers, labels=range(truth.shape[1])))


def macro_f1(truth: list[str], answers: list[str]) -> float:
    return float(f1_score(truth, answers, average="macro", zero_division=0))


def micro_f1(truth: list[str], answers: list[str]) -> float:
    return float(f1_score(truth, answers, average="micro"))


def kappa_of_5(truth: npt.NDArray[np.float64], answers: npt.NDArray[np.float64]) -> float:
    grades = (each[:, 0].astype(int) for each in (truth, answers))
    return float(cohen_kappa_score(*grades, weights="quadratic", labels=range(5)))


def rmse_from_1_to_100(truth: npt.NDArray[np.float64], answers: npt.NDArray[np.float64]) -> float:
    assert (answers >= 1).all() and (answers <= 100).all()
    return float(np.sqrt(np.mean((truth - answers) ** 2)))


def one_hot(labels: Sequence[str], classes: Sequence[str]) -> list[list[int]]:
    return [[int(label == name) for name in classes] for label in labels]


def _cactus() -> Made:
    names = [f"{name}.jpg" for name in hashes(LABELLED + TEST)]
    labels = cycle([1, 1, 0, 1], LABELLED + TEST)
    files = images(names, [0.9 if label else 0.1 for label in labels])
    train, test = names[:LABELLED], names[LABELLED:]
    return Made(
        {
            "train.zip": zipped({name: files[name] for name in train}),
            "test.zip": zipped({name: files[name] for name in test}),
            "train.csv": csv(table(list(zip(train, labels, strict=False)), "id", "has_cactus")),
            "sample_submission.csv": csv(table([[name, 0.5] for name in test], "id", "has_cactus")),
        },
        table(list(zip(test, labels[LABELLED:], strict=True)), "id", "has_cactus"),
    )


def _aptos() -> Made:
    names = hashes(LABELLED + TEST)
    grades = cycle([0, 0, 2, 1, 0, 3, 2, 4], LABELLED + TEST)
    files = images([f"{name}.png" for name in names], [shade(grade, 5) for grade in grades])
    train, test = names[:LABELLED], names[LABELLED:]
    return Made(
        divided(files, "train_images", "test_images")
        | {
            "train.csv": csv(table(list(zip(train, grades, strict=False)), "id_code", "diagnosis")),
            "test.csv": csv(table([[name] for name in test], "id_code")),
            "sample_submission.csv": csv(table([[name, 0] for name in test], "id_code", "diagnosis")),
        },
        table(list(zip(test, grades[LABELLED:], strict=True)), "id_code", "diagnosis"),
    )


def _cassava() -> Made:
    names = [f"{1000015157 + 7919 * number}.jpg" for number in range(LABELLED + TEST)]
    labels = cycle([0, 3, 3, 1, 2, 3, 4], LABELLED + TEST)
    files = images(names, [shade(label, 5) for label in labels])
    train, test = names[:LABELLED], names[LABELLED:]
    words = {"0": "Bacterial Blight", "1": "Brown Streak", "2": "Green Mottle", "3": "Mosaic", "4": "Healthy"}
    return Made(
        divided(files, "train_images", "test_images")
        | {
            "label_num_to_disease_map.json": json.dumps(words).encode(),
            "train.csv": csv(table(list(zip(train, labels, strict=False)), "image_id", "label")),
            "sample_submission.csv": csv(table([[name, 4] for name in test], "image_id", "label")),
        },
        table(list(zip(test, labels[LABELLED:], strict=True)), "image_id", "label"),
    )


DOGS = ("affenpinscher", "beagle", "chow", "german_short-haired_pointer", "pug", "whippet")


def _dogs() -> Made:
    names = hashes(LABELLED + TEST)
    labels = cycle(DOGS, LABELLED + TEST)
    files = images([f"{name}.jpg" for name in names], [shade(DOGS.index(label), 6) for label in labels])
    train, test = names[:LABELLED], names[LABELLED:]
    return Made(
        divided(files, "train", "test")
        | {
            "labels.csv": csv(table(list(zip(train, labels, strict=False)), "id", "breed")),
            "sample_submission.csv": csv(table([[name, *[1 / 6] * 6] for name in test], "id", *DOGS)),
        },
        table([[name, *row] for name, row in zip(test, one_hot(labels[LABELLED:], DOGS), strict=True)], "id", *DOGS),
    )


def _dogs_and_cats() -> Made:
    train = [f"{('cat', 'dog')[number % 2]}.{number // 2}.jpg" for number in range(LABELLED)]
    test = [f"{number + 1}.jpg" for number in range(TEST)]
    labels = cycle([1, 0, 0], TEST)
    return Made(
        {
            "train.zip": zipped(images(train, [0.9 if name[0] == "d" else 0.1 for name in train])),
            "test.zip": zipped(images(test, [0.9 if label else 0.1 for label in labels], LABELLED)),
            "sample_submission.csv": csv(table([[number + 1, 0.5] for number in range(TEST)], "id", "label")),
        },
        table([[number + 1, label] for number, label in enumerate(labels)], "id", "label"),
    )


def _herbarium() -> Made:
    kinds = list(range(3, 11))
    labels = cycle(kinds, LABELLED + TEST)
    train = [
        f"{label:05d}"[:3] + f"/{label % 100:02d}/{label:05d}__{n:03d}" for n, label in enumerate(labels[:LABELLED])
    ]
    test = [f"{number // 10:03d}/test-{number:06d}.jpg" for number in range(TEST)]
    files = below(
        "train_images",
        images([f"{name}.jpg" for name in train], [shade(label - 3, 8) for label in labels[:LABELLED]]),
    ) | below("test_images", images(test, [shade(label - 3, 8) for label in labels[LABELLED:]], LABELLED))
    ids = [name.rpartition("/")[2] for name in train]
    metadata = {
        "annotations": [
            {"genus_id": label // 2, "institution_id": number % 3, "category_id": label, "image_id": name}
            for number, (name, label) in enumerate(zip(ids, labels, strict=False))
        ],
        "images": [
            {"image_id": identity, "file_name": f"{name}.jpg", "license": 0}
            for identity, name in zip(ids, train, strict=True)
        ],
        "categories": [
            {"category_id": kind, "scientificName": f"Species {kind}", "family": "F", "genus": f"G{kind // 2}"}
            for kind in kinds
        ],
        "genera": [{"genus_id": kind, "genus": f"G{kind}"} for kind in range(1, 6)],
        "institutions": [{"institution_id": 0, "collectionCode": "A"}],
        "license": [{"id": 0, "name": "CC"}],
    }
    listing = [{"image_id": str(n), "file_name": name, "license": 0} for n, name in enumerate(test)]
    return Made(
        files
        | {
            "train_metadata.json": json.dumps(metadata).encode(),
            "test_metadata.json": json.dumps(listing).encode(),
            "sample_submission.csv": csv(table([[n, 3] for n in range(TEST)], "Id", "Predicted")),
        },
        table(list(enumerate(labels[LABELLED:])), "Id", "Predicted"),
    )


def _iwildcam() -> Made:
    kinds = {0: "empty", 2: "tayassu pecari", 71: "bos taurus", 96: "leopardus pardalis"}
    labels = cycle([0, 2, 0, 71, 96], LABELLED + TEST)
    names = [f"{name}-21bc-11ea" for name in hashes(LABELLED + TEST)]
    files = images([f"{name}.jpg" for name in names], [shade(list(kinds).index(label), 4) for label in labels])
    entries = [
        {
            "id": name,
            "file_name": f"{name}.jpg",
            "location": number % 11,
            "seq_id": f"s{number // 2}",
            "width": SIDE,
            "height": SIDE,
            "seq_num_frames": 2,
            "frame_num": number % 2,
            "datetime": "2013-06-05",
        }
        for number, name in enumerate(names)
    ]
    train = {
        "annotations": [
            {"count": 1, "image_id": name, "id": f"a{number}", "category_id": label}
            for number, (name, label) in enumerate(zip(names[:LABELLED], labels, strict=False))
        ],
        "images": entries[:LABELLED],
        "categories": [{"id": number, "name": name, "count": 9} for number, name in kinds.items()],
        "info": {"year": 2020, "version": "1.0"},
    }
    test = {"images": entries[LABELLED:], "categories": train["categories"], "info": train["info"]}
    return Made(
        divided(files, "train", "test")
        | {
            "iwildcam2020_train_annotations.json": json.dumps(train).encode(),
            "iwildcam2020_test_information.json": json.dumps(test).encode(),
            "sample_submission.csv": csv(table([[name, 0] for name in names[LABELLED:]], "Id", "Category")),
        },
        table(list(zip(names[LABELLED:], labels[LABELLED:], strict=True)), "Id", "Category"),
    )


LEAVES = ("Acer_Capillipes", "Acer_Opalus", "Betula_Pendula", "Quercus_Ilex", "Tilia_Oliveri")


def _leaves() -> Made:
    order = np.random.default_rng(3).permutation(LABELLED + TEST) + 1
    labels = cycle(LEAVES, LABELLED + TEST)
    files = images([f"images/{number}.jpg" for number in order], [shade(LEAVES.index(each), 5) for each in labels])
    numbers_of = [[f"{(number * 37 + place) % 100 / 1000:.6f}" for place in range(6)] for number in order]
    features = [f"{kind}{place}" for kind in ("margin", "shape", "texture") for place in (1, 2)]
    rows = list(zip(order, labels, numbers_of, strict=True))
    return Made(
        files
        | {
            "train.csv": csv(
                table([[n, label, *more] for n, label, more in rows[:LABELLED]], "id", "species", *features)
            ),
            "test.csv": csv(table([[n, *more] for n, _, more in rows[LABELLED:]], "id", *features)),
            "sample_submission.csv": csv(table([[n, *[0.2] * 5] for n, *_ in rows[LABELLED:]], "id", *LEAVES)),
        },
        table([[n, *one_hot([label], LEAVES)[0]] for n, label, _ in rows[LABELLED:]], "id", *LEAVES),
    )


RICE = ("bacterial_leaf_blight", "blast", "dead_heart", "normal", "tungro")


def _paddy() -> Made:
    labels = cycle(RICE, LABELLED + TEST)
    train = [f"{100001 + 13 * number}.jpg" for number in range(LABELLED)]
    test = [f"{200001 + number}.jpg" for number in range(TEST)]
    files = images(train + test, [shade(RICE.index(label), 5) for label in labels])
    rows = [
        [name, label, ("ADT45", "KarnatakaPonni")[number % 2], 45 + number % 30]
        for number, (name, label) in enumerate(zip(train, labels, strict=False))
    ]
    return Made(
        {f"train_images/{label}/{name}": files[name] for name, label, *_ in rows}
        | {f"test_images/{name}": files[name] for name in test}
        | {
            "train.csv": csv(table(rows, "image_id", "label", "variety", "age")),
            "sample_submission.csv": csv(table([[name, ""] for name in test], "image_id", "label")),
        },
        table(list(zip(test, labels[LABELLED:], strict=True)), "image_id", "label"),
    )


PET_FLAGS = (
    *("Subject Focus", "Eyes", "Face", "Near", "Action", "Accessory", "Group", "Collage", "Human", "Occlusion"),
    *("Info", "Blur"),
)


def _petfinder() -> Made:
    names = hashes(LABELLED + TEST)
    values = [1 + (number * 29) % 100 for number in range(LABELLED + TEST)]
    flags = [[(number * place) % 5 // 4 for place in range(12)] for number in range(LABELLED + TEST)]
    files = images([f"{name}.jpg" for name in names], [value / 100 for value in values])
    rows = list(zip(names, flags, values, strict=True))
    return Made(
        divided(files, "train", "test")
        | {
            "train.csv": csv(table([[n, *some, v] for n, some, v in rows[:LABELLED]], "Id", *PET_FLAGS, "Pawpularity")),
            "test.csv": csv(table([[n, *some] for n, some, _ in rows[LABELLED:]], "Id", *PET_FLAGS)),
            "sample_submission.csv": csv(
                table(
                    [[n, f"{17.31 + 5.17 * k:.2f}"] for k, (n, *_) in enumerate(rows[LABELLED:])], "Id", "Pawpularity"
                )
            ),
        },
        table([[n, value] for n, _, value in rows[LABELLED:]], "Id", "Pawpularity"),
    )


APPLE = ("healthy", "multiple_diseases", "rust", "scab")


def _apples_2020() -> Made:
    labels = cycle([APPLE[number] for number in (0, 2, 3, 0, 2, 3, 1)], LABELLED + TEST)
    train, test = ([f"{part}_{n}" for n in range(count)] for part, count in (("Train", LABELLED), ("Test", TEST)))
    files = images([f"images/{name}.jpg" for name in train + test], [shade(APPLE.index(each), 4) for each in labels])
    rows = [[name, *flags] for name, flags in zip(train + test, one_hot(labels, APPLE), strict=True)]
    return Made(
        files
        | {
            "train.csv": csv(table(rows[:LABELLED], "image_id", *APPLE)),
            "test.csv": csv(table([[name] for name in test], "image_id")),
            "sample_submission.csv": csv(table([[name, *[0.25] * 4] for name in test], "image_id", *APPLE)),
        },
        table(rows[LABELLED:], "image_id", *APPLE),
    )


def _apples_2021() -> Made:
    sets = ("healthy", "scab", "scab frog_eye_leaf_spot", "rust", "complex", "rust complex", "frog_eye_leaf_spot")
    labels = cycle([*sets, "scab frog_eye_leaf_spot complex", "powdery_mildew"], LABELLED + TEST)
    names = [f"{name}.jpg" for name in hashes(LABELLED + TEST)]
    shades = {label: shade(number, 9) for number, label in enumerate(dict.fromkeys(labels))}
    files = images(names, [shades[label] for label in labels])
    train, test = names[:LABELLED], names[LABELLED:]
    return Made(
        divided(files, "train_images", "test_images")
        | {
            "train.csv": csv(table(list(zip(train, labels, strict=False)), "image", "labels")),
            "sample_submission.csv": csv(table([[name, "healthy"] for name in test], "image", "labels")),
        },
        table(list(zip(test, labels[LABELLED:], strict=True)), "image", "labels"),
    )


WEEDS = ("Black-grass", "Common Chickweed", "Maize", "Shepherds Purse", "Sugar beet")


def _seedlings() -> Made:
    labels = cycle(WEEDS, LABELLED + TEST)
    names = [f"{name[:9]}.png" for name in hashes(LABELLED + TEST)]
    files = images(names, [shade(WEEDS.index(label), 5) for label in labels])
    test = names[LABELLED:]
    return Made(
        {f"train/{label}/{name}": files[name] for name, label in zip(names[:LABELLED], labels, strict=False)}
        | {f"test/{name}": files[name] for name in test}
        | {"sample_submission.csv": csv(table([[name, "Sugar beet"] for name in test], "file", "species"))},
        table(list(zip(test, labels[LABELLED:], strict=True)), "file", "species"),
    )


def _whales(new: str, placeholder: str) -> Made:
    kinds = [f"w_{number:07x}" for number in (2412, 4011, 70368, 301, 99999, 123456)]
    labels = [*cycle([new, *kinds[:2], new, *kinds[2:5]], LABELLED - 1), kinds[5]]  # the last whale has one image
    truth = cycle([kinds[0], new, kinds[2], kinds[1]], TEST)
    names = [f"{name[:8]}.jpg" for name in hashes(LABELLED + TEST)]
    shades = {label: shade(number, 7) for number, label in enumerate([new, *kinds])}
    files = images(names, [shades[label] for label in labels + truth])
    train, test = names[:LABELLED], names[LABELLED:]
    return Made(
        {
            "train.zip": zipped({name: files[name] for name in train}),
            "test.zip": zipped({name: files[name] for name in test}),
            "train.csv": csv(table(list(zip(train, labels, strict=True)), "Image", "Id")),
            "sample_submission.csv": csv(table([[name, placeholder] for name in test], "Image", "Id")),
        },
        table(list(zip(test, truth, strict=True)), "Image", "Id"),
    )


def _digits() -> Made:
    labels = cycle([1, 0, 4, 7], LABELLED + TEST)
    random = np.random.default_rng(5)
    pixels = np.zeros((LABELLED + TEST, 28, 28), np.uint8)
    for number, label in enumerate(labels):
        pixels[number, 4:24, 2 + 3 * label : 5 + 3 * label] = random.integers(150, 256, (20, 3))
    cells = pixels.reshape(len(labels), 784)
    columns = [f"pixel{place}" for place in range(784)]
    return Made(
        {
            "train.csv": csv(
                table([[n, *row] for n, row in zip(labels, cells[:LABELLED], strict=False)], "label", *columns)
            ),
            "test.csv": csv(table(cells[LABELLED:].tolist(), *columns)),
            "sample_submission.csv": csv(table([[n + 1, 0] for n in range(TEST)], "ImageId", "Label")),
        },
        table([[n + 1, label] for n, label in enumerate(labels[LABELLED:])], "ImageId", "Label"),
    )


STATES = tuple(f"c{number}" for number in range(10))


def _drivers() -> Made:
    labels = cycle(STATES, LABELLED + TEST)
    names = [f"img_{(number * 7919) % 102000}.jpg" for number in range(1, LABELLED + TEST + 1)]
    files = images(names, [shade(STATES.index(label), 10) for label in labels])
    train, test = names[:LABELLED], names[LABELLED:]
    rows = [
        [f"p{number // 10:03d}", label, name] for number, (name, label) in enumerate(zip(train, labels, strict=False))
    ]
    return Made(
        {f"imgs/train/{label}/{name}": files[name] for _, label, name in rows}
        | {f"imgs/test/{name}": files[name] for name in test}
        | {
            "driver_imgs_list.csv": csv(table(rows, "subject", "classname", "img")),
            "sample_submission.csv": csv(table([[name, *[0.1] * 10] for name in test], "img", *STATES)),
        },
        table(
            [[name, *row] for name, row in zip(test, one_hot(labels[LABELLED:], STATES), strict=True)], "img", *STATES
        ),
    )


SAMPLE = {"sample_submission": "sample_submission.csv"}
LISTED = {"labels": "train.csv", **SAMPLE}
IN_IMAGES = {"train_images": "train_images", "test_images": "test_images"}
TOGETHER = {"train_images": "images", "test_images": "images", "test_table": "test.csv"}
MAP_AT_5 = {"metric": "map_at_k", "guesses": 5, "submission": "best_labels", "task": "one_class"}
ONE_LABEL = {"task": "one_class", "submission": "labels"}
EACH_CLASS = {"task": "one_class", "submission": "probabilities"}


def _form(name: str, make: Callable[[], Made], metric: str, score: Score, /, **settings: dict[str, Any]) -> Form:
    return Form(name, make, metric, settings, score)


FORMS = (
    _form(
        *("aerial-cactus-identification", _cactus, "AUC", of_numbers(roc_auc_score)),
        competition={"task": "one_class", "metric": "auc", "submission": "probability", "positive": "1"},
        data={**LISTED, "train_images": "train", "test_images": "test"},
    ),
    _form(
        *("aptos2019-blindness-detection", _aptos, "Quadratic Weighted Kappa", of_numbers(kappa_of_5)),
        competition={"task": "numbers", "metric": "quadratic_kappa", "submission": "numbers"},
        data={**LISTED, **IN_IMAGES},
    ),
    _form(
        *("cassava-leaf-disease-classification", _cassava, "Categorization Accuracy", of_labels(accuracy_score)),
        competition={**ONE_LABEL, "metric": "accuracy"},
        data={**LISTED, **IN_IMAGES},
    ),
    _form(
        *("dog-breed-identification", _dogs, "Multi Class Log Loss", of_numbers(multiclass_log_loss)),
        competition={**EACH_CLASS, "metric": "log_loss"},
        data={"labels": "labels.csv", **SAMPLE, "train_images": "train", "test_images": "test"},
    ),
    _form(
        *("dogs-vs-cats-redux-kernels-edition", _dogs_and_cats, "Log Loss", of_numbers(log_loss)),
        competition={
            "task": "one_class",
            "metric": "log_loss_binary",
            "submission": "probability",
            "positive": "dog",
        },
        data={"labels": "", **SAMPLE, "train_images": "train", "test_images": "test"},
    ),
    _form(
        *("herbarium-2022-fgvc9", _herbarium, "Macro F1 Score", of_labels(macro_f1)),
        competition={**ONE_LABEL, "metric": "f1_macro"},
        data={"labels": "train_metadata.json", "test_table": "test_metadata.json", **SAMPLE, **IN_IMAGES},
    ),
    _form(
        *("iwildcam-2020-fgvc7", _iwildcam, "Categorization Accuracy", of_labels(accuracy_score)),
        competition={**ONE_LABEL, "metric": "accuracy"},
        data={"labels": "iwildcam2020_train_annotations.json", **SAMPLE},
        split={"group_column": "location"},
    ),
    _form(
        *("leaf-classification", _leaves, "Multi Class Log Loss", of_numbers(multiclass_log_loss)),
        competition={**EACH_CLASS, "metric": "log_loss"},
        data={**LISTED, "train_images": "images", "test_images": "images"},
    ),
    _form(
        *("paddy-disease-classification", _paddy, "Categorization Accuracy", of_labels(accuracy_score)),
        competition={**ONE_LABEL, "metric": "accuracy"},
        data={**SAMPLE, **IN_IMAGES},
    ),
    _form(
        *("petfinder-pawpularity-score", _petfinder, "Root Mean Squared Error", of_numbers(rmse_from_1_to_100)),
        competition={"task": "numbers", "metric": "rmse", "submission": "numbers"},
        data={**LISTED, "train_images": "train", "test_images": "test"},
    ),
    _form(
        *("plant-pathology-2020-fgvc7", _apples_2020, "Mean Columnwise AUC", of_numbers(roc_auc_score)),
        competition={**EACH_CLASS, "metric": "auc_columns"},
        data={**LISTED, "train_images": "images", "test_images": "images"},
    ),
    _form(
        *("plant-pathology-2021-fgvc8", _apples_2021, "F-Score (Micro)", of_labels(micro_f1_of_sets)),
        competition={"task": "several_labels", "metric": "fbeta_micro", "submission": "label_lists"},
        data={**LISTED, **IN_IMAGES, "label_separator": " "},
    ),
    _form(
        *("plant-seedlings-classification", _seedlings, "Mean F1 Score (micro)", of_labels(micro_f1)),
        competition={**ONE_LABEL, "metric": "f1_micro"},
        data={"labels": "", **SAMPLE, "train_images": "train", "test_images": "test"},
    ),
    _form(
        "whale-categorization-playground",
        lambda: _whales("new_whale", "new_whale w_00009a4 w_0000fab w_00112e0 w_000012d"),
        *("MAP@{K}", of_labels(map_at_5)),
        competition=MAP_AT_5,
        data={**LISTED, "train_images": "train", "test_images": "test"},
    ),
    _form(
        *("digit-recognizer", _digits, "Categorization Accuracy", of_labels(accuracy_score)),
        competition={**ONE_LABEL, "metric": "accuracy"},
        data={**LISTED, "test_table": "test.csv", "pixel_columns": "pixel*"},
    ),
    _form(
        *("state-farm-distracted-driver-detection", _drivers, "Multi Class Log Loss", of_numbers(multiclass_log_loss)),
        competition={**EACH_CLASS, "metric": "log_loss"},
        data={
            "labels": "driver_imgs_list.csv",
            "id_column": "img",
            "label_column": "classname",
            **SAMPLE,
            "train_images": "imgs/train",
            "test_images": "imgs/test",
        },
        split={"group_column": "subject"},
    ),
    _form(
        "humpback-whale-identification",
        lambda: _whales("new_whale", "new_whale w_0001e240 w_001869f w_00112e0 w_0000fab"),
        *("Mean Average Precision", of_labels(map_at_5)),
        competition=MAP_AT_5,
        data={**LISTED, "train_images": "train", "test_images": "test"},
    ),
)
