"""The rows of a journal: how they are put in, read and deleted, at positions that are dense and never used twice.

The functions here work inside a transaction that `storage.journal` has begun; they get its `execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

from storage.columns import JournalRow, row_checksum
from storage.submission import Submission

_TRIM_BYTES_PER_TRANSACTION: Final = 4 * 1024 * 1024
# What a submission costs beyond its payload and ids: its fixed columns and its place in the tree.
_ROW_OVERHEAD_BYTES: Final = 64
# One statement for many rows: each statement gives up the interpreter's lock and has to win it back.
INSERT_ROWS_MAX: Final = 128

# Has the rows that a connection inserts take their positions, and count among the bytes that are held. Rows that would
# begin elsewhere than at the next position are refused with their whole statement, which is therefore all that an
# append needs. Of one connection only, so that it is no part of the journal's format.
ON_INSERT: Final = f"""
CREATE TEMP TRIGGER take_positions AFTER INSERT ON main.submissions BEGIN
  SELECT RAISE(ABORT, 'the positions are taken') FROM journal WHERE next_position <> new.first_position;
  UPDATE journal SET next_position = new.last_position + 1, bytes = bytes + length(new.payload)
    + length(CAST(new.user_id AS BLOB)) + ifnull(length(CAST(new.session_id AS BLOB)), 0) + {_ROW_OVERHEAD_BYTES};
END
"""  # noqa: S608

_ROWS: Final = (
    "SELECT first_position, last_position, received_at_us, user_id, session_id, payload, checksum FROM submissions"
)


def insert_submissions(
    execute: Callable[..., Any], submissions: Sequence[Submission], now_us: int
) -> tuple[int, int] | None:
    """Insert rows at the next positions, with a connection that has `ON_INSERT`.

    Up to `INSERT_ROWS_MAX` rows are one statement, which does all there is to do.

    Returns:
        The last of these positions, and the bytes of all rows that are held now; None if there is nothing to insert.
    """
    if not submissions:
        return None
    size = sum(_row_bytes(s.user_id, s.session_id, s.payload) for s in submissions)
    position, held_bytes = execute("SELECT next_position, bytes FROM journal").fetchone()
    values: list[Any] = []
    for submission in submissions:
        last = position + submission.actions - 1
        user, session = submission.user_id, submission.session_id
        checksum = row_checksum(position, last, now_us, user, session)
        values += (position, last, now_us, user, session, submission.payload, checksum)
        position = last + 1
    for start in range(0, len(submissions), INSERT_ROWS_MAX):
        part = values[start * 7 : (start + INSERT_ROWS_MAX) * 7]
        places = ",".join(["(?,?,?,?,?,?,?)"] * (len(part) // 7))
        execute(f"INSERT INTO submissions VALUES {places}", part)  # noqa: S608
    return int(position) - 1, int(held_bytes) + size


def rows_above(execute: Callable[..., Any], after: int, through: int) -> Iterator[JournalRow]:
    """Yield the rows that hold positions above *after* and begin up to *through*."""
    # The row that holds position `after` + 1 may begin before it; positions are dense, so the row with the
    # largest first position up to there is where to begin.
    start = execute("SELECT max(first_position) FROM submissions WHERE first_position <= ?", (after + 1,)).fetchone()[0]
    for values in execute(
        f"{_ROWS} WHERE first_position >= ? AND first_position <= ? AND last_position > ? ORDER BY first_position",
        (start if start is not None else 0, through, after),
    ):
        yield JournalRow(*values)


def missing_from(rows: Sequence[JournalRow], *, after: int, through: int) -> int | None:
    """Where the positions above *after* up to *through* begin that *rows* do not hold, None if they hold all."""
    for row in rows:
        if row.first_position > after + 1:
            break
        after = max(after, row.last_position)
    return after + 1 if after < through else None


def trim_step(execute: Callable[..., Any], through: int, *, durable_version: int) -> tuple[int, int, bool]:
    """Delete the oldest rows up to *through*, a few megabytes of them.

    Returns:
        The bytes of these rows, the bytes of all rows that are held now, and whether all up to *through* are gone.
    """
    step, done = _next_trim(execute, through)
    size = execute(
        "SELECT total(length(payload) + length(CAST(user_id AS BLOB))"
        " + ifnull(length(CAST(session_id AS BLOB)), 0) + ?)"
        " FROM submissions WHERE first_position <= ? AND last_position <= ?",
        (_ROW_OVERHEAD_BYTES, step, step),
    ).fetchone()[0]
    execute("DELETE FROM submissions WHERE first_position <= ? AND last_position <= ?", (step, step))
    held_bytes = execute(
        "UPDATE journal SET trimmed_position = max(trimmed_position, ?), bytes = bytes - ?,"
        " durable_version = max(durable_version, ?) RETURNING bytes",
        (step, int(size), durable_version),
    ).fetchone()[0]
    return int(size), held_bytes, done


def _next_trim(execute: Callable[..., Any], through: int) -> tuple[int, bool]:
    """Return up to where one transaction trims, and whether that is all.

    One statement with one row: every row that is fetched gives up the interpreter's lock and has to win it back.
    """
    last = execute(
        "SELECT min(last_position) FROM (SELECT last_position, sum(length(payload)) OVER (ORDER BY first_position)"
        " AS held FROM submissions WHERE first_position <= ?) WHERE held > ? AND last_position < ?",
        (through, _TRIM_BYTES_PER_TRANSACTION, through),
    ).fetchone()[0]
    return (through, True) if last is None else (last, False)


def _row_bytes(user_id: str, session_id: str | None, payload: bytes) -> int:
    session_bytes = len(session_id.encode()) if session_id is not None else 0
    return len(payload) + len(user_id.encode()) + session_bytes + _ROW_OVERHEAD_BYTES
