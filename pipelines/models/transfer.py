"""Fine-tuning: pretrained backbones side by side, a head on top, and which of their parts train.

The top can be trained alone, on cached features of frozen backbones (see `features`).
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.dataset.targets import network_outputs
from pipelines.models.backbones import Backbone, Stage, build_backbone, build_timm, fold_norms, stages
from pipelines.models.first_layer import spread, take_channels
from pipelines.models.label_map import match_labels, start_rows
from pipelines.models.stage_features import add_stages
from pipelines.models.timm_models import categories_of, is_timm
from pipelines.models.weights import Origin
from pipelines.settings.loading import label_map_file
from pipelines.settings.records import with_label_map
from pipelines.settings.schema import Settings
from pipelines.settings.training_sections import ModelSettings
from pipelines.system.errors import UserError, few

WHOLE = -1  # stages: all of them, and the pretrained last layer
LABELS_SHOWN = 10
HEAD = "top.head."  # the head's prefix in the names of the weights


@dataclass(frozen=True)
class Part:
    """Parameters that train at the same rate, or not at all (`lr_share` 0); shown in the table of parts."""

    name: str
    parameters: int
    lr_share: float


class Head(nn.Sequential):
    """Linear layers with dropout before and ReLU between them; maps features (N, D) to logits (N, K)."""

    def __init__(self, dimensions: int, hidden: Sequence[int], classes: int, dropout: float) -> None:
        layers: list[nn.Module] = []
        widths = [dimensions, *hidden, classes]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.ReLU()] if layers else []
            layers += [nn.Dropout(dropout)] if dropout else []
            layers += [nn.Linear(inputs, outputs)]
        super().__init__(*layers)


class Top(nn.Module):
    """The backbones' own last layers, where used, and the head; maps features side by side (N, D) to logits (N, K)."""

    def __init__(
        self, classifiers: Sequence[nn.Linear], classes: int, settings: ModelSettings, widths: Sequence[int] = ()
    ) -> None:
        """widths: the number of features of each backbone; empty: those that its last layer takes."""
        super().__init__()
        self.widths = list(widths) or [classifier.in_features for classifier in classifiers]
        uses_logits = _uses_logits(settings)
        self.classifiers = nn.ModuleList(classifiers if uses_logits else [])
        self.keeps_pooled = settings.features != "logits"
        dimensions = sum(self.widths) if self.keeps_pooled else 0
        dimensions += sum(classifier.out_features for classifier in classifiers) if uses_logits else 0
        self.head = Head(dimensions, settings.hidden, classes, settings.dropout)

    def forward(self, features: Tensor) -> Tensor:
        seen = [features] if self.keeps_pooled else []
        if self.classifiers:
            pooled = features.split(self.widths, dim=1)
            seen += [classifier(each) for classifier, each in zip(self.classifiers, pooled, strict=True)]
        logits: Tensor = self.head(torch.cat(seen, dim=1))
        return logits


class FineTuned(nn.Module):
    """Pretrained backbones side by side with a head on top; `freeze` sets which parts train.

    Frozen covers statistics too: batch norms and dropout of frozen stages stay in evaluation mode even after `train()`.
    """

    def __init__(
        self, backbones: Sequence[Backbone], found: Sequence[Origin], top: Top, label_map: Sequence[str] = ()
    ) -> None:
        """found: the origin of each backbone.  label_map: notes about the outputs that start from pretrained rows."""
        super().__init__()
        self.label_map, self.origins = label_map, list(found)
        self.bodies = list(backbones)  # typed, unlike the items of a ModuleList
        self.backbones = nn.ModuleList(backbones)
        self.top = top
        self._evaluated: list[nn.Module] = []
        self.stages: list[list[Stage]] = [stages(backbone) for backbone in backbones]
        self.freeze(0, norms=False)

    def forward(self, images: Tensor) -> Tensor:
        for module in self._evaluated:  # here, not in train(): there are other ways to set that mode
            module.eval()
        logits: Tensor = self.top(torch.cat([backbone(images) for backbone in self.backbones], dim=1))
        return logits

    def freeze(self, frozen_stages: int, norms: bool) -> None:
        """Freeze weights and statistics of the bottom `frozen_stages` of each backbone; `WHOLE`: of all but the head.

        norms: whether the other batch norms keep their statistics too.  Raises `UserError` for too many stages.
        """
        self._evaluated = [self.backbones, self.top.classifiers] if frozen_stages == WHOLE else []
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        for frozen in self._evaluated:
            for parameter in frozen.parameters():
                parameter.requires_grad_(False)
        if frozen_stages == WHOLE:
            return
        for origin, backbone, found in zip(self.origins, self.bodies, self.stages, strict=True):
            if frozen_stages > len(found):
                raise UserError(
                    f"finetune.frozen_stages is {frozen_stages}, but {origin.name} has {len(found)} stages: "
                    f"{', '.join(stage.name for stage in found)}. To freeze all of it: -1."
                )
            names = {parameter for stage in found[:frozen_stages] for parameter in stage.parameters}
            for name, parameter in backbone.named_parameters():
                parameter.requires_grad_(name not in names)
            for module in backbone.modules():
                if _is_frozen(module) or (norms and isinstance(module, nn.modules.batchnorm._BatchNorm)):
                    self._evaluated.append(module)

    def notes(self) -> list[str]:
        """Return lines about what was taken from the files of weights, and what was not."""
        pairs = zip(self.origins, self.bodies, strict=True)
        notes = [f"{origin.path.name}: {note}." for origin, body in pairs if origin.path for note in body.notes]
        return [*notes, *self.label_map]

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters of the backbones and their own last layers."""
        yield from self.backbones.parameters()
        yield from self.top.classifiers.parameters()

    def parts(self, backbone_lr: float) -> list[Part]:
        """Return the parts from the bottom up; backbone_lr: pretrained learning rate as a share of the head's."""
        found: list[Part] = []
        for origin, backbone, its_stages in zip(self.origins, self.bodies, self.stages, strict=True):
            parameters = dict(backbone.named_parameters())
            learning = [any(parameters[each].requires_grad for each in stage.parameters) for stage in its_stages]
            frozen = learning.count(False)
            for members, share in ((its_stages[:frozen], 0.0), (its_stages[frozen:], backbone_lr)):
                if members:
                    count = _count(parameters[each] for stage in members for each in stage.parameters)
                    span = members[0].name + (f" to {members[-1].name}" if len(members) > 1 else "")
                    found.append(Part(f"{origin.name}: {span}", count, share))
        if self.top.classifiers:
            own = list(self.top.classifiers.parameters())
            found.append(Part("its last layer", _count(own), backbone_lr if own[0].requires_grad else 0.0))
        return [*found, Part("head", _count(self.top.head.parameters()), 1.0)]


def _is_frozen(module: nn.Module) -> bool:
    """Whether `module` has parameters and all of them are frozen."""
    own = list(module.parameters())
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def build_fine_tuned(settings: Settings, classes: Sequence[str], found: Sequence[Origin]) -> FineTuned:
    """Return the network of `settings` on the backbones of `found`, with nothing frozen yet.

    With `finetune.freeze_norms`, batch norms are folded into the convolutions before them: as separate layers they take
    a third of the time of a training step.  Raises `UserError` as `build_backbone`, `match_labels` and `start_rows` do.
    """
    backbones: list[Backbone] = []
    classifiers: list[nn.Linear] = []
    channels = settings.input.channels
    for origin in found:
        facts, needs_head = origin.facts, _use_of_last_layer(settings.model)
        if is_timm(origin.name):
            backbone, classifier = build_timm(origin.name, origin.path, (channels, settings.input.size), needs_head)
        else:
            backbone, classifier = build_backbone(origin.name, origin.path, facts.size if facts else None, needs_head)
            take_channels(backbone.body, origin.name, channels, pretrained=bool(origin.path))
        if settings.model.features == "stages":
            add_stages(backbone, channels, settings.input.size)
        if settings.tuning.freeze_norms:
            backbone = fold_norms(backbone)
        if backbones and facts:  # images are normalised for the first
            own_mean, own_std = spread(facts.mean, channels), spread(facts.std, channels)
            backbone.renormalise(settings.input.mean, settings.input.std, own_mean, own_std)
        backbones.append(backbone)
        classifiers.append(classifier)
    widths = [backbone.dimensions for backbone in backbones]
    top = Top(classifiers, network_outputs(settings, classes), settings.model, widths)
    notes: list[str] = []
    if settings.model.label_map and all(origin.path for origin in found):
        label_map = label_map_file(with_label_map(settings).model.label_map)
        notes = _start_head(top, classifiers, classes, found, label_map)
    return FineTuned(backbones, found, top, notes)


def _uses_logits(model: ModelSettings) -> bool:
    return model.features in ("logits", "both")


def _use_of_last_layer(model: ModelSettings) -> str:
    """Return the setting that uses the pretrained last layer; empty if none does."""
    if _uses_logits(model):
        return f"model.features={model.features}"
    return f"model.label_map={model.label_map}" if model.label_map else ""


def _start_head(
    top: Top, classifiers: Sequence[nn.Linear], classes: Sequence[str], found: Sequence[Origin], label_map: Path | None
) -> list[str]:
    """Initialise the head from the mean of the pretrained classifiers; return lines about the matched classes."""
    categories = [_categories(origin, classifier) for origin, classifier in zip(found, classifiers, strict=True)]
    if any(each != categories[0] for each in categories):
        raise UserError("model.label_map needs networks whose outputs have the same names. Leave it empty for these.")
    if len(categories[0]) != classifiers[0].out_features:
        raise UserError(f"{found[0].path} has {classifiers[0].out_features} outputs for {len(categories[0])} names.")
    matches = match_labels(classes, categories[0], label_map)
    merged = nn.Linear(sum(top.widths), classifiers[0].out_features)
    with torch.no_grad():
        merged.weight.copy_(torch.cat([classifier.weight for classifier in classifiers], dim=1) / len(classifiers))
        biases: list[Tensor] = [classifier.bias for classifier in classifiers if classifier.bias is not None]
        merged.bias.copy_(torch.stack(biases).sum(dim=0) / len(classifiers) if biases else torch.zeros(1))
    layer = top.head[-1]
    assert isinstance(layer, nn.Linear)
    start_rows(layer, merged, matches)
    lines = [f"Label map: {len(matches)} of {len(classes)} outputs start from the pretrained network's own."]
    if without := [name for number, name in enumerate(classes) if number not in matches]:
        lines.append(f"Labels without a category, whose outputs start at random: {few(without, LABELS_SHOWN)}")
    return lines


def _categories(origin: Origin, classifier: nn.Linear) -> list[str]:
    """Return the names of the outputs of `classifier`; 1,000 of unknown origin are assumed to be ImageNet's classes."""
    known = categories_of(origin.name) if is_timm(origin.name) else origin.facts and origin.facts.categories
    if known:
        return known
    from torchvision.models import ResNet34_Weights

    if classifier.out_features != 1000:
        raise UserError(
            f"{origin.path} has {classifier.out_features} outputs without names. model.label_map needs weights with "
            "ImageNet's 1,000 classes; for others, leave it empty."
        )
    categories: list[str] = ResNet34_Weights.IMAGENET1K_V1.meta["categories"]
    return categories


def learned_state(module: nn.Module, head_only: bool) -> dict[str, Tensor]:
    """Return the weights of a network, or of its `Top`, for a checkpoint; head_only: only those of the head."""
    if not head_only:
        return dict(module.state_dict())
    return {HEAD + name: value for name, value in _head_of(module).state_dict().items()}


def load_learned(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load what `learned_state` returned."""
    if is_head_only(state):
        _head_of(module).load_state_dict({name.removeprefix(HEAD): value for name, value in state.items()})
    else:
        module.load_state_dict(state)


def is_head_only(state: Mapping[str, Tensor]) -> bool:
    return all(name.startswith(HEAD) for name in state)


def _head_of(module: nn.Module) -> nn.Module:
    return module.head if isinstance(module, Top) else module.get_submodule(HEAD.rstrip("."))
