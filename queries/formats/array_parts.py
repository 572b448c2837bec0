"""What Arrow arrays consist of, with their slices already applied: the values of lists, the bytes of texts."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

INTERVAL: Final = pa.month_day_nano_interval()
UNBOUNDED_DIGITS: Final = ("hugeint", "uhugeint")


@dataclass(frozen=True, slots=True)
class ListParts:
    """An array of lists, taken apart.

    Attributes:
        offsets: where in *values* each list begins, and where the last one ends.
        values: the values of all lists; for maps an array of structs `key, value`.
        is_null: which lists are null.
    """

    offsets: pa.Array
    values: pa.Array
    is_null: pa.Array


def is_text_like(data_type: pa.DataType) -> bool:
    """Whether values are texts, however they are laid out."""
    return bool(
        pa.types.is_string(data_type) or pa.types.is_large_string(data_type) or pa.types.is_string_view(data_type)
    )


def is_binary_like(data_type: pa.DataType) -> bool:
    """Whether values are bytes, however they are laid out."""
    return bool(
        pa.types.is_binary(data_type)
        or pa.types.is_large_binary(data_type)
        or pa.types.is_binary_view(data_type)
        or pa.types.is_fixed_size_binary(data_type)
    )


def is_listlike(data_type: pa.DataType) -> bool:
    """Whether arrays of this type are lists of any kind; maps are not."""
    return bool(
        pa.types.is_list(data_type) or pa.types.is_large_list(data_type) or pa.types.is_fixed_size_list(data_type)
    )


def list_parts(array: pa.Array) -> ListParts:
    """Take an array of lists or maps apart."""
    if pa.types.is_fixed_size_list(array.type):
        array = array.cast(pa.list_(array.type.value_type))
    offsets = array.offsets
    first, last = offsets[0].as_py(), offsets[-1].as_py()
    if pa.types.is_map(array.type):
        keys, items = array.keys.slice(first, last - first), array.items.slice(first, last - first)
        values = pa.StructArray.from_arrays([keys, items], ["key", "value"])
    else:
        values = array.values.slice(first, last - first)
    return ListParts(pc.subtract(offsets, first).cast(pa.int32()), values, array.is_null())


def decoded_dictionary(array: pa.DictionaryArray) -> pa.Array:
    """The values that a dictionary stands for."""
    if not len(array.dictionary):
        # Indices under the nulls of an enclosing list may point anywhere, and here there is nothing to point at.
        return pa.nulls(len(array), array.type.value_type)
    return array.dictionary_decode()


def union_codes(array: pa.Array) -> pa.Array:
    """The type codes of a sparse union, which pyarrow's own property gives without the array's offset."""
    return pa.Array.from_buffers(pa.int8(), len(array), [None, array.buffers()[1]], offset=array.offset)


def union_children(array: pa.Array) -> list[tuple[int, pa.Array]]:
    """The members of a sparse union, each with its type code and as long as the union.

    Raises:
        TypeError: the union is dense; DuckDB makes sparse ones only.
    """
    if array.type.mode != "sparse":
        raise TypeError(f"a dense union cannot be encoded: {array.type}")
    return [(code, array.field(at)) for at, code in enumerate(array.type.type_codes)]


def text_bytes(texts: pa.Array) -> memoryview:
    """All bytes of an array of texts, one after the other, without a copy; those under nulls may be among them."""
    _, offsets, data = texts.buffers()
    if data is None or not len(texts):
        return memoryview(b"")
    kind, width = ("=q", 8) if pa.types.is_large_string(texts.type) else ("=i", 4)
    (start,) = struct.unpack_from(kind, offsets, texts.offset * width)
    (end,) = struct.unpack_from(kind, offsets, (texts.offset + len(texts)) * width)
    return memoryview(data)[start:end]


def hugeint_decimals(storage: pa.Array) -> pa.Array:
    """DuckDB's signed 128-bit integers as decimals; both keep 16 bytes in two's complement, the lowest first."""
    return pa.Array.from_buffers(pa.decimal128(38, 0), len(storage), storage.buffers(), offset=storage.offset)


def estimated_bytes(array: pa.Array) -> int:
    """The bytes that the values of an array take at most when dictionaries are written out."""
    data_type = array.type
    if isinstance(data_type, pa.BaseExtensionType):
        return estimated_bytes(array.storage)
    if pa.types.is_dictionary(data_type):
        return len(array) * _widest_bytes(array.dictionary)
    if is_listlike(data_type) or pa.types.is_map(data_type):
        return 4 * len(array) + estimated_bytes(list_parts(array).values)
    if pa.types.is_struct(data_type) or pa.types.is_union(data_type):
        return sum(estimated_bytes(array.field(at)) for at in range(data_type.num_fields))
    return int(array.nbytes)


def _widest_bytes(array: pa.Array) -> int:
    """The bytes of the widest value, or more."""
    if pa.types.is_string(array.type) or pa.types.is_large_string(array.type):
        return pc.max(pc.binary_length(array)).as_py() or 0
    return estimated_bytes(array)
