"""The Makefile documents itself, every target runs dry, and its variables reach the stages."""

import re
import shlex
import subprocess
from itertools import combinations, product
from pathlib import Path

import pytest

from pipelines.settings.competitions import COMPETITIONS
from pipelines.settings.loading import load_settings
from pipelines.settings.schema import DEFAULT_RECIPE
from pipelines.system.group import SHARED
from tests.support.desk import FOLDER, Desk

REPOSITORY = Path(__file__).parents[2]
MAKEFILE = (REPOSITORY / "Makefile").read_text(encoding="utf-8")
TARGETS = re.search(r"^TARGETS := (.*)$", MAKEFILE, re.MULTILINE).group(1).split()  # type: ignore[union-attr]
PROMISED = (
    "install demo doctor download split train retrain predict submit submissions all kernel kaggle-standin test "
    "test-slow test-processors lint profile bench gpu-check clean"
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


@pytest.mark.parametrize("words", [("train", "cifar-10"), ("train", "COMP=", "digits"), ("digits",)])
def test_a_word_that_is_no_target_is_refused_before_any_other_target_runs(words: tuple[str, ...]) -> None:
    call = ["make", "--no-print-directory", "-n", *words]
    done = subprocess.run(call, cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and not done.stdout
    assert f"There is no target {words[-1]}. Is it a value? Write COMP={words[-1]}," in done.stderr


@pytest.mark.parametrize("toml", sorted(COMPETITIONS.glob("*.toml")), ids=lambda path: path.stem)
def test_competition_is_valid_and_its_header_gives_the_command(toml: Path) -> None:
    settings = load_settings(toml.stem)
    assert settings.recipe == DEFAULT_RECIPE and settings.competition.title
    header = toml.read_text(encoding="utf-8").split("\n\n")[0]
    assert all(line.startswith("#") for line in header.splitlines())
    assert re.search(r"make (demo|all( [a-z]+)* COMP=" + toml.stem + ")", header)


def test_words_reach_the_stage() -> None:
    dry = make("-n", "train", "COMP=cifar-10", "RECIPE=textbook", "RUN=mine", "SET=train.epochs=5 train.lr=1e-3")
    words = "cifar-10 --recipe=textbook --run=mine --set='train.epochs=5 train.lr=1e-3'"
    assert f"-m pipelines.train {words}" in dry


def test_processes_share_the_stages_that_can_be_shared() -> None:
    dry = make("-n", "all", "folds", "COMP=cifar-10", "NPROC=2")
    for stage in SHARED:
        assert f"-m pipelines.tools.launch 2 {stage} cifar-10\n" in dry
    assert "-m pipelines.split cifar-10\n" in dry
    assert "-m pipelines.tools.folds cifar-10 --at-once=2\n" in dry


AWKWARD = (
    "a b",
    "it's",
    'a "b"',
    "$HOME $(x) $$",
    "a;b",
    "a & b",
    "(a)",
    "`a`",
    "a#b",
    "*",
    "ä",
    "\\",
    "~/a",
    "[a, b]",
)


@pytest.mark.parametrize("by_environment", [False, True])
def test_every_value_reaches_the_stage_as_it_was_typed(tmp_path: Path, by_environment: bool) -> None:
    desk = Desk(tmp_path / FOLDER)
    desk.set_up()
    for value in AWKWARD:
        given = [f"{name}={shlex.quote(value)}" for name in ("COMP", "RUN", "SET", "RECIPE", "ARCHIVE", "SOLUTION")]
        order = [*given, "make", "download"] if by_environment else ["make", "download", *given]
        said, (call,) = desk.type(" ".join(order))
        assert said.status == 0, said.text
        options = [f"--{name}={value}" for name in ("recipe", "run", "set", "archive")]
        assert call.arguments == [value, *options]


def test_nothing_in_a_value_is_run(tmp_path: Path) -> None:
    desk = Desk(tmp_path / FOLDER)
    desk.set_up()
    value = "$(shell touch made)`touch made`$(touch made); touch made"
    _, (call,) = desk.type(f"make submit MSG={shlex.quote(value)} AGAIN=1")
    assert call.arguments == ["digits", f"--message={value}", "--again"]
    assert not (desk.folder / "made").exists()


@pytest.mark.parametrize("word", ["comp=cifar-10", "COMPETITION=cifar-10", "EPOCHS=5", "set='train.epochs=5'"])
def test_a_variable_that_does_not_exist_is_refused(tmp_path: Path, word: str) -> None:
    desk = Desk(tmp_path / FOLDER)
    desk.set_up()
    said, calls = desk.type(f"make train {word}")
    assert said.status == 2 and not calls
    assert f"Unknown variable: {word.partition('=')[0]}. The variables are COMP RECIPE RUN SET" in said.text


@pytest.mark.parametrize(("value", "again"), [("1", True), ("yes", True), ("0", False), ("no", False), ("", False)])
def test_again_can_be_denied(tmp_path: Path, value: str, again: bool) -> None:
    desk = Desk(tmp_path / FOLDER)
    desk.set_up()
    _, (call,) = desk.type(f"make submit AGAIN={value}")
    assert ("--again" in call.arguments) == again


def test_an_empty_competition_is_not_the_default(tmp_path: Path) -> None:
    desk = Desk(tmp_path / FOLDER)
    desk.set_up()
    said = desk.paste("make train COMP=")
    assert said.status == 2 and "No competition is given" in said.text


def test_a_message_with_quotes_reaches_submit_whole() -> None:
    dry = make("-n", "submit", "COMP=cifar-10", "AGAIN=1", """MSG=it's "mine\"""")
    assert """-m pipelines.submit cifar-10 --message='it'\\''s "mine"' --again\n""" in dry


def test_demo_is_always_the_digits() -> None:
    dry = make("-n", "demo", "COMP=cifar-10")
    assert "pipelines.train digits" in dry
    assert "cifar-10" not in dry


def test_clean_spares_raw_data_runs_and_submissions() -> None:
    removed = [line for line in make("-n", "clean").splitlines() if line.startswith("rm")]
    assert removed == ["rm -rf data/*/cache .mypy_cache .ruff_cache .pytest_cache"]


def test_processors_are_tried_in_all_pairs() -> None:
    block = re.search(r"^define PROCESSORS\n(.*?)^endef$", MAKEFILE, re.MULTILINE | re.DOTALL).group(1)  # type: ignore[union-attr]
    runs = [dict(each.split("=") for each in line.split()) for line in block.splitlines()]
    assert runs.pop() == {"OMP_NUM_THREADS": "2"}  # the machine as it is
    values = {
        "ONEDNN_MAX_CPU_ISA": ("AVX2", "AVX512_CORE", "AVX512_CORE_BF16", None),
        "ATEN_CPU_CAPABILITY": ("default", "avx2"),
        "OMP_NUM_THREADS": ("1", "2"),
    }
    for one, other in combinations(values, 2):
        pairs = {(run.get(one), run.get(other)) for run in runs}
        assert pairs == set(product(values[one], values[other]))


def test_processors_are_tried_one_after_the_other_up_to_the_first_failure(tmp_path: Path) -> None:
    python = tmp_path / "bin" / "python"
    python.parent.mkdir()
    (tmp_path / ".installed").touch()
    python.write_text(
        '#!/bin/sh\necho "$*; $ONEDNN_MAX_CPU_ISA $ATEN_CPU_CAPABILITY $OMP_NUM_THREADS" >>runs\n'
        '[ "$OMP_NUM_THREADS" = 1 ] || [ "$ATEN_CPU_CAPABILITY" = avx2 ]\n'
    )
    python.chmod(0o755)
    words = ["make", "--no-print-directory", "-f", str(REPOSITORY / "Makefile"), "test-processors", "VENV=."]
    words += ["-o", ".installed"]
    (tmp_path / "requirements.txt").touch()
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    tests = "-m pytest -q -n 2 --dist loadfile"
    assert (tmp_path / "runs").read_text().splitlines() == [
        f"{tests}; AVX2 default 1",
        f"{tests}; AVX2 avx2 2",
        f"{tests}; AVX512_CORE default 2",
    ]
    failed = "ONEDNN_MAX_CPU_ISA=AVX512_CORE ATEN_CPU_CAPABILITY=default OMP_NUM_THREADS=2"
    assert done.stdout.splitlines()[-2:] == [f"Tests with {failed}", f"Failed with {failed}"]


@pytest.mark.parametrize("folder", ["data", "submissions"])
def test_a_fresh_checkout_has_the_folder_with_nothing_but_its_readme(folder: str) -> None:
    git = ["git", "-C", str(REPOSITORY)]
    if subprocess.run([*git, "rev-parse"], capture_output=True).returncode:
        pytest.skip("this is no git checkout")
    tracked = subprocess.run([*git, "ls-files", folder], capture_output=True, text=True, check=True)
    assert tracked.stdout.split() == [f"{folder}/README.md"]
    others = [f"{folder}/{name}" for name in ("digits/raw/1.png", "digits/README.md", "notes.txt", ".x.lock")]
    ignored = subprocess.run([*git, "check-ignore", f"{folder}/README.md", *others], capture_output=True, text=True)
    assert ignored.stdout.split() == others
