"""Requests to the stand-in and its answers."""

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import formatdate
from pathlib import Path
from typing import Any

STORAGE = "http://storage.googleapis.com"  # not the API's host, so that the client sends it no credentials
CHUNK_BYTES = 1 << 18
PAGE_SIZE = 20
Body = dict[str, Any]  # the JSON object of a call or an answer


class Refusal(Exception):
    """An error that Kaggle answers with: its HTTP status and message."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status


@dataclass
class Request:
    """A request.

    method: the name of the API's method, or `storage`, `upload`, `output` or `other`.  verb: GET, POST or PUT.  path:
    the target as received.  body: the JSON object of an API call.  status: HTTP status of the answer; 0: none was sent.
    """

    method: str
    verb: str
    path: str
    headers: dict[str, str]
    content: bytes
    body: Body | None = None
    status: int = 0


@dataclass
class Answer:
    """An HTTP answer.  chunks: the bytes of its body."""

    status: int
    headers: dict[str, str]
    chunks: Iterable[bytes] = ()


def reply(value: Body, status: int = 200) -> Answer:
    """Return an answer of the API."""
    content = json.dumps(value).encode()
    return Answer(status, {"Content-Type": "application/json", "Content-Length": str(len(content))}, [content])


def refuse(status: int, message: str) -> Answer:
    return reply({"code": status, "message": message or f"Error {status}"}, status)


def stored(request: Request, content: bytes | Path, modified: float) -> Answer:
    """Return the storage's answer to a GET: the requested range of `content`, with ETag and Last-Modified."""
    if isinstance(content, Path):
        size, version = content.stat().st_size, f"{content.stat().st_mtime_ns:x}-{content.stat().st_size:x}"
    else:
        size, version = len(content), hashlib.sha256(content).hexdigest()[:16]
    etag, date = f'"{version}"', formatdate(math.floor(modified), usegmt=True)
    headers = {"Content-Type": "application/zip", "Last-Modified": date, "ETag": etag, "Accept-Ranges": "bytes"}
    start, stop, status = 0, size, 200
    wanted = request.headers.get("Range", "")
    if wanted.startswith("bytes=") and request.headers.get("If-Range", etag) in (etag, date):
        first, _, last = wanted.removeprefix("bytes=").partition("-")
        start, stop, status = int(first), min(size, int(last) + 1) if last else size, 206
        headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
        if start >= size:
            return Answer(416, headers | {"Content-Range": f"bytes */{size}", "Content-Length": "0"})
    headers["Content-Length"] = str(stop - start)
    return Answer(status, headers, _read(content, start, stop) if isinstance(content, Path) else [content[start:stop]])


def _read(path: Path, start: int, stop: int) -> Iterator[bytes]:
    with open(path, "rb") as file:
        file.seek(start)
        while start < stop and (chunk := file.read(min(CHUNK_BYTES, stop - start))):
            start += len(chunk)
            yield chunk


def page(key: str, rows: Sequence[Body], body: Body) -> Body:
    """Return the requested page of `rows` under `key`, and the token of the next page, empty at the end."""
    size = body.get("pageSize") or PAGE_SIZE
    start = int(body.get("pageToken") or (body.get("page", 1) - 1) * size)
    stop = start + size
    return {key: rows[start:stop], "nextPageToken": str(stop) if stop < len(rows) else ""}


def iso_time(seconds: float) -> str:
    """Return seconds since the epoch in Kaggle's form: `2026-11-01T10:00:00.123Z`."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
