"""Solve for a linear head: the least mean loss plus a penalty on the squared weights, by L-BFGS.

Features are standardised by their own mean and deviation first, so that one penalty suits all of them.  The head that
results takes plain features.
"""

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from pipelines.core.tasks import Task
from pipelines.dataset.loading import BatchSource, known_targets
from pipelines.settings.training_sections import TrainSettings
from pipelines.system.watch import Watch

ROUNDS, ITERATIONS = 20, 10  # at most; a solution rarely needs a third of them
GRADIENT, CHANGE = 1e-5, 1e-6  # of the loss; smaller ones count as zero
HELD_BYTES = 1 << 32  # of features; more are read again for each evaluation of the loss
MOST_OUTPUTS = 1 << 25  # computed at once, 128 MiB: with thousands of classes, all rows at once take too much memory
MOST_KEPT = 1 << 28  # numbers of earlier steps that L-BFGS keeps, in pairs as large as the head
LEAST_DEVIATION = 0.01  # times the median one: rarer deviations of a feature would count too much in other images


def make_solver(model: nn.Module, train: TrainSettings) -> torch.optim.LBFGS:
    """Return the optimizer for `solve`."""
    learning = [parameter for parameter in model.parameters() if parameter.requires_grad]
    pairs = MOST_KEPT // (2 * sum(parameter.numel() for parameter in learning))
    return torch.optim.LBFGS(
        learning,
        lr=train.lr,
        max_iter=ITERATIONS,
        tolerance_grad=GRADIENT,
        tolerance_change=CHANGE,
        history_size=min(10, max(3, pairs)),
        line_search_fn="strong_wolfe",
    )


class Examples:
    """Features (N, D) and targets of the training images of a source, standardised, in batches."""

    def __init__(self, source: BatchSource, epoch: int) -> None:
        self.source, self.epoch = source, epoch
        first = next(iter(source.batches(epoch))).inputs[0].double()  # subtracted, so that large means cost no digits
        sums, squares = torch.zeros_like(first), torch.zeros_like(first)
        self._known = 0  # targets that are not missing
        for batch in source.batches(epoch):
            values = batch.inputs.double() - first
            sums += values.sum(dim=0)
            squares += values.square().sum(dim=0)
            self._known += known_targets(batch.labels)
        mean = sums / len(source)
        deviation = (squares / len(source) - mean.square()).clamp(min=0).sqrt()
        varied = deviation[deviation > 0]
        least = LEAST_DEVIATION * varied.median() if len(varied) else 1.0
        self.mean, self.deviation = (first + mean).float(), deviation.clamp(min=least).float()
        self._held: tuple[Tensor, Tensor] | None = None
        if 4 * len(source) * len(first) <= HELD_BYTES:
            held, targets, done = first.new_empty(len(source), len(first), dtype=torch.float32), [], 0
            for inputs, labels in self._read():
                held[done : done + len(inputs)] = inputs
                targets.append(labels)
                done += len(inputs)
            self._held = held, torch.cat(targets)

    def parts(self, outputs: int) -> Iterator[tuple[Tensor, Tensor, float]]:
        """Yield all examples in parts, for which a head of so many `outputs` gives at most `MOST_OUTPUTS`.

        The number is the part's share in the mean loss, which is one over the known targets.
        """
        most = max(1, MOST_OUTPUTS // outputs)
        for inputs, labels in [self._held] if self._held is not None else self._read():
            for some, targets in zip(inputs.split(most), labels.split(most), strict=True):
                yield some, targets, known_targets(targets) / max(1, self._known)

    def _read(self) -> Iterator[tuple[Tensor, Tensor]]:
        for batch in self.source.batches(self.epoch):
            yield (batch.inputs - self.mean) / self.deviation, batch.labels


def solve(
    model: nn.Module, optimizer: torch.optim.LBFGS, examples: Examples, task: Task, penalty: float, watch: Watch
) -> float:
    """Train `model`, a `Top` whose head is linear, from its present weights; return the mean loss without the penalty.

    penalty: half of it times the sum of the squared weights of standardised features is added to the loss.
    """
    layer = [module for module in model.modules() if isinstance(module, nn.Linear)][-1]
    _rescale(layer, examples.mean, examples.deviation)

    def loss() -> Tensor:
        optimizer.zero_grad()
        total = penalty / 2 * layer.weight.square().sum()
        total.backward()
        total = total.detach()
        for inputs, labels, share in examples.parts(layer.out_features):
            part = task.loss(model(inputs), labels) * share
            part.backward()
            total += part.detach()
        return total

    done = 0
    for number in watch(range(1, ROUNDS + 1), "solving", ROUNDS, f"x {ITERATIONS} iterations"):
        if done == ITERATIONS * (number - 1):
            optimizer.step(loss)
            done = optimizer.state[optimizer.param_groups[0]["params"][0]]["n_iter"]
    optimizer.state.clear()  # ten pairs of gradients and steps, which a checkpoint need not keep
    with torch.no_grad():
        parts = examples.parts(layer.out_features)
        mean = sum(task.loss(model(inputs), labels).item() * share for inputs, labels, share in parts)
        _rescale(layer, -examples.mean / examples.deviation, 1 / examples.deviation)
    return mean


@torch.no_grad()
def _rescale(layer: nn.Linear, mean: Tensor, deviation: Tensor) -> None:
    """Make `layer` give for (features - mean) / deviation what it gave for the features."""
    layer.bias.add_(layer.weight @ mean)
    layer.weight.mul_(deviation)
