"""Dead letters in the journal's database: actions that were not kept, with the reason and their original text.

The functions here work inside a transaction that `storage.journal` has begun; they get its `execute`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from storage.submission import Rejection

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


def insert_dead_letters(
    execute: Callable[..., Any], letters: Sequence[tuple[Rejection, int | None]], now_us: int
) -> None:
    """Keep rejected actions; those that had a position in the journal at most once by it."""
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


def count_dead_letters(execute: Callable[..., Any]) -> int:
    """How many are kept."""
    return int(execute("SELECT count(*) FROM dead_letters").fetchone()[0])


def read_dead_letters(execute: Callable[..., Any], *, limit: int) -> list[dict[str, Any]]:
    """Read the newest, each as column name → value."""
    names = ", ".join(_COLUMNS)
    cursor = execute(f"SELECT {names} FROM dead_letters ORDER BY id DESC LIMIT ?", (limit,))  # noqa: S608
    return [dict(zip(_COLUMNS, row, strict=True)) for row in cursor]
