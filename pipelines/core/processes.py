"""Train and evaluate one network in several processes: averaged gradients and statistics, collected results."""

import inspect
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from pipelines.models.device import Hardware
from pipelines.system.group import Group

FEW = 32  # images of a batch in a process, below which batch norms on GPUs use the statistics of all processes


def shared(model: nn.Module, hardware: Hardware, group: Group) -> nn.Module:
    """Return what trains `model` in step with the other processes; `model` itself for one process.

    Called at the start of each epoch: what learns may have changed, and a training that resumes there sums its
    gradients in the same order as one that was never interrupted.  All processes start from the main one's weights.
    """
    learning = any(parameter.requires_grad for parameter in model.parameters())
    if group.world == 1 or not learning:
        return model
    on_gpu = hardware.device.type == "cuda"
    # Not from the main process in each step: `average_statistics` does it once.  The name has changed in torch 2.15.
    names = inspect.signature(DistributedDataParallel.__init__).parameters
    options: dict[str, Any] = {"device_ids": [hardware.device]} if on_gpu else {}
    options["forward_sync_buffers" if "forward_sync_buffers" in names else "broadcast_buffers"] = False
    return DistributedDataParallel(model, **options)


def join_norms(model: nn.Module, hardware: Hardware, group: Group, batch_size: int) -> None:
    """Let the batch norms inside of `model` use the images of all processes, on GPUs where each has few of a batch."""
    if group.world > 1 and hardware.device.type == "cuda" and batch_size // group.world < FEW:
        convert_norms(model)


def convert_norms(model: nn.Module) -> None:
    """Replace the batch norms inside of `model` by those over all processes; timm's keep their activations."""
    convert: Callable[[nn.Module], object] = nn.SyncBatchNorm.convert_sync_batchnorm
    if any(type(module).__module__.startswith("timm.") for module in model.modules()):
        from timm.layers import convert_sync_batchnorm as convert  # torch's would leave activations out
    convert(model)


@torch.no_grad()
def average_statistics(models: Iterable[nn.Module], group: Group) -> None:
    """Set the running statistics of the norms of `models` to their means over the processes."""
    if group.world == 1:
        return
    for model in models:
        found = [buffer for buffer in model.buffers() if buffer.is_floating_point()]
        if not found:
            continue
        mean = group.all_sum(torch.cat([buffer.double().flatten() for buffer in found])) / group.world
        for buffer, part in zip(found, mean.split([buffer.numel() for buffer in found]), strict=True):
            buffer.copy_(part.view_as(buffer))


def collected(batches: Sequence[tuple[Tensor, ...]], group: Group) -> tuple[Tensor, ...] | None:
    """Return the rows of `batches` of all processes, on the processor, in the order of their first column, positions.

    Only in the main process; None in the others.  Fetched together, because each fetch waits for the device.
    """
    own = tuple(torch.cat(column).cpu() for column in zip(*batches, strict=True))
    found = [columns for columns in group.gather(own) if columns]
    if group.world == 1 or not group.is_main:
        return own if group.is_main else None
    columns = tuple(torch.cat(column) for column in zip(*found, strict=True))
    order = columns[0].argsort()
    return tuple(column[order] for column in columns)
