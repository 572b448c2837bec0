"""Trying rejects again: each is parsed anew under the present configuration, and what is right now is stored, once.

In ONE journal transaction the actions are appended and their rejects are marked as replayed, after it was looked up
there that they are still open: a crash leaves both or neither, and of two replays at once one finds nothing to do.
What is still wrong stays a reject, with the reason of this attempt.

A rejected action is parsed with the user and the session of its submission. A line that was no submission, and a row of
the journal that could not be flushed, are tried as a whole: when some of their actions are right they are replayed, and
the others become rejects of their own.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from storage.columns import action_text, payload_to_table
from storage.dead_letters import Execute, Mark, put_marks, read_rejects_state
from storage.erasure_records import Phase, pending_erasures
from storage.errors import CorruptData, Overloaded, RewriteConflict
from storage.journal import Journal
from storage.rejects import Place, Reject, RejectsFilter, RejectsPage, RejectsReader
from storage.submission import (
    InvalidSubmission,
    ParsedBody,
    Rejection,
    Submission,
    SubmissionParser,
    SubmissionTooLarge,
)

BATCH_REJECTS_MAX: Final = 200
BATCH_BYTES_MAX: Final = 8 * 1024 * 1024
_ATTEMPTS_MAX: Final = 20
_NOTHING: Final = ParsedBody((), ())
# Until an erasure is beyond these, rejects may hold its user: its own flush may put some aside in the last of them.
_REJECTS_MAY_BE_LEFT: Final = (Phase.RECORDED, Phase.REJECTS, Phase.FLUSHING)


@dataclass(frozen=True, slots=True)
class StillRejected:
    """A reject that is still wrong, and why, by the present configuration."""

    place: Place
    code: str
    message: str


@dataclass(frozen=True, slots=True)
class ReplayResult:
    """What one call did, or would do.

    Attributes:
        replayed: rejects that are right now and were stored by this call.
        actions: actions stored; a whole line may hold many.
        still_rejected: those that are still wrong, each with the reason of this attempt.
        next: where to go on, None when everything that was asked for was looked at.
    """

    replayed: int
    actions: int
    still_rejected: tuple[StillRejected, ...]
    next: Place | None


@dataclass(frozen=True, slots=True)
class DropResult:
    """How many rejects one call dropped, or would, and where to go on."""

    dropped: int
    next: Place | None


@dataclass(frozen=True, slots=True)
class Attempt:
    """What became of one reject: what it gives to the journal, or why it is still wrong."""

    reject: Reject
    parsed: ParsedBody
    failure: tuple[str, str] | None

    @property
    def key(self) -> tuple[str, int]:
        """The reject's name."""
        return self.reject.place.source, self.reject.place.id


def attempt(reject: Reject, parser: SubmissionParser, *, now_us: int) -> Attempt:
    """Parse one reject anew; pure."""
    try:
        parsed = _joined([parser.parse_json(body, now_us=now_us) for body in _bodies_of(reject, parser)])
    except SubmissionTooLarge as error:
        return Attempt(reject, _NOTHING, ("too_large", _named(error)))
    except InvalidSubmission as error:
        return Attempt(reject, _NOTHING, ("bad_envelope", _named(error)))
    except CorruptData as error:
        return Attempt(reject, _NOTHING, (reject.code, str(error)))
    if parsed.rejections and not parsed.accepted:
        first = parsed.rejections[0]
        where = f"actions[{first.index}]: " if _is_whole(reject) else ""
        return Attempt(reject, _NOTHING, (first.code, where + first.message))
    return Attempt(reject, parsed, None)


def _named(error: InvalidSubmission) -> str:
    return f"{error.parameter}: {error}" if error.parameter else str(error)


def _is_payload(reject: Reject) -> bool:
    """Whether the original is the payload of a journal row; a single action that no file took is kept as JSON."""
    return reject.position is not None and not reject.original.startswith(b"{")


def _is_whole(reject: Reject) -> bool:
    return reject.user_id is None or _is_payload(reject)


def _bodies_of(reject: Reject, parser: SubmissionParser) -> list[bytes]:
    """What to parse: one submission, or as many as a batch has users and sessions."""
    if _is_payload(reject):
        return _bodies_of_payload(reject, parser)
    if reject.user_id is None:
        return [reject.original]
    return [_body(reject.user_id, reject.session_id, [reject.original])]


def _bodies_of_payload(reject: Reject, parser: SubmissionParser) -> list[bytes]:
    """The actions of a journal row as they were sent, without those that an earlier commit took."""
    table = payload_to_table(
        reject.original, parser.schema, user_id=reject.user_id, session_id=reject.session_id
    ).slice(reject.action_index or 0)
    actions: dict[tuple[str, str | None], list[bytes]] = {}
    for row in table.to_pylist():
        actions.setdefault((row["user_id"], row["session_id"]), []).append(action_text(row))
    return [_body(user, session, texts) for (user, session), texts in actions.items()]


def _body(user_id: str, session_id: str | None, actions: Sequence[bytes]) -> bytes:
    user, session = json.dumps(user_id).encode(), json.dumps(session_id).encode()
    return b'{"userId":%b,"sessionId":%b,"actions":[%b]}' % (user, session, b",".join(actions))


def _joined(parts: Sequence[ParsedBody]) -> ParsedBody:
    return ParsedBody(
        tuple(one for part in parts for one in part.submissions),
        tuple(one for part in parts for one in part.rejections),
    )


class Decisions:
    """Replays and drops rejects of one store, a bounded number a call. Methods may be called from any thread."""

    def __init__(self, journal: Journal, reader: RejectsReader, *, now_us: Callable[[], int]) -> None:
        self._journal = journal
        self._reader = reader
        self._now_us = now_us

    def replay(
        self,
        wanted: RejectsFilter,
        parser: SubmissionParser,
        *,
        limit: int,
        after: Place | None = None,
        dry_run: bool = False,
    ) -> ReplayResult:
        """Try up to *limit* open rejects again, the oldest first, those strictly after *after*.

        Each transaction is durable by itself; after an error what was replayed so far stays so, and doing the same
        again goes on from there. With *dry_run* nothing is changed.

        Raises:
            DiskFull, Overloaded, StoreFailed, CorruptData: as `Journal.append` and `RejectsReader.page`.
        """
        # What this call itself rejects anew is not tried again by it.
        wanted = replace(wanted, state="open", through=self._reader.newest())
        replayed = actions = looked_at = 0
        still: list[StillRejected] = []
        conflicts = 0
        while True:
            page = self._page(wanted, after, limit - looked_at)
            now_us = self._now_us()
            attempts = [attempt(one, parser, now_us=now_us) for one in page.rejects]
            if dry_run:
                stored = [one for one in attempts if one.failure is None]
            else:
                try:
                    stored = self._commit(attempts, page, now_us)
                except RewriteConflict as conflict:
                    conflicts = self._counted(conflicts, conflict)
                    continue
            replayed += len(stored)
            actions += sum(one.parsed.accepted for one in stored)
            still += [StillRejected(one.reject.place, *one.failure) for one in attempts if one.failure is not None]
            looked_at += len(page.rejects)
            after = page.next
            if after is None or looked_at >= limit:
                return ReplayResult(replayed, actions, tuple(still), after)

    def drop(
        self, wanted: RejectsFilter, *, limit: int, after: Place | None = None, dry_run: bool = False
    ) -> DropResult:
        """Drop up to *limit* rejects for good, open or replayed, the oldest first; what a replay stored stays.

        Raises:
            DiskFull, Overloaded, StoreFailed, CorruptData: as `replay`.
        """
        wanted = replace(wanted, through=self._reader.newest())
        dropped = 0
        conflicts = 0
        while True:
            page = self._page(wanted, after, limit - dropped)
            if not dry_run and page.rejects:
                try:
                    self._mark_dropped(page)
                except RewriteConflict as conflict:
                    conflicts = self._counted(conflicts, conflict)
                    continue
            dropped += len(page.rejects)
            after = page.next
            if after is None or dropped >= limit:
                return DropResult(dropped, after)

    def _page(self, wanted: RejectsFilter, after: Place | None, limit: int) -> RejectsPage:
        return self._reader.page(
            wanted, descending=False, after=after, limit=min(limit, BATCH_REJECTS_MAX), bytes_max=BATCH_BYTES_MAX
        )

    @staticmethod
    def _counted(conflicts: int, conflict: RewriteConflict) -> int:
        if conflicts + 1 >= _ATTEMPTS_MAX:
            raise Overloaded("the rejects are rewritten all the time", retry_after_s=5) from conflict
        return conflicts + 1

    def _commit(self, attempts: Sequence[Attempt], page: RejectsPage, now_us: int) -> list[Attempt]:
        """Append what is right and mark it, in one transaction; return what this call has stored."""
        stored: list[Attempt] = []

        def decide(execute: Execute, first_position: int) -> tuple[list[Submission], list[Rejection]]:
            # The transaction may not be begun twice, but the list must be that of this one.
            stored.clear()
            submissions: list[Submission] = []
            rejections: list[Rejection] = []
            position = first_position
            for one in _still_open(execute, attempts, page):
                if one.failure is None:
                    stored.append(one)
                    submissions += one.parsed.submissions
                    rejections += one.parsed.rejections
                    at = position if one.parsed.accepted else None
                    put_marks(execute, [Mark(*one.key, "replayed", None, None, now_us, at)])
                    position += one.parsed.accepted
                elif one.failure != (one.reject.code, one.reject.message):
                    put_marks(execute, [Mark(*one.key, "open", *one.failure, now_us, None)])
            return submissions, rejections

        if attempts:
            self._journal.append_decided(decide, now_us)
        return stored

    def _mark_dropped(self, page: RejectsPage) -> None:
        now_us = self._now_us()

        def decide(execute: Execute, _: int) -> tuple[list[Submission], list[Rejection]]:
            _require_current(execute, page)
            put_marks(
                execute,
                [Mark(one.place.source, one.place.id, "dropped", None, None, now_us, None) for one in page.rejects],
            )
            return [], []

        self._journal.append_decided(decide, now_us)


def _require_current(execute: Execute, page: RejectsPage) -> None:
    """Raise RewriteConflict if marks were let go, or users erased, that the page does not know of."""
    if page.version < read_rejects_state(execute).version_min:
        raise RewriteConflict("the table of rejects was rewritten meanwhile")


def _still_open(execute: Execute, attempts: Sequence[Attempt], page: RejectsPage) -> list[Attempt]:
    """Those that nobody replayed, dropped or erased since the page was read.

    Raises:
        RewriteConflict: the page is too old to tell.
    """
    _require_current(execute, page)
    state = read_rejects_state(execute)
    leaving = {one.user_id for one in pending_erasures(execute) if one.phase in _REJECTS_MAY_BE_LEFT}
    found: list[Attempt] = []
    for one in attempts:
        source, id_ = one.key
        if source == state.source and page.watermark < id_ <= state.moved_through:
            raise RewriteConflict("dead letters were moved meanwhile")
        if any(submission.user_id in leaving for submission in one.parsed.submissions):
            # What is appended now would count as sent after the erasure.
            continue
        decided = execute(
            "SELECT 1 FROM reject_marks WHERE source = ? AND id = ? AND state != 'open'", (source, id_)
        ).fetchone()
        is_letter = source == state.source and id_ > state.moved_through
        gone = is_letter and execute("SELECT 1 FROM dead_letters WHERE id = ?", (id_,)).fetchone() is None
        if decided is None and not gone:
            found.append(one)
    return found
