"""A few rows as JSON objects, value by value: the same texts as `json_text` makes, sooner.

Each of Arrow's kernels takes microseconds before it looks at its first value, and a column needs several of them. For
the short answers that people and dashboards wait for, making each text in Python takes a fraction of that.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import pyarrow as pa

from queries.formats.array_parts import is_text_like
from queries.formats.json_text import NULL, json_key, json_text
from queries.formats.scalar_text import UNITS_PER_SECOND, date_text, timestamp_text

# Beyond it the kernels are as fast.
_VALUES_MAX: Final = 1_000
_BOOLEANS: Final = {True: "true", False: "false"}
_encode: Final = msgspec.json.Encoder().encode


def are_few(batch: pa.RecordBatch) -> bool:
    """Whether `few_objects` is the sooner way for these rows."""
    return bool(batch.num_rows * batch.num_columns <= _VALUES_MAX)


def few_objects(columns: Sequence[pa.Array], names: Sequence[str], *, before: str, after: str) -> bytes:
    """Build one JSON object a row, as `json_text.json_objects` does, and put them one after the other.

    Raises:
        TypeError: a column is of a type that no query gives.
    """
    members = ",".join(f"{json_key(name)}:".replace("%", "%%") + "%s" for name in names)
    row = f"{before}{{{members}}}{after}"
    return "".join([row % texts for texts in zip(*map(_texts, columns), strict=True)]).encode()


def _texts(column: pa.Array) -> list[str]:
    """The JSON text of each value."""
    data_type = column.type
    if pa.types.is_integer(data_type):
        return _each(column, str)
    if pa.types.is_boolean(data_type):
        return _each(column, _BOOLEANS.__getitem__)
    if is_text_like(data_type):
        return _each(column, lambda value: _encode(value).decode())
    if pa.types.is_date32(data_type):
        return _each(column.view(pa.int32()), lambda days: f'"{date_text(days)}"')
    if pa.types.is_timestamp(data_type):
        per_second, zone = UNITS_PER_SECOND[data_type.unit], "" if data_type.tz is None else "Z"
        return _each(column.view(pa.int64()), lambda ticks: f'"{timestamp_text(ticks, per_second, zone)}"')
    texts: list[str] = json_text(column).to_pylist()
    return texts


def _each(column: pa.Array, text_of: Callable[[Any], str]) -> list[str]:
    return [NULL if value is None else text_of(value) for value in column.to_pylist()]
