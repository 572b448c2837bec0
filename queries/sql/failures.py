"""What DuckDB's errors mean to a user: wrong SQL, a limit, a file that cannot be read, or a fault of the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

import duckdb

from queries.sql.errors import SqlError
from queries.sql.guard import character_offset
from queries.sql.messages import Failed

_WRONG_SQL: Final = frozenset(
    {
        "Binder",
        "Catalog",
        "Constraint",
        "Conversion",
        "Decimal",
        "Divide by Zero",
        "Expression",
        "Invalid",
        "Invalid Input",
        "Invalid type",
        "Mismatch Type",
        "Missing Extension",
        "Not implemented",
        "Object Size",
        "Out of Range",
        "Parameter Not Allowed",
        "Parameter Not Resolved",
        "Parser",
        "Permission",
        "Planner",
        "Syntax",
        "Unknown Type",
    }
)
_COUNTS_CHARACTERS: Final = frozenset({"Parser", "Syntax"})


class Interrupted(Exception):
    """The query was stopped from outside."""


class ResultTooLarge(Exception):
    """The answer is larger than it may be.

    Attributes:
        limit: the limit's name.
    """

    def __init__(self, limit: str) -> None:
        super().__init__(limit)
        self.limit = limit


def failure(error: Exception, *, text: str, prefix: str, offset_bytes: int, hide: Callable[[str], str]) -> Failed:
    """Turn an exception of a query into the message about it.

    Args:
        error: as raised by DuckDB, by pyarrow while it streamed from DuckDB, or by the engine itself.
        text: what the user sent.
        prefix: what was put before the user's statement.
        offset_bytes: where that statement begins in *text*.
        hide: takes machine paths out of a message.
    """
    if isinstance(error, SqlError):
        return Failed("sql", hide(error.message), error.position, error.suggestion)
    if isinstance(error, ResultTooLarge):
        return Failed("too_large", "the answer is larger than it may be", limit=error.limit)
    if isinstance(error, MemoryError):
        return Failed("too_large", "the query needs too much memory", limit="memory_bytes_max", retire=True)
    if isinstance(error, Interrupted | duckdb.InterruptException):
        return Failed("interrupted", "the query was stopped")
    details = _details(error)
    kind = details.get("exception_type")
    message = hide(str(details.get("exception_message") or error))
    if kind == "INTERRUPT":
        return Failed("interrupted", "the query was stopped")
    if kind == "Out of Memory" or isinstance(error, duckdb.OutOfMemoryException):
        return _out_of_memory(message)
    if kind == "IO" or isinstance(error, duckdb.IOException):
        return Failed("unreadable", message)
    if kind in _WRONG_SQL:
        position = _position(details, kind, text.encode(), len(prefix.encode()), offset_bytes)
        return Failed("sql", message, position, _suggestion(details))
    return Failed("engine", message, retire=True)


def _details(error: Exception) -> dict[str, Any]:
    """Return what DuckDB says about an error: an object in JSON after the kind of error, or the whole text."""
    text = str(error)
    start = text.find('{"exception_type"')
    if start < 0:
        kind, separator, message = text.partition(" Error: ")
        return {"exception_type": kind, "exception_message": message} if separator else {}
    details: dict[str, Any]
    details, _ = json.JSONDecoder().raw_decode(text, start)
    return details


def _out_of_memory(message: str) -> Failed:
    limit = "temp_bytes_max" if "max_temp_directory_size" in message else "memory_bytes_max"
    what = "temporary space" if limit == "temp_bytes_max" else "memory"
    first_line = message.partition("\n")[0]
    return Failed("too_large", f"the query needs too much {what} ({first_line})", limit=limit)


def _position(details: dict[str, Any], kind: str, text: bytes, prefix_bytes: int, offset_bytes: int) -> int | None:
    """Return the offset in characters; DuckDB's parser counts characters, its binder bytes."""
    if "position" not in details:
        return None
    within = int(details["position"]) - prefix_bytes
    if within < 0:
        return None
    if kind in _COUNTS_CHARACTERS:
        return character_offset(text, offset_bytes) + within
    return character_offset(text, offset_bytes + within)


def _suggestion(details: dict[str, Any]) -> str | None:
    candidates = details.get("candidates")
    if not candidates:
        return None
    return ", ".join(str(one).removeprefix("planning.").removeprefix("main.") for one in str(candidates).split(","))
