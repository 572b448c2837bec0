"""One keep-alive connection to the server under measurement; what does not answer 200 leaves no figure."""

from __future__ import annotations

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from bench.errors import BenchFailed

_TIMEOUT_S: Final = 120.0
_READ_BYTES: Final = 1 << 18
_SHOWN_BYTES: Final = 500


@dataclass(frozen=True, slots=True)
class StreamReading:
    """One answer that was read to its end.

    Attributes:
        rows: that were in it.
        first_byte_s: from the request to the first byte of the body.
        elapsed_s: from the request to the end of the body.
    """

    rows: int
    first_byte_s: float
    elapsed_s: float


class HttpConnection:
    """A connection to a port of the loopback address; a context manager."""

    def __init__(self, port: int) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_S)

    def __enter__(self) -> HttpConnection:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def post_sql(self, sql: str) -> list[Any]:
        """Return the rows of a query, as JSON has them.

        Raises:
            BenchFailed: the answer is no 200 or cannot be read.
        """
        with self._answer("POST", "/api/sql", {"sql": sql}) as response:
            rows: list[Any] = json.loads(response.read())["rows"]
            return rows

    def stream(self, method: str, target: str, body: object, *, count: Callable[[Any], int]) -> StreamReading:
        """Read an answer to its end and drop it; *count* reads it and tells how many rows it had.

        Raises:
            BenchFailed: the answer is no 200, is cut, or cannot be read.
        """
        began_s = time.perf_counter()
        with self._answer(method, target, body) as response:
            response.peek(1)
            first_byte_s = time.perf_counter() - began_s
            rows = count(response)
        return StreamReading(rows, first_byte_s, time.perf_counter() - began_s)

    @contextmanager
    def _answer(self, method: str, target: str, body: object) -> Iterator[http.client.HTTPResponse]:
        headers = {} if body is None else {"Content-Type": "application/json"}
        try:
            self._connection.request(method, target, None if body is None else json.dumps(body).encode(), headers)
            response = self._connection.getresponse()
            if response.status != 200:
                shown = response.read()[:_SHOWN_BYTES].decode(errors="replace")
                raise BenchFailed(f"{method} {target} answered {response.status}: {shown}")
            yield response
            if response.read(1):
                raise BenchFailed(f"{method} {target} goes on after its end")
        except (http.client.HTTPException, OSError, ValueError, KeyError, pa.ArrowException) as error:
            raise BenchFailed(f"{method} {target} has no answer that can be read: {error!r}") from error


def count_lines(response: Any) -> int:
    """Read NDJSON; return the number of its lines.

    Raises:
        ValueError: the last line has no end.
    """
    lines, last = 0, b"\n"
    while chunk := response.read(_READ_BYTES):
        lines += chunk.count(b"\n")
        last = chunk
    if not last.endswith(b"\n"):
        raise ValueError("the last line has no end")
    return lines


def count_arrow_rows(response: Any) -> int:
    """Read an Arrow IPC stream; return the number of its rows."""
    with pa.ipc.open_stream(response) as reader:
        return sum(batch.num_rows for batch in reader)
