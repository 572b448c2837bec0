"""A journal older than the table is noticed: it goes on under a new id, with nothing doubled and nothing lost."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from storage.data_files import WrittenFile, write_partitions
from storage.errors import CorruptData
from storage.journal import Journal, mark_of
from storage.lake import Lake
from storage.paths import StorePaths
from tests.storage.building import (
    Crash,
    execute,
    flush,
    in_files,
    in_hot_rows,
    log_entry,
    opened,
    positions,
    put,
    remove_checkpoints,
    store_in,
    stored,
    through,
)


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Where a copy of the journal is kept; everything of a closed journal is in its one file."""
    return tmp_path / "journal-copy.sqlite"


def dying(*_: Any, **__: Any) -> Any:
    raise Crash


def refusing_position_2(ordered: pa.Table, table_folder: Path) -> list[WrittenFile]:
    if 2 in ordered["position"].to_pylist():
        raise pa.ArrowInvalid("no")
    return write_partitions(ordered, table_folder)


def test_rows_that_the_table_has_under_the_old_id_are_there_once(folder: Path, backup: Path) -> None:
    journal = StorePaths.of(folder).journal
    with store_in(folder) as store:
        put(store, 3)
        flush(store)
        put(store, 3)
    shutil.copy(journal, backup)
    with store_in(folder) as store:
        old = store.journal_id
        put(store, 4)
        flush(store)
    shutil.copy(backup, journal)

    store, report = opened(folder)
    assert report.journal_rolled_back
    assert not report.journal_lost
    assert report.removed_entries == ()
    new = store.journal_id
    assert new != old
    assert stored(store) == [(old, n) for n in through(10)]
    put(store, 2)
    assert in_hot_rows(store.read_view()) == [(new, 7), (new, 8)]
    store.close(flush=False)

    # Before its first flush, as after it, the new id must survive a restart.
    store, report = opened(folder)
    assert not report.journal_rolled_back
    assert store.journal_id == new
    expected = sorted([(old, n) for n in through(10)] + [(new, 7), (new, 8)])
    assert stored(store) == expected
    flush(store)
    assert sorted(in_files(store.read_view())) == expected
    store.close(flush=False)
    with store_in(folder) as store:
        assert stored(store) == expected


@pytest.mark.parametrize("more", [0, 2], ids=["not behind", "behind"])
def test_a_row_that_was_put_aside_and_then_flushed_is_no_reject(
    folder: Path, backup: Path, more: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy has the letter of an attempt that was not committed; the table has the row, by the next attempt."""
    journal = StorePaths.of(folder).journal
    with store_in(folder) as store:
        put(store, 1, 1, 1)
        with monkeypatch.context() as patched:
            patched.setattr("storage.flush.write_partitions", refusing_position_2)
            patched.setattr(Lake, "append", dying)
            with pytest.raises(Crash):
                flush(store)
    shutil.copy(journal, backup)
    with store_in(folder) as store:
        assert [one["position"] for one in store.journal.read_dead_letters(limit=9)] == [2]
        if more:
            put(store, more)
        flush(store)
        assert positions(store) == through(3 + more)
    shutil.copy(backup, journal)
    with store_in(folder) as store:
        assert positions(store) == through(3 + more)
        assert store.journal.read_dead_letters(limit=9) == []


def test_a_row_that_was_put_aside_and_passed_stays_a_reject(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: the table has passed the row, a crash kept the journal from being trimmed."""
    with store_in(folder) as store:
        put(store, 1, 1, 1)
        with monkeypatch.context() as patched:
            patched.setattr("storage.flush.write_partitions", refusing_position_2)
            patched.setattr(Journal, "trim", dying)
            with pytest.raises(Crash):
                flush(store)
    with store_in(folder) as store:
        assert positions(store) == [1, 3]
        assert [one["position"] for one in store.journal.read_dead_letters(limit=9)] == [2]


def test_a_copy_that_was_empty_starts_under_a_new_id_too(folder: Path, backup: Path) -> None:
    journal = StorePaths.of(folder).journal
    with store_in(folder) as store:
        old = store.journal_id
    shutil.copy(journal, backup)
    with store_in(folder) as store:
        put(store, 2)
        flush(store)
    shutil.copy(backup, journal)
    with store_in(folder) as store:
        put(store, 1)
        assert stored(store) == sorted([(old, 1), (old, 2), (store.journal_id, 1)])
        assert store.journal_id != old
        flush(store)
        assert stored(store) == sorted([(old, 1), (old, 2), (store.journal_id, 1)])


def test_a_copy_that_holds_more_than_the_table_keeps_its_id_and_its_rows(folder: Path, backup: Path) -> None:
    journal = StorePaths.of(folder).journal
    with store_in(folder) as store:
        put(store, 3)
        flush(store)
        put(store, 3)
    shutil.copy(journal, backup)
    with store_in(folder) as store:
        put(store, 4)
    shutil.copy(backup, journal)
    # Four acknowledged actions are gone: not without a word.
    with pytest.raises(CorruptData, match="ends at position 6, and 10 was acknowledged"):
        opened(folder)
    mark_of(journal).unlink()
    store, report = opened(folder)
    assert not report.journal_rolled_back
    assert positions(store) == through(6)
    put(store, 1)
    flush(store)
    assert positions(store) == through(7)
    store.close(flush=False)


def test_a_crash_while_the_new_id_is_taken_does_no_harm(
    folder: Path, backup: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = StorePaths.of(folder).journal
    with store_in(folder) as store:
        put(store, 1)
    shutil.copy(journal, backup)
    with store_in(folder) as store:
        put(store, 1)
        flush(store)
        old = store.journal_id
    shutil.copy(backup, journal)

    def die(*_: object) -> None:
        raise Crash

    with monkeypatch.context() as patched:
        patched.setattr("storage.journal.Journal.take_new_id", die)
        with pytest.raises(Crash):
            opened(folder)
    with store_in(folder) as store:
        put(store, 1)
        assert store.journal_id != old
        assert stored(store) == sorted([(old, 1), (old, 2), (store.journal_id, 2)])


def test_a_journal_that_was_lost_is_made_anew_and_the_table_keeps_its_rows(folder: Path) -> None:
    with store_in(folder) as store:
        put(store, 3)
        flush(store)
        old = store.journal_id
    for path in folder.glob("journal.sqlite*"):
        path.unlink()
    store, report = opened(folder)
    assert report.journal_lost
    assert not report.created
    put(store, 1)
    flush(store)
    assert stored(store) == sorted([(old, 1), (old, 2), (old, 3), (store.journal_id, 1)])
    assert store.journal_id != old
    store.close(flush=False)


@pytest.mark.parametrize("damage", ["data file", "log entry"])
def test_with_a_damaged_table_as_well_nothing_is_taken_away(folder: Path, backup: Path, damage: str) -> None:
    """The older journal does not hold the rows of the damaged entry, so that removing it would lose the later ones."""
    journal = StorePaths.of(folder).journal
    with store_in(folder) as store:
        put(store, 2)
    shutil.copy(journal, backup)
    with store_in(folder) as store:
        for _ in range(3):
            put(store, 2)
            flush(store)
        damaged = sorted(store.read_view().files, key=lambda one: one.time_min_us)[0].path
    remove_checkpoints(folder)
    shutil.copy(backup, journal)
    if damage == "data file":
        Path(damaged).write_bytes(b"")
    else:
        log_entry(folder, 2).write_bytes(b"")
    entries = sorted(log_entry(folder, 0).parent.iterdir())
    for _ in range(2):
        with pytest.raises(CorruptData, match="restore both from one backup"):
            opened(folder)
    assert sorted(log_entry(folder, 0).parent.iterdir()) == entries
    assert execute(journal, "SELECT count(*) FROM submissions") == [(1,)]
