"""What the columns of a result are called: distinct names, and the names of their types."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

import pyarrow as pa

from queries.formats.array_parts import is_binary_like, is_listlike, is_text_like

_ASCII_LOWER: Final = str.maketrans({chr(code): chr(code + 32) for code in range(ord("A"), ord("Z") + 1)})


def distinct_names(names: Iterable[str]) -> list[str]:
    """Make names distinct as DuckDB does: `a`, `a`, `A` become `a`, `a_1`, `A_2`."""
    uses: dict[str, int] = {}
    distinct: list[str] = []
    for name in names:
        lower = name.translate(_ASCII_LOWER)
        if lower not in uses:
            uses[lower] = 1
            distinct.append(name)
            continue
        while (candidate := f"{name}_{uses[lower]}").translate(_ASCII_LOWER) in uses:
            uses[lower] += 1
        uses[candidate.translate(_ASCII_LOWER)] = 1
        distinct.append(candidate)
    return distinct


_SCALAR_NAMES: Final[Mapping[pa.DataType, str]] = {
    pa.null(): "NULL",
    pa.bool_(): "BOOLEAN",
    pa.int8(): "TINYINT",
    pa.int16(): "SMALLINT",
    pa.int32(): "INTEGER",
    pa.int64(): "BIGINT",
    pa.uint8(): "UTINYINT",
    pa.uint16(): "USMALLINT",
    pa.uint32(): "UINTEGER",
    pa.uint64(): "UBIGINT",
    pa.float16(): "FLOAT",
    pa.float32(): "FLOAT",
    pa.float64(): "DOUBLE",
    pa.date32(): "DATE",
    pa.date64(): "DATE",
    pa.timestamp("s"): "TIMESTAMP_S",
    pa.timestamp("ms"): "TIMESTAMP_MS",
    pa.timestamp("us"): "TIMESTAMP",
    pa.timestamp("ns"): "TIMESTAMP_NS",
    pa.month_day_nano_interval(): "INTERVAL",
}
_EXTENSION_NAMES: Final[Mapping[str, str]] = {"arrow.bool8": "BOOLEAN", "arrow.uuid": "UUID", "arrow.json": "JSON"}
_OPAQUE_NAMES: Final[Mapping[str, str]] = {"time_tz": "TIME WITH TIME ZONE"}
_FAMILY_NAMES: Final[tuple[tuple[Callable[[pa.DataType], bool], str], ...]] = (
    (is_text_like, "VARCHAR"),
    (is_binary_like, "BLOB"),
    (pa.types.is_timestamp, "TIMESTAMP WITH TIME ZONE"),
    (pa.types.is_time, "TIME"),
    (pa.types.is_duration, "INTERVAL"),
)


def sql_type_name(data_type: pa.DataType) -> str:  # noqa: PLR0911 - one answer for each kind of type
    """Name an Arrow type as SQL does.

    Raises:
        TypeError: no SQL type becomes such an Arrow type.
    """
    if isinstance(data_type, pa.BaseExtensionType):
        if isinstance(data_type, pa.OpaqueType):
            return _OPAQUE_NAMES.get(data_type.type_name, data_type.type_name.upper())
        known = _EXTENSION_NAMES.get(data_type.extension_name)
        return known if known is not None else sql_type_name(data_type.storage_type)
    if pa.types.is_decimal(data_type):
        # DuckDB hands out its 128-bit integers as decimals of 38 digits.
        if (data_type.precision, data_type.scale) == (38, 0):
            return "HUGEINT"
        return f"DECIMAL({data_type.precision},{data_type.scale})"
    if pa.types.is_dictionary(data_type):
        return "ENUM"
    if pa.types.is_map(data_type):
        return f"MAP({sql_type_name(data_type.key_type)}, {sql_type_name(data_type.item_type)})"
    if pa.types.is_fixed_size_list(data_type):
        return f"{sql_type_name(data_type.value_type)}[{data_type.list_size}]"
    if is_listlike(data_type):
        return f"{sql_type_name(data_type.value_type)}[]"
    if pa.types.is_struct(data_type) or pa.types.is_union(data_type):
        kind = "STRUCT" if pa.types.is_struct(data_type) else "UNION"
        fields = (data_type.field(at) for at in range(data_type.num_fields))
        return f"{kind}({', '.join(f'{_quoted(one.name)} {sql_type_name(one.type)}' for one in fields)})"
    if data_type in _SCALAR_NAMES:
        return _SCALAR_NAMES[data_type]
    for belongs, name in _FAMILY_NAMES:
        if belongs(data_type):
            return name
    raise TypeError(f"no SQL type is {data_type} in Arrow")


def _quoted(name: str) -> str:
    plain = name.isascii() and name.replace("_", "a").isalnum() and not name[0].isdigit()
    return name if plain else '"' + name.replace('"', '""') + '"'
