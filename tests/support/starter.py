"""Start stages as forked processes, so that their imports, which take seconds, are done once per session."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import pytest

REPOSITORY = Path(__file__).parents[2]
KILLED = -signal.SIGKILL
PATIENCE = 600  # seconds; a test fails after these

# Answers a line of JSON to each line of JSON: the process id of a stage, its exit status, or the output of a script.
SERVER = """
import atexit, gc, json, os, runpy, signal, subprocess, sys, time
import matplotlib.figure, PIL.PngImagePlugin, sklearn.linear_model, sklearn.datasets, torchvision
import pipelines.core.job, pipelines.core.prediction, pipelines.analysis.plots, pipelines.dataset.submission
import pipelines.dataset.tree, pipelines.dataset.tables

CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.link", "os.symlink", "os.rmdir", "os.truncate"}

def watch_changes(folder, fatal):
    own, counted = os.getpid(), [0]
    def note(event, arguments):
        if event == "open":
            if not (isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
                return
        elif event not in CHANGES:
            return
        paths = [os.fsdecode(each) for each in arguments[:2] if isinstance(each, (str, bytes, os.PathLike))]
        if os.getpid() == own and any(os.path.abspath(each).startswith(folder + os.sep) for each in paths):
            counted[0] += 1
            if counted[0] == fatal:
                os.kill(own, signal.SIGKILL)
    sys.addaudithook(note)
    return counted

def become_stage(stage, arguments, folder, logs, change):
    os.chdir(folder)
    for descriptor, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(logs + "/" + name, os.O_WRONLY | os.O_CREAT), descriptor)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    sys.argv = [stage, *arguments]
    counted = watch_changes(folder, change)
    try:
        runpy.run_module("pipelines." + stage, run_name="__main__", alter_sys=True)
    except SystemExit as end:
        sys.stdout.flush()
        os.write(os.open(logs + "/changes", os.O_WRONLY | os.O_CREAT), str(counted[0]).encode())
        atexit._run_exitfuncs()
        os._exit(end.code)  # tearing down all that torch imports takes longer than most stages

def start(**request):
    return os.fork() or become_stage(**request)

def wait(pid, seconds):
    deadline = time.monotonic() + seconds
    while not (ended := os.waitpid(pid, os.WNOHANG))[0]:
        if time.monotonic() > deadline:
            return None
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(ended[1])

def shell(script, folder):
    done = subprocess.run(["sh", "-e", "-c", script], cwd=folder, capture_output=True, text=True)
    return [done.returncode, done.stdout + done.stderr]

gc.freeze()  # else each process would look through all that torch imports
for line in sys.stdin:
    name, request = json.loads(line)
    print(json.dumps({"start": start, "wait": wait, "shell": shell}[name](**request)), flush=True)
os._exit(0)
"""


class Ended(NamedTuple):
    """How a process ended: exit status (-9 if killed), seconds, number of changes in its folder, output."""

    status: int
    seconds: float
    changes: int
    out: str
    err: str


def environment() -> dict[str, str]:
    """Return the variables for a process that computes with as many threads as the tests do (see conftest.py)."""
    threads = {f"{library}_NUM_THREADS": os.environ["OMP_NUM_THREADS"] for library in ("OPENBLAS", "MKL")}
    return os.environ | threads | {"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1"}


def spawned_by(pid: int) -> list[int]:
    """Return the processes that the process `pid` has spawned through multiprocessing, first to last."""
    found = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split():
            if "spawn_main" in Path(f"/proc/{each}/cmdline").read_text():
                found.append(int(each))
    return found


class Starter:
    """Starts stages as forked processes, in a mount namespace of their own where this user may have one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        unshare = ["unshare", "-m"]
        self.own_mounts = not subprocess.run([*unshare, "true"], capture_output=True, check=False).returncode
        words = [*(unshare if self.own_mounts else []), sys.executable, "-c", SERVER]
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(words, stdin=pipe, stdout=pipe, env=environment(), text=True)

    def ask(self, name: str, **request: Any) -> Any:
        assert self.process.stdin and self.process.stdout
        self.process.stdin.write(json.dumps([name, request]) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def start(self, folder: Path, stage: str, *arguments: str, change: int = 0) -> "Stage":
        """Start `stage` in `folder`.  It kills itself before its change number `change` in there."""
        logs = tempfile.mkdtemp(dir=self.folder)
        request = {"folder": str(folder), "stage": stage, "arguments": arguments, "logs": logs, "change": change}
        started = time.monotonic()
        return Stage(self, self.ask("start", **request), Path(logs), started)

    def run(self, folder: Path, stage: str, *arguments: str, change: int = 0, seconds: float = 0) -> Ended:
        """Run `stage`, and kill it after so many seconds, if any are given."""
        return self.start(folder, stage, *arguments, change=change).end(seconds)

    def mount(self, script: str, folder: Path) -> str:
        """Run a shell script in the mounts that the stages see, and return its output.  Skip where none are allowed."""
        if not self.own_mounts:
            pytest.skip("this user may not mount")
        status, said = self.ask("shell", script=script, folder=str(folder))
        assert status == 0, said
        return str(said)

    def close(self) -> None:
        self.process.communicate()


@dataclass
class Stage:
    """A running stage."""

    starter: Starter
    pid: int
    logs: Path
    started: float

    def wait_for(self, path: Path) -> None:
        """Return as soon as `path` exists."""
        deadline = time.monotonic() + PATIENCE
        while not path.exists():
            if (status := self.starter.ask("wait", pid=self.pid, seconds=0)) is not None:
                raise AssertionError(f"it ended with {status} before {path} was there: {self.said('err')}")
            assert time.monotonic() < deadline, f"{path} does not come"
            time.sleep(0.005)

    def end(self, seconds: float = 0, number: int = 0) -> Ended:
        """Send the signal `number`, if any, and wait for the end.  Kill the stage after so many seconds, if any."""
        if number:
            os.kill(self.pid, number)
        status = self.starter.ask("wait", pid=self.pid, seconds=seconds or PATIENCE)
        if status is None:
            os.kill(self.pid, signal.SIGKILL)
            status = self.starter.ask("wait", pid=self.pid, seconds=PATIENCE)
            assert seconds, f"it did not end: {self.said('err')}"
        changes = int(self.said("changes") or 0)
        return Ended(status, time.monotonic() - self.started, changes, self.said("out"), self.said("err"))

    def trainings(self) -> list[int]:
        """Return the processes that run trainings for this stage, first to last."""
        return spawned_by(self.pid)

    def said(self, name: str) -> str:
        path = self.logs / name
        return path.read_text(encoding="utf-8") if path.exists() else ""
