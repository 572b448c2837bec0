"""What the check of a key costs a request: `python -m bench.gate` prints microseconds, median of several runs.

The gate is asked as a request to submit asks it, in this process, with a key file on this machine's disk. What is
behind the gate does nothing, and what it costs to call that by itself is subtracted.
"""

from __future__ import annotations

import asyncio
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any, Final

from service.clients import client_of
from service.cors import Cors
from service.gate import Gate
from service.keyring import Keyring
from storage.access_keys import KeyFile
from storage.paths import StorePaths

_REQUESTS: Final = 20_000
_RUNS: Final = 9
# About what a client of this service sends with a submission.
_HEADERS: Final = (
    (b"host", b"actions.example:8080"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip"),
    (b"user-agent", b"bench"),
    (b"content-type", b"application/json"),
    (b"content-length", b"250"),
)


async def _behind(scope: Any, _: Any, __: Any) -> None:
    """Stands for the service."""


async def _submit(scope: Any, _: Any, __: Any) -> None:
    """Asks what the route asks."""
    client_of(scope).require("submit")


async def _seconds(app: Any, authorization: bytes | None) -> float:
    headers = [*_HEADERS, *([(b"authorization", authorization)] if authorization is not None else [])]
    started = time.perf_counter()
    for _ in range(_REQUESTS):
        await app({"type": "http", "method": "POST", "headers": headers, "client": ("127.0.0.1", 1)}, None, None)
    return (time.perf_counter() - started) / _REQUESTS


def _measured(app: Any, authorization: bytes | None) -> float:
    return statistics.median(asyncio.run(_seconds(app, authorization)) for _ in range(_RUNS)) * 1_000_000


def main() -> None:
    """Print a line for each case."""
    with tempfile.TemporaryDirectory() as folder:
        file = KeyFile(StorePaths.of(Path(folder)))
        bare = _measured(_behind, None)
        open_gate = Gate(_submit, Keyring(file, required=False), Cors(tuple), insecure=True)
        print(f"no keys    {_measured(open_gate, None) - bare:6.2f} µs")
        for number in range(100):
            made = file.create(f"key {number}", ["submit"], now_us=1)
        keyed = Gate(_submit, Keyring(file, required=True), Cors(tuple), insecure=False)
        right = f"Bearer {made.key}".encode()
        print(f"right key  {_measured(keyed, right) - bare:6.2f} µs")
        unasked = Gate(_behind, Keyring(file, required=True), Cors(tuple), insecure=False)
        print(f"wrong key  {_measured(unasked, right[:-1] + b'!') - bare:6.2f} µs")
        started = time.perf_counter()
        for _ in range(_REQUESTS):
            file.generation()
        print(f"of it stat {(time.perf_counter() - started) / _REQUESTS * 1_000_000:6.2f} µs")


if __name__ == "__main__":
    main()
