"""SQL literals and names for statements that the service itself writes."""

from __future__ import annotations


def sql_text(value: str) -> str:
    """Return a string literal. The value must have no NUL."""
    return "'" + value.replace("'", "''") + "'"


def sql_name(name: str) -> str:
    """Return a quoted identifier."""
    return '"' + name.replace('"', '""') + '"'
