"""What the benchmarks measure with: tried on little, and never on how long something took."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from conftest import TOML, Tiny, pretrained
from torch import nn

from benchmarks import __main__ as bench
from benchmarks import against_chapter, profile, scaling, training_speed
from benchmarks.measuring import Finding
from pipelines import command, download, split


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
    assert not job.last.exists() and not job.layout.cache.exists()
    for part in profile.PARTS:
        assert f"\n{part}" in found.table()


def test_kinds_of_epochs_are_those_of_the_whole_training(tiny: Tiny) -> None:
    settings = tiny.settings("augment.sizes=[4,6,8]", "train.epochs=7")
    found = profile.kinds(settings)
    assert [(kind.epochs, kind.size) for kind in found] == [(3, 4), (2, 6), (2, 8)]
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
    seconds = against_chapter.chapter_seconds(train=90, valid=10, test=30, training=10.0, predicting=3.0, copying=7.0)
    assert seconds == 20 * 90 / 10 + 20 * 100 / 10 + 30 / 3 + 7


def test_time_for_an_image_is_without_the_start_and_memory_without_what_is_always_there() -> None:
    def trials(count: int) -> list[scaling.Trial]:
        seconds = {
            "split": 2 + 3e-6 * count,
            "packing": 5 + 1e-3 * count,
            "epoch": 1.0 + count**2,
            "predict": 4 + count,
        }
        return [scaling.Trial(seconds, 10**9 + 50 * count, "train")] * 3

    found = scaling.findings({count: trials(count) for count in (scaling.TINY, 1000, 10_000, 100_000)})
    ratios = {finding.what.partition(":")[0]: finding for finding in found}
    assert "3.0 (3.0-3.0) µs" in ratios["split, 10,000 images"].what
    assert "2,000.0 (2,000.0-2,000.0) µs" in ratios["packing, 100,000 images"].what  # half of them are labelled
    assert ratios["packing, 100,000 images"].figure == "1.00 times (1.00-1.00)"
    assert [ratios[f"{stage}, 100,000 images"].reached for stage in scaling.STAGES] == [True, True, False, True]
    assert ratios["largest process, 100,000 images"].figure == "1,005 MB, 50 bytes more for each image"
    (quadratic,) = [finding for finding in found if finding.what.startswith("  each more") and not finding.reached]
    assert quadratic.figure == "10.00 times (10.00-10.00)"


def test_scaling_counts_the_fastest_try_and_the_largest_process() -> None:
    tries = [scaling.Trial(dict.fromkeys(scaling.STAGES, float(each)), each, f"stage {each}") for each in (2, 1, 3)]
    found = scaling.fastest(tries)
    assert found.seconds == dict.fromkeys(scaling.STAGES, 1.0)
    assert (found.memory, found.largest) == (3, "stage 3")


def test_every_benchmark_is_in_the_list_that_make_bench_goes_through() -> None:
    aside = {"__init__", "__main__", "measuring", "profile"}  # profile is a target of its own
    there = {path.stem for path in Path(bench.__file__).parent.glob("*.py")} - aside
    assert there <= {benchmark.name for benchmark in bench.BENCHMARKS}


def test_make_bench_shows_what_compares_and_says_why_it_skips(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    called = []

    def main(words: list[str]) -> list[Finding]:
        called.append(words)
        return [
            Finding("alone", "-", "1"),
            Finding("ours", "theirs", "2.0 (1.9-2.1)"),
            Finding("x", "-", "3", "4", True),
        ]

    archive = tmp_path / "there.zip"
    archive.touch()
    listed = (
        bench.Benchmark("short", ("--pairs", "9"), ("--pairs", "3")),
        bench.Benchmark("long", (), None),
        bench.Benchmark("here", (), (), ("archive",)),
        bench.Benchmark("gone", (), (), ("dogs",)),
    )
    monkeypatch.setattr(bench, "BENCHMARKS", listed)
    monkeypatch.setattr(bench.importlib, "import_module", lambda name: SimpleNamespace(main=main))
    bench.main(["--quick", "--archive", str(archive)])
    assert called == [["--pairs", "3", "--no-record"], ["--archive", str(archive), "--no-record"]]
    table = capsys.readouterr().out.partition("measured")[2]
    assert "alone" not in table
    assert table.count("2.0 (1.9-2.1)") == table.count(" yes ") == 2
    assert "benchmarks.short --pairs 3\n" in table and "benchmarks.here --archive there.zip\n" in table
    assert "Skipped: python -m benchmarks.long (takes longer than --quick is to)" in table
    assert "Skipped: python -m benchmarks.gone (needs --dogs: not given)" in table
