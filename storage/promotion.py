"""Promoted properties: values of an action's properties that get a typed column of their own.

A value is promoted only where it is exactly of the declared type: `"52"` is no number, `true` is no integer, an
integer beyond 64 bits is no bigint. Everything else is null in the column, and stays in the properties' text.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterable, Sequence
from itertools import compress
from operator import attrgetter
from typing import Any, Final

import msgspec
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from storage.schema import ActionSchema, PromotedProperty

_PYTHON_TYPES: Final[dict[str, type]] = {"double": float, "bigint": int, "varchar": str, "boolean": bool}
_BIGINT_MIN, _BIGINT_MAX = -(2**63), 2**63 - 1

_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


class NotAllJson(ValueError):
    """At least one of many texts is not a JSON object."""


class _Ignored(msgspec.Struct, gc=False):
    """An object of which nothing is wanted."""


_decode_marked_objects: Final = msgspec.json.Decoder(list[_Ignored | int]).decode


class _TypePromotion:
    """Reads the promoted values of one action type out of properties texts."""

    def __init__(self, promoted: Sequence[PromotedProperty]) -> None:
        self._promoted = promoted
        names = {f"value_{place}": one for place, one in enumerate(promoted)}
        struct = msgspec.defstruct(
            "PromotedValues",
            [(name, _PYTHON_TYPES[one.type] | None, None) for name, one in names.items()],
            rename={name: one.property for name, one in names.items()},
            gc=False,
        )
        self._decode_all = msgspec.json.Decoder(list[struct]).decode  # type: ignore[valid-type]  # made just above
        self._decode_marked = msgspec.json.Decoder(list[struct | int]).decode  # type: ignore[valid-type]
        self._values = [attrgetter(name) for name in names]
        self._decode_value = [msgspec.json.Decoder(_PYTHON_TYPES[one.type] | None).decode for one in promoted]

    def columns(self, raws: Sequence[msgspec.Raw]) -> dict[str, Sequence[Any]]:
        """Return, for each promoted column of the type, one value or None for each text."""
        try:
            objects = self._decode_all(b"".join((b"[", b",".join(raws), b"]")))
            # Column by column: a tuple for each text is one more object for the garbage collector to look at.
            columns: Iterable[Sequence[Any]] = [list(map(value, objects)) for value in self._values]
        except msgspec.ValidationError:
            columns = zip(*map(self._values_one_by_one, raws), strict=True)
        return {
            one.column: [_bigint(value) for value in values] if one.type == "bigint" else values
            for one, values in zip(self._promoted, columns, strict=True)
        }

    def arrays(self, texts: pa.StringArray) -> dict[str, pa.Array]:
        """Return, for each promoted column of the type, its values, in the order of *texts*, each beginning with `{`.

        Raises:
            NotAllJson: a text is no JSON object.
        """
        marker = secrets.randbits(62)
        joined = _joined(texts, marker)
        try:
            objects = _between(self._decode_marked(joined), marker, len(texts))
            columns: Iterable[Sequence[Any]] = [list(map(value, objects)) for value in self._values]
        except msgspec.ValidationError:
            _require_objects(joined, marker, len(texts))
            columns = zip(*(self._values_one_by_one(msgspec.Raw(text)) for text in texts.to_pylist()), strict=True)
        except (msgspec.DecodeError, RecursionError) as error:
            raise NotAllJson(str(error)) from error
        arrays: dict[str, pa.Array] = {}
        for one, values in zip(self._promoted, columns, strict=True):
            exact = [_bigint(value) for value in values] if one.type == "bigint" else values
            arrays[one.column] = pa.array(exact, one.arrow_type)
        return arrays

    def _values_one_by_one(self, raw: msgspec.Raw) -> list[Any]:
        fields = _decode_fields(raw)
        values: list[Any] = []
        for one, decode in zip(self._promoted, self._decode_value, strict=True):
            text = fields.get(one.property)
            try:
                values.append(None if text is None else decode(text))
            except msgspec.ValidationError:
                # Not of the declared type: by definition null in the column; the text keeps what was sent.
                values.append(None)
        return values


def _joined(texts: pa.StringArray, marker: int) -> bytes:
    """Make one JSON array of texts, with *marker* between every two of them.

    The marker is what keeps texts apart. Without it two of them could be JSON only together, `{"a":[1` and `2]}`, and
    a third make up for the count. Nobody who sends texts can know it.
    """
    offsets = pa.array([0, len(texts)], pa.int32())
    within = pc.binary_join(pa.ListArray.from_arrays(offsets, texts), f",{marker},")[0].as_buffer()
    return b"".join((b"[", within, b"]"))


def _between(decoded: list[Any], marker: int, count: int) -> list[Any]:
    """Return the objects, of which there must be one before, after and between the markers."""
    markers = decoded[1::2]
    if len(decoded) != 2 * count - 1 or markers.count(marker) != count - 1:
        raise NotAllJson("a text holds more or less than one object")
    return decoded[::2]


def _require_objects(joined: bytes, marker: int, count: int) -> None:
    try:
        _between(_decode_marked_objects(joined), marker, count)
    except (msgspec.DecodeError, RecursionError) as error:
        raise NotAllJson(str(error)) from error


def _bigint(value: int | None) -> int | None:
    return value if value is not None and _BIGINT_MIN <= value <= _BIGINT_MAX else None


class Promotion:
    """Turns properties texts into the promoted columns of one schema."""

    def __init__(self, schema: ActionSchema) -> None:
        self._arrow_types = {one.name: one.type for one in schema.promoted_fields}
        self._by_code = [_TypePromotion(promoted) if promoted else None for promoted in schema.action_types.values()]

    def columns(self, type_codes: Sequence[int], raws: Sequence[msgspec.Raw]) -> dict[int, dict[str, Sequence[Any]]]:
        """Return, for each type code that is present, column name → one value or None for each of its actions.

        Args:
            type_codes: the place of each action's type in `schema.action_types`.
            raws: the properties texts, each a JSON object.
        """
        columns: dict[int, dict[str, Sequence[Any]]] = {}
        present = set(type_codes)
        for code in present:
            promotion = self._by_code[code]
            if promotion is None:
                columns[code] = {}
            elif len(present) == 1:
                columns[code] = promotion.columns(raws)
            else:
                columns[code] = promotion.columns([r for r, of in zip(raws, type_codes, strict=True) if of == code])
        return columns

    def arrays_of_raws(self, type_codes: npt.NDArray[np.int16], raws: Sequence[msgspec.Raw]) -> dict[str, pa.Array]:
        """The same as `columns`, as arrays over all actions; a column in which none has a value is left out."""
        arrays: dict[str, pa.Array] = {}
        for code in np.flatnonzero(np.bincount(type_codes)):
            promotion = self._by_code[code]
            if promotion is None:
                continue
            of_type = type_codes == code
            for name, values in promotion.columns(list(compress(raws, of_type.tolist()))).items():
                _scatter(arrays, name, pa.array(values, self._arrow_types[name]), pa.array(of_type))
        return arrays

    def arrays(self, type_codes: pa.Array, texts: pa.StringArray) -> dict[str, pa.Array]:
        """Return the promoted columns that at least one of the rows has a value in, null in all others.

        Args:
            type_codes: the place of each row's type in `schema.action_types`.
            texts: the properties texts, each beginning with `{`.

        Raises:
            NotAllJson: a text is no JSON object.
        """
        present: list[int] = pc.unique(type_codes).to_pylist()
        arrays: dict[str, pa.Array] = {}
        for code in present:
            of_type = None if len(present) == 1 else pc.equal(type_codes, code)
            own = texts if of_type is None else texts.filter(of_type)
            promotion = self._by_code[code]
            if promotion is None:
                marker = secrets.randbits(62)
                _require_objects(_joined(own, marker), marker, len(own))
                continue
            for name, values in promotion.arrays(own).items():
                _scatter(arrays, name, values, of_type)
        return arrays


def _scatter(arrays: dict[str, pa.Array], name: str, values: pa.Array, of_type: pa.Array | None) -> None:
    """Put the values of the rows of a type, which *of_type* marks unless they are all, into a column of all rows."""
    if values.null_count == len(values):
        return
    if of_type is None:
        arrays[name] = values
    else:
        before = arrays[name] if name in arrays else pa.nulls(len(of_type), values.type)
        arrays[name] = pc.replace_with_mask(before, of_type, values)
