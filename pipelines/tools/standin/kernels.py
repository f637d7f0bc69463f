"""The API's calls for kernels, and the processes that run them."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any
from urllib.parse import quote

from pipelines.tools.standin.answers import STORAGE, Answer, Body, Refusal, Request, iso_time, page, reply, stored
from pipelines.tools.standin.competitions import Competition

ONLY_HERE = re.compile("^PYTHONPATH$|KAGGLE|proxy", re.IGNORECASE)  # variables that do not exist on Kaggle's machines
QUOTA = {"timeUsed": "3600s", "totalTimeAllowed": "108000s"}
QUOTA_SECONDS = 3 * 86_400  # until the quota starts again


@dataclass
class Kernel:
    """One version of a kernel and its session.

    owner_slug: `alice/name`.  text: the script.  metadata: the request that pushed it.  status: QUEUED, RUNNING,
    COMPLETE, ERROR, …  log: the JSON text that Kaggle gives.  outputs: path below the working folder to content.
    """

    owner_slug: str
    version: int
    text: str
    metadata: Body
    status: str = "QUEUED"
    failure_message: str = ""
    log: str = ""
    outputs: dict[str, bytes] = field(default_factory=dict)


class Kernels:
    """The calls for kernels, and the processes that run them.

    folder: each kernel gets a folder below it.  pushed: all versions, newest last.  start: called with each version
    before its push is answered; usually `run`.  report: called with errors of the stand-in.
    """

    methods = ("SaveKernel", "GetKernelSessionStatus", "ListKernelSessionOutput", "GetAcceleratorQuotaStatistics")

    def __init__(
        self,
        folder: Path,
        competitions: Mapping[str, Competition],
        start: Callable[[Kernel], None],
        report: Callable[[str], None],
    ) -> None:
        self.pushed: list[Kernel] = []
        self._folder, self._competitions, self._start, self._report = folder, competitions, start, report
        self._closing = False
        self._lock = threading.Lock()
        self._processes: set[subprocess.Popen[str]] = set()
        self._threads: list[threading.Thread] = []

    def call(self, method: str, body: Body) -> Answer:
        """Return the answer to a call of the API.  Raises `Refusal`."""
        if method == "SaveKernel":
            return self._save(body)
        if method == "GetAcceleratorQuotaStatistics":
            renewed = iso_time(time.time() + QUOTA_SECONDS)
            return reply({"quotaRefreshTime": renewed, "gpuQuota": QUOTA, "tpuQuota": QUOTA})
        slug = f"{body.get('userName', '')}/{body.get('kernelSlug', '')}"
        number = max((place for place, each in enumerate(self.pushed) if each.owner_slug == slug), default=None)
        if number is None:
            raise Refusal(403, "Permission 'kernels.get' was denied")
        kernel = self.pushed[number]
        if method == "GetKernelSessionStatus":
            return reply({"status": kernel.status, "failureMessage": kernel.failure_message})
        address = f"{STORAGE}/output/{number}"
        files = [  # by number: a URL cannot carry a name such as ../x
            {"fileName": name, "url": f"{address}/{file}/{quote(PurePosixPath(name).name)}?sig=standin"}
            for file, name in enumerate(kernel.outputs)
        ]
        return reply(page("files", files, body) | {"log": kernel.log})

    def output_of(self, kernel: str, version: int, name: str) -> bytes | None:
        """Return the output file `name` of a complete version of `kernel`, an `owner/name`; None if there is none."""
        found = [each for each in self.pushed if (each.owner_slug, each.version) == (kernel, version)]
        return found[0].outputs.get(name) if found and found[0].status == "COMPLETE" else None

    def output(self, request: Request, kernel: str, file: str) -> Answer:
        """Return the storage's answer to a GET of an output.  kernel, file: their numbers, from 0."""
        try:
            content = list(self.pushed[int(kernel)].outputs.values())[int(file)]
        except (ValueError, IndexError):
            raise Refusal(404, "There is no such output") from None
        return stored(request, content, time.time())

    def _save(self, body: Body) -> Answer:
        slug = body.get("slug", "")
        kernel = Kernel(slug, 1 + sum(each.owner_slug == slug for each in self.pushed), body.get("text", ""), body)
        self.pushed.append(kernel)
        self._start(kernel)
        invalid = {
            f"invalid{kind}Sources": [each for each in body.get(f"{kind.lower()}DataSources", []) if each not in known]
            for kind, known in {"Competition": self._competitions, "Dataset": (), "Model": (), "Kernel": ()}.items()
        }
        url = f"https://www.kaggle.com/code/{slug}"
        return reply({"ref": f"/code/{slug}", "url": url, "versionNumber": kernel.version, "error": "", **invalid})

    def run(self, kernel: Kernel) -> None:
        """Run `kernel` in the background."""
        thread = threading.Thread(target=self._run, args=(kernel,), daemon=True)
        self._threads.append(thread)
        thread.start()

    def close(self) -> None:
        """Kill all kernels and wait for their threads."""
        with self._lock:
            self._closing = True
            for process in self._processes:
                _kill(process)
        for thread in self._threads:
            thread.join(timeout=10)

    def _run(self, kernel: Kernel) -> None:
        """Run the script in a folder with Kaggle's layout; set the kernel's outputs, log and status."""
        folder = self._folder / f"{PurePosixPath(kernel.owner_slug).name}-{kernel.version}"
        working = folder / "working"
        try:
            for name in ("input", "working", "temp"):
                (folder / name).mkdir(parents=True)
            for slug in kernel.metadata.get("competitionDataSources", []):
                if slug in self._competitions:
                    with zipfile.ZipFile(self._competitions[slug].archive) as opened:
                        opened.extractall(folder / "input/competitions" / slug)
            (folder / "script.py").write_text(kernel.text, encoding="utf-8")
            kernel.status = "RUNNING"
            kernel.failure_message, lines = self._run_script(folder, kernel.metadata.get("sessionTimeoutSeconds"))
            files = [path for path in sorted(working.rglob("*")) if path.is_file()]
            kernel.outputs = {path.relative_to(working).as_posix(): path.read_bytes() for path in files}
            kernel.log = json.dumps(lines)
        except Exception as error:  # no caller waits for this thread
            self._report(f"running {kernel.owner_slug}: {error!r}")
            kernel.failure_message = f"the stand-in failed: {error!r}"
        kernel.status = "ERROR" if kernel.failure_message else "COMPLETE"

    def _run_script(self, folder: Path, limit: float | None) -> tuple[str, list[dict[str, Any]]]:
        """Run script.py for at most `limit` seconds.  Return the failure, empty for none, and the lines of the log."""
        kept = {name: value for name, value in os.environ.items() if not ONLY_HERE.search(name)}
        lines: list[dict[str, Any]] = []
        started = time.monotonic()

        def read(name: str, pipe: IO[str]) -> None:
            for line in pipe:
                lines.append({"stream_name": name, "time": round(time.monotonic() - started, 6), "data": line})

        with subprocess.Popen(
            [sys.executable, str(folder / "script.py")],
            cwd=folder / "working",
            env=kept | {"PIPELINES_KAGGLE_FOLDER": str(folder)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            start_new_session=True,
        ) as process:
            with self._lock:
                self._processes.add(process)
                if self._closing:
                    _kill(process)
            pipes = {"stdout": process.stdout, "stderr": process.stderr}
            readers = [threading.Thread(target=read, args=pipe, daemon=True) for pipe in pipes.items()]
            for reader in readers:
                reader.start()
            failure = ""
            try:
                if process.wait(timeout=limit):
                    failure = f"Your notebook was stopped because of an error: exit code {process.returncode}"
            except subprocess.TimeoutExpired:
                failure = f"The session was ended after {limit} seconds"
            _kill(process)  # and the processes that it started: Kaggle ends them with the session
            for reader in readers:
                reader.join()
        with self._lock:
            self._processes.discard(process)
        return failure, lines


def _kill(process: "subprocess.Popen[str]") -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
