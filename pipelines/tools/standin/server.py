"""The HTTP server: reads requests, checks credentials, sends answers.

Kaggle's client reaches it as an HTTP proxy.  So the client needs no patch, and its requests to the storage, which is
another host, come here too.
"""

import base64
import json
import os
import socket
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, Self
from urllib.parse import urlsplit

from pipelines.settings.schema import Settings
from pipelines.tools.standin.answers import STORAGE, Answer, Refusal, Request, refuse, reply
from pipelines.tools.standin.competitions import Competition, Competitions
from pipelines.tools.standin.kernels import Kernel, Kernels

API_HOST = "localhost"
CLOSED_PROXY = "http://127.0.0.1:9"  # nothing listens there: an https request to the real service fails at once
UNSET = (
    "no_proxy http_proxy https_proxy all_proxy NO_PROXY HTTP_PROXY HTTPS_PROXY ALL_PROXY NETRC VERBOSE VERBOSE_OUTPUT"
).split()


class Standin(ThreadingHTTPServer):
    """Kaggle's API for competitions and kernels, for one user, on 127.0.0.1.  A context manager.

    It uses one thread per connection: the client keeps one answer open while it sends the next request.
    folder: uploads and the folders of kernels are kept there.  port: 0 means any free port.  competitions: by slug.
    kernels: all pushed versions.  token: an access token that is accepted beside user name and key.  log: called with a
    line for each request and each error of the stand-in.
    """

    request_queue_size = 64

    def __init__(self, folder: Path, port: int = 0) -> None:
        super().__init__(("127.0.0.1", port), Handler, bind_and_activate=False)
        self.folder = folder
        self.username, self.key, self.token = "alice", "standin", ""
        self.log: Callable[[str], None] = lambda line: None
        self.lock = threading.RLock()
        self._competitions = Competitions(folder, lambda *version: self._kernels.output_of(*version))
        self.competitions = self._competitions.by_slug
        self._kernels = Kernels(folder / "kernels", self.competitions, self.start, self.report)
        self.kernels = self._kernels.pushed
        self.services = {
            **dict.fromkeys(Competitions.methods, "competitions.CompetitionApiService"),
            **dict.fromkeys(Kernels.methods, "kernels.KernelsApiService"),
            "IntrospectToken": "security.OAuthService",
        }

    def __enter__(self) -> Self:
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            self.server_bind()
            self.server_activate()
        except OSError:
            self.server_close()
            raise
        self._thread = threading.Thread(target=self.serve_forever, args=(0.02,), daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.shutdown()
        self.server_close()
        self._kernels.close()
        self._thread.join()

    def handle_error(self, request: Any, client_address: Any) -> None:
        error = sys.exc_info()[1]
        if not isinstance(error, ConnectionError):  # the client may hang up at any time
            self.report(repr(error))

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    @property
    def variables(self) -> dict[str, str]:
        """Return the environment variables that direct Kaggle's client to this server."""
        return {"KAGGLE_API_ENVIRONMENT": "LOCALHOST", "http_proxy": self.url, "https_proxy": CLOSED_PROXY}

    def environment(self, home: Path) -> dict[str, str]:
        """Return an environment in which the client talks to the stand-in and finds no other credentials.

        home: the user's folder there; created if it does not exist.
        """
        home.mkdir(parents=True, exist_ok=True)
        kept = {name: value for name, value in os.environ.items() if name not in UNSET and "KAGGLE" not in name.upper()}
        account = {"KAGGLE_USERNAME": self.username, "KAGGLE_KEY": self.key, "KAGGLE_CONFIG_DIR": str(home / "kaggle")}
        python = {"PYTHONPATH": str(Path(__file__).parents[3]), "OMP_NUM_THREADS": "1"}
        return kept | self.variables | account | python | {"HOME": str(home)}

    def add(self, slug: str, archive: Path, settings: Settings, solution: Path | None = None) -> Competition:
        """Add a competition that serves `archive`, and return it."""
        self.competitions[slug] = Competition(slug, archive, settings, solution)
        return self.competitions[slug]

    def start(self, kernel: Kernel) -> None:
        """Run a pushed kernel in the background."""
        self._kernels.run(kernel)

    def report(self, error: str) -> None:
        """Log an error of the stand-in."""
        self.log(f"error: {error}")

    def respond(self, request: Request, handler: "Handler") -> None:
        """Do what `request` asks, and send the answer."""
        handler.send(request, self.answer(request))

    def answer(self, request: Request) -> Answer:
        """Do what `request` asks, and return the answer."""
        try:
            with self.lock:
                return self._answer(request)
        except Refusal as refusal:
            return refuse(refusal.status, str(refusal))
        except Exception as error:
            self.report(f"answering {request.method}: {error!r}")
            return refuse(500, "Internal error")

    def _answer(self, request: Request) -> Answer:
        _, first, second, *_ = [*urlsplit(request.path).path.strip("/").split("/"), "", ""]
        body = request.body or {}
        match request.method:
            case "storage":
                return self._competitions.download(request, first)
            case "upload":
                return self._competitions.upload(request, first)
            case "output":
                return self._kernels.output(request, first, second)
            case "other":
                raise Refusal(404, "Not found")
            case "IntrospectToken":
                active = bool(self.token) and body.get("token") == self.token
                return reply({"active": active} | ({"username": self.username} if active else {}))
        basic = base64.b64encode(f"{self.username}:{self.key}".encode()).decode()
        accepted = [f"Basic {basic}"] + ([f"Bearer {self.token}"] if self.token else [])
        if request.headers.get("Authorization") not in accepted:
            raise Refusal(401, "Unauthenticated")
        if request.body is None:
            raise Refusal(400, "An API call is a JSON object")
        if request.method == "SaveKernel" and not body.get("slug", "").startswith(f"{self.username}/"):
            raise Refusal(403, "Permission 'kernels.update' was denied")
        room = self._kernels if request.method in self._kernels.methods else self._competitions
        return room.call(request.method, body)


class Handler(BaseHTTPRequestHandler):
    """Reads the requests of one connection and sends the answers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # with it, each answer on a kept connection waits 40 ms for an acknowledgement
    server: Standin

    def log_message(self, format: str, *arguments: Any) -> None:
        pass

    def do_POST(self) -> None:
        standin = self.server
        method, content = self._method(), self._read_body()
        request = Request(method, self.command, self.path, dict(self.headers.items()), content)
        if method in standin.services and self.command == "POST":
            with suppress(ValueError):
                body = json.loads(content)
                request.body = body if isinstance(body, dict) else None
        try:
            standin.respond(request, self)
        finally:
            size = f" {len(content):,} bytes" if method == "upload" else ""
            standin.log(f"{method}{size} {request.status or 'no answer'}")

    do_GET = do_PUT = do_POST

    def send(self, request: Request, answer: Answer) -> None:
        request.status = answer.status
        self.send_response(answer.status)
        for name, value in answer.headers.items():
            self.send_header(name, value)
        self.end_headers()
        for chunk in answer.chunks:
            self.wfile.write(chunk)

    def _method(self) -> str:
        """Return the kind of the request (see `Request.method`)."""
        target = urlsplit(self.path)  # an absolute URL, as in every request to a proxy
        host = target.hostname or API_HOST
        if host in (API_HOST, "127.0.0.1") and target.path.startswith("/api/v1/"):
            service, _, name = target.path.removeprefix("/api/v1/").partition("/")
            return name if self.server.services.get(name) == service else "other"
        kinds = {"competitions": "storage", "upload": "upload", "output": "output"}
        return kinds.get(target.path.split("/")[1], "other") if f"http://{host}" == STORAGE else "other"

    def _read_body(self) -> bytes:
        if hasattr(socket, "TCP_QUICKACK"):  # to a proxy, the client sends the body once the headers are acknowledged
            self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)
        if "chunked" in self.headers.get("Transfer-Encoding", ""):  # so the client sends an empty file
            content = b""
            while size := int(self.rfile.readline().split(b";")[0], 16):
                content += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
            return content
        length = int(self.headers.get("Content-Length", 0))
        content = self.rfile.read(length)
        if len(content) < length:
            raise ConnectionResetError("the client hung up while it sent a body")
        return content
