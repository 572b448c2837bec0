"""Parts of sqlglot's syntax tree that several translators read: names in messages, types, and what may be there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from sqlglot import exp

from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.types import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTEGER,
    INTERVAL_DAY,
    INTERVAL_YEAR,
    JSON,
    REAL,
    SMALLINT,
    TINYINT,
    UUID,
    VARBINARY,
    VARCHAR,
    TrinoType,
    array,
    decimal,
    map_of,
    row,
    time,
    timestamp,
    timestamp_tz,
    varchar,
)

_SIMPLE_TYPES: Final = {
    exp.DType.BOOLEAN: BOOLEAN,
    exp.DType.TINYINT: TINYINT,
    exp.DType.SMALLINT: SMALLINT,
    exp.DType.INT: INTEGER,
    exp.DType.BIGINT: BIGINT,
    exp.DType.FLOAT: REAL,
    exp.DType.DOUBLE: DOUBLE,
    exp.DType.TEXT: VARCHAR,
    exp.DType.VARBINARY: VARBINARY,
    exp.DType.DATE: DATE,
    exp.DType.JSON: JSON,
    exp.DType.UUID: UUID,
}
_TIMED_TYPES: Final[dict[exp.DType, Callable[..., TrinoType]]] = {
    exp.DType.TIME: time,
    exp.DType.TIMESTAMP: timestamp,
    exp.DType.TIMESTAMPTZ: timestamp_tz,
}


def name_of(node: exp.Expr) -> str:
    """What *node* is called in a message: its keyword where it has one."""
    if isinstance(node, exp.Anonymous):
        return f"the function {node.name}"
    return _NAMES.get(type(node), node.key.replace("_", " ").upper())


_NAMES: Final[dict[type[exp.Expr], str]] = {
    exp.MatchRecognize: "MATCH_RECOGNIZE",
    exp.Version: "time travel (FOR TIMESTAMP AS OF, FOR VERSION AS OF)",
    exp.RegexpLike: "RLIKE",
    exp.Concat: "a string literal after another",
    exp.CurrentTime: "CURRENT_TIME",
    exp.CurrentUser: "CURRENT_USER",
    exp.CurrentCatalog: "CURRENT_CATALOG",
}


def require_only(node: exp.Expr, *parts: str, construct: str | None = None) -> None:
    """Refuse *node* if it has a part that is not among *parts*, so that nothing of a query is silently left out.

    Raises:
        UntranslatableError: it has.
    """
    for part, value in node.args.items():
        if part not in parts and value not in (None, False, []):
            inner = value[0] if isinstance(value, list) else value
            named = name_of(inner) if isinstance(inner, exp.Expr) else part.strip("_").replace("_", " ").upper()
            raise UntranslatableError(named if type(inner) in _NAMES else f"{named} in {construct or name_of(node)}")


def data_type(node: exp.DataType) -> TrinoType:  # noqa: PLR0911 (one return a kind reads best)
    """The type that is written in a query.

    Raises:
        UntranslatableError: it is not supported.
    """
    kind, parts = node.this, node.expressions
    numbers = [int(part.name) for part in parts if isinstance(part, exp.DataTypeParam) and part.name.isdigit()]
    if kind in _SIMPLE_TYPES and not parts:
        return _SIMPLE_TYPES[kind]
    if kind in _TIMED_TYPES and len(parts) == len(numbers) <= 1:
        return _TIMED_TYPES[kind](*numbers)
    if kind == exp.DType.VARCHAR and len(parts) == len(numbers) <= 1:
        return varchar(numbers[0] if numbers else None)
    if kind == exp.DType.DECIMAL and len(parts) == len(numbers) <= 2:
        return _decimal(*(numbers + [38, 0][len(numbers) :]))
    if kind == exp.DType.ARRAY and len(parts) == 1:
        return array(data_type(parts[0]))
    if kind == exp.DType.MAP and len(parts) == 2:
        return map_of(data_type(parts[0]), data_type(parts[1]))
    if kind == exp.DType.STRUCT and parts:
        return row(
            *(
                (part.name, data_type(part.args["kind"]))
                if isinstance(part, exp.ColumnDef)
                else (None, data_type(part))
                for part in parts
            )
        )
    if kind == exp.DType.INTERVAL:
        return INTERVAL_YEAR if "YEAR" in node.sql().upper() else INTERVAL_DAY
    raise UntranslatableError(f"the type {node.sql(dialect='trino').lower()}")


def _decimal(precision: int, scale: int) -> TrinoType:
    if not 1 <= precision <= 38 or scale > precision:
        raise QueryError("INVALID_LITERAL", f"Invalid decimal type: decimal({precision},{scale})")
    return decimal(precision, scale)
