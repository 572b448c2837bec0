"""Rows that Arrow reads from few files are those that DuckDB reads from them, page by page, and no more is decoded."""

from __future__ import annotations

import random
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from queries.direct_reading import DirectReader
from queries.engine import QueryStopped
from queries.file_index import RetrievalFilter
from queries.retrieval import RetrievalRequest, retrieve_page
from queries.sources import Order
from storage.erased_rows import ErasedRows
from storage.read_view import ReadView
from tests.queries.histories import DAY_US, FIRST_US, Table, chosen, full_scan, positions_of, rows_of, table_in

TYPES = ("click", "view")
USERS = ("ann", "anna", "ben", "é🙂")
HOUR_US = DAY_US // 24


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    """Two days of files with several row groups each, and many rows at the same time."""
    monkeypatch.setattr("storage.data_files.ROW_GROUP_ROWS", 16)
    with table_in(tmp_path / "data") as made:
        for number in range(8):
            user = USERS[number % len(USERS)]
            made.add(
                rows_of(
                    40, user=user, days=[0, 1], types=TYPES, first=made.next_position, step_us=HOUR_US // (1 + number)
                )
            )
        made.compact()
        yield made


def random_question(source: random.Random) -> tuple[RetrievalFilter, Order, int]:
    low = FIRST_US + source.randrange(0, 2 * DAY_US, HOUR_US)
    low_us, high_us = source.choice([(None, None), (low, low + HOUR_US), (low, low), (low, low + DAY_US)])
    user, prefix = source.choice([(None, None), (None, "ann"), ("ann", None), ("nobody", None), (None, "\U0010ffff")])
    asked = RetrievalFilter(user, source.choice([None, *TYPES]), low_us, high_us, prefix)
    return asked, source.choice(["asc", "desc"]), source.choice([3, 50, 1000])


@pytest.mark.parametrize("seed", range(2))
def test_every_page_is_that_of_duckdb_and_of_a_full_scan(
    table: Table, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    view = table.view()
    everything = full_scan(view)
    source = random.Random(seed)
    found_directly = 0
    for _ in range(25):
        asked, order, limit = random_question(source)
        with monkeypatch.context() as patched:
            patched.setattr("queries.direct_reading.FILES_MAX", 1000)
            patched.setattr("queries.engine.QueryConnection.fetch", _refuse)
            directly = table.paged(view, asked, order, limit)
        with monkeypatch.context() as patched:
            patched.setattr("queries.direct_reading.FILES_MAX", 0)
            assert table.paged(view, asked, order, limit) == directly
        assert directly == positions_of(chosen(everything, asked, order)), (asked, order, limit)
        found_directly += len(directly)
    assert found_directly


def _refuse(*_: object) -> None:
    raise AssertionError("DuckDB was asked")


def test_rows_whose_erasure_is_under_way_are_left_out(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    view = table.view()
    object.__setattr__(view, "erased", ErasedRows.of([("ann", {"j": 100}), ("ben", {})]))
    for asked in (RetrievalFilter(None, "click"), RetrievalFilter("ann"), RetrievalFilter("ben")):
        pages = []
        for files_max in (0, 1000):
            monkeypatch.setattr("queries.direct_reading.FILES_MAX", files_max)
            pages.append(table.paged(view, asked, "desc", 7))
        assert pages[0] == pages[1]
        assert not set(pages[1]) & set(range(81, 100))


def test_only_row_groups_with_a_wanted_row_are_decoded_beyond_the_deciding_columns(table: Table) -> None:
    view = table.view()
    [a_file] = [
        one for one in view.files if one.type == "click" and one.date.toordinal() == view.files[0].date.toordinal()
    ]
    nothing = RetrievalFilter(None, "click", a_file.time_min_us + 1, a_file.time_min_us + 1)
    whole = table.page(view, RetrievalFilter(None, "click", FIRST_US, FIRST_US + DAY_US - 1))
    none = table.page(view, nothing)
    assert whole.rows
    assert not none.rows
    assert 0 < none.statistics.scanned_bytes < whole.statistics.scanned_bytes / 4
    one_user = table.page(view, RetrievalFilter("é🙂", "click", FIRST_US, FIRST_US + DAY_US - 1))
    assert 0 < one_user.statistics.scanned_bytes < whole.statistics.scanned_bytes


def test_an_interrupted_retrieval_reads_no_further(table: Table) -> None:
    view: ReadView = table.view()
    with table.engine.connect() as connection:
        connection.interrupt()
        with pytest.raises(QueryStopped):
            retrieve_page(connection, view, RetrievalRequest(RetrievalFilter(None, "click"), "asc", 10))


def test_footers_are_kept_within_their_bound(table: Table) -> None:
    reader = DirectReader(footers_bytes_max=1)
    files = table.view().files
    schema = pa.schema([("time", pa.timestamp("us", "UTC")), ("type", pa.string())])
    for one in files[:2]:
        read = reader.read([one], RetrievalFilter(), schema, lambda: None)
        assert read is not None
        assert read.rows.num_rows == one.rows
        assert reader.footers_kept == 1


def test_footers_of_files_that_were_replaced_are_forgotten(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = DirectReader()
    monkeypatch.setattr("queries.retrieval._direct", reader)
    seen = set()
    for _ in range(3):
        view = table.view()
        one_day = RetrievalFilter(None, "click", FIRST_US, FIRST_US + DAY_US - 1)
        assert table.page(view, one_day).statistics.scanned_files == 1
        assert reader.footers_kept == 1
        seen |= {one.path for one in view.files}
        table.add(rows_of(40, user="ann", days=[0], types=TYPES, first=table.next_position, step_us=HOUR_US))
        table.compact()
    # The control: each time it was another file, as a reader that is told nothing of it remembers.
    assert len(seen) > 3
