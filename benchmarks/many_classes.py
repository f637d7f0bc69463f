"""Predicting many classes: the peak memory of one process, against keeping the probabilities of all classes.

Features of random numbers go through a linear head, as those of a frozen network do. Each case runs in a process of its
own. It judges validation rows, predicts test rows, writes the submission and checks it, by the functions of `predict`.

The old way kept the log-probabilities of all test rows and their exponentials. It is computed at two smaller numbers of
test rows, without a submission, and extrapolated along a line.
"""

import multiprocessing
import resource
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from benchmarks import measuring
from benchmarks.measuring import KIBIBYTE, Finding
from pipelines.system.files import write_text

if TYPE_CHECKING:
    from torch import nn

    from pipelines.dataset.loading import Batch, BatchSource
    from pipelines.settings.schema import Settings

FEATURES, BATCH = 64, 256
MOST_BYTES = 2_000_000_000
CASES = {
    "labels": "f1_macro",
    "best_labels": "map_at_k",
    "probabilities": "log_loss",
}
OLD_ROWS = 2_000, 4_000


class Size(NamedTuple):
    classes: int
    valid: int
    test: int


class Cost(NamedTuple):
    """The peak of resident memory in bytes, and seconds."""

    peak: int
    seconds: float


def _source(rows: int, settings: "Settings", labels: Sequence[int] = ()) -> "BatchSource":
    """Return batches of random features, drawn again for each batch."""
    import numpy as np
    import torch

    from pipelines.dataset.loading import BatchSource, Loading

    class Features(BatchSource):
        def batches(self, epoch: int) -> "Iterator[Batch]":
            for part in self.loading.divide(rows, epoch):
                positions = part.taken
                generator = torch.Generator().manual_seed(int(positions[0]))
                inputs = torch.randn(len(positions), FEATURES, generator=generator)
                yield self.batch(inputs, self.labels_at(positions), positions, part)

    loading = Loading(settings, 1, torch.device("cpu"), training=False)
    return Features(np.arange(rows), torch.tensor(labels, dtype=torch.int64), loading)


def _head(classes: int) -> "nn.Module":
    import torch

    torch.manual_seed(0)
    return torch.nn.Linear(FEATURES, classes)


def _settings(folder: Path, sends: str) -> "Settings":
    from pipelines.settings.loading import load_settings

    form = f'submission = "{sends}"\nmetric = "{CASES[sends]}"'
    toml = folder / "many.toml"
    write_text(toml, f'[competition]\n{form}\n[data]\nsample_submission = "sample.csv"\n')
    return load_settings(str(toml), overrides=[f"predict.batch_size={BATCH}"])


def _write_sample(path: Path, names: Sequence[str], rows: int, sends: str) -> None:
    """Write the sample submission: a column for each class, or the first ones in one cell."""
    columns, cell = ["Predicted"], names[0]
    if sends == "best_labels":
        cell = " ".join(names[:5])
    elif sends == "probabilities":
        columns, cell = list(names), ",".join(["0"] * len(names))
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"Id,{','.join(columns)}\n")
        file.writelines(f"{row},{cell}\n" for row in range(rows))


def _now(sends: str, size: Size) -> Cost:
    """Predict as the stage `predict` does."""
    import numpy as np

    from pipelines.core import engine
    from pipelines.core.decide import make_judge
    from pipelines.core.prediction import Predictor, Rows, blocks
    from pipelines.core.tasks import make_task
    from pipelines.core.validation import validate
    from pipelines.dataset.answer_summary import describe_answers
    from pipelines.dataset.submission import write_submission
    from pipelines.dataset.submission_check import check_submission
    from pipelines.models.device import choose_hardware

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        settings = _settings(folder, sends)
        names = [f"{number:05}" for number in range(size.classes)]
        _write_sample(folder / "sample.csv", names, size.test, sends)
        started = time.perf_counter()
        labels = np.random.default_rng(0).integers(0, size.classes, size.valid)
        judge = make_judge(settings, names, labels, calibrated=True)
        task, hardware, head = make_task(settings, names, {}), choose_hardware(settings.hardware), _head(size.classes)
        views = (engine.unchanged,)
        valid = Predictor(head, _source(size.valid, settings, labels.tolist()), task, hardware, views)
        of_valid = ((places, block) for places, (block,) in blocks([valid], [folder]))
        found = validate(judge, judge, labels, of_valid, folder)
        test = Predictor(head, _source(size.test, settings), task, hardware, views)
        answers = Rows(size.test, folder)
        for places, (block,) in blocks([test], [folder]):
            answers.fill(places, judge.answers(found.choice, block))
        ids = [str(row) for row in range(size.test)]
        write_submission(folder / "many.csv", ids, answers.array, names, settings, folder)
        assert check_submission(folder / "many.csv", names, settings, folder) == size.test
        describe_answers(answers.array, names, settings, folder)
        return Cost(_peak(), time.perf_counter() - started)


def _before(size: Size) -> Cost:
    """Compute what was kept before, for labels: all log-probabilities and probabilities of the test rows."""
    import torch

    from pipelines.core import engine
    from pipelines.core.tasks import make_task
    from pipelines.models.device import choose_hardware

    with tempfile.TemporaryDirectory() as name:
        settings = _settings(Path(name), "labels")
    started = time.perf_counter()
    names = [str(number) for number in range(size.classes)]
    task, hardware, head = make_task(settings, names, {}), choose_hardware(settings.hardware), _head(size.classes)
    computed = torch.full((size.test, size.classes), torch.nan)
    for batch, predictions in engine.infer(head, _source(size.test, settings), task, hardware):
        computed[batch.positions] = predictions
    computed.exp().numpy().argmax(axis=1)
    return Cost(_peak(), time.perf_counter() - started)


def _peak() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIBIBYTE


def alone(work: Callable[..., Cost], *words: object) -> Cost:
    """Return the cost of `work` in a process of its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(work, *words).result()


def line(fewer: int, small: float, more: int, large: float, wanted: int) -> float:
    """Return the value at `wanted` of the line through two measured points."""
    return large + (wanted - more) * (large - small) / (more - fewer)


def measure(size: Size, wide: Size, old_rows: tuple[int, int]) -> list[Finding]:
    """Return the findings for labels and the best labels of `size`, and for probabilities of `wide`."""
    old = [alone(_before, Size(size.classes, 0, rows)) for rows in old_rows]
    (few, many), (small, large) = old_rows, (cost.peak for cost in old)
    findings = []
    for sends, metric in CASES.items():
        here = wide if sends == "probabilities" else size
        cost = alone(_now, sends, here)
        then = line(few, small, many, large, here.test) / 1e6
        findings.append(
            Finding(
                f"{sends} ({metric}), {here.valid:,} validation and {here.test:,} test rows, {cost.seconds:,.0f} s",
                f"before, extrapolated: {then:,.0f} MB",
                f"{cost.peak / 1e6:,.0f} MB",
                f"under {MOST_BYTES / 1e6:,.0f} MB",
                cost.peak < MOST_BYTES,
            )
        )
    for rows, cost in zip(old_rows, old, strict=True):
        what = f"as before, the predictions of {rows:,} test rows alone"
        findings.append(Finding(what, "-", f"{cost.peak / 1e6:,.0f} MB"))
    return findings


def main(arguments: Sequence[str] | None = None) -> list[Finding]:
    parser = measuring.parser(__doc__, "many_classes")
    parser.add_argument("--classes", type=int, default=15_501, help="classes (15501)")
    parser.add_argument("--test", type=int, default=210_000, help="test rows (210000)")
    parser.add_argument("--valid", type=int, default=20_000, help="validation rows (20000)")
    parser.add_argument("--wide", type=int, default=2_000, help="rows of a submission of probabilities (2000)")
    parser.add_argument("--old", type=int, nargs=2, default=OLD_ROWS, help="rows of the old way (2000 4000)")
    words = parser.parse_args(arguments)
    size = Size(words.classes, words.valid, words.test)
    findings = measure(size, Size(words.classes, words.wide, words.wide), tuple(words.old))
    sizes = f"{words.classes:,} classes, {FEATURES} features of random numbers, batches of {BATCH}; one run each"
    measuring.conclude("many_classes", __doc__, arguments, findings, sizes)
    return findings


if __name__ == "__main__":
    raise SystemExit(measuring.run(main))
