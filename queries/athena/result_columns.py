"""The columns of a result as GetQueryResults describes them, and as the data catalog names their types."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from queries.athena.types import TrinoType

_VARCHAR_CHARACTERS: Final = 2_147_483_647
_PRECISIONS: Final = {
    "tinyint": 3,
    "smallint": 5,
    "integer": 10,
    "bigint": 19,
    "real": 17,
    "double": 17,
    "varchar": _VARCHAR_CHARACTERS,
    "varbinary": 1_073_741_824,
    "timestamp": 3,
    "timestamp with time zone": 3,
    "time": 3,
}
_TEXTUAL: Final = ("varchar", "json")
# In results Athena says float where its SQL says real.
_RESULT_NAMES: Final = {"real": "float"}
# The data catalog speaks Hive.
_HIVE_NAMES: Final = {
    "integer": "int",
    "real": "float",
    "varchar": "string",
    "json": "string",
    "uuid": "string",
    "varbinary": "binary",
    "timestamp with time zone": "timestamp",
    "interval day to second": "string",
    "interval year to month": "string",
    "unknown": "string",
}


def column_info(name: str, kind: TrinoType) -> dict[str, object]:
    """One ColumnInfo, all fields of it."""
    return {
        "CatalogName": "hive",
        "SchemaName": "",
        "TableName": "",
        "Name": name,
        "Label": name,
        "Type": _RESULT_NAMES.get(kind.name, kind.name),
        "Precision": kind.precision if kind.name == "decimal" else _precision(kind),
        "Scale": kind.scale or 0,
        "Nullable": "UNKNOWN",
        "CaseSensitive": kind.name in _TEXTUAL,
    }


def _precision(kind: TrinoType) -> int:
    if kind.name == "varchar" and kind.precision is not None:
        return kind.precision
    return _PRECISIONS.get(kind.name, 0)


def text_column_info(name: str) -> dict[str, object]:
    """One ColumnInfo of a statement that is no query, such as SHOW TABLES."""
    return {**column_info(name, TrinoType("string")), "Precision": 0}


def hive_type(kind: TrinoType) -> str:
    """The type as the data catalog names it: `string`, `array<bigint>`, `struct<x:int>`."""
    if kind.name == "decimal":
        return f"decimal({kind.precision},{kind.scale})"
    if kind.name == "array":
        return f"array<{hive_type(kind.element)}>"
    if kind.name == "map":
        return f"map<{hive_type(kind.parameters[0])},{hive_type(kind.parameters[1])}>"
    if kind.name == "row":
        fields = (f"{kind.field_name(i)}:{hive_type(p)}" for i, p in enumerate(kind.parameters))
        return f"struct<{','.join(fields)}>"
    return _HIVE_NAMES.get(kind.name, kind.name)


def hive_columns(columns: Mapping[str, TrinoType]) -> list[dict[str, object]]:
    """Columns as the data catalog lists them."""
    return [{"Name": name, "Type": hive_type(kind)} for name, kind in columns.items()]
