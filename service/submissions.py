"""POST /api/submitlogs, as a plain ASGI application: the hot path of the service.

The request's body is read within its bound, decompressed, parsed, handed to the group commit, and answered when the
fsync that covers it has finished. What the framework would add per request costs as much as all of that together, so
this route is plain ASGI; its entry in the OpenAPI document is written in `service.openapi`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import msgspec
from litestar.types import HTTPScope, Receive, Send

from service.access import send_problem
from service.admission import Admission, AdmissionLimits, Passage
from service.clients import Client, client_of
from service.decompression import decompress
from service.metrics import Metrics
from service.problems import Problem, bad_parameter, problem_of
from storage.arrow_batches import ArrowParser
from storage.errors import StoreError
from storage.group_commit import GroupCommitter
from storage.journal_records import Append, IdempotencyKey
from storage.store import Store
from storage.submission import InvalidSubmission, ParsedBody, SubmissionParser
from storage.submission_groups import GroupParser

JSON: Final = "application/json"
NDJSON: Final = "application/x-ndjson"
ARROW: Final = "application/vnd.apache.arrow.stream"
MEDIA_TYPES: Final = (JSON, NDJSON, ARROW)
IDEMPOTENCY_KEY_CHARACTERS_MAX: Final = 255

# How much the event loop parses at a time, in one body or in several, before it looks at what else there is.
_PARSE_AT_ONCE_BYTES: Final = 256 * 1024
# Larger bodies gain nothing by company: what is spent on each is spread over many actions already.
_WITH_OTHERS_BYTES_MAX: Final = 16 * 1024

_log = logging.getLogger("actionlake.submit")


class ClientDisconnected(Exception):
    """The client went away before its body was complete; there is nobody to answer."""


def _all_accepted(actions: int) -> bytes:
    return b'{"status":"submitted","accepted":%d,"rejected":[]}' % actions


def answer_of(parsed: ParsedBody) -> bytes:
    """The JSON text that a submission is answered with."""
    if not parsed.rejections:
        return _all_accepted(parsed.accepted)
    rejected: list[dict[str, Any]] = []
    for one in parsed.rejections:
        entry: dict[str, Any] = {"index": one.index, "code": one.code, "message": one.message}
        if one.line is not None:
            entry["line"] = one.line
        rejected.append(entry)
    return msgspec.json.encode({"status": "submitted", "accepted": parsed.accepted, "rejected": rejected})


class _Waiting:
    """A body that came with others, and what its request waits for.

    Attributes:
        accepted: how many actions it has, if it is in a group.
        parsed: what it is, if it was parsed alone.
        size: what it takes in the journal.
    """

    __slots__ = ("accepted", "body", "future", "parsed", "passage", "size")

    def __init__(self, body: bytes, future: asyncio.Future[bytes], passage: Passage) -> None:
        self.body = body
        self.future = future
        self.passage = passage
        self.accepted = 0
        self.parsed: ParsedBody | None = None
        self.size = 0


class _Together(list[_Waiting]):
    """Who waits for one append.

    Attributes:
        is_group: whether their bodies were parsed as one.
    """

    is_group = False


class SubmitEndpoint:
    """The ASGI application behind the route."""

    def __init__(
        self,
        store: Store,
        parser: SubmissionParser,
        arrow_parser: ArrowParser,
        metrics: Metrics,
        *,
        admission: Admission,
        now_us: Callable[[], int],
    ) -> None:
        self._admission = admission
        self._parser = parser
        self._group_parser = GroupParser(parser)
        self._arrow_parser = arrow_parser
        self._metrics = metrics
        self._kept = metrics.submissions.labels("200")
        self._now_us = now_us
        self._loop = asyncio.get_running_loop()
        self._bodies: list[_Waiting] = []
        self._bodies_size = 0
        # Appends of bodies that were parsed together and whose commit is not over.
        self._groups_under_way = 0
        self._gathering = False
        self._committer = GroupCommitter(
            store.journal,
            now_us=now_us,
            deliver=self._deliver,
            pending_bytes_max=admission.limits.pending_bytes_max,
            on_commit=self._observe_commit,
            pause_s=store.pause_s,
        )

    @property
    def parser(self) -> SubmissionParser:
        """What judges the requests that come now."""
        return self._parser

    def use(self, parser: SubmissionParser, arrow_parser: ArrowParser, limits: AdmissionLimits) -> None:
        """Judge the requests that come from now on by these; those under way end with what they began with."""
        self._parser = parser
        self._group_parser = GroupParser(parser)
        self._arrow_parser = arrow_parser
        self._admission.limits = limits
        self._committer.pending_bytes_max = limits.pending_bytes_max

    def close(self) -> None:
        """Commit what waits, and refuse what comes later."""
        self._committer.close()

    async def __call__(self, scope: HTTPScope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        try:
            answer = await self._submit(scope, receive)
        except ClientDisconnected:
            return
        except (Problem, StoreError) as error:
            await self._refuse(send, problem_of(error))
            return
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged and answered
            _log.exception("a submission failed unexpectedly")
            await self._refuse(send, problem_of(error))
            return
        headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(answer))]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": answer, "more_body": False})

    async def _refuse(self, send: Send, problem: Problem) -> None:
        self._metrics.submissions.labels(str(problem.status)).inc()
        await send_problem(send, problem)

    async def _submit(self, scope: HTTPScope, receive: Receive) -> bytes:
        if scope["method"] != "POST":
            raise Problem(405, "submissions are sent by POST", headers={"allow": "POST"})
        headers = dict(scope["headers"])
        media_type = headers.get(b"content-type", b"").split(b";")[0].strip().lower().decode("latin-1")
        if media_type not in MEDIA_TYPES:
            known = ", ".join(MEDIA_TYPES)
            raise Problem(415, f"Content-Type must be one of {known}", headers={"accept": known})
        key_text = _idempotency_key(headers)
        client = client_of(scope)
        parser = self._arrow_parser if media_type == ARROW else self._parser
        passage = self._admission.begin(client.name, _announced(headers, parser.body_bytes_max))
        try:
            return await self._keep(receive, headers, media_type, key_text, client, parser, passage)
        finally:
            passage.end()

    async def _keep(
        self,
        receive: Receive,
        headers: dict[bytes, bytes],
        media_type: str,
        key_text: str | None,
        client: Client,
        parser: SubmissionParser | ArrowParser,
        passage: Passage,
    ) -> bytes:
        body = await _read_body(receive, passage, bytes_max=parser.body_bytes_max)
        encoding = headers.get(b"content-encoding", b"identity").strip().lower().decode("latin-1")
        alike = media_type == JSON and encoding in ("identity", "") and key_text is None and client.user_prefix is None
        if alike and len(body) <= _WITH_OTHERS_BYTES_MAX:
            return await self._keep_with_others(body, passage)
        if len(body) > _PARSE_AT_ONCE_BYTES or encoding not in ("identity", ""):
            parsed, key = await asyncio.to_thread(self._parse, parser, body, encoding, media_type, key_text, client)
        else:
            parsed, key = self._parse(parser, body, encoding, media_type, key_text, client)
        append = Append(parsed.submissions, parsed.rejections, answer_of(parsed), key)
        if not append.submissions and not append.rejections and key is None:
            self._kept.inc()
            return append.answer
        size = append.size_bytes
        # What was compressed is larger by now.
        passage.count(size)
        future: asyncio.Future[bytes] = self._loop.create_future()
        self._committer.gather(future, append)
        self._hand_over_soon()
        answer = await future
        self._kept.inc()
        if answer is append.answer:
            passage.kept(size)
            self._count(parsed)
        return answer

    def _parse(
        self,
        parser: SubmissionParser | ArrowParser,
        body: bytes,
        encoding: str,
        media_type: str,
        key_text: str | None,
        client: Client,
    ) -> tuple[ParsedBody, IdempotencyKey | None]:
        if encoding not in ("identity", ""):
            body = decompress(body, encoding, bytes_max=parser.body_bytes_max)
        if isinstance(parser, ArrowParser):
            check_users = None if client.user_prefix is None else client.require_users
            parsed = parser.parse(body, now_us=self._now_us(), check_users=check_users)
        else:
            parse = parser.parse_json if media_type == JSON else parser.parse_ndjson
            parsed = parse(body, now_us=self._now_us())
            if client.user_prefix is not None:
                client.require_users(one.user_id for one in parsed.submissions)
                client.require_users(one.user_id for one in parsed.rejections)
        if key_text is None:
            return parsed, None
        return parsed, IdempotencyKey.of(key_text, body, scope=client.key_id or "")

    async def _keep_with_others(self, body: bytes, passage: Passage) -> bytes:
        """Keep a plain body, together with the others that have come at the same moment."""
        waiting = _Waiting(body, self._loop.create_future(), passage)
        self._bodies.append(waiting)
        self._bodies_size += len(body)
        self._hand_over_soon()
        answer = await waiting.future
        passage.kept(waiting.size)
        if waiting.parsed is not None:
            self._kept.inc()
            self._count(waiting.parsed)
        return answer

    def _hand_over_soon(self) -> None:
        """Have everything handed over after the other requests that have come with this one."""
        if not self._gathering:
            self._gathering = True
            self._loop.call_soon(self._hand_over)

    def _hand_over(self) -> None:
        self._gathering = False
        if self._bodies and (not self._groups_under_way or self._bodies_size >= _PARSE_AT_ONCE_BYTES):
            self._parse_some()
        # Others wait for the end of a commit, whose next one they will share either way: until then more come, and
        # parsing costs the less for each the more there are.
        self._committer.hand_over()

    def _parse_some(self) -> None:
        """Parse as many of the bodies that wait as the event loop can be without, and give them to the next commit."""
        taken = size = 0
        for waiting in self._bodies:
            if taken and size + len(waiting.body) > _PARSE_AT_ONCE_BYTES:
                # The rest after what else the event loop has to do.
                self._hand_over_soon()
                break
            taken += 1
            size += len(waiting.body)
        self._bodies_size -= size
        together, self._bodies = self._bodies[:taken], self._bodies[taken:]
        try:
            self._gather_together(together)
        except Exception as error:  # noqa: BLE001 - whatever it is, those who wait must hear of it
            for waiting in together:
                if not waiting.future.done():
                    waiting.future.set_exception(error)

    def _gather_together(self, together: list[_Waiting]) -> None:
        """Parse bodies, those that are right all at once, and give them to the next commit."""
        group = self._group_parser.parse([waiting.body for waiting in together], now_us=self._now_us())
        grouped = {} if group is None else group.actions
        if group is not None:
            members = _Together(together[place] for place in grouped)
            members.is_group = True
            append = Append((group.submission,), (), b"", requests=len(members))
            for waiting, actions in zip(members, grouped.values(), strict=True):
                waiting.accepted = actions
                waiting.size = append.size_bytes * actions // group.submission.actions
                waiting.passage.count(waiting.size)
            self._gather(members, append)
        for place, waiting in enumerate(together):
            if place not in grouped:
                self._gather_alone(waiting)

    def _gather_alone(self, waiting: _Waiting) -> None:
        try:
            parsed = self._parser.parse_json(waiting.body, now_us=self._now_us())
        except InvalidSubmission as error:
            waiting.future.set_exception(error)
            return
        waiting.parsed = parsed
        append = Append(parsed.submissions, parsed.rejections, answer_of(parsed))
        if not append.submissions and not append.rejections:
            waiting.future.set_result(append.answer)
            return
        waiting.size = append.size_bytes
        waiting.passage.count(waiting.size)
        self._gather(_Together([waiting]), append)

    def _gather(self, together: _Together, append: Append) -> None:
        try:
            self._committer.gather(together, append)
        except StoreError as error:
            for waiting in together:
                waiting.future.set_exception(error)
        else:
            self._groups_under_way += together.is_group

    def _count(self, parsed: ParsedBody) -> None:
        metrics = self._metrics
        metrics.submitted.inc(parsed.accepted + len(parsed.rejections))
        metrics.accepted.inc(parsed.accepted)
        for rejection in parsed.rejections:
            metrics.rejected.labels(rejection.code).inc()

    def _observe_commit(self, requests: int, seconds: float) -> None:
        self._metrics.commit_requests.inc(requests)
        self._metrics.commit_seconds.observe(seconds)

    def _deliver(self, outcomes: list[tuple[Any, bytes | StoreError]]) -> None:
        self._loop.call_soon_threadsafe(self._tell, outcomes)

    def _tell(self, outcomes: list[tuple[_Together | asyncio.Future[bytes], bytes | StoreError]]) -> None:
        for token, outcome in outcomes:
            if isinstance(token, _Together) and token.is_group:
                self._groups_under_way -= 1
                if isinstance(outcome, bytes):
                    self._count_group(token)
        _resolve(outcomes)
        if self._bodies:
            self._hand_over_soon()

    def _count_group(self, group: Sequence[_Waiting]) -> None:
        """Count what is kept, before anybody is told of it; at once, since a count costs as much as parsing 20 actions.

        Who has gone meanwhile gets no answer, though the actions are kept.
        """
        if group:
            self._kept.inc(sum(not waiting.future.cancelled() for waiting in group))
            accepted = sum(waiting.accepted for waiting in group)
            self._metrics.submitted.inc(accepted)
            self._metrics.accepted.inc(accepted)


def _announced(headers: dict[bytes, bytes], bytes_max: int) -> int:
    """The size that the request says its body has; 0 where it says none."""
    length = headers.get(b"content-length", b"")
    if not length.isdigit():
        return 0
    if int(length) > bytes_max:
        raise Problem(413, f"the body is larger than {bytes_max} bytes")
    return int(length)


async def _read_body(receive: Receive, passage: Passage, *, bytes_max: int) -> bytes:
    message = await receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        body: bytes = message.get("body", b"")
        if len(body) > bytes_max:
            raise Problem(413, f"the body is larger than {bytes_max} bytes")
        return body
    parts: list[bytes] = []
    size = 0
    while True:
        if message["type"] == "http.disconnect":
            raise ClientDisconnected
        part: bytes = message.get("body", b"")  # type: ignore[assignment]  # narrowed above, which mypy cannot see
        size += len(part)
        if size > bytes_max:
            raise Problem(413, f"the body is larger than {bytes_max} bytes")
        if unannounced := passage.unannounced(size):
            passage.grow(unannounced)
        parts.append(part)
        if not message.get("more_body", False):
            return b"".join(parts)
        message = await receive()


def _resolve(outcomes: Iterable[tuple[_Together | asyncio.Future[bytes], bytes | StoreError]]) -> None:
    for token, outcome in outcomes:
        if not isinstance(token, _Together):
            _resolve_one(token, outcome)
            continue
        for waiting in token:
            in_group = waiting.parsed is None and isinstance(outcome, bytes)
            _resolve_one(waiting.future, _all_accepted(waiting.accepted) if in_group else outcome)


def _resolve_one(future: asyncio.Future[bytes], outcome: bytes | StoreError) -> None:
    # Cancelled, or answered with an error that had to do with others of its group: nobody waits for it any more.
    if future.done():
        return
    if isinstance(outcome, bytes):
        future.set_result(outcome)
    else:
        future.set_exception(outcome)


def _idempotency_key(headers: dict[bytes, bytes]) -> str | None:
    raw = headers.get(b"idempotency-key")
    if raw is None:
        return None
    text = raw.decode("latin-1").strip()
    if not 0 < len(text) <= IDEMPOTENCY_KEY_CHARACTERS_MAX or not text.isascii() or not text.isprintable():
        message = f"must be 1 to {IDEMPOTENCY_KEY_CHARACTERS_MAX} printable ASCII characters"
        raise bad_parameter("Idempotency-Key", message)
    return text
