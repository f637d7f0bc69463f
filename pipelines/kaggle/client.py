"""The process that runs Kaggle's client (`worker.py`): it is killed if a call makes no progress.

No call is repeated, because a failed call may have been carried out.
"""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

from pipelines.kaggle.failures import DOING, ConnectionLost
from pipelines.system.network import certificates

WORKER = Path(__file__).with_name("worker.py")
POLL_SECONDS = 0.05
# The first two make the client print its Authorization header; it sends the third in place of another credential.
REMOVED_VARIABLES = ("VERBOSE", "VERBOSE_OUTPUT", "KAGGLE_TOKEN")


def _environment() -> dict[str, str]:
    """Return the client's variables.  Certificates that SSL_CERT_FILE names count for it too."""
    kept = {name: value for name, value in os.environ.items() if name not in REMOVED_VARIABLES}
    _, path = certificates()
    return ({"REQUESTS_CA_BUNDLE": path} if path else {}) | kept


class Client:
    """The client's process, started by the first call.

    stall_seconds: a call without progress for so long is given up.  held: descriptors of locks that the process
    inherits: the lock of a killed stage stays held until its client has ended too.
    """

    def __init__(self, stall_seconds: float, held: Sequence[int]) -> None:
        self.stall_seconds, self.held = stall_seconds, tuple(held)
        self.process: subprocess.Popen[str] | None = None
        self._replies: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._printed = 0

    def start(self) -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, "-P", str(WORKER)],  # -P: the worker must not import the modules beside it
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            encoding="utf-8",
            errors="replace",
            env=_environment(),
            pass_fds=self.held,
            start_new_session=True,  # an interrupt reaches this process only, which then ends the client's
        )
        self.process, self._replies = process, queue.SimpleQueue()
        threading.Thread(target=self._read_replies, args=(process, self._replies), daemon=True).start()
        threading.Thread(target=self._count_prints, args=(process,), daemon=True).start()
        return process

    def close(self) -> None:
        """Kill the process."""
        if process := self.process:
            self.process = None
            process.kill()
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                with contextlib.suppress(BrokenPipeError):  # unwritten requests
                    if pipe:
                        pipe.close()

    def ask(self, call: str, arguments: Mapping[str, Any], moved: Callable[[], object]) -> dict[str, Any]:
        """Return the worker's reply to `call`.  The process printing, or `moved()` changing, counts as progress.

        Raises `ConnectionLost` after `stall_seconds` without progress, and if the process ends.
        """
        process = self.process or self.start()
        assert process.stdin is not None
        try:
            process.stdin.write(json.dumps({"call": call, "arguments": arguments}) + "\n")
            process.stdin.flush()
        except BrokenPipeError:
            self._raise_ended(process)
        state: tuple[object, int] = (None, -1)
        last_moved = time.monotonic()
        while True:
            try:
                reply = self._replies.get(timeout=POLL_SECONDS)
                break
            except queue.Empty:
                now = time.monotonic()
                if (current := (moved(), self._printed)) != state:
                    state, last_moved = current, now
                if now - last_moved > self.stall_seconds:
                    self.close()
                    raise ConnectionLost(
                        f"Kaggle was silent for {self.stall_seconds:.0f} seconds, so this was given up "
                        f"({DOING[call]}). Try again later, or increase kaggle.stall_seconds for a slow connection."
                    ) from None
        moved()
        if not reply:
            self._raise_ended(process)
        return dict(json.loads(reply))

    def _read_replies(self, process: "subprocess.Popen[str]", replies: "queue.SimpleQueue[str]") -> None:
        with contextlib.suppress(ValueError):  # closed by `close`
            while line := process.stdout.readline():  # type: ignore[union-attr]
                replies.put(line)
        replies.put("")

    def _count_prints(self, process: "subprocess.Popen[str]") -> None:
        """Count the client's output without keeping it: it may hold a credential."""
        with contextlib.suppress(ValueError):
            while process.stderr.read(1):  # type: ignore[union-attr]
                self._printed += 1

    def _raise_ended(self, process: "subprocess.Popen[str]") -> NoReturn:
        status = process.wait()
        self.close()
        raise ConnectionLost(f"The process that talks to Kaggle was ended from outside (status {status}). Try again.")
