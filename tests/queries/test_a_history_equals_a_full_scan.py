"""Whatever was written, compacted, erased and copied: a retrieval through the copies equals one through a full scan."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queries.file_index import RetrievalFilter
from queries.sources import Order
from storage.read_view import ReadView
from tests.faults.effort import repetitions
from tests.queries.histories import (
    DAY_US,
    FIRST_US,
    Table,
    chosen,
    filter_chore,
    full_scan,
    history_chore,
    positions_of,
    rows_of,
    small_runs,
    table_in,
    work,
)

USERS = ("ann", "ben", "cleo", "dan", "é🙂")
TYPES = ("click", "view")

add = st.tuples(
    st.just("add"),
    st.sampled_from(USERS),
    st.integers(1, 14),
    st.lists(st.integers(0, 4), min_size=1, max_size=3),
    st.sampled_from([0, 1, 7_000_000]),
)
step = st.one_of(
    add,
    add,
    st.tuples(st.just("copy"), st.integers(1, 6)),
    st.tuples(st.just("compact"), st.integers(1, 3)),
    st.tuples(st.just("erase"), st.sampled_from(USERS)),
    st.tuples(st.just("filters")),
)


def run_step(table: Table, one: tuple[Any, ...], chore: Any, filters: Any) -> None:
    match one:
        case ("add", user, count, days, step_us):
            rows = rows_of(count, user=user, days=days, types=TYPES, first=table.next_position, step_us=step_us)
            table.add(rows)
        case ("copy", steps):
            work(chore, steps)
        case ("compact", every):
            table.compact(every=every)
        case ("erase", user):
            table.compact(users_gone=[user])
        case ("filters",):
            while filters.run():
                pass


def questions(source: random.Random) -> list[tuple[RetrievalFilter, Order, int]]:
    asked: list[tuple[RetrievalFilter, Order, int]] = []
    for user in source.sample([*USERS, "nobody"], 3):
        for action_type in (None, source.choice(TYPES)):
            low = FIRST_US + source.randrange(0, 4 * DAY_US, DAY_US // 4)
            span = source.choice([None, (low, low + DAY_US), (FIRST_US, FIRST_US + 9 * DAY_US)])
            bounds = span or (None, None)
            order: Order = source.choice(["asc", "desc"])
            asked.append((RetrievalFilter(user, action_type, *bounds), order, source.choice([4, 1000])))
    low = FIRST_US + source.randrange(0, 4 * DAY_US, DAY_US // 24)
    asked.append((RetrievalFilter(None, source.choice(TYPES), low, low + DAY_US // 24), "asc", 1000))
    asked.append((RetrievalFilter(None, "click"), "desc", 5))
    return asked


def assert_equal(table: Table, view: ReadView, source: random.Random) -> int:
    """Compare all answers with the full scan; return how many files of copies were read."""
    everything = full_scan(view)
    copied = 0
    for asked, order, limit in questions(source):
        expected = chosen(everything, asked, order)
        with pytest.MonkeyPatch.context() as patched:
            # Files that no copy covers are read by DuckDB or without it.
            patched.setattr("queries.direct_reading.FILES_MAX", source.choice([0, 1000]))
            assert table.paged(view, asked, order, limit) == positions_of(expected), (asked, order, limit)
        streamed = table.streamed(view, asked, order)
        assert streamed.equals(expected.combine_chunks()), (asked, order)
        assert streamed.schema.equals(expected.schema), (asked, order)
        copied += table.page(view, asked, order).copied_files
    return copied


@given(steps=st.lists(step, min_size=4, max_size=14), seed=st.integers(0, 10**6))
@settings(
    max_examples=repetitions(suite=6, long=300),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_every_retrieval_equals_the_full_scan(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[Any, ...]], seed: int
) -> None:
    with small_runs(), table_in(tmp_path_factory.mktemp("history") / "data") as table:
        copies, filters = history_chore(table.store), filter_chore(table.store)
        # A view that was pinned before is answered as it was, whatever became of the copies.
        pinned = table.view()
        for one in steps:
            run_step(table, one, copies, filters)
        source = random.Random(seed)
        assert_equal(table, table.view(), source)
        work(copies)
        assert_equal(table, table.view(), source)
        assert_equal(table, pinned, source)


@pytest.fixture
def copied(tmp_path: Path) -> Any:
    """A table of several days, users and types, all of it copied into several runs."""
    with small_runs(), table_in(tmp_path / "data") as table:
        for n in range(12):
            user = USERS[n % len(USERS)]
            table.add(rows_of(20, user=user, days=[n % 4, 4], types=TYPES, first=table.next_position, step_us=1))
        work(history_chore(table.store))
        yield table


def test_a_copied_history_is_read_from_copies_alone(copied: Table) -> None:
    view = copied.view()
    page = copied.page(view, RetrievalFilter("ann"))
    assert page.pruned.files == ()
    assert 0 < page.copied_files < len(view.files) / 4
    assert page.statistics.scanned_bytes > 0
    assert assert_equal(copied, view, random.Random(1)) > 0


def test_only_what_changed_is_read_directly(copied: Table) -> None:
    late = rows_of(6, user="ann", days=[1], types=TYPES, first=copied.next_position, step_us=5)
    copied.add(late)
    view = copied.view()
    page = copied.page(view, RetrievalFilter("ann"))
    assert len(page.pruned.files) == 2
    assert page.copied_files > 0
    assert_equal(copied, view, random.Random(2))


CHANGES: dict[str, Callable[[Table], None]] = {
    "compaction of a third": lambda table: table.compact(every=3),
    "an erasure": lambda table: table.compact(users_gone=["ben"]),
    "compaction of everything": lambda table: table.compact(),
}


@pytest.mark.parametrize("change", CHANGES)
def test_changes_of_the_table_count_at_once(copied: Table, change: str) -> None:
    before = copied.view()
    CHANGES[change](copied)
    after = copied.view()
    assert_equal(copied, after, random.Random(3))
    # Whoever pinned the table before still has it as it was, files and copies.
    assert_equal(copied, before, random.Random(4))
    work(history_chore(copied.store))
    assert copied.page(copied.view(), RetrievalFilter("ann")).pruned.files == ()
    assert_equal(copied, copied.view(), random.Random(5))


def test_a_page_of_a_long_history_reads_its_own_end_only(tmp_path: Path) -> None:
    with small_runs(), table_in(tmp_path / "data") as table:
        for _ in range(4):
            table.add(rows_of(200, user="ann", days=range(5), types=TYPES, first=table.next_position, step_us=1000))
        work(history_chore(table.store))
        view = table.view()
        whole = table.page(view, RetrievalFilter("ann"))
        expected = chosen(full_scan(view), RetrievalFilter("ann"), "desc")
        orders: tuple[Order, ...] = ("asc", "desc")
        for order in orders:
            page = table.page(view, RetrievalFilter("ann"), order, 5)
            assert page.statistics.scanned_bytes < whole.statistics.scanned_bytes / 8
        # And so does a page in the middle of it.
        with table.engine.connect() as connection:
            from queries.retrieval import RetrievalRequest, retrieve_page

            first = retrieve_page(connection, view, RetrievalRequest(RetrievalFilter("ann"), "desc", 400))
            deep = retrieve_page(connection, view, RetrievalRequest(RetrievalFilter("ann"), "desc", 5, first.next))
        assert deep.statistics.scanned_bytes < whole.statistics.scanned_bytes / 8
        assert table.paged(view, RetrievalFilter("ann"), "desc", 400) == positions_of(expected)


def test_the_newest_rows_of_a_type_are_found_without_reading_the_rest(tmp_path: Path) -> None:
    with table_in(tmp_path / "data") as table:
        table.add(rows_of(600, user="ann", days=range(30), types=TYPES, first=1, step_us=1000))
        view = table.view()
        orders: tuple[Order, ...] = ("asc", "desc")
        for order in orders:
            page = table.page(view, RetrievalFilter(None, "view"), order, 3)
            assert page.statistics.scanned_files <= 4
            assert len(page.pruned.files) == 15
        assert_equal(table, view, random.Random(6))
