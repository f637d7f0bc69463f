"""The networks that settings can name."""

import torch
from torch import Tensor, nn

from pipelines.core.errors import UserError, did_you_mean
from pipelines.core.settings import ModelSettings

LOGIT_SCALE = 1 / 8  # maxima over positions are large: unscaled, the first steps at a high learning rate overshoot
OWN_MODELS = ("convnet", "resnet18-small")


def build_model(settings: ModelSettings, classes: int) -> nn.Module:
    """Return a network with fresh random weights that maps images (N, 3, H, W) to logits (N, classes).

    Raises `UserError` for a name that is neither ours nor a torchvision classifier's.
    """
    if settings.name == "convnet":
        return ConvNet(settings.widths, classes, settings.dropout)
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
    """A plain fast network for small images: a stem, then one block per width, then global max-pooling.

    Each block is convolution, 2x2 max-pooling, norm, GELU, convolution, norm, GELU: the shape that the speed records on
    CIFAR-10 settled on (arXiv 2404.00498), since most of its arithmetic happens at low resolution.  An image too small
    to be halved once more keeps its size.
    """

    def __init__(self, widths: tuple[int, ...], classes: int, dropout: float = 0.0) -> None:
        super().__init__()
        stem = max(widths[0] // 2, 8)
        self.stem = _conv_norm_gelu(3, stem)
        channels = [stem, *widths]
        self.blocks = nn.Sequential(*(Block(channels[i], channels[i + 1]) for i in range(len(widths))))
        self.head = nn.Sequential(nn.Flatten(), nn.Dropout(dropout), nn.Linear(widths[-1], classes))

    def forward(self, images: Tensor) -> Tensor:
        features = self.blocks(self.stem(images)).amax(dim=(2, 3))
        return self.head(features) * LOGIT_SCALE


class Block(nn.Module):
    """Halves the image and doubles the convolutions; the second one has a residual path around it."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.widen = nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False)
        self.norm = nn.BatchNorm2d(outputs)
        self.refine = _conv_norm_gelu(outputs, outputs)

    def forward(self, images: Tensor) -> Tensor:
        features = self.widen(images)
        if min(features.shape[2:]) >= 2:
            features = nn.functional.max_pool2d(features, 2)
        features = nn.functional.gelu(self.norm(features))
        return features + self.refine(features)


def _conv_norm_gelu(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel_size=3, padding=1, bias=False), nn.BatchNorm2d(outputs), nn.GELU()
    )


def check_model(model: nn.Module, name: str, size: int) -> int:
    """Return the number of parameters of `model`, having tried it on one blank image of `size` x `size`.

    Raises `UserError`, which calls it `name`, where it cannot take images of that size.
    """
    model.eval()
    try:
        with torch.inference_mode():
            model(torch.zeros(1, 3, size, size))
    except Exception as error:  # a failed assertion in one network, a convolution's RuntimeError in another
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise UserError(
            f"model.name {name!r} cannot take images of input.size {size}: {reason}. Try another size."
        ) from None
    return sum(parameter.numel() for parameter in model.parameters())
