"""A user's hot rows are found through an index when there are many: the same that looking through all of them gives."""

from __future__ import annotations

import random

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from storage.hot import HotRows
from storage.hot_users import HotUsers
from storage.store import Store
from tests.storage.building import put

USERS = ("", "a", "ann", "anna", "é🙂", "user-000000001-x", "user-000000002-x", "a" * 256, "b" + "a" * 255, "nul\0nul")


def hot_rows(first: int, count: int, source: random.Random) -> pa.Table:
    """Rows at consecutive positions from *first* on, in several chunks."""
    tables, position = [], first
    while position < first + count:
        size = min(source.randint(1, 9), first + count - position)
        users = pa.array(source.choices(USERS, k=size + 1), pa.string()).slice(1)
        tables.append(pa.table({"user_id": users, "position": pa.array(range(position, position + size))}))
        position += size
    return pa.concat_tables(tables)


def check(index: HotUsers, hot: pa.Table) -> None:
    for user in (*USERS, "nobody"):
        found = index.rows_of(user, hot, hot.select(["position"]))
        assert found["position"].to_pylist() == hot.filter(pc.equal(hot["user_id"], user))["position"].to_pylist(), user


@pytest.mark.parametrize("seed", range(4))
def test_what_is_found_is_what_is_there(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    monkeypatch.setattr("storage.hot_users.SEGMENT_ROWS", 8)
    monkeypatch.setattr("storage.hot_users.INDEXED_FROM_ROWS", 20)
    source = random.Random(seed)
    rows = hot_rows(100, 200, source)
    index = HotUsers()
    begin = end = 0
    views = []
    for _ in range(25):
        # As rows arrive, and as they are flushed; now and then many at once, all that were indexed among them.
        end = min(200, end + source.choice([0, 5, 40]))
        begin = min(end, begin + source.choice([0, 0, 3, 30]))
        views.append(rows.slice(begin, end - begin))
        check(index, views[-1])
        assert index.indexed_rows <= 200
        # A view that was pinned before is answered as it was.
        check(index, source.choice(views))


def test_many_rows_are_indexed_and_few_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.hot_users.SEGMENT_ROWS", 8)
    monkeypatch.setattr("storage.hot_users.INDEXED_FROM_ROWS", 20)
    rows, index = hot_rows(1, 60, random.Random(1)), HotUsers()
    check(index, rows.slice(0, 19))
    assert index.indexed_rows == 0
    check(index, rows)
    assert index.indexed_rows == 56


def test_users_that_share_a_number_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    monkeypatch.setattr("storage.hot_users.SEGMENT_ROWS", 8)
    monkeypatch.setattr("storage.hot_users.INDEXED_FROM_ROWS", 20)
    monkeypatch.setattr("storage.hot_users._numbers", lambda users: np.zeros(len(users), np.uint64))
    check(HotUsers(), hot_rows(1, 60, random.Random(2)))


def test_nothing_stays_of_rows_that_were_all_flushed(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither the rows, of which an empty part would keep all, nor where the users' were among them."""
    monkeypatch.setattr("storage.hot_users.SEGMENT_ROWS", 8)
    monkeypatch.setattr("storage.hot_users.INDEXED_FROM_ROWS", 20)
    hot = HotRows(store.journal_id, store.schema)
    put(store, 1000)
    hot.next_after(0)
    hot.extend(store.journal.read_tail(0)[1])
    check(hot.users, hot.table)
    assert hot.users.indexed_rows
    before = pa.total_allocated_bytes()
    held = hot.table.nbytes
    hot.next_after(1000)
    assert hot.table.num_rows == 0
    assert before - pa.total_allocated_bytes() >= held // 2
    assert hot.users.indexed_rows == 0
    put(store, 3)
    hot.extend(store.journal.read_tail(hot.next_after(1000))[1])
    assert hot.table["position"].to_pylist() == [1001, 1002, 1003]


def test_hardly_anything_stays_of_rows_that_were_flushed_but_for_a_few(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows that are left are a part of a chunk that has all of them."""
    hot = HotRows(store.journal_id, store.schema)
    put(store, 1000)
    hot.next_after(0)
    hot.extend(store.journal.read_tail(0)[1])
    whole = hot.table.combine_chunks()
    monkeypatch.setattr(hot, "_table", whole)
    hot.next_after(500)
    # The control: little memory is not worth a copy, and a part of a chunk keeps all of it.
    assert hot.table.get_total_buffer_size() == whole.get_total_buffer_size()
    monkeypatch.setattr("storage.hot._SPARE_BYTES", 0)
    hot.next_after(990)
    assert hot.table["position"].to_pylist() == list(range(991, 1001))
    assert hot.table.equals(whole.slice(990))
    assert hot.table.get_total_buffer_size() < whole.get_total_buffer_size() / 10
