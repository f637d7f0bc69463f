"""Processes that share work: what they exchange, and how all of them end when one does."""

import os
import re
import signal
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch

from pipelines.system.group import ALONE, Group, is_loss, joined, started
from pipelines.system.processes import cores
from tests.support.group_work import COUNT, FAILURES, OWN_MESSAGE
from tests.support.groups import PATIENCE, TORCHRUN, Running, check_gone, is_gone

WORK = (*TORCHRUN, f"--nproc-per-node={COUNT}", "-m", "tests.support.group_work")
BY_TORCHRUN = {"RANK": "1", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}


def test_alone_everything_is_as_it_was() -> None:
    values = torch.tensor([1.0, 2.0])
    called: list[int] = []
    assert ALONE.all_sum(values) is values
    assert ALONE.gather("mine") == ["mine"]
    assert ALONE.from_main("mine") == "mine"
    with ALONE.sharing(called.append, 1):
        assert not ALONE.busy
        with ALONE.sharing(called.append, 2), ALONE.main_first():
            pass
    threads = torch.get_num_threads()
    with ALONE.idle():
        assert torch.get_num_threads() == threads
    assert not called
    assert ALONE.is_main and (ALONE.rank, ALONE.world) == (0, 1)
    assert ALONE.failure() is None


def test_the_environment_says_whether_several_processes_were_started() -> None:
    assert started(BY_TORCHRUN)
    assert not started({})
    assert not started(BY_TORCHRUN | {"WORLD_SIZE": "1"})
    for name in BY_TORCHRUN:
        assert not started({key: value for key, value in BY_TORCHRUN.items() if key != name})


def test_without_torchrun_a_process_is_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in BY_TORCHRUN:
        monkeypatch.delenv(name, raising=False)
    with joined() as group:
        assert group is ALONE


def test_only_errors_of_connections_are_losses() -> None:
    assert not is_loss(ValueError("Connection closed by peer"))
    assert not is_loss(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


class Together(NamedTuple):
    """What a group of torchrun has found: its folder, the exit status, and what it printed."""

    folder: Path
    status: int
    err: str

    def found(self, name: str) -> Any:
        return torch.load(self.folder / f"{name}.pt", weights_only=False)

    def calls(self) -> list[list[dict[str, Any]]]:
        """What each process found in the two shared calls."""
        return [[self.found(f"{rank}-{call}") for rank in range(COUNT)] for call in (1, 2)]


@pytest.fixture(scope="module")
def together(tmp_path_factory: pytest.TempPathFactory) -> Together:
    folder = tmp_path_factory.mktemp("together")
    running = Running([*WORK, "together", str(folder)], folder, folder / "logs")
    return Together(folder, running.end(), running.err)


def test_all_get_the_sum_and_the_word_of_the_main_process(together: Together) -> None:
    for call in together.calls():
        for rank, found in enumerate(call):
            assert found["sum"].tolist() == [[6.0], [111.0]]
            assert found["own"].tolist() == [[rank + 1.0], [10.0**rank]]  # is not changed
            assert found["from main"] == ("of", 0)


def test_only_the_main_process_gathers_by_rank(together: Together) -> None:
    for call in together.calls():
        gathered = [found["gathered"] for found in call]
        assert gathered == [[{"rank": rank} for rank in range(COUNT)], [], []]


def test_shared_calls_have_their_arguments_and_follow_each_other(together: Together) -> None:
    assert [[found["word"] for found in call] for call in together.calls()] == [["first"] * COUNT, ["second"] * COUNT]
    assert all(found["busy"] for call in together.calls() for found in call)
    assert not together.found("main")["busy"]


def test_the_main_process_writes_before_the_others_look(together: Together) -> None:
    for call in together.calls():
        assert [found["written before"] for found in call] == [False, True, True]


def test_shared_work_cannot_share_further_work(together: Together) -> None:
    assert together.found("main")["nested"] == "shared work cannot share further work"


def test_processes_divide_the_cores(together: Together) -> None:
    own = max(1, cores() // COUNT)
    if os.environ["OMP_NUM_THREADS"] == "1":  # else it is the user's choice
        assert {found["threads"] for call in together.calls() for found in call} == {own}
    main = together.found("main")
    assert main["idle threads"] == COUNT * main["threads"]


def test_an_error_of_another_process_is_the_message_of_the_main_one(together: Together) -> None:
    assert together.err.count("error:") == 1
    assert f"error: {OWN_MESSAGE}\n" in together.err
    assert re.search(r"Root Cause \(first.*rank +: 0 .*exitcode +: 2 ", together.err, re.DOTALL)  # torchrun's report


def test_the_main_process_destroys_nothing_that_a_thread_may_hold(together: Together) -> None:
    """Else gloo aborts now and then, and torchrun reports a signal."""
    assert not (together.folder / "destroyed").exists()


@pytest.fixture(scope="module")
def forked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("forked")
    running = Running(["-m", "tests.support.group_work", "forked", str(folder)], folder, folder / "logs")
    assert running.end() == 0, running.err
    return folder


STATUS = {"fail_in_third": 2, "fail_early": 2, "fail_by_bug": 1, "be_killed": 2, "fail_in_main": 2}
MESSAGES = {
    "fail_in_third": OWN_MESSAGE,
    "fail_early": "The second process has failed early.",
    "be_killed": "Another of the 3 processes has ended: it was killed, or its machine cannot be reached.",
    "fail_in_main": "The main process has failed.",
}


@pytest.mark.parametrize("name", FAILURES)
def test_one_process_ends_the_main_one_with_one_message(forked: Path, name: str) -> None:
    """Without torchrun, which would end all."""
    status, seconds, *_ = (forked / name / "end").read_text().split()
    assert int(status) == STATUS[name]
    assert float(seconds) < PATIENCE / 2
    said = [(forked / name / f"{rank}.err").read_text() for rank in range(COUNT)]
    assert not "".join((forked / name / f"{rank}.out").read_text() for rank in range(COUNT))
    if name == "fail_by_bug":
        assert said[0] == said[2] == ""
        assert said[1].count("Traceback") == 1 and "ValueError: This is a bug." in said[1]
    else:
        assert said[1] == said[2] == ""
        assert said[0].startswith(f"error: {MESSAGES[name]}") and said[0].count("error:") == 1


def test_others_end_with_a_main_process_that_fails_before_they_share_work(forked: Path) -> None:
    """Also where it keeps the store, as without torchrun; what Python does at its end is done."""
    folder = forked / "fail_alone"
    status, _, *others = (folder / "end").read_text().split()
    assert (status, others) == ("2", ["0", "0"])
    assert [(folder / f"{rank}.err").read_text() for rank in range(COUNT)] == [
        "error: The main process has failed alone.\n",
        "",
        "",
    ]
    assert (folder / "at the end").exists()


def test_no_process_outlives_torchrun(tmp_path: Path) -> None:
    running = Running([*WORK, "wait", str(tmp_path)], tmp_path, tmp_path / "logs")
    try:
        there = [tmp_path / f"{rank}-1.pt" for rank in range(COUNT)]
        running.wait_for(lambda: all(path.exists() for path in there), "all processes share work")
        members = running.members()
        assert sorted(members) == list(range(COUNT))
        assert not any(map(is_gone, members.values()))
        running.process.send_signal(signal.SIGKILL)
        running.process.wait()
        check_gone(members.values())
    finally:
        running.close()
    assert "error:" not in running.err


def test_a_group_knows_its_numbers() -> None:
    group = Group(rank=2, world=3, local_rank=1, local=2)
    assert not group.is_main and not group.busy
    assert (group.rank, group.world, group.local_rank, group.local) == (2, 3, 1, 2)
