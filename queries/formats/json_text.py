"""Arrow arrays as JSON texts, whole arrays at once, whatever their nesting.

Numbers are JSON numbers with all their digits, also those that a reader's floating-point numbers cannot hold; NaN and
infinities are `null`, JSON has none. Times, bytes, intervals and the like are strings as `scalar_text` writes them.
Lists are arrays, structs are objects, and so are maps, their keys turned into strings. A value of a union is the value
itself. A value of SQL's type JSON that Arrow tells from a text is put in as it is; where it is no strict JSON (DuckDB
lets `NaN` and trailing commas pass) it is a string.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import msgspec
import pyarrow as pa
import pyarrow.compute as pc

from queries.formats.array_parts import (
    decoded_dictionary,
    is_listlike,
    is_text_like,
    list_parts,
    text_bytes,
    union_children,
    union_codes,
)
from queries.formats.result_columns import distinct_names
from queries.formats.scalar_text import scalar_text, timestamp_parts

NULL: Final = "null"
_MUST_BE_ESCAPED: Final = re.compile(rb'["\\\x00-\x1f]')
_SHORT_ESCAPES: Final = {"\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}
_CONTROL_ESCAPES: Final = {chr(code): _SHORT_ESCAPES.get(chr(code), f"\\u{code:04x}") for code in range(0x20)}
_NUMERIC_OPAQUE: Final = ("hugeint", "uhugeint", "bignum")


def json_text(array: pa.Array) -> pa.Array:  # noqa: PLR0911 - one answer for each kind of type
    """Turn an array into an array of strings, each the JSON text of a value; nulls become `null`.

    Raises:
        TypeError: the array is of a type that no query gives.
    """
    data_type = array.type
    if isinstance(data_type, pa.BaseExtensionType) and data_type.extension_name == "arrow.json":
        return _embedded(array.storage.cast(pa.string()))
    if pa.types.is_dictionary(data_type):
        return json_text(decoded_dictionary(array))
    if pa.types.is_struct(data_type):
        return _objects(array)
    if pa.types.is_map(data_type):
        return _maps(array)
    if is_listlike(data_type):
        return _arrays(array)
    if pa.types.is_union(data_type):
        return _unions(array)
    texts = scalar_text(array)
    if pa.types.is_floating(data_type):
        texts = pc.if_else(pc.is_finite(array), texts, NULL)
    elif not _is_bare(data_type):
        texts = quoted(texts)
    return texts.fill_null(NULL)


def quoted(texts: pa.Array) -> pa.Array:
    """Turn an array of strings into the JSON texts of these strings; nulls stay null."""
    return pc.binary_join_element_wise('"', _escaped(texts), '"', "")


def _escaped(texts: pa.Array) -> pa.Array:
    """What stands between the quotes of the JSON texts of strings."""
    data = text_bytes(texts)
    if _MUST_BE_ESCAPED.search(data):
        present = data.tobytes()
        for special in ("\\", '"'):
            if special.encode() in present:
                texts = pc.replace_substring(texts, special, f"\\{special}")
        for control, escape in _CONTROL_ESCAPES.items():
            if control.encode() in present:
                texts = pc.replace_substring(texts, control, escape)
    return texts


def json_objects(columns: Sequence[pa.Array], names: Sequence[str], *, before: str, after: str) -> pa.Array:
    """Build one JSON object a row, with the columns under *names*, between the texts *before* and *after*."""
    parts: list[pa.Array | str] = []
    pending = before + "{"
    for at, (name, column) in enumerate(zip(names, columns, strict=True)):
        begin, texts, end = _member(column)
        parts += [f"{pending}{',' if at else ''}{json_key(name)}:{begin}", texts]
        pending = end
    return pc.binary_join_element_wise(*parts, f"{pending}}}{after}", "")


def _member(column: pa.Array) -> tuple[str, pa.Array, str]:
    """The JSON texts of a column in three parts: what each begins with, what differs, what each ends with.

    Quotes that every value has are so joined with what stands around them, instead of being joined twice.
    """
    if not column.null_count:
        if pa.types.is_timestamp(column.type):
            texts, zone = timestamp_parts(column)
            return '"', texts, f'{zone}"'
        if pa.types.is_date(column.type):
            return '"', scalar_text(column), '"'
        if is_text_like(column.type):
            return '"', _escaped(column.cast(pa.string())), '"'
    return "", json_text(column), ""


def json_key(name: str) -> str:
    """The JSON text of a member's name."""
    return msgspec.json.encode(name).decode()


def _is_bare(data_type: pa.DataType) -> bool:
    """Whether values are written without quotes."""
    if isinstance(data_type, pa.OpaqueType):
        return bool(data_type.vendor_name == "DuckDB" and data_type.type_name in _NUMERIC_OPAQUE)
    if isinstance(data_type, pa.BaseExtensionType):
        return bool(data_type.extension_name == "arrow.bool8")
    return bool(
        pa.types.is_boolean(data_type)
        or pa.types.is_integer(data_type)
        or pa.types.is_decimal(data_type)
        or pa.types.is_null(data_type)
    )


def _embedded(texts: pa.Array) -> pa.Array:
    # Line ends can only be white space between tokens, and NDJSON must not have them inside a row.
    texts = pc.replace_substring_regex(texts.fill_null(NULL), r"[\r\n]", " ")
    if _is_strict_json(f"[{','.join(texts.to_pylist())}]"):
        return texts
    strict = pa.array([_is_strict_json(one) for one in texts.to_pylist()], pa.bool_())
    return pc.if_else(strict, texts, quoted(texts))


def _is_strict_json(text: str) -> bool:
    try:
        msgspec.json.decode(text, type=msgspec.Raw)
    except (msgspec.DecodeError, RecursionError):
        return False
    return True


def _objects(array: pa.StructArray) -> pa.Array:
    fields = [array.type.field(at) for at in range(array.type.num_fields)]
    if not fields:
        return pc.if_else(array.is_valid(), "{}", NULL)
    children = [array.field(at) for at in range(len(fields))]
    objects = json_objects(children, distinct_names(one.name for one in fields), before="", after="")
    return pc.if_else(array.is_valid(), objects, NULL)


def _arrays(array: pa.Array) -> pa.Array:
    parts = list_parts(array)
    return _joined(parts.offsets, json_text(parts.values), parts.is_null, "[", "]")


def _maps(array: pa.MapArray) -> pa.Array:
    parts = list_parts(array)
    keys, items = parts.values.field(0), parts.values.field(1)
    key_texts = json_text(keys)
    if not is_text_like(keys.type):
        # Whatever a key is, its text is the name of a member: numbers as they are, what is quoted once is not twice.
        key_texts = quoted(scalar_text(keys) if not pa.types.is_nested(keys.type) else key_texts)
    entries = pc.binary_join_element_wise(key_texts, ":", json_text(items), "")
    return _joined(parts.offsets, entries, parts.is_null, "{", "}")


def _joined(offsets: pa.Array, texts: pa.Array, is_null: pa.Array, opening: str, closing: str) -> pa.Array:
    lists = pa.ListArray.from_arrays(offsets, texts, mask=is_null)
    joined = pc.binary_join_element_wise(opening, pc.binary_join(lists, ","), closing, "")
    return joined.fill_null(NULL)


def _unions(array: pa.UnionArray) -> pa.Array:
    codes = union_codes(array)
    texts = pa.array([NULL] * len(array), pa.string())
    for code, child in union_children(array):
        texts = pc.if_else(pc.equal(codes, code), json_text(child), texts)
    return texts
