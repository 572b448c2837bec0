"""POST /: the Athena API over HTTP, and the sandbox as its engine."""

from __future__ import annotations

import logging
import threading
import uuid
from collections.abc import Iterator, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa
from litestar import Request, Response, post

from queries.athena.api import AthenaApi
from queries.athena.engine import EngineError, QueryCancelled, ScanLimitExceeded
from queries.sql import (
    Cancellation,
    SnapshotUnreadable,
    SqlCancelled,
    SqlRequest,
    SqlResult,
    SqlScanLimit,
    SqlTimeout,
    SqlTooLarge,
    SqlWorkerDied,
)
from service.athena_access import AthenaRefusal, athena_headers, check_bearer, check_signature, is_signed
from service.clients import client_of, needs
from service.problems import Problem
from service.sql import SqlService
from service.streams import WorkThreads
from storage.errors import Overloaded

TARGET_PREFIX: Final = "AmazonAthena."
MEDIA_TYPE: Final = "application/x-amz-json-1.1"
_BODY_BYTES_MAX: Final = 2 * 1024 * 1024
_CANCEL_POLL_S: Final = 0.05

_log = logging.getLogger("actionlake.athena")


class SandboxEngine:
    """Runs the translated queries in the SQL sandbox, over what is stored at that instant."""

    def __init__(self, sql: SqlService) -> None:
        self._sql = sql

    def run(
        self, sql: str, parameters: Sequence[object], *, cancelled: threading.Event, scanned_bytes_max: int | None
    ) -> SandboxAnswer:
        """Start a query; see `queries.athena.engine.SqlEngine`.

        Raises:
            QueryCancelled, EngineError: as the protocol says; InvalidInput with DuckDB's message if the query is wrong.
        """
        cancellation = Cancellation()
        done = threading.Event()
        threading.Thread(
            target=_cancel_when_set, args=(cancelled, done, cancellation), name="athena-cancel", daemon=True
        ).start()
        try:
            request = SqlRequest(sql, parameters, scanned_bytes_max=scanned_bytes_max)
            result = self._sql.run(request, cancellation)
        except Exception as error:
            done.set()
            raise _translated(error) from error
        return SandboxAnswer(result, done, scanned_bytes_max)


class SandboxAnswer:
    """A query's answer on its way; see `queries.athena.engine.EngineResult`."""

    def __init__(self, result: SqlResult, done: threading.Event, scanned_bytes_max: int | None) -> None:
        self._result = result
        self._done = done
        self._scanned_bytes_max = scanned_bytes_max
        self.schema: pa.Schema = result.schema
        self.batches: Iterator[pa.RecordBatch] = self._read()

    @property
    def scanned_bytes(self) -> int:
        """Bytes that were really read."""
        return 0 if self._result.statistics is None else self._result.statistics.scanned_bytes

    @property
    def engine_ms(self) -> float:
        """How long the worker took."""
        return 0.0 if self._result.statistics is None else self._result.statistics.elapsed_ms

    def _read(self) -> Iterator[pa.RecordBatch]:
        try:
            with self._result:
                yield from self._result
        except Exception as error:
            raise _translated(error) from error
        finally:
            self._done.set()
        if self._scanned_bytes_max is not None and self.scanned_bytes > self._scanned_bytes_max:
            raise ScanLimitExceeded(self.scanned_bytes)


def _cancel_when_set(cancelled: threading.Event, done: threading.Event, cancellation: Cancellation) -> None:
    while not done.wait(_CANCEL_POLL_S):
        if cancelled.is_set():
            cancellation.cancel()
            return


def _translated(error: Exception) -> Exception:
    match error:
        case SqlScanLimit(scanned_bytes=scanned_bytes):
            return ScanLimitExceeded(scanned_bytes)
        case SqlCancelled():
            return QueryCancelled(str(error))
        case SqlTimeout():
            return EngineError("EXCEEDED_TIME_LIMIT", str(error), retryable=False)
        case SqlTooLarge():
            return EngineError("EXCEEDED_LOCAL_MEMORY_LIMIT", str(error), retryable=False)
        case SqlWorkerDied() | SnapshotUnreadable() | Overloaded() | Problem():
            return EngineError("GENERIC_INTERNAL_ERROR", str(error), retryable=True)
        case _:
            return error


class AthenaService:
    """The API with the threads that it answers in."""

    def __init__(self, api: AthenaApi, *, threads_max: int) -> None:
        self.api = api
        self.threads = WorkThreads(threads_max, "athena")

    async def close(self) -> None:
        """Stop the queries of this process."""
        await self.threads.run(self.api.close)
        await self.threads.close()


@post(
    "/",
    status_code=200,
    summary="The Athena API (X-Amz-Target: AmazonAthena.*)",
    tags=["actions"],
    opt=needs("sql", checked_in_handler=True),
)
async def athena(request: Request[Any, Any, Any]) -> Response[bytes]:
    """Answer one operation of the Athena API, for boto3, PyAthena and awswrangler."""
    service: AthenaService = request.app.state.athena
    headers = athena_headers(request.scope)
    target = headers.get("x-amz-target", "")
    signed = is_signed(headers)
    operation = target.removeprefix(TARGET_PREFIX)
    try:
        if not signed:
            check_bearer(client_of(request.scope), operation)
    except AthenaRefusal as refusal:
        return _answer(refusal.status, refusal.answer)
    if not target.startswith(TARGET_PREFIX):
        raise Problem(400, f"POST / is the Athena API: X-Amz-Target must begin with {TARGET_PREFIX}")
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > _BODY_BYTES_MAX:
            return _answer(400, {"__type": "InvalidRequestException", "Message": "the request is too large"})
    if signed:
        try:
            check_signature(request.scope, headers, body, request.app.state.keyring, operation)
        except AthenaRefusal as refusal:
            return _answer(refusal.status, refusal.answer)
    try:
        payload = msgspec.json.decode(body or b"{}", type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        return _answer(400, {"__type": "SerializationException", "Message": f"not a JSON object: {error}"})
    status, answer = await service.threads.run(lambda: service.api.handle(operation, payload))
    return _answer(status, answer)


def _answer(status: int, answer: dict[str, object]) -> Response[bytes]:
    headers = {"x-amzn-RequestId": str(uuid.uuid4())}
    return Response(msgspec.json.encode(answer), status_code=status, media_type=MEDIA_TYPE, headers=headers)
