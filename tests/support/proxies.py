"""A proxy on this machine, as companies have them: it opens TLS, asks for a password, or refuses."""

import re
import socket
import ssl
import threading
from contextlib import suppress
from pathlib import Path

# Valid for a hundred years, for api.kaggle.com and download.pytorch.org; the key protects nothing.
CERTIFICATE, KEY = (Path(__file__).with_name("certificates") / name for name in ("inspection.pem", "inspection.key"))


class Proxy:
    """A context manager: a proxy at `url` that gives each CONNECT the `answer`, without TLS.

    answer: None opens TLS with our own certificate instead, and answers each request with the `content` as JSON.
    asked: the first lines of the requests.
    """

    def __init__(self, answer: str | None = None, content: bytes = b"{}") -> None:
        self.answer, self.content = answer, content
        self.asked: list[str] = []
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.place = f"127.0.0.1:{self._socket.getsockname()[1]}"
        self.url = f"http://{self.place}"

    def __enter__(self) -> "Proxy":
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _serve(self) -> None:
        while True:
            try:
                connection = self._socket.accept()[0]
            except OSError:  # closed
                return
            with connection, suppress(OSError):  # the client may end the handshake
                self._answer(connection)

    def _answer(self, connection: socket.socket) -> None:
        self.asked.append(connection.recv(4096).split(b"\r\n")[0].decode(errors="replace"))
        if self.answer is not None:
            connection.sendall(f"HTTP/1.1 {self.answer}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".encode())
            return
        connection.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(CERTIFICATE, KEY)
        with context.wrap_socket(connection, server_side=True) as secure:
            received = secure.recv(65536)
            while not _is_whole(received):  # else closing would reset the connection
                received += secure.recv(65536)
            head = f"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {len(self.content)}"
            secure.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode() + self.content)


def _is_whole(request: bytes) -> bool:
    head, end, body = request.partition(b"\r\n\r\n")
    length = re.search(rb"content-length: *(\d+)", head, re.IGNORECASE)
    return bool(end) and len(body) >= int(length[1] if length else 0)
