"""/api/rejectedlogs: what was not kept, and what is done about it: replayed, or dropped."""

from __future__ import annotations

import asyncio
import datetime
import re
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Final

import msgspec
from litestar import Request, Response, get, post
from litestar.params import Parameter

from queries.paging import decode_cursor, encode_cursor, fingerprint
from service.clients import client_of, needs
from service.metrics import Metrics
from service.problems import Problem, bad_parameter
from service.retrievals import parse_limit, parse_query
from service.sql import read_json_body
from storage.errors import InvalidInput
from storage.rejects import Place, Reject, RejectsFilter, RejectsPage
from storage.rejects_files import encode_original
from storage.replay import DropResult, ReplayResult
from storage.store import Store
from storage.submission import SubmissionParser
from storage.times import parse_time

LIMIT_DEFAULT: Final = 100
LIMIT_MAX: Final = 1_000
DECISIONS_DEFAULT: Final = 1_000
DECISIONS_MAX: Final = 10_000
STATES: Final = ("open", "replayed")
_PAGE_BYTES_MAX: Final = 8 * 1024 * 1024
_BODY_BYTES_MAX: Final = 2 * 1024 * 1024
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_FORGOTTEN_PLUS: Final = re.compile(r" (\d\d:\d\d)$")
_ID: Final = re.compile(r"([0-9a-f]{32}):([0-9]{1,18})")
_PARAMETERS: Final = ("id", "userId", "code", "fromTime", "toTime", "state", "order", "limit", "cursor")


class Selection(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """Which rejects are meant: by their ids, or by all criteria together, or, said explicitly, all of them."""

    ids: Annotated[list[str], msgspec.Meta(min_length=1, max_length=DECISIONS_MAX)] | None = None
    user_id: str | None = None
    code: str | None = None
    from_time: str | None = None
    to_time: str | None = None
    state: str | None = None
    all: bool = False
    limit: Annotated[int, msgspec.Meta(ge=1, le=DECISIONS_MAX)] = DECISIONS_DEFAULT
    cursor: str | None = None
    dry_run: bool = False


_decode_selection: Final = msgspec.json.Decoder(Selection).decode


def id_of(place: Place) -> str:
    """The name of a reject, as clients see it."""
    return f"{place.source}:{place.id}"


def filter_of(
    *, user_id: str | None, code: str | None, from_time: str | None, to_time: str | None, state: str | None
) -> RejectsFilter:
    """Read the criteria of a request.

    Raises:
        Problem: 400, naming the one at fault.
    """
    if user_id == "":
        raise bad_parameter("userId", "must not be empty")
    if state is not None and state not in STATES:
        raise bad_parameter("state", f"must be one of {', '.join(STATES)}")
    bounds: list[int | None] = []
    for name, text in (("fromTime", from_time), ("toTime", to_time)):
        try:
            bounds.append(None if text is None else parse_time(_FORGOTTEN_PLUS.sub(r"+\1", text))[0])
        except ValueError as error:
            raise bad_parameter(name, str(error)) from error
    low, high = bounds
    if low is not None and high is not None and low > high:
        raise bad_parameter("fromTime", "is after toTime")
    return RejectsFilter(user_id=user_id, code=code, from_us=low, to_us=high, state=state)


def wanted_by(selection: Selection) -> RejectsFilter:
    """Read a selection.

    Raises:
        Problem: 400; nothing is selected, an id is none, or a criterion is wrong.
    """
    criteria = (selection.user_id, selection.code, selection.from_time, selection.to_time, selection.state)
    wanted = filter_of(
        user_id=selection.user_id,
        code=selection.code,
        from_time=selection.from_time,
        to_time=selection.to_time,
        state=selection.state,
    )
    given = any(one is not None for one in criteria)
    if selection.all and (given or selection.ids is not None):
        raise bad_parameter("all", "cannot be combined with ids or criteria")
    if not selection.all and not given and selection.ids is None:
        raise bad_parameter("all", "give ids, or criteria (userId, code, fromTime, toTime, state), or all: true")
    if selection.ids is None:
        return wanted
    return replace(wanted, ids=frozenset(_named(one, "ids") for one in selection.ids))


def _named(text: str, parameter: str) -> tuple[str, int]:
    found = _ID.fullmatch(text)
    if found is None:
        raise bad_parameter(parameter, f"{text!r} is not the id of a rejected log")
    return found.group(1), int(found.group(2))


def cursor_of(place: Place | None, question: bytes) -> str | None:
    """Write a place as the cursor of a question."""
    return None if place is None else encode_cursor(question, place.received_at_us, place.source, place.id)


def place_of(cursor: str | None, question: bytes) -> Place | None:
    """Read a cursor that was given out for the same question.

    Raises:
        Problem: 400; it is none, or belongs to another question.
    """
    if cursor is None:
        return None
    try:
        found = decode_cursor(cursor, question)
    except InvalidInput as error:
        raise bad_parameter("cursor", str(error)) from error
    return Place(found.time_us, found.journal, found.position)


def question_of(wanted: RejectsFilter, purpose: str) -> bytes:
    """Identify what is asked, so that a cursor is not used with another question."""
    ids = None if wanted.ids is None else sorted(wanted.ids)
    return fingerprint(
        purpose, wanted.user_id, wanted.code, wanted.from_us, wanted.to_us, wanted.state, ids, wanted.user_prefix
    )


def reject_fields(reject: Reject) -> dict[str, Any]:
    """A reject as JSON: its exact text, or Base64 of it where it is no UTF-8."""
    original, encoding = encode_original(reject.original)
    return {
        "id": id_of(reject.place),
        "receivedAt": _time_text(reject.place.received_at_us),
        "userId": reject.user_id,
        "sessionId": reject.session_id,
        "line": reject.line,
        "index": reject.action_index,
        "code": reject.code,
        "message": reject.message,
        "original": original,
        "originalEncoding": encoding,
        "position": reject.position,
        "state": reject.state,
        "stateAt": None if reject.state_at_us is None else _time_text(reject.state_at_us),
        "replayedPosition": reject.replayed_position,
    }


def replay_fields(result: ReplayResult, question: bytes) -> dict[str, Any]:
    """What a replay did, as JSON."""
    return {
        "replayed": result.replayed,
        "actions": result.actions,
        "stillRejected": len(result.still_rejected),
        "reasons": [
            {"id": id_of(one.place), "code": one.code, "message": one.message} for one in result.still_rejected
        ],
        "next": cursor_of(result.next, question),
    }


def drop_fields(result: DropResult, question: bytes) -> dict[str, Any]:
    """What a drop did, as JSON."""
    return {"dropped": result.dropped, "next": cursor_of(result.next, question)}


def _time_text(time_us: int) -> str:
    return (_EPOCH + datetime.timedelta(microseconds=time_us)).isoformat(timespec="microseconds").replace("+00:00", "Z")


def page_of(store: Store, given: Mapping[str, str], *, user_prefix: str | None = None) -> dict[str, Any]:
    """Answer one request for a page.

    Args:
        store: where the rejects are.
        given: the parameters.
        user_prefix: the client may see these users only, and no line that names none.

    Raises:
        Problem: 400, naming the parameter at fault.
    """
    wanted = filter_of(
        user_id=given.get("userId"),
        code=given.get("code"),
        from_time=given.get("fromTime"),
        to_time=given.get("toTime"),
        state=given.get("state"),
    )
    wanted = replace(wanted, user_prefix=user_prefix)
    if "id" in given:
        wanted = replace(wanted, ids=frozenset({_named(given["id"], "id")}))
    order = given.get("order", "desc").lower()
    if order not in ("asc", "desc"):
        raise bad_parameter("order", "must be asc or desc")
    question = question_of(wanted, order)
    page: RejectsPage = store.rejects.page(
        wanted,
        descending=order == "desc",
        after=place_of(given.get("cursor"), question),
        limit=parse_limit(given, maximum=LIMIT_MAX) or LIMIT_DEFAULT,
        bytes_max=_PAGE_BYTES_MAX,
    )
    return {"rejected": [reject_fields(one) for one in page.rejects], "next": cursor_of(page.next, question)}


@get("/api/rejectedlogs", summary="What was not kept, newest first", tags=["rejects"], opt=needs("retrieve"))
async def rejected_logs(
    request: Request[Any, Any, Any],
    id_: Annotated[str | None, Parameter(query="id", description="the one of this id")] = None,
    user_id: Annotated[str | None, Parameter(query="userId", description="of the submission")] = None,
    code: Annotated[str | None, Parameter(description="why it was not kept: unknown_type, bad_time, …")] = None,
    from_time: Annotated[str | None, Parameter(query="fromTime", description="received then or later")] = None,
    to_time: Annotated[str | None, Parameter(query="toTime", description="received then or earlier")] = None,
    state_: Annotated[str | None, Parameter(query="state", description="open or replayed")] = None,
    order: Annotated[str | None, Parameter(description="asc or desc (default), by time of receipt")] = None,
    limit: Annotated[str | None, Parameter(description=f"1 to {LIMIT_MAX}, default {LIMIT_DEFAULT}")] = None,
    cursor: Annotated[str | None, Parameter(description="`next` of the page before")] = None,
) -> Response[dict[str, Any]]:
    """One page; a page of large originals ends early, and `next` goes on from there."""
    # Declared for the OpenAPI document; read from the query string, so that each wrong one is named.
    del id_, user_id, code, from_time, to_time, state_, order, limit, cursor
    given = parse_query(request.scope["query_string"], _PARAMETERS)
    store: Store = request.app.state.store
    user_prefix = client_of(request.scope).user_prefix
    return Response(await asyncio.to_thread(lambda: page_of(store, given, user_prefix=user_prefix)))


@post(
    "/api/rejectedlogs/replay",
    status_code=200,
    summary="Try rejected logs again",
    tags=["rejects"],
    opt=needs("admin"),
)
async def replay_rejected_logs(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """Parse them anew under the present configuration, and store, once, what is right now."""
    selection = await _selection(request)
    wanted = wanted_by(selection)
    question = question_of(wanted, "replay")
    after = place_of(selection.cursor, question)
    store: Store = request.app.state.store
    parser: SubmissionParser = request.app.state.parser()
    metrics: Metrics = request.app.state.metrics

    def replay() -> ReplayResult:
        store.check_writable()
        return store.decisions().replay(wanted, parser, limit=selection.limit, after=after, dry_run=selection.dry_run)

    result = await asyncio.to_thread(replay)
    if not selection.dry_run:
        metrics.replayed.inc(result.replayed)
        metrics.accepted.inc(result.actions)
    return Response(replay_fields(result, question))


@post(
    "/api/rejectedlogs/drop",
    status_code=200,
    summary="Drop rejected logs for good",
    tags=["rejects"],
    opt=needs("admin"),
)
async def drop_rejected_logs(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """Open ones and replayed ones; what a replay has stored stays."""
    selection = await _selection(request)
    wanted = wanted_by(selection)
    question = question_of(wanted, "drop")
    after = place_of(selection.cursor, question)
    store: Store = request.app.state.store

    def drop() -> DropResult:
        return store.decisions().drop(wanted, limit=selection.limit, after=after, dry_run=selection.dry_run)

    return Response(drop_fields(await asyncio.to_thread(drop), question))


async def _selection(request: Request[Any, Any, Any]) -> Selection:
    body = await read_json_body(request, bytes_max=_BODY_BYTES_MAX)
    try:
        return _decode_selection(body)
    except msgspec.ValidationError as error:
        text, _, place = str(error).partition(" - at `$")
        raise bad_parameter(place.strip(".`") or "all", text) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from error
