"""What a part of a run leaves out is made again exactly: texts of properties, times, and the journal."""

from __future__ import annotations

import io
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.history import shapes as shapes_module
from storage.history.packed import (
    CopyDamaged,
    Notes,
    footer_metadata,
    notes_of,
    pack,
    stored_columns,
    unpack_journal,
    unpack_properties,
    unpack_times,
    us_of_times,
    writing_options,
)
from storage.history.shapes import find_shapes, made_texts
from storage.schema import ActionSchema, PromotedProperty

GROUP = 7
SCHEMA = ActionSchema(
    {
        "click": (PromotedProperty("x", "x", "double"), PromotedProperty("y", "y", "double")),
        "view": (PromotedProperty("from", "from_page", "varchar"), PromotedProperty("to", "to_page", "varchar")),
        "buy": (
            PromotedProperty("n", "n", "bigint"),
            PromotedProperty("gift", "gift", "boolean"),
            PromotedProperty("from", "from_page", "varchar"),
        ),
        "ping": (),
    }
).file_schema.insert(0, pa.field("type", pa.string()))
COMPACT = {"separators": (",", ":"), "ensure_ascii": False}
PLAIN: dict[str, Callable[[random.Random], dict[str, Any]]] = {
    "click": lambda of: {"x": of.randrange(2000), "y": of.randrange(2000)},
    "view": lambda of: {"from": of.choice("abc"), "to": of.choice(["a", "b", "é", ""])},
    "buy": lambda of: {"n": of.randrange(-9, 1 << 62), "gift": of.random() < 0.5, "from": of.choice("ab")},
    "ping": lambda _: {},
}
ODD = [
    '{"x":1.0,"y":2}', '{"x":-0,"y":-0.0}', '{"x":9007199254740993,"y":1e3}', '{"y":2,"x":1}', '{"x":1,"y":"2"}',
    '{"x":1}', '{"x": 1, "y": 2}', '{"x":0.5,"y":1}', '{"x":1,"y":2,"z":3}', '{"from":"\\u0061","to":"b"}',
    '{"from":"a\\"","to":"\\n"}', '{"from":null,"to":"a"}', '{"from":{"to":"a"},"to":[]}', "{}", "{ }",
    '{"x":1,"x":2,"y":3}', ' {"x":1,"y":2}', '{"x":1,"y":2}\n', '{"n":true,"gift":1}', '{"":""}',
]  # fmt: skip


def promoted(type_: str, text: str) -> dict[str, Any]:
    """The columns of a text as a submission has them: exactly of their type, or null."""
    found = json.loads(text)
    columns: dict[str, Any] = {}
    for name, key, kinds in (
        ("x", "x", (int, float)), ("y", "y", (int, float)), ("from_page", "from", (str,)), ("to_page", "to", (str,)),
        ("n", "n", (int,)), ("gift", "gift", (bool,)),
    ):  # fmt: skip
        of_type = {"x": "click", "y": "click", "to_page": "view", "n": "buy", "gift": "buy"}.get(name, type_)
        if of_type == type_ and type_ in ("click", "view", "buy") and type(found.get(key)) in kinds:
            columns[name] = float(found[key]) if name in ("x", "y") else found[key]
    return columns


def table(texts: Sequence[tuple[str, str]], **given: Sequence[Any]) -> pa.Table:
    """Rows of these types and properties; *given* columns instead of usual ones."""
    count = len(texts)
    columns: dict[str, Any] = {
        "type": [type_ for type_, _ in texts],
        "user_id": ["u"] * count,
        "session_id": [f"s{n // 3}" for n in range(count)],
        "time": [n * 1000 for n in range(count)],
        "utc_offset_minutes": [60] * count,
        "properties": [text for _, text in texts],
        "received_at": [n // 3 * 10_007 for n in range(count)],
        "journal": ["j"] * count,
        "position": list(range(count)),
        **given,
    }
    of_rows = [promoted(type_, text or "{}") for type_, text in texts]
    for name in ("x", "y", "from_page", "to_page", "n", "gift"):
        columns.setdefault(name, [row.get(name) for row in of_rows])
    arrays = []
    for field in SCHEMA:
        is_time = pa.types.is_timestamp(field.type)
        arrays.append(
            pa.array(columns[field.name], pa.int64()).cast(field.type)
            if is_time
            else pa.array(columns[field.name], field.type)
        )
    return pa.table(arrays, schema=SCHEMA)


def through_a_file(rows: pa.Table, *, tight: bool = False) -> tuple[pq.ParquetFile, Notes]:
    packed, notes = pack(rows, row_group_rows=GROUP)
    sink = io.BytesIO()
    with pq.ParquetWriter(sink, packed.schema, store_schema=False, **writing_options(packed, tight=tight)) as writer:
        writer.add_key_value_metadata(footer_metadata(notes))
        writer.write_table(packed, row_group_size=GROUP)
    file = pq.ParquetFile(io.BytesIO(sink.getvalue()), page_checksum_verification=True)
    assert notes_of(file.metadata.metadata) == notes
    return file, notes


def unpacked(read: pa.Table, notes: Notes) -> pa.Table:
    return unpack_properties(unpack_journal(unpack_times(read), notes), notes)


def require_same(rows: pa.Table) -> tuple[pq.ParquetFile, Notes]:
    """Whole, and each row group by itself, and with few columns."""
    for tight in (False, True):
        file, notes = through_a_file(rows, tight=tight)
        assert unpacked(file.read(), notes).select(SCHEMA.names).equals(rows)
        for group in range(file.num_row_groups):
            expected = rows.slice(group * GROUP, GROUP)
            assert unpacked(file.read_row_group(group), notes).select(SCHEMA.names).equals(expected)
            for wanted in (["properties", "time"], ["received_at", "time", "journal"], ["time", "type"]):
                stored = stored_columns(wanted, file.schema_arrow.names, notes)
                read = file.read_row_group(group, columns=stored)
                assert unpacked(read, notes).select(wanted).equals(expected.select(wanted))
    return file, notes


def text_of(type_: str, of: random.Random, **style: Any) -> str:
    return json.dumps(PLAIN[type_](of), **style)


@pytest.mark.parametrize("style", [COMPACT, {}, {"indent": 1}], ids=["compact", "as Python writes it", "indented"])
def test_texts_of_promoted_values_alone_are_left_out(style: Mapping[str, Any]) -> None:
    of = random.Random(1)
    rows = table(
        [(type_, text_of(type_, of, **{"ensure_ascii": False, **style})) for _ in range(50) for type_ in PLAIN]
    )
    file, notes = require_same(rows)
    assert set(notes.shapes) == set(PLAIN)
    stored = file.read()
    assert stored["properties"].null_count == len(stored)
    assert "journal" not in stored.column_names
    assert us_of_times(file.schema_arrow) == 1000
    # Of a page of one type no other type's columns are read.
    names = stored_columns(["properties"], file.schema_arrow.names, notes, action_type="click")
    assert set(names) == {"properties", "type", "x", "y"}


@pytest.mark.parametrize("seed", range(10))
def test_any_text_comes_back_as_it_was(seed: int) -> None:
    of = random.Random(seed)
    share = of.choice([0.0, 0.2, 0.9])
    types = list(PLAIN)[: of.randrange(1, 5)]
    texts = []
    for _ in range(of.choice([1, 6, 7, 8, 60, 700])):
        type_ = of.choice(types)
        texts.append((type_, of.choice(ODD) if of.random() < share else text_of(type_, of, **COMPACT)))
    require_same(table(texts))


def test_columns_that_are_not_what_the_text_says_change_no_text() -> None:
    """As after another configuration, or from a writer that is not ours."""
    texts = [("click", '{"x":1,"y":2}')] * 40
    odd = [1.0, None, 1.5, -0.0, math.inf, -math.inf, 1e300, 2.0**53] * 5
    rows = table(texts, x=odd)
    file, _ = require_same(rows)
    assert 0 < file.read()["properties"].null_count < 40
    with_nan = through_a_file(table(texts, x=[math.nan, 1.0] * 20))
    assert unpacked(with_nan[0].read(), with_nan[1])["properties"].to_pylist() == [texts[0][1]] * 40


def test_nulls_of_a_rows_own_stay_nulls() -> None:
    texts = [("click", '{"x":1,"y":2}')] * 20
    place, nothing = SCHEMA.get_field_index("properties"), pa.nulls(20, pa.string())
    without = table(texts).set_column(place, SCHEMA.field("properties"), nothing)
    _, notes = require_same(without)
    assert notes.shapes == {}
    file, _ = require_same(table(texts, received_at=[None, *range(19)]))
    assert "received_at" in file.schema_arrow.names
    _, notes = require_same(table(texts, journal=["j", "k"] * 10))
    assert notes.journal is None


def test_times_to_the_microsecond_and_late_receipts_are_kept() -> None:
    texts = [("ping", "{}")] * 30
    file, _ = require_same(table(texts, time=[n * 1000 + (n == 29) for n in range(30)]))
    assert us_of_times(file.schema_arrow) == 1
    # Received long after, at once, and before it happened.
    require_same(table(texts, received_at=[(-1) ** n * n * 86_400_000_000 + 1 for n in range(30)]))


def test_both_ways_of_making_texts_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    of = random.Random(3)
    texts = [(type_, text_of(type_, of, **COMPACT)) for _ in range(100) for type_ in PLAIN]
    texts += [(type_, text) for text in ODD for type_ in PLAIN]
    rows = table(texts)
    found = find_shapes(rows)
    assert set(found) == set(PLAIN)
    made = []
    for few in (0, len(texts)):
        monkeypatch.setattr(shapes_module, "_FEW_ROWS", few)
        made.append(made_texts(rows, found))
    assert made[0].equals(made[1])
    assert made_texts(rows.slice(0, 0), found).equals(pa.array([], pa.string()))


def test_texts_too_long_to_be_made_at_once_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [("click", '{"x":1,"y":2}')] * 20
    monkeypatch.setattr("storage.history.packed._MADE_BYTES_MAX", 1000)
    _, notes = require_same(table(texts))
    assert notes.shapes == {}


def test_what_cannot_be_made_is_damage() -> None:
    rows = table([("click", '{"x":1,"y":2}')] * 20)
    packed, notes = pack(rows, row_group_rows=GROUP)
    with pytest.raises(CopyDamaged):
        notes_of({b"other": b"{}"})
    with pytest.raises(CopyDamaged):
        unpack_times(packed.slice(1))
    without_values = packed.set_column(packed.column_names.index("x"), "x", [pa.nulls(20, pa.float64())])
    with pytest.raises(CopyDamaged):
        unpack_properties(without_values, notes)
