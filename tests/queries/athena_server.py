"""A real HTTP server around the Athena API, for tests with real clients."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from queries.athena import AthenaApi


@dataclass(frozen=True, slots=True)
class AthenaEndpoint:
    """Where the clients find the API; its table holds the rows of `athena_engine.action_rows`."""

    url: str

    @property
    def client_arguments(self) -> dict[str, Any]:
        """What a boto3 client is made with."""
        return {
            "endpoint_url": self.url,
            "region_name": "eu-central-1",
            "aws_access_key_id": "test",
            "aws_secret_access_key": "test",
        }


def _handler(api: AthenaApi) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        # A small answer leaves at once, instead of waiting for one more.
        disable_nagle_algorithm = True

        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            operation = self.headers["X-Amz-Target"].removeprefix("AmazonAthena.")
            status, answer = api.handle(operation, json.loads(body or b"{}"))
            payload = json.dumps(answer).encode()
            head = (
                f"HTTP/1.1 {status} -\r\nContent-Type: application/x-amz-json-1.1\r\nContent-Length: {len(payload)}\r\n"
            )
            self.wfile.write(head.encode() + b"\r\n" + payload)

        def log_message(self, format: str, *args: object) -> None:
            pass

    return Handler


@contextlib.contextmanager
def serve(api: AthenaApi) -> Iterator[AthenaEndpoint]:
    """Serve *api* on a free port of this machine."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), _handler(api))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield AthenaEndpoint(f"http://127.0.0.1:{server.server_port}")
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
