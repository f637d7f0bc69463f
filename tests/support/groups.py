"""Groups of processes on this machine: started by torchrun or the launcher, watched, stopped and killed."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.support.starter import environment

PATIENCE = 60  # seconds; a test fails after these
TORCHRUN = ("-m", "torch.distributed.run", "--standalone")
LAUNCH = ("-m", "pipelines.tools.launch")


def wait_until(condition: Callable[[], object], what: str) -> None:
    """Return as soon as `condition` holds."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"in {PATIENCE} s: {what}"
        time.sleep(0.005)


def is_gone(pid: int) -> bool:
    """Return whether the process `pid` has ended, even if its parent has not noticed."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return True


def has_pending_signals(pid: int) -> bool:
    """Return whether a signal waits for the stopped process `pid`."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return any(int(line.split()[1], 16) for line in lines if line.startswith(("SigPnd", "ShdPnd")))


def check_gone(pids: Iterable[int]) -> None:
    for pid in pids:
        wait_until(lambda pid=pid: is_gone(pid), f"process {pid} ends")  # type: ignore[misc]


class Running:
    """A launcher with the processes that it has started; it leads a process group of its own, as in a terminal."""

    def __init__(self, words: Iterable[str], folder: Path, logs: Path) -> None:
        logs.mkdir(parents=True, exist_ok=True)
        self.logs = logs
        variables = environment() | {"GLOO_SOCKET_IFNAME": "lo"}
        with (logs / "out").open("w") as out, (logs / "err").open("w") as err:
            command = [sys.executable, *words]
            self.process = subprocess.Popen(
                command, cwd=folder, env=variables, stdout=out, stderr=err, start_new_session=True
            )

    def said(self, name: str) -> str:
        return (self.logs / name).read_text()

    @property
    def out(self) -> str:
        return self.said("out")

    @property
    def err(self) -> str:
        return self.said("err")

    def members(self) -> dict[int, int]:
        """Return the processes of the group: their ids by rank."""
        found: dict[int, int] = {}
        for task in Path(f"/proc/{self.process.pid}/task").glob("*/children"):
            with suppress(OSError):
                for pid in task.read_text().split():
                    variables = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
                    ranks = [int(each[5:]) for each in variables if each.startswith(b"RANK=")]
                    found |= {rank: int(pid) for rank in ranks}
        return found

    def wait_for(self, condition: Callable[[], object], what: str) -> None:
        """Return as soon as `condition` holds, while this runs."""

        def holds() -> object:
            found = condition()
            assert found or self.process.poll() is None, f"ended before {what}: {self.err}"
            return found

        wait_until(holds, what)

    @contextmanager
    def holding(self, rank: int) -> Iterator[None]:
        """Stop the process `rank` during the block, and with it all that wait for it; let it go on with a signal."""
        pid = self.members()[rank]
        os.kill(pid, signal.SIGSTOP)
        yield
        wait_until(lambda: is_gone(pid) or has_pending_signals(pid), f"a signal comes to process {pid}")
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)

    def end(self, seconds: float = PATIENCE) -> int:
        """Wait for the end and return the exit status."""
        try:
            return self.process.wait(seconds)
        finally:
            self.close()

    def close(self) -> None:
        """Kill what still runs."""
        for pid in (self.process.pid, *self.members().values()):
            if not is_gone(pid):
                os.kill(pid, signal.SIGKILL)
        self.process.wait()
