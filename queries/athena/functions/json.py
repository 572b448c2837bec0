"""JSON functions."""

from __future__ import annotations

import re
from typing import Final

from queries.athena.calls import Call, scalar
from queries.athena.casts import coerce, text_of
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.literals import text_sql
from queries.athena.scope import Value
from queries.athena.types import BIGINT, BOOLEAN, JSON, VARCHAR

_STEP: Final = re.compile(
    r"""\.(?P<name>[A-Za-z_0-9][\w:-]*)|\[(?P<index>\d+)\]|\[(?P<bare>[A-Za-z_][\w]*)\]"""
    r"""|(?:\.)?\[?(?P<quote>["'])(?P<quoted>(?:\\.|(?!(?P=quote)).)*)(?P=quote)\]?""",
    re.DOTALL,
)


def duckdb_path(path: str) -> str:
    """A JSON path of Trino's as DuckDB reads it.

    Raises:
        QueryError: it is no JSON path.
        UntranslatableError: it has more than names and indexes.
    """
    steps = path.strip()
    if not steps.startswith("$"):
        raise QueryError("INVALID_FUNCTION_ARGUMENT", f"Invalid JSON path: '{path}'")
    result, place = "$", 1
    while place < len(steps):
        match = _STEP.match(steps, place)
        if match is None:
            if "*" in steps or ".." in steps or "?" in steps:
                raise UntranslatableError(f"the JSON path {path!r}")
            raise QueryError("INVALID_FUNCTION_ARGUMENT", f"Invalid JSON path: '{path}'")
        place = match.end()
        if match["index"] is not None:
            result += f"[{int(match['index'])}]"
            continue
        name = match["name"] or match["bare"] or re.sub(r"\\(.)", r"\1", match["quoted"] or "")
        if '"' in name:
            raise UntranslatableError(f"a quotation mark in the JSON path {path!r}")
        result += f'."{name}"'
    return result


def _json(call: Call, index: int) -> str:
    value = call.one_of(index, "json", "varchar", "unknown")
    return coerce(value, VARCHAR).sql if value.type.name == "unknown" else value.sql


def _path(call: Call) -> str:
    return text_sql(duckdb_path(call.required_text(1, "a JSON path")))


def _standard_path(call: Call) -> str:
    """The path of a function of the SQL standard: `lax $.a.b`."""
    mode, _, path = call.required_text(1, "a JSON path").strip().partition(" ")
    if mode != "lax":
        raise UntranslatableError(f"a JSON path in {mode} mode")
    return text_sql(duckdb_path(path))


@scalar("json_extract", arguments=2)
def _json_extract(call: Call) -> Value:
    return Value(f"trino_json_extract({_json(call, 0)}, {_path(call)})", JSON)


@scalar("json_extract_scalar", arguments=2)
def _json_extract_scalar(call: Call) -> Value:
    written = "json" if call.value(0).type == JSON else "json_text"
    return Value(f"trino_{written}_scalar({_json(call, 0)}, {_path(call)})", VARCHAR)


@scalar("json_value", arguments=2)
def _json_value(call: Call) -> Value:
    return Value(f"trino_json_scalar({call.text(0)}, {_standard_path(call)})", VARCHAR)


@scalar("json_query", arguments=2)
def _json_query(call: Call) -> Value:
    return Value(f"CAST(trino_json_extract({call.text(0)}, {_standard_path(call)}) AS VARCHAR)", VARCHAR)


@scalar("json_exists", arguments=2)
def _json_exists(call: Call) -> Value:
    text = call.text(0)
    return Value(
        f"CASE WHEN json_valid({text}) THEN json_exists({text}, {_standard_path(call)}) ELSE {text} <> {text} END",
        BOOLEAN,
    )


@scalar("json_parse", arguments=1)
def _json_parse(call: Call) -> Value:
    return Value(f"trino_json_parse({call.text(0)})", JSON)


@scalar("json_format", arguments=1)
def _json_format(call: Call) -> Value:
    return Value(f"CAST({call.one_of(0, 'json').sql} AS VARCHAR)", VARCHAR)


@scalar("json_array_length", arguments=1)
def _json_array_length(call: Call) -> Value:
    return Value(f"trino_json_array_length({_json(call, 0)})", BIGINT)


@scalar("json_size", arguments=2)
def _json_size(call: Call) -> Value:
    return Value(f"trino_json_size({_json(call, 0)}, {_path(call)})", BIGINT)


@scalar("is_json_scalar", arguments=1)
def _is_json_scalar(call: Call) -> Value:
    return Value(f"trino_is_json_scalar({_json(call, 0)})", BOOLEAN)


@scalar("json_array_contains", arguments=2)
def _json_array_contains(call: Call) -> Value:
    value = call.one_of(1, "boolean", "bigint", "integer", "smallint", "tinyint", "double", "varchar", "decimal")
    kinds = {"boolean": "['BOOLEAN']", "varchar": "['VARCHAR']"}.get(value.type.name)
    if kinds is None and not value.type.is_integer:
        raise UntranslatableError(f"json_array_contains of {value.type}")
    text = text_of(value.sql, value.type)
    return Value(f"trino_json_array_contains({_json(call, 0)}, {kinds or _WHOLE}, {text})", BOOLEAN)


_WHOLE: Final = "['BIGINT', 'UBIGINT']"
