"""Columns as every reader of Arrow and Parquet takes them.

What pyarrow, Polars, pandas and Parquet all know stays as it is, nested or not. The rest becomes the nearest type
that they all know:

| in the result | in the answer |
|---|---|
| HUGEINT, UHUGEINT | decimal of 38 digits; a number with more is an error, as text it can be had |
| BOOLEAN, UUID, JSON as extension types | boolean, text, text |
| INTERVAL, UNION | text: ISO 8601, JSON (Polars and Parquet refuse both) |
| BIT, BIGNUM, TIME WITH TIME ZONE | text |
| arrays of a fixed size | lists |
| structs without members | text |
| members of a struct with the same name, as `row(1, 2)` has them | members with distinct names |
"""

from __future__ import annotations

from decimal import Decimal
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from queries.formats.array_parts import (
    INTERVAL,
    UNBOUNDED_DIGITS,
    hugeint_decimals,
    is_listlike,
    list_parts,
)
from queries.formats.json_text import json_text
from queries.formats.result_columns import distinct_names
from queries.formats.scalar_text import scalar_text
from storage.errors import InvalidInput

_DIGITS_MAX: Final = 38
_HUGEINT: Final = pa.decimal128(_DIGITS_MAX, 0)


class TooManyDigits(InvalidInput):
    """A number has more digits than Arrow's and Parquet's decimals hold."""

    def __init__(self) -> None:
        super().__init__(
            f"a number has more than {_DIGITS_MAX} digits, the most that Arrow and Parquet hold;"
            " cast it to VARCHAR, or ask for JSON or CSV"
        )


def portable_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of the answer: distinct names, portable types, nothing of the query's own metadata."""
    names = distinct_names(schema.names)
    return pa.schema([pa.field(name, portable_type(one.type)) for name, one in zip(names, schema, strict=True)])


def is_portable(schema: pa.Schema) -> bool:
    """Whether batches of *schema* are an answer as they are: nothing to rename, to convert, or to look at."""
    return bool(
        portable_schema(schema).equals(schema, check_metadata=True)
        and all(_is_unchanged(one.type) and "dictionary<" not in str(one.type) for one in schema)
    )


def portable_batch(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    """Make the columns of *batch* those of *schema*, which `portable_schema` made of its own.

    Raises:
        TooManyDigits: a number has more digits than a decimal holds.
    """
    return pa.RecordBatch.from_arrays([portable_array(column) for column in batch.columns], schema=schema)


def portable_type(data_type: pa.DataType) -> pa.DataType:
    """The type that values of *data_type* have in the answer."""
    if isinstance(data_type, pa.BaseExtensionType):
        return _portable_extension_type(data_type)
    if data_type == INTERVAL or pa.types.is_union(data_type) or _is_empty_struct(data_type):
        return pa.string()
    if is_listlike(data_type):
        return pa.list_(pa.field("element", portable_type(data_type.value_type)))
    if pa.types.is_map(data_type):
        return pa.map_(portable_type(data_type.key_type), portable_type(data_type.item_type))
    if pa.types.is_struct(data_type):
        members = [data_type.field(at) for at in range(data_type.num_fields)]
        names = distinct_names(one.name for one in members)
        return pa.struct([pa.field(name, portable_type(one.type)) for name, one in zip(names, members, strict=True)])
    return data_type


def portable_array(array: pa.Array) -> pa.Array:  # noqa: PLR0911 - one answer for each kind of type
    """Turn an array into one of its portable type.

    Raises:
        TooManyDigits: a number has more digits than a decimal holds.
    """
    data_type = array.type
    if isinstance(data_type, pa.BaseExtensionType):
        return _portable_extension_array(array)
    if data_type == _HUGEINT:
        return _checked_digits(array)
    if data_type == INTERVAL:
        return scalar_text(array)
    if pa.types.is_union(data_type) or _is_empty_struct(data_type):
        texts = json_text(array)
        return pc.if_else(pc.equal(texts, "null"), pa.scalar(None, pa.string()), texts)
    wanted = portable_type(data_type)
    if not pa.types.is_nested(data_type) or _is_unchanged(data_type):
        return array
    if pa.types.is_struct(data_type):
        members = [portable_array(array.field(at)) for at in range(data_type.num_fields)]
        return pa.StructArray.from_arrays(members, fields=list(wanted), mask=array.is_null())
    parts = list_parts(array)
    if pa.types.is_map(data_type):
        keys, items = (portable_array(parts.values.field(at)) for at in (0, 1))
        return pa.MapArray.from_arrays(parts.offsets, keys, items, type=wanted, mask=parts.is_null)
    return pa.ListArray.from_arrays(parts.offsets, portable_array(parts.values), type=wanted, mask=parts.is_null)


def _is_empty_struct(data_type: pa.DataType) -> bool:
    return bool(pa.types.is_struct(data_type) and data_type.num_fields == 0)


def _is_unchanged(data_type: pa.DataType) -> bool:
    """Whether the portable type is the type itself and its values need no look; names inside lists count as well."""
    return bool(portable_type(data_type).equals(data_type) and "decimal128(38, 0)" not in str(data_type))


def _portable_extension_type(data_type: pa.BaseExtensionType) -> pa.DataType:
    if isinstance(data_type, pa.OpaqueType) and data_type.vendor_name == "DuckDB":
        return _HUGEINT if data_type.type_name in UNBOUNDED_DIGITS else pa.string()
    match data_type.extension_name:
        case "arrow.bool8":
            return pa.bool_()
        case "arrow.uuid":
            return pa.string()
        case _:
            return portable_type(data_type.storage_type)


def _portable_extension_array(array: pa.ExtensionArray) -> pa.Array:
    wanted = _portable_extension_type(array.type)
    if wanted == _HUGEINT:
        if array.type.type_name == "hugeint":
            return _checked_digits(hugeint_decimals(array.storage))
        return _unsigned_decimals(array)
    if wanted == pa.bool_():
        return array.storage.cast(pa.bool_())
    if wanted == pa.string():
        return scalar_text(array)
    return portable_array(array.storage)


def _checked_digits(array: pa.Array) -> pa.Array:
    bounds = pc.min_max(array).as_py()
    if bounds["min"] is not None and max(-bounds["min"], bounds["max"]) >= 10**_DIGITS_MAX:
        raise TooManyDigits
    return array


def _unsigned_decimals(array: pa.ExtensionArray) -> pa.Array:
    texts = scalar_text(array).to_pylist()
    if any(one is not None and len(one) > _DIGITS_MAX for one in texts):
        raise TooManyDigits
    return pa.array([None if one is None else Decimal(one) for one in texts], _HUGEINT)
