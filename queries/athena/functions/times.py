"""Date and time functions."""

from __future__ import annotations

from typing import Final

from queries.athena import casts, literals
from queries.athena.calls import Call, scalar
from queries.athena.casts import coerce, instant, local
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.functions import time_patterns
from queries.athena.functions.time_patterns import TimePattern
from queries.athena.literals import text_sql
from queries.athena.operators import milliseconds, shifted_moment
from queries.athena.scope import Value
from queries.athena.temporal import at_time_zone
from queries.athena.types import (
    BIGINT,
    DATE,
    DOUBLE,
    INTERVAL_DAY,
    INTERVAL_YEAR,
    UTC,
    VARCHAR,
    timestamp,
    timestamp_tz,
)

_DATE_UNITS: Final = ("day", "week", "month", "quarter", "year")
_TIME_UNITS: Final = ("millisecond", "second", "minute", "hour")
# What adds so many of a unit, and whether it is counted on the calendar.
_STEPS: Final = {
    "millisecond": "to_milliseconds({})",
    "second": "to_milliseconds({} * 1000)",
    "minute": "to_milliseconds({} * 60000)",
    "hour": "to_milliseconds({} * 3600000)",
    "day": "to_days(CAST({} AS INTEGER))",
    "week": "to_days(CAST({} * 7 AS INTEGER))",
    "month": "to_months(CAST({} AS INTEGER))",
    "quarter": "to_months(CAST({} * 3 AS INTEGER))",
    "year": "to_months(CAST({} * 12 AS INTEGER))",
}
_FIELDS: Final = {
    "year": "year({})",
    "quarter": "quarter({})",
    "month": "month({})",
    "week": "weekofyear({})",
    "week_of_year": "weekofyear({})",
    "day": "day({})",
    "day_of_month": "day({})",
    "day_of_week": "isodow({})",
    "dow": "isodow({})",
    "day_of_year": "dayofyear({})",
    "doy": "dayofyear({})",
    "year_of_week": "isoyear({})",
    "yow": "isoyear({})",
}
_CLOCK_FIELDS: Final = {
    "hour": "hour({})",
    "minute": "minute({})",
    "second": "second({})",
    "millisecond": "(millisecond({}) % 1000)",
}
# Of an interval in milliseconds: how many are one, and of how many it is counted.
_INTERVAL_MILLISECONDS: Final = {
    "day": (86_400_000, 0),
    "hour": (3_600_000, 86_400_000),
    "minute": (60_000, 3_600_000),
    "second": (1_000, 60_000),
    "millisecond": (1, 1_000),
}


def _moment(call: Call, index: int, *names: str) -> Value:
    return call.one_of(index, *(names or ("date", "timestamp", "timestamp with time zone")))


def _clock(value: Value) -> str:
    """The wall clock of a date or timestamp: of the one with a zone, in its zone."""
    return local(value.sql, value.type) if value.type.name == "timestamp with time zone" else value.sql


def _unit(call: Call, value: Value) -> str:
    unit = call.required_text(0, "a unit").lower()
    units = _DATE_UNITS if value.type == DATE else _TIME_UNITS + _DATE_UNITS
    if unit not in units:
        kind = "DATE" if value.type == DATE else "TIMESTAMP"
        raise QueryError("INVALID_FUNCTION_ARGUMENT", f"'{unit}' is not a valid {kind} field")
    return unit


def _interval_field(call: Call) -> Value | None:
    """A field of an interval, which is cut towards zero; None if the argument is none, or the interval has no such."""
    value = call.value(0)
    if value.type == INTERVAL_DAY and call.name in _INTERVAL_MILLISECONDS:
        unit, of = _INTERVAL_MILLISECONDS[call.name]
        within = f" % {of}" if of else ""
        return Value(f"({milliseconds(value.sql)}{within} // {unit})", BIGINT)
    if value.type == INTERVAL_YEAR and call.name in ("year", "month"):
        months = f"(date_part('year', {value.sql}) * 12 + date_part('month', {value.sql}))"
        return Value(f"({months} {'//' if call.name == 'year' else '%'} 12)", BIGINT)
    return None


@scalar(*_FIELDS, arguments=1)
def _field(call: Call) -> Value:
    if (of_interval := _interval_field(call)) is not None:
        return of_interval
    return Value(_FIELDS[call.name].format(_clock(_moment(call, 0))), BIGINT)


@scalar(*_CLOCK_FIELDS, arguments=1)
def _clock_field(call: Call) -> Value:
    if (of_interval := _interval_field(call)) is not None:
        return of_interval
    value = _moment(call, 0, "timestamp", "timestamp with time zone", "time")
    return Value(_CLOCK_FIELDS[call.name].format(_clock(value)), BIGINT)


def _offset(value: Value) -> str:
    """The minutes between the wall clock of a `timestamp with time zone` and UTC."""
    return f"(epoch_us({local(value.sql, value.type)}) - epoch_us({value.sql})) // 60000000"


@scalar("timezone_hour", "timezone_minute", arguments=1)
def _zone_field(call: Call) -> Value:
    minutes = _offset(_moment(call, 0, "timestamp with time zone"))
    return Value(f"(({minutes}) {'//' if call.name == 'timezone_hour' else '%'} 60)", BIGINT)


@scalar("date", arguments=1)
def _date(call: Call) -> Value:
    return casts.cast(call.value(0), DATE, strict=True)


@scalar("last_day_of_month", arguments=1)
def _last_day(call: Call) -> Value:
    return Value(f"last_day({_clock(_moment(call, 0))})", DATE)


@scalar("now", arguments=0)
def _now(call: Call) -> Value:  # noqa: ARG001 (builders share one signature)
    return Value("date_trunc('millisecond', now())", timestamp_tz())


@scalar("current_timestamp", "localtimestamp", arguments=1)
def _now_with_precision(call: Call) -> Value:
    digits = call.constant_integer(0)
    if digits not in (0, 3, 6):
        raise UntranslatableError(f"{call.name} with a precision other than 0, 3 or 6")
    kind = timestamp_tz(digits) if call.name == "current_timestamp" else timestamp(digits)
    unit = {0: "second", 3: "millisecond", 6: "microsecond"}[digits]
    moment = "now()" if call.name == "current_timestamp" else "timezone('UTC', now())"
    return Value(f"date_trunc('{unit}', {moment})", kind)


# Truncation, addition, difference.


@scalar("date_trunc", arguments=2)
def _date_trunc(call: Call) -> Value:
    value = _moment(call, 1)
    unit = _unit(call, value)
    if value.type == DATE:
        return Value(f"CAST(date_trunc('{unit}', {value.sql}) AS DATE)", DATE)
    if value.type.name == "timestamp":
        return Value(f"date_trunc('{unit}', {value.sql})", value.type)
    zone = value.type.zone
    if zone == UTC or unit in _TIME_UNITS[:2]:
        return Value(f"date_trunc('{unit}', {value.sql})", value.type)
    return Value(instant(f"date_trunc('{unit}', {local(value.sql, value.type)})", zone or ""), value.type)


@scalar("date_add", arguments=3)
def _date_add(call: Call) -> Value:
    value = _moment(call, 2)
    unit = _unit(call, value)
    step = _STEPS[unit].format(call.bigint(1))
    kind = INTERVAL_DAY if unit in _TIME_UNITS else INTERVAL_YEAR
    return shifted_moment(value, Value(step, kind), "+")


@scalar("date_diff", arguments=3)
def _date_diff(call: Call) -> Value:
    first, second = _moment(call, 1), _moment(call, 2)
    kind = call.compiler.common([first.type, second.type])
    unit = _unit(call, Value("", kind))
    a, b = coerce(first, kind), coerce(second, kind)
    if unit in _TIME_UNITS or (kind.zone == UTC and unit not in _TIME_UNITS) or kind.name != "timestamp with time zone":
        return Value(f"datesub('{unit}', {a.sql}, {b.sql})", BIGINT)
    return Value(f"datesub('{unit}', {local(a.sql, kind)}, {local(b.sql, kind)})", BIGINT)


@scalar("to_milliseconds", arguments=1)
def _to_milliseconds(call: Call) -> Value:
    return Value(milliseconds(call.one_of(0, "interval day to second").sql), BIGINT)


# Unix time and ISO 8601.


@scalar("to_unixtime", arguments=1)
def _to_unixtime(call: Call) -> Value:
    return Value(f"epoch({_moment(call, 0, 'timestamp', 'timestamp with time zone').sql})", DOUBLE)


@scalar("from_unixtime", arguments=(1, 3))
def _from_unixtime(call: Call) -> Value:
    sql = f"timezone('UTC', epoch_ms(CAST(round({call.double(0)} * 1000) AS BIGINT)))"
    if len(call) == 1:
        return Value(sql, timestamp_tz())
    if len(call) == 2:
        return Value(sql, timestamp_tz(3, literals.checked_zone(call.required_text(1, "a time zone"))))
    hours, minutes = call.constant_integer(1), call.constant_integer(2)
    if hours is None or minutes is None:
        raise UntranslatableError("from_unixtime with an offset that is not constant")
    total = hours * 60 + minutes
    zone = f"{'-' if total < 0 else '+'}{abs(total) // 60:02}:{abs(total) % 60:02}"
    return Value(sql, timestamp_tz(3, literals.checked_zone(zone)))


@scalar("to_iso8601", arguments=1)
def _to_iso8601(call: Call) -> Value:
    value = _moment(call, 0)
    if value.type == DATE:
        return Value(f"strftime({value.sql}, '%Y-%m-%d')", VARCHAR)
    text = casts.moment_text(_clock(value), value.type, "%Y-%m-%dT%H:%M:%S")
    if value.type.name == "timestamp":
        return Value(text, VARCHAR)
    if value.type.zone == UTC:
        return Value(f"({text} || 'Z')", VARCHAR)
    return Value(f"({text} || trino_offset_text({_offset(value)}))", VARCHAR)


@scalar("from_iso8601_timestamp", arguments=1)
def _from_iso8601_timestamp(call: Call) -> Value:
    text = call.constant_text(0)
    if text is None:
        return Value(f"trino_from_iso8601_timestamp({call.text(0)})", timestamp_tz(3, None))
    moment = literals.parse_iso_8601(text)
    zone = moment.zone or UTC
    sql = f"date_trunc('millisecond', {instant(f'CAST({text_sql(moment.local)} AS TIMESTAMP)', zone)})"
    return Value(sql, timestamp_tz(3, zone))


@scalar("from_iso8601_date", arguments=1)
def _from_iso8601_date(call: Call) -> Value:
    return Value(f"trino_from_iso8601_date({call.text(0)})", DATE)


# Time zones.


@scalar("at_timezone", arguments=2)
def _at_timezone(call: Call) -> Value:
    return at_time_zone(call.value(0), call.required_text(1, "a time zone"))


@scalar("with_timezone", arguments=2)
def _with_timezone(call: Call) -> Value:
    value = _moment(call, 0, "timestamp")
    zone = literals.checked_zone(call.required_text(1, "a time zone"))
    return Value(instant(value.sql, zone), timestamp_tz(value.type.precision or 0, zone))


@scalar("timezone", arguments=1)
def _timezone(call: Call) -> Value:
    value = _moment(call, 0, "timestamp with time zone")
    local(value.sql, value.type)
    return Value(f"CASE WHEN {value.sql} IS NOT NULL THEN {text_sql(value.type.zone or UTC)} END", VARCHAR)


# Patterns.


def _formatted(value: Value, pattern: TimePattern) -> str:
    clock = f"CAST({value.sql} AS TIMESTAMP)" if value.type == DATE else _clock(value)
    if time_patterns.OFFSET not in pattern.strftime:
        return f"strftime({clock}, {text_sql(pattern.strftime)})"
    raise UntranslatableError("format_datetime with Z")


@scalar("date_format", arguments=2)
def _date_format(call: Call) -> Value:
    value = _moment(call, 0)
    return Value(_formatted(value, time_patterns.mysql(call.required_text(1, "a pattern"))), VARCHAR)


@scalar("format_datetime", arguments=2)
def _format_datetime(call: Call) -> Value:
    value = _moment(call, 0)
    return Value(_formatted(value, time_patterns.joda(call.required_text(1, "a pattern"))), VARCHAR)


def _parsed(text: str, pattern: TimePattern) -> str:
    # DuckDB takes 1900 for a missing year, Trino 1970.
    source, strftime = (
        (text, pattern.strftime) if pattern.has_year else (f"'1970 ' || {text}", f"%Y {pattern.strftime}")
    )
    parsed = f"strptime({source}, {text_sql(strftime)})"
    # Two digits mean 1970 to 2069 in Trino, 1969 to 2068 in DuckDB.
    return f"trino_century_later({parsed})" if pattern.has_two_digit_year else parsed


@scalar("date_parse", arguments=2)
def _date_parse(call: Call) -> Value:
    parsed = _parsed(call.text(0), time_patterns.mysql(call.required_text(1, "a pattern")))
    return Value(f"date_trunc('millisecond', {parsed})", timestamp())


@scalar("parse_datetime", arguments=2)
def _parse_datetime(call: Call) -> Value:
    pattern = time_patterns.joda(call.required_text(1, "a pattern"))
    parsed = _parsed(call.text(0), pattern)
    if pattern.has_offset:
        if pattern.has_two_digit_year:
            raise UntranslatableError("parse_datetime with a year of two digits and an offset")
        return Value(f"date_trunc('millisecond', {parsed})", timestamp_tz(3, None))
    return Value(f"date_trunc('millisecond', timezone('UTC', {parsed}))", timestamp_tz())


@scalar("human_readable_seconds", arguments=1)
def _human_readable_seconds(call: Call) -> Value:
    return Value(f"trino_human_readable_seconds({call.double(0)})", VARCHAR)
