"""Self-sufficient checkpoints: weights, settings, classes and score in one file, written atomically."""

import hashlib
import pickle
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from pipelines.models.building import build_network
from pipelines.models.transfer import is_head_only, load_learned
from pipelines.models.weights import find_origins
from pipelines.settings.layout import RunLayout
from pipelines.settings.loading import from_dict, merge, to_dict
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.files import atomic_file
from pipelines.system.shell import path_word, removal
from pipelines.system.signals import undisturbed

FORMAT = 2


@dataclass(frozen=True)
class Checkpoint:
    """The state after `epoch` epochs.  score: on the validation set, if any.  history: one plain dict per epoch.

    training: optimiser and averaged weights, to resume; empty where training has ended.  scale: of numbers, see
    `Task.scale`; a file without it has the other tasks.
    """

    settings: Settings
    classes: list[str]
    weights: dict[str, Any]
    epoch: int
    score: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)
    training: dict[str, Any] = field(default_factory=dict)
    scale: dict[str, Any] = field(default_factory=dict)

    @property
    def head_only(self) -> bool:
        """Whether these are the weights of the head alone, on unchanged pretrained backbones."""
        return is_head_only(self.weights)

    def model(self, classes: list[str], pretrained: Path) -> nn.Module:
        """Return the network with these weights.  pretrained: the folder of weights, needed for a head alone.

        Raises `UserError` for other `classes` than in training, and for missing or changed pretrained weights.
        """
        self.check_classes(classes)
        found = find_origins(self.settings.model, pretrained, with_files=self.head_only)
        settings = merge(self.settings, {"model": {"label_map": ""}}, "model")  # trained weights replace it
        model = build_network(settings, classes, found)
        load_learned(model, self.weights)
        return model

    def check_classes(self, classes: list[str]) -> None:
        """Raise `UserError` where the class lists differ: the outputs would mean other labels."""
        if classes != self.classes:
            unknown, gone = sorted(set(classes) - set(self.classes)), sorted(set(self.classes) - set(classes))
            change = f"new {unknown[:5]}, gone {gone[:5]}" if unknown or gone else "the same classes in another order"
            raise UserError(
                f"The checkpoint was trained on {len(self.classes)} classes, but the data now has {len(classes)}: "
                f"{change}. Train again on this data, under another RUN=."
            )


def weights_sha256(path: Path) -> str:
    """Return the SHA-256 of the weights of the checkpoint at `path`; the file also holds the seconds of each epoch."""
    digest = hashlib.sha256()
    for name, values in sorted(load(path).weights.items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}".encode())
        digest.update(values.contiguous().flatten().view(torch.uint8).numpy())
    return digest.hexdigest()


def finished(checkpoint: Checkpoint) -> Checkpoint:
    """Return `checkpoint` without the state for further training."""
    return replace(checkpoint, training={})


def save(path: Path, checkpoint: Checkpoint) -> None:
    """Write `checkpoint` to `path` atomically, as tensors and plain values; the folder must exist."""
    content: dict[str, Any] = {"format": FORMAT} | vars(checkpoint) | {"settings": to_dict(checkpoint.settings)}
    if not checkpoint.scale:
        del content["scale"]
    # torch would turn an interrupt while it writes into a RuntimeError.
    with undisturbed(), atomic_file(path, make_folder=False) as partial, open(partial, "wb") as file:
        try:
            torch.save(content, file)  # by name, torch would not say that the disk is full
        except RuntimeError as error:
            if isinstance(full := error.__context__, OSError):  # torch tries to end the file, and fails again
                raise full from None
            raise


def load(path: Path) -> Checkpoint:
    """Return the checkpoint at `path`, on the CPU, without running code in it.  Raises `UserError` if this fails."""
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"There is no checkpoint {path_word(path)}. {_again(path)}") from None
    except pickle.UnpicklingError:  # its own message advises to run the code
        raise UserError(
            f"{path_word(path)} cannot be read as a checkpoint: torch did not write it, or it contains code, which "
            f"is not run. {_again(path)}"
        ) from None
    except Exception as error:  # torch raises many types for damaged files, from RuntimeError to EOFError
        reason = (str(error) or type(error).__name__).splitlines()[0].partition(". ")[0].rstrip(".")
        problem = f"it is cut short or damaged ({reason})"
        raise UserError(f"{path_word(path)} cannot be read as a checkpoint: {problem}. {_again(path)}") from None
    keys = {"format", *(field.name for field in fields(Checkpoint))}
    if not isinstance(content, dict) or content.get("format") != FORMAT or content.keys() | {"scale"} != keys:
        raise UserError(f"{path_word(path)} is not a checkpoint of this project (format {FORMAT}). {_again(path)}")
    settings = from_dict(content["settings"], str(path))
    return Checkpoint(**{key: content[key] for key in content.keys() - {"format"}} | {"settings": settings})


def _again(path: Path) -> str:
    """Return how to make the checkpoint at `path` again: the files of a run depend on each other."""
    if path.name in (RunLayout(path.parent).final.name, RunLayout(path.parent).retrain_last.name):
        return f"Remove it, then retrain: {removal(path)}"
    return f"Remove the whole run, then train again: {removal(path.parent)}"
