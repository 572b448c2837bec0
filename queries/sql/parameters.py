"""Bound parameters on their way to a worker: every kind keeps its type."""

from __future__ import annotations

import datetime
import decimal
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from queries.sql.errors import SqlError
from queries.sql.messages import ParameterValue

_INTEGER_BITS_MAX: Final = 63

_DECODERS: Final[dict[str, Callable[[Any], object]]] = {
    "as_is": lambda value: value,
    "integer": int,
    "decimal": decimal.Decimal,
    "date": datetime.date.fromisoformat,
    "time": datetime.time.fromisoformat,
    "datetime": datetime.datetime.fromisoformat,
    "list": lambda values: [decode_parameter(one) for one in values],
}


def encode_parameters(
    parameters: Sequence[object] | Mapping[str, object],
) -> list[ParameterValue] | dict[str, ParameterValue]:
    """Encode positional or named parameters.

    Raises:
        SqlError: a value is of a type that SQL does not know.
    """
    if isinstance(parameters, Mapping):
        return {str(name): encode_parameter(value) for name, value in parameters.items()}
    return [encode_parameter(value) for value in parameters]


def encode_parameter(value: object) -> ParameterValue:
    """Encode one value: null, boolean, number, text, bytes, date, time, or a list of such.

    Raises:
        SqlError: it is of another type.
    """
    match value:
        case None | bool() | float() | str() | bytes():
            return "as_is", value
        case int():
            return ("as_is", value) if value.bit_length() <= _INTEGER_BITS_MAX else ("integer", str(value))
        case decimal.Decimal():
            return "decimal", str(value)
        case datetime.datetime():
            return "datetime", value.isoformat()
        case datetime.date():
            return "date", value.isoformat()
        case datetime.time():
            return "time", value.isoformat()
        case list() | tuple():
            return "list", [encode_parameter(one) for one in value]
        case _:
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
