"""The table of epochs: what it shows on screens of every width, and what is called after each epoch."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pipelines.core.phases import phase_of_epochs
from pipelines.settings.metrics import METRICS
from pipelines.system.group import ALONE
from pipelines.tools.epoch_table import DROPPED, EpochTable, Row, print_epochs, train_and_show
from tests.support.tiny import Tiny, pretrained

NUMBERS = [name for name, facts in METRICS.items() if facts.takes == "numbers"]


def row(epoch: int, metric: str = "accuracy", score: float = 0.5, **more: float) -> Row:
    values: dict[str, Any] = {"epoch": epoch, "train_loss": 1.0, "valid_loss": 2.0, metric: score, "lr": 0.1}
    return values | {"images_per_second": 100.0, "seconds": 2.0} | more


def lines_of(table: EpochTable, rows: list[Row]) -> list[str]:
    return [table.heading(), *(table.line(rows[: number + 1]) for number in range(len(rows)))]


def test_epochs_are_printed_once_each_and_aligned(capsys: pytest.CaptureFixture[str]) -> None:
    seen: list[list[int]] = []
    table = EpochTable(3, "accuracy", ["", "", ""])
    rows = print_epochs(
        iter([row(2), row(3)]), [row(1)], table, lambda rows: seen.append([each["epoch"] for each in rows])
    )
    lines = capsys.readouterr().out.splitlines()
    assert [each["epoch"] for each in rows] == [1, 2, 3]
    assert seen == [[1], [1, 2], [1, 2, 3]]
    assert lines.pop(2) == "Continuing after epoch 1."
    assert len(lines) == 4 and len({len(line) for line in lines}) == 1
    assert lines[2].split()[0] == "2/3" and lines[2].endswith("2 s")


@pytest.mark.parametrize("metric", ["", *METRICS])
@pytest.mark.parametrize("phases", [["", ""], ["head 128 px warm-up", "tuning 160 px decay"]], ids=["one", "several"])
def test_every_metric_fits_80_columns(metric: str, phases: list[str]) -> None:
    table = EpochTable(2, metric, phases)
    lines = lines_of(table, [row(1, metric), row(2, metric, 0.25)])
    assert len({len(line) for line in lines}) == 1 and len(lines[0]) <= 80
    heading = lines[0].split()
    assert [name for name in heading if name not in DROPPED] == [
        *("epoch", "train_loss", *(["valid_loss", metric] if metric else []), "left")
    ]


scores = st.floats(-9e9, 9e9) | st.sampled_from([float("nan"), float("inf")])


@given(
    st.sampled_from(["", *NUMBERS, "accuracy", "average_precision_columns"]),
    st.integers(64, 200),
    st.integers(1, 99_999),
    st.lists(st.tuples(scores, st.floats(1e-8, 100), st.floats(0, 9e6), st.floats(0, 3)), min_size=1, max_size=4),
)
def test_all_rows_are_as_wide_as_the_heading(
    metric: str, screen: int, epochs: int, values: list[tuple[float, float, float, float]]
) -> None:
    """Scores of metrics that are shares are shares here."""
    table = EpochTable(max(epochs, len(values)), metric, ["warm-up"] * len(values), screen=screen)
    rows = []
    for number, (score, lr, speed, seconds) in enumerate(values):
        found = score if metric in NUMBERS else 0.5
        more = {"lr": lr, "images_per_second": speed, "seconds": seconds}
        rows.append(row(number + 1, metric, found, train_loss=score, valid_loss=score, **more))
    lines = lines_of(table, rows)
    assert len({len(line) for line in lines}) == 1
    assert len(lines[0]) <= screen


def test_less_important_columns_go_first() -> None:
    names = ["epoch", "train_loss", "valid_loss", "accuracy", "lr", "phase", "images/s", "left"]
    shown = []
    for screen in range(100, 53, -1):
        found = list(EpochTable(10, "accuracy", ["head", "tuning"] * 5, screen=screen).widths)
        if found not in shown:
            shown.append(found)
    expected = [list(names)]
    for name in ("images/s", "phase", "lr"):
        names.remove(name)
        expected.append(list(names))
    assert shown == expected


@pytest.mark.parametrize(
    ("metric", "found", "stars"),
    [
        ("accuracy", [0.5, 0.4, 0.6, 0.6, 0.7], "*-*-*"),
        ("log_loss", [0.5, 0.4, 0.6, 0.4, float("nan")], "**---"),
        ("accuracy", [float("nan"), 0.2, 0.1], "**-"),
    ],
)
def test_a_star_marks_the_best_score_so_far(metric: str, found: list[float], stars: str) -> None:
    rows = [row(number, metric, score) for number, score in enumerate(found, start=1)]
    table = EpochTable(len(rows), metric, [""] * len(rows))
    lines = lines_of(table, rows)[1:]
    assert ["*" if "*" in line else "-" for line in lines] == list(stars)
    assert all(line.split()[3].endswith("*") for line in lines if "*" in line)


def test_the_time_left_is_that_of_epochs_of_the_same_kind() -> None:
    rows = [row(1, seconds=1), row(2, seconds=10), row(3, seconds=20)]
    lines = lines_of(EpochTable(5, "accuracy", [""] * 5, head_epochs=1), rows)
    assert [line.split()[-1] for line in lines[1:2]] == ["-"]
    assert lines[2].endswith("  30 s") and lines[3].endswith("  30 s")


PHASES = (
    ((), [""] * 4),
    (("train.schedule=cosine",), [""] * 4),
    (("train.schedule=cosine", "train.warmup_epochs=1.5"), ["warm-up", "warm-up", "decay", "decay"]),
    (("train.schedule=step", "train.step_epochs=3"), ["peak", "peak", "peak", "decay"]),
    (("augment.sizes=[4,8]",), ["4 px", "4 px", "8 px", "8 px"]),
    (("augment.sizes=[4,8]", "train.warmup_epochs=1"), ["4 px warm-up", "4 px peak", "8 px peak", "8 px peak"]),
)


@pytest.mark.parametrize(("overrides", "words"), PHASES)
def test_phases_are_told_where_there_are_several(tiny: Tiny, overrides: tuple[str, ...], words: list[str]) -> None:
    assert phase_of_epochs(tiny.settings("train.epochs=4", *overrides)) == words


def test_the_head_alone_is_a_phase_with_a_warm_up_of_its_own(tiny: Tiny, small_weights: Any) -> None:
    more = (*pretrained(small_weights), "train.epochs=4", "finetune.head_epochs=2", "train.warmup_epochs=1")
    assert phase_of_epochs(tiny.settings(*more)) == ["head warm-up", "head peak", "tuning warm-up", "tuning peak"]


def test_training_and_retraining_print_their_table(tiny: Tiny, capsys: pytest.CaptureFixture[str]) -> None:
    overrides = ("train.epochs=3", "train.warmup_epochs=1")
    for job, score in ((tiny.job(*overrides), True), (tiny.retrain_job(*overrides), False)):
        rows = train_and_show(job, tiny.network(job.settings), ALONE)
        lines = capsys.readouterr().out.splitlines()
        assert len(rows) == 3 and len(lines) == 4
        assert ("accuracy" in lines[0].split()) == score == ("*" in lines[1])
        assert lines[1].split().count("warm-up") == 1 and lines[3].split().count("peak") == 1
