"""What is stored = lake(V) + journal rows above the watermark of that same V, at every instant, for every reader."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import apsw
import pytest
from deltalake import DeltaTable
from deltalake.exceptions import DeltaError

from storage.errors import CorruptData, StoreFailed
from storage.flush import FlushLimits, FlushResult
from storage.lake import Lake, Snapshot
from storage.opening import read_store
from storage.schema import ActionSchema, PromotedProperty
from storage.store import Store
from tests.storage.building import (
    execute,
    flusher,
    full_table,
    in_files,
    in_hot_rows,
    in_view,
    positions,
    put,
    read_files,
    store_in,
    stored,
    through,
)

_ROW = ["journal", "position", "user_id", "time", "properties"]


@contextmanager
def after_the_next_snapshot(monkeypatch: pytest.MonkeyPatch, do: Callable[[], None]) -> Iterator[None]:
    """Run *do* once between a reader's snapshot and its look into the journal."""
    take, pending = Lake.snapshot, [do]

    def take_then_do(lake: Lake, journal: str) -> Snapshot:
        taken = take(lake, journal)
        if pending:
            pending.pop()()
        return taken

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "snapshot", take_then_do)
        yield
    assert not pending, "the reader took no snapshot"


def read_without_the_check(store: Store, lake: Lake) -> set[int]:
    """The control: a reader that takes the snapshot first and the tail after, and looks at nothing else."""
    snapshot = lake.snapshot(store.journal_id)
    _, rows, _ = store.journal.read_tail(snapshot.watermark)
    found = {position for (position,) in read_files((one.path for one in snapshot.files), ["position"])}
    for row in rows:
        found.update(range(row.first_position, row.last_position + 1))
    return found


def test_a_flush_and_trim_between_snapshot_and_tail_leave_no_gap(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, 4, 6)
    assert positions(store) == through(10)
    with after_the_next_snapshot(monkeypatch, lambda: flusher(store).flush(10)):
        assert positions(store) == through(10)
    assert store.journal.state().trimmed_position == 10


def test_the_control_without_the_check_has_a_gap_that_a_count_would_not_show(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 10)
    lake = Lake(store.paths.table, store.schema)
    lake.snapshot(store.journal_id)

    def flush_then_append() -> None:
        flusher(store).flush(10)
        put(store, 10)

    with after_the_next_snapshot(monkeypatch, flush_then_append):
        found = read_without_the_check(store, lake)
    assert len(found) == 10
    assert found.isdisjoint(through(10))


def test_a_trim_between_two_reads_of_one_reader_leaves_no_gap_among_its_hot_rows(store: Store) -> None:
    put(store, 3, 3)
    assert positions(store) == through(6)
    flusher(store).flush(6)
    put(store, 2)
    assert positions(store) == through(8)
    flusher(store).flush(8)
    put(store, 5)
    assert positions(store) == through(13)


def test_a_submission_that_is_in_the_lake_in_part_is_read_whole_and_once(store: Store) -> None:
    put(store, 9, days=3)
    one_day_at_a_time = flusher(store, limits=FlushLimits(partitions_max=1))

    class Stop(Exception):
        pass

    commits: list[int] = []

    def stop_after_two() -> None:
        commits.append(1)
        view = store.read_view()
        assert in_view(view) == [(store.journal_id, n) for n in through(9)]
        assert len(in_files(view)) == 3 * len(commits)
        if len(commits) == 2:
            raise Stop

    with pytest.raises(Stop):
        one_day_at_a_time.flush(9, between=stop_after_two)
    view = store.read_view()
    assert [position for _, position in in_hot_rows(view)] == [7, 8, 9]
    assert [position for _, position in sorted(in_files(view))] == through(6)


def test_a_pinned_view_stays_as_it_was_while_flushes_and_trims_go_on(store: Store) -> None:
    put(store, 5)
    flusher(store).flush(5)
    put(store, 5)
    pinned = store.read_view()
    before = full_table(pinned, _ROW)
    flusher(store).flush(10)
    put(store, 5)
    assert store.journal.state().trimmed_position == 10
    assert full_table(pinned, _ROW).equals(before)
    assert before["position"].to_pylist() == through(10)
    assert positions(store) == through(15)


def test_no_older_snapshot_is_used_than_the_journal_allows(store: Store) -> None:
    put(store, 2)
    assert store.read_view().snapshot.version == 0
    wider = ActionSchema({"click": (PromotedProperty("button", "button", "varchar"),)})
    assert Lake(store.paths.table, wider).add_missing_columns() == 1
    assert store.read_view().snapshot.version == 0
    execute(store.paths.journal, "UPDATE journal SET lake_version_min = 1")
    assert store.read_view().snapshot.version == 1


def test_a_table_that_never_reaches_the_trimmed_position_is_an_error_and_no_short_answer(store: Store) -> None:
    put(store, 3)
    execute(store.paths.journal, "UPDATE journal SET trimmed_position = 2")
    with pytest.raises(StoreFailed, match="trimmed position 2"):
        store.read_view()


def test_a_reader_beside_the_service_follows_a_journal_that_got_a_new_id(folder: Path, tmp_path: Path) -> None:
    with store_in(folder) as store:
        put(store, 2)
        paths, schema, old = store.paths, store.schema, store.journal_id
    shutil.copy(paths.journal, tmp_path / "older")
    with store_in(folder) as store:
        put(store, 1)
        flusher(store).flush(3)
    reader = read_store(paths, schema)
    try:
        assert stored(reader) == [(old, 1), (old, 2), (old, 3)]
        # Written into the file that the reader has open, as a restore in place does.
        onto, older = apsw.Connection(str(paths.journal)), apsw.Connection(str(tmp_path / "older"))
        with onto.backup("main", older, "main") as backup:
            backup.step()
        onto.close()
        older.close()
        with store_in(folder) as store:
            new = store.journal_id
            assert new != old
            put(store, 2)
            assert stored(reader) == sorted([(old, 1), (old, 2), (old, 3), (new, 3), (new, 4)])
    finally:
        reader.close(flush=False)


def test_readers_in_a_tight_loop_see_every_acknowledged_action_exactly_once(folder: Path) -> None:
    """Two readers, one of them as another process has it, beside a writer and a flusher that splits and trims."""
    with store_in(folder) as store:
        beside = read_store(store.paths, store.schema)
        acknowledged = 0
        writing = threading.Event()
        writing.set()
        failures: list[str] = []
        reads = [0, 0]
        commits: list[FlushResult] = []

        def write() -> None:
            nonlocal acknowledged
            for n in range(20_000):
                if n >= 60 and len(commits) >= 12 and min(reads) >= 10:
                    break
                put(store, 3, 1 + n % 5, days=2)
                acknowledged = store.journal.state().head
            writing.clear()

        def flush() -> None:
            worker = flusher(store, limits=FlushLimits(rows_max=15, partitions_max=1), done=commits)
            while writing.is_set():
                worker.flush(store.journal.state().trimmed_position + 20)
                time.sleep(0.005)

        def read(reader: Store, number: int) -> None:
            known: dict[str, list[tuple[int]]] = {}
            while writing.is_set():
                low = acknowledged
                view = reader.read_view()
                high = store.journal.state().head
                for one in view.files:
                    if one.path not in known:
                        known[one.path] = read_files([one.path], ["position"])
                seen = [position for one in view.files for (position,) in known[one.path]]
                seen += view.hot["position"].to_pylist()
                reads[number] += 1
                if len(set(seen)) != len(seen):
                    failures.append("a position twice")
                if missing := set(through(low)) - set(seen):
                    failures.append(f"acknowledged and not seen: {sorted(missing)[:5]} of {low}")
                if set(seen) - set(through(high)):
                    failures.append("a position that nobody wrote")

        def guarded(work: Callable[[], None]) -> None:
            try:
                work()
            except BaseException as error:  # noqa: BLE001
                failures.append(repr(error))
                writing.clear()

        jobs: list[Callable[[], None]] = [write, flush, lambda: read(store, 0), lambda: read(beside, 1)]
        threads = [threading.Thread(target=guarded, args=(job,)) for job in jobs]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(240)
        beside.close(flush=False)
        assert failures == []
        assert min(reads) >= 10
        assert len(commits) >= 12
        assert positions(store) == through(store.journal.state().head)


def test_a_store_that_is_open_for_reading_only_does_not_flush(folder: Path) -> None:
    with store_in(folder) as store:
        reader = read_store(store.paths, store.schema)
        with pytest.raises(RuntimeError, match="reading only"):
            reader.flush(timeout_s=1)
        reader.close(flush=False)


def _fail_while_listing(monkeypatch: pytest.MonkeyPatch, times: int) -> None:
    """Let the library find the log's folder as it is listed while others commit."""
    failures = iter(range(times))

    def failing_at_first(load: Callable[[object], None]) -> Callable[[object], None]:
        def load_or_not(one: object) -> None:
            if next(failures, None) is not None:
                raise DeltaError("Kernel error: Expected contiguous commit files, but found gap")
            load(one)

        return load_or_not

    for owner, name in ((DeltaTable, "update_incremental"), (Lake, "_open")):
        monkeypatch.setattr(owner, name, failing_at_first(getattr(owner, name)))


def test_a_log_that_was_listed_while_others_committed_is_read_again(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put(store, 3)
    store.flush_here()
    _fail_while_listing(monkeypatch, 1)
    assert positions(store) == through(3)


def test_a_log_that_cannot_be_read_again_either_is_damaged(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put(store, 3)
    store.flush_here()
    _fail_while_listing(monkeypatch, 100)
    with pytest.raises(CorruptData, match="found gap"):
        store.read_view()
