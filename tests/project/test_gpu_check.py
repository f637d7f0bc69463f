"""`make gpu-check` works without a GPU too, at toy sizes; its sections are independent; its record is complete."""

import contextlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks import gpu_check, gpu_work, measuring
from benchmarks.gpu_visit import TOY, Skipped, Visit
from pipelines.models.device import Hardware
from pipelines.system.errors import UserError

ABSENT = ("kaggle", "libarchive", "matplotlib", "py7zr", "pytest", "safetensors", "six", "timm")
# A machine that has only the packages that gpu_check names: importing another one fails there.
WITHOUT = f"""
import sys
from importlib.abc import MetaPathFinder

class Absent(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {ABSENT}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Absent())
from benchmarks import gpu_check, measuring
sys.exit(measuring.run(gpu_check.main))
"""
ALONE = {"tests", "together"}  # they start processes
NEED_A_GPU = {"waiting"}


def visit(folder: Path, until: float = float("inf")) -> Visit:
    return Visit(folder, Hardware(torch.device("cpu"), torch.float32), TOY, until)


def test_every_section_runs_at_toy_sizes_with_few_packages(tmp_path: Path) -> None:
    path, temporary = tmp_path / "found.json", tmp_path / "temporary"
    temporary.mkdir()
    words = [name for name in gpu_check.SECTIONS if name not in ALONE]
    command = [sys.executable, "-c", WITHOUT, "--toy", "--json", str(path), "--only", *words]
    environment = os.environ | {"PYTHONPATH": str(measuring.ROOT), "TMPDIR": str(temporary), "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    record = json.loads(path.read_text(encoding="utf-8"))
    assert record["toy_sizes"] and not record["left_out"] and list(record["sections"]) == words
    assert not [name for name, found in record["sections"].items() if "error" in found]
    assert {name for name, found in record["sections"].items() if "skipped" in found} == {*NEED_A_GPU, "compiling"}
    for name in words:
        assert f"\n{name}: " in done.stdout
    check_results({name: found.get("result") for name, found in record["sections"].items()})
    assert not list(temporary.glob("tmp*"))  # of the work


def check_results(found: dict[str, Any]) -> None:
    """Check that every figure is there."""
    assert set(ABSENT) & {"kaggle", "matplotlib", "pytest"} <= set(found["machine"]["missing_packages"])
    assert found["machine"]["torch"] == torch.__version__
    assert 0 < found["digits"]["cpu"]["accuracy"] <= 1 and found["digits"]["cpu"]["n"] == 500
    assert len(set(found["determinism"]["default"].values())) == 1
    for recipe in ("default", "best"):
        assert found["predicting"][f"{recipe}, batches of 4"]["images_per_second"] > 0
    assert found["memory"]["works_again"] and "Set train.batch_size=" in found["memory"]["message"]
    for way in ("default", "best", "airbench"):
        assert found["training"][way]["images_per_second"][0] > 0 < found["training"][way]["share_of_matrix_rate"]
    assert sum(found["parts"]["shares"].values()) == pytest.approx(1, abs=0.01)
    (network,) = TOY.networks
    assert found["extraction"][network]["folded"]["images_per_second"] > 0
    assert found["decoding"]["images_per_second_of_one_core"] > 0 < found["decoding"]["processes"]
    assert found["decoding"][f"cores for {network}, 2 views a photo"] > 0


def test_two_processes_share_one_device(tmp_path: Path) -> None:
    assert gpu_work.together(visit(tmp_path)) == {"statuses": [0, 0], "same_weights": True}


def test_a_section_that_fails_is_recorded_and_the_next_one_runs(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def refused(visit: Visit) -> dict[str, Any]:
        """Raise what a user can mend."""
        raise UserError("No room.")

    def broken(visit: Visit) -> dict[str, Any]:
        """Raise what is a mistake."""
        return {"one": 1 // int("0")}

    def lacking(visit: Visit) -> dict[str, Any]:
        """Import what is not there."""
        import no_such_package  # type: ignore[import-not-found]

        return {"imported": str(no_such_package)}

    def skipped(visit: Visit) -> dict[str, Any]:
        """Skip everything."""
        raise Skipped("it needs two of them")

    def works(visit: Visit) -> dict[str, Any]:
        """Find something."""
        return {"figures": [1.5, 2.5], "inside": {"deep": None, "found": "this"}}

    path = tmp_path / "record.json"
    sections = {each.__name__: each for each in (refused, broken, lacking, skipped, works)}
    record = gpu_check.try_all(visit(tmp_path), sections, path)
    found = {name: {**each, "seconds": 0} for name, each in record["sections"].items()}
    assert found["refused"] == {"seconds": 0, "error": "No room."}
    assert found["broken"]["error"].startswith("ZeroDivisionError: ") and "broken" in "".join(
        found["broken"]["traceback"]
    )
    assert found["lacking"] == {"seconds": 0, "skipped": "no_such_package is not installed"}
    assert found["skipped"] == {"seconds": 0, "skipped": "it needs two of them"}
    assert found["works"]["result"]["figures"] == [1.5, 2.5]
    assert json.loads(path.read_text(encoding="utf-8")) == record
    with pytest.raises(UserError, match="2 of 5 sections failed, see above: refused, broken"):
        gpu_check.conclude(record)
    printed = capsys.readouterr().out
    assert "refused: Raise what a user can mend.\n  error: No room.\n" in printed
    assert "  figures: 1.5, 2.5\n  inside\n    found: this\n" in printed


def test_no_section_begins_after_the_time(tmp_path: Path) -> None:
    record = gpu_check.try_all(visit(tmp_path, until=0.0), {"machine": gpu_work.machine}, tmp_path / "record.json")
    assert (record["left_out"], record["sections"]) == (["machine"], {})


def test_a_section_stops_when_the_time_is_used_up(tmp_path: Path) -> None:
    def endless(visit: Visit) -> dict[str, Any]:
        """Never end, whatever happens."""
        while True:
            with contextlib.suppress(Exception):
                time.sleep(1)

    limited = visit(tmp_path, until=time.monotonic() + 0.5)
    record = gpu_check.try_all(limited, {"endless": endless, "machine": gpu_work.machine}, tmp_path / "record.json")
    assert record["sections"]["endless"]["skipped"] == "the time was used up before it had finished"
    assert record["left_out"] == ["machine"]


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (("--minutes", "-1", "--only", "machine", "memory"), 0, "Left out: machine, memory. Run them with --only."),
        (("--only", "machine"), 0, "Written: "),
        (("--only", "machin"), 2, "There is no section machin. Did you mean 'machine'"),
    ],
)
def test_the_command_says_what_it_did(
    tmp_path: Path, words: tuple[str, ...], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measuring.run(lambda _: gpu_check.main(["--toy", "--json", str(tmp_path / "a.json"), *words])) == status
    captured = capsys.readouterr()
    assert said in captured.out + captured.err
    assert (tmp_path / "a.json").exists() == (not status)


def test_the_tests_for_a_gpu_are_found() -> None:
    files = gpu_work.gpu_tests()
    assert {"tests/core/test_gpu.py", "tests/system/test_memory.py"} <= set(files)
    assert all((measuring.ROOT / file).is_file() for file in files)
