"""scikit-learn's 1,797 handwritten digits in the form of a Kaggle competition: a trial without network."""

from collections.abc import Iterable
from pathlib import Path

from pipelines.system.files import atomic_folder, write_text

TEST_IMAGES = 500
SEED = 0


def write_digits(raw: Path, held_back: Path) -> None:
    """Write `raw`/{train,test}/<id>.png, labels.csv and sample_submission.csv, and the test labels to `held_back`.

    The images are grey PNGs of 8 x 8 pixels, 0 to 255; the test images are a stratified sample. Train ids are 1 to
    1,297 and test ids 1 to 500, in random order. Every call writes the same bytes.
    """
    from PIL import Image
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    pixels = (digits.images * (255 / 16)).round().astype("uint8")  # values are 0 to 16
    train_pixels, test_pixels, train_labels, test_labels = train_test_split(
        pixels, digits.target, test_size=TEST_IMAGES, stratify=digits.target, random_state=SEED
    )
    write_text(held_back, _table(test_labels))  # first: an existing raw folder means that both exist
    with atomic_folder(raw) as folder:
        for name, images in (("train", train_pixels), ("test", test_pixels)):
            (folder / name).mkdir()
            for number, image in enumerate(images, start=1):
                Image.fromarray(image).save(folder / name / f"{number}.png")
        write_text(folder / "labels.csv", _table(train_labels))
        write_text(folder / "sample_submission.csv", _table([0] * TEST_IMAGES))


def _table(labels: Iterable[int]) -> str:
    return "id,label\n" + "".join(f"{number},{label}\n" for number, label in enumerate(labels, start=1))
