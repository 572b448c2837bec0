"""Every row gets into the lake exactly once: whatever a commit answers, wherever the process dies, however split."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError, DeltaError

from storage import durable_files
from storage.errors import CommitRefused, DiskFull, StoreError, StoreFailed
from storage.flush import FlushLimits
from storage.journal import Journal
from storage.journal_rows import trim_step
from storage.lake import Lake
from storage.store import Store
from tests.storage.building import (
    Crash,
    data_files,
    flush,
    flusher,
    in_lake,
    opened,
    positions,
    put,
    store_in,
    through,
)
from tests.storage.dying import Dying

# Commits whose answer does not tell


@pytest.mark.parametrize("step", ["create_write_transaction", "update_incremental after it"])
def test_a_commit_that_fails_after_it_happened_is_not_repeated(
    store: Store, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    put(store, 3)
    commit, update, committed = DeltaTable.create_write_transaction, DeltaTable.update_incremental, []

    def commit_then_fail(table: DeltaTable, *args: Any, **kwargs: Any) -> None:
        commit(table, *args, **kwargs)
        committed.append(1)
        if step == "create_write_transaction":
            raise DeltaError("the answer was lost")

    def fail_once_committed(table: DeltaTable) -> None:
        update(table)
        if committed and step != "create_write_transaction":
            committed.clear()
            raise DeltaError("the answer was lost")

    with monkeypatch.context() as patched:
        patched.setattr(DeltaTable, "create_write_transaction", commit_then_fail)
        patched.setattr(DeltaTable, "update_incremental", fail_once_committed)
        flush(store)
    assert in_lake(store) == through(3)
    assert store.journal.state().depth == 0
    assert store.read_view().snapshot.version == 1


def test_a_commit_that_fails_before_it_happened_is_tried_again(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, 3)

    def fail(*_: Any, **__: Any) -> int:
        raise DeltaError("no")

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "append", fail)
        with pytest.raises(CommitRefused, match="did not take a commit: no"):
            flush(store)
    assert store.latch is not None
    assert store.latch.reason is None
    assert store.journal.state().depth == 3
    assert data_files(store.paths.data) == set(), "files that no entry names are taken away"
    assert positions(store) == through(3)
    flush(store)
    assert in_lake(store) == through(3)


@pytest.mark.parametrize("committed", [True, False])
def test_a_process_that_dies_in_a_commit_is_followed_by_one_that_looks_first(
    folder: Path, monkeypatch: pytest.MonkeyPatch, committed: bool
) -> None:
    append = Lake.append

    def die(lake: Lake, *args: Any, **kwargs: Any) -> int:
        if committed:
            append(lake, *args, **kwargs)
        raise Crash

    with store_in(folder) as store:
        put(store, 2, 2)
        with monkeypatch.context() as patched:
            patched.setattr(Lake, "append", die)
            with pytest.raises(Crash):
                flush(store)
        assert positions(store) == through(4)
        put(store, 1)
        # Another leader, in the same life of the store.
        flush(store)
        assert in_lake(store) == through(5)
        assert store.journal.state().durable_version == store.read_view().snapshot.version


def test_a_refusal_on_a_full_disk_is_told_as_such(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, 3)
    statvfs = os.statvfs(store.paths.table)

    class Full:
        f_bavail, f_frsize = 0, statvfs.f_frsize

    def fail(*_: Any, **__: Any) -> int:
        raise DeltaError("Generic LocalFileSystem error")

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "append", fail)
        patched.setattr(os, "statvfs", lambda _: Full)
        with pytest.raises(DiskFull):
            flush(store)
    flush(store)
    assert in_lake(store) == through(3)


def test_a_checkpoint_that_cannot_be_written_keeps_nothing_from_being_flushed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 3)

    def fail(*_: Any, **__: Any) -> None:
        raise CommitRefused("no")

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "checkpoint", fail)
        with pytest.raises(CommitRefused, match="checkpoint"):
            flush(store)
    assert in_lake(store) == through(3)
    assert store.journal.state().depth == 0
    assert store.latch is not None
    assert store.latch.reason is None


# Several writers


def test_two_flushers_with_the_same_rows_write_them_once(store: Store) -> None:
    put(store, 4)
    first, second = flusher(store), flusher(store)
    first.flush(4)
    second.flush(4)
    assert in_lake(store) == through(4)


@pytest.mark.parametrize("others_rows", [2, 4, 6])
def test_a_flusher_that_is_overtaken_before_its_commit_doubles_nothing(
    store: Store, monkeypatch: pytest.MonkeyPatch, others_rows: int
) -> None:
    """The other one takes fewer, the same, or more rows than the one that is about to commit."""
    put(store, 2)
    put(store, 2)
    put(store, 2)
    append, pending = Lake.append, [True]

    def be_overtaken(lake: Lake, *args: Any, **kwargs: Any) -> int:
        if pending:
            pending.clear()
            flusher(store).flush(others_rows)
        return append(lake, *args, **kwargs)

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "append", be_overtaken)
        overtaken = flusher(store, limits=FlushLimits(rows_max=4))
        try:
            overtaken.flush(4)
        except CommitRefused:
            assert others_rows == 2
    assert positions(store) == through(6)
    flush(store)
    assert in_lake(store) == through(6)


def test_the_library_refuses_a_watermark_from_a_stale_handle(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """The last line of defence: without our own look at the watermark, its conflict check still stands."""
    stale, current = Lake(store.paths.table, store.schema), Lake(store.paths.table, store.schema)
    current.append([], journal=store.journal_id, after=0, watermark=4)

    class Stale:
        def __init__(self, table: Any) -> None:
            self._table = table

        def __getattr__(self, name: str) -> Any:
            return (lambda: None) if name == "update_incremental" else getattr(self._table, name)

    monkeypatch.setattr(stale, "_table", Stale(stale._table))
    with pytest.raises(CommitFailedError, match="transaction"):
        stale.append([], journal=store.journal_id, after=0, watermark=4)
    with pytest.raises(ValueError, match="watermark"):
        current.append([], journal=store.journal_id, after=0, watermark=4)
    with pytest.raises(ValueError, match="watermark"):
        current.append([], journal=store.journal_id, after=2, watermark=8)
    with pytest.raises(ValueError, match="watermark"):
        current.append([], journal=store.journal_id, after=4, watermark=4)
    assert current.version == 1


# The order that makes it safe


def test_files_are_synced_before_the_commit_and_the_entry_before_the_trim(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 4, days=2)
    steps: list[str] = []
    table = store.paths.table
    fsync, append, trim = os.fsync, Lake.append, Journal.trim

    def record_fsync(descriptor: int) -> None:
        fsync(descriptor)
        steps.append(os.path.relpath(os.readlink(f"/proc/self/fd/{descriptor}"), table))

    def record_append(lake: Lake, *args: Any, **kwargs: Any) -> int:
        version = append(lake, *args, **kwargs)
        steps.append("commit")
        return version

    def record_trim(journal: Journal, *args: Any, **kwargs: Any) -> None:
        steps.append("trim")
        trim(journal, *args, **kwargs)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Lake, "append", record_append)
    monkeypatch.setattr(Journal, "trim", record_trim)
    flush(store)
    commit, trimmed = steps.index("commit"), steps.index("trim")
    files = {str(path.relative_to(table)) for path in data_files(store.paths.data)}
    assert len(files) == 2
    folders = {"."} | {str(Path(one).parent) for one in files} | {str(Path(one).parents[1]) for one in files}
    assert files | folders <= set(steps[:commit])
    for one in files:
        assert str(Path(one).parent) in steps[steps.index(one) : commit], "the folder is synced after the file is in it"
    assert steps[commit + 1 : trimmed] == ["_delta_log/00000000000000000001.json", "_delta_log"]


STEPS = (
    (os, "fsync"),
    (Lake, "append"),
    (Lake, "sync"),
    (Lake, "checkpoint"),
    (Journal, "trim"),
    (Journal, "move_to_dead_letters"),
)


def test_a_crash_at_any_step_of_a_flush_neither_loses_nor_doubles_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, died = 0, True
    while died:
        at += 1
        folder = tmp_path / str(at)
        with store_in(folder) as store:
            put(store, 2, 2)
            with monkeypatch.context() as patched:
                dying = Dying(patched, STEPS, at=at)
                try:
                    flusher(store, limits=FlushLimits(rows_max=2)).flush(4)
                except Crash:
                    assert positions(store) == through(4), f"died at step {at}"
                died = dying.died
        store, report = opened(folder)
        assert report.removed_entries == (), f"died at step {at}"
        assert positions(store) == through(4), f"died at step {at}"
        put(store, 1)
        flush(store)
        assert in_lake(store) == through(5), f"died at step {at}"
        assert store.journal.state().bytes == 0
        store.close(flush=False)
    assert at > 20


def test_a_trim_in_steps_leaves_no_gap_between_them_and_goes_on_after_a_crash(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("storage.journal_rows._TRIM_BYTES_PER_TRANSACTION", 1)
    trimmed: list[int] = []

    with store_in(folder) as store:

        def read_before_each_step(*args: Any, durable_version: int) -> tuple[int, int, bool]:
            trimmed.append(store.journal.state().trimmed_position)
            assert positions(store) == through(10)
            if len(trimmed) == 3:
                raise Crash
            return trim_step(*args, durable_version=durable_version)

        for _ in range(5):
            put(store, 2)
        with monkeypatch.context() as patched:
            patched.setattr("storage.journal.trim_step", read_before_each_step)
            with pytest.raises(Crash):
                flush(store)
        assert trimmed == [0, 2, 4]
        assert positions(store) == through(10)
    store, report = opened(folder)
    assert report.trimmed == 6
    assert store.journal.state().bytes == 0
    assert in_lake(store) == through(10)
    store.close(flush=False)


# What fails for good


@pytest.mark.parametrize("what", ["data file", "log entry"])
def test_a_failed_fsync_latches_the_store_and_a_restart_recovers(
    folder: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    fsync = os.fsync

    def fail(descriptor: int) -> None:
        suffix = ".parquet" if what == "data file" else ".json"
        if os.readlink(f"/proc/self/fd/{descriptor}").endswith(suffix):
            raise OSError(errno.EIO, "Input/output error")
        fsync(descriptor)

    with store_in(folder) as store:
        put(store, 3)
        with monkeypatch.context() as patched:
            patched.setattr(os, "fsync", fail)
            with pytest.raises(StoreFailed, match="Input/output error"):
                flush(store)
        assert store.latch is not None
        assert "Input/output error" in (store.latch.reason or "")
        with pytest.raises(StoreFailed, match="until a restart"):
            put(store, 1)
        with pytest.raises(StoreFailed, match="until a restart"):
            flush(store)
        assert positions(store) == through(3), "reads go on"
        assert store.journal.state().durable_version == 0
    with store_in(folder) as store:
        put(store, 1)
        flush(store)
        assert in_lake(store) == through(4)


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (errno.ENOSPC, DiskFull),
        (errno.EDQUOT, DiskFull),
        (errno.EMFILE, CommitRefused),
        (errno.ENFILE, CommitRefused),
        (errno.ENOMEM, CommitRefused),
    ],
)
def test_what_passes_while_files_are_written_is_no_failure(
    store: Store, monkeypatch: pytest.MonkeyPatch, code: int, told: type[StoreError]
) -> None:
    put(store, 3, days=3)
    fsync, calls = durable_files.fsync_path, []

    def fail(path: Path) -> None:
        calls.append(path)
        if len(calls) == 8:
            raise OSError(code, "not now")
        fsync(path)

    with monkeypatch.context() as patched:
        patched.setattr("storage.durable_files.fsync_path", fail)
        patched.setattr("storage.data_files.fsync_path", fail)
        with pytest.raises(told):
            flush(store)
    assert store.latch is not None
    assert store.latch.reason is None
    assert data_files(store.paths.data) == set(), "what was written gives its room back"
    put(store, 1)
    flush(store)
    assert in_lake(store) == through(4)
