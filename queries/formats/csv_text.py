"""Arrow arrays as the cells of CSV (RFC 4180): commas, lines ended by CR LF, quotes doubled inside quotes.

A null is an empty cell (`""` where it is the only one), an empty text is `""`. Nested values are their JSON text.
Unless asked for raw cells, a text that a spreadsheet would take for a formula gets an apostrophe in front; numbers and
times are never touched, nor is JSON, which DuckDB lets begin with a sign only where it is a number.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

from queries.formats.array_parts import text_bytes
from queries.formats.json_text import json_text
from queries.formats.scalar_text import scalar_text
from queries.formats.spreadsheet_formulas import FORMULA_START

LINE_END: Final = "\r\n"
# Excel takes a first line like it for the character at which the others are to be cut.
_SEPARATOR_LINE: Final = re.compile("sep=", re.IGNORECASE)
_MUST_BE_QUOTED: Final = '[",\r\n]'
_MAY_NEED_QUOTES: Final = re.compile(_MUST_BE_QUOTED.encode())


def csv_lines(columns: Sequence[pa.Array], *, raw: bool) -> pa.Array:
    """Build one line of CSV, with its end, for each row."""
    parts: list[pa.Array | str] = []
    for column in columns:
        parts += [csv_cells(column, raw=raw), ","]
    if len(columns) == 1:
        # A line without anything in it is no row to most readers.
        parts[0] = pc.if_else(pc.equal(parts[0], ""), '""', parts[0])
    parts[-1] = LINE_END
    return pc.binary_join_element_wise(*parts, "")


def csv_header(names: Sequence[str], *, raw: bool) -> bytes:
    """Build the line of the columns' names, which a query chooses freely, so that they are treated as texts are."""
    if not raw and len(names) == 1 and _SEPARATOR_LINE.match(names[0]):
        names = [f"'{names[0]}"]
    return text_bytes(csv_lines([pa.array([name], pa.string()) for name in names], raw=raw)).tobytes()


def csv_cells(array: pa.Array, *, raw: bool) -> pa.Array:
    """Turn an array into cells: defused unless *raw*, quoted where needed, without nulls."""
    data_type = array.type
    if pa.types.is_nested(data_type):
        texts = json_text(array)
        texts = pc.if_else(pc.equal(texts, "null"), pa.scalar(None, pa.string()), texts)
    else:
        texts = scalar_text(array)
        if _is_inert(data_type):
            return texts.fill_null("")
        if not raw and not _is_json(data_type):
            formula = pc.match_substring_regex(texts, FORMULA_START)
            texts = pc.if_else(formula, pc.binary_join_element_wise("'", texts, ""), texts)
    return _quote_where_needed(texts).fill_null("")


def _quote_where_needed(texts: pa.Array) -> pa.Array:
    needed = pc.equal(pc.binary_length(texts), 0)
    if _MAY_NEED_QUOTES.search(text_bytes(texts)):
        needed = pc.or_(needed, pc.match_substring_regex(texts, _MUST_BE_QUOTED))
    if not pc.any(needed).as_py():
        return texts
    quoted = pc.binary_join_element_wise('"', pc.replace_substring(texts, '"', '""'), '"', "")
    return pc.if_else(needed, quoted, texts)


def _is_json(data_type: pa.DataType) -> bool:
    """Whether texts are JSON by their type: what begins with a minus sign is a number then."""
    return bool(isinstance(data_type, pa.BaseExtensionType) and data_type.extension_name == "arrow.json")


def _is_inert(data_type: pa.DataType) -> bool:
    """Whether the texts of such values can neither be formulas nor need quotes."""
    if isinstance(data_type, pa.OpaqueType):
        return bool(data_type.vendor_name == "DuckDB")
    if isinstance(data_type, pa.BaseExtensionType):
        return data_type.extension_name in ("arrow.bool8", "arrow.uuid")
    return bool(
        pa.types.is_null(data_type)
        or pa.types.is_boolean(data_type)
        or pa.types.is_integer(data_type)
        or pa.types.is_floating(data_type)
        or pa.types.is_decimal(data_type)
        or pa.types.is_temporal(data_type)
    )
