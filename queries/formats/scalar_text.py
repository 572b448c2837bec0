"""Values that are not nested as text: the one way of writing a time, a number or bytes, shared by JSON and CSV.

| values | text |
|---|---|
| times with a zone | RFC 3339 in UTC, with no fraction or 3, 6 or 9 digits: `2018-10-21T03:37:28.500Z` |
| times without a zone, dates, times of day | so without `Z`: `2018-10-21T03:37:28`, `2018-10-21`, `21:37:28.500` |
| years outside 0000 to 9999, infinite times | ISO 8601's expanded years, `+010000-01-01`; `infinity` and `-infinity` |
| decimals and 128-bit integers | all their digits, never an exponent |
| floating-point numbers | the shortest text that reads back the same; `nan`, `inf`, `-inf` |
| bytes | base64 |
| intervals and durations | ISO 8601: `P14M3DT4H5M6.789S`; months and days are as they were given |
| bit strings, times of day with an offset | `101`, `12:00:00+05:30` |

Whole arrays are turned at once; only values that have no kernel in Arrow (bytes, intervals, what lies outside the
usual years) are turned one by one.
"""

from __future__ import annotations

import base64
import datetime
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from queries.formats.array_parts import INTERVAL, decoded_dictionary, hugeint_decimals, is_binary_like

UNITS_PER_SECOND: Final = {"s": 1, "ms": 1_000, "us": 1_000_000, "ns": 1_000_000_000}
_COARSER_UNITS: Final = {"s": (), "ms": ("s",), "us": ("s", "ms"), "ns": ("s", "ms", "us")}
# From so many rows on it is worth looking whether values repeat.
_REPEATED_ROWS_MIN: Final = 512
_DAY_S: Final = 86_400
_INFINITE_TICKS: Final = (1 << 63) - 1
_DAYS_YEAR_0: Final = -719_528
_DAYS_YEAR_10000: Final = 2_932_897
_DAYS_PER_400_YEARS: Final = 146_097
# Hours, minutes and seconds.
_TWO_DIGITS: Final = tuple(f"{number:02d}" for number in range(60))
_DATES_REMEMBERED: Final = 512


def scalar_text(array: pa.Array) -> pa.Array:  # noqa: PLR0911 - one answer for each kind of type
    """Turn an array of values that are not nested into an array of strings; nulls stay null.

    Raises:
        TypeError: the values are nested, or of a type that no query gives.
    """
    data_type = array.type
    if isinstance(data_type, pa.BaseExtensionType):
        return _extension_text(array)
    if pa.types.is_dictionary(data_type):
        return scalar_text(decoded_dictionary(array))
    if pa.types.is_timestamp(data_type):
        return _timestamp_text(array)
    if pa.types.is_date(data_type):
        return _date_text(array.cast(pa.date32()))
    if pa.types.is_time(data_type):
        return _time_text(array)
    if pa.types.is_decimal(data_type):
        return _decimal_text(array)
    if pa.types.is_duration(data_type):
        return _each(array.cast(pa.int64()), lambda value: _duration_text(value, data_type.unit))
    if data_type == INTERVAL:
        return _each(array, lambda value: interval_text(value.months, value.days, value.nanoseconds))
    if is_binary_like(data_type):
        return _each(array, lambda value: base64.b64encode(value).decode("ascii"))
    if pa.types.is_nested(data_type) or pa.types.is_list_view(data_type) or pa.types.is_large_list_view(data_type):
        raise TypeError(f"values of the type {data_type} have no plain text")
    return array.cast(pa.string())


def _each(array: pa.Array, text_of: Callable[..., str]) -> pa.Array:
    return pa.array((None if value is None else text_of(value) for value in array.to_pylist()), pa.string())


def timestamp_parts(array: pa.Array) -> tuple[pa.Array, str]:
    """The texts of timestamps in two parts: what differs, and what each of them ends with (`Z`, or nothing)."""
    per_second = UNITS_PER_SECOND[array.type.unit]
    zone = "Z" if array.type.tz is not None else ""
    # Infinite times in nanoseconds lie within those years.
    first = max(_DAYS_YEAR_0 * _DAY_S * per_second, 1 - _INFINITE_TICKS)
    if not _within(array.view(pa.int64()), first, min(_DAYS_YEAR_10000 * _DAY_S * per_second, _INFINITE_TICKS)):
        return _far_timestamps_text(array, per_second, zone), ""
    return _each_once(array, _usual_timestamp_text), zone


def _each_once(array: pa.Array, text_of: Callable[[pa.Array], pa.Array]) -> pa.Array:
    """Turn an array by *text_of*, values that come many times, as dates and times of receipt do, only once."""
    if len(array) >= _REPEATED_ROWS_MIN:
        encoded = array.dictionary_encode()
        if len(encoded.dictionary) * 2 <= len(array):
            return text_of(encoded.dictionary).take(encoded.indices)
    return text_of(array)


# Times


def _timestamp_text(array: pa.Array) -> pa.Array:
    texts, zone = timestamp_parts(array)
    return pc.binary_join_element_wise(texts, zone, "") if zone else texts


def _far_timestamps_text(array: pa.Array, per_second: int, zone: str) -> pa.Array:
    return _each(array.view(pa.int64()), lambda value: timestamp_text(value, per_second, zone))


def _usual_timestamp_text(array: pa.Array) -> pa.Array:
    """The texts, without a zone, of timestamps in the years 0 to 9999."""
    unit = array.type.unit
    per_second = UNITS_PER_SECOND[unit]
    ticks = array.view(pa.int64())
    local = array.view(pa.timestamp(unit))
    for coarser in _COARSER_UNITS[unit]:
        # Where no fraction needs them, digits that would be cut again are not written.
        step = per_second // UNITS_PER_SECOND[coarser]
        coarse = pc.divide(ticks, step)
        if not pc.any(pc.not_equal(pc.multiply(coarse, step), ticks)).as_py():
            local, ticks, per_second = coarse.view(pa.timestamp(coarser)), coarse, UNITS_PER_SECOND[coarser]
            break
    texts = pc.binary_replace_slice(local.cast(pa.string()).view(pa.binary()), 10, 11, b"T").view(pa.string())
    return _shorten_fraction(texts, ticks, per_second, whole_length=19)


def _date_text(array: pa.Array) -> pa.Array:
    return _each_once(array, _plain_date_text)


def _plain_date_text(array: pa.Array) -> pa.Array:
    days = array.view(pa.int32())
    if not _within(days, _DAYS_YEAR_0, _DAYS_YEAR_10000):
        return _each(days, date_text)
    return array.cast(pa.string())


def _time_text(array: pa.Array) -> pa.Array:
    per_second = UNITS_PER_SECOND[array.type.unit]
    ticks = array.view(pa.int32() if pa.types.is_time32(array.type) else pa.int64()).cast(pa.int64())
    if not _within(ticks, 0, _DAY_S * per_second):
        return _each(ticks, lambda value: _clock_text(value, per_second))
    return _shorten_fraction(array.cast(pa.string()), ticks, per_second, whole_length=8)


def _within(array: pa.Array, first: int, end: int) -> bool:
    bounds = pc.min_max(array).as_py()
    return bounds["min"] is None or (first <= bounds["min"] and bounds["max"] < end)


def _shorten_fraction(texts: pa.Array, ticks: pa.Array, per_second: int, *, whole_length: int) -> pa.Array:
    """Cut fractions that Arrow writes in full down to 6, 3 or no digits where the others are zero."""
    length = whole_length + len(str(per_second))
    shortened = texts
    step = 1_000
    while step <= per_second:
        length -= 4 if step == per_second else 3
        divisible = pc.equal(pc.multiply(pc.divide(ticks, step), step), ticks)
        if pc.any(divisible).as_py():
            cut = pc.binary_slice(texts.view(pa.binary()), 0, length).view(pa.string())
            shortened = pc.if_else(divisible, cut, shortened)
        step *= 1_000
    return shortened


def timestamp_text(ticks: int, per_second: int, zone: str) -> str:
    """The text of any timestamp, in so many ticks a second since 1970, with *zone* at its end."""
    if (infinite := _infinite(ticks, 64)) is not None:
        return infinite
    days, within_day = divmod(ticks, _DAY_S * per_second)
    return f"{date_text(days)}T{_clock_text(within_day, per_second)}{zone}"


def _infinite(value: int, bits: int) -> str | None:
    if abs(value) != (1 << (bits - 1)) - 1:
        return None
    return "infinity" if value > 0 else "-infinity"


@lru_cache(maxsize=_DATES_REMEMBERED)
def date_text(days: int) -> str:
    """The text of any date, in days since 1970."""
    if (infinite := _infinite(days, 32)) is not None:
        return infinite
    # The calendar repeats every 400 years, so that any date has a twin that the datetime module knows.
    cycles = (days - _DAYS_YEAR_0) // _DAYS_PER_400_YEARS
    twin = _date_of(days - cycles * _DAYS_PER_400_YEARS)
    year = twin[0] + 400 * cycles
    written = f"{year:04d}" if 0 <= year <= 9999 else f"{year:+07d}"
    return f"{written}-{twin[1]:02d}-{twin[2]:02d}"


def _date_of(days: int) -> tuple[int, int, int]:
    """Year, month and day of a date of the years 0 to 399."""
    in_2000 = datetime.date(1970, 1, 1) + datetime.timedelta(days=days + 5 * _DAYS_PER_400_YEARS)
    return in_2000.year - 2000, in_2000.month, in_2000.day


def _clock_text(ticks: int, per_second: int) -> str:
    seconds, fraction = divmod(ticks, per_second)
    minutes, seconds = divmod(seconds, 60)
    hours, minutes = divmod(minutes, 60)
    clock = f"{_TWO_DIGITS[hours]}:{_TWO_DIGITS[minutes]}:{_TWO_DIGITS[seconds]}"
    return clock + _fraction_text(fraction, per_second) if fraction else clock


def _fraction_text(fraction: int, per_second: int) -> str:
    """`.5` of a second as `.500`: the fewest of 3, 6 or 9 digits that hold it."""
    while not fraction % 1_000:
        fraction, per_second = fraction // 1_000, per_second // 1_000
    return f".{str(per_second + fraction)[1:]}"


# Intervals


def interval_text(months: int, days: int, nanoseconds: int) -> str:
    """An interval in ISO 8601; its parts keep their signs, and none is converted to another: `P-1M3DT4H`."""
    date_part = "".join(f"{value}{letter}" for value, letter in ((months, "M"), (days, "D")) if value)
    time_part = _seconds_text(nanoseconds, 1_000_000_000)
    if not date_part and not time_part:
        return "PT0S"
    return f"P{date_part}{'T' if time_part else ''}{time_part}"


def _duration_text(ticks: int, unit: str) -> str:
    return f"PT{_seconds_text(ticks, UNITS_PER_SECOND[unit]) or '0S'}"


def _seconds_text(ticks: int, per_second: int) -> str:
    sign = "-" if ticks < 0 else ""
    seconds, fraction = divmod(abs(ticks), per_second)
    parts = [f"{sign}{value}{letter}" for value, letter in ((seconds // 3600, "H"), (seconds // 60 % 60, "M")) if value]
    if seconds % 60 or fraction:
        decimals = f"{fraction:0{len(str(per_second)) - 1}d}".rstrip("0") if fraction else ""
        parts.append(f"{sign}{seconds % 60}{'.' if decimals else ''}{decimals}S")
    return "".join(parts)


# Numbers


def _decimal_text(array: pa.Array) -> pa.Array:
    texts = array.cast(pa.string())
    # Arrow writes an exponent for what is smaller than a millionth, and for a negative scale.
    if not 0 <= array.type.scale <= 6 and pc.any(pc.match_substring(texts, "E")).as_py():
        return _each(array, lambda value: f"{value:f}")
    return texts


# What DuckDB alone knows


def _extension_text(array: pa.Array) -> pa.Array:
    data_type, storage = array.type, array.storage
    if isinstance(data_type, pa.OpaqueType) and data_type.vendor_name == "DuckDB":
        if data_type.type_name == "hugeint":
            return _decimal_text(hugeint_decimals(storage))
        decode = _OPAQUE_TEXTS.get(data_type.type_name)
        if decode is None:
            raise TypeError(f"values of DuckDB's type {data_type.type_name} have no text")
        return _each(storage, decode)
    match data_type.extension_name:
        case "arrow.bool8":
            return scalar_text(storage.cast(pa.bool_()))
        case "arrow.uuid":
            return _each(storage, _uuid_text)
        case _:
            return scalar_text(storage)


def _uuid_text(value: bytes) -> str:
    digits = value.hex()
    return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))


def _uhugeint_text(value: bytes) -> str:
    return str(int.from_bytes(value, "little"))


def _bignum_text(value: bytes) -> str:
    """A sign bit and the length in 3 bytes, then the magnitude, the highest first; all inverted if negative."""
    if value[0] & 0x80:
        return str(int.from_bytes(value[3:], "big"))
    return str(-int.from_bytes(bytes(byte ^ 0xFF for byte in value[3:]), "big"))


def _bit_text(value: bytes) -> str:
    """The number of bits that only fill the first byte up, then the bits."""
    bits = f"{int.from_bytes(value[1:], 'big'):0{8 * (len(value) - 1)}b}"
    return bits[value[0] :]


def _time_tz_text(value: bytes) -> str:
    """Microseconds in the upper 40 bits; in the lower 24 the offset, counted down from the largest in seconds."""
    packed = int.from_bytes(value, "little")
    offset_s = 57_599 - (packed & 0xFFFFFF)
    sign, distance_s = ("-" if offset_s < 0 else "+"), abs(offset_s)
    zone = f"{sign}{distance_s // 3600:02d}:{distance_s // 60 % 60:02d}"
    if distance_s % 60:
        zone += f":{distance_s % 60:02d}"
    return _clock_text(packed >> 24, 1_000_000) + zone


_OPAQUE_TEXTS: Final[Mapping[str, Callable[[bytes], str]]] = {
    "uhugeint": _uhugeint_text,
    "bignum": _bignum_text,
    "bit": _bit_text,
    "time_tz": _time_tz_text,
}
