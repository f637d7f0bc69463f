"""The stand-in for Kaggle as tests drive it: it records requests and violations, and meets calls with faults."""

import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from socket import SHUT_RDWR, socket

from pipelines.tools.standin import server
from pipelines.tools.standin.answers import Answer, Request, refuse
from pipelines.tools.standin.competitions import Competition, Submission
from pipelines.tools.standin.kernels import Kernel
from pipelines.tools.standin.server import CLOSED_PROXY

__all__ = [
    "CLOSED_PROXY",
    "Body",
    "Competition",
    "Cut",
    "Delay",
    "Drop",
    "Html",
    "Kernel",
    "Lost",
    "Request",
    "Stall",
    "Standin",
    "Status",
    "Submission",
    "Truncated",
]
PAGE = b"<!DOCTYPE html><html><head><title>Kaggle</title></head><body>Please sign in</body></html>\n"


@dataclass(frozen=True)
class Status:
    """Answer with this status instead of doing what is asked.

    json: with Kaggle's JSON of code and message, else with the message as text.
    """

    code: int
    message: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    json: bool = True


@dataclass(frozen=True)
class Html:
    """Answer with a web page instead, as a gateway or a login page does."""

    code: int = 200


@dataclass(frozen=True)
class Body:
    """Answer 200 with this body instead.  headers: may set the Content-Type."""

    content: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Cut:
    """Do what is asked, and close the connection after `after` bytes of the answer's body."""

    after: int = 0


@dataclass(frozen=True)
class Truncated:
    """As `Cut`, but unnoticeable: no length, no validators, no ranges, an orderly end."""

    after: int


@dataclass(frozen=True)
class Stall:
    """Do what is asked, and stop sending after `after` bytes of the answer's body; 0: before the headers.

    The connection closes after `seconds`, or when the stand-in ends.
    """

    after: int = 0
    seconds: float = 3600.0


@dataclass(frozen=True)
class Lost:
    """Do what is asked, and close the connection without an answer."""


@dataclass(frozen=True)
class Drop:
    """Close the connection without an answer, and do nothing: the client sees the same as with `Lost`."""


@dataclass(frozen=True)
class Delay:
    """Wait `seconds`, then do what is asked."""

    seconds: float


Fault = Status | Html | Body | Cut | Truncated | Stall | Lost | Drop | Delay


class Standin(server.Standin):
    """A stand-in that fails as told by `fault`.

    run_kernel: called instead of running a pushed script, before the push is answered; it sets the kernel's status, log
    and outputs.  requests: all that arrived, in order.  violations: requests that no client should send, and errors of
    the stand-in; tests assert that there are none.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self.run_kernel: Callable[[Kernel], None] | None = None
        self.requests: list[Request] = []
        self.violations: list[str] = []
        self._closing = threading.Event()
        self._connections: dict[threading.Thread, socket] = {}
        self._faults: dict[str, deque[Fault]] = {}
        self._fault_for_ever: dict[str, Fault] = {}

    def __exit__(self, *exception: object) -> None:
        self._closing.set()
        super().__exit__(*exception)
        for thread, connection in self._connections.items():
            with suppress(OSError):  # closed before
                connection.shutdown(SHUT_RDWR)
            thread.join(timeout=5)

    def calls(self, name: str) -> list[Request]:
        """Return the requests of the method `name`, in order."""
        with self.lock:
            return [request for request in self.requests if request.method == name]

    def fault(self, name: str, *faults: Fault, times: int | None = 1) -> None:
        """Let the next requests of the method `name` meet `faults`, one each, repeated `times`.

        times: None lets every later request meet the last one.  Without `faults`, the remaining ones are removed.
        """
        with self.lock:
            self._fault_for_ever.pop(name, None)
            if not faults:
                self._faults.pop(name, None)
                return
            self._faults.setdefault(name, deque()).extend(faults * (1 if times is None else times))
            if times is None:
                self._fault_for_ever[name] = faults[-1]

    def start(self, kernel: Kernel) -> None:
        if self.run_kernel is None:
            super().start(kernel)
        else:
            self.run_kernel(kernel)

    def report(self, error: str) -> None:
        self.violations.append(error)

    def respond(self, request: Request, handler: server.Handler) -> None:
        with self.lock:
            self._connections[threading.current_thread()] = handler.connection
            self.requests.append(request)
            self._judge(request)
            waiting = self._faults.get(request.method)
            fault = waiting.popleft() if waiting else self._fault_for_ever.get(request.method)
        if isinstance(fault, Delay):
            self._closing.wait(fault.seconds)
        if isinstance(fault, (Drop, Lost, Cut, Truncated, Stall)):
            handler.close_connection = True
        if isinstance(fault, Drop):
            return
        answer = _given(fault) or self.answer(request)
        if isinstance(fault, (Cut, Truncated, Stall)):
            answer.chunks = _first(answer.chunks, fault.after)
        if isinstance(fault, Truncated):
            for name in ("Last-Modified", "ETag", "Accept-Ranges", "Content-Length"):
                answer.headers.pop(name, None)
            answer.headers["Connection"] = "close"
        silent = isinstance(fault, Lost) or (isinstance(fault, Stall) and not fault.after)
        if not silent:
            handler.send(request, answer)
        if isinstance(fault, Stall):
            self._closing.wait(fault.seconds)

    def _judge(self, request: Request) -> None:
        """Note what no client should send."""
        if request.method in ("storage", "upload", "output") and "Authorization" in request.headers:
            self.violations.append(f"{request.method}: the credential was sent to the storage")
        if request.method == "other":
            self.violations.append(f"{request.verb} {request.path}: the stand-in does not know this")
        if request.method in self.services and request.body is None:
            self.violations.append(f"{request.verb} {request.path}: an API call is a POST of a JSON object")


def _given(fault: Fault | None) -> Answer | None:
    """Return the answer that `fault` gives instead of the true one."""
    if isinstance(fault, Status):
        answer = refuse(fault.code, fault.message) if fault.json else _answer(fault.code, fault.message.encode(), {})
        answer.headers.update(fault.headers)
        return answer
    if isinstance(fault, Html):
        return _answer(fault.code, PAGE, {"Content-Type": "text/html; charset=utf-8"})
    if isinstance(fault, Body):
        return _answer(200, fault.content, {"Content-Type": "application/octet-stream", **fault.headers})
    return None


def _answer(status: int, content: bytes, headers: dict[str, str]) -> Answer:
    return Answer(status, headers | {"Content-Length": str(len(content))}, [content])


def _first(chunks: Iterable[bytes], count: int) -> Iterator[bytes]:
    """Yield the first `count` bytes."""
    for chunk in chunks:
        yield chunk[:count]
        count -= len(chunk[:count])
        if not count:
            return
