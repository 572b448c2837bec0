"""A full disk keeps nothing and passes by; an I/O error or a failed sync latches the store, and a restart recovers."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path

import apsw
import pytest

from storage.errors import DiskFull, StoreError, StoreFailed
from storage.store import Store
from tests.storage.building import execute, positions, put, request, store_in, through
from tests.storage.failing_disk import FailingDisk, Failure


@pytest.fixture
def disk(folder: Path) -> Iterator[FailingDisk]:
    """A disk that fails when told, below a store that was made before."""
    with store_in(folder):
        pass
    with FailingDisk() as one:
        yield one


def append_one(store: Store) -> None:
    """An append of several pages, so that it has several writes."""
    store.append([request(100), request(100, user="u2"), request(100, user="u3")])


_APPENDED = 300


def operations_of_an_append(disk: FailingDisk, folder: Path, kind: str) -> int:
    """How many writes or syncs an append has, on a journal as the tests have it."""
    with store_in(folder) as store:
        put(store, 1)
        before = len(disk.log)
        append_one(store)
        return sum(1 for one, _ in disk.log[before:] if one == kind)


def test_an_append_is_written_and_synced_before_it_is_acknowledged(disk: FailingDisk, folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 1)
        before = len(disk.log)
        append_one(store)
        assert {name for _, name in disk.log[before:]} == {"-wal"}
        assert disk.log[-1] == ("sync", "-wal")
        assert sum(1 for kind, _ in disk.log[before:] if kind == "write") > 4


def test_a_full_disk_at_any_write_keeps_nothing_and_the_next_append_works(disk: FailingDisk, folder: Path) -> None:
    writes = operations_of_an_append(disk, folder, "write")
    failed = 0
    for at in range(1, writes + 1):
        with store_in(folder) as store:
            head = store.journal.state().head
            put(store, 1)
            disk.fill_up(at)
            with pytest.raises(DiskFull) as caught:
                append_one(store)
            failed += 1
            assert caught.value.retry_after_s > 0
            assert store.latch is not None
            assert store.latch.reason is None
            assert positions(store) == through(head + 1), "reads go on"
            disk.heal()
            append_one(store)
            assert positions(store) == through(head + 1 + _APPENDED)
            store.check_writable()
        with store_in(folder) as store:
            assert positions(store) == through(head + 1 + _APPENDED)
    assert failed == writes > 4


@pytest.mark.parametrize("failure", ["write", "sync"])
def test_an_error_at_any_operation_latches_the_store_and_a_restart_recovers(
    disk: FailingDisk, folder: Path, failure: Failure
) -> None:
    """What was not acknowledged may come back after the restart, then whole; what was acknowledged is there."""
    operations = operations_of_an_append(disk, folder, failure)
    for at in range(1, operations + 1):
        with store_in(folder) as store:
            head = store.journal.state().head
            put(store, 1)
            disk.break_down(failure, at)
            with pytest.raises(StoreFailed):
                append_one(store)
            disk.heal()
            # It is never tried again in place, even if it would succeed.
            for attempt in (lambda: put(store, 1), store.check_writable, lambda: store.journal.request_flush(1)):
                with pytest.raises(StoreFailed, match="until a restart"):
                    attempt()
            assert positions(store) == through(head + 1), "reads go on"
        with store_in(folder) as store:
            assert store.latch is not None
            assert store.latch.reason is None
            found = positions(store)
            assert found in (through(head + 1), through(head + 1 + _APPENDED))
            put(store, 2)
            assert positions(store) == through(len(found) + 2)
    assert operations >= 1


def test_an_append_that_waited_for_one_that_failed_is_not_acknowledged(disk: FailingDisk, folder: Path) -> None:
    """It has looked at the latch before it queued for the journal, and the latch was set meanwhile."""
    with store_in(folder) as store:
        put(store, 1)
        outcomes: list[str] = []
        waiting = threading.Event()

        def append_beside() -> None:
            waiting.set()
            try:
                put(store, 1)
            except StoreError as error:
                outcomes.append(type(error).__name__)
            else:
                outcomes.append("acknowledged")

        beside = threading.Thread(target=append_beside)

        def let_it_queue() -> None:
            disk.before_sync.clear()
            beside.start()
            waiting.wait(120)
            beside.join(0.3)
            disk.break_down("sync", 1)

        disk.before_sync.append(let_it_queue)
        with pytest.raises(StoreFailed):
            put(store, 1)
        disk.heal()
        beside.join(120)
        assert outcomes == ["StoreFailed"]
        assert positions(store) == [1]


@pytest.mark.parametrize("failure", ["full", "write", "sync"])
def test_a_flush_whose_trim_fails_loses_nothing_and_doubles_nothing(
    disk: FailingDisk, folder: Path, failure: Failure
) -> None:
    with store_in(folder) as store:
        put(store, 3)
        disk.break_down(failure, 1)
        with pytest.raises(DiskFull if failure == "full" else StoreFailed):
            store.flush_here()
        disk.heal()
        assert positions(store) == through(3)
        assert store.journal.state().trimmed_position == 0
        assert store.latch is not None
        assert (store.latch.reason is None) == (failure == "full")
        if failure == "full":
            store.flush_here()
            assert store.journal.state().trimmed_position == 3
    with store_in(folder) as store:
        put(store, 1)
        store.flush_here()
        assert positions(store) == through(4)


@pytest.mark.parametrize("truncate", [True, False])
@pytest.mark.parametrize("failure", ["full", "write", "sync"])
def test_a_checkpoint_that_fails_loses_nothing(
    disk: FailingDisk, folder: Path, failure: Failure, truncate: bool
) -> None:
    with store_in(folder) as store:
        put(store, 3)
        disk.break_down(failure, 1)
        with pytest.raises(DiskFull if failure == "full" else StoreFailed):
            store.journal.checkpoint(truncate=truncate)
        assert positions(store) == through(3)
        disk.heal()
    with store_in(folder) as store:
        assert positions(store) == through(3)
        store.journal.checkpoint(truncate=True)
        assert store.journal.wal_bytes() == 0
        assert positions(store) == through(3)


def test_other_kinds_of_errors_keep_nothing_either(store: Store) -> None:
    put(store, 1)
    connection = apsw.Connection(str(store.paths.journal))
    connection.execute("CREATE TRIGGER refuse BEFORE INSERT ON submissions BEGIN SELECT raise(ABORT, 'no'); END")
    with pytest.raises(apsw.ConstraintError):
        put(store, 1)
    connection.execute("DROP TRIGGER refuse")
    connection.close()
    put(store, 1)
    assert positions(store) == [1, 2]


def test_a_journal_that_is_locked_for_too_long_is_overload_and_no_failure(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    connection = apsw.Connection(str(store.paths.journal))
    connection.execute("BEGIN IMMEDIATE")
    store.journal._appender.set_busy_timeout(50)
    with pytest.raises(StoreError, match="busy"):
        put(store, 1)
    connection.execute("ROLLBACK")
    connection.close()
    assert store.latch is not None
    assert store.latch.reason is None
    put(store, 1)
    assert positions(store) == [1]
    assert execute(store.paths.journal, "SELECT count(*) FROM submissions") == [(1,)]
