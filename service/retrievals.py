"""What GET /api/retrievelogs takes, and its work off the event loop: parameters in, a page or a stream out."""

from __future__ import annotations

import asyncio
import contextlib
import re
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final
from urllib.parse import parse_qsl

from litestar.types import Receive

from queries.engine import Engine, QueryConnection
from queries.explain import explain_retrieval
from queries.file_index import RetrievalFilter
from queries.formats import Format, NotAcceptable, UnknownFormat, negotiate
from queries.paging import decode_cursor
from queries.retrieval import RetrievalPage, RetrievalRequest, question_of, retrieve_page
from queries.sources import Order
from queries.streaming import RetrievalStream, StreamRequest, stream_retrieval
from queries.whole_views import answer_whole
from service.clients import Client
from service.metrics import Metrics
from service.problems import Problem, bad_parameter
from service.streams import Chunks, WorkThreads
from storage.errors import InvalidInput, Overloaded
from storage.read_view import ReadView
from storage.store import Store
from storage.times import parse_time

_FORGOTTEN_PLUS: Final = re.compile(r" (\d\d:\d\d)$")
PARAMETERS: Final = (
    "userId",
    "logType",
    "fromTime",
    "toTime",
    "order",
    "limit",
    "cursor",
    "format",
    "csvRaw",
    "explain",
)
_UNDER_WAY_MAX: Final = 64
_STREAM_LIMIT_MAX: Final = 10**15


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


def parse_filter(
    given: Mapping[str, str], known_types: Callable[[], set[str]], user_prefix: str | None = None
) -> RetrievalFilter:
    """Read `userId`, `logType`, `fromTime` and `toTime`.

    Args:
        given: the parameters.
        known_types: the types of the configuration and of the table, asked for only if needed.
        user_prefix: the client may see these users only.

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
    return RetrievalFilter(
        given.get("userId"), action_type, bounds.get("fromTime"), bounds.get("toTime"), user_prefix=user_prefix
    )


def parse_order(given: Mapping[str, str]) -> Order:
    """Read `order`; ascending unless asked otherwise."""
    match given.get("order", "asc").lower():
        case "asc":
            return "asc"
        case "desc":
            return "desc"
        case _:
            raise bad_parameter("order", "must be asc or desc")


def parse_limit(given: Mapping[str, str], *, maximum: int) -> int | None:
    """Read `limit`."""
    text = given.get("limit")
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 15 and 1 <= int(text) <= maximum):
        raise bad_parameter("limit", f"must be a whole number from 1 to {maximum}")
    return int(text)


def parse_flag(given: Mapping[str, str], name: str) -> bool:
    """Read a parameter that is true or false; false unless it is given."""
    text = given.get(name, "false").lower()
    if text not in ("true", "false"):
        raise bad_parameter(name, "must be true or false")
    return text == "true"


def parse_format(given: Mapping[str, str], accept: str | None) -> Format:
    """Choose the format by `format` or `Accept`."""
    try:
        return negotiate(accept, given.get("format"))
    except UnknownFormat as error:
        raise bad_parameter(error.parameter, error.message) from error
    except NotAcceptable as error:
        raise Problem(406, str(error)) from error


@dataclass(frozen=True, slots=True)
class RetrievalLimits:
    """The settings of the same names; a stream has `timeout_ms_max` for its first rows, `stream_timeout_s` for all."""

    limit_default: int
    limit_max: int
    timeout_ms_max: int
    stream_timeout_s: float
    concurrency_max: int


class Retrievals:
    """Runs retrievals off the event loop, a bounded number at a time."""

    def __init__(self, store: Store, engine: Engine, metrics: Metrics, limits: RetrievalLimits) -> None:
        self.store = store
        self.limits = limits
        self._engine = engine
        self._metrics = metrics
        self._threads = WorkThreads(limits.concurrency_max, "retrieval")
        self._under_way = 0

    async def close(self) -> None:
        """Wait for the retrievals that run."""
        await self._threads.close()

    def observe(self, seconds: float) -> None:
        """Count a retrieval that took so long."""
        self._metrics.retrieval_seconds.observe(seconds)

    def known_types(self, view: ReadView, sent: str) -> set[str]:
        """The action types of the configuration; those of what is stored, too, if *sent* is not among them."""
        configured = set(self.store.schema.action_types)
        if sent.lower() in configured:
            return configured
        return configured | {one.type for one in view.files} | set(view.hot["type"].unique().to_pylist())

    async def page(
        self, given: Mapping[str, str], receive: Receive, client: Client
    ) -> tuple[RetrievalPage, dict[str, object] | None]:
        """Answer one page of JSON; returns the page, and the explanation if it is asked for.

        Raises:
            Problem: a parameter is wrong.
            Overloaded: too many retrievals wait.
            QueryStopped: it took longer than allowed, or the client went away.
        """
        order = parse_order(given)
        limit = parse_limit(given, maximum=self.limits.limit_max) or self.limits.limit_default
        explain = parse_flag(given, "explain")
        self._check_filter(given, client)

        def work(connection: QueryConnection, view: ReadView) -> tuple[RetrievalPage, dict[str, object] | None]:
            asked = parse_filter(given, lambda: self.known_types(view, given["logType"]), client.user_prefix)
            request = RetrievalRequest(asked, order, limit, given.get("cursor"))
            if request.cursor is not None:
                try:
                    decode_cursor(request.cursor, question_of(request))
                except InvalidInput as error:
                    raise bad_parameter("cursor", str(error)) from error
            page = retrieve_page(connection, view, request)
            self._engine.follow(view.snapshot.version, view.files)
            if not explain:
                return page, None
            return page, explain_retrieval(page.pruned, asked, hot_rows=view.hot.num_rows).as_json()

        with self._admitted() as connection:
            timeout = self._stop_after(connection)
            try:
                async with interrupted_on_disconnect(receive, connection.interrupt):
                    page, explanation = await self._threads.run(
                        lambda: answer_whole(self.store, lambda view: work(connection, view))
                    )
            finally:
                timeout.cancel()
        self._metrics.scanned_bytes.inc(page.statistics.scanned_bytes)
        self._metrics.scanned_files.inc(page.statistics.scanned_files)
        return page, explanation

    async def stream(self, given: Mapping[str, str], format_: Format, client: Client) -> tuple[RetrievalStream, Chunks]:
        """Begin to answer in a format that streams; returns what is planned, and the chunks.

        Raises:
            Problem: a parameter is wrong.
            Overloaded: too many retrievals wait.
            QueryStopped: the first rows took longer than allowed.
        """
        for name in ("cursor", "explain"):
            if name in given:
                raise bad_parameter(name, f"goes with pages of JSON, not with {format_}, which has no pages")
        order = parse_order(given)
        limit = parse_limit(given, maximum=_STREAM_LIMIT_MAX)
        csv_raw = parse_flag(given, "csvRaw")
        self._check_filter(given, client)

        def begin(connection: QueryConnection, view: ReadView) -> RetrievalStream:
            asked = parse_filter(given, lambda: self.known_types(view, given["logType"]), client.user_prefix)
            stream = stream_retrieval(connection, view, StreamRequest(asked, order, format_, limit, csv_raw))
            self._engine.follow(view.snapshot.version, view.files)
            return stream

        resources = contextlib.ExitStack()
        connection = resources.enter_context(self._admitted())
        timeout = self._stop_after(connection)
        try:
            stream = await self._threads.run(lambda: answer_whole(self.store, lambda view: begin(connection, view)))
        except BaseException:
            resources.close()
            raise
        finally:
            timeout.cancel()
        self._metrics.scanned_bytes.inc(stream.planned.scanned_bytes)
        self._metrics.scanned_files.inc(stream.planned.scanned_files)
        chunks = self._threads.chunks(stream.content, stop=connection.interrupt, release=resources.close)
        return stream, chunks

    def _check_filter(self, given: Mapping[str, str], client: Client) -> None:
        """Refuse wrong parameters before any waiting, so that a busy server tells so as well."""
        asked = parse_filter(given, lambda: {given["logType"].lower()})
        client.require_users([asked.user_id])

    @contextlib.contextmanager
    def _admitted(self) -> Iterator[QueryConnection]:
        """A connection for one retrieval, while there are not too many."""
        if self._under_way >= _UNDER_WAY_MAX:
            raise Overloaded("too many retrievals are under way", retry_after_s=1)
        self._under_way += 1
        try:
            with self._engine.connect() as connection:
                yield connection
        finally:
            self._under_way -= 1

    def _stop_after(self, connection: QueryConnection) -> asyncio.TimerHandle:
        loop = asyncio.get_running_loop()
        return loop.call_later(self.limits.timeout_ms_max / 1000, connection.interrupt)


@contextlib.asynccontextmanager
async def interrupted_on_disconnect(receive: Receive, interrupt: Callable[[], None]) -> AsyncIterator[None]:
    """Call *interrupt* when the client goes away within the block."""

    async def watch() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        interrupt()

    watcher = asyncio.create_task(watch())
    try:
        yield
    finally:
        watcher.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await watcher


def scan_headers(*, scanned_files: int, total_files: int, scanned_bytes: int, seconds: float) -> dict[str, str]:
    """The headers that say what an answer cost, or, if it streams, will cost at the most."""
    return {
        "Actionlake-Scanned-Files": str(scanned_files),
        "Actionlake-Total-Files": str(total_files),
        "Actionlake-Scanned-Bytes": str(scanned_bytes),
        "Server-Timing": f"total;dur={seconds * 1000:.1f}",
    }
