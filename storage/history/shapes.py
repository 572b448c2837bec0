"""Texts of properties that hold nothing but promoted values: what stands around the values is the same for a type.

An application writes the properties of a type by the same code each time. Where all of them are promoted, the text of a
row follows from its columns and the *shape* of the type: `{"locationX":` and `location_x`, `,"locationY":` and
`location_y`, and `}`. A shape is found in a sample of rows; whether the text of a row is really of the shape is told by
making it and comparing, so that a wrong shape costs bytes and never changes a text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.schema import RESERVED_COLUMNS

_SAMPLE_ROWS: Final = 64
# Up to here Python is faster row by row than Arrow is to begin.
_FEW_ROWS: Final = 512
# Whole numbers up to here are exact in a double, and written alike by everybody.
_DOUBLE_WHOLE_MAX: Final = float(1 << 53)
_TYPES: Final = (pa.string(), pa.bool_(), pa.int64(), pa.float64())


class Shape(msgspec.Struct, frozen=True, array_like=True):
    """What stands before each value, the columns that the values are in, and what stands behind the last."""

    before: tuple[str, ...]
    columns: tuple[str, ...]
    behind: str

    @property
    def length(self) -> int:
        """The bytes of a text without its values, quotes included."""
        return len("".join([*self.before, self.behind]).encode()) + 2 * len(self.columns)


Shapes = Mapping[str, Shape]
"""By type; types whose texts do not follow from columns are not in it."""


def find_shapes(rows: pa.Table) -> dict[str, Shape]:
    """Find the shapes of the types of *rows* by a sample of each."""
    promoted = [one.name for one in rows.schema if one.name not in RESERVED_COLUMNS and one.type in _TYPES]
    shapes = {}
    for type_ in pc.unique(rows["type"]).to_pylist():
        places = pc.indices_nonzero(pc.equal(rows["type"], type_))
        sample = rows.select([*promoted, "properties"]).take(places[:: max(1, len(places) // _SAMPLE_ROWS)])
        shape = _find(sample.slice(0, _SAMPLE_ROWS).to_pylist(), promoted)
        if shape is not None:
            shapes[type_] = shape
    return shapes


def _find(sample: Sequence[Mapping[str, Any]], promoted: Sequence[str]) -> Shape | None:
    """The shape that most rows have, of those that have one."""
    parsed = [(row, pairs) for row in sample if (pairs := _pairs(row["properties"])) is not None]
    found: Counter[Shape] = Counter()
    for row, pairs in parsed:
        # Columns that hold the same value in this row are told apart by the others with the same keys.
        alike = [(other, dict(of)) for other, of in parsed if [key for key, _ in of] == [key for key, _ in pairs]]
        columns: list[str] = []
        for key, value in pairs:
            candidates = [name for name in promoted if name not in columns and _same(row[name], value)]
            if not candidates:
                break
            columns.append(max(candidates, key=lambda name: sum(_same(one[name], of[key]) for one, of in alike)))
        shape = _cut(row["properties"], pairs, columns) if len(columns) == len(pairs) else None
        if shape is not None:
            found[shape] += 1
    return found.most_common(1)[0][0] if found else None


def _pairs(text: str) -> list[tuple[str, Any]] | None:
    """The members of an object, in order; None where it is no object, or a value is null or no plain one."""
    try:
        pairs = json.loads(text, object_pairs_hook=list)
    except ValueError:
        return None
    plain = isinstance(pairs, list) and all(isinstance(one, tuple) and _kind(one[1]) is not None for one in pairs)
    return pairs if plain else None


def _kind(value: object) -> type | None:
    return type(value) if type(value) in (str, bool, int, float) else None


def _same(column: object, value: object) -> bool:
    # 1 and 1.0 and True are equal to Python; a double's column holds whole numbers that were written as such.
    return column == value and (type(column) is type(value) or (type(column), type(value)) == (float, int))


def _cut(text: str, pairs: Sequence[tuple[str, Any]], columns: Sequence[str]) -> Shape | None:
    """Cut a text around its values; None where a value is not written as `made_texts` writes it."""
    before = []
    end = 0
    for key, value in pairs:
        quoted = json.dumps(key, ensure_ascii=False)
        at = text.find(quoted, end)
        colon = text.find(":", at + len(quoted))
        if at < 0 or colon < 0:
            return None
        begin = len(text) - len(text[colon + 1 :].lstrip())
        written = f'"{value}"' if isinstance(value, str) else json.dumps(value)
        if not text.startswith(written, begin):
            return None
        before.append(text[end:begin])
        end = begin + len(written)
    return Shape(tuple(before), tuple(columns), text[end:])


def made_texts(rows: pa.Table, shapes: Shapes) -> pa.Array:
    """Make the texts of all rows; null where a row's type has no shape, or a value is missing or not a plain one."""
    return _by_row(rows, shapes) if rows.num_rows <= _FEW_ROWS else _by_column(rows, shapes)


def _by_row(rows: pa.Table, shapes: Shapes) -> pa.Array:
    types = rows["type"].to_pylist()
    texts: list[str | None] = [None] * len(types)
    for type_ in set(types) & shapes.keys():
        shape = shapes[type_]
        columns = [rows[name].to_pylist() for name in shape.columns]
        for place, found in enumerate(types):
            if found == type_:
                text = ""
                for before, column in zip(shape.before, columns, strict=True):
                    written = _written(column[place])
                    if written is None:
                        break
                    text += before + written
                else:
                    texts[place] = text + shape.behind
    return pa.array(texts, pa.string())


def _written(value: Any) -> str | None:
    kind = type(value)
    if kind is str:
        return f'"{value}"'
    if kind is float:
        # Whole numbers only: others are written in as many ways as there are languages.
        return str(int(value)) if -_DOUBLE_WHOLE_MAX < value < _DOUBLE_WHOLE_MAX and value == int(value) else None
    if kind is bool:
        return "true" if value else "false"
    return str(value) if kind is int else None


def _all_written(values: pa.Array) -> pa.Array:
    """The texts of numbers or booleans, as `_written` writes each."""
    numbers = values
    if pa.types.is_floating(values.type):
        whole: npt.NDArray[np.float64] = values.drop_null().to_numpy()
        if ((np.abs(whole) < _DOUBLE_WHOLE_MAX) & (whole == np.trunc(whole))).all():
            numbers = values.cast(pa.int64())
    if pa.types.is_integer(numbers.type):
        return numbers.cast(pa.string())
    return pa.array([_written(value) for value in values.to_pylist()], pa.string())


def _by_column(rows: pa.Table, shapes: Shapes) -> pa.Array:
    """The same, type by type, and then all put into order."""
    types = rows["type"].combine_chunks()
    order = np.zeros(rows.num_rows, np.int64)
    missing = np.ones(rows.num_rows, np.bool_)
    texts: list[pa.Array] = []
    made = 0
    for type_, shape in shapes.items():
        of_type = pc.equal(types, type_)
        places = pc.indices_nonzero(of_type).to_numpy()
        if len(places):
            texts.append(_texts(rows.select(shape.columns).filter(of_type), shape, len(places)))
            order[places] = np.arange(made, made + len(places))
            missing[places] = False
            made += len(places)
    return pa.concat_arrays(texts or [pa.array([], pa.string())]).take(pa.array(order, mask=missing))


def _texts(rows: pa.Table, shape: Shape, count: int) -> pa.Array:
    if not shape.columns:
        return pa.repeat(pa.scalar(shape.behind, pa.string()), count)
    pieces: list[pa.Array | str] = []
    for place, (before, name) in enumerate(zip(shape.before, shape.columns, strict=True)):
        column = rows[name].combine_chunks()
        behind = shape.behind if place == len(shape.columns) - 1 else ""
        if pa.types.is_string(column.type):
            pieces += [before + '"', column, '"' + behind]
        else:
            # Each number is made a text once.
            encoded = column.dictionary_encode()
            different = pc.binary_join_element_wise(before, _all_written(encoded.dictionary), behind, "")
            pieces.append(different.take(encoded.indices))
    return pieces[0] if len(pieces) == 1 else pc.binary_join_element_wise(*pieces, "")
