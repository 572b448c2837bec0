"""The formats an answer can have, and which of them a request asks for."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from storage.errors import InvalidInput


class Format(StrEnum):
    """A format of rows; its value is what `format=` takes."""

    JSON = "json"
    NDJSON = "ndjson"
    CSV = "csv"
    ARROW = "arrow"
    PARQUET = "parquet"

    @property
    def media_type(self) -> str:
        """The media type without parameters, as an `Accept` names it."""
        return _MEDIA_TYPES[self]

    @property
    def content_type(self) -> str:
        """The value of `Content-Type` of an answer."""
        return f"{self.media_type}; charset=utf-8; header=present" if self is Format.CSV else self.media_type

    @property
    def suffix(self) -> str:
        """The suffix of a file that holds such an answer, with its dot."""
        return _SUFFIXES[self]


_MEDIA_TYPES: Final = {
    Format.JSON: "application/json",
    Format.NDJSON: "application/x-ndjson",
    Format.CSV: "text/csv",
    Format.ARROW: "application/vnd.apache.arrow.stream",
    Format.PARQUET: "application/vnd.apache.parquet",
}
_SUFFIXES: Final = {
    Format.JSON: ".json",
    Format.NDJSON: ".ndjson",
    Format.CSV: ".csv",
    Format.ARROW: ".arrows",
    Format.PARQUET: ".parquet",
}


_QUALITY: Final = re.compile(r"0(\.[0-9]{0,3})?|1(\.0{0,3})?")


class UnknownFormat(InvalidInput):
    """`format=` names no format.

    Attributes:
        parameter: the parameter at fault.
        message: what is wrong with it, without its name.
    """

    parameter: Final = "format"

    def __init__(self, given: str) -> None:
        self.message = f"{given!r} is not one of {', '.join(Format)}"
        super().__init__(f"{self.parameter}: {self.message}")


class NotAcceptable(InvalidInput):
    """An `Accept` allows none of the formats, or cannot be read; the message lists what there is."""

    def __init__(self, accept: str) -> None:
        there_is = ", ".join(_MEDIA_TYPES.values())
        super().__init__(f"Accept: {accept!r} allows none of the media types of this answer: {there_is}")


@dataclass(frozen=True, slots=True)
class _Range:
    """One media range of an `Accept`."""

    type: str
    subtype: str
    quality: float

    def precedence(self, media_type: str) -> int | None:
        """How exactly the range names *media_type*: 2 by its name, 1 by `type/*`, 0 by `*/*`, None not at all."""
        type_, _, subtype = media_type.partition("/")
        if self.type == "*":
            return 0 if self.subtype == "*" else None
        if self.type != type_:
            return None
        if self.subtype == "*":
            return 1
        return 2 if self.subtype == subtype else None


def negotiate(accept: str | None, format_: str | None) -> Format:
    """Choose the format of an answer.

    Args:
        accept: the value of `Accept`, read as RFC 9110 has it: a quality from 0 to 1, wildcards, the most exact range
            decides about a format. Between equals the order of `Format` decides, so JSON comes first.
        format_: the parameter `format`, in any case; where it is given, *accept* is not looked at.

    Raises:
        UnknownFormat: *format_* names no format.
        NotAcceptable: *accept* allows none.
    """
    if format_ is not None:
        try:
            return Format(format_.lower())
        except ValueError as error:
            raise UnknownFormat(format_) from error
    if accept is None or not accept.strip():
        return Format.JSON
    ranges = list(_ranges(accept))
    best = max(Format, key=lambda one: _quality(ranges, one.media_type))
    if _quality(ranges, best.media_type) <= 0:
        raise NotAcceptable(accept)
    return best


def _quality(ranges: list[_Range], media_type: str) -> float:
    """The quality that the most exact of *ranges* gives *media_type*; 0 if none names it."""
    matches = [(exactness, one.quality) for one in ranges if (exactness := one.precedence(media_type)) is not None]
    return max(matches, default=(0, 0.0))[1]


def _ranges(accept: str) -> Iterator[_Range]:
    for element in accept.lower().split(","):
        media_range, *parameters = [part.strip() for part in element.split(";")]
        if not media_range:
            continue
        type_, slash, subtype = media_range.partition("/")
        if not (slash and type_ and subtype):
            raise NotAcceptable(accept)
        quality = 1.0
        for parameter in parameters:
            name, _, value = parameter.partition("=")
            if name.strip() == "q":
                quality = _read_quality(value.strip(), accept)
        yield _Range(type_, subtype, quality)


def _read_quality(text: str, accept: str) -> float:
    if not _QUALITY.fullmatch(text):
        raise NotAcceptable(accept)
    return float(text)
