"""Fine-tuning: pretrained networks side by side, the head on top of them, and which of their parts learn.

The parts are built so that the top can be trained on features alone, of which a cache holds what frozen backbones make
of each image (see `features`), and then be put back on its backbones.
"""

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from pipelines.models.backbones import Backbone, Stage, build_backbone, fold_norms, stages
from pipelines.models.label_map import match_labels, start_rows
from pipelines.models.networks import build_model
from pipelines.models.published import AUXILIARY_HEADS, is_published_name, published, recognised
from pipelines.models.weights import find_weights
from pipelines.settings.loading import COMPETITIONS, merge, with_input
from pipelines.settings.schema import PLAIN_INPUT, ModelSettings, Settings
from pipelines.system.errors import UserError
from pipelines.system.seeds import derive_seed
from pipelines.system.watch import Watch, unwatched

WHOLE = -1  # stages: all of them, and the pretrained last layer


@dataclass(frozen=True)
class Origin:
    """Where one backbone comes from: a network's name and its weights.

    path, sha256: of the file of weights; None for a network that starts fresh, or whose weights a checkpoint holds.
    mean, std, size, resize, categories: what published weights ask of their images, and the names of their outputs;
    None where nobody says.
    """

    name: str
    path: Path | None = None
    sha256: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    size: int | None = None
    resize: int | None = None
    categories: list[str] | None = None


@dataclass(frozen=True)
class Part:
    """Parameters that learn at the same rate, or not at all (`lr_share` 0), for people to read."""

    name: str
    parameters: int
    lr_share: float


def find_origins(
    settings: ModelSettings, folder: Path, with_files: bool = True, watch: Watch = unwatched
) -> list[Origin]:
    """Return the backbones that `settings` name, their weights found (or fetched into `folder`) and checked; none for a
    network without pretrained weights.

    with_files: false where the weights themselves are not needed, since a checkpoint holds them.  Raises `UserError`
    where the numbers of names, weights and hashes differ, and as `find_weights` does.
    """
    if not settings.weights:
        return []
    names = settings.name.split("+")

    def one_each(text: str, key: str, for_all: bool) -> list[str]:
        values = text.split("+") if len(names) > 1 else [text]  # a path may well hold a plus
        if len(values) == 1 and for_all:
            values *= len(names)
        if len(values) != len(names):
            raise UserError(f"{key} has {len(values)} parts, {text!r}, for the {len(names)} of {settings.name!r}.")
        return values

    sources = one_each(settings.weights, "model.weights", for_all=is_published_name(settings.weights))
    hashes = one_each(settings.weights_sha256, "model.weights_sha256", for_all=not settings.weights_sha256)
    found = []
    for name, source, sha256 in zip(names, sources, hashes, strict=True):
        path = None
        if with_files and settings.pretrained:
            weights = find_weights(name, source, sha256, folder, watch)
            path, sha256 = weights.path, weights.sha256
        facts = published(name, source) if is_published_name(source) else None
        if facts is None and name not in AUXILIARY_HEADS:  # of these the file alone does not say all
            facts = recognised(name, sha256)
        its = (facts.mean, facts.std, facts.size, facts.resize, facts.categories) if facts is not None else ()
        found.append(Origin(name, path, sha256 if settings.pretrained else None, *its))
    return found


def resolve(settings: Settings, found: Sequence[Origin]) -> Settings:
    """Return `settings` with all that the weights determine: their SHA-256, and where the settings leave it open, the
    size and normalisation of images that the first backbone asks for.

    Raises `UserError` for a file of weights that says nothing about its images, where the settings do not either.
    """
    if not found:
        return settings
    if all(origin.sha256 for origin in found):
        sha256 = "+".join(str(origin.sha256) for origin in found)
        settings = merge(settings, {"model": {"weights_sha256": sha256}}, "model")
    first, image = found[0], settings.input
    if first.mean is not None:
        resize = first.resize if image.size in (0, first.size) else 0
        return with_input(settings, size=first.size, mean=first.mean, std=first.std, resize=resize)
    if first.path is None:  # fresh weights: any normalisation will do
        return with_input(settings, **PLAIN_INPUT)
    if not (image.size and image.mean and image.std):
        raise UserError(
            f"{first.path} does not say what its images were like: set input.size, input.mean and input.std. "
            "Networks from torchvision mostly take 224, [0.485, 0.456, 0.406] and [0.229, 0.224, 0.225]."
        )
    return settings


def build_network(settings: Settings, classes: Sequence[str], found: Sequence[Origin]) -> nn.Module:
    """Return the network that `settings` describe, with weights from `found` and fresh ones seeded by `train.seed`."""
    torch.manual_seed(derive_seed(settings.train.seed, "weights"))
    if not found:
        return build_model(settings.model, len(classes))
    return build_fine_tuned(settings, classes, found)


class Head(nn.Sequential):
    """Dropout and a linear layer, for each hidden width with a ReLU between; maps features (N, D) to logits (N, K)."""

    def __init__(self, dimensions: int, hidden: Sequence[int], classes: int, dropout: float) -> None:
        layers: list[nn.Module] = []
        widths = [dimensions, *hidden, classes]
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.ReLU()] if layers else []
            layers += [nn.Dropout(dropout)] if dropout else []
            layers += [nn.Linear(inputs, outputs)]
        super().__init__(*layers)


class Top(nn.Module):
    """What stands on the pooled features of all backbones: their own last layers, where those are used, and the head.

    `forward` maps features (N, D), the backbones' side by side, to logits (N, K).
    """

    def __init__(self, classifiers: Sequence[nn.Linear], classes: int, settings: ModelSettings) -> None:
        super().__init__()
        self.widths = [classifier.in_features for classifier in classifiers]
        uses_logits = settings.features != "pooled"
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
    """Pretrained backbones side by side with a head on top, of which `freeze` says what learns.

    What is frozen is so in its statistics too: batch norms and dropout of frozen stages stay in evaluation mode
    whatever calls `train()`.
    """

    def __init__(self, backbones: Sequence[Backbone], found: Sequence[Origin], top: Top, matched: int = 0) -> None:
        """found: where each of `backbones` comes from.  matched: outputs that start from pretrained rows."""
        super().__init__()
        self.matched = matched
        self.backbones = nn.ModuleList(backbones)
        self.origins = list(found)
        self.top = top
        self._evaluated: list[nn.Module] = []
        self.stages: list[list[Stage]] = [stages(backbone) for backbone in backbones]
        self.freeze(0, norms=False)

    def forward(self, images: Tensor) -> Tensor:
        for module in self._evaluated:  # here rather than in train(), which is not the only way to that mode
            module.eval()
        logits: Tensor = self.top(torch.cat([backbone(images) for backbone in self.backbones], dim=1))
        return logits

    def freeze(self, frozen_stages: int, norms: bool) -> None:
        """Keep the weights and statistics of the bottom `frozen_stages` of each backbone; `WHOLE`: of all but the head.

        norms: whether the other batch norms keep their statistics too.  Raises `UserError` for more stages than a
        backbone has.
        """
        self._evaluated = [self.backbones, self.top.classifiers] if frozen_stages == WHOLE else []
        for parameter in self.parameters():
            parameter.requires_grad_(True)
        for frozen in self._evaluated:
            for parameter in frozen.parameters():
                parameter.requires_grad_(False)
        if frozen_stages == WHOLE:
            return
        for origin, backbone, found in zip(self.origins, self._bodies(), self.stages, strict=True):
            if frozen_stages > len(found):
                raise UserError(
                    f"finetune.frozen_stages is {frozen_stages}, but {origin.name} has {len(found)} stages: "
                    f"{', '.join(stage.name for stage in found)}. To freeze all of it: -1."
                )
            frozen_names = {parameter for stage in found[:frozen_stages] for parameter in stage.parameters}
            for parameter_name, parameter in backbone.named_parameters():
                parameter.requires_grad_(parameter_name not in frozen_names)
            self._evaluated += [
                module
                for module in backbone.modules()
                if _is_frozen(module) or (norms and isinstance(module, nn.modules.batchnorm._BatchNorm))
            ]

    def _bodies(self) -> Iterator[Backbone]:
        for backbone in self.backbones:
            assert isinstance(backbone, Backbone)
            yield backbone

    def pretrained_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the parameters that came with the backbones, of their last layers too."""
        yield from self.backbones.parameters()
        yield from self.top.classifiers.parameters()

    def parts(self, backbone_lr: float) -> list[Part]:
        """Return what learns and what does not, from the bottom up.

        backbone_lr: the pretrained part's learning rate as a share of the head's.
        """
        found: list[Part] = []
        for origin, backbone, its_stages in zip(self.origins, self._bodies(), self.stages, strict=True):
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
    """Whether all that `module` could learn is frozen."""
    own = list(module.parameters())
    return bool(own) and not any(parameter.requires_grad for parameter in own)


def _count(parameters: Iterable[nn.Parameter]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def build_fine_tuned(settings: Settings, classes: Sequence[str], found: Sequence[Origin]) -> FineTuned:
    """Return the network that `settings` describe on backbones of `found`, nothing frozen yet.

    Batch norms whose statistics are to be kept are folded into the convolutions before them: an affine map that costs
    a third of a training step's time.  Raises `UserError` as `build_backbone`, `match_labels` and `start_rows` do.
    """
    backbones: list[Backbone] = []
    classifiers: list[nn.Linear] = []
    for origin in found:
        backbone, classifier = build_backbone(origin.name, origin.path, origin.size if origin.mean else None)
        if settings.tuning.freeze_norms:
            backbone = fold_norms(backbone)
        if backbones and origin.mean and origin.std:  # the first one sets, or is given, what all images are like
            backbone.renormalise(settings.input.mean, settings.input.std, origin.mean, origin.std)
        backbones.append(backbone)
        classifiers.append(classifier)
    top = Top(classifiers, len(classes), settings.model)
    matched = 0
    if settings.model.label_map and all(origin.path for origin in found):
        matched = _start_head(top, classifiers, classes, found, settings.model.label_map)
    return FineTuned(backbones, found, top, matched)


def _start_head(
    top: Top, classifiers: Sequence[nn.Linear], classes: Sequence[str], found: Sequence[Origin], label_map: str
) -> int:
    """Start the head from the rows of the pretrained classifiers, and return of how many classes there was one.

    The logits of several classifiers are averaged.
    """
    categories = [
        origin.categories or _imagenet(classifier, origin)
        for origin, classifier in zip(found, classifiers, strict=True)
    ]
    if any(each != categories[0] for each in categories):
        raise UserError("model.label_map takes networks whose outputs have the same names; leave it empty for these.")
    if len(categories[0]) != classifiers[0].out_features:
        raise UserError(f"{found[0].path} has {classifiers[0].out_features} outputs for {len(categories[0])} names.")
    matches = match_labels(classes, categories[0], None if label_map == "names" else _label_map_file(label_map))
    merged = nn.Linear(sum(top.widths), classifiers[0].out_features)
    with torch.no_grad():
        merged.weight.copy_(torch.cat([classifier.weight for classifier in classifiers], dim=1) / len(classifiers))
        biases: list[Tensor] = [classifier.bias for classifier in classifiers if classifier.bias is not None]
        merged.bias.copy_(torch.stack(biases).sum(dim=0) / len(classifiers) if biases else torch.zeros(1))
    layer = top.head[-1]
    assert isinstance(layer, nn.Linear)
    start_rows(layer, merged, matches)
    return len(matches)


def _label_map_file(name: str) -> Path:
    """Return the label map's path: from the working folder, or else beside the competitions' TOMLs."""
    path = Path(name)
    return path if path.exists() else COMPETITIONS / name


def _imagenet(classifier: nn.Linear, origin: Origin) -> list[str]:
    """Return the names of ImageNet's 1,000 classes, which a file of as many outputs is taken to mean."""
    from torchvision.models import ResNet34_Weights

    if classifier.out_features != 1000:
        raise UserError(
            f"{origin.path} has {classifier.out_features} outputs and does not name them; model.label_map takes "
            "weights with ImageNet's 1,000 classes."
        )
    categories: list[str] = ResNet34_Weights.IMAGENET1K_V1.meta["categories"]
    return categories


HEAD = "top.head."


def learned_state(module: nn.Module, head_only: bool) -> dict[str, Tensor]:
    """Return the weights that a checkpoint keeps of a network, or of its `Top` alone.

    head_only: whether nothing but the head has learned; the rest is then found by the weights' SHA-256 in the settings.
    """
    if not head_only:
        return dict(module.state_dict())
    return {HEAD + name: value for name, value in _head_of(module).state_dict().items()}


def load_learned(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Put back what `learned_state` returned."""
    if is_head_only(state):
        _head_of(module).load_state_dict({name.removeprefix(HEAD): value for name, value in state.items()})
    else:
        module.load_state_dict(state)


def is_head_only(state: Mapping[str, Tensor]) -> bool:
    return all(name.startswith(HEAD) for name in state)


def _head_of(module: nn.Module) -> Head:
    head = module.head if isinstance(module, Top) else module.get_submodule(HEAD.rstrip("."))
    assert isinstance(head, Head)
    return head
