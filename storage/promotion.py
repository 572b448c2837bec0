"""Promoted properties: values of an action's properties that get a typed column of their own.

A value is promoted only where it is exactly of the declared type: `"52"` is no number, `true` is no integer, an
integer beyond 64 bits is no bigint. Everything else is null in the column, and stays in the properties' text.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final

import msgspec

from storage.schema import ActionSchema, PromotedProperty

_PYTHON_TYPES: Final[dict[str, type]] = {"double": float, "bigint": int, "varchar": str, "boolean": bool}
_BIGINT_MIN, _BIGINT_MAX = -(2**63), 2**63 - 1

_decode_fields: Final = msgspec.json.Decoder(dict[str, msgspec.Raw]).decode


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
        self._decode_value = [msgspec.json.Decoder(_PYTHON_TYPES[one.type] | None).decode for one in promoted]

    def columns(self, raws: Sequence[msgspec.Raw]) -> dict[str, Sequence[Any]]:
        """Return, for each promoted column of the type, one value or None for each text."""
        try:
            rows: Iterable[Sequence[Any]] = map(
                msgspec.structs.astuple, self._decode_all(b"[" + b",".join(raws) + b"]")
            )
        except msgspec.ValidationError:
            rows = map(self._values_one_by_one, raws)
        columns: dict[str, Sequence[Any]] = {}
        for one, values in zip(self._promoted, zip(*rows, strict=True), strict=True):
            columns[one.column] = [_bigint(value) for value in values] if one.type == "bigint" else values
        return columns

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


def _bigint(value: int | None) -> int | None:
    return value if value is not None and _BIGINT_MIN <= value <= _BIGINT_MAX else None


class Promotion:
    """Turns properties texts into the promoted columns of one schema."""

    def __init__(self, schema: ActionSchema) -> None:
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
