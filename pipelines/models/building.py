"""The network that the settings name: one with random weights, a pretrained one with a head, or a detector."""

from collections.abc import Sequence

import torch
from torch import nn

from pipelines.dataset.targets import network_outputs
from pipelines.models.networks import build_model
from pipelines.models.transfer import build_fine_tuned
from pipelines.models.weights import Origin
from pipelines.settings.metrics import BOXES
from pipelines.settings.schema import Settings
from pipelines.system.seeds import derive_seed


def build_network(settings: Settings, classes: Sequence[str], found: Sequence[Origin]) -> nn.Module:
    """Return the network of `settings`, with weights from `found` and random ones seeded by `train.seed`."""
    torch.manual_seed(derive_seed(settings.train.seed, "weights"))
    if settings.competition.task == BOXES:
        from pipelines.models.detectors import build_detector  # takes a second to import

        return build_detector(settings, classes, found)
    if not found:
        image = settings.input
        return build_model(settings.model, network_outputs(settings, classes), image.channels, image.size)
    return build_fine_tuned(settings, classes, found)
