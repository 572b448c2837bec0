"""Calling the Athena API in the test's own process, without HTTP."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa

from queries.athena import AthenaApi, QueryCancelled
from tests.queries.athena_engine import SCHEMA, DuckDBEngine

Answer = dict[str, Any]
PATIENCE_S = 120.0


def make_api(folder: Path, engine: Any = None, **options: Any) -> AthenaApi:
    """An API on *folder*; without an *engine*, over the rows of `athena_engine`."""
    return AthenaApi(engine=engine or DuckDBEngine(), state_folder=folder, schema=lambda: SCHEMA, **options)


def call(api: AthenaApi, operation: str, **payload: object) -> Answer:
    """The answer to an operation that succeeds."""
    status, answer = api.handle(operation, payload)
    assert status == 200, answer
    return answer


def error(api: AthenaApi, operation: str, **payload: object) -> Answer:
    """The answer to an operation that the request spoils."""
    status, answer = api.handle(operation, payload)
    assert status == 400, answer
    assert answer["Message"]
    return answer


def start(api: AthenaApi, query: str, **payload: object) -> str:
    """Start a query; returns its id."""
    return str(call(api, "StartQueryExecution", QueryString=query, **payload)["QueryExecutionId"])


def execution(api: AthenaApi, execution_id: str) -> Answer:
    """An execution as it is now."""
    details: Answer = call(api, "GetQueryExecution", QueryExecutionId=execution_id)["QueryExecution"]
    return details


def state(api: AthenaApi, execution_id: str) -> str:
    """The state of an execution now."""
    return str(execution(api, execution_id)["Status"]["State"])


def ended(api: AthenaApi, execution_id: str) -> Answer:
    """An execution once it has ended."""
    deadline = time.monotonic() + PATIENCE_S
    while time.monotonic() < deadline:
        found = execution(api, execution_id)
        if found["Status"]["State"] in ("SUCCEEDED", "FAILED", "CANCELLED"):
            return found
        time.sleep(0.01)
    raise AssertionError(f"{execution_id} has not ended after {PATIENCE_S} s")


def run(api: AthenaApi, query: str, **payload: object) -> Answer:
    """Run a query to its end."""
    return ended(api, start(api, query, **payload))


def results(api: AthenaApi, query: str, **payload: object) -> Answer:
    """The first page of the result of a query that succeeds."""
    found = run(api, query, **payload)
    assert found["Status"]["State"] == "SUCCEEDED", found["Status"]
    return call(api, "GetQueryResults", QueryExecutionId=found["QueryExecutionId"])


def cells(answer: Answer) -> list[list[str | None]]:
    """The rows of a page."""
    return [[cell.get("VarCharValue") for cell in row["Data"]] for row in answer["ResultSet"]["Rows"]]


class HeldEngine:
    """An engine whose queries wait until they are let go, or cancelled."""

    def __init__(self) -> None:
        self.running = threading.Semaphore(0)
        self.let_go = threading.Event()

    def run(
        self, sql: str, parameters: Sequence[object], *, cancelled: threading.Event, scanned_bytes_max: int | None
    ) -> HeldAnswer:
        """Start a query."""
        self.running.release()
        return HeldAnswer(self, cancelled)


class HeldAnswer:
    """One row, later."""

    schema = pa.schema([("c1", pa.int32())])
    scanned_bytes = 7
    engine_ms = 5.0

    def __init__(self, engine: HeldEngine, cancelled: threading.Event) -> None:
        self._engine = engine
        self._cancelled = cancelled
        self.batches: Iterator[pa.RecordBatch] = self._wait()

    def _wait(self) -> Iterator[pa.RecordBatch]:
        while not self._engine.let_go.wait(0.005):
            if self._cancelled.is_set():
                raise QueryCancelled
        yield pa.RecordBatch.from_pydict({"c1": [1]}, schema=self.schema)
