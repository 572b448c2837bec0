"""What a submission's columns were when it was accepted is what the table's rows are, however many are joined."""

from __future__ import annotations

import datetime
from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.columns import JournalRow, encode_columns, rows_to_table
from storage.errors import CorruptData
from storage.schema import ActionSchema, PromotedProperty

SCHEMA = ActionSchema(
    {
        "click": (PromotedProperty("x", "x", "double"), PromotedProperty("n", "n", "bigint")),
        "view": (PromotedProperty("x", "x", "double"), PromotedProperty("s", "s", "varchar")),
        "plain": (),
    }
)
_EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_PROMOTED = {"click": ("x", "n"), "view": ("x", "s"), "plain": ()}
_TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
_VALUES = {
    "x": st.none() | st.floats(allow_nan=False),
    "n": st.none() | st.integers(-(2**63), 2**63 - 1),
    "s": st.none() | _TEXT,
}


@st.composite
def actions(draw: st.DrawFn) -> dict[str, Any]:
    """One action as the table shows it, without what its submission adds."""
    kind = draw(st.sampled_from(list(_PROMOTED)))
    time_us = draw(st.integers(0, 253_402_300_799_999_999))
    moment = _EPOCH + datetime.timedelta(microseconds=time_us)
    return {
        "date": moment.date(),
        "type": kind,
        "time": moment,
        "utc_offset_minutes": draw(st.integers(-1439, 1439)),
        "properties": draw(_TEXT),
    } | {name: draw(_VALUES[name]) if name in _PROMOTED[kind] else None for name in _VALUES}


submissions = st.fixed_dictionaries(
    {
        "user_id": _TEXT.filter(bool),
        "session_id": st.none() | _TEXT,
        "received_at_us": st.integers(0, 2**52),
        "names": st.permutations(["click", "view", "plain", "never used"]),
        "actions": st.lists(actions(), min_size=1, max_size=5),
    }
)


def encode(names: list[str], rows: list[dict[str, Any]]) -> bytes:
    texts = [row["properties"].encode() for row in rows]
    promoted: dict[int, dict[str, list[Any]]] = {}
    for code, name in enumerate(names):
        of_type = [row for row in rows if row["type"] == name]
        if of_type:
            promoted[code] = {column: [row[column] for row in of_type] for column in _PROMOTED[name]}
    return encode_columns(
        times_us=[(row["time"] - _EPOCH) // datetime.timedelta(microseconds=1) for row in rows],
        utc_offsets_minutes=[row["utc_offset_minutes"] for row in rows],
        type_names=tuple(names),
        type_codes=[names.index(row["type"]) for row in rows],
        properties_lengths=[len(text) for text in texts],
        properties=b"".join(texts),
        promoted=promoted,
    )


@given(st.lists(submissions, max_size=5), st.integers(1, 2**40))
@settings(max_examples=150, deadline=None)
def test_columns_round_trip(given_submissions: list[dict[str, Any]], first: int) -> None:
    rows, expected, position = [], [], first
    for one in given_submissions:
        last = position + len(one["actions"]) - 1
        payload = encode(one["names"], one["actions"])
        rows.append(JournalRow(position, last, one["received_at_us"], one["user_id"], one["session_id"], payload))
        received_at = _EPOCH + datetime.timedelta(microseconds=one["received_at_us"])
        for action in one["actions"]:
            expected.append(
                action
                | {
                    "user_id": one["user_id"],
                    "session_id": one["session_id"],
                    "received_at": received_at,
                    "journal": "j",
                    "position": position,
                }
            )
            position += 1
    table = rows_to_table(iter(rows), "j", SCHEMA)
    assert table.schema == SCHEMA.table_schema
    table.validate(full=True)
    assert table.to_pylist() == [{name: row[name] for name in table.schema.names} for row in expected]


def row(payload: bytes, *, first: int = 1, last: int = 1) -> JournalRow:
    return JournalRow(first, last, 0, "u", None, payload)


def test_no_rows_are_an_empty_table_with_all_columns() -> None:
    assert rows_to_table([], "j", SCHEMA).schema == SCHEMA.table_schema
    assert rows_to_table([], "j", SCHEMA).num_rows == 0


def test_one_damaged_row_is_named_by_its_positions() -> None:
    good = encode(
        ["click"],
        [
            {"type": "click", "time": _EPOCH, "utc_offset_minutes": 0, "properties": "{}"}
            | {"x": None, "n": None, "s": None}
        ],
    )
    assert rows_to_table([row(good)], "j", SCHEMA).num_rows == 1
    with pytest.raises(CorruptData, match="journal j, positions 2 to 3"):
        rows_to_table([row(good), row(good, first=2, last=3)], "j", SCHEMA)
    for cut in range(len(good)):
        with pytest.raises(CorruptData, match="positions 2 to 2"):
            rows_to_table([row(good), row(good[:cut], first=2, last=2)], "j", SCHEMA)


def test_columns_the_schema_lacks_are_left_out_and_those_a_row_lacks_are_null() -> None:
    made = encode(
        ["click"],
        [
            {"type": "click", "time": _EPOCH, "utc_offset_minutes": 0, "properties": "{}"}
            | {"x": 1.5, "n": 2, "s": None}
        ],
    )
    other = ActionSchema({"click": (PromotedProperty("y", "y", "boolean"), PromotedProperty("n", "n", "bigint"))})
    table = rows_to_table([row(made)], "j", other)
    assert table.schema == other.table_schema
    assert table.select(["y", "n"]).to_pylist() == [{"y": None, "n": 2}]
    plain = ActionSchema({"view": ()})
    assert rows_to_table([row(made)], "j", plain)["type"].to_pylist() == ["click"]


def test_a_property_promoted_since_is_null_in_the_rows_before() -> None:
    """Two submissions under one list of types, of which the first was made before the property was declared."""
    action = {"type": "click", "time": _EPOCH, "utc_offset_minutes": 0, "properties": "{}", "x": 1.0, "n": 2, "s": None}
    before = encode_columns(
        times_us=[0, 0],
        utc_offsets_minutes=[0, 0],
        type_names=("click",),
        type_codes=[0, 0],
        properties_lengths=[2, 2],
        properties=b"{}{}",
        promoted={0: {}},
    )
    rows = [row(before, first=1, last=2), row(encode(["click"], [action]), first=3, last=3)]
    assert rows_to_table(rows, "j", SCHEMA)["n"].to_pylist() == [None, None, 2]
    rows.append(row(before, first=4, last=5))
    assert rows_to_table(rows, "j", SCHEMA)["n"].to_pylist() == [None, None, 2, None, None]


def test_large_texts_are_joined_as_they_are() -> None:
    text = "é" * 30_000
    made = encode(["plain"], [{"type": "plain", "time": _EPOCH, "utc_offset_minutes": 0, "properties": text}] * 3)
    table = rows_to_table([row(made, first=1, last=3), row(made, first=4, last=6)], "j", SCHEMA)
    assert table["properties"].to_pylist() == [text] * 6
    assert table["properties"].type == pa.string()
