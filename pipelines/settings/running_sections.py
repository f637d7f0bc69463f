"""The sections of settings that no training depends on."""

import dataclasses
from collections.abc import Iterator
from typing import Literal

from pipelines.settings.addresses import dataset_name, model_name
from pipelines.settings.section import Section, option
from pipelines.system.errors import few


@dataclasses.dataclass(frozen=True)
class PredictSettings(Section):
    """How test images are predicted. A run does not depend on it: one run can be predicted in several ways."""

    checkpoint: Literal["final", "best"] = option("final", "final: retrained on all labelled rows; best: by validation")
    members: Literal["folds", "final", "both"] = option(
        "folds", "fold sets: average the networks of the folds; final: the one retrained on all rows; both: all of them"
    )
    mirror: bool = option(False, "average predictions over an image and its mirror (cached features: over all views)")
    shift: int = option(0, "average predictions over shifts by this number of pixels; 0: off", minimum=0)
    batch_size: int = option(0, "number of images in a batch; 0: 128, or for a GPU up to 2048 small ones", minimum=0)
    calibrate: bool = option(True, "metrics of log loss: fit a temperature on the validation rows (arXiv 1706.04599)")
    choose: bool = option(
        True, "fit on the validation rows what the metric leaves open: thresholds (fbeta), cut points (quadratic_kappa)"
    )
    thresholds: Literal["one", "per_label"] = option("one", "fbeta with several labels: thresholds to choose")
    answer_range: tuple[float, ...] = option((), "numbers: least and most to send; empty: of the labelled rows")

    def problems(self) -> Iterator[str]:
        if self.answer_range and not (len(self.answer_range) == 2 and self.answer_range[0] < self.answer_range[1]):
            yield f"predict.answer_range is {list(self.answer_range)}; it takes two numbers, the least and the most."


@dataclasses.dataclass(frozen=True)
class HardwareSettings(Section):
    """Device, precision, processes and threads. A run does not depend on it."""

    device: str = option("auto", "auto: cuda if available, else cpu; or a torch device name: cuda:1, mps")
    precision: Literal["auto", "float32", "bfloat16"] = option(
        "auto", "auto: bfloat16 where the hardware is fast at it; a CPU measures both before a long training"
    )
    side_by_side: int = option(
        -1,
        "train convolutions of maps up to this width, in pixels, side by side in wide maps, on a CPU; 0: none; "
        "-1: as measured before a long training",
        minimum=-1,
    )
    workers: int = option(
        -1,
        "processes that decode photos; 0: decode in the main process; -1: 2, or for a GPU one per core but one",
        minimum=-1,
    )
    cache_by: Literal["time", "bytes"] = option(
        "time", "decode packed images again if a file's size or time changed (time), or its content (bytes)"
    )
    threads: int = option(0, "number of compute threads on a CPU; 0: torch's default, one per core", minimum=0)
    compile: bool = option(True, "use torch.compile to compute the features of many images, if it works here")
    compile_training: bool = option(
        False, "use torch.compile for training, for GPUs waiting on small kernels; a resumed run may round differently"
    )

    def problems(self) -> Iterator[str]:
        if self.compile_training and self.side_by_side > 0:
            yield (
                f"hardware.side_by_side is {self.side_by_side}, but hardware.compile_training is true; set "
                "hardware.side_by_side = 0."
            )


@dataclasses.dataclass(frozen=True)
class KaggleSettings(Section):
    """Time limits of calls to Kaggle, and the options of a Kaggle kernel. A run does not depend on it."""

    stall_seconds: float = option(120.0, "stop a call, download or upload without progress for this long", above=0)
    score_minutes: float = option(15.0, "how long `submit` waits for the score", minimum=0)
    accelerator: str = option("NvidiaTeslaT4", "kernel: Kaggle's name of the accelerator; empty: CPU only")
    internet: bool = option(False, "kernel: allow internet access; without it, attach pretrained weights")
    dataset_sources: tuple[str, ...] = option((), "kernel: datasets to attach: owner/name, or their addresses")
    model_sources: tuple[str, ...] = option((), "kernel: models to attach: owner/model/framework/variation/version")
    kernel_hours: float = option(12.0, "kernel: longest running time; its command waits as long", above=0, maximum=12)

    def problems(self) -> Iterator[str]:
        if wrong := [source for source in self.dataset_sources if not dataset_name(source)]:
            form = "owner/name, as in the dataset's address: https://www.kaggle.com/datasets/owner/name"
            data = " The data of competition.slug itself are always attached." if "/c" in "".join(wrong) else ""
            yield f"kaggle.dataset_sources holds {few(wrong)}; each must be {form}.{data}"
        if wrong := [source for source in self.model_sources if not model_name(source)]:
            form = "owner/model/framework/variation/version, such as google/efficientnet/pyTorch/b0/1"
            yield f"kaggle.model_sources holds {few(wrong)}; each must be {form}."


@dataclasses.dataclass(frozen=True)
class AuditSettings(Section):
    """Which images `audit` counts as near duplicates. A run does not depend on it."""

    distance: int = option(56, "largest number of different bits of two hashes, of 255", minimum=0, maximum=100)
    correlation: float = option(0.85, "least correlation of luminance at 32 x 32 pixels", minimum=0, maximum=1)
