"""Checkpoints sum the log up and what they sum up goes: a commit costs the same after years, and nothing is lost."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import CorruptData
from storage.lake import Lake, checkpoints, log_entries, newest_version
from storage.maintenance import table_log
from storage.maintenance.table_log import clean_log, commits_since_checkpoint, system_now_ms, write_checkpoint
from storage.store import Store
from tests.storage.building import Crash, data_files, flusher, log_entry, opened, positions, put, store_in, through
from tests.storage.compacting import compact_all, put_files


def checkpoint(store: Store) -> int:
    assert store.latch is not None
    return write_checkpoint(Lake(store.paths.table, store.schema), store.journal, store.latch)


def clean(store: Store, *, age_ms_min: int = 0) -> int:
    durable = store.journal.state().durable_version
    return clean_log(store.paths.table, durable_version=durable, now_ms=system_now_ms() + 1, age_ms_min=age_ms_min)


def versions(store: Store) -> tuple[list[int], list[int]]:
    """The entries and the checkpoints that are there."""
    return sorted(log_entries(store.paths.table)), sorted(checkpoints(store.paths.table))


@pytest.fixture
def summed_up(store: Store) -> Store:
    """A store with versions 1 to 9 and checkpoints of 1 (by the first flush), 4 and 9."""
    put_files(store, 4, rows=2)
    assert checkpoint(store) == 4
    put_files(store, 5, rows=2)
    assert checkpoint(store) == 9
    return store


def test_two_checkpoints_and_the_entries_since_the_older_one_stay(summed_up: Store) -> None:
    stale = Lake(summed_up.paths.table, summed_up.schema)
    assert clean(summed_up, age_ms_min=3_600_000) == 0, "younger ones stay"
    put_files(summed_up, 1, rows=2)
    assert clean(summed_up) == 5
    assert versions(summed_up) == (list(range(4, 11)), [4, 9])
    assert clean(summed_up) == 0
    assert len(Lake(summed_up.paths.table, summed_up.schema).reload(summed_up.journal_id).files) == 10
    assert len(stale.reload(summed_up.journal_id).files) == 10, "a handle from before goes on"
    assert positions(summed_up) == through(20)


def test_a_store_is_opened_and_written_to_after_its_log_was_cleaned(folder: Path) -> None:
    with store_in(folder) as store:
        put_files(store, 3, rows=2)
        checkpoint(store)
        put_files(store, 3, rows=2)
        checkpoint(store)
        assert clean(store) > 0
    store, report = opened(folder)
    assert report.removed_entries == ()
    put(store, 2)
    store.flush_here()
    compact_all(store)
    assert positions(store) == through(14)
    store.close(flush=False)


def halve(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


@pytest.mark.parametrize("damage", [halve, Path.unlink])
def test_the_newest_checkpoint_may_be_damaged_even_then(folder: Path, damage: Callable[[Path], None]) -> None:
    with store_in(folder) as store:
        put_files(store, 3, rows=2)
        checkpoint(store)
        put_files(store, 3, rows=2)
        newest = checkpoint(store)
        assert clean(store) > 0
        path = checkpoints(store.paths.table)[newest]
    damage(path)
    with store_in(folder) as store:
        assert positions(store) == through(12)


def test_nothing_goes_while_a_checkpoint_that_would_be_needed_is_damaged(summed_up: Store) -> None:
    before = versions(summed_up)
    halve(checkpoints(summed_up.paths.table)[9])
    assert clean(summed_up) == 0
    assert versions(summed_up) == before


def test_no_version_that_is_not_durable_is_relied_upon(store: Store) -> None:
    put_files(store, 9, rows=2)
    table = store.paths.table
    for version in (4, 9):
        Lake(table, store.schema).checkpoint(durable_version=version)
    assert clean_log(table, durable_version=3, now_ms=system_now_ms() + 1, age_ms_min=0) == 0


def test_a_checkpoint_makes_durable_what_it_sums_up(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Crash

    put_files(store, 2)
    with monkeypatch.context() as patched:
        patched.setattr(Lake, "sync", stop)
        with pytest.raises(Crash):
            compact_all(store)
    assert store.journal.state().durable_version == 2
    assert checkpoint(store) == 3
    assert store.journal.state().durable_version == 3


@pytest.mark.parametrize("step", range(5))
def test_a_death_while_the_log_is_cleaned_leaves_a_table_that_opens(
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
        put_files(store, 4, rows=2)
        checkpoint(store)
        put_files(store, 2, rows=2)
        checkpoint(store)
        with monkeypatch.context() as patched:
            patched.setattr(Path, "unlink", unlink_or_die)
            with pytest.raises(Crash):
                clean(store)
    with store_in(folder) as store:
        assert positions(store) == through(12)
        checkpoint(store)
        clean(store)
        assert positions(store) == through(12)


def test_an_entry_that_somebody_cleaned_meanwhile_needs_no_sync_and_a_lost_one_is_an_error(summed_up: Store) -> None:
    clean(summed_up)
    lake = Lake(summed_up.paths.table, summed_up.schema)
    lake.sync(after_version=0, through_version=9)
    put_files(summed_up, 2)
    log_entry(summed_up.paths.data, 10).unlink()
    with pytest.raises(FileNotFoundError):
        lake.sync(after_version=9, through_version=11)


def test_a_durable_entry_that_nothing_stands_for_is_still_missed(folder: Path) -> None:
    with store_in(folder) as store:
        put_files(store, 3, rows=2)
        checkpoint(store)
        put_files(store, 3, rows=2)
        checkpoint(store)
        clean(store)
        put_files(store, 2, rows=2)
    log_entry(folder, 7).unlink()
    with pytest.raises(CorruptData, match=log_entry(folder, 7).name):
        opened(folder)


def test_removed_files_are_forgotten_after_an_hour_so_that_checkpoints_stay_small(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_files(store, 5)
    old = {path.relative_to(store.paths.table).as_posix() for path in data_files(store.paths.data)}
    with monkeypatch.context() as patched:
        patched.setattr("storage.lake.now_ms", lambda: system_now_ms() - 3_700_000)
        compact_all(store)
    assert set(table_log.read_removals(store.paths.table).removed_at_ms) == old
    checkpoint(store)
    assert table_log.read_removals(store.paths.table).removed_at_ms == {}
    assert commits_since_checkpoint(store.paths.table) == 0
    assert newest_version(store.paths.table) == 6


def test_a_handle_that_flushes_goes_on_whenever_the_log_is_cleaned(store: Store) -> None:
    """The library reads the log lazily, from files that were there when the handle was opened."""
    flushing = flusher(store)
    for number in range(1, 9):
        put(store, 1)
        flushing.flush(number)
        checkpoint(store)
        clean(store)
        assert store.read_view().snapshot.watermark == number
    assert positions(store) == through(8)
    assert len(log_entries(store.paths.table)) <= 2


def test_entries_that_are_old_enough_go_while_a_checkpoint_is_not(summed_up: Store) -> None:
    """Checkpoints come so often that one of those in the way is always young."""
    hour_ago_s = system_now_ms() / 1000 - 3_600
    for path in log_entries(summed_up.paths.table).values():
        os.utime(path, (hour_ago_s, hour_ago_s))
    assert clean(summed_up, age_ms_min=60_000) == 4
    assert versions(summed_up) == (list(range(4, 10)), [1, 4, 9])
    assert positions(summed_up) == through(18)


def test_a_look_at_the_table_costs_no_list_of_its_log(summed_up: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which is long where there are many commits a minute: entries stay for one."""
    table = summed_up.paths.table
    lake = Lake(table, summed_up.schema)
    listed: list[str] = []
    scandir = os.scandir

    def and_note(path: Any = ".") -> Any:
        listed.append(str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", and_note)
    assert newest_version(table) == 9
    assert listed == [str(table / "_delta_log")], "the control: this is how lists are made"
    leader = flusher(summed_up, lake=lake)
    put(summed_up, 2)
    # The first one asks whether a checkpoint is due.
    leader.flush(20)
    put(summed_up, 2)
    listed.clear()
    leader.flush(22)
    assert lake.reload(summed_up.journal_id).version == 11
    assert str(table / "_delta_log") not in listed


def test_a_handle_goes_by_a_newer_checkpoint_from_its_next_look_on(summed_up: Store) -> None:
    """Else it would read ever more entries one by one, and some that are gone."""
    lake = Lake(summed_up.paths.table, summed_up.schema)
    opened_first = lake._table
    put_files(summed_up, 3, rows=2)
    assert lake.reload(summed_up.journal_id).version == 12
    assert lake._table is opened_first
    checkpoint(summed_up)
    assert lake.reload(summed_up.journal_id).version == 12
    opened_then = lake._table
    assert opened_then is not opened_first
    lake.reload(summed_up.journal_id)
    assert lake._table is opened_then
