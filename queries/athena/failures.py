"""Errors of DuckDB's as Trino would report them."""

from __future__ import annotations

import re
from typing import Final

from queries.athena.errors import QueryError
from queries.athena.macros import raised_message

_OWN = re.compile(r"([A-Z][A-Z_]+): (.*)", re.DOTALL)
_UNGROUPED = re.compile(r'column "([^"]+)" must appear in the GROUP BY clause')
_CODES: Final = (
    ("Out of Range Error", "NUMERIC_VALUE_OUT_OF_RANGE"),
    ("Conversion Error", "INVALID_CAST_ARGUMENT"),
    ("Invalid Input Error", "INVALID_FUNCTION_ARGUMENT"),
    ("Out of Memory Error", "EXCEEDED_LOCAL_MEMORY_LIMIT"),
)


def failure(message: str) -> QueryError:
    """The error that a query ends with, from DuckDB's message or one that is Trino's already."""
    raised = _OWN.fullmatch(raised_message(message) or message)
    if raised is not None:
        return QueryError(raised[1], raised[2])
    # What follows quotes the translated text, which nobody has written.
    text = message.split("\n\nLINE ", 1)[0].strip()
    ungrouped = _UNGROUPED.search(text)
    if ungrouped is not None:
        column = "An expression of the query" if re.fullmatch(r"c\d+", ungrouped[1]) else f"'{ungrouped[1]}'"
        return QueryError(
            "EXPRESSION_NOT_AGGREGATE", f"{column} must be an aggregate expression or appear in GROUP BY clause"
        )
    if "out of range" in text and text.startswith("Conversion Error: Type INT128"):
        return QueryError("NUMERIC_VALUE_OUT_OF_RANGE", "bigint overflow")
    for prefix, code in _CODES:
        if prefix in text:
            return QueryError(code, text.split(f"{prefix}: ", 1)[-1])
    return QueryError("GENERIC_USER_ERROR", text)
