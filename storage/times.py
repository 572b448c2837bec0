"""RFC 3339 times: text → microseconds since the epoch and the offset that it was written with.

Every time that enters the store is read here, so that two parsers never disagree. Accepted is RFC 3339 with an
offset and at most six fraction digits; not accepted is what `datetime.fromisoformat` or a JSON library would let
through beyond that: no offset, `+0530`, week dates, `24:00`, a leap second, a seventh digit.

The shape of a text is checked by turning every digit into `0` and looking the result up: a submission's times have
very few shapes, so this costs a fifth of a regular expression for each of them. Many texts of right shapes are then
read by Arrow in one call, ten times as fast as one by one; whatever it does not read, Python reads or refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Final

import pyarrow as pa

_EPOCH: Final = datetime(1970, 1, 1)
_DAY_US: Final = 86_400_000_000
_SECOND_US: Final = 1_000_000
_DIGITS_TO_ZERO: Final = str.maketrans("123456789", "000000000")
_OFFSET_CACHE_ENTRIES_MAX: Final = 4096
_TIMESTAMP: Final = pa.timestamp("us", "UTC")
# Fewer are read faster one by one.
_MANY: Final = 24
# Arrow knows a year 0; its last day may be the first of year 1 in UTC.
_SURELY_YEAR_1_US: Final = (datetime(1, 1, 2) - _EPOCH) // timedelta(microseconds=1)


def _valid_shapes() -> dict[str, tuple[int, bool]]:
    """Map every valid shape to the length of its local part and whether its offset is numeric."""
    shapes: dict[str, tuple[int, bool]] = {}
    for separator in "Tt ":
        for digits in range(7):
            local = f"0000-00-00{separator}00:00:00" + ("." + "0" * digits if digits else "")
            for zone in ("Z", "z", "+00:00", "-00:00"):
                shapes[local + zone] = (len(local), len(zone) > 1)
    return shapes


_SHAPES: Final = _valid_shapes()


class _OffsetMinutes(dict[str, int]):
    """`+05:30` → 330, remembered; raises ValueError for hours over 23 or minutes over 59."""

    def __missing__(self, text: str) -> int:
        hours, minutes = int(text[1:3]), int(text[4:6])
        if hours > 23 or minutes > 59:
            raise ValueError(f"the offset {text} does not exist")
        value = (hours * 60 + minutes) * (-1 if text[0] == "-" else 1)
        if len(self) < _OFFSET_CACHE_ENTRIES_MAX:
            self[text] = value
        return value


_offset_minutes: Final = _OffsetMinutes()


def parse_time(text: str) -> tuple[int, int]:
    """Read one RFC 3339 time.

    Returns:
        Microseconds since 1970-01-01T00:00:00Z, and the offset in minutes (`Z` and `-00:00` are 0).

    Raises:
        ValueError: not RFC 3339, without an offset, with more than six fraction digits, or no such instant
            (`24:00`, `:60`, February 30). The message says which.
    """
    shape = _SHAPES.get(text.translate(_DIGITS_TO_ZERO))
    if shape is None:
        raise ValueError(_why_not(text))
    length, numeric = shape
    if text[11:13] == "24":
        raise ValueError("hour 24 does not exist; midnight is 00:00 of the next day")
    if text[17:19] == "60":
        raise ValueError("leap seconds are not representable")
    offset = _offset_minutes[text[length:]] if numeric else 0
    since = datetime.fromisoformat(text[:length]) - _EPOCH
    local_us = since.days * _DAY_US + since.seconds * _SECOND_US + since.microseconds
    return local_us - offset * 60 * _SECOND_US, offset


def parse_times(texts: Sequence[str]) -> tuple[list[int], list[int]]:
    """Read many times at once, each as `parse_time` does.

    Raises:
        ValueError: at least one of them is wrong; `parse_time` tells which and why.
    """
    if len(texts) >= _MANY:
        joined = "\n".join(texts)
        zeroed = joined.translate(_DIGITS_TO_ZERO) + "\n"
        shapes = [zeroed[: zeroed.index("\n")]]
        if zeroed != (shapes[0] + "\n") * len(texts):
            shapes = zeroed[:-1].split("\n")
        # A text that holds a line feed itself makes more shapes than texts.
        if len(shapes) in (1, len(texts)) and _SHAPES.keys() >= set(shapes):
            try:
                times = pa.array(texts, pa.string()).cast(_TIMESTAMP)
            except pa.ArrowInvalid:
                pass
            else:
                times_us = memoryview(times.buffers()[1]).cast("q").tolist()
                if min(times_us) >= _SURELY_YEAR_1_US:
                    return times_us, _offsets_of(texts, joined, shapes)
    both = [parse_time(text) for text in texts]
    return [time_us for time_us, _ in both], [offset for _, offset in both]


def _offsets_of(texts: Sequence[str], joined: str, shapes: Sequence[str]) -> list[int]:
    """The offsets of texts of right shapes, which are *shapes*, or all of the one that is given."""
    if len(shapes) > 1:
        # Of right shapes, each ends with Z or with an offset of six characters.
        return [0 if text[-1] in "Zz" else _offset_minutes[text[-6:]] for text in texts]
    length, numeric = _SHAPES[shapes[0]]
    if not numeric:
        return [0] * len(texts)
    stride = len(shapes[0]) + 1
    if all(joined[place::stride] == joined[place] * len(texts) for place in range(length, stride - 1)):
        return [_offset_minutes[texts[0][length:]]] * len(texts)
    return [_offset_minutes[text[length:]] for text in texts]


def _why_not(text: str) -> str:
    wanted = "a time is written as 2018-10-20T21:37:28.5-06:00"
    if not text.isascii() or len(text) < 19:
        return f"not an RFC 3339 time: {wanted}"
    zeroed = text.translate(_DIGITS_TO_ZERO)
    local = zeroed[:10] + "T" + zeroed[11:19]
    if zeroed[10] not in "Tt " or local != "0000-00-00T00:00:00":
        return f"not an RFC 3339 time: {wanted}"
    rest = zeroed[19:]
    if rest.startswith("."):
        fraction = rest[1:]
        digits = len(fraction) - len(fraction.lstrip("0"))
        if digits > 6:
            return "more than six fraction digits; times are kept to the microsecond"
        rest = fraction[digits:]
    if not rest:
        return "the offset is missing: end it with Z or an offset like -06:00"
    return f"the offset must be Z or like -06:00: {wanted}"
