"""GET /api/retrievelogs, as a plain ASGI application.

What the framework would add per request costs a good part of what one user's history takes, so this route is plain
ASGI; its entry in the OpenAPI document is written in `service.openapi_retrieval`.
"""

from __future__ import annotations

import logging
import time
from typing import Any, Final, cast

import msgspec
from litestar.types import HTTPScope, Receive, Send

from queries.formats import Format
from queries.retrieval import ScanStatistics
from service.access import send_problem
from service.clients import client_of
from service.problems import Problem, problem_of
from service.retrievals import PARAMETERS, Retrievals, parse_format, parse_query, scan_headers
from service.streams import PartsResponse, send_to_its_end
from storage.errors import CorruptData, StoreError

_JSON: Final = b"application/json"

_log = logging.getLogger("actionlake.retrieve")


class RetrieveEndpoint:
    """The ASGI application behind the route."""

    def __init__(self, retrievals: Retrievals) -> None:
        self._retrievals = retrievals

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer one page as JSON, or everything as a stream of another format."""
        started = time.perf_counter()
        try:
            _require_get(scope)
            given = parse_query(scope["query_string"], PARAMETERS)
            accept = b",".join(value for name, value in scope["headers"] if name == b"accept")
            wanted = parse_format(given, accept.decode("latin-1") or None)
            if wanted is Format.JSON:
                page, explanation = await self._retrievals.page(given, receive, client_of(scope))
            else:
                stream, chunks = await self._retrievals.stream(given, wanted, client_of(scope))
        except Exception as error:  # noqa: BLE001 - whatever it is, it is answered, and logged unless it was foreseen
            problem = problem_of(error)
            if isinstance(error, CorruptData):
                _log.error("a retrieval met damage: %s", error)
            elif problem.status >= 500 and not isinstance(error, StoreError | Problem):
                _log.error("a retrieval failed unexpectedly", exc_info=error)
            await send_problem(send, problem)
            return
        seconds = time.perf_counter() - started
        if wanted is not Format.JSON:
            headers = _headers_of(stream.planned, seconds=seconds)
            # Its chunks are no texts, which are all that the framework's types know of.
            answer = PartsResponse(
                iterator=cast("Any", chunks), media_type=wanted.media_type, headers=headers, status_code=200
            )
            timeout_s = self._retrievals.limits.stream_timeout_s
            await send_to_its_end(chunks, answer, scope, receive, send, timeout_s=timeout_s)
            return
        self._retrievals.observe(seconds)
        more = "" if explanation is None else f',"explain":{msgspec.json.encode(explanation).decode()}'
        following = msgspec.json.encode(page.next).decode()
        body = f'{{"logs":[{",".join(page.rows)}],"next":{following}{more}}}'.encode()
        headers = _headers_of(page.statistics, seconds=seconds)
        encoded = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        encoded += [(b"content-type", _JSON), (b"content-length", b"%d" % len(body))]
        await send({"type": "http.response.start", "status": 200, "headers": encoded})
        await send({"type": "http.response.body", "body": body, "more_body": False})


def _require_get(scope: HTTPScope) -> None:
    if scope["method"] != "GET":
        raise Problem(405, "actions are retrieved by GET", headers={"allow": "GET"})


def _headers_of(statistics: ScanStatistics, *, seconds: float) -> dict[str, str]:
    return scan_headers(
        scanned_files=statistics.scanned_files,
        total_files=statistics.total_files,
        scanned_bytes=statistics.scanned_bytes,
        seconds=seconds,
    )
