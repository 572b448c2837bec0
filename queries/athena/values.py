"""Values of a result as the text that Athena puts into `VarCharValue`."""

from __future__ import annotations

import datetime
import decimal
import math
import struct
import zoneinfo
from collections.abc import Callable
from typing import Final

import pyarrow as pa

from queries.athena.literals import offset_minutes
from queries.athena.types import UTC, TrinoType

Formatter = Callable[[object], str]

_DAY_US: Final = 86_400_000_000
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_ZONED_US_MIN: Final = -62_000_000_000_000_000
_ZONED_US_MAX: Final = 253_000_000_000_000_000
_EPOCH_DATE: Final = datetime.date(1970, 1, 1)


def texts(column: pa.ChunkedArray | pa.Array, kind: TrinoType) -> list[str | None]:
    """Every value of *column*, of Trino's type *kind*, as Athena prints it; None for NULL."""
    format_value = formatter(kind)
    return [None if value is None else format_value(value) for value in _plain(column, kind)]


def _plain(column: pa.ChunkedArray | pa.Array, kind: TrinoType) -> list[object]:
    # Moments are taken as numbers: Python's own types end with the year 9999.
    if kind.name == "date":
        column = column.cast(pa.int32())
    elif kind.name in ("timestamp", "timestamp with time zone", "time"):
        column = column.cast(pa.int64())
    values: list[object] = column.to_pylist()
    return values


def formatter(kind: TrinoType) -> Formatter:
    """What turns one value of *kind* that is not NULL into text."""
    if kind.name == "timestamp with time zone":
        return lambda value: zoned_text(_microseconds(value), kind.zone or UTC)
    if kind.name == "array":
        return _listed(formatter(kind.element))
    if kind.name == "map":
        return _mapped(formatter(kind.parameters[0]), formatter(kind.parameters[1]))
    if kind.name == "row":
        names = [kind.field_name(i) for i in range(len(kind.parameters))]
        return _named(dict(zip(names, map(formatter, kind.parameters), strict=True)))
    return _SIMPLE.get(kind.name, str)


def _or_null(value: object, format_value: Formatter) -> str:
    return "null" if value is None else format_value(value)


def _listed(format_item: Formatter) -> Formatter:
    return lambda value: "[" + ", ".join(_or_null(v, format_item) for v in value) + "]"  # type: ignore[attr-defined]  # a list


def _mapped(format_key: Formatter, format_item: Formatter) -> Formatter:
    return lambda value: (
        "{"
        + ", ".join(f"{format_key(k)}={_or_null(v, format_item)}" for k, v in value)  # type: ignore[attr-defined]  # pairs
        + "}"
    )


def _named(formats: dict[str, Formatter]) -> Formatter:
    return lambda value: (
        "{"
        + ", ".join(f"{name}={_or_null(value[name], text)}" for name, text in formats.items())  # type: ignore[index]  # a dict
        + "}"
    )


# Numbers.


def double_text(value: object) -> str:
    """A double as Java prints it: `1.5`, `1.0E10`, `NaN`, `-Infinity`."""
    return _java_float(float(value), repr(float(value)))  # type: ignore[arg-type]  # Arrow gives floats


def real_text(value: object) -> str:
    """A real as Java prints it, with the fewest digits that tell it from its neighbours."""
    number = float(value)  # type: ignore[arg-type]  # Arrow gives floats
    if not math.isfinite(number):
        return _java_float(number, repr(number))
    single = struct.pack("f", number)
    shortest = next(t for t in (f"{number:.{n}g}" for n in range(1, 10)) if struct.pack("f", float(t)) == single)
    return _java_float(number, repr(float(shortest)))


def _java_float(number: float, shortest: str) -> str:
    if math.isnan(number):
        return "NaN"
    if math.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    sign = "-" if shortest.startswith("-") else ""
    if number == 0 or 1e-3 <= abs(number) < 1e7:
        return (
            format(decimal.Decimal(shortest), "f")
            if "." in shortest and "e" not in shortest
            else f"{sign}{abs(number):.1f}"
        )
    digits, exponent = decimal.Decimal(shortest).as_tuple()[1:]
    text = "".join(map(str, digits)).rstrip("0") or "0"
    power = len(digits) - 1 + int(exponent)
    return f"{sign}{text[0]}.{text[1:] or '0'}E{power}"


def _decimal_text(value: object) -> str:
    return format(value, "f")


def _binary_text(value: object) -> str:
    return bytes(value).hex(" ")  # type: ignore[call-overload,no-any-return]  # Arrow gives bytes


def _boolean_text(value: object) -> str:
    return "true" if value else "false"


# Moments.


def _microseconds(value: object) -> int:
    """A moment as microseconds since the epoch, or since midnight."""
    if isinstance(value, datetime.datetime):
        moment = value if value.tzinfo is not None else value.replace(tzinfo=datetime.UTC)
        return (moment - _EPOCH) // datetime.timedelta(microseconds=1)
    if isinstance(value, datetime.time):
        return ((value.hour * 60 + value.minute) * 60 + value.second) * 1_000_000 + value.microsecond
    return int(value)  # type: ignore[call-overload,no-any-return]  # what is left are integers


def date_text(value: object) -> str:
    """A date, also of a year past 9999."""
    days = (value - _EPOCH_DATE).days if isinstance(value, datetime.date) else int(value)  # type: ignore[call-overload]
    # Days since the epoch into the proleptic Gregorian calendar, whose years here begin in March.
    era, day_of_era = divmod(days + 719_468, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    month = (5 * day_of_year + 2) // 153
    day = day_of_year - (153 * month + 2) // 5 + 1
    month = month + 3 if month < 10 else month - 9
    year = year_of_era + era * 400 + (1 if month <= 2 else 0)
    return f"{'-' if year < 0 else ''}{abs(year):04}-{month:02}-{day:02}"


def _clock_text(microseconds: int) -> str:
    """`HH:MM:SS.fff`; six digits where three do not tell the whole."""
    seconds, fraction = divmod(microseconds, 1_000_000)
    digits = f"{fraction // 1000:03}" if fraction % 1000 == 0 else f"{fraction:06}"
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}.{digits}"


def timestamp_text(value: object) -> str:
    """`YYYY-MM-DD HH:MM:SS.fff`; six digits where three do not tell the whole."""
    days, rest = divmod(_microseconds(value), _DAY_US)
    return f"{date_text(days)} {_clock_text(rest)}"


def zoned_text(microseconds: int, zone: str) -> str:
    """A moment by the wall clock of *zone*, and the zone."""
    minutes = 0 if zone == UTC else offset_minutes(zone)
    if minutes is None:
        # Past the years that Python knows, a zone keeps its last offset.
        moment = _EPOCH + datetime.timedelta(microseconds=max(_ZONED_US_MIN, min(microseconds, _ZONED_US_MAX)))
        offset = moment.astimezone(zoneinfo.ZoneInfo(zone)).utcoffset() or datetime.timedelta()
        minutes = offset // datetime.timedelta(minutes=1)
    return f"{timestamp_text(microseconds + minutes * 60_000_000)} {zone}"


def _time_text(value: object) -> str:
    return _clock_text(_microseconds(value))


def _interval_parts(value: object) -> tuple[int, int, int]:
    """The months, days and nanoseconds of an interval, as Arrow gives them."""
    months, days, nanoseconds = list(value)  # type: ignore[call-overload]  # a named tuple of pyarrow's, without stubs
    return int(months), int(days), int(nanoseconds)


def _day_interval_text(value: object) -> str:
    months, days, nanoseconds = _interval_parts(value)
    total = (months * 30 + days) * _DAY_US + nanoseconds // 1000
    whole, rest = divmod(abs(total) // 1000 * 1000, _DAY_US)
    return f"{'-' if total < 0 else ''}{whole} {_clock_text(rest)}"


def _year_interval_text(value: object) -> str:
    months, _, _ = _interval_parts(value)
    return f"{'-' if months < 0 else ''}{abs(months) // 12}-{abs(months) % 12}"


_SIMPLE: Final[dict[str, Formatter]] = {
    "boolean": _boolean_text,
    "real": real_text,
    "double": double_text,
    "decimal": _decimal_text,
    "varbinary": _binary_text,
    "date": date_text,
    "time": _time_text,
    "timestamp": timestamp_text,
    "interval day to second": _day_interval_text,
    "interval year to month": _year_interval_text,
}
