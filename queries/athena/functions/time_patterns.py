"""Patterns of dates: MySQL's of `date_format` and Joda's of `format_datetime`, as those of DuckDB's strftime."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from queries.athena.errors import QueryError, UntranslatableError

_MYSQL: Final = {
    "a": "%a", "b": "%b", "c": "%-m", "d": "%d", "e": "%-d", "f": "%f", "H": "%H", "h": "%I", "I": "%I", "i": "%M",
    "j": "%j", "k": "%-H", "l": "%-I", "M": "%B", "m": "%m", "p": "%p", "r": "%I:%M:%S %p", "S": "%S", "s": "%S",
    "T": "%H:%M:%S", "v": "%V", "W": "%A", "x": "%G", "Y": "%Y", "y": "%y", "%": "%%",
}  # fmt: skip
_MYSQL_REFUSED: Final = frozenset("DUuVwX")

# Joda's letters; the count of a letter chooses among what is listed, the last entry for that many and more.
_JODA: Final[dict[str, tuple[str, ...]]] = {
    "y": ("%-Y", "%y", "%Y"),
    "Y": ("%-Y", "%y", "%Y"),
    "x": ("%G",),
    "M": ("%-m", "%m", "%b", "%B"),
    "d": ("%-d", "%d"),
    "D": ("%-j", "%j", "%j"),
    "E": ("%a", "%a", "%a", "%A"),
    "e": ("%u",),
    "w": ("%V", "%V"),
    "a": ("%p",),
    "H": ("%-H", "%H"),
    "h": ("%-I", "%I"),
    "m": ("%-M", "%M"),
    "s": ("%-S", "%S"),
}
_FRACTION: Final = {3: "%g", 6: "%f"}
_TOKEN: Final = re.compile(r"'((?:[^']|'')*)'|([A-Za-z])\2*|[^A-Za-z']+", re.DOTALL)


@dataclass(frozen=True, slots=True)
class TimePattern:
    """A pattern as strftime reads it.

    Attributes:
        strftime: the pattern; the offset, if there is one, stands as `zone` in it.
        has_year: whether a text of this pattern tells the year.
        has_two_digit_year: whether it tells it by two digits.
        has_offset: whether it tells the offset from UTC.
    """

    strftime: str
    has_year: bool
    has_two_digit_year: bool
    has_offset: bool = False


OFFSET: Final = "%z"


def mysql(pattern: str) -> TimePattern:
    """A pattern of `date_format` and `date_parse`.

    Raises:
        QueryError: Trino does not support a specifier either.
    """
    parts = re.findall(r"%(.)|([^%]+|%)", pattern, re.DOTALL)
    text = ""
    for specifier, plain in parts:
        if specifier in _MYSQL_REFUSED:
            raise QueryError("INVALID_FUNCTION_ARGUMENT", f"%{specifier} not supported in date format string")
        text += _MYSQL.get(specifier, specifier) if specifier else plain.replace("%", "%%")
    letters = {specifier for specifier, _ in parts}
    return TimePattern(text, bool(letters & set("Yyx")), "y" in letters)


def joda(pattern: str) -> TimePattern:
    """A pattern of `format_datetime` and `parse_datetime`.

    Raises:
        UntranslatableError: a letter, or so many of it, is not supported.
        QueryError: it is no pattern.
    """
    text, place, letters = "", 0, set()
    while place < len(pattern):
        match = _TOKEN.match(pattern, place)
        if match is None:
            raise QueryError("INVALID_FUNCTION_ARGUMENT", f"Invalid format: {pattern!r}")
        place = match.end()
        if match[1] is not None:
            text += (match[1].replace("''", "'") or "'").replace("%", "%%")
        elif match[2] is None:
            text += match[0].replace("%", "%%")
        else:
            text += _joda_field(match[2], len(match[0]))
            letters.add(match[2])
    two_digits = bool(re.search(r"(?<![yY])(?:yy|YY)(?![yY])", re.sub(r"'[^']*'", "", pattern)))
    has_year = bool({"y", "Y", "x"} & letters)
    return TimePattern(text, has_year, two_digits, "Z" in letters)


def _joda_field(letter: str, count: int) -> str:
    if letter == "S":
        if count not in _FRACTION:
            raise UntranslatableError(f"a date pattern with {'S' * count}", "is not supported; use SSS or SSSSSS")
        return _FRACTION[count]
    if letter == "Z" and count <= 2:
        return OFFSET
    choices = _JODA.get(letter)
    if (
        choices is None
        or (letter in "dDhHmsw" and count > len(choices))
        or (letter in "yYx" and count not in (1, 2, 4))
    ):
        raise UntranslatableError(f"a date pattern with {letter * count}")
    if letter == "x" and count == 2:
        raise UntranslatableError("a date pattern with xx")
    return choices[min(count, len(choices)) - 1]
