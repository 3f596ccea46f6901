"""Servers of files on this machine: an object store that speaks S3, and a web server with trouble."""

import hashlib
import os
import re
import subprocess
import sys
from collections.abc import Callable
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Event, Thread
from urllib.parse import unquote

#: What clients find the store's credentials by; it takes any.
S3_KEYS = {
    "AWS_ACCESS_KEY_ID": "testing",
    "AWS_SECRET_ACCESS_KEY": "testing",
    "AWS_DEFAULT_REGION": "us-east-1",
}


class Web(ThreadingHTTPServer):
    """Serves a folder: GET and HEAD, with lengths and ETags.

    Attributes:
        said: (method, path, Range) of all requests.
        trouble: of a request's number from 1 on, method and path: a status to answer with; ``stall``, to
            answer nothing; ``cut``, to end in the middle of the body; ``whole``, to know of no ranges;
            ``silent``, to say no length; None for none.
    """

    daemon_threads = True

    def __init__(self, folder: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.folder = folder
        self.said: list[tuple[str, str, str | None]] = []
        self.trouble: Callable[[int, str, str], int | str | None] = lambda number, method, path: (
            None
        )
        self._closed = Event()
        Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def wait(self) -> None:
        self._closed.wait(600)

    def close(self) -> None:
        self._closed.set()
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Web

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.said.append((self.command, self.path, asked))
        number = len(self.server.said)
        trouble = self.server.trouble(number, self.command, self.path)
        file = self.server.folder / unquote(self.path.partition("?")[0]).lstrip("/")
        if trouble is None and not file.is_file():
            trouble = 404
        if trouble == "stall":
            self.server.wait()
            self.close_connection = True
            return
        if isinstance(trouble, int):
            self._head(trouble, 0)
            return
        content = file.read_bytes()
        tag = f'"{hashlib.md5(content).hexdigest()}"'
        match = re.fullmatch(r"bytes=(\d+)-(\d+)", asked or "")
        if match and trouble != "whole":
            start, stop = int(match[1]), int(match[2]) + 1
            place = f"bytes {start}-{min(stop, len(content)) - 1}/{len(content)}"
            content = content[start:stop]
            self._head(206, len(content), ETag=tag, Content_Range=place)
        else:
            self._head(200, None if trouble == "silent" else len(content), ETag=tag)
        if self.command == "GET":
            self.wfile.write(content[: len(content) // 2] if trouble == "cut" else content)
        if trouble in ("cut", "silent"):
            self.close_connection = True

    do_HEAD = do_GET  # noqa: N815

    def _head(self, status: int, length: int | None, **headers: str) -> None:
        self.send_response(status)
        if length is not None:
            self.send_header("Content-Length", str(length))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def log_message(self, *_) -> None:
        pass


@contextmanager
def s3_store():
    """moto's server in a process of its own; gives its address."""
    process = subprocess.Popen(
        [sys.executable, "-m", "moto.server", "--port", "0"],
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, **S3_KEYS},
    )
    try:
        lines = iter(process.stderr.readline, "")
        yield next(match[0] for line in lines if (match := re.search(r"http://[\d.]+:\d+", line)))
    finally:
        process.kill()
        process.wait()
        process.stderr.close()
