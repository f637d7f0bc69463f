"""Compute features by a frozen backbone fast, in a precision whose features are close to those in float32."""

import contextlib
import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from pipelines.dataset.augment import normalise, to_float
from pipelines.models.backbones import Backbone, fold_norms
from pipelines.models.device import Hardware, settle
from pipelines.settings.schema import Settings
from pipelines.system.errors import UserError
from pipelines.system.group import Group

IMAGES_AT_ONCE = 64
FOLDED_COSINE = 0.999  # least cosine between bfloat16 and float32 features for which norms are folded
LEAST_COSINE = 0.99  # and for which bfloat16 is used at all
Features = npt.NDArray[np.float32]


class Extractor:
    """A backbone in a chosen precision, channels last, with norms folded and compiled where that pays."""

    def __init__(self, backbone: Backbone, settings: Settings, hardware: Hardware, folded: bool) -> None:
        """folded: fold norms away, which rounds biases to bfloat16 too; else norms stay in float32, which is slower."""
        self.backbone, self.settings, self.hardware, self.folded = backbone, settings, hardware, folded
        self.likeness: float | None = None  # the least cosine to float32 features, if measured
        network = fold_norms(backbone).to(dtype=hardware.dtype) if folded else copy.deepcopy(backbone).eval()
        self.plain: nn.Module = network.to(hardware.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.compiled: Callable[[Tensor], Tensor] | None = None
        self.problem = ""

    def compile(self) -> "Extractor":
        """Compile the network, where torch can on this system; return self."""
        try:
            self.compiled = torch.compile(self.plain)
        except Exception as error:  # not supported on this Python or system
            self.problem = _first_line(error)
        return self

    def __call__(self, pixels: Tensor, mirrored: bool) -> Features:
        """Return the features, float32 (N, D), of at most `IMAGES_AT_ONCE` uint8 pictures (N, H, W, 3)."""
        count = len(pixels)
        if count < IMAGES_AT_ONCE:  # always the same shape: another one would be compiled and rounded differently
            pixels = torch.cat([pixels, pixels[:1].expand(IMAGES_AT_ONCE - count, -1, -1, -1)])
        found = self.features(pixels, mirrored)[:count]
        if not np.isfinite(found).all():
            raise UserError(
                f"The features are not finite numbers in {self.describe()}. Either the file of weights holds "
                "NaN or infinite numbers: take another one; or they do not belong to input.mean and input.std."
            )
        return found

    def recipe(self, group: Group) -> "Recipe | None":
        """Return what makes this extractor in the other processes of `group`; None if there are none."""
        if group.world == 1:
            return None
        backbone = copy.deepcopy(self.backbone).cpu()
        return Recipe(backbone, self.settings, self.hardware, self.folded, self.compiled is not None)

    def describe(self) -> str:
        """Return how the features are computed, in a few words."""
        how = str(self.hardware.dtype).removeprefix("torch.") + ("" if self.folded else ", norms in float32")
        how += f", cosine to float32 at least {self.likeness:.4f}" if self.likeness is not None else ""
        if self.compiled is not None:
            return f"{how}, compiled"
        return f"{how}, not compiled ({self.problem})" if self.problem else how

    @torch.inference_mode()
    def features(self, pixels: Tensor, mirrored: bool = False) -> Features:
        """Return the features of any number of pictures."""
        pictures = to_float(pixels.to(self.hardware.device, non_blocking=True))
        pictures = normalise(pictures, self.settings.input.mean, self.settings.input.std)
        if mirrored:
            pictures = pictures.flip(3)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        with contextlib.nullcontext() if self.folded else self.hardware.autocast():
            features = self._forward(pictures.to(self.hardware.dtype) if self.folded else pictures)
        result: Features = features.float().cpu().numpy()
        return result

    def _forward(self, pictures: Tensor) -> Tensor:
        if self.compiled is not None:
            logger = logging.getLogger("torch.utils.cpp_extension")
            level = logger.level
            logger.setLevel(logging.ERROR)  # while torch compiles for a processor, it warns that there is no GPU
            try:
                return self.compiled(pictures)
            except torch.OutOfMemoryError:
                raise
            except Exception as error:  # compilers fail in many ways: none is installed, or not for this network
                self.compiled, self.problem = None, _first_line(error)
            finally:
                logger.setLevel(level)
        features: Tensor = self.plain(pictures)
        return features


@dataclass(frozen=True)
class Recipe:
    """An extractor as the main process has chosen it, to be made in another process; see `Extractor`."""

    backbone: Backbone
    settings: Settings
    hardware: Hardware
    folded: bool
    compiled: bool

    def make(self, group: Group) -> Extractor:
        """Return the extractor for the process of `group` that this is."""
        settle(self.settings.hardware)
        hardware = self.hardware.of(group)
        # Moved first, as in the main process: norms folded elsewhere are rounded differently.
        extractor = Extractor(self.backbone.to(hardware.device), self.settings, hardware, self.folded)
        return extractor.compile() if self.compiled else extractor


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def choose_extractor(
    backbone: Backbone, settings: Settings, hardware: Hardware, compiled: bool, probe: Tensor
) -> Extractor:
    """Return the fastest extractor whose features of `probe`, uint8 (n, H, W, 3), are close to those in float32.

    Folded norms are fastest, but bfloat16 rounds large biases too much.  Where the least cosine is below
    `FOLDED_COSINE`, norms stay in float32; where it is then below `LEAST_COSINE`, everything does.
    """
    exact = replace(hardware, dtype=torch.float32)
    extractor = None
    if hardware.dtype != torch.float32:
        expected = Extractor(backbone, settings, exact, folded=False).features(probe)
        for folded, least in ((True, FOLDED_COSINE), (False, LEAST_COSINE)):
            extractor = Extractor(backbone, settings, hardware, folded)
            found = extractor.features(probe)
            extractor.likeness = _least_cosine(expected, found) if np.isfinite(found).all() else 0.0
            if extractor.likeness >= least:
                break
            extractor = None
    extractor = extractor or Extractor(backbone, settings, exact, folded=True)
    return extractor.compile() if compiled else extractor


def _least_cosine(ours: Features, theirs: Features) -> float:
    """Return the least cosine between rows; equal rows count as 1, even zeros, which have no direction."""
    cosines = torch.cosine_similarity(torch.from_numpy(ours), torch.from_numpy(theirs), dim=1)
    cosines[torch.from_numpy((ours == theirs).all(axis=1))] = 1
    return cosines.min().item()
