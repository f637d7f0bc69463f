"""Networks with plausible batch-norm statistics, their files and their outputs."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torchvision import models


def settled(network: nn.Module, size: int = 32) -> nn.Module:
    """Give batch norms scales, shifts and statistics as after training; return the network in evaluation mode."""
    torch.manual_seed(1)
    for module in network.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.3)
            module.momentum = None  # average all batches
    network.train()
    with torch.no_grad():
        for _ in range(3):
            network(torch.randn(16, 3, size, size))
    return network.eval()


def pictures(count: int = 2, size: int = 64) -> Tensor:
    return torch.randn(count, 3, size, size, generator=torch.Generator().manual_seed(3))


def save_network(path: Path, name: str, size: int = 32, **options: Any) -> nn.Module:
    """Write the weights of a new network as torchvision's files hold them; return the network."""
    torch.manual_seed(0)
    network = settled(models.get_model(name, weights=None, **options), size)
    torch.save(network.state_dict(), path)
    return network


def outputs(network: nn.Module, inputs: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = network.eval()(inputs)
    return logits
