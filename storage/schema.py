"""The one schema: the columns of the table `actions`, the action types, and their promoted properties.

Every reader and writer takes its column names and types from here. Partition columns (`date`, `type`) are part of
the table but, as Delta Lake prescribes, not stored inside the data files.
"""

from __future__ import annotations

import builtins
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Final, Literal, get_args

import pyarrow as pa

ACTION_TYPE_PATTERN: Final = re.compile(r"[a-z0-9_-]{1,64}")
COLUMN_PATTERN: Final = re.compile(r"[a-z][a-z0-9_]{0,62}")

PromotedType = Literal["double", "bigint", "varchar", "boolean"]

_ARROW_TYPES: Final[Mapping[str, pa.DataType]] = {
    "double": pa.float64(),
    "bigint": pa.int64(),
    "varchar": pa.string(),
    "boolean": pa.bool_(),
}

TIMESTAMP: Final = pa.timestamp("us", tz="UTC")

PARTITION_COLUMNS: Final = ("date", "type")

_LEADING_FIELDS: Final = (
    pa.field("user_id", pa.string()),
    pa.field("session_id", pa.string()),
    pa.field("time", TIMESTAMP),
    pa.field("utc_offset_minutes", pa.int16()),
    pa.field("properties", pa.string()),
)
_TRAILING_FIELDS: Final = (
    pa.field("received_at", TIMESTAMP),
    pa.field("journal", pa.string()),
    pa.field("position", pa.int64()),
)
RESERVED_COLUMNS: Final = frozenset(
    [*PARTITION_COLUMNS, *(f.name for f in _LEADING_FIELDS), *(f.name for f in _TRAILING_FIELDS)]
)


@dataclass(frozen=True, slots=True)
class PromotedProperty:
    """A property that gets a typed column of its own: null where absent or not exactly of that type."""

    property: str
    column: str
    type: PromotedType

    def __post_init__(self) -> None:
        if not COLUMN_PATTERN.fullmatch(self.column):
            raise ValueError(f"column {self.column!r} must match {COLUMN_PATTERN.pattern}")
        if self.column in RESERVED_COLUMNS:
            raise ValueError(f"column {self.column!r} is one of the table's own columns")
        if self.type not in get_args(PromotedType):
            raise ValueError(f"type {self.type!r} of column {self.column!r} must be one of {get_args(PromotedType)}")

    # A field of this class is called `property`.
    @builtins.property
    def arrow_type(self) -> pa.DataType:
        """The column's Arrow type."""
        return _ARROW_TYPES[self.type]


@dataclass(frozen=True)
class TableColumns:
    """The columns of a table `actions` with these promoted ones, whichever configuration they come from."""

    promoted_fields: tuple[pa.Field, ...]

    @classmethod
    def of_table(cls, fields: Iterable[pa.Field]) -> TableColumns:
        """The columns of a table as it is, which may have more than the configuration promotes today.

        Columns of types that no promoted property has, added by somebody else, are not ours to write.
        """
        known = [(one.name, _plain(one.type)) for one in fields if one.name not in RESERVED_COLUMNS]
        return cls(tuple(pa.field(name, type_) for name, type_ in known if type_ in _ARROW_TYPES.values()))

    @cached_property
    def file_schema(self) -> pa.Schema:
        """The columns stored inside a data file: all but the partition columns."""
        return pa.schema([*_LEADING_FIELDS, *self.promoted_fields, *_TRAILING_FIELDS])

    @cached_property
    def table_schema(self) -> pa.Schema:
        """All columns of the table `actions`: `date` and `type` first, then the file's."""
        return pa.schema([pa.field("date", pa.date32()), pa.field("type", pa.string()), *self.file_schema])


def _plain(type_: pa.DataType) -> pa.DataType:
    return pa.string() if type_ in (pa.large_string(), pa.string_view()) else type_


DEFAULT_ACTION_TYPES: Final[Mapping[str, tuple[PromotedProperty, ...]]] = {
    "click": (
        PromotedProperty("locationX", "location_x", "double"),
        PromotedProperty("locationY", "location_y", "double"),
    ),
    "view": (PromotedProperty("viewedId", "viewed_id", "varchar"),),
    "navigate": (
        PromotedProperty("pageFrom", "page_from", "varchar"),
        PromotedProperty("pageTo", "page_to", "varchar"),
    ),
}


@dataclass(frozen=True)
class ActionSchema:
    """The action types that are accepted, each with its promoted properties.

    Two types may share a promoted column when they give it the same type.

    Raises:
        ValueError: a type's name or a column's name or type is not allowed, or two types disagree on a column.
    """

    action_types: Mapping[str, tuple[PromotedProperty, ...]] = field(default_factory=lambda: DEFAULT_ACTION_TYPES)

    def __post_init__(self) -> None:
        if not self.action_types:
            raise ValueError("at least one action type is needed")
        for name, promoted in self.action_types.items():
            if not ACTION_TYPE_PATTERN.fullmatch(name):
                raise ValueError(f"action type {name!r} must match {ACTION_TYPE_PATTERN.pattern}")
            for given, what in (([p.column for p in promoted], "column"), ([p.property for p in promoted], "property")):
                if len(set(given)) != len(given):
                    raise ValueError(f"action type {name!r} promotes one {what} twice")
        seen: dict[str, PromotedType] = {}
        for one in self._all_promoted():
            if seen.setdefault(one.column, one.type) != one.type:
                raise ValueError(f"column {one.column!r} has two types: {seen[one.column]} and {one.type}")

    def _all_promoted(self) -> Iterable[PromotedProperty]:
        for promoted in self.action_types.values():
            yield from promoted

    @cached_property
    def columns(self) -> TableColumns:
        """The table's columns for these types: its own and the promoted ones, in the order of their declaration."""
        return TableColumns(tuple({p.column: pa.field(p.column, p.arrow_type) for p in self._all_promoted()}.values()))

    @property
    def promoted_fields(self) -> tuple[pa.Field, ...]:
        """The promoted columns as Arrow fields, in the order in which the types declare them, each once."""
        return self.columns.promoted_fields

    @property
    def file_schema(self) -> pa.Schema:
        """The columns stored inside a data file: all but the partition columns."""
        return self.columns.file_schema

    @property
    def table_schema(self) -> pa.Schema:
        """All columns of the table `actions`: `date` and `type` first, then the file's."""
        return self.columns.table_schema
