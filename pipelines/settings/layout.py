"""The paths of all files and folders of a competition, so that no other module spells them out."""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pipelines.system.files import file_sha256
from pipelines.system.shell import names_in

BOXES_CSV = "boxes.csv"


def split_sha256(split_csv: Path) -> str:
    """Return the SHA-256 of a split: of split.csv, and of the boxes beside it if there are any."""
    digest, boxes = file_sha256(split_csv), split_csv.with_name(BOXES_CSV)
    return hashlib.sha256(f"{digest}{file_sha256(boxes)}".encode()).hexdigest() if boxes.exists() else digest


class Below:
    """A path below `base`, another path of the same object; `{competition}` in it is that field of the object."""

    def __init__(self, place: str, base: str = "folder") -> None:
        self.place, self.base = place, base

    def __get__(self, owner: object, kind: type) -> Path:
        folder: Path = getattr(owner, self.base)
        return folder / self.place.format_map(vars(owner))


@dataclass(frozen=True)
class AuditLayout:
    """The results of `audit`: what makes the scores of a split unreliable."""

    folder: Path

    pairs = Below("pairs.csv")  # all duplicates, one pair per row
    pairs_picture = Below("pairs.png")
    groups = Below("groups.csv")  # labelled rows that belong together, for split.group_file
    other_groups = Below("groups-new.csv")  # written instead where the split was made with groups.csv, which must stay
    suspects = Below("suspects.csv")  # rows whose prediction contradicts their label most confidently
    suspects_picture = Below("suspects.png")
    record = Below("audit.json")  # the counts and the settings used; written last


@dataclass(frozen=True)
class StateFiles:
    """The files of a training in progress: the last checkpoint, a history row per epoch, and the best checkpoint."""

    last: Path
    history: Path
    best: Path | None = None


@dataclass(frozen=True)
class RunLayout:
    """The files of one training run, or of a fold set, whose members are runs in folders below it."""

    folder: Path

    record = Below("run.json")  # the resolved settings and the split's hash, written before the first epoch
    trained = Below("train.json")  # written at the end of training: the best epoch, its score, the hardware
    retrained = Below("retrain.json")  # written at the end of retraining
    predicted = Below("predict.json")  # one entry per submission
    precision = Below("precision.json")  # the faster precision and convolutions at the start of the run, if measured
    search = Below("search.csv")  # the heads that train.search tried, with their scores
    log = Below("train.log")  # of a member of a fold set: what its training printed
    valid_predictions = Below("valid_predictions.csv")  # predictions of best.pt on the validation rows
    oof = Below("oof.csv")  # all predictions of rows that the predicting network was not trained on (out of fold)
    test_predictions = Below("test_predictions.npy")  # of the test images, before a temperature or thresholds
    folds = Below("folds.json")  # of a fold set: its members and their scores, written last
    blend = Below("blend.json")  # of a blend: its members and their weights, written last
    blend_table = Below("blend.csv")  # of a blend: score and weight of each member, and the score without it
    correlations = Below("correlation.csv")  # of a blend: of the members' errors
    correlations_picture = Below("correlation.png")
    history = Below("history.csv")
    retrain_history = Below("retrain_history.csv")
    best = Below("best.pt")
    last = Below("last.pt")
    retrain_last = Below("retrain_last.pt")
    final = Below("final.pt")
    curves = Below("curves.png")
    events = Below("tensorboard")  # with train.tensorboard: event files of train and retrain, in a folder each
    mistakes = Below("mistakes.png")
    confusion = Below("confusion.png")
    by_label = Below("labels.png")  # several labels: precision and recall of each
    by_number = Below("numbers.png")  # numbers: predicted against true
    of_boxes = Below("boxes.png")  # boxes: precision and recall of each class, and sizes
    summary = Below("summary.csv")  # the most confused of many classes; or a row for each label or number

    @property
    def training(self) -> StateFiles:
        return StateFiles(self.last, self.history, self.best)

    @property
    def retraining(self) -> StateFiles:  # without a validation set, and so without a best epoch
        return StateFiles(self.retrain_last, self.retrain_history)

    def member(self, name: str) -> "RunLayout":
        """Return a member of a fold set, a run in a folder below this one."""
        return RunLayout(self.folder / name)

    @property
    def lock(self) -> Path:
        """The lock held while training, retraining or predicting; outside the folder, so `rm -r` leaves it."""
        return self.folder.with_name(f".{self.folder.name}.lock")


@dataclass(frozen=True)
class Layout:
    """The files and folders of one competition below the working folder `root`."""

    root: Path
    competition: str

    data = Below("data/{competition}", "root")
    runs_folder = Below("runs/{competition}", "root")
    submissions = Below("submissions/{competition}", "root")
    weights = Below("weights", "root")  # pretrained weights, shared by all competitions
    raw = Below("raw", "data")  # the unpacked data; never changed after the download
    held_back = Below("held_back/labels.csv", "data")  # true labels of test images, if known; only `score` reads them
    look_picture = Below("look.png", "data")  # the data before training; without look_record, examples of `new` alone
    look_table = Below("look.csv", "data")  # its facts, a row each, with a column for each part of the split
    look_record = Below("look.json", "data")  # everything in the picture as text and numbers; written last
    split_csv = Below("split.csv", "data")
    boxes_csv = Below(BOXES_CSV, "data")  # task boxes: those of the labelled rows of split_csv
    split_record = Below("split.json", "data")  # the settings and inputs of split_csv
    split_lock = Below(".split.lock", "data")  # held while splitting; outside the tree, so `rm -r` leaves it
    tree = Below("train_valid_test", "data")
    images = Below("images", "data")  # written from data.pixel_columns, with the tables without these; part of a split
    dropped = Below("dropped.csv", "data")  # rows of tables that the split leaves out; absent if there are none
    damaged = Below("damaged.csv", "data")  # images that cannot be decoded; absent if there are none
    cache = Below("cache", "data")
    report = Below("report.html", "runs_folder")  # one page on all runs
    submission_log = Below("log.csv", "submissions")  # one row per submission to Kaggle, with its scores
    submission_limits = Below("limits.json", "submissions")  # how many were left when Kaggle last said so

    @property
    def audit(self) -> AuditLayout:
        return AuditLayout(self.data / "audit")

    def archive(self, slug: str) -> Path:
        return self.data / f"{slug}.zip"  # verified; a file beside it holds its SHA-256

    def submission(self, name: str) -> Path:
        return self.submissions / f"{name}.csv"

    def submission_lock(self, slug: str) -> Path:
        """The lock held while submitting to `slug` or writing its log; by slug, which several TOMLs may share."""
        return self.root / "submissions" / f".{slug}.lock"

    def comparison(self, name: str, extension: str) -> Path:
        return self.runs_folder / f"{name}.{extension}"

    def run(self, name: str, member: str = "") -> RunLayout:
        """Return the files of the run `name`, or of a `member` of this fold set."""
        return RunLayout(self.runs_folder / name / member)

    def names_in(self, texts: Sequence[str]) -> list[str]:
        """Return the names of runs in `texts`, values given to make; one that is the name of a run is not divided."""
        return [name for text in texts for name in ([text] if self.run(text).record.exists() else names_in(text))]

    def runs(self) -> list[RunLayout]:
        """Return all runs that have a record, sorted by name."""
        return [RunLayout(record.parent) for record in sorted(self.runs_folder.glob("*/run.json"))]
