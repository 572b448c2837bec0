"""Dead letters in the journal's database: actions that were not kept, with the reason and their original text.

They wait here, durable since the commit that refused them, until the table `rejects` has them (`rejects_flush`).
What is decided about one of them later, wherever it is by then, is a mark: `replayed`, `dropped`, or still `open` with
a new reason. A mark is written in the transaction of what it speaks of, and goes once the table says the same.

A letter that has a position was a row of the journal that could not be flushed. Until the lake's watermark has passed
that position the row may still be flushed by a later attempt, so that the letter is provisional: it is neither shown
nor moved nor replayed.

The functions here work inside a transaction that `storage.journal` has begun; they get its `execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Literal

from storage.submission import Rejection

Execute = Callable[..., Any]
RejectState = Literal["open", "replayed", "dropped"]

_COLUMNS: Final = (
    "id",
    "received_at_us",
    "user_id",
    "session_id",
    "action_index",
    "line",
    "code",
    "message",
    "original",
    "position",
)
_NAMES: Final = ", ".join(_COLUMNS)
# What a letter costs beyond its texts.
_LETTER_OVERHEAD_BYTES: Final = 128
# SQL: what letters take, counted alike whenever some come or go.
LETTER_BYTES: Final = (
    f"ifnull(sum(length(original) + length(CAST(message AS BLOB)) + ifnull(length(CAST(user_id AS BLOB)), 0)"
    f" + ifnull(length(CAST(session_id AS BLOB)), 0) + {_LETTER_OVERHEAD_BYTES}), 0)"
)
_STATE: Final = (
    "SELECT source, moved_through, durable_version, version_min, bytes, flush_requested_id,"
    " ifnull((SELECT max(id) FROM dead_letters), moved_through), (SELECT count(*) FROM reject_marks),"
    " (SELECT trimmed_position FROM journal) FROM rejects"
)


@dataclass(frozen=True, slots=True)
class RejectsState:
    """Where the dead letters stand: a consistent reading of one moment.

    Attributes:
        source: with a letter's id it names a reject for good; made anew when the letters were rolled back.
        moved_through: letters up to here are gone from the database, since the table has them durably.
        durable_version: the table's versions up to here are known to be synced to disk; -1 for none.
        version_min: readers must not use an older version of the table, since marks are gone that only later ones have.
        bytes: of the letters in the database.
        flush_requested_id: somebody waits until letters up to here are moved.
        head: the newest letter's id.
        marks: how many decisions the table does not have yet.
        trimmed_position: of the journal; letters of rows beyond it are provisional.
    """

    source: str
    moved_through: int
    durable_version: int
    version_min: int
    bytes: int
    flush_requested_id: int
    head: int
    marks: int
    trimmed_position: int


@dataclass(frozen=True, slots=True)
class Mark:
    """What was decided about one reject; it replaces what the reject itself says.

    Attributes:
        source, id: which reject.
        state: `replayed` and `dropped` are final; `open` tells a new reason.
        code, message: the new reason; None leaves what is there.
        at_us: when.
        position: of the first action that a replay put into the journal; None if there is none.
    """

    source: str
    id: int
    state: RejectState
    code: str | None
    message: str | None
    at_us: int
    position: int | None


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """A letter as it lies in the database."""

    id: int
    received_at_us: int
    user_id: str | None
    session_id: str | None
    action_index: int | None
    line: int | None
    code: str
    message: str
    original: bytes
    position: int | None


def read_rejects_state(execute: Execute) -> RejectsState:
    """Read where the letters stand."""
    return RejectsState(*execute(_STATE).fetchone())


def insert_dead_letters(execute: Execute, letters: Sequence[tuple[Rejection, int | None]], now_us: int) -> None:
    """Keep rejected actions; those that had a position in the journal at most once by it."""
    if not letters:
        return
    before = execute("SELECT ifnull(max(id), 0) FROM dead_letters").fetchone()[0]
    for letter, position in letters:
        execute(
            "INSERT INTO dead_letters (received_at_us, user_id, session_id, action_index, line, code,"
            " message, original, position) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (position) DO NOTHING",
            (
                now_us,
                letter.user_id,
                letter.session_id,
                letter.index,
                letter.line,
                letter.code,
                letter.message,
                letter.original,
                position,
            ),
        )
    execute(f"UPDATE rejects SET bytes = bytes + (SELECT {LETTER_BYTES} FROM dead_letters WHERE id > ?)", (before,))  # noqa: S608


def delete_letters(execute: Execute, where: str, parameters: Sequence[Any]) -> int:
    """Delete the letters for which the SQL condition *where* holds; return how many."""
    count, size = execute(f"SELECT count(*), {LETTER_BYTES} FROM dead_letters WHERE {where}", parameters).fetchone()  # noqa: S608
    if count:
        execute(f"DELETE FROM dead_letters WHERE {where}", parameters)  # noqa: S608
        execute("UPDATE rejects SET bytes = bytes - ?", (size,))
    return int(count)


def replace_original(execute: Execute, id_: int, original: bytes) -> None:
    """Keep *original* of a letter instead of what it held: the whole of what is left, from its beginning."""
    before = execute("SELECT length(original) FROM dead_letters WHERE id = ?", (id_,)).fetchone()[0]
    execute("UPDATE dead_letters SET original = ?, action_index = NULL WHERE id = ?", (original, id_))
    execute("UPDATE rejects SET bytes = bytes + ?", (len(original) - before,))


def replace_provisional(
    execute: Execute, letters: Sequence[tuple[Rejection, int]], *, watermark: int, now_us: int
) -> None:
    """Keep *letters*, rows above *watermark* that cannot be flushed, instead of those of earlier attempts."""
    delete_letters(execute, "position > ?", (watermark,))
    insert_dead_letters(execute, letters, now_us)


def has_provisional(execute: Execute, *, watermark: int) -> bool:
    """Tell whether an earlier attempt to flush left letters of rows above *watermark*."""
    return execute("SELECT 1 FROM dead_letters WHERE position > ? LIMIT 1", (watermark,)).fetchone() is not None


def count_dead_letters(execute: Execute) -> int:
    """How many are kept."""
    return int(execute("SELECT count(*) FROM dead_letters").fetchone()[0])


def read_dead_letters(execute: Execute, *, limit: int) -> list[dict[str, Any]]:
    """Read the newest, each as column name → value."""
    cursor = execute(f"SELECT {_NAMES} FROM dead_letters ORDER BY id DESC LIMIT ?", (limit,))  # noqa: S608
    return [dict(zip(_COLUMNS, row, strict=True)) for row in cursor]


def read_letters(execute: Execute, *, after: int, letters_max: int, bytes_max: int) -> list[DeadLetter]:
    """Read the oldest letters above *after* that may be moved, at least one, as many as fit both limits."""
    found: list[DeadLetter] = []
    size = 0
    trimmed = execute("SELECT trimmed_position FROM journal").fetchone()[0]
    for values in execute(
        f"SELECT {_NAMES} FROM dead_letters WHERE id > ? ORDER BY id LIMIT ?",  # noqa: S608
        (after, letters_max),
    ):
        letter = DeadLetter(*values)
        size += len(letter.original)
        provisional = letter.position is not None and letter.position > trimmed
        if provisional or (found and size > bytes_max):
            break
        found.append(letter)
    return found


def select_letters(execute: Execute, *, after: int, user_id: str | None, descending: bool) -> Iterator[DeadLetter]:
    """Yield the letters above *after* in order of receipt, but provisional ones; without their originals."""
    names = ", ".join("x''" if name == "original" else name for name in _COLUMNS)
    direction = "DESC" if descending else "ASC"
    rows = execute(
        f"SELECT {names} FROM dead_letters WHERE id > ?1 AND (?2 IS NULL OR user_id = ?2)"  # noqa: S608
        " AND ifnull(position <= (SELECT trimmed_position FROM journal), TRUE)"
        f" ORDER BY received_at_us {direction}, id {direction}",
        (after, user_id),
    )
    for values in rows:
        yield DeadLetter(*values)


def oldest_waiting_us(execute: Execute) -> int | None:
    """When the oldest letter or mark came that the table does not have yet, or None."""
    found: int | None = execute(
        "SELECT min(at_us) FROM (SELECT min(at_us) AS at_us FROM reject_marks UNION ALL"
        " SELECT received_at_us FROM (SELECT received_at_us FROM dead_letters ORDER BY id LIMIT 1))"
    ).fetchone()[0]
    return found


# Marks


def put_marks(execute: Execute, marks: Iterable[Mark]) -> None:
    """Write marks; a reject has one, its last."""
    for one in marks:
        execute(
            "INSERT OR REPLACE INTO reject_marks VALUES (?, ?, ?, ?, ?, ?, ?)",
            (one.source, one.id, one.state, one.code, one.message, one.at_us, one.position),
        )


def read_marks(execute: Execute, *, marks_max: int | None = None) -> list[Mark]:
    """Read the marks, or as many of them."""
    rows = execute(
        "SELECT source, id, state, code, message, at_us, position FROM reject_marks ORDER BY source, id LIMIT ?",
        (-1 if marks_max is None else marks_max,),
    )
    return [Mark(*row) for row in rows]


def forget_marks(execute: Execute, marks: Iterable[Mark]) -> None:
    """Delete *marks*, which the table has; one that was written anew since stays."""
    for one in marks:
        execute(
            "DELETE FROM reject_marks WHERE source = ? AND id = ? AND state = ? AND at_us = ?",
            (one.source, one.id, one.state, one.at_us),
        )


def has_final_marks(execute: Execute) -> bool:
    """Tell whether the table does not know yet of a replay, or of a drop, which may have taken a replay's place."""
    return execute("SELECT 1 FROM reject_marks WHERE state != 'open' LIMIT 1").fetchone() is not None
