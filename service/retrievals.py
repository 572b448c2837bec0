"""GET /api/retrievelogs: parameters in, one page of actions out."""

from __future__ import annotations

import asyncio
import contextlib
import re
import time
from collections.abc import AsyncIterator, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Annotated, Any, Final, TypeVar
from urllib.parse import parse_qsl

import msgspec
from litestar import Request, Response, get
from litestar.params import Parameter
from litestar.types import Receive

from queries.engine import Engine, QueryConnection
from queries.paging import decode_cursor
from queries.pruning import RetrievalFilter
from queries.retrieval import Order, RetrievalPage, RetrievalRequest, ScanStatistics, question_of, retrieve_page
from service.metrics import Metrics
from service.problems import Problem, bad_parameter
from storage.errors import InvalidInput, Overloaded
from storage.store import ReadView, Store
from storage.times import parse_time

_FORGOTTEN_PLUS: Final = re.compile(r" (\d\d:\d\d)$")
PARAMETERS: Final = ("userId", "logType", "fromTime", "toTime", "order", "limit", "cursor")
_WAITING_MAX: Final = 64

T = TypeVar("T")


def parse_query(query_string: bytes, known: tuple[str, ...]) -> dict[str, str]:
    """Read a query string strictly.

    Raises:
        Problem: it is not UTF-8, or a parameter is unknown or given twice; each is named.
    """
    try:
        pairs = parse_qsl(query_string.decode("ascii"), keep_blank_values=True, errors="strict")
    except UnicodeDecodeError as error:
        raise Problem(400, "the query string is not UTF-8, percent-encoded") from error
    given: dict[str, str] = {}
    for name, value in pairs:
        if name not in known:
            raise bad_parameter(name, f"is not a parameter; there are {', '.join(known)}")
        if name in given:
            raise bad_parameter(name, "is given twice")
        given[name] = value
    return given


def parse_filter(given: Mapping[str, str], known_types: Callable[[], set[str]]) -> RetrievalFilter:
    """Read `userId`, `logType`, `fromTime` and `toTime`.

    Args:
        given: the parameters.
        known_types: the types of the configuration and of the table, asked for only if needed.

    Raises:
        Problem: 400, naming the parameter.
    """
    if not any(name in given for name in ("userId", "logType", "fromTime", "toTime")):
        message = "give at least one of userId, logType, or fromTime with toTime"
        raise Problem(400, message, bad_parameter("userId", message).errors)
    for name, other in (("fromTime", "toTime"), ("toTime", "fromTime")):
        if name in given and other not in given:
            raise bad_parameter(other, f"is missing: {name} and {other} go together")
    if given.get("userId") == "":
        raise bad_parameter("userId", "must not be empty")
    action_type = None
    if "logType" in given:
        sent = given["logType"]
        action_type = sent.lower() if sent.isascii() else sent
        types = known_types()
        if action_type not in types:
            raise bad_parameter("logType", f"{sent!r} is not one of {', '.join(sorted(types))}")
    bounds: dict[str, int] = {}
    for name in ("fromTime", "toTime"):
        if name in given:
            try:
                bounds[name], _ = parse_time(_FORGOTTEN_PLUS.sub(r"+\1", given[name]))
            except ValueError as error:
                raise bad_parameter(name, str(error)) from error
    if bounds and bounds["fromTime"] > bounds["toTime"]:
        raise bad_parameter("fromTime", "is after toTime")
    return RetrievalFilter(given.get("userId"), action_type, bounds.get("fromTime"), bounds.get("toTime"))


def parse_order(given: Mapping[str, str]) -> Order:
    """Read `order`; ascending unless asked otherwise."""
    match given.get("order", "asc").lower():
        case "asc":
            return "asc"
        case "desc":
            return "desc"
        case _:
            raise bad_parameter("order", "must be asc or desc")


def parse_limit(given: Mapping[str, str], *, default: int, maximum: int) -> int:
    """Read `limit`."""
    text = given.get("limit")
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 9 and 1 <= int(text) <= maximum):
        raise bad_parameter("limit", f"must be a whole number from 1 to {maximum}")
    return int(text)


@dataclass(frozen=True, slots=True)
class RetrievalLimits:
    """The settings of the same names."""

    limit_default: int
    limit_max: int
    timeout_ms_max: int
    concurrency_max: int


class Retrievals:
    """Runs retrievals off the event loop, a bounded number at a time."""

    def __init__(self, store: Store, engine: Engine, metrics: Metrics, limits: RetrievalLimits) -> None:
        self.store = store
        self.limits = limits
        self._engine = engine
        self._metrics = metrics
        self._threads = ThreadPoolExecutor(limits.concurrency_max, thread_name_prefix="retrieval")
        self._waiting = 0

    def close(self) -> None:
        """Wait for the retrievals that run."""
        self._threads.shutdown()

    def known_types(self, view: ReadView) -> set[str]:
        """The action types of the configuration and of what is stored."""
        stored = {one.type for one in view.files} | set(view.hot["type"].unique().to_pylist())
        return stored | set(self.store.schema.action_types)

    async def page(self, given: Mapping[str, str], receive: Receive) -> tuple[RetrievalPage, float]:
        """Answer one request; returns the page and the seconds it took.

        Raises:
            Problem: a parameter is wrong.
            Overloaded: too many retrievals wait.
            QueryStopped: it took longer than allowed, or the client went away.
        """
        started = time.perf_counter()
        order = parse_order(given)
        limit = parse_limit(given, default=self.limits.limit_default, maximum=self.limits.limit_max)
        # Checked before any waiting, so that a wrong request is told so even by a busy server.
        parse_filter(given, lambda: {given["logType"].lower()})

        def work(connection: QueryConnection) -> RetrievalPage:
            view = self.store.read_view()
            asked = parse_filter(given, lambda: self.known_types(view))
            request = RetrievalRequest(asked, order, limit, given.get("cursor"))
            if request.cursor is not None:
                try:
                    decode_cursor(request.cursor, question_of(request))
                except InvalidInput as error:
                    raise bad_parameter("cursor", str(error)) from error
            return retrieve_page(connection, view, request)

        page = await self._run(work, receive)
        seconds = time.perf_counter() - started
        self._metrics.retrieval_seconds.observe(seconds)
        self._metrics.scanned_bytes.inc(page.statistics.scanned_bytes)
        self._metrics.scanned_files.inc(page.statistics.scanned_files)
        return page, seconds

    async def _run(self, work: Callable[[QueryConnection], T], receive: Receive) -> T:
        if self._waiting >= _WAITING_MAX:
            raise Overloaded("too many retrievals wait", retry_after_s=1)
        loop = asyncio.get_running_loop()
        with self._engine.connect() as connection:
            self._waiting += 1
            timeout = loop.call_later(self.limits.timeout_ms_max / 1000, connection.interrupt)
            running = loop.run_in_executor(self._threads, work, connection)
            try:
                async with _interrupted_on_disconnect(receive, connection):
                    return await running
            finally:
                timeout.cancel()
                self._waiting -= 1


@contextlib.asynccontextmanager
async def _interrupted_on_disconnect(receive: Receive, connection: QueryConnection) -> AsyncIterator[None]:
    """Interrupt the connection's query when the client goes away."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        connection.interrupt()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


def scan_headers(statistics: ScanStatistics, *, seconds: float) -> dict[str, str]:
    """The headers that say what an answer cost."""
    return {
        "Actionlake-Scanned-Files": str(statistics.scanned_files),
        "Actionlake-Total-Files": str(statistics.total_files),
        "Actionlake-Scanned-Bytes": str(statistics.scanned_bytes),
        "Server-Timing": f"total;dur={seconds * 1000:.1f}",
    }


def _described(description: str, **schema: Any) -> Any:
    return Parameter(description=description, required=False, schema_extra=schema)


@get(
    "/api/retrievelogs",
    summary="Retrieve actions by user, type and time",
    description="Any combination of the filters, at least one. Complete up to the last acknowledged submission.",
    tags=["actions"],
    media_type="application/json",
)
async def retrieve_logs(
    request: Request[Any, Any, Any],
    user_id: Annotated[str | None, Parameter(query="userId", description="exactly this user")] = None,
    log_type: Annotated[str | None, Parameter(query="logType", description="exactly this type, in any case")] = None,
    from_time: Annotated[
        str | None, Parameter(query="fromTime", description="RFC 3339, inclusive; with toTime")
    ] = None,
    to_time: Annotated[str | None, Parameter(query="toTime", description="RFC 3339, inclusive; with fromTime")] = None,
    order: Annotated[str | None, _described("by time: asc (default) or desc", enum=["asc", "desc"])] = None,
    limit: Annotated[str | None, _described("rows of a page", type="integer", minimum=1)] = None,
    cursor: Annotated[str | None, Parameter(description="`next` of the page before")] = None,
) -> Response[bytes]:
    """Answer one page as JSON."""
    del user_id, log_type, from_time, to_time, order, limit, cursor  # Declared for the OpenAPI document.
    retrievals: Retrievals = request.app.state.retrievals
    given = parse_query(request.scope["query_string"], PARAMETERS)
    page, seconds = await retrievals.page(given, request.receive)
    following = msgspec.json.encode(page.next).decode()
    body = f'{{"logs":[{",".join(page.rows)}],"next":{following}}}'.encode()
    return Response(body, media_type="application/json", headers=scan_headers(page.statistics, seconds=seconds))
