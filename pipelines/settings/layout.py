"""Where everything of a competition lies, so that no other module spells out a path."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Layout:
    """The folders and files of one competition below the working folder `root`."""

    root: Path
    competition: str

    @property
    def data(self) -> Path:
        return self.root / "data" / self.competition

    @property
    def raw(self) -> Path:
        """What Kaggle gave, unpacked; never touched after the download."""
        return self.data / "raw"

    @property
    def held_back(self) -> Path:
        """True labels of test images, where they are known; only `score` reads them."""
        return self.data / "held_back" / "labels.csv"

    @property
    def split_csv(self) -> Path:
        return self.data / "split.csv"

    @property
    def split_record(self) -> Path:
        """The settings and inputs that `split_csv` was made from."""
        return self.data / "split.json"

    @property
    def split_lock(self) -> Path:
        """Held by who makes the split; beside what it guards, so that removing that does not remove the lock."""
        return self.data / ".split.lock"

    @property
    def tree(self) -> Path:
        return self.data / "train_valid_test"

    @property
    def cache(self) -> Path:
        return self.data / "cache"

    @property
    def audit(self) -> "AuditLayout":
        return AuditLayout(self.data / "audit")

    @property
    def weights(self) -> Path:
        """Pretrained weights, shared by all competitions."""
        return self.root / "weights"

    def submission(self, name: str) -> Path:
        return self.root / "submissions" / self.competition / f"{name}.csv"

    @property
    def submission_log(self) -> Path:
        """What was sent to Kaggle and what it scored, a row a submission."""
        return self.root / "submissions" / self.competition / "log.csv"

    def submission_lock(self, slug: str) -> Path:
        """Held by who sends to Kaggle's competition `slug` or writes its log: several TOMLs may have the same one."""
        return self.root / "submissions" / f".{slug}.lock"

    def archive(self, slug: str) -> Path:
        """Kaggle's archive of the competition, whole and verified; its SHA-256 lies beside it."""
        return self.data / f"{slug}.zip"

    def comparison(self, name: str, extension: str) -> Path:
        """The table (csv) or the picture (png) of several runs side by side."""
        return self.root / "runs" / self.competition / f"{name}.{extension}"

    def runs(self) -> "list[RunLayout]":
        """All runs that have begun, by name."""
        records = (self.root / "runs" / self.competition).glob("*/run.json")
        return [RunLayout(record.parent) for record in sorted(records)]

    def run(self, name: str) -> "RunLayout":
        return RunLayout(self.root / "runs" / self.competition / name)


@dataclass(frozen=True)
class AuditLayout:
    """What was found in a split that makes scores lie."""

    folder: Path

    @property
    def pairs(self) -> Path:
        """All duplicates, a pair a row, for people."""
        return self.folder / "pairs.csv"

    @property
    def pairs_picture(self) -> Path:
        return self.folder / "pairs.png"

    @property
    def groups(self) -> Path:
        """The labelled rows that belong together: what the setting `split.group_file` takes."""
        return self.folder / "groups.csv"

    @property
    def other_groups(self) -> Path:
        """What is found when the split was made by `groups`, which then has to stay, and is not that."""
        return self.folder / "groups-new.csv"

    @property
    def suspects(self) -> Path:
        """The rows whose prediction most confidently contradicts their label."""
        return self.folder / "suspects.csv"

    @property
    def suspects_picture(self) -> Path:
        return self.folder / "suspects.png"

    @property
    def record(self) -> Path:
        """What was found, in numbers, and by which settings; written last."""
        return self.folder / "audit.json"


@dataclass(frozen=True)
class StateFiles:
    """The files of a training in progress: the last checkpoint, a history row per epoch, and the best checkpoint."""

    last: Path
    history: Path
    best: Path | None = None


@dataclass(frozen=True)
class RunLayout:
    """The files of one training run."""

    folder: Path

    @property
    def lock(self) -> Path:
        """Held by who trains, retrains or predicts: beside the folder, so that removing that does not remove it."""
        return self.folder.with_name(f".{self.folder.name}.lock")

    @property
    def record(self) -> Path:
        """The resolved settings and what they were applied to, written before the first epoch."""
        return self.folder / "run.json"

    @property
    def trained(self) -> Path:
        """Written when training ended: the best epoch, its score, and where it was measured."""
        return self.folder / "train.json"

    @property
    def retrained(self) -> Path:
        """Written when retraining ended."""
        return self.folder / "retrain.json"

    @property
    def predicted(self) -> Path:
        """What was predicted from this run: one entry per submission."""
        return self.folder / "predict.json"

    @property
    def valid_predictions(self) -> Path:
        """What best.pt, which did not learn from them, predicts of the valid rows."""
        return self.folder / "valid_predictions.csv"

    @property
    def precision(self) -> Path:
        """Which precision was faster when the run began, where that was tried."""
        return self.folder / "precision.json"

    @property
    def history(self) -> Path:
        return self.folder / "history.csv"

    @property
    def retrain_history(self) -> Path:
        return self.folder / "retrain_history.csv"

    @property
    def best(self) -> Path:
        return self.folder / "best.pt"

    @property
    def last(self) -> Path:
        return self.folder / "last.pt"

    @property
    def retrain_last(self) -> Path:
        return self.folder / "retrain_last.pt"

    @property
    def final(self) -> Path:
        return self.folder / "final.pt"

    @property
    def training(self) -> "StateFiles":
        """The files of `train`."""
        return StateFiles(self.last, self.history, self.best)

    @property
    def retraining(self) -> "StateFiles":
        """The files of `retrain`, which scores nothing and so has no best epoch."""
        return StateFiles(self.retrain_last, self.retrain_history)

    @property
    def curves(self) -> Path:
        return self.folder / "curves.png"

    @property
    def mistakes(self) -> Path:
        return self.folder / "mistakes.png"

    @property
    def confusion(self) -> Path:
        return self.folder / "confusion.png"
