"""What DuckDB's errors mean to a user: wrong SQL, a limit, a file that cannot be read, or a fault of the engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any, Final

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
TABLE: Final = "<actions>"
TEMPORARY: Final = "<temporary>"
"""What stands in messages for the paths of the folders of the table and of temporary data."""

_INTERRUPTED: Final = Failed("interrupted", "the query was stopped")
# DuckDB has no kind of error of its own for what a damaged page makes of its readers.
_DAMAGED_FILE: Final = frozenset({"IO", "Invalid"})
# Of Arrow, whose types have 63 levels at most.
_TOO_NESTED: Final = "Recursion level in ArrowSchema"
_NO_MEMORY: Final = "Memory allocation failure"
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
    if isinstance(error, Interrupted):
        return _INTERRUPTED
    if isinstance(error, MemoryError):
        return Failed("too_large", "the query needs too much memory", limit="memory_bytes_max", retire=True)
    details = _details(error)
    message = hide(str(details.get("exception_message") or error))
    # A message that names a file of the table is about the file, whatever DuckDB calls the error.
    if details.get("exception_type") in _WRONG_SQL and TABLE not in message:
        position = _position(details, text.encode(), len(prefix.encode()), offset_bytes)
        return Failed("sql", message, position, _suggestion(details))
    return _fault(str(details.get("exception_type")), message)


def _fault(kind: str, message: str) -> Failed:  # noqa: PLR0911 - one answer for each kind of fault
    """What DuckDB does not call wrong: it was stopped, is too large, or cannot be read; or the engine is at fault."""
    match kind:
        case "INTERRUPT":
            return _INTERRUPTED
        case "Out of Memory":
            return _out_of_memory(message)
        case "IO" if TEMPORARY in message:
            return Failed("too_large", f"there is no temporary space left ({message})", limit="temp_bytes_max")
        case "INTERNAL" | "FATAL" if _NO_MEMORY in message:
            # Some of its functions take what the process cannot have; DuckDB is not to be used after that.
            return Failed("too_large", "the query needs too much memory", limit="memory_bytes_max", retire=True)
        case _ if _TOO_NESTED in message:
            return Failed("sql", "a column of the answer is nested too deeply")
        case _ if kind in _DAMAGED_FILE or TABLE in message:
            return Failed("unreadable", message)
        case _:
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


def _position(details: dict[str, Any], text: bytes, prefix_bytes: int, offset_bytes: int) -> int | None:
    """Return the offset in characters; DuckDB's parser counts characters, its binder bytes."""
    if "position" not in details:
        return None
    within = int(details["position"]) - prefix_bytes
    if within < 0:
        return None
    if details["exception_type"] in _COUNTS_CHARACTERS:
        return character_offset(text, offset_bytes) + within
    return character_offset(text, offset_bytes + within)


def _suggestion(details: dict[str, Any]) -> str | None:
    candidates = details.get("candidates")
    if not candidates:
        return None
    return ", ".join(str(one).removeprefix("planning.").removeprefix("main.") for one in str(candidates).split(","))
