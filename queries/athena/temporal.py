"""Timestamps that are known when a query is translated: literals, and the zone of AT TIME ZONE."""

from __future__ import annotations

from queries.athena import casts, literals
from queries.athena.errors import QueryError
from queries.athena.scope import Value
from queries.athena.types import UTC, TrinoType, timestamp_tz


def at_time_zone(value: Value, zone: str) -> Value:
    """`value AT TIME ZONE zone`: the same moment, in another zone.

    Raises:
        QueryError: the value is no timestamp, or there is no such zone.
    """
    if value.type.name not in ("timestamp", "timestamp with time zone"):
        raise QueryError(
            "TYPE_MISMATCH",
            f"Type of value must be a time or timestamp with or without time zone (actual {value.type})",
        )
    moment = casts.coerce(value, timestamp_tz(value.type.precision or 0, value.type.zone))
    return Value(moment.sql, moment.type.in_zone(literals.checked_zone(zone)))


def constant_moment(text: str, target: TrinoType) -> Value:
    """A timestamp or time from its literal text.

    Raises:
        QueryError: it is none.
    """
    if target.name == "time":
        clock, digits = literals.parse_time(text)
        return Value(casts.rounded(f"TIME '{clock}'", digits, target), target)
    moment = literals.parse_timestamp(text)
    sql = f"CAST('{moment.local}' AS TIMESTAMP)"
    if target.name == "timestamp":
        if moment.zone is not None:
            raise QueryError("INVALID_CAST_ARGUMENT", f"Value cannot be cast to timestamp: {text}")
        return Value(casts.rounded(sql, moment.precision, target), target)
    zone = moment.zone or UTC
    return Value(casts.rounded(casts.instant(sql, zone), moment.precision, target), target.in_zone(zone))
