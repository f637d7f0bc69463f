"""The Makefile documents itself, every target runs dry, and its variables reach the stages."""

import re
import subprocess
from pathlib import Path

import pytest

from pipelines.settings.loading import COMPETITIONS, load_settings
from pipelines.settings.schema import DEFAULT_RECIPE

REPOSITORY = Path(__file__).parents[2]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
TARGETS = re.search(r"^\.PHONY: (.*)$", MAKEFILE, re.MULTILINE).group(1).split()  # type: ignore[union-attr]
PROMISED = (
    "install demo doctor download split train retrain predict submit submissions all kernel kaggle-standin test "
    "test-slow lint profile bench clean"
).split()


def make(*arguments: str) -> str:
    done = subprocess.run(["make", *arguments], cwd=REPOSITORY, capture_output=True, text=True, check=True)
    return done.stdout


def test_promised_targets_exist() -> None:
    assert set(PROMISED) <= set(TARGETS)


def test_make_alone_is_help_and_lists_every_target() -> None:
    listed = re.findall(r"^  make (\S+)", make(), re.MULTILINE)
    assert sorted(listed) == sorted(TARGETS)


@pytest.mark.parametrize("target", TARGETS)
def test_target_runs_dry(target: str) -> None:
    make("-n", target)


@pytest.mark.parametrize("toml", sorted(COMPETITIONS.glob("*.toml")), ids=lambda path: path.stem)
def test_competition_is_valid_and_its_header_gives_the_command(toml: Path) -> None:
    settings = load_settings(toml.stem)
    assert settings.recipe == DEFAULT_RECIPE and settings.competition.title
    header = toml.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert re.search(r"make (demo|all( [a-z]+)* COMP=" + toml.stem + ")", header)


def test_words_reach_the_stage() -> None:
    dry = make("-n", "train", "COMP=cifar-10", "RECIPE=textbook", "RUN=mine", "SET=train.epochs=5 train.lr=1e-3")
    words = "cifar-10 --recipe textbook --run mine --set train.epochs=5 train.lr=1e-3"
    assert f"-m pipelines.train {words}" in dry


def test_a_message_with_quotes_reaches_submit_whole() -> None:
    dry = make("-n", "submit", "COMP=cifar-10", "AGAIN=1", """MSG=it's "mine\"""")
    assert '-m pipelines.submit cifar-10 --recipe default   --message="$MSG" --again\n' in dry


def test_demo_is_always_the_digits() -> None:
    dry = make("-n", "demo", "COMP=cifar-10")
    assert "pipelines.train digits" in dry
    assert "cifar-10" not in dry


def test_clean_spares_raw_data_runs_and_submissions() -> None:
    removed = [line for line in make("-n", "clean").splitlines() if line.startswith("rm")]
    assert removed == ["rm -rf data/*/cache .mypy_cache .ruff_cache .pytest_cache"]
