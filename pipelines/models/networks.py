"""Networks with random weights, built from the model settings."""

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from pipelines.models import timm_models
from pipelines.models.first_layer import take_channels
from pipelines.models.published import AUXILIARY_HEADS, classifiers
from pipelines.models.timm_models import PREFIX, is_timm
from pipelines.settings.training_sections import ModelSettings
from pipelines.system.errors import UserError

LOGIT_SCALE = 1 / 8  # maxima over positions are large: unscaled, the first steps at a high learning rate overshoot
OWN_MODELS = ("convnet", "resnet18-small")


def build_model(settings: ModelSettings, classes: int, channels: int = 3, size: int = 32) -> nn.Module:
    """Return a random network, images (N, C, size, size) to logits (N, classes).

    Raises `UserError` for an unknown name.
    """
    if settings.name == "convnet":
        return ConvNet(settings, classes, channels)
    if settings.name == "resnet18-small":
        return _resnet18_small(classes, channels)
    if is_timm(settings.name):
        return timm_models.create(settings.name, channels, size, classes)
    from torchvision import models  # takes a second to import, and the ConvNet does not need it

    if settings.name not in classifiers():
        known = [*OWN_MODELS, *classifiers()]
        hint = timm_models.did_you_mean_network(settings.name, known)
        valid = f"Valid: {', '.join(known)}; or {PREFIX}<name>, a network of timm."
        raise UserError(f"model.name is {settings.name!r}.{hint} {valid}")
    # With auxiliary heads, the output in training mode would be a tuple instead of logits.
    options = {"aux_logits": False, "init_weights": True} if settings.name in AUXILIARY_HEADS else {}
    model: nn.Module = models.get_model(settings.name, weights=None, num_classes=classes, **options)
    return take_channels(model, settings.name, channels, pretrained=False)


def _resnet18_small(classes: int, channels: int) -> nn.Module:
    """Return ResNet-18 with a 3x3 stem of stride 1 and no max-pooling, for small images (d2l.ai, chapter 14.13)."""
    from torchvision.models import resnet18

    model: nn.Module = resnet18(weights=None, num_classes=classes)
    model.conv1 = nn.Conv2d(channels, 64, kernel_size=3, padding=1, bias=False)
    model.maxpool = nn.Identity()
    for module in model.modules():
        if isinstance(module, nn.Linear | nn.Conv2d):
            nn.init.xavier_uniform_(module.weight)  # the chapter's initialisation
    return model


class ConvNet(nn.Module):
    """A fast network for small images: a stem, one block per width, then global max-pooling and a linear layer.

    Each block is convolution, 2x2 max-pooling, norm, GELU, then further convolutions, each with norm and GELU.  This
    shape set the speed records on CIFAR-10 (arXiv 2404.00498): most arithmetic happens at low resolution.  Blocks do
    not pool images of one pixel.
    """

    def __init__(self, settings: ModelSettings, classes: int, channels: int = 3) -> None:
        super().__init__()
        widths = settings.widths
        self.stem: nn.Module
        if settings.whitening:
            self.stem = Whitening(settings.whitening, channels)
            stem = self.stem.convolution.out_channels
        else:
            stem = max(widths[0] // 2, 8)
            self.stem = _conv_norm_gelu(channels, stem, settings)
        depths = settings.depth * len(widths) if len(settings.depth) == 1 else settings.depth
        ends = [stem, *widths]
        self.blocks = nn.Sequential(*(Block(ends[i], ends[i + 1], d, settings) for i, d in enumerate(depths)))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(settings.dropout), nn.Linear(widths[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(images)).amax(dim=(2, 3))
        return self.head(features) * LOGIT_SCALE

    def compile(self, *args: Any, **kwargs: Any) -> None:
        """Compile the parts before and after the maximum over positions, but not the maximum.

        In bfloat16 its compiled backward pass finds no feature equal to the rounded maximum and divides by 0.
        """
        for part in (self.stem, self.blocks, self.head):
            part.compile(*args, **kwargs)


class Whitening(nn.Module):
    """A convolution that makes channels uncorrelated with variance 1, on the images that it was fitted to.

    Its filters are the principal components of square patches, each divided by the square root of its variance, and
    their negatives, because GELU suppresses negative values (arXiv 2404.00498, section 3.1).  The filters are frozen;
    the biases learn, which gained half a percentage point on CIFAR-10.  Maps (N, C, H, W) to
    (N, 2 * C * side**2, H - side + 1, W - side + 1).
    """

    def __init__(self, side: int, channels: int = 3) -> None:
        super().__init__()
        self.convolution = nn.Conv2d(channels, 2 * channels * side**2, kernel_size=side)
        self.convolution.weight.requires_grad_(False)
        nn.init.zeros_(self.convolution.bias)  # type: ignore[arg-type]

    def forward(self, images: Tensor) -> Tensor:
        return nn.functional.gelu(self.convolution(images))

    @torch.no_grad()
    def fit(self, batches: Iterable[Tensor], epsilon: float = 5e-4) -> None:
        """Compute the filters, in float64 on the CPU, from all patches of `batches`, float (N, C, H, W).

        epsilon: added to the variances, so that directions of almost no variance are not amplified.
        """
        side, channels = self.convolution.kernel_size[0], self.convolution.in_channels
        products, count = torch.zeros(channels * side**2, channels * side**2, dtype=torch.float64), 0
        for images in batches:
            patches = nn.functional.unfold(images.detach().cpu().double(), side)  # (N, C * side**2, positions)
            products += torch.einsum("nip,njp->ij", patches, patches)
            count += len(patches) * patches.shape[2]
        variances, components = torch.linalg.eigh(products / count)
        filters = (components / (variances + epsilon).sqrt()).T.flip(0)  # largest variance first
        # An eigenvector's sign is arbitrary: make its largest entry positive, so that every library gives the same.
        filters = filters * filters.gather(1, filters.abs().argmax(dim=1, keepdim=True)).sign()
        filters = filters.reshape(-1, channels, side, side)
        self.convolution.weight.copy_(torch.cat([filters, -filters]))


class Block(nn.Module):
    """Widen and halve the image, then refine it, with a residual path around the refinement.

    With `identity_start` there is no residual path: both together lost half a point in four epochs on CIFAR-10.
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
        with torch.no_grad():  # the first `inputs` filters copy their channel, the others stay random
            nn.init.dirac_(made.weight[:inputs])
    return made


def _norm(channels: int, settings: ModelSettings) -> nn.BatchNorm2d:
    made = nn.BatchNorm2d(channels)
    made.weight.requires_grad_(settings.norm_scales)
    return made


def _conv_norm_gelu(inputs: int, outputs: int, settings: ModelSettings) -> nn.Sequential:
    return nn.Sequential(_convolution(inputs, outputs, settings), _norm(outputs, settings), nn.GELU())


def whitening_of(model: nn.Module) -> Whitening | None:
    """Return the whitening layer of `model`, which must be fitted before training, or None."""
    return next((module for module in model.modules() if isinstance(module, Whitening)), None)


def check_model(model: nn.Module, name: str, size: int, smaller: Sequence[int] = (), channels: int = 3) -> int:
    """Return the number of parameters of `model`, after a forward pass of one blank image of each size in pixels.

    smaller: the sizes of `augment.sizes`.  Raises `UserError`, with `name`, for a size that the network cannot take.
    """
    model.eval()
    for tried, key in ((size, "input.size"), *((each, "augment.sizes") for each in smaller)):
        try:
            with torch.inference_mode():
                model(torch.zeros(1, channels, tried, tried))
        except Exception as error:  # some networks assert, others raise a convolution's RuntimeError
            reason = (str(error) or type(error).__name__).splitlines()[0]
            raise UserError(
                f"model.name {name!r} cannot take images of {key} {tried}: {reason}. Set a larger {key} (most networks "
                "of torchvision are made for 224), or choose another model.name."
            ) from None
    return sum(parameter.numel() for parameter in model.parameters())
