"""What the benchmarks measure with: tried on little, and never on how long something took."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from torch import nn

from benchmarks import __main__ as bench
from benchmarks import (
    airbench,
    measuring,
    predict_memory,
    processes,
    profile,
    safety,
    scaling,
    textbook,
    training_speed,
)
from pipelines import command, download, split
from pipelines.settings.loading import load_settings
from pipelines.system.errors import UserError
from tests.support.stages import run_stage_here
from tests.support.tiny import TOML, Tiny, pretrained


@pytest.mark.parametrize(
    ("overrides", "absent"),
    [
        ((), set()),
        (("input.source=photos",), set()),
        (("augment.sizes=[4,8]", "train.ema_decay=0.5", "train.epochs=5"), set()),
        (("pretrained", "finetune.frozen_stages=-1"), {"augment"}),
        (("pretrained", "finetune.head_epochs=1", "input.source=photos"), set()),
    ],
)
def test_parts_of_a_training_add_up_to_what_the_engine_measured(
    overrides: tuple[str, ...], absent: set[str], tiny: Tiny, small_weights: Path
) -> None:
    if "pretrained" in overrides:
        overrides = (*pretrained(small_weights), *overrides[1:])
    job = tiny.job(*overrides)
    found = profile.measure(job, tiny.network(job.settings), steps=2)
    assert list(found.parts) == list(profile.PARTS)
    assert {part for part, seconds in found.parts.items() if not seconds} == absent
    assert sum(found.parts.values()) == pytest.approx(found.whole, rel=0.2)
    assert not job.files.last.exists() and not job.train.cache.exists()
    for part in profile.PARTS:
        assert f"\n{part}" in found.table()


def test_kinds_of_epochs_are_those_of_the_whole_training(tiny: Tiny) -> None:
    settings = tiny.settings("augment.sizes=[4,6,8]", "train.epochs=7")
    found = profile.kinds(settings)
    assert [(kind.epochs, kind.size) for kind in found] == [(2, 4), (2, 6), (3, 8)]
    short = profile.shortened(settings, found)
    assert [(kind.epochs, kind.size) for kind in profile.kinds(short)] == [(2, 4), (2, 6), (2, 8)]


def test_profile_names_the_target_that_makes_its_input(
    tmp_path: Path, tiny: Tiny, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def status(main: object, *words: str) -> int:
        return command.run(main, ["tiny.toml", *words])  # type: ignore[arg-type]

    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "tiny.toml").write_text(TOML)
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert status(profile.main) == 2
    assert "First: make download COMP=tiny.toml" in capsys.readouterr().err
    assert status(download.main, "--archive", str(tiny.layout.raw)) == 0
    assert status(profile.main) == 2
    assert "First: make split COMP=tiny.toml" in capsys.readouterr().err
    assert status(split.main) == 0
    assert status(profile.main, "--steps", "0") == 2
    assert status(profile.main, "--steps", "2") == 0
    assert "by the engine's own clock" in capsys.readouterr().out


def test_operations_of_a_step_leave_out_gradients_that_nobody_needs() -> None:
    frozen = nn.Conv2d(3, 4, kernel_size=3, padding=1, bias=False)
    frozen.weight.requires_grad_(False)
    first, second = nn.Conv2d(4, 6, kernel_size=3, stride=2, padding=1), nn.Conv2d(6, 6, 3, padding=1, groups=2)
    head = nn.Sequential(nn.Flatten(), nn.Linear(6 * 4 * 4, 10))
    network = nn.Sequential(frozen, nn.BatchNorm2d(4, affine=False), first, nn.GELU(), second, head)
    expected = 1 * 8 * 8 * 4 * 3 * 9  # forward alone
    expected += 2 * 4 * 4 * 6 * 4 * 9  # and for its weights: in front of it nothing learns
    expected += 3 * 4 * 4 * 6 * 3 * 9  # and for its inputs; each filter sees one of two groups
    expected += 3 * 6 * 4 * 4 * 10
    assert training_speed.operations(network, 8) == 2 * expected


def test_the_chapter_s_time_is_its_epochs_its_prediction_and_its_copies() -> None:
    seconds = textbook.seconds(train=90, valid=10, test=30, training=10.0, predicting=3.0, copying=7.0)
    assert seconds == 20 * 90 / 10 + 20 * 100 / 10 + 30 / 3 + 7


def test_time_for_an_image_is_without_the_start_and_memory_without_what_is_always_there() -> None:
    def trials(count: int) -> list[scaling.Trial]:
        seconds = {
            "split": 2 + 3e-6 * count,
            "tree": 1 + 2e-6 * count,
            "packing": 5 + 1e-3 * count,
            "epoch": 1.0 + count**2,
            "predict": 4 + count,
        }
        return [scaling.Trial(seconds, 10**9 + 50 * count, "train", 10**7 + 200 * count, count + 5, count // 4)] * 3

    found = scaling.findings({count: trials(count) for count in (scaling.TINY, 1000, 10_000, 100_000)})
    ratios = {finding.what.partition(":")[0]: finding for finding in found}
    assert "3.0 (3.0-3.0) µs" in ratios["split, 10,000 images"].what
    assert "2,000.0 (2,000.0-2,000.0) µs" in ratios["packing, 100,000 images"].what  # half of them are labelled
    assert ratios["packing, 100,000 images"].figure == "1.00 times (1.00-1.00)"
    assert [ratios[f"{stage}, 100,000 images"].reached for stage in scaling.STAGES] == [True, True, True, False, True]
    assert ratios["largest process, 100,000 images"].figure == "1,005 MB, 50 bytes more for each image"
    table = ratios["table, read from split.csv, 100,000 images"]
    assert table.figure == "30 MB, 200 bytes more for each image" and table.reached
    assert ratios["files written, 100,000 images"].figure == "100,005, at most 25,000 a folder"
    (quadratic,) = [finding for finding in found if finding.what.startswith("  each more") and not finding.reached]
    assert quadratic.figure == "10.00 times (10.00-10.00)"


def test_scaling_measures_all_stages_at_every_size(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    seconds = itertools.accumulate(itertools.count(1))  # no two differences are equal

    def in_this_process(folder: Path, stage: str, *words: str) -> measuring.StageRun:
        monkeypatch.chdir(folder)
        assert run_stage_here(stage, list(words)) == 0
        return measuring.StageRun(stage, float(next(seconds)), measuring.Memory(10**9, 10**9, 10**9))

    monkeypatch.setattr(scaling, "run_stage", in_this_process)
    monkeypatch.setattr(scaling, "TINY", 40)
    monkeypatch.setattr(scaling, "TRIES", 1)
    found = {finding.what.partition(":")[0]: finding for finding in scaling.measure(tmp_path, (60, 80), 1)}
    assert "Tree: none" in capsys.readouterr().out
    for stage in scaling.STAGES:
        assert found[f"{stage}, 80 images"].against.startswith("60 images: ")
    assert "bytes more for each image" in found["table, read from split.csv, 80 images"].figure
    few, many = (int(found[f"files written, {size} images"].figure.partition(",")[0]) for size in (60, 80))
    assert many - few == 10 * 2 + 10  # labelled images are linked twice
    assert not list(tmp_path.glob("*/data/*/train_valid_test"))


def test_scaling_counts_the_fastest_try_and_the_largest_process() -> None:
    tries = [scaling.Trial(dict.fromkeys(scaling.STAGES, float(each)), each, f"stage {each}") for each in (2, 1, 3)]
    found = scaling.fastest(tries)
    assert found.seconds == dict.fromkeys(scaling.STAGES, 1.0)
    assert (found.memory, found.largest) == (3, "stage 3")


def test_two_processes_are_compared_with_as_many_threads_and_with_one() -> None:
    both, cores, one = ({"training": speed, "features": speed} for speed in (19.0, 20.0, 11.0))
    ways = {processes.TOGETHER: [both], processes.ALL_CORES: [cores], processes.ONE: [one]}
    training, *features = processes.findings(ways)
    assert (training.figure, training.reached) == ("0.95 times", True)
    assert [(each.figure, each.reached) for each in features] == [("0.95 times", True), ("1.73 times", False)]


@pytest.mark.slow
def test_two_processes_and_one_are_measured() -> None:
    ways = (processes.TOGETHER, processes.ONE)
    for speeds in processes.measure(200, 70, 2, 1, ways).values():
        assert all(speed > 0 for each in speeds for speed in each.values())


@pytest.mark.slow
def test_what_being_safe_costs_is_counted_in_every_stage(tmp_path: Path, tiny: Tiny) -> None:
    folder = tmp_path / "measured"
    folder.mkdir()
    stages = safety.measure(folder, tiny.layout.raw, str(tiny.toml), ["train.epochs=2"])
    for stage, parts in {
        "split": {"locks", "hashing", safety.FLUSH},
        "train": {"locks", "hashing", safety.FLUSH, "checkpoints and history, each epoch", "intervals of scores"},
        "retrain": {"locks", "hashing", safety.FLUSH, "checkpoints and history, each epoch"},
        "predict": {"locks", "hashing", safety.FLUSH, "intervals of scores", "checking the submission"},
    }.items():
        assert {part for part, seconds in stages[stage].parts.items() if seconds} == parts
        assert sum(stages[stage].parts.values()) < stages[stage].seconds
    assert len(list((folder / "submissions" / "tiny").glob("default-*.csv"))) == 1
    with pytest.raises(UserError, match=r"pipelines.download .*ended with status 2:\n(.|\n)*unknown key split.sed"):
        safety.measure(folder, tiny.layout.raw, str(tiny.toml), ["split.sed=2"])


def test_a_moment_inside_two_counted_functions_is_counted_once(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 5.0, 10.0, 10.0, 10.0, 11.0, 20.0, 22.0])
    monkeypatch.setattr(safety.time, "perf_counter", lambda: next(times))
    tally = safety.Tally()

    @contextlib.contextmanager
    def written() -> Iterator[str]:
        yield "value"

    flush = tally.counted(safety.FLUSH, written)

    def save() -> None:
        with flush():
            pass

    tally.counted("locks", save)()
    with flush() as value:
        assert value == "value"
    assert {part: seconds for part, seconds in tally.seconds.items() if seconds} == {"locks": 5.0, safety.FLUSH: 3.0}


def test_every_benchmark_is_in_the_list_that_make_bench_goes_through() -> None:
    aside = {"__init__", "__main__", "measuring", "profile", "synthetic", "textbook"}  # profile: a target of its own
    aside |= {"blend", "frozen_default"}  # of runs and competitions that the user names
    aside |= {"screenshot"}  # draws a picture of the README
    aside |= {"gpu_check", "gpu_speed", "gpu_visit", "gpu_work"}  # a target of their own
    there = {path.stem for path in Path(bench.__file__).parent.glob("*.py")} - aside
    assert there <= {benchmark.name for benchmark in bench.BENCHMARKS}


def test_make_bench_shows_what_compares_and_says_what_it_skips_and_what_failed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broken = tmp_path / "broken.zip"
    broken.write_bytes(b"no archive")
    little = ("--files", "300", "--pairs", "2")
    listed = (
        bench.Benchmark("whole_pipeline", (), (), ("archive",)),
        bench.Benchmark("split_vs_copy", ("--pairs", "9"), little),
        bench.Benchmark("scaling", (), None),
        bench.Benchmark("frozen_vs_chapter", (), (), ("dogs",)),
    )
    monkeypatch.setattr(bench, "BENCHMARKS", listed)
    before = measuring.RESULTS.read_bytes()
    assert command.run(bench.main, ["--quick", "--archive", str(broken)]) == 2
    captured = capsys.readouterr()
    assert "broken.zip" in captured.err
    assert "Failed, see above: python -m benchmarks.whole_pipeline --archive broken.zip --no-record." in captured.err
    table = captured.out.partition(" in all\n")[2]
    (row,) = [line for line in table.splitlines() if line.startswith("split of 300 images, time")]
    assert row.endswith("benchmarks.split_vs_copy --files 300 --pairs 2 --no-record")
    assert "faster" in row and "at least" not in row  # goals are for full sizes
    assert "Skipped: python -m benchmarks.scaling (too long for --quick)" in table
    assert "Skipped: python -m benchmarks.frozen_vs_chapter (needs --dogs: not given)" in table
    assert measuring.RESULTS.read_bytes() == before


def test_a_section_of_the_results_is_replaced_where_it_stands(tmp_path: Path) -> None:
    results = tmp_path / "RESULTS.md"
    for name, text in (("one", "first"), ("two", "second"), ("one", "anew")):
        measuring.replace_section(results, name, text)
    content = results.read_text()
    assert content.startswith(measuring.PREFACE)
    assert "first" not in content
    assert 0 < content.index("anew") < content.index("second")


@pytest.mark.parametrize(("batches", "let_through"), [(2, 5), (None, 7)])
def test_a_stopwatch_leaves_out_the_first_batches(
    monkeypatch: pytest.MonkeyPatch, batches: int | None, let_through: int
) -> None:
    times = iter([100.0, 104.0])  # when the first batch that counts is asked for, and when the last one is done
    monkeypatch.setattr(measuring, "now", lambda device: next(times))
    stopwatch = measuring.Stopwatch(torch.device("cpu"), batches)
    sizes = [50, 50, 50, 8, 8, 8, 4]
    assert list(stopwatch.watch(sizes, lambda size: size)) == sizes[:let_through]
    assert stopwatch.images_per_second == (16 / 4 if batches else 28 / 4)


def test_a_clock_counts_each_moment_for_one_part(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([0.0, 1.0, 3.0, 7.0, 15.0, 31.0, 63.0])
    monkeypatch.setattr(measuring, "now", lambda device: next(times))
    clock = profile.Clock(torch.device("cpu"))
    for part in ("forward", "backward", "forward", "", "I/O"):
        clock.enter(part)
    assert clock.taken() == {"forward": 1.0 + 4.0, "backward": 2.0, "I/O": 16.0}
    assert clock.taken() == {}


def test_settings_for_frozen_features_of_many_images_are_valid(tmp_path: Path) -> None:
    chosen = load_settings(predict_memory.TEMPLATE, overrides=predict_memory.frozen("mobilenet_v2", tmp_path))
    assert chosen.tuning.frozen_stages == -1


def test_rates_of_rounds_are_compared_in_pairs() -> None:
    found = predict_memory.against_loop("ours", [100.0, 30.0, 60.0], [10.0, 2.0, 5.0])
    assert found.figure == "12.0 times (10.0-15.0)"
    assert found.reached


def test_airbench_trains_on_shifted_and_mirrored_whole_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(airbench, "BATCH", 20)
    torch.manual_seed(0)
    labels = torch.arange(50) % 10
    images = torch.randn(50, 3, 32, 32) + labels[:, None, None, None] / 2
    marked = torch.arange(50.0)[:, None, None, None].expand(50, 3, 32, 32)
    drawn = [batch for batch, _ in airbench.batches(marked, labels, 0)]
    assert [batch.shape for batch in drawn] == [(20, 3, 32, 32)] * 2
    assert torch.cat(drawn)[:, 0, 0, 0].unique().numel() == 40  # no image twice

    filters = airbench.whitening(images)
    maps = torch.nn.functional.conv2d(images, filters[:12])
    assert torch.allclose(maps.transpose(0, 1).flatten(1).square().mean(1), torch.ones(12), atol=0.05)

    weight = nn.Parameter(torch.randn(6, 4, 1, 1))
    weight.grad = torch.randn(6, 4, 1, 1)
    before = weight.detach() * (6**0.5 / weight.detach().norm())
    airbench.orthogonal_step(weight, torch.zeros_like(weight), 0.1)
    moved = torch.linalg.svdvals((before - weight.detach()).flatten(1)) / 0.1
    assert ((moved > 0.4) & (moved < 1.6)).all()

    forward = airbench.train(images, labels, 2, torch.float32)
    one, six = airbench.views(forward, images)
    assert one.shape == six.shape == (50, 10) and not torch.equal(one, six)
    assert torch.allclose(one, forward(images), atol=1e-4)
