"""One service a folder, one leader a service, one latch for all; the kernel gives locks back at any death."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from storage.errors import CorruptData, DiskFull, Overloaded, StoreFailed, StoreLocked
from storage.flush import Flusher, FlushLimits, FlushResult
from storage.journal import Journal
from storage.latch import Latch
from storage.locks import FileLock
from storage.opening import FOR_A_MOMENT, join_store, lock_and_recover, read_store
from storage.paths import StorePaths
from storage.store import Store
from storage.store_options import StoreOptions
from tests.storage.building import (
    SCHEMA,
    data_files,
    eventually,
    execute,
    flush,
    flusher,
    opened,
    positions,
    put,
    store_in,
    through,
)


@contextmanager
def another_process(what: str, folder: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that holds the store, from when it does until it is killed at the latest."""
    command = [sys.executable, "-m", "tests.storage.lock_holder", what, str(folder)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "holds\n"
        yield process
    finally:
        process.kill()
        process.wait()
        process.stdin.close()
        process.stdout.close()


def leadership(store: Store) -> bool:
    """Whether *store* leads; a call, since it changes between two looks."""
    return store.leads


# The service's lock


def test_a_second_service_is_told_who_holds_the_folder(folder: Path) -> None:
    with store_in(folder), pytest.raises(StoreLocked, match="in use by a test"):
        opened(folder)
    with store_in(folder) as store:
        put(store, 1)


def test_the_lock_of_a_killed_process_is_free_and_what_it_acknowledged_is_there(folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 2)
    with another_process("service", folder) as holder:
        with pytest.raises(StoreLocked):
            opened(folder)
        holder.kill()
        holder.wait()
        with store_in(folder) as store:
            assert positions(store) == [1, 2]


def test_a_store_that_could_not_be_opened_gives_the_lock_back(folder: Path) -> None:
    with store_in(folder) as store:
        journal = store.paths.journal
    good = journal.read_bytes()
    journal.write_bytes(b"no journal" * 1000)
    for _ in range(2):
        with pytest.raises(Exception, match="damaged"):
            opened(folder)
    journal.write_bytes(good)
    with store_in(folder) as store:
        assert positions(store) == []


def test_a_lock_is_exclusive_until_it_is_released(tmp_path: Path) -> None:
    first, second = FileLock(tmp_path / "lock"), FileLock(tmp_path / "lock")
    with first:
        assert first.try_acquire("the first")
        assert first.try_acquire("once more")
        assert not second.try_acquire("the second")
        assert not second.held
        assert second.holder() == "the first"
        with pytest.raises(StoreLocked, match="in use by the first"):
            second.acquire("the second")
        with pytest.raises(StoreLocked, match="worker processes"):
            second.acquire_within("the second", timeout_s=0.1)
        with pytest.raises(RuntimeError, match="only the holder"):
            second.describe("me")
    assert not first.held
    second.acquire("the 2nd")
    assert first.holder() == "the 2nd"
    second.release()
    second.release()
    assert FileLock(tmp_path / "none").holder() == ""


def test_shared_locks_keep_an_exclusive_one_out(tmp_path: Path) -> None:
    workers = [FileLock(tmp_path / "lock") for _ in range(2)]
    for worker in workers:
        worker.share()
    recovering = FileLock(tmp_path / "lock")
    assert not recovering.try_acquire("recovery")
    workers[0].release()
    assert not recovering.try_acquire("recovery")
    workers[1].release()
    assert recovering.try_acquire("recovery")
    recovering.release()


def test_a_start_waits_for_a_command_that_recovers_the_folder_and_not_for_one_that_stays(folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 1)
    held = FileLock(StorePaths.of(folder).service_lock)
    held.acquire("pid 1, importing")
    with pytest.raises(StoreLocked, match="importing"):
        opened(folder)
    held.describe(f"pid 1, compacting{FOR_A_MOMENT}")
    ending = threading.Timer(0.3, held.release)
    ending.start()
    with store_in(folder) as store:
        assert positions(store) == [1]
    ending.join()


def test_recovery_waits_for_workers_whose_supervisor_was_killed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock, _ = lock_and_recover(StorePaths.of(folder), SCHEMA, holder="supervisor")
    orphan = join_store(StorePaths.of(folder), SCHEMA, StoreOptions())
    put(orphan, 1)
    lock.release()
    monkeypatch.setattr("storage.opening.WORKERS_END_TIMEOUT_S", 0.2)
    with pytest.raises(StoreLocked, match="worker processes"):
        opened(folder)
    orphan.close(flush=False)
    with store_in(folder) as store:
        assert positions(store) == [1]


# The latch


def test_the_latch_is_seen_by_every_process(folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 1)
        command = [sys.executable, "-m", "tests.storage.lock_holder", "latch", str(folder)]
        subprocess.run(command, check=True, timeout=180)
        assert store.latch is not None
        assert store.latch.reason == "the disk of another process failed"
        with pytest.raises(StoreFailed, match="the disk of another process failed"):
            put(store, 1)
        with pytest.raises(StoreFailed):
            store.check_writable()
        with pytest.raises(StoreFailed):
            flusher(store).flush(1)
        assert positions(store) == [1]
    with store_in(folder) as store:
        put(store, 1)
        assert positions(store) == [1, 2]


def test_the_first_reason_stays_until_it_is_cleared(tmp_path: Path) -> None:
    latch, beside = Latch(tmp_path / "latch"), Latch(tmp_path / "latch")
    latch.check()
    assert latch.reason is None
    latch.set("first " + "é" * 2000)
    beside.set("second")
    assert beside.reason is not None
    assert beside.reason.startswith("first éé")
    with pytest.raises(StoreFailed, match="first"):
        beside.check()
    again = Latch(tmp_path / "latch")
    assert again.reason == beside.reason
    again.clear()
    latch.check()
    assert latch.reason is None
    latch.set("")
    with pytest.raises(StoreFailed):
        beside.check()
    for one in (latch, beside, again):
        one.close()


def test_a_latch_of_an_earlier_life_is_cleared_by_recovery_only(folder: Path) -> None:
    with store_in(folder) as store:
        assert store.latch is not None
        store.latch.set("failed")
        worker = join_store(store.paths, SCHEMA, StoreOptions())
        with pytest.raises(StoreFailed):
            put(worker, 1)
        worker.close(flush=False)
    with store_in(folder) as store:
        put(store, 1)


# Reading beside a writer


def test_a_reader_needs_no_lock_and_writes_nothing(folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 3)
        flusher(store).flush(3)
        put(store, 2)
        held = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"}
        # Readers mark their place in the shared index of the log; nothing that is kept is in there.
        held.pop(folder / "journal.sqlite-shm")
        # The note of what was acknowledged goes on with the store.
        held.pop(folder / "journal.head")
        reader = read_store(store.paths, SCHEMA)
        assert positions(reader) == through(5)
        assert reader.status().journal.depth == 2
        assert reader.latch is None
        put(store, 1)
        assert positions(reader) == through(6)
        reader.close(flush=False)
        held.pop(folder / "journal.sqlite-wal")
        assert {path: path.read_bytes() for path in held} == held
        put(store, 1)


def test_a_reader_of_a_folder_that_nobody_holds_changes_nothing_that_is_kept(folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 2)
        flusher(store).flush(2)
        put(store, 1)
        paths = store.paths
    held = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    reader = read_store(paths, SCHEMA)
    assert positions(reader) == through(3)
    reader.close(flush=False)
    assert {path: path.read_bytes() for path in held} == held
    with store_in(folder) as store:
        assert positions(store) == through(3)


def test_a_reader_does_not_judge_for_the_service(folder: Path) -> None:
    """What damages its reading does not latch the store for those who write."""
    with store_in(folder) as store:
        put(store, 1)
        reader = read_store(store.paths, SCHEMA)
        execute(store.paths.journal, "UPDATE submissions SET payload = x'c1'")
        with pytest.raises(Exception, match="positions 1 to 1"):
            reader.read_view()
        reader.close(flush=False)
        assert store.latch is not None
        assert store.latch.reason is None


def test_where_no_store_is_there_is_none_to_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="no store"):
        read_store(StorePaths.of(tmp_path / "nowhere"), SCHEMA)
    assert list(tmp_path.iterdir()) == []


# The leader


def test_the_leader_flushes_by_age_rows_bytes_and_at_the_end(folder: Path) -> None:
    clock = [1_000_000_000_000_000]
    done: list[FlushResult] = []
    limits = FlushLimits(interval_ms_max=60_000, rows_max=100, bytes_max=100_000)
    with store_in(folder, flush=limits, now_us=lambda: clock[0], on_flush=done.append) as store:
        store.start_leading()
        eventually(lambda: store.leads)
        put(store, 2)
        clock[0] += 59_000_000
        store._leadership.wake()
        put(store, 1)
        assert done == []
        clock[0] += 2_000_000
        eventually(lambda: [one.rows for one in done] == [3])
        put(store, *[10] * 10)
        eventually(lambda: sum(one.rows for one in done) == 103)
        put(store, 5)
        assert store.flush(timeout_s=120) == 108
        assert sum(one.rows for one in done) == 108
        put(store, 4)
        store.close(flush=True)
        assert sum(one.rows for one in done) == 112
    with store_in(folder) as store:
        assert positions(store) == through(112)
        assert store.journal.state().depth == 0


def test_another_worker_leads_after_the_leaders_death_and_flushes_for_all(folder: Path) -> None:
    lock, _ = lock_and_recover(StorePaths.of(folder), SCHEMA, holder="supervisor")
    here = join_store(StorePaths.of(folder), SCHEMA, StoreOptions())
    try:
        with another_process("worker", folder) as leader:
            here.start_leading()
            put(here, 3)
            # Flushed by the other process, on request.
            assert here.flush(timeout_s=120) == 3
            assert leadership(here) is False
            put(here, 2)
            leader.kill()
            leader.wait()
            assert here.flush(timeout_s=120) == 5
            assert leadership(here) is True
        assert positions(here) == through(5)
    finally:
        here.close(flush=False)
        lock.release()


def test_every_worker_reads_what_every_worker_acknowledged(folder: Path) -> None:
    lock, _ = lock_and_recover(StorePaths.of(folder), SCHEMA, holder="supervisor")
    workers = [join_store(StorePaths.of(folder), SCHEMA, StoreOptions()) for _ in range(3)]
    for n, worker in enumerate(workers * 2):
        put(worker, n + 1)
        for reader in workers:
            assert positions(reader) == through(sum(range(n + 2)))
        if n == 3:
            flusher(worker).flush(7)
    for worker in workers:
        worker.close(flush=False)
    lock.release()


def test_a_leader_that_meets_an_error_tries_again_and_tells(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[BaseException] = []
    flush, failures = Flusher.flush, [DiskFull("full"), RuntimeError("unheard of")]
    told_full = threading.Event()

    def fail_first(one: Flusher, through_position: int, **options: Any) -> None:
        if failures:
            failure = failures.pop(0)
            # Only the last error can be asked for, so that the next must not come before the first was heard.
            assert isinstance(failure, DiskFull) or told_full.wait(120)
            raise failure
        flush(one, through_position, **options)

    monkeypatch.setattr(Flusher, "flush", fail_first)
    monkeypatch.setattr("storage.leader._BACKOFF_S_MAX", 0.01)
    with store_in(folder, on_flush_error=told.append) as store:
        store.start_leading()
        put(store, 3)
        with pytest.raises(DiskFull):
            store.flush(timeout_s=120)
        told_full.set()
        # The error of an earlier attempt is not told to who asks after it.
        assert store.flush(timeout_s=120) == 3
        assert [type(error) for error in told] == [DiskFull, RuntimeError]
        eventually(lambda: store._leadership.last_error is None)
        assert positions(store) == through(3)


def test_an_error_that_came_right_after_the_request_is_told(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    request_flush = Journal.request_flush
    with store_in(folder) as store:

        def request_and_fail(journal: Journal, position: int) -> None:
            request_flush(journal, position)
            assert store._page is not None
            store._page.note_error(DiskFull("full"))

        monkeypatch.setattr(Journal, "request_flush", request_and_fail)
        put(store, 1)
        with pytest.raises(DiskFull):
            store.flush(timeout_s=1.0)


def test_a_flush_that_does_not_end_in_time_is_told_and_goes_on(folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 1)
        with pytest.raises(Overloaded, match="goes on"):
            store.flush(timeout_s=0.05)
        store.start_leading()
        eventually(lambda: store.journal.state().depth == 0)
        assert store.flush(timeout_s=0.0) == 1
        assert store.latch is not None
        store.latch.set("failed")
        execute(store.paths.journal, "UPDATE journal SET next_position = 3")
        with pytest.raises(StoreFailed):
            store.flush(timeout_s=120)


def test_a_full_journal_refuses_until_it_is_flushed(folder: Path) -> None:
    with store_in(folder, journal_bytes_max=200_000) as store:
        beside = join_store(store.paths, SCHEMA, StoreOptions(journal_bytes_max=200_000))
        refused: Overloaded | None = None
        for _ in range(1_000):
            try:
                store.check_writable()
            except Overloaded as error:
                refused = error
                break
            put(store, 20)
        assert refused is not None
        assert "until the next flush" in str(refused)
        put(beside, 1)
        with pytest.raises(Overloaded):
            beside.check_writable()
        flusher(beside).flush(store.journal.state().head)
        # As the leader does after a flush: the bound includes the log.
        beside.journal.checkpoint(truncate=True)
        store.check_writable()
        assert data_files(folder)
        beside.close(flush=False)


def test_the_size_of_the_journal_is_known_at_a_start(folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 50)
        held = store.journal.bytes_known
    with store_in(folder) as store:
        assert store.journal.bytes_known == held > 50
        assert os.path.getsize(store.paths.journal) > 0
        store.flush_here()
        assert store.journal.bytes_known == 0


@pytest.mark.parametrize("replaced", [False, True])
def test_a_journal_that_a_restart_would_not_find_takes_no_more_submissions(folder: Path, replaced: bool) -> None:
    """It could still be written to, and what is acknowledged would be gone with the last process that has it open."""
    with store_in(folder) as store:
        put(store, 5)
        store.check_writable()
        moved = store.paths.journal.rename(folder / "moved.sqlite")
        if replaced:
            shutil.copy(moved, store.paths.journal)
        eventually(lambda: "the journal" in _refusal(store))
        flush(store)
        assert len(positions(store)) == 5
        moved.rename(store.paths.journal)
        eventually(lambda: not _refusal(store))


def test_a_folder_that_vanishes_is_named_to_who_writes_and_who_reads(folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 5)
        away = store.paths.table.rename(folder / "away")
        eventually(lambda: str(store.paths.table) in _refusal(store))
        store._lake._snapshots.clear()
        with pytest.raises(CorruptData, match=str(store.paths.table)):
            store.read_view()
        away.rename(store.paths.table)
        eventually(lambda: not _refusal(store))
        assert len(positions(store)) == 5


def _refusal(store: Store) -> str:
    """Why the store takes no submissions; nothing if it does."""
    try:
        store.check_writable()
    except StoreFailed as error:
        return str(error)
    return ""
