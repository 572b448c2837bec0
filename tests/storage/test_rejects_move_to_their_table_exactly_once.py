"""A dead letter is in the journal's database or in the table `rejects`, once, whatever happens between the two."""

from __future__ import annotations

import contextlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pytest

from storage.dead_letters import read_rejects_state
from storage.errors import CommitRefused, CorruptData, DiskFull
from storage.journal import Journal
from storage.rejects_erasure import erase_from_rejects
from storage.rejects_files import decode_original
from storage.rejects_flush import RejectsFlusher, RejectsLimits, is_due
from storage.rejects_table import RejectsTable
from storage.store import Store
from tests.storage.building import Crash, execute, opened, positions, put, store_in, through
from tests.storage.dying import Dying
from tests.storage.rejecting import ids_everywhere, in_table, mover, reject, reject_line, table_files

_DAY_US = 86_400_000_000


def bytes_held(store: Store) -> int:
    with store.journal.reading() as execute:
        return read_rejects_state(execute).bytes


def test_what_was_rejected_is_in_the_table_with_its_reason_and_its_exact_text(store: Store) -> None:
    reject(store, "scroll", user="é😀")
    reject_line(store, b"\xff\x00 no text")
    mover(store).flush()
    first, second = in_table(store.paths.data)
    assert (first["user_id"], first["code"], first["action_index"], first["line"]) == ("é😀", "unknown_type", 0, None)
    assert '"properties": {"n": 0}' in first["original"]
    assert (first["state"], first["original_encoding"]) == ("open", "utf-8")
    assert (second["user_id"], second["code"], second["line"]) == (None, "bad_envelope", 1)
    assert decode_original(second["original"], second["original_encoding"]) == b"\xff\x00 no text"
    assert second["original_encoding"] == "base64"
    assert store.journal.dead_letters() == 0
    assert bytes_held(store) == 0


def test_polars_and_duckdb_read_the_table(store: Store) -> None:
    reject(store, "scroll", "swipe")
    mover(store).flush()
    assert pl.scan_delta(str(store.paths.rejects)).collect()["code"].to_list() == ["unknown_type"] * 2
    files = [str(path) for path in table_files(store.paths.data)]
    assert duckdb.sql(f"SELECT count(DISTINCT (source, reject_id)) FROM read_parquet({files})").fetchone() == (2,)


def test_nothing_to_move_makes_no_table(store: Store) -> None:
    mover(store).flush()
    put(store, 1)
    store.flush_here()
    assert not store.paths.rejects.exists()


def test_letters_are_moved_in_bounded_steps_and_days_of_their_own(store: Store) -> None:
    for day in range(3):
        reject(store, "a", "b", "c", now_us=(20_000 + day) * _DAY_US)
    mover(store, letters_max=2).flush()
    assert ids_everywhere(store) == through(9)
    assert sorted({path.parent.name for path in table_files(store.paths.data)}) == [
        "date=2024-10-04",
        "date=2024-10-05",
        "date=2024-10-06",
    ]
    assert RejectsTable(store.paths.rejects).version == 5, "five commits of at most two letters"


def test_a_day_of_small_moves_stays_in_one_file(store: Store) -> None:
    for n in range(5):
        reject(store, f"kind{n}", now_us=20_000 * _DAY_US + n)
        mover(store).flush()
    assert len(RejectsTable(store.paths.rejects).snapshot("").files) == 1
    assert ids_everywhere(store) == through(5)


def test_gaps_between_ids_do_not_matter(store: Store) -> None:
    reject(store, "a", "b", "c")
    with store.journal.writing() as execute:
        execute("DELETE FROM dead_letters WHERE id IN (1, 3)")
    mover(store).flush()
    reject(store, "d")
    mover(store).flush()
    assert ids_everywhere(store) == [2, 4]


STEPS = ((os, "fsync"), (RejectsTable, "commit"), (RejectsTable, "sync"), (Journal, "writing"))


def test_a_crash_at_any_step_of_a_move_neither_loses_nor_doubles_a_reject(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at, died = 0, True
    while died:
        at += 1
        folder = tmp_path / str(at)
        with store_in(folder) as store:
            reject(store, "a", "b")
            put(store, 1)
            with monkeypatch.context() as patched:
                dying = Dying(patched, STEPS, at=at)
                with contextlib.suppress(Crash):
                    mover(store, letters_max=1).flush()
                died = dying.died
        with store_in(folder) as store:
            assert ids_everywhere(store) == [1, 2], f"died at step {at}"
            reject(store, "c")
            mover(store).flush()
            assert [row["reject_id"] for row in in_table(folder)] == [1, 2, 3], f"died at step {at}"
            assert store.journal.dead_letters() == 0
            assert positions(store) == [1]
    assert at > 15


def move_and_lose_power(folder: Path, sync: Callable[..., None], monkeypatch: pytest.MonkeyPatch) -> None:
    """Move a second letter with another way of syncing, then take away what that did not sync: the log entry."""
    with store_in(folder) as store:
        reject(store, "a")
        mover(store).flush()
        reject(store, "b")
        with monkeypatch.context() as patched, contextlib.suppress(Crash):
            patched.setattr(RejectsTable, "sync", sync)
            mover(store).flush()
        os.truncate(store.paths.rejects / "_delta_log" / f"{2:020d}.json", 0)


def test_a_power_cut_before_the_sync_loses_no_reject(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def stop(*_: Any, **__: Any) -> None:
        raise Crash

    move_and_lose_power(folder, stop, monkeypatch)
    store, report = opened(folder)
    assert len(report.removed_entries) == 1
    assert ids_everywhere(store) == [1, 2]
    mover(store).flush()
    assert [row["reject_id"] for row in in_table(folder)] == [1, 2]
    store.close(flush=False)


def test_the_control_that_lets_go_without_a_sync_loses_one(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    move_and_lose_power(folder, lambda *_, **__: None, monkeypatch)
    with pytest.raises(CorruptData):
        opened(folder)


def test_a_table_that_does_not_take_a_commit_keeps_the_letters(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reject(store, "a")

    def refuse(*_: Any, **__: Any) -> int:
        raise CommitRefused("no")

    with monkeypatch.context() as patched:
        patched.setattr(RejectsTable, "commit", refuse)
        with pytest.raises(CommitRefused):
            mover(store).flush()
    assert store.journal.dead_letters() == 1
    assert table_files(store.paths.data) == []
    mover(store).flush()
    assert ids_everywhere(store) == [1]


def test_a_full_disk_keeps_the_letters(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    reject(store, "a")

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("storage.rejects_flush.write_rows", full)
        with pytest.raises(DiskFull):
            mover(store).flush()
    mover(store).flush()
    assert ids_everywhere(store) == [1]


@pytest.mark.parametrize(
    ("wait_us", "letters", "due"), [(0, 1, False), (5_000_000, 1, True), (0, 10, True), (10**9, 0, False)]
)
def test_letters_are_due_by_age_and_by_number(store: Store, wait_us: int, letters: int, due: bool) -> None:
    if letters:
        reject(store, *("a" for _ in range(letters)))
    limits = RejectsLimits(interval_ms_max=5_000, letters_max=10)
    with store.journal.reading() as execute:
        state = read_rejects_state(execute)
    assert is_due(state, oldest_us=0 if letters else None, now_us=wait_us, limits=limits) is due


def test_dead_letters_count_towards_what_the_journal_may_hold(folder: Path) -> None:
    with store_in(folder, journal_bytes_max=2_000) as store:
        store.check_writable()
        reject(store, *("a" * 60 for _ in range(20)))
        with pytest.raises(Exception, match="journal is full"):
            store.check_writable()
        mover(store).flush()
        # As the leader does after a flush: the bound includes the log.
        store.journal.checkpoint(truncate=True)
        store.check_writable()


def test_a_flush_moves_the_rejects_too_and_so_does_the_leader(folder: Path) -> None:
    with store_in(folder) as store:
        reject(store, "a")
        store.start_leading()
        store.flush(timeout_s=120)
        assert [row["reject_id"] for row in in_table(folder)] == [1]
        assert isinstance(store._workshop().make_flusher().rejects, RejectsFlusher)


def test_a_table_older_than_the_journal_is_reported(folder: Path) -> None:
    with store_in(folder) as store:
        reject(store, "a")
        mover(store).flush()
        reject(store, "b")
        mover(store).flush()
        rejects = store.paths.rejects
    execute(store.paths.journal, "UPDATE rejects SET moved_through = moved_through + 1")
    with pytest.raises(CorruptData, match="older than the journal"):
        opened(folder)
    execute(store.paths.journal, "UPDATE rejects SET moved_through = moved_through - 1")
    (rejects / "_delta_log" / f"{2:020d}.json").unlink()
    with pytest.raises(CorruptData, match="ends with version 1"):
        opened(folder)


@pytest.mark.parametrize("known", ["version_min", "durable_version"])
def test_a_table_that_lost_its_newest_durable_entry_is_reported_though_no_letter_went_with_it(
    folder: Path, known: str
) -> None:
    """The entry of an erasure: its watermark is that of the move before."""
    with store_in(folder) as store:
        reject(store, "a")
        mover(store).flush()
        assert store.latch is not None
        erase_from_rejects(store.journal, store.paths.rejects, store.latch, "somebody")
    # A start syncs what it finds, and notes that.
    with store_in(folder) as store:
        rejects = store.paths.rejects
    other = "durable_version" if known == "version_min" else "version_min"
    execute(store.paths.journal, f"UPDATE rejects SET {other} = 1")
    (rejects / "_delta_log" / f"{2:020d}.json").unlink()
    with pytest.raises(CorruptData, match=r"ends with version 1.*version 2 was synced"):
        opened(folder)


def test_a_lost_table_is_told_and_begun_anew(folder: Path) -> None:
    with store_in(folder) as store:
        reject(store, "a")
        mover(store).flush()
        reject(store, "b")
    shutil.rmtree(store.paths.rejects)
    store, report = opened(folder)
    assert report.rejects_lost
    mover(store).flush()
    assert ids_everywhere(store) == [2]
    store.close(flush=False)
    with store_in(folder) as store:
        assert ids_everywhere(store) == [2]


def test_a_lost_journal_goes_on_under_a_new_source(folder: Path) -> None:
    with store_in(folder) as store:
        reject(store, "a")
        mover(store).flush()
        journal = store.paths.journal
    journal.unlink()
    with store_in(folder) as store:
        reject(store, "b")
        mover(store).flush()
        rows = in_table(folder)
        assert [row["reject_id"] for row in rows] == [1, 1]
        assert len({row["source"] for row in rows}) == 2


def test_a_journal_that_was_rolled_back_doubles_no_reject(folder: Path, tmp_path: Path) -> None:
    with store_in(folder) as store:
        reject(store, "a")
        journal = store.paths.journal
    shutil.copy(journal, tmp_path / "copy")
    with store_in(folder) as store:
        reject(store, "b")
        mover(store).flush()
    shutil.copy(tmp_path / "copy", journal)
    with store_in(folder) as store:
        assert ids_everywhere(store) == [1, 2], "the copy's own letter is in the table already"
        reject(store, "c")
        mover(store).flush()
        assert sorted(row["original"].count('"c"') for row in in_table(folder)) == [0, 0, 1]
        assert len(in_table(folder)) == 3
