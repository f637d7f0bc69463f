"""The networks that settings can name."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.settings.schema import ModelSettings
from pipelines.system.errors import UserError, did_you_mean

LOGIT_SCALE = 1 / 8  # maxima over positions are large: unscaled, the first steps at a high learning rate overshoot
WHITENING_EPSILON = 5e-4  # added to the variances: what hardly varies is noise, and must not be blown up
OWN_MODELS = ("convnet", "resnet18-small")


def build_model(settings: ModelSettings, classes: int) -> nn.Module:
    """Return a network with fresh random weights that maps images (N, 3, H, W) to logits (N, classes).

    Raises `UserError` for a name that is neither ours nor a torchvision classifier's.
    """
    if settings.name == "convnet":
        return ConvNet(settings, classes)
    # torchvision takes a second to import, which the small network above can do without.
    from torchvision import models

    classifiers = models.list_models(module=models)
    if settings.name == "resnet18-small":
        return _resnet18_small(classes)
    if settings.name not in classifiers:
        known = [*OWN_MODELS, *classifiers]
        hint = did_you_mean(settings.name, known)
        raise UserError(f"model.name is {settings.name!r}.{hint} Valid: {', '.join(known)}.")
    # These two have auxiliary heads, with which they would answer in training with a tuple instead of logits.
    options = {"aux_logits": False, "init_weights": True} if settings.name in ("googlenet", "inception_v3") else {}
    model: nn.Module = models.get_model(settings.name, weights=None, num_classes=classes, **options)
    return model


def _resnet18_small(classes: int) -> nn.Module:
    """ResNet-18 for small images: a 3x3 stem that keeps the resolution, and no max-pooling (d2l.ai, chapter 14.13)."""
    from torchvision.models import resnet18

    model = resnet18(weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(3, 64, kernel_size=3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)  # as the chapter initialises
    network: nn.Module = model
    return network


class ConvNet(nn.Module):
    """A fast network for small images: a first convolution, then one block per width, then global max-pooling.

    Each block is convolution, 2x2 max-pooling, norm, GELU, and then further convolutions, each with norm and GELU: the
    shape that the speed records on CIFAR-10 settled on (arXiv 2404.00498), since most of its arithmetic happens at low
    resolution.  An image too small to be halved once more keeps its size.
    """

    def __init__(self, settings: ModelSettings, classes: int) -> None:
        super().__init__()
        widths = settings.widths
        self.stem: nn.Module
        if settings.whitening:
            self.stem = Whitening(settings.whitening)
            stem = self.stem.convolution.out_channels
        else:
            stem = max(widths[0] // 2, 8)
            self.stem = _conv_norm_gelu(3, stem, settings)
        channels = [stem, *widths]
        depths = settings.depth * len(widths) if len(settings.depth) == 1 else settings.depth
        self.blocks = nn.Sequential(
            *(Block(channels[i], channels[i + 1], depth, settings) for i, depth in enumerate(depths))
        )
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(settings.dropout), nn.Linear(widths[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(images)).amax(dim=(2, 3))
        return self.head(features) * LOGIT_SCALE

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the parts on either side of the maxima over positions.

        In bfloat16 a compiler computes the features anew for the gradient without rounding them, finds none that equals
        the rounded maximum, and divides by their number: 0.
        """
        for part in (self.stem, self.blocks, self.head):
            part.compile(*args, **kwargs)


class Whitening(nn.Module):
    """A convolution after which the channels of the images it was fitted to are uncorrelated and of variance 1.

    Its filters are the principal components of square patches, each over the square root of its variance, and the same
    with the other sign, so that GELU loses neither half (arXiv 2404.00498, section 3.1).  They are frozen; their biases
    learn, which was worth half a percentage point on CIFAR-10.  Maps (N, 3, H, W) to
    (N, 6 * side**2, H - side + 1, W - side + 1).
    """

    def __init__(self, side: int) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(3, 6 * side**2, kernel_size=side)
        self.convolution.weight.requires_grad_(False)
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.gelu(self.convolution(images))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor]) -> None:
        """Compute the filters from all patches of the images in `batches`, each float (N, 3, H, W), in float64 on the
        CPU; one batch at a time is in memory."""
        side = self.convolution.kernel_size[0]
        products, count = torch.zeros(3 * side**2, 3 * side**2, dtype=torch.float64), 0
        for images in batches:
            patches = nn.functional.unfold(images.detach().cpu().double(), side)  # (N, 3 * side**2, places)
            products += torch.einsum("nip,njp->ij", patches, patches)
            count += len(patches) * patches.shape[2]
        variances, components = torch.linalg.eigh(products / count)
        filters = (components / (variances + WHITENING_EPSILON).sqrt()).T.flip(0)  # largest variance first
        # An eigenvector's sign is arbitrary: its largest entry is made positive, as another library would find it too.
        filters = filters * filters.gather(1, filters.abs().argmax(dim=1, keepdim=True)).sign()
        filters = filters.reshape(-1, 3, side, side)
        self.convolution.weight.copy_(torch.cat([filters, -filters]))


class Block(nn.Module):
    """Widens and halves the image, then refines it.

    A residual path leads around the refinement, unless its convolutions hand through what they get by themselves: with
    both, a run of four epochs on CIFAR-10 came out half a percentage point lower.
    """

    def __init__(self, inputs: int, outputs: int, depth: int, settings: ModelSettings) -> None:
        super().__init__()
        self.widen = _convolution(inputs, outputs, settings)
        self.norm = _norm(outputs, settings)
        self.refine = nn.Sequential(*(_conv_norm_gelu(outputs, outputs, settings) for _ in range(depth - 1)))
        self.has_residual = depth > 1 and not settings.identity_start

    def forward(self, images: Tensor) -> Tensor:
        features = self.widen(images)
        if min(features.shape[2:]) >= 2:
            features = nn.functional.max_pool2d(features, 2)
        features = nn.functional.gelu(self.norm(features))
        refined: Tensor = self.refine(features)
        return features + refined if self.has_residual else refined


def _convolution(inputs: int, outputs: int, settings: ModelSettings) -> nn.Conv2d:
    made = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
    if settings.identity_start:
        with torch.no_grad():  # as many filters as there are inputs hand them through, the others start at random
            nn.init.dirac_(made.weight[:inputs])
    return made


def _norm(channels: int, settings: ModelSettings) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels)
    made.weight.requires_grad_(settings.norm_scales)
    return made


def _conv_norm_gelu(inputs: int, outputs: int, settings: ModelSettings) -> nn.Sequential:
    return nn.Sequential(_convolution(inputs, outputs, settings), _norm(outputs, settings), nn.GELU())


def whitening_of(model: nn.Module) -> Whitening | None:
    """Return the part of `model` that is to be fitted to images before training, if it has one."""
    return next((module for module in model.modules() if isinstance(module, Whitening)), None)


def check_model(model: nn.Module, name: str, size: int, smaller: Sequence[int] = ()) -> int:
    """Return the number of parameters of `model`, having tried it on one blank image of `size` x `size`, and of each
    `smaller` size that it is to see in training.

    Raises `UserError`, which calls it `name`, where it cannot take images of one of these sizes.
    """
    model.eval()
    for tried, key in ((size, "input.size"), *((each, "augment.sizes") for each in smaller)):
        try:
            with torch.inference_mode():
                model(torch.zeros(1, 3, tried, tried))
        except Exception as error:  # a failed assertion in one network, a convolution's RuntimeError in another
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"model.name {name!r} cannot take images of {key} {tried}: {reason}. Try another size."
            ) from None
    return sum(parameter.numel() for parameter in model.parameters())
