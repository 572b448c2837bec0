"""A page that is in memory is chosen, ordered and written exactly as DuckDB does it, byte for byte."""

from __future__ import annotations

import random
from pathlib import Path

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from queries.action_rows import action_json_sql
from queries.engine import Engine, EngineLimits
from queries.file_index import RetrievalFilter
from queries.memory_rows import json_texts, quoted
from queries.sources import Order
from storage.schema import TIMESTAMP
from tests.queries.histories import DAY_US, FIRST_US, Table, positions_of, rows_of, table_in

text = st.text(max_size=12)
row = st.tuples(
    text,
    st.none() | text,
    st.integers(0, 253_402_300_799_999_999) | st.integers(0, 10**12).map(lambda n: n * 1000),
    st.integers(-1439, 1439),
)


@given(rows=st.lists(row, max_size=20))
@settings(max_examples=60, deadline=None)
def test_texts_are_the_same(rows: list[tuple[str, str | None, int, int]]) -> None:
    table = pa.table(
        {
            "user_id": pa.array([one[0] for one in rows], pa.string()),
            "session_id": pa.array([one[1] for one in rows], pa.string()),
            # The local time, too, is a year of four digits.
            "time": pa.array([min(max(one[2], 10**11), 253_402_200_000_000_000) for one in rows], TIMESTAMP),
            "utc_offset_minutes": pa.array([one[3] for one in rows], pa.int16()),
            "type": pa.array(["click"] * len(rows), pa.string()),
            "properties": pa.array(['{"a":\n1}'] * len(rows), pa.string()),
        }
    )
    engine = Engine(EngineLimits(threads=1), Path("/nonexistent"))
    try:
        with engine.connect() as connection:
            connection.register("memory_rows", table)
            expected = connection.fetch(f"SELECT {action_json_sql()} AS row FROM memory_rows", {})
    finally:
        engine.close()
    assert json_texts(table) == expected["row"].to_pylist()


def test_every_character_is_quoted_as_duckdb_does() -> None:
    import duckdb

    characters = [chr(code) for code in range(0x3000) if not 0xD800 <= code < 0xE000]
    texts = [*characters, "\\u000b\x0b", "\x1f\\", '"\x1a"']
    expected = duckdb.execute("SELECT json_quote(unnest($1))::VARCHAR", [texts]).fetchall()
    assert [quoted(one) for one in texts] == [one[0] for one in expected]


@pytest.mark.parametrize("seed", range(3))
def test_pages_are_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    source = random.Random(seed)
    with table_in(tmp_path / "data") as table:
        view = table.view()
        rows = pa.concat_tables(
            rows_of(30, user=user, days=range(3), types=("click", "view"), first=1 + 30 * n, step_us=3)
            for n, user in enumerate(("ann", "anna", "ben"))
        )
        object.__setattr__(view, "hot", rows)
        for _ in range(20):
            user = source.choice(["ann", "ben", None])
            low = source.choice([None, FIRST_US + source.randrange(2 * DAY_US)])
            asked = RetrievalFilter(
                user,
                source.choice([None, "view"]),
                low,
                None if low is None else low + DAY_US,
                source.choice([None, "ann"]),
            )
            order: Order = source.choice(["asc", "desc"])
            found = _texts(table, view, asked, order)
            with monkeypatch.context() as patched:
                patched.setattr("queries.retrieval._PageReader._together", lambda *_: None)
                assert _texts(table, view, asked, order) == found
            assert len(found) == len(set(found)) <= positions_of(rows)[-1]


def _texts(table: Table, view: object, asked: RetrievalFilter, order: Order) -> list[str]:
    from queries.retrieval import RetrievalRequest, retrieve_page
    from storage.read_view import ReadView

    assert isinstance(view, ReadView)
    found: list[str] = []
    cursor = None
    with table.engine.connect() as connection:
        while True:
            page = retrieve_page(connection, view, RetrievalRequest(asked, order, 7, cursor))
            found += page.rows
            cursor = page.next
            if cursor is None:
                return found
