"""Vacuum removes what the table no longer names, after a grace, and never what a commit is about to name."""

from __future__ import annotations

import fcntl
import os
import threading
import time
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import polars as pl
import pytest
from hypothesis import given

from storage.data_files import DataFileWriter, WrittenFile
from storage.journal import Journal
from storage.lake import Lake
from storage.maintenance.table_log import system_now_ms
from storage.maintenance.vacuum import FoundFile, VacuumResult, look, plan_vacuum, vacuum
from storage.store import Store
from storage.write_guard import nobody_writes, writing_files
from tests.storage.building import Crash, data_files, eventually, flusher, opened, positions, put, store_in, through
from tests.storage.compacting import compact_all, put_files

GRACE_MS = 900_000
LATER_MS = GRACE_MS + 60_000


def clean(store: Store, *, after_ms: int = LATER_MS) -> VacuumResult:
    """Vacuum as if *after_ms* had gone by."""
    lake = Lake(store.paths.table, store.schema)
    return vacuum(lake, store.journal, store.latch, now_ms=system_now_ms() + after_ms, grace_ms=GRACE_MS)


def live(store: Store) -> set[Path]:
    return {Path(one.path) for one in store.read_view().files}


def orphan(store: Store, *, day: str = "2024-03-01") -> Path:
    path = store.paths.table / f"date={day}" / "type=click" / "part-of-a-crash.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half a file")
    return path


@given(st.lists(st.tuples(st.booleans(), st.none() | st.integers(0, 2_000), st.integers(0, 2_000)), max_size=30))
def test_only_files_that_nobody_names_go_and_only_after_their_grace(
    rows: list[tuple[bool, int | None, int]],
) -> None:
    found = [FoundFile(f"f{n}", 10, modified) for n, (_, _, modified) in enumerate(rows)]
    named = {f"f{n}" for n, (is_live, _, _) in enumerate(rows) if is_live}
    removed = {f"f{n}": at for n, (_, at, _) in enumerate(rows) if at is not None}
    plan = plan_vacuum(found, live=named, removed_at_ms=removed, now_ms=2_000, grace_ms=1_000)
    for one in (*plan.removed, *plan.orphans):
        assert one.path not in named
        assert removed.get(one.path, one.modified_at_ms) <= 1_000
    assert {one.path for one in plan.removed} <= removed.keys()
    assert len(plan.removed) + len(plan.orphans) + len(plan.waiting) + len(named) == len(found)


def test_the_old_files_of_a_compaction_go_after_the_grace_and_a_glob_is_exact_then(store: Store) -> None:
    put_files(store, 4, days=2)
    old = data_files(store.paths.data)
    compact_all(store)
    assert clean(store, after_ms=GRACE_MS // 2) == VacuumResult()
    assert old <= data_files(store.paths.data)
    result = clean(store)
    assert (result.files, result.deferred) == (8, False)
    assert result.bytes > 0
    assert data_files(store.paths.data) == live(store)
    by_glob = pl.read_parquet(store.paths.table / "date=*/type=*/*.parquet")
    assert sorted(by_glob["position"]) == positions(store) == through(24)
    assert clean(store) == VacuumResult()


def test_what_a_crash_left_goes_after_the_grace_and_empty_folders_with_it(store: Store) -> None:
    put_files(store, 1)
    left = [orphan(store), orphan(store, day="2031-01-01")]
    assert clean(store, after_ms=0) == VacuumResult()
    assert clean(store).files == 2
    assert not any(path.exists() for path in left)
    assert not (store.paths.table / "date=2031-01-01").exists()
    assert data_files(store.paths.data) == live(store)


def test_a_file_that_is_about_to_be_committed_stays_however_long_that_takes(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 3)
    append = Lake.append
    seen: list[VacuumResult] = []

    def after_an_hour(self: Lake, *given: Any, **named: Any) -> int:
        with monkeypatch.context() as patched:
            patched.setattr("storage.maintenance.vacuum._GUARD_TIMEOUT_S", 0.0)
            seen.append(clean(store, after_ms=3_600_000))
        return append(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "append", after_an_hour)
        flusher(store).flush(3)
    assert seen == [VacuumResult(deferred=True)]
    assert positions(store) == through(3)
    put_files(store, 3)
    close = DataFileWriter.close

    def and_vacuum(self: DataFileWriter) -> WrittenFile:
        written = close(self)
        with monkeypatch.context() as patched:
            patched.setattr("storage.maintenance.vacuum._GUARD_TIMEOUT_S", 0.0)
            seen.append(clean(store, after_ms=3_600_000))
        return written

    with monkeypatch.context() as patched:
        patched.setattr(DataFileWriter, "close", and_vacuum)
        compact_all(store)
    assert seen[-1].deferred
    assert positions(store) == through(21)


def test_the_control_loses_the_file_without_the_guard(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, 3)
    append = Lake.append

    def after_an_hour(self: Lake, *given: Any, **named: Any) -> int:
        clean(store, after_ms=3_600_000)
        return append(self, *given, **named)

    monkeypatch.setattr(Lake, "append", after_an_hour)
    monkeypatch.setattr("storage.write_guard.fcntl.flock", lambda *_: None)
    flusher(store).flush(3)
    with pytest.raises(FileNotFoundError):
        positions(store)


def test_a_file_that_was_committed_between_the_two_looks_is_no_orphan(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 2)
    lake = Lake(store.paths.table, store.schema)
    reload = Lake.reload
    flushed: list[int] = []

    def flush_first(self: Lake, journal: str) -> Any:
        if self is lake and not flushed:
            flushed.append(1)
            flusher(store).flush(2)
        return reload(self, journal)

    monkeypatch.setattr(Lake, "reload", flush_first)
    vacuum(lake, store.journal, store.latch, now_ms=system_now_ms() + LATER_MS, grace_ms=GRACE_MS)
    assert positions(store) == through(2)


def test_nothing_goes_while_a_reader_may_still_begin_with_an_older_version(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A crash between the commit and telling the readers: the vacuum tells them, and removes the files later."""

    def stop(*_: Any, **__: Any) -> None:
        raise Crash

    put_files(store, 3)
    store.read_view()
    with monkeypatch.context() as patched:
        patched.setattr(Journal, "require_version", stop)
        with pytest.raises(Crash):
            compact_all(store)
    assert len(store.read_view().files) == 3, "this reader knows nothing of the compaction yet"
    assert clean(store) == VacuumResult(deferred=True)
    assert positions(store) == through(18)
    assert len(store.read_view().files) == 1
    assert clean(store).files == 3
    assert positions(store) == through(18)


@pytest.mark.parametrize("step", range(4))
def test_a_death_at_any_step_loses_nothing_and_the_next_vacuum_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    unlink = Path.unlink
    done = [0]

    def unlink_or_die(path: Path, **named: Any) -> None:
        if done[0] == step:
            raise Crash
        done[0] += 1
        unlink(path, **named)

    with store_in(folder) as store:
        put_files(store, 3)
        compact_all(store)
        orphan(store)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", unlink_or_die)
            with pytest.raises(Crash):
                clean(store)
    store, _ = opened(folder)
    assert positions(store) == through(18)
    clean(store)
    assert data_files(folder) == live(store)
    store.close(flush=False)


def test_looking_changes_nothing(store: Store) -> None:
    put_files(store, 3)
    compact_all(store)
    orphan(store)
    before = data_files(store.paths.data)
    plan = look(Lake(store.paths.table, store.schema), store.journal, now_ms=system_now_ms() + LATER_MS, grace_ms=0)
    assert (len(plan.removed), len(plan.orphans), plan.waiting) == (3, 1, ())
    assert data_files(store.paths.data) == before


def test_a_removal_waits_for_those_who_write_and_lets_nobody_else_begin(store: Store) -> None:
    table = store.paths.table
    alone, writing, go_on = threading.Event(), threading.Event(), threading.Event()

    def remove() -> None:
        with nobody_writes(table, timeout_s=180) as granted:
            if granted:
                alone.set()
            go_on.wait(180)

    def write() -> None:
        with writing_files(table):
            writing.set()

    with writing_files(table):
        remover = threading.Thread(target=remove)
        remover.start()
        eventually(lambda: _is_shut(table / "_delta_log"))
        assert not alone.wait(0.2)
    assert alone.wait(180)
    writer = threading.Thread(target=write)
    writer.start()
    assert not writing.wait(0.2), "it begins while files are removed"
    go_on.set()
    assert writing.wait(180)
    for thread in (remover, writer):
        thread.join()


def test_a_flush_does_not_wait_with_a_removal_for_a_compaction(store: Store) -> None:
    """Whoever takes long is waited for, and all others write on meanwhile, each after a moment."""
    table = store.paths.table
    alone, written = threading.Event(), threading.Event()

    def remove() -> None:
        with nobody_writes(table, timeout_s=180) as granted:
            if granted:
                alone.set()

    def write() -> None:
        for _ in range(3):
            with writing_files(table):
                pass
        written.set()

    threads = [threading.Thread(target=one) for one in (remove, write)]
    with writing_files(table):
        threads[0].start()
        eventually(lambda: _is_shut(table / "_delta_log"))
        threads[1].start()
        assert written.wait(120), "the flush waits as long as the compaction takes"
        assert not alone.is_set()
    assert alone.wait(180)
    for thread in threads:
        thread.join()


def test_writers_that_follow_each_other_without_a_pause_do_not_keep_a_removal_waiting(store: Store) -> None:
    table = store.paths.table
    stopping = threading.Event()

    def write() -> None:
        while not stopping.is_set():
            with writing_files(table):
                time.sleep(0.02)

    threads = [threading.Thread(target=write) for _ in range(4)]
    for thread in threads:
        thread.start()
    try:
        with nobody_writes(table, timeout_s=180) as granted:
            assert granted
    finally:
        stopping.set()
        for thread in threads:
            thread.join()


def test_a_vacuum_with_nothing_left_by_a_crash_keeps_nobody_waiting(store: Store) -> None:
    """It runs every minute, and a compaction that takes long would make flushes wait for it each time."""
    put_files(store, 3)
    compact_all(store)
    with writing_files(store.paths.table):
        done = clean(store)
    assert (done.files, done.deferred) == (3, False)


def _is_shut(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def test_a_writer_waits_for_a_removal_and_not_for_other_writers(store: Store) -> None:
    table = store.paths.table
    with writing_files(table), writing_files(table):
        pass
    done = threading.Event()

    def write() -> None:
        with writing_files(table):
            done.set()

    descriptor = os.open(table, os.O_RDONLY)
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    thread = threading.Thread(target=write)
    thread.start()
    assert not done.wait(0.2)
    os.close(descriptor)
    assert done.wait(120)
    thread.join()
