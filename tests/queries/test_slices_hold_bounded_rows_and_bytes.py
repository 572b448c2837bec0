"""However rows lie in a day and however long their texts are, a slice holds no more rows and bytes than it may."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pyarrow as pa
import pytest

from queries import slice_rows, streaming
from queries.engine import Engine, EngineLimits, QueryConnection
from queries.file_index import RetrievalFilter
from queries.slice_cutting import SliceBounds, SliceCutter
from queries.slice_rows import read_slice
from storage.erased_rows import ErasedRows
from tests.queries.test_slices_read_directly_are_whole_and_in_order import (
    COLUMNS,
    FIRST_DAY,
    Row,
    as_table,
    microseconds,
    random_rows,
    write_files,
)
from tests.storage.building import DAY_US

BOUNDS = SliceBounds(rows_max=50, text_bytes_max=20_000)
ALL_DAY = RetrievalFilter(None, None, FIRST_DAY * DAY_US, (FIRST_DAY + 1) * DAY_US - 1)

# Arrow's buffers point to the pool that they are from, so that it must outlive them.
COUNTING_POOL = pa.proxy_memory_pool(pa.default_memory_pool())


@pytest.fixture
def connection(tmp_path: Path) -> Iterator[QueryConnection]:
    engine = Engine(EngineLimits(), tmp_path / "temp")
    with engine.connect() as opened:
        yield opened
    engine.close()


def burst(rnd: random.Random, count: int) -> list[Row]:
    """Rows of a day of which most are within some microseconds of its noon."""
    rows = random_rows(rnd, count, days=1, instants=86_400_000)
    noon = rows[0]["time"].replace(hour=12, minute=0, second=0, microsecond=0)
    for row in rows[: count * 3 // 4]:
        row["time"] = row["received_at"] = noon.replace(microsecond=rnd.randrange(300))
    return rows


def with_texts(rows: list[Row], lengths: list[int], different: int) -> list[Row]:
    """Give rows properties of these lengths, of which as many are different."""
    for at, row in enumerate(rows):
        number = at % different
        row["properties"] = json.dumps({"n": str(number).ljust(lengths[number % len(lengths)])})
    return rows


def cases() -> dict[str, list[Row]]:
    rnd = random.Random(5)
    return {
        "a burst": burst(rnd, 400),
        "long texts": with_texts(random_rows(rnd, 200, days=1, instants=86_400_000), [900], 200),
        "few long texts, which dictionaries hold once": with_texts(
            random_rows(rnd, 200, days=1, instants=86_400_000), [900], 5
        ),
        "some long texts": with_texts(burst(rnd, 200), [1, 1, 4_000], 200),
        "few rows with long texts": with_texts(random_rows(rnd, 49, days=1, instants=86_400_000), [2_000], 49),
    }


@pytest.mark.parametrize("descending", [False, True])
@pytest.mark.parametrize("name", cases())
def test_parts_cover_a_day_once_and_hold_what_they_may(
    connection: QueryConnection, tmp_path: Path, name: str, descending: bool
) -> None:
    rows = cases()[name]
    hot, stored = rows[:20], rows[20:]
    cutter = SliceCutter(connection, as_table(hot), ErasedRows(), BOUNDS)
    parts = list(cutter.parts(write_files(stored, tmp_path / "table"), ALL_DAY, descending=descending))
    in_order = parts[::-1] if descending else parts
    assert (in_order[0][0], in_order[-1][1]) == (ALL_DAY.from_us, ALL_DAY.to_us)
    assert all(after[0] == before[1] + 1 for before, after in pairwise(in_order) if before[1] is not None)
    assert len(parts) > 1
    for from_us, to_us in parts:
        assert from_us is not None
        assert to_us is not None
        inside = [row for row in rows if from_us <= microseconds(row) <= to_us]
        if len({microseconds(row) for row in inside}) > 1:
            assert len(inside) <= BOUNDS.rows_max
            assert sum(len(row["properties"]) for row in inside) <= BOUNDS.text_bytes_max


def test_parts_of_an_even_day_are_even(connection: QueryConnection, tmp_path: Path) -> None:
    rows = random_rows(random.Random(11), 520, days=1, instants=86_400_000)
    bounds = SliceBounds(rows_max=500, text_bytes_max=1_000_000)
    cutter = SliceCutter(connection, COLUMNS.empty_table(), ErasedRows(), bounds)
    _, (middle_us, _) = cutter.parts(write_files(rows, tmp_path / "table"), ALL_DAY, descending=False)
    assert middle_us is not None
    assert 240 < sum(microseconds(row) < middle_us for row in rows) < 280


def test_what_is_small_is_neither_cut_nor_counted(tmp_path: Path, connection: QueryConnection) -> None:
    rows = with_texts(random_rows(random.Random(8), 40, days=1, instants=50), [60], 40)
    connection.interrupt()  # A query would raise.
    cutter = SliceCutter(connection, COLUMNS.empty_table(), ErasedRows(), BOUNDS)
    parts = list(cutter.parts(write_files(rows, tmp_path / "table"), ALL_DAY, descending=False))
    assert parts == [(ALL_DAY.from_us, ALL_DAY.to_us)]


@pytest.mark.parametrize("different", [150, 5])
def test_long_texts_are_not_read_without_a_query(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, different: int
) -> None:
    rows = with_texts(random_rows(random.Random(9), 150, days=1, instants=50), [4_000], different)
    files = write_files(rows, tmp_path)
    nothing = COLUMNS.empty_table()

    def is_read() -> bool:
        return read_slice(files, nothing, ErasedRows(), ALL_DAY, "asc", COLUMNS, lambda: None) is not None

    assert is_read()
    monkeypatch.setattr(slice_rows, "PAGES_BYTES_MAX", 300_000)
    assert not is_read()


def test_what_was_sent_of_a_slice_is_held_no_longer(tmp_path: Path) -> None:
    rows = with_texts(random_rows(random.Random(10), 2_000, days=1, instants=50_000), [500], 2_000)
    files = write_files(rows, tmp_path)
    usual = pa.default_memory_pool()
    pa.set_memory_pool(COUNTING_POOL)
    try:
        read = read_slice(
            files, COLUMNS.empty_table(), ErasedRows(), ALL_DAY, "asc", COLUMNS, lambda: None, batch_rows=200
        )
        assert read is not None
        at_first = COUNTING_POOL.bytes_allocated()
        assert at_first > 2_000 * 500
        left = [COUNTING_POOL.bytes_allocated() for _ in read.batches(rows_max=None)]
        assert left[-1] < at_first * 0.3
        assert left == sorted(left, reverse=True)
    finally:
        pa.set_memory_pool(usual)


def test_the_bounds_are_what_usual_rows_need() -> None:
    assert streaming.SLICE_ROWS * 40 < streaming.SLICE_TEXT_BYTES <= slice_rows.PAGES_BYTES_MAX
