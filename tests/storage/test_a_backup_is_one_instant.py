"""A backup of a busy store restores to exactly what was acknowledged at one instant, under a new journal id."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow as pa
import pytest
from click.testing import CliRunner

import storage.backup
from service.cli import main
from storage.backup import BackupResult, back_up
from storage.backup_records import recorded_backups
from storage.data_files import WrittenFile, write_partitions
from storage.errors import CorruptData, InvalidInput
from storage.flush import FlushLimits
from storage.journal import Journal
from storage.journal_records import IdempotencyKey
from storage.lake import Lake
from storage.paths import StorePaths
from storage.rejects import RejectsFilter
from storage.restoring import RestoreResult, restore
from storage.schema import ActionSchema
from storage.store import Store
from storage.submission import SubmissionLimits, SubmissionParser
from storage.verification import verify
from tests.storage.building import (
    SCHEMA,
    Crash,
    data_files,
    eventually,
    flusher,
    full_table,
    opened,
    positions,
    put,
    request,
    store_in,
    stored,
    through,
)
from tests.storage.compacting import compact_all, put_files
from tests.storage.erasing import erase
from tests.storage.rejecting import in_table, reject

_WITH_CLICKED = SubmissionParser(ActionSchema({**SCHEMA.action_types, "clicked": ()}), SubmissionLimits())
_VALUES = ["user_id", "session_id", "time", "properties", "received_at", "position"]


def _back_up(folder: Path, destination: Path, *, keep: int | None = None) -> BackupResult:
    return back_up(StorePaths.of(folder), destination, keep=keep)


def _restore(destination: Path, folder: Path, *, with_keys: bool = False) -> RestoreResult:
    return restore(destination, StorePaths.of(folder), SCHEMA, with_keys=with_keys)


def _rows(store: Store) -> list[dict[str, object]]:
    rows: list[dict[str, object]] = full_table(store.read_view(), ["journal", *_VALUES]).to_pylist()
    return sorted(({name: row[name] for name in _VALUES} for row in rows), key=lambda row: str(row["position"]))


@contextmanager
def _busy(folder: Path) -> Iterator[tuple[Store, list[int]]]:
    """A store into which submissions come all the time, while it flushes; and the heads that were acknowledged."""
    store, _ = opened(folder, flush=FlushLimits(interval_ms_max=20))
    acknowledged: list[int] = []
    stop = threading.Event()

    def submit() -> None:
        last = 0
        while not stop.is_set():
            put(store, 3, 2, days=2)
            last += 5
            acknowledged.append(last)
            time.sleep(0.003)

    submitting = threading.Thread(target=submit)
    store.start_leading()
    submitting.start()
    try:
        yield store, acknowledged
    finally:
        stop.set()
        submitting.join()
        store.close(flush=False)


def test_a_backup_under_load_has_all_that_was_acknowledged_before_it_began(tmp_path: Path) -> None:
    with _busy(tmp_path / "data") as (store, acknowledged):
        while len(acknowledged) < 10:
            time.sleep(0.01)
        for number in range(4):
            before = acknowledged[-1]
            made = _back_up(tmp_path / "data", tmp_path / "backups")
            assert before <= made.manifest.head <= acknowledged[-1] + 5
            _restore(tmp_path / "backups", tmp_path / f"restored-{number}")
            with store_in(tmp_path / f"restored-{number}") as copy:
                assert sorted(positions(copy)) == through(made.manifest.head)
                assert copy.journal_id != store.journal_id
        eventually(lambda: acknowledged[-1] > made.manifest.head)
    with store_in(tmp_path / "data") as store, store_in(tmp_path / "restored-3") as copy:
        kept = [row for row in _rows(store) if int(str(row["position"])) <= made.manifest.head]
        assert _rows(copy) == kept


def test_a_restored_store_goes_on(tmp_path: Path) -> None:
    with store_in(tmp_path / "data") as store:
        put(store, 4, 5, days=3)
        # The second submission is in the table in part.
        flusher(store, limits=FlushLimits(rows_max=6, partitions_max=1)).flush(5)
        put(store, 3)
        _back_up(tmp_path / "data", tmp_path / "backups")
        before = store.journal_id
    result = _restore(tmp_path / "backups", tmp_path / "copy")
    assert result.report.problems == ()
    with store_in(tmp_path / "copy") as copy:
        assert sorted(positions(copy)) == through(12)
        put(copy, 2)
        copy.flush_here()
        assert sorted(positions(copy)) == through(14)
        assert {journal for journal, _ in stored(copy)} == {before, copy.journal_id}
    assert verify(StorePaths.of(tmp_path / "copy"), SCHEMA, deep=True).problems == ()


@pytest.mark.parametrize("flushed", [False, True])
def test_a_store_of_one_kind_is_restored(tmp_path: Path, flushed: bool) -> None:
    """Everything in the journal, and everything in the table."""
    with store_in(tmp_path / "data") as store:
        put(store, 4)
        if flushed:
            store.flush_here()
        _back_up(tmp_path / "data", tmp_path / "backups")
    _restore(tmp_path / "backups", tmp_path / "copy")
    with store_in(tmp_path / "copy") as copy:
        assert sorted(positions(copy)) == through(4)


def test_the_original_and_its_copy_never_double_each_other(tmp_path: Path) -> None:
    """Both go on and take the same positions; one table that had both would still tell the rows apart."""
    with store_in(tmp_path / "data") as store:
        put(store, 4)
        _back_up(tmp_path / "data", tmp_path / "backups")
        _restore(tmp_path / "backups", tmp_path / "copy")
        with store_in(tmp_path / "copy") as copy:
            for one in (store, copy):
                put(one, 3)
                one.flush_here()
            assert not set(stored(store)) & set(stored(copy))
    # The copy's journal over the original's table: what the copy holds is not taken for what the table has.
    with store_in(tmp_path / "copy") as copy:
        put(copy, 1)
    StorePaths.of(tmp_path / "copy").table.rename(tmp_path / "old")
    StorePaths.of(tmp_path / "data").table.rename(StorePaths.of(tmp_path / "copy").table)
    with pytest.raises(CorruptData, match="restore both from one backup"):
        opened(tmp_path / "copy")


def test_a_request_of_the_backup_is_known_when_it_is_repeated_and_no_later_one(tmp_path: Path) -> None:
    early, late = (IdempotencyKey.of(name, b"body") for name in ("early", "late"))
    with store_in(tmp_path / "data") as store:
        store.append([request(2, key=early)])
        copy_to = Journal.copy_to

        def copy_and_go_on(journal: Journal, path: Path) -> None:
            copy_to(journal, path)
            store.append([request(3, key=late)])
            store.flush_here()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Journal, "copy_to", copy_and_go_on)
            made = _back_up(tmp_path / "data", tmp_path / "backups")
        assert made.manifest.head == 2
    _restore(tmp_path / "backups", tmp_path / "copy")
    with store_in(tmp_path / "copy") as copy:
        assert sorted(positions(copy)) == [1, 2]
        copy.append([request(2, key=early), request(3, key=late)])
        assert sorted(positions(copy)) == through(5)


@contextmanager
def _after_the_journal_is_copied(then: Callable[[], None]) -> Iterator[None]:
    copy_to = Journal.copy_to

    def copy_and_go_on(journal: Journal, path: Path) -> None:
        copy_to(journal, path)
        then()

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Journal, "copy_to", copy_and_go_on)
        yield


def test_a_row_that_is_put_aside_during_a_backup_is_in_it(tmp_path: Path) -> None:
    """The letter is younger than the copied journal: a table that has passed the row would be all without it."""
    with store_in(tmp_path / "data") as store:
        put(store, 1, 1, 1)

        def refuse_position_2(ordered: pa.Table, table_folder: Path) -> list[WrittenFile]:
            if 2 in ordered["position"].to_pylist():
                raise pa.ArrowInvalid("no")
            return write_partitions(ordered, table_folder)

        with pytest.MonkeyPatch.context() as patched, _after_the_journal_is_copied(store.flush_here):
            patched.setattr("storage.flush.write_partitions", refuse_position_2)
            _back_up(tmp_path / "data", tmp_path / "backups")
        assert [row["position"] for row in in_table(tmp_path / "data")] == [2]
    _restore(tmp_path / "backups", tmp_path / "copy")
    with store_in(tmp_path / "copy") as copy:
        assert positions(copy) == through(3)


def test_a_reject_that_is_replayed_during_a_backup_is_open_in_it(tmp_path: Path) -> None:
    """Marked as replayed, without the actions of the replay, it would be lost."""
    with store_in(tmp_path / "data") as store:
        reject(store, "CLICKED")
        store.flush_here()

        def replay() -> None:
            done = store.decisions().replay(RejectsFilter(), _WITH_CLICKED, limit=10)
            assert done.replayed == 1
            store.flush_here()

        with _after_the_journal_is_copied(replay):
            _back_up(tmp_path / "data", tmp_path / "backups")
        assert [row["state"] for row in in_table(tmp_path / "data")] == ["replayed"]
    _restore(tmp_path / "backups", tmp_path / "copy")
    with store_in(tmp_path / "copy") as copy:
        assert positions(copy) == []
        assert [row["state"] for row in in_table(tmp_path / "copy")] == ["open"]
        assert copy.decisions().replay(RejectsFilter(), _WITH_CLICKED, limit=10).replayed == 1
        assert positions(copy) == [1]


def test_a_table_that_is_compacted_all_the_time_is_backed_up_at_once(tmp_path: Path) -> None:
    """Each commit of upkeep has readers use its version; a backup that began anew for it would never end."""
    with store_in(tmp_path / "data") as store:
        put_files(store, 3)
        times = 0

        def compact_and_go_on() -> None:
            nonlocal times
            times += 1
            compact_all(store)
            put_files(store, 2)

        with _after_the_journal_is_copied(compact_and_go_on):
            made = _back_up(tmp_path / "data", tmp_path / "backups")
        assert times == 1
        assert store.journal.state().lake_version_min > made.manifest.version
    _restore(tmp_path / "backups", tmp_path / "copy")
    with store_in(tmp_path / "copy") as copy:
        assert positions(copy) == through(18)


def test_an_erasure_that_comes_during_a_backup_names_it(tmp_path: Path) -> None:
    with store_in(tmp_path / "data", erasure_grace_ms=0) as store:
        put(store, 4)
        store.flush_here()
        with _after_the_journal_is_copied(lambda: (erase(store, "u1"), None)[1]):
            made = _back_up(tmp_path / "data", tmp_path / "backups")
        (done,) = store.erasures(limit=1)
        assert done.finished_at_us is not None
        assert made.path in [
            one.path for one in recorded_backups(store.paths) if one.begun_at_us <= done.finished_at_us
        ]


def test_a_second_backup_copies_only_new_files(tmp_path: Path) -> None:
    with store_in(tmp_path / "data") as store:
        put(store, 6, days=3)
        store.flush_here()
        first = _back_up(tmp_path / "data", tmp_path / "backups")
        put(store, 2, days=2)
        store.flush_here()
        second = _back_up(tmp_path / "data", tmp_path / "backups")
        third = _back_up(tmp_path / "data", tmp_path / "backups", keep=2)
    assert (first.copied, second.copied, third.copied) == (3, 2, 0)
    assert third.manifest.files == 5
    assert third.removed == (first.path,)
    assert not first.path.exists()
    assert [one.path for one in recorded_backups(StorePaths.of(tmp_path / "data"))] == [second.path, third.path]
    _restore(second.path, tmp_path / "copy")
    with store_in(tmp_path / "copy") as copy:
        assert sorted(positions(copy)) == through(8)
    # The data folder of a restored store shares no file with the backup.
    assert all(path.stat().st_nlink == 1 for path in data_files(tmp_path / "copy"))


def test_the_last_backup_made_is_the_newest_also_where_the_clock_was_set_back(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times_us = [1_900_000_000_000_000, 1_700_000_000_000_000, 1_700_000_000_000_000]
    with store_in(tmp_path / "data") as store:
        for number, now_us in enumerate(times_us, start=1):
            put(store, 1)
            monkeypatch.setattr(storage.backup, "system_now_us", lambda now_us=now_us: now_us)
            made = _back_up(tmp_path / "data", tmp_path / "backups", keep=2)
            assert made.path.exists()
            assert (made.manifest.head, made.manifest.begun_at_us) == (number, now_us)
    assert _restore(tmp_path / "backups", tmp_path / "restored").manifest.head == 3


def test_a_backup_that_is_interrupted_is_not_restored(tmp_path: Path) -> None:
    with store_in(tmp_path / "data") as store:
        put(store, 6, days=3)
        store.flush_here()
        calls = 0
        copy_file = storage.backup._copy_file

        def die_at_the_third(*args: Path, **given: int) -> None:
            nonlocal calls
            calls += 1
            if calls == 3:
                raise Crash
            copy_file(*args, **given)  # type: ignore[arg-type]

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(storage.backup, "_copy_file", die_at_the_third)
            with pytest.raises(Crash):
                _back_up(tmp_path / "data", tmp_path / "backups")
        with pytest.raises(InvalidInput, match="was interrupted"):
            _restore(tmp_path / "backups", tmp_path / "copy")
        assert len(recorded_backups(StorePaths.of(tmp_path / "data"))) == 1
        made = _back_up(tmp_path / "data", tmp_path / "backups")
        calls = 0
        with pytest.MonkeyPatch.context() as patched:
            put(store, 1)
            store.flush_here()
            patched.setattr(storage.backup, "_fsync_folders", lambda _: (_ for _ in ()).throw(Crash))
            with pytest.raises(Crash):
                _back_up(tmp_path / "data", tmp_path / "backups")
    result = _restore(tmp_path / "backups", tmp_path / "copy")
    assert result.backup == made.path
    assert result.interrupted is not None


def test_files_that_are_gone_make_the_backup_begin_anew(tmp_path: Path) -> None:
    """A compaction and an early vacuum come in between."""
    with store_in(tmp_path / "data") as store:
        put(store, 2)
        store.flush_here()
        copy_to = Journal.copy_to
        times = 0

        def copy_and_rewrite(journal: Journal, path: Path) -> None:
            nonlocal times
            copy_to(journal, path)
            times += 1
            if times == 1:
                snapshot = Lake(store.paths.table, SCHEMA).snapshot(store.journal_id)
                put(store, 1)
                store.flush_here()
                lake = Lake(store.paths.table, SCHEMA)
                store.journal.record_durable(lake.rewrite(snapshot.files, [], data_change=True))
                for one in snapshot.files:
                    Path(one.path).unlink()

        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Journal, "copy_to", copy_and_rewrite)
            made = _back_up(tmp_path / "data", tmp_path / "backups")
        assert times == 2
        assert made.manifest.head == 3
    _restore(tmp_path / "backups", tmp_path / "copy")
    with store_in(tmp_path / "copy") as copy:
        assert sorted(positions(copy)) == [3]


def test_a_damaged_store_is_not_backed_up_in_silence(tmp_path: Path) -> None:
    with store_in(tmp_path / "data") as store:
        put(store, 2)
        store.flush_here()
        (file,) = data_files(tmp_path / "data")
        file.write_bytes(file.read_bytes()[:-10])
        with pytest.raises(CorruptData, match=file.name):
            _back_up(tmp_path / "data", tmp_path / "backups")


def test_a_damaged_backup_is_not_restored_in_silence(tmp_path: Path) -> None:
    with store_in(tmp_path / "data") as store:
        put(store, 2)
        store.flush_here()
        made = _back_up(tmp_path / "data", tmp_path / "backups")
    (file,) = data_files(made.path)
    file.write_bytes(file.read_bytes()[:-10])
    with pytest.raises(CorruptData, match=file.name):
        _restore(tmp_path / "backups", tmp_path / "copy")
    # What is left of it is not served.
    with pytest.raises(CorruptData, match="did not finish"):
        opened(tmp_path / "copy")


def test_a_folder_that_is_not_empty_is_left_alone(tmp_path: Path) -> None:
    with store_in(tmp_path / "data") as store:
        put(store, 2)
        _back_up(tmp_path / "data", tmp_path / "backups")
    (tmp_path / "copy").mkdir()
    (tmp_path / "copy" / "file").touch()
    with pytest.raises(InvalidInput, match="not empty"):
        _restore(tmp_path / "backups", tmp_path / "copy")
    with pytest.raises(InvalidInput, match="inside one another"):
        _back_up(tmp_path / "data", tmp_path / "data" / "backups")


def test_api_keys_come_back_only_when_asked_for(tmp_path: Path) -> None:
    with store_in(tmp_path / "data") as store:
        put(store, 2)
        store.paths.keys.write_text("{}")
        made = _back_up(tmp_path / "data", tmp_path / "backups")
    assert StorePaths.of(made.path).keys.stat().st_mode & 0o777 == 0o600
    _restore(tmp_path / "backups", tmp_path / "without")
    _restore(tmp_path / "backups", tmp_path / "with", with_keys=True)
    assert not StorePaths.of(tmp_path / "without").keys.exists()
    assert StorePaths.of(tmp_path / "with").keys.read_text() == "{}"


def test_the_commands(tmp_path: Path) -> None:
    data, destination, copy = (str(tmp_path / name) for name in ("data", "backups", "copy"))
    with store_in(tmp_path / "data") as store:
        put(store, 2)
        store.flush_here()
        put(store, 1)
    run = CliRunner().invoke(main, ["backup", destination, "--data", data])
    assert run.exit_code == 0, run.output
    assert run.output.startswith("backed up files=1 copied=1 rows=2 ")
    run = CliRunner().invoke(main, ["backup", destination, "--data", data, "--keep", "1", "--dry-run"])
    assert run.output.splitlines()[0].startswith("would back up files=1 rows=2 ")
    assert run.output.splitlines()[1].startswith(f"would remove {destination}")
    run = CliRunner().invoke(main, ["restore", destination, "--data", copy])
    assert run.exit_code == 0, run.output
    assert run.output.startswith("restored files=1 rows=3 from=")
    run = CliRunner().invoke(main, ["verify", "--json", "--data", copy])
    assert json.loads(run.output)["problems"] == []
    run = CliRunner().invoke(main, ["restore", destination, "--data", copy])
    assert run.exit_code == 1
    assert "not empty" in run.output
