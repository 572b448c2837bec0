"""Errors of DuckDB's as Trino would report them."""

from __future__ import annotations

import re
from typing import Final

from queries.athena.errors import QueryError
from queries.athena.macros import raised_message

_OWN: Final = re.compile(r"([A-Z][A-Z]*(?:_[A-Z]+)+|NOT_SUPPORTED): (.*)", re.DOTALL)
_KIND: Final = re.compile(r"^[A-Z][A-Za-z ]* Error: ")
_UNGROUPED: Final = re.compile(r'column "([^"]+)" must appear in the GROUP BY clause')
# What DuckDB's messages say, whatever kind of error it calls them.
_CODES: Final = (
    (re.compile(r"are not supported$|must be a constant$"), "NOT_SUPPORTED"),
    (re.compile(r"cannot contain (?:aggregates|window functions)"), "EXPRESSION_NOT_SCALAR"),
    (re.compile(r"[Oo]ut of range|Overflow in|[Oo]verflow"), "NUMERIC_VALUE_OUT_OF_RANGE"),
    (re.compile(r"[Cc]ould not convert|[Cc]ould not cast|[Cc]onversion"), "INVALID_CAST_ARGUMENT"),
    (re.compile(r"Could not parse|must be unique|[Ii]nvalid|Malformed JSON"), "INVALID_FUNCTION_ARGUMENT"),
    (re.compile(r"[Oo]ut of [Mm]emory|memory_bytes_max"), "EXCEEDED_LOCAL_MEMORY_LIMIT"),
)


def failure(message: str) -> QueryError:
    """The error that a query ends with, from DuckDB's message or one that is Trino's already."""
    raised = _OWN.fullmatch(raised_message(message) or message)
    if raised is not None:
        return QueryError(raised[1], raised[2])
    # What follows quotes the translated text, which nobody has written.
    text = _KIND.sub("", message.split("\n\nLINE ", 1)[0].strip())
    ungrouped = _UNGROUPED.search(text)
    if ungrouped is not None:
        column = "An expression of the query" if re.fullmatch(r"c\d+", ungrouped[1]) else f"'{ungrouped[1]}'"
        return QueryError(
            "EXPRESSION_NOT_AGGREGATE", f"{column} must be an aggregate expression or appear in GROUP BY clause"
        )
    if text.startswith("More than one row returned by a subquery"):
        return QueryError("SUBQUERY_MULTIPLE_ROWS", "Scalar sub-query has returned multiple rows")
    for pattern, code in _CODES:
        if pattern.search(text):
            return QueryError(code, text)
    return QueryError("GENERIC_USER_ERROR", text)
