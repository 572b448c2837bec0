"""POST /api/sql: one SELECT over the table and its views, in the sandbox, in every format."""

from __future__ import annotations

import logging
import tempfile
import threading
import time
from collections.abc import Generator, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, post
from litestar.params import Parameter
from litestar.response import Stream
from litestar.types import Receive

from queries.formats import ByteStream, Format, encode, is_portable
from queries.sql import (
    Cancellation,
    LostWorker,
    SnapshotUnreadable,
    SqlPool,
    SqlPruning,
    SqlRequest,
    SqlResult,
    SqlWorkerDied,
    TableView,
)
from queries.views import view_statements
from service.clients import needs
from service.metrics import Metrics
from service.problems import Problem, bad_parameter
from service.retrievals import interrupted_on_disconnect, parse_flag, parse_format, parse_query, scan_headers
from service.streams import ChunkedAnswer, WorkThreads
from storage.errors import Overloaded
from storage.read_view import ReadView
from storage.store import Store

PARAMETERS: Final = ("format", "csvRaw", "explain")
_BODY_BYTES_MAX: Final = 2 * 1024 * 1024
_SPOOL_BYTES_MAX: Final = 8 * 1024 * 1024
_READ_BYTES: Final = 256 * 1024
_SNAPSHOT_ATTEMPTS_MAX: Final = 3

_log = logging.getLogger("actionlake.sql")


class SqlBody(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The body of a request."""

    sql: str
    parameters: list[Any] | dict[str, Any] = msgspec.field(default_factory=list)
    max_rows: Annotated[int, msgspec.Meta(ge=1)] | None = None
    explain: bool = False


@dataclass(frozen=True, slots=True)
class SqlAnswerLimits:
    """The settings `sql_rows_default` and `sql_rows_max`, and how long a streamed answer may take to be taken."""

    rows_default: int
    json_rows_max: int
    stream_timeout_s: float


class SqlService:
    """Runs users' SQL over what is stored at that instant."""

    def __init__(
        self, store: Store, pool: SqlPool, metrics: Metrics, limits: SqlAnswerLimits, *, threads_max: int
    ) -> None:
        self.limits = limits
        self._store = store
        self._pool = pool
        self._metrics = metrics
        self.threads = WorkThreads(threads_max, "sql")
        self._ready_views = store.schema, view_statements(store.schema)
        self._failure: str | None = None
        self._started = threading.Event()
        # Worker processes take a moment, which the start of the service need not wait for.
        threading.Thread(target=self._start, name="sql-start", daemon=True).start()

    def _start(self) -> None:
        try:
            self._pool.start()
        except (SqlWorkerDied, OSError) as error:
            self._failure = str(error)
            _log.error("user SQL is not available: %s", error)
        else:
            report = self._pool.isolation()
            _log.info("SQL workers are walled by: %s", ", ".join(wall.name for wall in report.standing))
            for wall in report.missing:
                _log.warning("SQL workers lack the wall %s: %s", wall.name, wall.detail)
            for way in report.open_ways:
                _log.warning("the system does not keep SQL workers from this: %s: %s", way.attempt, way.detail)
        finally:
            self._started.set()

    def run(self, request: SqlRequest, cancellation: Cancellation | None = None) -> SqlResult:
        """Run a query; blocks until its first rows are there. A snapshot that went away meanwhile is taken anew.

        Raises:
            Problem: the workers could not be started.
            StoreError: as `SqlPool.run`.
        """
        self._started.wait()
        if self._failure is not None:
            raise Problem(503, f"user SQL is not available: {self._failure}")
        for attempt in range(_SNAPSHOT_ATTEMPTS_MAX):
            view = self._store.read_view()
            try:
                result = self._pool.run(request, self._table(view), cancellation)
            except (SnapshotUnreadable, SqlWorkerDied):
                if attempt == _SNAPSHOT_ATTEMPTS_MAX - 1:
                    raise
                continue
            return result
        raise Overloaded("the table changes too fast")

    def _table(self, view: ReadView) -> TableView:
        schema, views = self._ready_views
        if view.schema is not schema:
            views = view_statements(view.schema)
            self._ready_views = view.schema, views
        return TableView(view.files, view.hot, view.schema.table_schema, views, view.erased)

    def observe(self, *, scanned_bytes: int, scanned_files: int) -> None:
        """Count what a query scanned."""
        self._metrics.scanned_bytes.inc(scanned_bytes)
        self._metrics.scanned_files.inc(scanned_files)

    async def close(self) -> None:
        """Stop what runs, and the workers."""
        self._started.wait()
        self._pool.close()
        await self.threads.close()


def log_lost_worker(lost: LostWorker) -> None:
    """Tell that a worker ended before its time; a new one takes its place."""
    _log.warning("a SQL worker ended: %s", lost)


async def read_json_body(request: Request[Any, Any, Any], bytes_max: int) -> bytes:
    """Read a body that must be JSON by its content type.

    Raises:
        Problem: 415 for another content type, 413 if it is too large.
    """
    media_type = request.headers.get("content-type", "").split(";")[0].strip().lower()
    if media_type != "application/json":
        raise Problem(415, "Content-Type must be application/json", headers={"accept": "application/json"})
    body = b""
    async for part in request.stream():
        body += part
        if len(body) > bytes_max:
            raise Problem(413, f"the body is larger than {bytes_max} bytes")
    return body


def parse_sql_body(body: bytes) -> SqlBody:
    """Read the body.

    Raises:
        Problem: 400, naming the field.
    """
    try:
        return msgspec.json.decode(body, type=SqlBody)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        field = place.strip(".`") or "sql"
        raise bad_parameter(field, text) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from error


@post(
    "/api/sql",
    status_code=200,
    summary="Run one SELECT over `actions` and its views",
    tags=["actions"],
    opt=needs("sql"),
)
async def run_sql(
    request: Request[Any, Any, Any],
    format_: Annotated[
        str | None, Parameter(query="format", description="json, ndjson, csv, arrow or parquet; instead of Accept")
    ] = None,
    csv_raw: Annotated[
        str | None, Parameter(query="csvRaw", description="true leaves spreadsheet formulas in CSV as they are")
    ] = None,
    explain: Annotated[str | None, Parameter(description="true answers with the plan instead of the rows")] = None,
) -> Response[bytes] | Stream:
    """Answer with the rows of one SELECT (also WITH, DESCRIBE, SHOW, EXPLAIN of one)."""
    # Declared for the OpenAPI document; read from the query string, so that each wrong one is named.
    del format_, csv_raw, explain
    started = time.perf_counter()
    service: SqlService = request.app.state.sql
    given = parse_query(request.scope["query_string"], PARAMETERS)
    wanted = parse_format(given, request.headers.get("accept"))
    raw = parse_flag(given, "csvRaw")
    body = parse_sql_body(await read_json_body(request, _BODY_BYTES_MAX))
    asked = body.explain or parse_flag(given, "explain")
    query = _sql_request(body, service.limits, wanted, explain=asked)
    if wanted is not Format.JSON:
        return await _stream(service, query, wanted, request.receive, csv_raw=raw, started=started)
    return await _answer_json(service, query, request.receive, started=started)


def _sql_request(body: SqlBody, limits: SqlAnswerLimits, wanted: Format, *, explain: bool) -> SqlRequest:
    rows = body.max_rows if body.max_rows is not None else limits.rows_default
    if wanted is Format.JSON and rows > limits.json_rows_max:
        raise bad_parameter("maxRows", f"a JSON answer has at most {limits.json_rows_max} rows; other formats stream")
    return SqlRequest(body.sql, body.parameters, rows, explain)


async def _stream(
    service: SqlService, query: SqlRequest, wanted: Format, receive: Receive, *, csv_raw: bool, started: float
) -> Stream:
    cancellation = Cancellation()
    async with interrupted_on_disconnect(receive, cancellation.cancel):
        result = await service.threads.run(lambda: service.run(query, cancellation))
    try:
        if wanted is Format.ARROW and is_portable(result.schema):
            # What the worker wrote is the answer.
            content = ByteStream(result.arrow_stream(), result.close, messages=True)
        else:
            types = [one.type for one in result.columns]
            content = encode(result.schema, result, wanted, csv_raw=csv_raw, column_types=types)
            await service.threads.run(content.begin)
    except BaseException:
        result.close()
        raise

    def release() -> None:
        if result.statistics is not None:
            statistics = result.statistics
            service.observe(scanned_bytes=statistics.scanned_bytes, scanned_files=statistics.scanned_files)
        result.close()

    planned = result.pruning.by_time
    headers = scan_headers(
        scanned_files=planned.files,
        total_files=result.pruning.total.files,
        scanned_bytes=planned.bytes,
        seconds=time.perf_counter() - started,
    )
    chunks = service.threads.chunks(content, stop=result.cancel, release=release)
    timeout_s = service.limits.stream_timeout_s
    return ChunkedAnswer(chunks, media_type=wanted.media_type, headers=headers, timeout_s=timeout_s)


async def _answer_json(
    service: SqlService, query: SqlRequest, receive: Receive, *, started: float
) -> Response[bytes] | Stream:
    """Answer when all rows are there, so that a query which fails late is still told so, and figures are exact."""
    cancellation = Cancellation()
    spool = tempfile.SpooledTemporaryFile(_SPOOL_BYTES_MAX)  # noqa: SIM115 - it may outlive this call, as a stream

    def work() -> SqlResult:
        with service.run(query, cancellation) as result:

            def statistics() -> Mapping[str, object]:
                assert result.statistics is not None, "it is there after the last row"
                return {
                    "scannedBytes": result.statistics.scanned_bytes,
                    "scannedFiles": result.statistics.scanned_files,
                    "totalFiles": result.statistics.total_files,
                    "elapsedMs": round(result.statistics.elapsed_ms, 3),
                    "truncated": result.statistics.truncated,
                }

            types = [one.type for one in result.columns]
            with encode(result.schema, result, Format.JSON, column_types=types, statistics=statistics) as content:
                _write(spool, content, result.pruning if query.explain else None)
            return result

    try:
        async with interrupted_on_disconnect(receive, cancellation.cancel):
            result = await service.threads.run(work)
        size = spool.tell()
        spool.seek(0)
        content = spool.read() if size <= _SPOOL_BYTES_MAX else None
    except BaseException:
        spool.close()
        raise
    assert result.statistics is not None, "it is there after the last row"
    done = result.statistics
    service.observe(scanned_bytes=done.scanned_bytes, scanned_files=done.scanned_files)
    headers = scan_headers(
        scanned_files=done.scanned_files,
        total_files=done.total_files,
        scanned_bytes=done.scanned_bytes,
        seconds=time.perf_counter() - started,
    )
    if content is not None:
        spool.close()
        return Response(content, media_type="application/json", headers=headers)
    chunks = service.threads.chunks(_read_chunks(spool), stop=lambda: None, release=spool.close)
    timeout_s = service.limits.stream_timeout_s
    return ChunkedAnswer(chunks, media_type="application/json", headers=headers, timeout_s=timeout_s)


def _write(spool: tempfile.SpooledTemporaryFile[bytes], content: ByteStream, pruning: SqlPruning | None) -> None:
    """Write the answer; with *pruning* it gets a member more at its end."""
    for chunk in content:
        spool.write(chunk)
    if pruning is not None:
        steps = [
            {"step": name, "files": count.files, "bytes": count.bytes}
            for name, count in (
                ("all files", pruning.total),
                ("partition (date, type)", pruning.by_partition),
                ("bounds of time", pruning.by_time),
                ("bounds of user_id in footers", pruning.by_user),
            )
            if count is not None
        ]
        explanation: dict[str, object] = {"files": steps, "hotRows": pruning.hot_rows}
        if pruning.row_groups is not None:
            left, total, size = pruning.row_groups
            explanation["rowGroups"] = {"rowGroups": left, "totalRowGroups": total, "bytes": size}
        spool.seek(-1, 2)
        spool.write(b',"explain":' + msgspec.json.encode(explanation) + b"}")


def _read_chunks(spool: tempfile.SpooledTemporaryFile[bytes]) -> Generator[bytes, None, None]:
    while chunk := spool.read(_READ_BYTES):
        yield chunk
