"""A competition of boxes from its archive on, with the smallest detector, for trials of whole stages."""

from pathlib import Path

from tests.support.box_forms import BOX_FORMS

TOML = """
[competition]
task = "boxes"
metric = "box_map_at"
submission = "boxes"
[data]
labels = "train.csv"
label_column = "label"
box_columns = ["x_min", "y_min", "x_max", "y_max"]
sample_submission = "sample_submission.csv"
[split]
valid_ratio = 0.25
folds = {folds}
[input]
size = 32
mean = [0.5, 0.5, 0.5]
std = [0.25, 0.25, 0.25]
[augment]
flip = true
crop_scale = [0.6, 1.0]
colour_jitter = 0.1
[model]
name = "ssdlite320/mobilenet_v3_small"
[train]
epochs = 2
batch_size = 6
optimizer = "adamw"
lr = 1e-3
ema_decay = 0.8
[hardware]
device = "cpu"
precision = "float32"
workers = 0
threads = 1
"""


def make_small_boxes(folder: Path, folds: int = 0) -> Path:
    """Write boxes.toml into `folder`, and return the archive of the competition, which is beside it."""
    (folder / "boxes.toml").write_text(TOML.format(folds=folds))
    (form,) = (each for each in BOX_FORMS if each.name == "corners")
    return form.archive(folder).rename(folder / "boxes.zip")
