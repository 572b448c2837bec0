"""A footer that is let go of is free memory at once: Python's collector of cycles knows nothing of its size."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from queries.direct_reading import DirectReader
from queries.explain import explain_retrieval
from queries.file_index import RetrievalFilter
from storage.footer_memory import read_footer
from storage.history.reading import FooterCache
from tests.queries.histories import DAY_US, FIRST_US, Table, history_chore, rows_of, small_runs, table_in, work

USERS = ("ann", "ben", "cleo", "dan")
ONE_DAY = RetrievalFilter(None, "click", FIRST_US, FIRST_US + DAY_US - 1)


@pytest.fixture(autouse=True)
def _no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


@pytest.fixture
def table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Table]:
    # What tests before this one have left in the reader of the process must not be let go of meanwhile.
    monkeypatch.setattr("queries.retrieval._direct", DirectReader())
    with small_runs(), table_in(tmp_path / "data") as made:
        for number in range(8):
            user = USERS[number % len(USERS)]
            made.add(rows_of(20, user=user, days=[number % 4], types=("click",), first=made.next_position, step_us=1))
        yield made


def footers_alive() -> int:
    return sum(isinstance(one, pq.FileMetaData) for one in gc.get_objects())


def test_the_control_one_that_was_asked_for_its_schema_is_not(table: Table) -> None:
    before = footers_alive()
    path = table.view().files[0].path
    assert read_footer(path)[0].num_columns == len(pq.read_metadata(path).schema)
    assert footers_alive() == before + 1
    gc.collect()
    assert footers_alive() == before


def test_those_of_files_that_were_replaced(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    reader = DirectReader()
    monkeypatch.setattr("queries.retrieval._direct", reader)
    before = footers_alive()
    for _ in range(3):
        assert table.page(table.view(), ONE_DAY).statistics.scanned_files > 0
        table.compact()
    assert footers_alive() == before + reader.footers_kept


def test_those_that_copies_give_way_to(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    work(history_chore(table.store))
    view = table.view()
    footers = FooterCache(bytes_max=1)
    monkeypatch.setattr(view.shortcuts.history, "_footers", footers)
    before = footers_alive()
    read = sum(table.page(view, RetrievalFilter(user)).copied_files for user in USERS)
    assert len(footers) == 1 < read
    assert footers_alive() == before + 1


def test_those_that_were_looked_at_for_an_explanation(table: Table) -> None:
    before = footers_alive()
    view = table.view()
    page = table.page(view, RetrievalFilter("ann"))
    assert explain_retrieval(page.pruned, RetrievalFilter("ann"), hot_rows=0).row_groups.total_row_groups > 0
    assert footers_alive() <= before + len(page.pruned.files), "those that the page has read are remembered"
