"""Bound parameters on their way to a worker: every kind keeps its type."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from queries.sql.errors import SqlError
from queries.sql.messages import ParameterValue

_INTEGER_BITS_MAX: Final = 63
_DEPTH_MAX: Final = 64

# A datetime is a date, too, so it comes first.
_ENCODERS: Final[dict[type, tuple[str, Callable[[Any], str]]]] = {
    datetime.datetime: ("datetime", lambda value: str(value.isoformat())),
    datetime.date: ("date", lambda value: str(value.isoformat())),
    datetime.time: ("time", lambda value: str(value.isoformat())),
    decimal.Decimal: ("decimal", str),
}
_DECODERS: Final[dict[str, Callable[[Any], object]]] = {
    "as_is": lambda value: value,
    "integer": int,
    "decimal": decimal.Decimal,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
    "list": lambda values: [decode_parameter(one) for one in values],
}


def check_text(text: str) -> None:
    """Check that a text can be sent.

    Raises:
        SqlError: it has half of a surrogate pair in it.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise SqlError("the text has half of a surrogate pair in it", position=error.start) from None


def encode_parameters(
    parameters: Sequence[object] | Mapping[str, object],
) -> list[ParameterValue] | dict[str, ParameterValue]:
    """Encode positional or named parameters.

    Raises:
        SqlError: a value is of a type that SQL does not know, or no Unicode text.
    """
    if isinstance(parameters, Mapping):
        return {str(name): encode_parameter(value) for name, value in parameters.items()}
    return [encode_parameter(value) for value in parameters]


def encode_parameter(value: object, depth: int = 0) -> ParameterValue:
    """Encode one value: null, boolean, number, text, bytes, date, time, or a list of such.

    Raises:
        SqlError: it is of another type, or no Unicode text, or in more than 64 lists.
    """
    if isinstance(value, str):
        check_text(value)
    if value is None or isinstance(value, bool | float | str | bytes):
        return "as_is", value
    if isinstance(value, int):
        return ("as_is", value) if value.bit_length() <= _INTEGER_BITS_MAX else ("integer", str(value))
    if isinstance(value, list | tuple):
        if depth == _DEPTH_MAX:
            raise SqlError(f"a parameter has lists in more than {_DEPTH_MAX} levels")
        return "list", [encode_parameter(one, depth + 1) for one in value]
    for type_, (kind, encode) in _ENCODERS.items():
        if isinstance(value, type_):
            return kind, encode(value)
    raise SqlError(f"a parameter cannot be of the type {type(value).__name__}")


def decode_parameters(
    parameters: Sequence[ParameterValue] | Mapping[str, ParameterValue],
) -> list[object] | dict[str, object]:
    """Decode what `encode_parameters` made."""
    if isinstance(parameters, Mapping):
        return {name: decode_parameter(value) for name, value in parameters.items()}
    return [decode_parameter(value) for value in parameters]


def decode_parameter(parameter: Sequence[Any]) -> object:
    """Decode one value."""
    kind, value = parameter
    return _DECODERS[kind](value)
