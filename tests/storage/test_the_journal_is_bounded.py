"""The journal holds what it may and no more, its log included; its file shrinks again; the disk keeps room to flush."""

from __future__ import annotations

import threading
from dataclasses import replace
from pathlib import Path

import pytest

from storage.errors import DiskFull, Overloaded
from storage.flush import FlushLimits
from storage.headroom import Headroom
from storage.leader_page import LeaderPage
from storage.store import Store
from tests.storage.building import eventually, execute, put, store_in, stored, through

_MIB = 1024 * 1024


def fill(store: Store) -> int:
    """Append until the store refuses; return how many actions it took."""
    count = 0
    for _ in range(2000):
        try:
            store.check_writable()
        except Overloaded:
            return count
        put(store, 100)
        count += 100
    raise AssertionError("the store takes whatever comes")


def test_the_log_counts_and_a_flush_makes_room(tmp_path: Path) -> None:
    with store_in(tmp_path, journal_bytes_max=2 * _MIB) as store:
        taken = fill(store)
        # Rows lie in the log and in the file; a quarter of a second may pass before the log is looked at again.
        assert store.held_bytes >= 2 * _MIB
        assert store.journal.bytes_held_known < 2 * _MIB < store.held_bytes
        with pytest.raises(Overloaded) as told:
            store.check_writable()
        assert 1 <= told.value.retry_after_s <= 60
        store.flush_here()
        store.check_writable()
        assert fill(store) > 0
        assert len(stored(store)) > taken


def test_a_full_journal_is_flushed_whatever_a_flush_is_to_be(tmp_path: Path) -> None:
    # A flush is due at 64 MiB or after a minute, and neither may ever come.
    with store_in(tmp_path, journal_bytes_max=2 * _MIB, flush=FlushLimits()) as store:
        store.start_leading()
        for _ in range(400):
            eventually(lambda: _is_writable(store))
            put(store, 100)
        assert store.status().version > 0


def _is_writable(store: Store) -> bool:
    try:
        store.check_writable()
    except Overloaded:
        return False
    return True


def test_the_file_shrinks_though_the_load_never_ends(tmp_path: Path) -> None:
    limits = FlushLimits(rows_max=20_000, bytes_max=_MIB)
    stop = threading.Event()
    with store_in(tmp_path, flush=FlushLimits(rows_max=10**7, bytes_max=1 << 30)) as store:
        for _ in range(60):
            put(store, 5000)
        store.journal.checkpoint(truncate=True)
        peak = store.paths.journal.stat().st_size
        assert peak > 12 * _MIB

        def load() -> None:
            # A little pause, in which the flush of the same process gets its turn.
            while not stop.wait(0.001):
                put(store, 50)

        thread = threading.Thread(target=load)
        thread.start()
        try:
            store.options = type(store.options)(flush=limits, now_us=store.options.now_us)
            store.start_leading()
            eventually(lambda: store.paths.journal.stat().st_size < 6 * _MIB, timeout_s=180)
        finally:
            stop.set()
            thread.join()
        # Between a trim and what shrinks the file then, pages are free.
        eventually(lambda: execute(store.paths.journal, "PRAGMA freelist_count")[0][0] * 4096 < 6 * _MIB)


def test_how_long_to_wait_follows_from_how_fast_it_drains(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        page = LeaderPage(tmp_path / "drain.page")
        headroom = Headroom(
            store.journal, page, folders=[tmp_path], journal_bytes_max=lambda: 1, disk_free_bytes_min=lambda: 0
        )
        page.note_flush_begins()
        page.note_flush_ended(drained_bytes=10 * _MIB, seconds=1.0)
        assert {headroom.seconds_to_drain(80 * _MIB) for _ in range(50)} <= {8, 9, 10, 11}
        assert headroom.seconds_to_drain(1) == 1
        assert headroom.seconds_to_drain(1 << 40) == 60


def test_commits_are_slowed_down_to_the_rate_of_flushes_before_any_is_refused(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        put(store, 1000)
        held = store.journal.bytes_held_known
        limit = [5 * held]
        page = LeaderPage(tmp_path / "drain.page")
        headroom = Headroom(
            store.journal, page, folders=[tmp_path], journal_bytes_max=lambda: limit[0], disk_free_bytes_min=lambda: 0
        )
        page.note_flush_begins()
        page.note_flush_ended(drained_bytes=10 * _MIB, seconds=1.0)
        # Below a quarter there is no pause; from there on it grows, up to twice what the flush takes for as much.
        assert headroom.pause_s(_MIB) == 0
        limit[0] = 4 * held * 4 // 6
        assert headroom.pause_s(_MIB) == pytest.approx(0.1, rel=0.01)
        limit[0] = held * 2
        assert headroom.pause_s(_MIB) == pytest.approx(0.2, rel=0.01)
        limit[0] = held
        assert headroom.pause_s(_MIB) == pytest.approx(0.2, rel=0.01)
        assert headroom.pause_s(100 * _MIB) == 0.25


def test_the_log_is_copied_between_the_commits_of_a_long_flush(tmp_path: Path) -> None:
    with store_in(tmp_path, flush=FlushLimits(rows_max=1000, bytes_max=1 << 30), journal_bytes_max=4 * _MIB) as store:
        for _ in range(20):
            put(store, 1000)
        logs: list[int] = []
        journal = store.journal
        store.options = replace(store.options, on_flush=lambda _: logs.append(journal.wal_bytes()))
        assert journal.wal_bytes() > _MIB, "an eighth of what the journal may hold is due to be emptied"
        store.start_leading()
        eventually(lambda: journal.state().depth == 0)
        assert len(logs) == 20
        assert logs[0] > _MIB
        assert max(logs[1:]) < _MIB, "the log waits for the end of the flush"


def test_a_disk_that_gets_full_is_refused_before_it_is(tmp_path: Path) -> None:
    with store_in(tmp_path, disk_free_bytes_min=1 << 60) as store:
        put(store, 3)
        with pytest.raises(DiskFull) as told:
            store.check_writable()
        assert told.value.retry_after_s >= 1
        # What was acknowledged is flushed all the same, and goes on being read.
        store.flush_here()
        assert [position for _, position in stored(store)] == through(3)
