"""After a power cut, commits that were not durable are taken back and their rows flushed again, exactly once.

Damage that no crash explains is reported, naming the file, and nothing is passed over.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from storage.errors import CorruptData, StoreError
from storage.flush import FlushLimits
from storage.journal import Journal
from storage.lake import Lake
from storage.paths import StorePaths
from storage.store import Store
from tests.storage.building import (
    Crash,
    data_files,
    execute,
    flush,
    flusher,
    in_files,
    log_entry,
    opened,
    positions,
    put,
    remove_checkpoints,
    store_in,
    through,
)
from tests.storage.compacting import compact_all, put_files


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def empty(path: Path) -> None:
    os.truncate(path, 0)


def remove(path: Path) -> None:
    path.unlink()


def cut_last_line(path: Path) -> None:
    """Cut between two lines, which leaves an entry that can be read."""
    path.write_bytes(path.read_bytes().rstrip(b"\n").rpartition(b"\n")[0])


def zero(path: Path) -> None:
    """What a file system leaves that knows the size of a file and not its content."""
    path.write_bytes(bytes(path.stat().st_size))


@pytest.fixture
def crashed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with version 1 durable (positions 1 to 4), and 2 committed (5 to 9) when the machine stopped."""

    def stop(*_: Any, **__: Any) -> None:
        raise Crash

    with store_in(folder) as store:
        put(store, 4)
        flush(store)
        put(store, 2, 3)
        with monkeypatch.context() as patched:
            patched.setattr(Lake, "sync", stop)
            with pytest.raises(Crash):
                flush(store)
        put(store, 1)
    return folder


def newest_file(folder: Path) -> Path:
    return max(data_files(folder), key=lambda path: path.stat().st_mtime_ns)


def test_a_commit_that_is_whole_is_kept_and_its_rows_are_trimmed(crashed: Path) -> None:
    store, report = opened(crashed)
    assert (report.removed_entries, report.trimmed) == ((), 5)
    assert store.journal.state().trimmed_position == 9
    assert store.journal.state().durable_version == 2
    assert positions(store) == through(10)
    flush(store)
    assert positions(store) == through(10)
    store.close(flush=False)


@pytest.mark.parametrize("damage", [empty, halve, zero, cut_last_line])
def test_a_torn_log_entry_is_removed_and_its_rows_are_flushed_again(
    crashed: Path, damage: Callable[[Path], None]
) -> None:
    damage(log_entry(crashed, 2))
    removed_once_and_flushed_again(crashed)


@pytest.mark.parametrize("damage", [empty, halve, zero, remove])
def test_an_entry_whose_data_file_is_torn_is_removed_and_its_rows_are_flushed_again(
    crashed: Path, damage: Callable[[Path], None]
) -> None:
    damage(newest_file(crashed))
    removed_once_and_flushed_again(crashed)


def removed_once_and_flushed_again(crashed: Path) -> None:
    store, report = opened(crashed)
    assert len(report.removed_entries) == 1
    assert report.removed_entries[0].startswith(log_entry(crashed, 2).name + ": ")
    assert report.trimmed == 0
    view = store.read_view()
    assert view.snapshot.version == 1
    assert positions(store) == through(10)
    flush(store)
    store.close(flush=False)
    store, report = opened(crashed)
    assert report.removed_entries == ()
    assert sorted(position for _, position in in_files(store.read_view())) == through(10)
    store.close(flush=False)
    assert sorted(pl.scan_delta(str(store.paths.table)).collect()["position"].to_list()) == through(10)


def test_entries_that_follow_a_torn_one_go_with_it(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with store_in(folder) as store:
        put(store, 6, days=3)
        with monkeypatch.context() as patched:
            patched.setattr(Lake, "sync", lambda *_, **__: None)
            patched.setattr(Journal, "trim", lambda *_, **__: None)
            flusher(store, limits=FlushLimits(partitions_max=1)).flush(6)
    assert log_entry(folder, 3).exists()
    remove_checkpoints(folder)
    halve(log_entry(folder, 2))
    store, report = opened(folder)
    assert [one.split(".")[0] for one in report.removed_entries] == [f"{3:020d}", f"{2:020d}"]
    assert report.trimmed == 2
    assert positions(store) == through(6)
    flush(store)
    assert positions(store) == through(6)
    store.close(flush=False)


@pytest.mark.parametrize("damage", [empty, halve, remove])
def test_a_torn_checkpoint_is_removed_since_the_entries_are_there(
    crashed: Path, damage: Callable[[Path], None]
) -> None:
    (checkpoint,) = log_entry(crashed, 1).parent.glob("*.checkpoint.parquet")
    damage(checkpoint)
    store, _ = opened(crashed)
    assert not checkpoint.exists()
    assert positions(store) == through(10)
    store.close(flush=False)


@pytest.mark.parametrize("damage", [empty, halve])
def test_a_torn_hint_at_the_newest_checkpoint_is_no_obstacle(crashed: Path, damage: Callable[[Path], None]) -> None:
    damage(log_entry(crashed, 1).parent / "_last_checkpoint")
    with store_in(crashed) as store:
        assert positions(store) == through(10)


@pytest.mark.parametrize("damage", [empty, halve])
def test_a_table_whose_making_was_cut_off_is_made_again(folder: Path, damage: Callable[[Path], None]) -> None:
    with store_in(folder):
        pass
    for path in folder.glob("journal.sqlite*"):
        path.unlink()
    damage(log_entry(folder, 0))
    store, report = opened(folder)
    assert report.created
    put(store, 2)
    flush(store)
    assert positions(store) == [1, 2]
    store.close(flush=False)


# Damage that no crash explains


def entry_0(folder: Path) -> Path:
    return log_entry(folder, 0)


def entry_1(folder: Path) -> Path:
    return log_entry(folder, 1)


@pytest.mark.parametrize("damage", [empty, halve, zero])
@pytest.mark.parametrize("entry", [entry_0, entry_1])
def test_damage_to_a_durable_log_entry_is_reported_by_name(
    folder: Path, entry: Callable[[Path], Path], damage: Callable[[Path], None]
) -> None:
    """Also where a later watermark would hide that rows are missing."""
    with store_in(folder) as store:
        for _ in range(3):
            put(store, 2)
            flush(store)
    remove_checkpoints(folder)
    damage(entry(folder))
    for _ in range(2):
        with pytest.raises(CorruptData, match=entry(folder).name):
            opened(folder)


def test_a_durable_entry_that_is_missing_is_reported_by_name(folder: Path) -> None:
    with store_in(folder) as store:
        for _ in range(3):
            put(store, 2)
            flush(store)
    remove_checkpoints(folder)
    log_entry(folder, 2).unlink()
    with pytest.raises(CorruptData, match=log_entry(folder, 2).name):
        opened(folder)


@pytest.mark.parametrize("damage", [empty, halve, remove])
def test_damage_to_a_durable_data_file_is_an_error_for_who_reads_it(
    folder: Path, damage: Callable[[Path], None]
) -> None:
    with store_in(folder) as store:
        put(store, 2)
        flush(store)
        (path,) = data_files(folder)
        damage(path)
    store, report = opened(folder)
    assert report.removed_entries == ()
    with pytest.raises(Exception, match=rf"{path.name}|Parquet|parquet"):
        positions(store)
    with pytest.raises(duckdb.Error, match=path.name), duckdb.connect() as connection:
        connection.execute("SELECT * FROM read_parquet(?)", [[one.path for one in store.read_view().files]]).fetchall()
    store.close(flush=False)


def test_a_table_older_than_the_journal_is_reported(folder: Path, tmp_path: Path) -> None:
    paths = StorePaths.of(folder)
    with store_in(folder) as store:
        put(store, 2)
        flush(store)
    shutil.copytree(paths.table, tmp_path / "older")
    with store_in(folder) as store:
        put(store, 2)
        flush(store)
    shutil.rmtree(paths.table)
    shutil.copytree(tmp_path / "older", paths.table)
    with pytest.raises(CorruptData, match="older than the journal"):
        opened(folder)


def test_a_table_that_becomes_older_while_the_store_is_open_stops_the_flush(store: Store, tmp_path: Path) -> None:
    """The rows beyond what was trimmed must not carry the watermark over the gap."""
    shutil.copytree(store.paths.table, tmp_path / "older")
    put(store, 2)
    flush(store)
    put(store, 2)
    shutil.rmtree(store.paths.table)
    shutil.copytree(tmp_path / "older", store.paths.table)
    with pytest.raises(CorruptData, match="older than the journal"):
        flush(store)
    assert Lake(store.paths.table, store.schema).watermark(store.journal_id) == 0


def test_a_table_that_is_gone_is_reported_where_rows_were_in_it_and_made_where_none_were(folder: Path) -> None:
    paths = StorePaths.of(folder)
    with store_in(folder) as store:
        put(store, 3)
    shutil.rmtree(paths.table)
    with store_in(folder) as store:
        assert positions(store) == through(3)
        flush(store)
    shutil.rmtree(paths.table)
    with pytest.raises(CorruptData, match="no table"):
        opened(folder)


def test_a_table_that_lost_its_newest_durable_entry_is_reported_though_no_row_went_with_it(compacted: Path) -> None:
    """The entry of a compaction: its watermark is that of the flush before."""
    with store_in(compacted) as store:
        assert store.journal.state().durable_version == 4
    remove_checkpoints(compacted)
    remove(log_entry(compacted, 4))
    with pytest.raises(CorruptData, match="ends with version 3"):
        opened(compacted)


def test_a_table_that_is_made_anew_for_a_journal_begins_with_nothing_durable(folder: Path) -> None:
    """Else its first entries would be taken for synced, before they are."""
    with store_in(folder) as store:
        put(store, 2)
        execute(store.paths.journal, "UPDATE journal SET durable_version = 3, lake_version_min = 2")
        shutil.rmtree(store.paths.table)
    with store_in(folder) as store:
        assert store.journal.state().durable_version == 0
        assert positions(store) == through(2)


def no_database(path: Path) -> None:
    path.write_bytes(b"not a database, whatever the name says" * 200)


def overwrite_a_page(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[4096 * 4 : 4096 * 5] = os.urandom(4096)
    path.write_bytes(content)


@pytest.mark.parametrize("damage", [no_database, overwrite_a_page, halve, empty])
def test_a_damaged_journal_is_reported_by_name(folder: Path, damage: Callable[[Path], None]) -> None:
    with store_in(folder) as store:
        put(store, *[20] * 40)
        journal = store.paths.journal
    damage(journal)
    with pytest.raises(StoreError, match=str(journal)) as caught:
        opened(folder)
    assert isinstance(caught.value, CorruptData)


def test_a_damaged_row_is_reported_with_its_positions(store: Store) -> None:
    put(store, 2)
    put(store, 3)
    execute(store.paths.journal, "UPDATE submissions SET payload = x'c1' WHERE first_position = 3")
    with pytest.raises(CorruptData, match=f"journal {store.journal_id}, positions 3 to 5"):
        store.read_view()


# Compaction


@pytest.fixture
def compacted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A store with versions 1 to 3 durable (positions 1 to 18), and a compaction of them, 4, that was not synced."""

    def stop(*_: Any, **__: Any) -> None:
        raise Crash

    with store_in(folder) as store:
        put_files(store, 3)
        with monkeypatch.context() as patched:
            patched.setattr(Lake, "sync", stop)
            with pytest.raises(Crash):
                compact_all(store)
    return folder


@pytest.mark.parametrize("damage", [empty, halve, zero, cut_last_line])
def test_a_torn_compaction_is_taken_back_and_the_old_files_count(
    compacted: Path, damage: Callable[[Path], None]
) -> None:
    damage(log_entry(compacted, 4))
    store, report = opened(compacted)
    assert [one.split(".")[0] for one in report.removed_entries] == [f"{4:020d}"]
    assert len(store.read_view().files) == 3
    assert positions(store) == through(18)
    compact_all(store)
    assert positions(store) == through(18)
    store.close(flush=False)


@pytest.mark.parametrize("damage", [empty, halve, zero, remove])
def test_a_compaction_whose_new_file_is_torn_is_taken_back(compacted: Path, damage: Callable[[Path], None]) -> None:
    damage(newest_file(compacted))
    store, report = opened(compacted)
    assert len(report.removed_entries) == 1
    assert positions(store) == through(18)
    store.close(flush=False)


@pytest.mark.parametrize("damage", [halve, cut_last_line])
def test_flushes_that_follow_a_torn_compaction_are_taken_back_with_it_and_flushed_again(
    compacted: Path, monkeypatch: pytest.MonkeyPatch, damage: Callable[[Path], None]
) -> None:
    """Without the flush's sync, which covers the compaction's entry as well."""
    with store_in(compacted) as store:
        put(store, 5)
        execute(store.paths.journal, "UPDATE journal SET durable_version = 3")
        with monkeypatch.context() as patched:
            patched.setattr(Lake, "sync", lambda *_, **__: None)
            patched.setattr(Journal, "trim", lambda *_, **__: None)
            flush(store)
    remove_checkpoints(compacted)
    damage(log_entry(compacted, 4))
    store, report = opened(compacted)
    assert [one.split(".")[0] for one in report.removed_entries] == [f"{5:020d}", f"{4:020d}"]
    assert positions(store) == through(23)
    flush(store)
    assert sorted(position for _, position in in_files(store.read_view())) == through(23)
    store.close(flush=False)


def test_a_flush_makes_a_compaction_before_it_durable(compacted: Path) -> None:
    with store_in(compacted) as store:
        put(store, 5)
        execute(store.paths.journal, "UPDATE journal SET durable_version = 3")
        flush(store)
        assert store.journal.state().durable_version == 5
    halve(log_entry(compacted, 4))
    remove_checkpoints(compacted)
    with pytest.raises(CorruptData, match=log_entry(compacted, 4).name):
        opened(compacted)
