"""A rewrite replaces files by others in one commit, and two rewrites of the same files never both happen."""

from __future__ import annotations

from pathlib import Path

import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from storage.data_files import DataFile, WrittenFile, sort_rows, write_partitions
from storage.errors import CommitRefused, RewriteConflict
from storage.lake import Lake
from storage.store import Store
from tests.storage.building import SCHEMA, positions, put, through


def _store_with_two_files(store: Store) -> tuple[DataFile, ...]:
    for _ in range(2):
        put(store, 10)
        store.flush_here()
    files = store.read_view().files
    assert len(files) == 2
    return files


def _merged(store: Store, files: tuple[DataFile, ...]) -> list[WrittenFile]:
    rows = pq.read_table([one.path for one in files], partitioning=None, schema=SCHEMA.file_schema)
    for place, (name, value) in enumerate((("date", files[0].date), ("type", files[0].type))):
        field = SCHEMA.table_schema.field(name)
        rows = rows.add_column(place, field, [[value] * rows.num_rows])
    return write_partitions(sort_rows(rows), store.paths.table)


def test_a_rewrite_keeps_every_row_once(store: Store) -> None:
    files = _store_with_two_files(store)
    lake = Lake(store.paths.table, SCHEMA)
    version = lake.rewrite(files, _merged(store, files), data_change=False)
    put(store, 5)
    view = store.read_view()
    assert view.snapshot.version < version, "the reader's own snapshot stays what it was"
    store.flush_here()
    assert positions(store) == through(25)
    assert store.read_view().snapshot.version == version + 1
    assert len(store.read_view().files) == 2


def test_two_rewrites_of_the_same_files_do_not_double_a_row(store: Store) -> None:
    files = _store_with_two_files(store)
    first, second = Lake(store.paths.table, SCHEMA), Lake(store.paths.table, SCHEMA)
    first.rewrite(files, _merged(store, files), data_change=False)
    with pytest.raises(RewriteConflict):
        second.rewrite(files, _merged(store, files), data_change=False)
    store._lake.reload(store.journal_id)
    assert positions(store) == through(20)


def test_a_rewrite_that_is_overtaken_between_load_and_commit_is_refused(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    files = _store_with_two_files(store)
    overtaking, overtaken = Lake(store.paths.table, SCHEMA), Lake(store.paths.table, SCHEMA)
    check = overtaken._require_live

    def and_be_overtaken(removed: tuple[DataFile, ...]) -> None:
        check(removed)
        overtaking.rewrite(files, _merged(store, files), data_change=False)

    monkeypatch.setattr(overtaken, "_require_live", and_be_overtaken)
    with pytest.raises(RewriteConflict):
        overtaken.rewrite(files, _merged(store, files), data_change=False)
    store._lake.reload(store.journal_id)
    assert positions(store) == through(20)


def test_an_error_after_the_commit_is_no_failure(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _store_with_two_files(store)
    lake = Lake(store.paths.table, SCHEMA)
    commit = DeltaTable.create_write_transaction

    def commit_and_fail(*given: object, **named: object) -> None:
        commit(*given, **named)  # type: ignore[arg-type]
        raise OSError("the answer was lost")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", commit_and_fail)
    version = lake.rewrite(files, _merged(store, files), data_change=False)
    assert version == store._lake.reload(store.journal_id).version
    assert positions(store) == through(20)


def test_a_refused_rewrite_changes_nothing(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _store_with_two_files(store)
    lake = Lake(store.paths.table, SCHEMA)

    def refuse(*_: object, **__: object) -> None:
        raise OSError("no")

    monkeypatch.setattr(DeltaTable, "create_write_transaction", refuse)
    with pytest.raises(CommitRefused):
        lake.rewrite(files, _merged(store, files), data_change=False)
    assert positions(store) == through(20)
    assert store.read_view().files == files


def test_a_flush_between_load_and_commit_does_not_stop_a_rewrite(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    files = _store_with_two_files(store)
    lake = Lake(store.paths.table, SCHEMA)
    check = lake._require_live

    def and_flush(removed: tuple[DataFile, ...]) -> None:
        check(removed)
        put(store, 7)
        store.flush_here()

    monkeypatch.setattr(lake, "_require_live", and_flush)
    lake.rewrite(files, _merged(store, files), data_change=False)
    store._lake.reload(store.journal_id)
    assert positions(store) == through(27)


def test_the_control_doubles_rows_when_the_transaction_is_left_out(store: Store, tmp_path: Path) -> None:
    """Without the application transaction and the check of what is live, the same two rewrites double the rows."""
    files = _store_with_two_files(store)
    merged = [_merged(store, files), _merged(store, files)]
    lakes = [Lake(store.paths.table, SCHEMA) for _ in merged]
    for lake, added in zip(lakes, merged, strict=True):
        watermark = lake.reload(store.journal_id).watermark
        lake.append(added, journal=f"careless-{id(lake)}", after=0, watermark=watermark)
    store._lake.reload(store.journal_id)
    assert positions(store) != through(20)
