"""RFC 3339 times: text → microseconds since the epoch and the offset that it was written with.

Every time that enters the store is read here, so that two parsers never disagree. Accepted is RFC 3339 with an
offset and at most six fraction digits; not accepted is what `datetime.fromisoformat` or a JSON library would let
through beyond that: no offset, `+0530`, week dates, `24:00`, a leap second, a seventh digit.

The shape of a text is checked by turning every digit into `0` and looking the result up: a submission's times have
very few shapes, so this costs a fifth of a regular expression for each of them. Many texts are compared with the shape
of the first one of their length, all at once, and then read by Arrow in one call, twenty times as fast as one by one;
whatever is not read so, Python reads or refuses.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from itertools import compress
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
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
_LENGTH_MAX: Final = max(map(len, _SHAPES))
# How + and - differ.
_MINUS: Final = ord("+") ^ ord("-")


class _Template(NamedTuple):
    """A shape, with which many texts of its length are compared at once, each with a line feed at its end.

    Attributes:
        characters: of the shape, its offset positive, and the line feed.
        differences_max: by how much a text may differ in each, both taken as bits: a digit by what it is, a sign by
            `_MINUS`, and everything else not at all.
    """

    characters: npt.NDArray[np.uint8]
    differences_max: npt.NDArray[np.uint8]


def _template(shape: str) -> _Template:
    length, numeric = _SHAPES[shape]
    characters = np.frombuffer(f"{shape}\n".encode(), np.uint8).copy()
    differences_max = np.where(characters == ord("0"), 9, 0).astype(np.uint8)
    if numeric:
        characters[length], differences_max[length] = ord("+"), _MINUS
    return _Template(characters, differences_max)


_TEMPLATES: Final = {shape: _template(shape) for shape in _SHAPES}


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
        times_us, offsets = parse_times_as_arrays(texts)
        return times_us.tolist(), offsets.tolist()
    both = [parse_time(text) for text in texts]
    return [time_us for time_us, _ in both], [offset for _, offset in both]


def parse_times_as_arrays(texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]]:
    """The same as `parse_times`, as arrays; for more than a few times.

    Raises:
        ValueError: at least one of them is wrong; `parse_time` tells which and why.
    """
    found = _read_together(texts) if texts else None
    if found is not None:
        return found
    both = [parse_time(text) for text in texts]
    return np.array([time_us for time_us, _ in both], np.int64), np.array([offset for _, offset in both], np.int16)


def _read_together(texts: Sequence[str]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int16]] | None:
    """Read texts of which those of one length are of one shape; None if they are not, or if anything is wrong."""
    joined = "".join(texts)
    if not joined.isascii():
        return None
    n = len(texts)
    offsets = np.empty(n, np.int16)
    minutes = _offsets_of_one_shape(texts)
    if minutes is not None:
        offsets[:] = minutes
        ends = np.arange(n + 1, dtype=np.int32) * np.int32(len(texts[0]))
    else:
        lengths = np.fromiter(map(len, texts), np.int32, n)
        if lengths.min() == lengths.max() or lengths.max() > _LENGTH_MAX:
            return None
        for length in np.flatnonzero(np.bincount(lengths)):
            of_length = lengths == length
            minutes = _offsets_of_one_shape(list(compress(texts, of_length.tolist())))
            if minutes is None:
                return None
            offsets[of_length] = minutes
        ends = np.zeros(n + 1, np.int32)
        np.cumsum(lengths, out=ends[1:])
    try:
        times = pa.StringArray.from_buffers(n, pa.py_buffer(ends), pa.py_buffer(joined.encode())).cast(_TIMESTAMP)
    except pa.ArrowInvalid:
        return None
    times_us: npt.NDArray[np.int64] = np.frombuffer(times.buffers()[1], np.int64, n)
    return (times_us, offsets) if times_us.min() >= _SURELY_YEAR_1_US else None


def _offsets_of_one_shape(texts: Sequence[str]) -> npt.NDArray[np.int16] | int | None:
    """The offsets of ASCII texts in minutes, one for all or one each; None unless all have the shape of the first."""
    shape = texts[0].translate(_DIGITS_TO_ZERO)
    differences = _differences(texts, shape)
    if differences is None:
        return None
    length, numeric = _SHAPES[shape]
    if not numeric:
        return 0
    zones = differences[:, length:]
    if (zones == zones[0]).all():
        return _offset_minutes[texts[0][length:]]
    sign, hours_10, hours_1, _, minutes_10, minutes_1 = zones.T.astype(np.int16)
    hours, minutes = hours_10 * 10 + hours_1, minutes_10 * 10 + minutes_1
    if hours.max() > 23 or minutes.max() > 59 or (sign % _MINUS).any():
        return None
    offsets: npt.NDArray[np.int16] = (hours * 60 + minutes) * (1 - sign // (_MINUS // 2))
    return offsets


def _differences(texts: Sequence[str], shape: str) -> npt.NDArray[np.uint8] | None:
    """What each text differs by from the template of *shape*, a row each; None unless all are of that shape."""
    template = _TEMPLATES.get(shape)
    # Line by line, so that what one text has too much does not make up for what another lacks.
    lines = np.frombuffer("\n".join([*texts, ""]).encode(), np.uint8)
    if template is None or len(lines) != len(texts) * len(template.characters):
        return None
    differences = lines.reshape(len(texts), len(template.characters)) ^ template.characters
    return None if (differences > template.differences_max).any() else differences[:, :-1]


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
