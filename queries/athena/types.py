"""Trino's types: their names, how DuckDB spells them, and which of two wins.

A `timestamp with time zone` carries its zone in the type: DuckDB's own type holds an instant only, so the zone is
followed through the translation of the query. A zone of `None` means that it may differ from row to row.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

import pyarrow as pa

from queries.athena.errors import QueryError, UntranslatableError

DECIMAL_PRECISION_MAX: Final = 38
UTC: Final = "UTC"


@dataclass(frozen=True, slots=True)
class TrinoType:
    """One of Trino's types.

    Attributes:
        name: the bare name, such as `decimal` or `timestamp with time zone`.
        parameters: element types of an array, key and value of a map, field types of a row.
        fields: the names of a row's fields; None where a field has none.
        precision: digits of a decimal, of a second's fraction in a time, or the length of a varchar.
        scale: digits after a decimal's point.
        zone: the zone of a `timestamp with time zone`, None where rows may differ.
    """

    name: str
    parameters: tuple[TrinoType, ...] = ()
    fields: tuple[str | None, ...] = ()
    precision: int | None = None
    scale: int | None = None
    zone: str | None = UTC

    def __str__(self) -> str:  # noqa: PLR0911 (one return a kind reads best)
        """The type as Trino's `typeof` prints it."""
        if self.name == "decimal":
            return f"decimal({self.precision},{self.scale})"
        if self.name == "row":
            pairs = zip(self.fields, self.parameters, strict=True)
            return "row(" + ", ".join(f"{name} {kind}" if name else str(kind) for name, kind in pairs) + ")"
        if self.parameters:
            return f"{self.name}({', '.join(map(str, self.parameters))})"
        if self.name == "varchar":
            return "varchar" if self.precision is None else f"varchar({self.precision})"
        if self.name in ("timestamp", "time"):
            return f"{self.name}({self.precision})"
        if self.name == "timestamp with time zone":
            return f"timestamp({self.precision}) with time zone"
        return self.name

    def is_a(self, *names: str) -> bool:
        """Whether the bare name is one of *names*."""
        return self.name in names

    @property
    def element(self) -> TrinoType:
        """The type of an array's elements."""
        return self.parameters[0]

    @property
    def is_integer(self) -> bool:
        """Whether it is one of the four integer types."""
        return self.name in _INTEGER_DIGITS

    @property
    def is_numeric(self) -> bool:
        """Whether numbers of this type can be added."""
        return self.is_integer or self.name in ("decimal", "real", "double")

    @property
    def is_interval(self) -> bool:
        """Whether it is one of the two interval types."""
        return self.name.startswith("interval")

    @property
    def has_date(self) -> bool:
        """Whether it is a date or one of the two timestamps."""
        return self.name in ("date", "timestamp", "timestamp with time zone")

    def field_name(self, index: int) -> str:
        """The name under which a row's field number *index* (from 0) is kept in DuckDB and printed."""
        return self.fields[index] or f"field{index}"

    def to_plain(self) -> dict[str, object]:
        """The type as plain values, for a file's metadata."""
        plain: dict[str, object] = {
            key: value
            for key in ("name", "precision", "scale", "zone")
            if (value := getattr(self, key)) is not None or key == "zone"
        }
        if self.parameters:
            plain["parameters"] = [kind.to_plain() for kind in self.parameters]
            plain["fields"] = list(self.fields)
        return plain

    @classmethod
    def from_plain(cls, plain: Mapping[str, Any]) -> TrinoType:
        """The type that `to_plain` was called on."""
        return cls(
            plain["name"],
            tuple(map(cls.from_plain, plain.get("parameters", ()))),
            tuple(plain.get("fields", ())),
            plain.get("precision"),
            plain.get("scale"),
            plain.get("zone"),
        )

    def in_zone(self, zone: str | None) -> TrinoType:
        """The same type in another zone."""
        return dataclasses.replace(self, zone=zone)


_INTEGER_DIGITS: Final = {"tinyint": 3, "smallint": 5, "integer": 10, "bigint": 19}

BOOLEAN: Final = TrinoType("boolean")
TINYINT: Final = TrinoType("tinyint")
SMALLINT: Final = TrinoType("smallint")
INTEGER: Final = TrinoType("integer")
BIGINT: Final = TrinoType("bigint")
REAL: Final = TrinoType("real")
DOUBLE: Final = TrinoType("double")
VARCHAR: Final = TrinoType("varchar")
VARBINARY: Final = TrinoType("varbinary")
DATE: Final = TrinoType("date")
JSON: Final = TrinoType("json")
UUID: Final = TrinoType("uuid")
UNKNOWN: Final = TrinoType("unknown")
INTERVAL_DAY: Final = TrinoType("interval day to second")
INTERVAL_YEAR: Final = TrinoType("interval year to month")

_DUCKDB_NAMES: Final = {
    "boolean": "BOOLEAN",
    "tinyint": "TINYINT",
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "real": "FLOAT",
    "double": "DOUBLE",
    "varchar": "VARCHAR",
    "varbinary": "BLOB",
    "date": "DATE",
    "time": "TIME",
    "timestamp": "TIMESTAMP",
    "timestamp with time zone": "TIMESTAMPTZ",
    "interval day to second": "INTERVAL",
    "interval year to month": "INTERVAL",
    "json": "JSON",
    "uuid": "UUID",
}


def decimal(precision: int, scale: int) -> TrinoType:
    """`decimal(precision, scale)`, both held to 38 digits."""
    return TrinoType(
        "decimal", precision=min(precision, DECIMAL_PRECISION_MAX), scale=min(scale, DECIMAL_PRECISION_MAX)
    )


def varchar(length: int | None) -> TrinoType:
    """`varchar`, of at most *length* characters."""
    return TrinoType("varchar", precision=length)


def time(precision: int = 3) -> TrinoType:
    """`time` with so many digits of a second's fraction."""
    return TrinoType("time", precision=precision)


def timestamp(precision: int = 3) -> TrinoType:
    """`timestamp` with so many digits of a second's fraction."""
    return TrinoType("timestamp", precision=precision)


def timestamp_tz(precision: int = 3, zone: str | None = UTC) -> TrinoType:
    """`timestamp with time zone` with so many digits of a second's fraction."""
    return TrinoType("timestamp with time zone", precision=precision, zone=zone)


def array(element: TrinoType) -> TrinoType:
    """`array(element)`."""
    return TrinoType("array", (element,))


def map_of(key: TrinoType, value: TrinoType) -> TrinoType:
    """`map(key, value)`."""
    return TrinoType("map", (key, value))


def row(*fields: tuple[str | None, TrinoType]) -> TrinoType:
    """`row(name type, ...)`."""
    return TrinoType("row", tuple(kind for _, kind in fields), tuple(name for name, _ in fields))


def quoted(identifier: str) -> str:
    """*identifier* as DuckDB reads it back unchanged."""
    return '"' + identifier.replace('"', '""') + '"'


def duckdb_type(kind: TrinoType) -> str:
    """How DuckDB spells *kind*.

    Raises:
        UntranslatableError: DuckDB has nothing like it.
    """
    if kind.name == "decimal":
        return f"DECIMAL({kind.precision},{kind.scale})"
    if kind.name == "array":
        return f"{duckdb_type(kind.element)}[]"
    if kind.name == "map":
        return f"MAP({duckdb_type(kind.parameters[0])}, {duckdb_type(kind.parameters[1])})"
    if kind.name == "row":
        fields = (f"{quoted(kind.field_name(i))} {duckdb_type(p)}" for i, p in enumerate(kind.parameters))
        return f"STRUCT({', '.join(fields)})"
    if kind.name == "unknown":
        return "INTEGER"
    try:
        return _DUCKDB_NAMES[kind.name]
    except KeyError:
        raise UntranslatableError(f"the type {kind}") from None


def integer_as_decimal(kind: TrinoType) -> TrinoType:
    """The decimal that holds every number of an integer type; a decimal is returned as it is."""
    return decimal(_INTEGER_DIGITS[kind.name], 0) if kind.is_integer else kind


def common_super_type(left: TrinoType, right: TrinoType) -> TrinoType | None:  # noqa: PLR0911 (one return a rule reads best)
    """The type to which Trino coerces both, or None if there is none."""
    if left == right or right.name == "unknown":
        return left
    if left.name == "unknown":
        return right
    if left.is_numeric and right.is_numeric:
        return _common_number(left, right)
    if left.name == right.name:
        return _common_parameters(left, right)
    if left.has_date and right.has_date:
        precision = max(left.precision or 0, right.precision or 0)
        zoned = [kind.zone for kind in (left, right) if kind.name == "timestamp with time zone"]
        if not zoned:
            return timestamp(precision)
        return timestamp_tz(precision, UTC if set(zoned) == {UTC} else None)
    return None


def _common_number(left: TrinoType, right: TrinoType) -> TrinoType:
    for name in ("double", "real"):
        if name in (left.name, right.name):
            return TrinoType(name)
    if left.is_integer and right.is_integer:
        return max(left, right, key=lambda kind: _INTEGER_DIGITS[kind.name])
    a, b = integer_as_decimal(left), integer_as_decimal(right)
    scale = max(a.scale or 0, b.scale or 0)
    whole = max((a.precision or 0) - (a.scale or 0), (b.precision or 0) - (b.scale or 0))
    return decimal(whole + scale, scale)


def _common_parameters(left: TrinoType, right: TrinoType) -> TrinoType | None:
    if left.name == "varchar":
        bounded = left.precision is not None and right.precision is not None
        return varchar(max(left.precision or 0, right.precision or 0) if bounded else None)
    if left.name == "timestamp with time zone":
        zone = left.zone if left.zone == right.zone else None
        return timestamp_tz(max(left.precision or 0, right.precision or 0), zone)
    if left.precision is not None:
        return dataclasses.replace(left, precision=max(left.precision, right.precision or 0))
    if len(left.parameters) != len(right.parameters):
        return None
    pairs = zip(left.parameters, right.parameters, strict=True)
    common = tuple(common_super_type(a, b) for a, b in pairs)
    if any(kind is None for kind in common):
        return None
    names = tuple(a if a == b else None for a, b in zip(left.fields, right.fields, strict=True))
    return TrinoType(left.name, tuple(kind for kind in common if kind is not None), names)


def from_arrow(kind: pa.DataType) -> TrinoType:
    """The type that a table's column has in queries.

    Raises:
        QueryError: the column has a type that Trino does not have.
    """
    simple = {
        pa.bool_(): BOOLEAN,
        pa.int8(): TINYINT,
        pa.int16(): SMALLINT,
        pa.int32(): INTEGER,
        pa.int64(): BIGINT,
        pa.float32(): REAL,
        pa.float64(): DOUBLE,
        pa.string(): VARCHAR,
        pa.large_string(): VARCHAR,
        pa.binary(): VARBINARY,
        pa.date32(): DATE,
        pa.month_day_nano_interval(): INTERVAL_DAY,
    }
    if kind in simple:
        return simple[kind]
    if pa.types.is_decimal(kind):
        return (
            BIGINT
            if kind.precision == DECIMAL_PRECISION_MAX and kind.scale == 0
            else decimal(kind.precision, kind.scale)
        )
    if pa.types.is_timestamp(kind):
        digits = {"s": 0, "ms": 3, "us": 6, "ns": 9}[kind.unit]
        return timestamp(digits) if kind.tz is None else timestamp_tz(digits, kind.tz)
    if pa.types.is_list(kind):
        return array(from_arrow(kind.value_type))
    if pa.types.is_map(kind):
        return map_of(from_arrow(kind.key_type), from_arrow(kind.item_type))
    if pa.types.is_struct(kind):
        return row(*((field.name, from_arrow(field.type)) for field in kind))
    raise QueryError("NOT_SUPPORTED", f"a column of type {kind} cannot be queried")
