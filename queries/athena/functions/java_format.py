"""`format`: Java's format strings, as one DuckDB expression."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Final

from queries.athena import casts
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.literals import text_sql
from queries.athena.scope import Value

_SPECIFIER: Final = re.compile(r"%(?:(\d+)\$)?([-#+ 0,(<]*)(\d+)?(?:\.(\d+))?([tT]?[A-Za-z%])")
_FRACTION_DIGITS: Final = 6
_DATE_PARTS: Final = {
    "A": "%A", "a": "%a", "B": "%B", "b": "%b", "Y": "%Y", "y": "%y", "m": "%m", "d": "%d", "e": "%-d", "H": "%H",
    "M": "%M", "S": "%S", "F": "%Y-%m-%d", "T": "%H:%M:%S", "D": "%m/%d/%y", "R": "%H:%M", "j": "%j", "p": "%p",
    "I": "%I", "k": "%-H", "l": "%-I", "L": "%g",
}  # fmt: skip


def formatted(pattern: str, values: Sequence[Value]) -> str:
    """DuckDB's text of `format(pattern, values)`.

    Raises:
        QueryError: a specifier has no argument, or not one of its kind.
        UntranslatableError: a specifier or flag is not supported.
    """
    parts: list[str] = []
    place = ordinary = 0
    for match in _SPECIFIER.finditer(pattern):
        parts.append(_literal(pattern[place : match.start()]))
        place = match.end()
        index, flags, width, digits, conversion = match.groups()
        if conversion in ("%", "n"):
            parts.append(text_sql("%" if conversion == "%" else "\n"))
            continue
        if index is None:
            ordinary += 1
        position = int(index) if index else ordinary
        if position > len(values):
            raise QueryError(
                "INVALID_FUNCTION_ARGUMENT", f"Invalid format string: {pattern} (no argument for {match[0]})"
            )
        parts.append(
            _padded(_converted(values[position - 1], flags, digits, conversion, match[0], width), flags, width)
        )
    parts.append(_literal(pattern[place:]))
    nonempty = [part for part in parts if part != "''"]
    return f"({' || '.join(nonempty)})" if nonempty else "''"


def _literal(text: str) -> str:
    if "%" in text:
        raise UntranslatableError(f"format with {text[text.index('%') :]!r}")
    return text_sql(text)


def _padded(sql: str, flags: str, width: str | None) -> str:
    if width is None:
        return sql
    if "0" in flags:
        return sql
    function = "rpad" if "-" in flags else "lpad"
    return f"CASE WHEN length({sql}) < {width} THEN {function}({sql}, {width}, ' ') ELSE {sql} END"


def _converted(value: Value, flags: str, digits: str | None, conversion: str, whole: str, width: str | None) -> str:
    if set(flags) & set("#+ (<"):
        raise UntranslatableError(f"format with {whole}")
    kind = value.type
    if conversion in ("s", "S"):
        text = _or_null(_plain_text(value))
        text = f"left({text}, {digits})" if digits else text
        return f"upper({text})" if conversion == "S" else text
    if conversion in ("b", "B") and kind.name == "boolean":
        text = f"coalesce(CAST({value.sql} AS VARCHAR), 'false')"
        return f"upper({text})" if conversion == "B" else text
    if conversion[0] in "tT" and kind.has_date:
        return _or_null(_date_part(value, conversion, whole))
    if conversion == "d" and kind.is_integer:
        return _or_null(
            _zeroed(value.sql, lambda v: f"format('{{:{',' if ',' in flags else ''}}}', {v})", flags, width)
        )
    if conversion == "f" and kind.name in ("decimal", "double", "real"):
        return _or_null(_zeroed(_decimal(value), lambda v: _fraction(v, flags, digits), flags, width))
    if conversion in ("x", "X") and kind.is_integer:
        text = _or_null(_zeroed(value.sql, lambda v: f"printf('%x', {v})", flags, width))
        return f"upper({text})" if conversion == "X" else text
    if conversion in ("d", "f", "x", "X", "b", "B") or conversion[0] in "tT":
        raise QueryError("INVALID_FUNCTION_ARGUMENT", f"Invalid format string: {whole} does not take {kind}")
    raise UntranslatableError(f"format with {whole}")


def _or_null(sql: str) -> str:
    return f"coalesce({sql}, 'null')"


def _plain_text(value: Value) -> str:
    # Java prints a double as 1.5 or 1.0E10, which is not what CAST prints.
    if value.type.name == "double":
        return f"trino_java_double({value.sql})"
    if value.type.name in ("timestamp", "timestamp with time zone", "time", "real"):
        raise UntranslatableError(
            f"format of {value.type} with %s", "prints as Java prints it; use date_format or CAST"
        )
    if value.type.name == "unknown":
        return "CAST(NULL AS VARCHAR)"
    return casts.text_of(value.sql, value.type)


def _date_part(value: Value, conversion: str, whole: str) -> str:
    pattern = _DATE_PARTS.get(conversion[1])
    if pattern is None:
        raise UntranslatableError(f"format with {whole}")
    local = casts.local(value.sql, value.type) if value.type.name == "timestamp with time zone" else value.sql
    text = f"strftime({local}, '{pattern}')"
    return f"upper({text})" if conversion[0] == "T" else text


def _decimal(value: Value) -> str:
    return value.sql if value.type.name == "decimal" else f"CAST(CAST({value.sql} AS VARCHAR) AS DECIMAL(38,15))"


def _fraction(sql: str, flags: str, digits: str | None) -> str:
    places = _FRACTION_DIGITS if digits is None else int(digits)
    rounded = f"CAST({sql} AS DECIMAL(38,{places}))"
    if "," not in flags:
        return f"CAST({rounded} AS VARCHAR)"
    whole = f"format('{{:,}}', CAST(trunc({rounded}) AS HUGEINT))"
    if places == 0:
        return whole
    return f"{whole} || right(CAST({rounded} AS VARCHAR), {places + 1})"


def _zeroed(sql: str, text: Callable[[str], str], flags: str, width: str | None) -> str:
    """The text of a number: its sign, then its magnitude, with zeros between them where the flags ask for it."""
    magnitude = text(f"abs({sql})")
    if "0" in flags and width is not None:
        padding = f"greatest(0, {width} - length({magnitude}) - CASE WHEN {sql} < 0 THEN 1 ELSE 0 END)"
        magnitude = f"repeat('0', CAST({padding} AS BIGINT)) || {magnitude}"
    return f"(CASE WHEN {sql} < 0 THEN '-' ELSE '' END || {magnitude})"
