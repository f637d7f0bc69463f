"""Checkpoints that stand alone: weights, settings, classes and score in one file, written whole or not at all."""

import pickle
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.models.transfer import build_network, find_origins, is_head_only, load_learned
from pipelines.settings.loading import from_dict, merge, to_dict
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import atomic_file
from pipelines.system.signals import undisturbed

FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state after `epoch` epochs.

    score: on the validation rows, or None where there were none.  history: one plain dict per epoch.  training: what
    is needed to go on (optimiser, averaged weights); empty where training has ended.
    """

    settings: Settings
    classes: list[str]
    weights: dict[str, Any]
    epoch: int
    score: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)

    @property
    def head_only(self) -> bool:
        """Whether these are a head's weights alone, the rest being a pretrained network as it came."""
        return is_head_only(self.weights)

    def model(self, classes: list[str], pretrained: Path) -> nn.Module:
        """Return the network with these weights.

        pretrained: the folder of pretrained weights, needed where only a head has learned.  Raises `UserError` where
        it was not trained on `classes`, and where pretrained weights are missing or no longer the same.
        """
        self.check_classes(classes)
        found = find_origins(self.settings.model, pretrained, with_files=self.head_only)
        settings = merge(self.settings, {"model": {"label_map": ""}}, "model")  # where the head began no longer matters
        model = build_network(settings, classes, found)
        load_learned(model, self.weights)
        return model

    def check_classes(self, classes: list[str]) -> None:
        """Raise `UserError` where the class lists differ: the network's outputs would stand for other labels."""
        if classes != self.classes:
            unknown, gone = sorted(set(classes) - set(self.classes)), sorted(set(self.classes) - set(classes))
            change = f"new {unknown[:5]}, gone {gone[:5]}" if unknown or gone else "the same ones in another order"
            raise UserError(
                f"The checkpoint was trained on {len(self.classes)} classes, but the data now has {len(classes)}: "
                f"{change}. Train again on this data, under another RUN=."
            )


def finished(checkpoint: Checkpoint) -> Checkpoint:
    """Return `checkpoint` without what only further training needs."""
    return replace(checkpoint, training={})


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path`, whose folder is there, atomically, as tensors and plain values only."""
    content = {
        "format": FORMAT,
        "settings": to_dict(checkpoint.settings),
        "classes": checkpoint.classes,
        "weights": checkpoint.weights,
        "epoch": checkpoint.epoch,
        "score": checkpoint.score,
        "history": checkpoint.history,
        "training": checkpoint.training,
    }
    # Interrupted while it writes, torch raises a RuntimeError of its own.
    with undisturbed(), atomic_file(path, make_folder=False) as partial, open(partial, "wb") as file:
        torch.save(content, file)  # not by its name: torch would report a full disk as a RuntimeError of its own


def load(path: Path) -> Checkpoint:
    """Read the checkpoint at `path` onto the CPU; never unpickles code.

    Raises `UserError` for a file that is missing, cut short, or not a checkpoint of this project.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path}.") from None
    except pickle.UnpicklingError:  # whose own words advise to run the code
        raise UserError(
            f"{path} cannot be read as a checkpoint: it is not a file of torch's, or holds code beside the tensors, "
            "which is not run. Remove it and train again."
        ) from None
    except Exception as error:
        # torch answers damage with half a dozen exception types, from RuntimeError to KeyError and EOFError.
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(f"{path} cannot be read as a checkpoint: {reason}. Remove it and train again.") from None
    keys = {"format", *(field.name for field in fields(Checkpoint))}
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.keys() != keys:
        raise UserError(f"{path} is not a checkpoint of this project (format {FORMAT}). Remove it and train again.")
    settings = from_dict(content["settings"], str(path))
    return Checkpoint(**{key: content[key] for key in keys - {"format"}} | {"settings": settings})
