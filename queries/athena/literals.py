"""Literals whose text has a grammar of its own: dates, times, timestamps, intervals, Unicode strings."""

from __future__ import annotations

import re
import zoneinfo
from dataclasses import dataclass
from typing import Final

from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.types import UTC

MICROSECOND_DIGITS: Final = 6

_TIMESTAMP = re.compile(
    r"\s*(?P<date>[-+]?\d{4,}-\d{1,2}-\d{1,2})"
    r"(?: (?:(?P<hour>[01]?\d|2[0-3]):(?P<minute>[0-5]?\d)(?::(?P<second>[0-5]?\d)(?:\.(?P<fraction>\d+))?)?)?"
    r"\s*(?P<zone>.+?)?)?\s*"
)
_ISO_8601 = re.compile(
    r"(?P<date>\d{4}(?:-\d{2}(?:-\d{2})?)?)(?:T(?:(?P<hour>[01]\d|2[0-3])(?::(?P<minute>[0-5]\d)(?::(?P<second>[0-5]\d)"
    r"(?:[.,](?P<fraction>\d+))?)?)?(?P<zone>Z|[+-]\d{2}(?::?\d{2})?)?)?)?"
)
_TIME = re.compile(r"\s*([01]?\d|2[0-3]):([0-5]?\d)(?::([0-5]?\d)(?:\.(\d+))?)?\s*")
_OFFSET = re.compile(r"([+-])(\d{2})(?::?(\d{2}))?")
_DAY_TO_SECOND = ("DAY", "HOUR", "MINUTE", "SECOND")
_UNIT_MS: Final = {"DAY": 86_400_000, "HOUR": 3_600_000, "MINUTE": 60_000, "SECOND": 1_000}
_UNICODE_ESCAPE = re.compile(r"\\(\\|\+[0-9A-Fa-f]{6}|[0-9A-Fa-f]{4})")


@dataclass(frozen=True, slots=True)
class Moment:
    """A timestamp literal, taken apart.

    Attributes:
        local: `YYYY-MM-DD HH:MM:SS[.ffffff]` in its own zone.
        precision: how many digits of a second's fraction were written.
        zone: its zone, or None if none was written.
    """

    local: str
    precision: int
    zone: str | None


@dataclass(frozen=True, slots=True)
class Span:
    """An interval literal: months, or milliseconds; never both."""

    months: int = 0
    milliseconds: int = 0
    is_year_to_month: bool = False


def parse_timestamp(text: str) -> Moment:
    """Take apart the text of a timestamp literal.

    Raises:
        QueryError: it is no timestamp.
        UntranslatableError: it is finer than a microsecond.
    """
    return _moment(_TIMESTAMP.fullmatch(text), text)


def parse_iso_8601(text: str) -> Moment:
    """Take apart an ISO 8601 date and time.

    Raises:
        QueryError: it is none.
        UntranslatableError: it is finer than a microsecond.
    """
    moment = _moment(_ISO_8601.fullmatch(text), text)
    if moment.zone == "Z":
        return Moment(moment.local, moment.precision, UTC)
    return moment


def _moment(match: re.Match[str] | None, text: str) -> Moment:
    if match is None:
        raise QueryError("INVALID_LITERAL", f"{text!r} is not a valid TIMESTAMP literal")
    fraction = match["fraction"] or ""
    if len(fraction) > MICROSECOND_DIGITS:
        raise UntranslatableError(f"a timestamp of {len(fraction)} fractional digits", "is finer than a microsecond")
    date = match["date"] + "-01" * (2 - match["date"].lstrip("+-").count("-"))
    clock = f"{int(match['hour'] or 0):02}:{int(match['minute'] or 0):02}:{int(match['second'] or 0):02}"
    local = f"{date} {clock}{'.' + fraction if fraction else ''}"
    return Moment(local, len(fraction), checked_zone(match["zone"]) if match["zone"] else None)


def checked_zone(zone: str) -> str:
    """*zone* as Trino prints it: an IANA name, or an offset `+HH:MM`.

    Raises:
        QueryError: there is no such zone.
    """
    if zone.upper() in ("Z", "UTC", "GMT"):
        return UTC
    if offset_minutes(zone) is not None:
        sign, hours, minutes = _OFFSET.fullmatch(zone).groups()  # type: ignore[union-attr]  # offset_minutes matched it
        return UTC if (hours, minutes or "00") == ("00", "00") else f"{sign}{hours}:{minutes or '00'}"
    try:
        return zoneinfo.ZoneInfo(zone).key
    except (zoneinfo.ZoneInfoNotFoundError, ValueError):
        raise QueryError("INVALID_FUNCTION_ARGUMENT", f"Time zone not supported: {zone}") from None


def offset_minutes(zone: str) -> int | None:
    """The minutes of a fixed offset such as `+05:30`, or None if *zone* is a name."""
    match = _OFFSET.fullmatch(zone)
    if match is None:
        return None
    return (-1 if match[1] == "-" else 1) * (int(match[2]) * 60 + int(match[3] or 0))


def parse_time(text: str) -> tuple[str, int]:
    """The text of a time literal as `HH:MM:SS[.ffffff]`, and how many digits of fraction were written.

    Raises:
        QueryError: it is no time of day.
        UntranslatableError: it is finer than a microsecond.
    """
    match = _TIME.fullmatch(text)
    if match is None:
        raise QueryError("INVALID_LITERAL", f"{text!r} is not a valid TIME literal")
    fraction = match[4] or ""
    if len(fraction) > MICROSECOND_DIGITS:
        raise UntranslatableError(f"a time of {len(fraction)} fractional digits", "is finer than a microsecond")
    clock = f"{int(match[1]):02}:{int(match[2]):02}:{int(match[3] or 0):02}"
    return clock + ("." + fraction if fraction else ""), len(fraction)


def parse_interval(text: str, start: str, end: str | None) -> Span:
    """An interval literal: `'3' DAY` has start `DAY`, `'2-3' YEAR TO MONTH` has both.

    Raises:
        QueryError: the text does not fit the units.
    """
    sign, magnitude = (-1, text[1:]) if text.startswith("-") else (1, text.removeprefix("+"))
    start, end = start.upper(), (end or start).upper()
    try:
        if start in ("YEAR", "MONTH"):
            return Span(months=sign * _months(magnitude, start, end), is_year_to_month=True)
        return Span(milliseconds=sign * _milliseconds(magnitude, start, end))
    except (ValueError, KeyError):
        raise QueryError("INVALID_LITERAL", f"{text!r} is not a valid INTERVAL {start} TO {end} literal") from None


def _months(text: str, start: str, end: str) -> int:
    if start == end:
        return int(text) * (12 if start == "YEAR" else 1)
    years, months = text.split("-")
    return int(years) * 12 + int(months)


def _milliseconds(text: str, start: str, end: str) -> int:
    units = _DAY_TO_SECOND[_DAY_TO_SECOND.index(start) : _DAY_TO_SECOND.index(end) + 1]
    parts = re.split(r"[ :]", text)
    if len(parts) != len(units):
        raise ValueError(text)
    total = 0
    for unit, part in zip(units, parts, strict=True):
        whole, _, fraction = part.partition(".")
        if fraction and unit != "SECOND":
            raise ValueError(text)
        total += int(whole) * _UNIT_MS[unit] + int((fraction + "000")[:3])
    return total


def span_sql(span: Span) -> str:
    """*span* as a DuckDB expression of type INTERVAL."""
    if span.is_year_to_month:
        return f"to_months({span.months})"
    days, rest = divmod(abs(span.milliseconds), _UNIT_MS["DAY"])
    sign = -1 if span.milliseconds < 0 else 1
    return f"(to_days({sign * days}) + to_milliseconds({sign * rest}))"


def unicode_string(text: str) -> str:
    r"""The string that `U&'...'` stands for: `\00e9` and `\+01F600` are code points.

    Raises:
        QueryError: a backslash starts nothing that is an escape, or a surrogate is named.
    """

    def point(match: re.Match[str]) -> str:
        code = match[1]
        return "\\" if code == "\\" else chr(int(code.removeprefix("+"), 16))

    value = _UNICODE_ESCAPE.sub(point, text)
    if "\\" in _UNICODE_ESCAPE.sub("", text) or any(0xD800 <= ord(c) <= 0xDFFF for c in value):
        raise QueryError("INVALID_LITERAL", f"invalid Unicode escape in {text!r}")
    return value


def text_sql(text: str) -> str:
    """*text* as a DuckDB string literal."""
    return "'" + text.replace("'", "''") + "'"
