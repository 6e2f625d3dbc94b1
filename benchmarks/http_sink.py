"""A loopback HTTP server that counts the events of the batches that PostHog's client posts: `GET /arrived` tells.

python -m benchmarks.http_sink     (prints its URL)
"""

from __future__ import annotations

import gzip
import json
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar


class Sink(BaseHTTPRequestHandler):
    """Takes anything and counts the entries of `batch` in it."""

    protocol_version = "HTTP/1.1"
    arrived: ClassVar[int] = 0

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["content-length"]))
        if self.headers.get("content-encoding") == "gzip":
            body = gzip.decompress(body)
        Sink.arrived += len(json.loads(body).get("batch", ()))
        self._answer(b'{"status": 1}')

    def do_GET(self) -> None:
        self._answer(str(Sink.arrived).encode())

    def _answer(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("content-type", "application/json")
        self.send_header("content-length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 (the base class's)
        """A benchmark's requests are not worth a line each."""


if __name__ == "__main__":
    server = ThreadingHTTPServer(("127.0.0.1", 0), Sink)
    print(f"http://127.0.0.1:{server.server_port}", flush=True)
    server.serve_forever()
