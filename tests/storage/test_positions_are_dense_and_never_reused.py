"""Positions are 1, 2, 3, … without a gap, and none is ever given twice, whoever appends and whatever is trimmed."""

from __future__ import annotations

import subprocess
import sys
import threading
from itertools import pairwise
from pathlib import Path

import apsw
import pytest

from storage.columns import JournalRow
from storage.errors import CorruptData
from storage.journal import Journal
from storage.journal_records import Append
from storage.lake import Lake
from storage.latch import Latch
from storage.store import Store
from storage.submission import Rejection
from tests.storage.building import execute, flusher, positions, put, request, store_in, stored, through

_BAD = Rejection(0, None, "bad_time", "no time", b"{}", "u1", None)


def rows_of(store: Store) -> list[JournalRow]:
    return store.journal.read_tail(0)[1]


def test_each_action_takes_the_next_position(store: Store) -> None:
    put(store, 3, 1)
    put(store, 5)
    assert [(row.first_position, row.last_position) for row in rows_of(store)] == [(1, 3), (4, 4), (5, 9)]
    state = store.journal.state()
    assert (state.next_position, state.head, state.depth) == (10, 9, 9)


def test_rejections_take_no_position(store: Store) -> None:
    store.append([Append((), (_BAD, _BAD), b"")])
    put(store, 2)
    assert positions(store) == [1, 2]


def test_a_journal_that_was_trimmed_empty_goes_on_where_it_was(folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 4)
        flusher(store).flush(4)
        assert rows_of(store) == []
        assert execute(store.paths.journal, "SELECT count(*) FROM submissions") == [(0,)]
    for head in (4, 6, 8):
        with store_in(folder) as store:
            assert store.journal.state().next_position == head + 1
            put(store, 2)
            flusher(store).flush(head + 2)
    with store_in(folder) as store:
        assert positions(store) == through(10)


def test_an_append_that_was_rolled_back_leaves_no_gap_and_no_row(store: Store) -> None:
    put(store, 2)
    good = request(3)
    no_blob: bytes = None  # type: ignore[assignment]  # what the database refuses after it has taken the rows
    with pytest.raises(apsw.ConstraintError):
        store.append([good, Append((), (Rejection(0, None, "bad_time", "", no_blob, None, None),), b"")])
    assert store.journal.state().head == 2
    assert store.journal.dead_letters() == 0
    put(store, 2)
    assert positions(store) == through(4)


def test_threads_of_one_process_get_disjoint_positions(store: Store) -> None:
    def append(user: str) -> None:
        for n in range(20):
            put(store, 1 + n % 3, 2, user=user)

    threads = [threading.Thread(target=append, args=(f"u{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    rows = rows_of(store)
    assert all(before.last_position + 1 == after.first_position for before, after in pairwise(rows))
    assert rows[0].first_position == 1
    assert len(rows) == 4 * 20 * 2
    assert rows[-1].last_position == store.journal.state().head == sum(row.actions for row in rows)


def test_processes_get_disjoint_positions_and_are_never_turned_away(store: Store) -> None:
    times = 25
    command = [sys.executable, "-m", "tests.storage.journal_writer", str(store.paths.journal), str(store.paths.latch)]
    # One of them does not queue, as the others and this process do.
    page = str(store.paths.leader_page)
    writers = [
        subprocess.Popen(
            [*command, f"w{n}", str(times), *([page] if n else [])],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(3)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == "ready\n"
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("go\n")
        writer.stdin.flush()
    for n in range(times):
        put(store, 1 + n % 2, user="here")
    for writer in writers:
        writer.communicate(timeout=180)
        assert writer.returncode == 0
    rows = rows_of(store)
    assert all(before.last_position + 1 == after.first_position for before, after in pairwise(rows))
    by_user = {user: sum(1 for row in rows if row.user_id == user) for user in ("w0", "w1", "w2", "here")}
    assert by_user == {"w0": 2 * times, "w1": 2 * times, "w2": 2 * times, "here": times}
    flusher(store).flush(store.journal.state().head)
    assert positions(store) == through(rows[-1].last_position)


@pytest.mark.parametrize("gone", [1, 3, 6])
def test_a_row_that_is_gone_without_having_been_trimmed_is_reported_and_never_passed_over(
    store: Store, gone: int
) -> None:
    put(store, 2)
    put(store, 3)
    put(store, 1)
    execute(store.paths.journal, "DELETE FROM submissions WHERE first_position = ?", [gone])
    with pytest.raises(CorruptData, match=f"lacks rows from position {gone} on"):
        store.read_view()
    with pytest.raises(CorruptData, match=r"journal\.sqlite lacks rows"):
        flusher(store).flush(6)
    assert Lake(store.paths.table, store.schema).watermark(store.journal_id) < gone


def test_the_settings_that_durability_rests_on_are_set(folder: Path) -> None:
    with store_in(folder) as store:
        path = store.paths.journal
    opened = apsw.Connection(str(path))
    assert [opened.pragma(name) for name in ("journal_mode", "auto_vacuum")] == ["wal", 2]
    opened.close()
    journal = Journal(path, Latch(folder / "failed.latch"))
    for connection in (journal._appender, journal._upkeep):
        assert connection.pragma("synchronous") == 2
        assert connection.pragma("secure_delete") == 1
    journal.close()


def test_the_same_position_under_two_ids_is_two_rows(store: Store) -> None:
    put(store, 1)
    flusher(store).flush(1)
    old = store.journal_id
    execute(store.paths.journal, "UPDATE journal SET id = 'another', next_position = 1, trimmed_position = 0")
    assert stored(store) == [(old, 1)]
    put(store, 1)
    assert stored(store) == sorted([(old, 1), ("another", 1)])
