"""What test_group.py lets the processes of a group do; called as a stage is.

Several processes are started by torchrun, or forked here: then nobody ends the others when one of them fails.
"""

import atexit
import os
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

import torch

from pipelines import command
from pipelines.system.errors import UserError
from pipelines.system.group import ALONE, Group

COUNT = 3
OWN_MESSAGE = "The third process is out of luck."
KEPT: list[Any] = []  # until Python ends itself


def note(folder: Path, group: Group, found: dict[str, Any]) -> None:
    torch.save(found, folder / f"{group.rank}-{group._shared}.pt")


def exchange(group: Group, folder: Path, word: str) -> None:
    """Try all ways to exchange values, and keep what each process gets."""
    own = torch.tensor([[group.rank + 1.0], [10.0**group.rank]], dtype=torch.float64)
    found: dict[str, Any] = {"sum": group.all_sum(own), "own": own, "word": word, "busy": group.busy}
    found["gathered"] = group.gather({"rank": group.rank})
    found["from main"] = group.from_main(("of", group.rank))
    found["threads"] = torch.get_num_threads()
    with group.main_first():
        written = folder / f"written-{group._shared}"
        found["written before"] = written.exists()
        if group.is_main:
            time.sleep(0.2)  # else the order could be chance
            written.touch()
    note(folder, group, found)


class Noting:
    """Writes a file when it is destroyed."""

    def __init__(self, path: Path) -> None:
        self.path, self.touch = path, Path.touch  # the names of modules may be gone by then

    def __del__(self) -> None:
        self.touch(self.path)


def together(group: Group, folder: Path) -> None:
    """Share work twice, then work that one process fails in."""
    for word in ("first", "second"):
        with group.sharing(exchange, folder, word):
            exchange(group, folder, word)
    found: dict[str, Any] = {"busy": group.busy}
    with group.sharing(_sum):
        try:
            with group.sharing(_sum):
                found["nested"] = "allowed"
        except AssertionError as error:
            found["nested"] = str(error)
        _sum(group)
    with group.idle():
        found["idle threads"] = torch.get_num_threads()
    found["threads"] = torch.get_num_threads()
    torch.save(found, folder / "main.pt")
    KEPT.append(Noting(folder / "destroyed"))
    with group.sharing(fail_in_third):
        fail_in_third(group)


def _sum(group: Group) -> None:
    group.all_sum(torch.ones(1))


def fail_in_third(group: Group) -> None:
    _sum(group)
    if group.rank == COUNT - 1:
        raise UserError(OWN_MESSAGE)
    for _ in range(100):
        _sum(group)


def fail_early(group: Group) -> None:
    """Fail in a process that others do not wait for yet."""
    if group.rank == 1:
        raise UserError("The second process has failed early.")
    time.sleep(0.3)
    _sum(group)


def fail_by_bug(group: Group) -> None:
    _sum(group)
    if group.rank == 1:
        raise ValueError("This is a bug.")
    _sum(group)


def be_killed(group: Group) -> None:
    _sum(group)
    if group.rank == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    _sum(group)


def fail_in_main(group: Group) -> None:
    _sum(group)
    if group.is_main:
        raise UserError("The main process has failed.")
    _sum(group)


def fail_alone(group: Group, folder: Path) -> None:
    """Fail before any work is shared, with something left to do at Python's end."""
    atexit.register((folder / "at the end").touch)
    raise UserError("The main process has failed alone.")


def shared_failure(name: str) -> Any:
    def run(group: Group, folder: Path) -> None:
        with group.sharing(FAILURES[name]):
            FAILURES[name](group)

    return run


def keep_waiting(group: Group, folder: Path) -> None:
    """Wait forever: two processes for the third one, which works."""
    note(folder, group, {})
    if group.rank == COUNT - 1:
        time.sleep(10_000)
    _sum(group)


def wait(group: Group, folder: Path) -> None:
    with group.sharing(keep_waiting, folder):
        keep_waiting(group, folder)


FAILURES = {each.__name__: each for each in (fail_in_third, fail_early, fail_by_bug, be_killed, fail_in_main)}
WORK: dict[str, Any] = {each.__name__: each for each in (together, wait, fail_alone)}
WORK |= {name: shared_failure(name) for name in FAILURES}


def main(arguments: Sequence[str] | None = None, group: Group = ALONE) -> None:
    what, folder = arguments or sys.argv[1:]
    WORK[what](group, Path(folder))


def become_member(what: str, folder: Path, rank: int, port: int) -> NoReturn:
    """Do the part of the process `rank`, in a process that has just been forked, and end it."""
    numbers = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": COUNT, "LOCAL_WORLD_SIZE": COUNT, "MASTER_PORT": port}
    os.environ.update({name: str(number) for name, number in numbers.items()}, MASTER_ADDR="127.0.0.1")
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(folder / f"{rank}.{name}", os.O_WRONLY | os.O_CREAT), descriptor)
    status: Any = 1
    try:
        status = command.run(main, [what, str(folder)], shared=True)
    except SystemExit as end:
        status = end.code
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def fork(what: str, folder: Path) -> None:
    """Fork a group that does `what`; write how its main process ends, in how many seconds, and how the others end."""
    folder.mkdir()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    started = time.monotonic()
    pids = [os.fork() or become_member(what, folder, rank, port) for rank in range(COUNT)]
    _, status = os.waitpid(pids[0], 0)
    found = [os.waitstatus_to_exitcode(status), time.monotonic() - started]
    for pid in pids[1:]:
        if what != "fail_alone":
            os.kill(pid, signal.SIGTERM)  # as torchrun does
        _, status = os.waitpid(pid, 0)
        found.append(os.waitstatus_to_exitcode(status))
    (folder / "end").write_text(" ".join(map(str, found)))


if __name__ == "__main__":
    if sys.argv[1] == "forked":
        for each in ("fail_alone", *FAILURES):
            fork(each, Path(sys.argv[2]) / each)
    else:
        sys.exit(command.run(main, shared=True))
