"""Compaction leaves every row as it is, once, sorted and in few files; what it cannot prove it does not commit."""

from __future__ import annotations

import datetime
import random
from pathlib import Path
from typing import Any

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from storage.clock import system_now_us
from storage.data_files import ROW_GROUP_ROWS, DataFileWriter, WrittenFile
from storage.errors import CommitRefused, CorruptData, RewriteConflict
from storage.journal_records import Append
from storage.lake import Lake
from storage.maintenance.compaction import CompactionResult, compact
from storage.maintenance.planning import CompactionLimits
from storage.maintenance.rewriting import Rewriter, RowsDiffer
from storage.schema import ActionSchema, PromotedProperty
from storage.store import Store
from tests.storage.building import (
    PARSER,
    Crash,
    action,
    body,
    data_files,
    flusher,
    full_table,
    in_files,
    opened,
    positions,
    put,
    store_in,
    stored,
    through,
)
from tests.storage.compacting import compact_all, compaction_run, put_files

COLUMNS = ("user_id", "session_id", "time", "utc_offset_minutes", "properties", "received_at", "journal", "position")


def test_many_small_files_become_one_a_partition_with_the_same_rows(store: Store) -> None:
    put_files(store, 5, rows=9, days=3)
    put(store, 4)
    before = full_table(store.read_view(), COLUMNS)
    old = data_files(store.paths.data)
    result = compact_all(store)
    assert (result.partitions, result.files_removed, result.files_added, result.rows) == (3, 15, 3, 45)
    view = store.read_view()
    assert len(view.files) == 3, "readers use the new version at once"
    assert full_table(view, COLUMNS).equals(before)
    assert old < data_files(store.paths.data), "the old files stay for those who read them"
    assert compact_all(store).partitions == 0
    store.flush_here()
    assert positions(store) == through(49)
    assert sorted(pl.scan_delta(str(store.paths.table)).collect()["position"]) == through(49)


def test_a_large_partition_becomes_sorted_files_of_a_bounded_size_with_users_apart(store: Store) -> None:
    choose = random.Random(4711)
    for _ in range(9):
        for user in range(20):
            # What footers take must not be the greater part of small files, and nothing of what large ones take.
            actions = [action(properties={"text": choose.randbytes(40).hex()}) for _ in range(50)]
            given = PARSER.parse_json(body(actions, user=f"user{user:02}"), now_us=system_now_us())
            store.append([Append(given.submissions, given.rejections, b"{}")])
        store.flush_here()
    size = sum(one.size_bytes for one in store.read_view().files)
    limits = CompactionLimits(file_bytes_max=size // 3 + 1)
    compact_all(store, limits=limits)
    files = store.read_view().files
    assert len(files) in (2, 3)
    users: list[set[str]] = []
    for one in files:
        with pq.ParquetFile(one.path) as file:
            table = file.read()
            assert all(
                file.metadata.row_group(n).num_rows == ROW_GROUP_ROWS for n in range(file.metadata.num_row_groups - 1)
            )
        keys = table.select(["user_id", "time", "position"])
        assert keys.equals(keys.sort_by([("user_id", "ascending"), ("time", "ascending"), ("position", "ascending")]))
        users.append(set(table["user_id"].to_pylist()))
    assert sum(map(len, users)) == len(set.union(*users)), "no two files share a user"
    assert positions(store) == through(9_000)


def test_a_user_too_large_for_one_file_is_cut_all_the_same(store: Store) -> None:
    put_files(store, 6, rows=1000, user=lambda _: "one")
    size = sum(one.size_bytes for one in store.read_view().files)
    compact_all(store, limits=CompactionLimits(file_bytes_max=size // 3 + 1))
    assert len(store.read_view().files) > 1
    assert positions(store) == through(6000)


def test_old_files_without_newer_columns_and_columns_that_left_the_configuration_are_kept(folder: Path) -> None:
    narrow = ActionSchema({"click": (PromotedProperty("locationX", "location_x", "double"),)})
    wide = ActionSchema({"click": (PromotedProperty("other", "other", "varchar"),)})
    for schema in (narrow, wide):
        with store_in(folder, schema=schema) as store:
            put_files(store, 2, rows=5)
    with store_in(folder, schema=wide) as store:
        before = [one.path for one in store.read_view().files]
        xs = sorted(
            row["location_x"]
            for path in before
            for row in pq.ParquetFile(path).read().to_pylist()
            if row.get("location_x") is not None
        )
        compact_all(store)
        (one,) = store.read_view().files
        with pq.ParquetFile(one.path) as file:
            table = file.read()
        assert {"location_x", "other"} <= set(table.column_names)
        assert sorted(filter(lambda x: x is not None, table["location_x"].to_pylist())) == xs != []
        assert positions(store) == through(20)


def test_a_flush_and_a_compaction_between_each_others_load_and_commit_both_succeed(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_files(store, 3)
    write = DataFileWriter.close
    busy: list[int] = []

    def and_do_the_other(self: DataFileWriter) -> WrittenFile:
        if not busy:
            busy.append(1)
            put(store, 4)
            store.flush_here()
            busy.append(2)
        return write(self)

    with monkeypatch.context() as patched:
        patched.setattr(DataFileWriter, "close", and_do_the_other)
        compact_all(store)
    assert busy == [1, 2]
    assert positions(store) == through(22)
    put(store, 3)
    append = Lake.append

    def compact_first(self: Lake, *given: Any, **named: Any) -> int:
        compact_all(store)
        return append(self, *given, **named)

    with monkeypatch.context() as patched:
        patched.setattr(Lake, "append", compact_first)
        flusher(store).flush(25)
    assert positions(store) == through(25)


def test_an_overtaken_compaction_plans_again_and_leaves_no_file_of_its_own(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_files(store, 4)
    prove = Rewriter.require_same_rows
    overtaken: list[int] = []

    def and_be_overtaken(self: Rewriter, *given: Any) -> None:
        prove(self, *given)
        if not overtaken:
            overtaken.append(1)
            compact_all(store)

    monkeypatch.setattr(Rewriter, "require_same_rows", and_be_overtaken)
    assert compact_all(store).partitions == 0
    assert positions(store) == through(24)
    assert len(data_files(store.paths.data)) == 5


def drop_a_row(table: pa.Table) -> pa.Table:
    return table.slice(1)


def double_a_row(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table, table.slice(0, 1)])


def swap_a_row_for_another(table: pa.Table) -> pa.Table:
    return pa.concat_tables([table.slice(1), table.slice(1, 1)])


def change_a_value(table: pa.Table) -> pa.Table:
    place = table.column_names.index("properties")
    return table.set_column(place, "properties", pa.array(["{}", *table["properties"].to_pylist()[1:]], pa.string()))


def forget_an_offset(table: pa.Table) -> pa.Table:
    place = table.column_names.index("session_id")
    return table.set_column(place, "session_id", pa.array(["s", *table["session_id"].to_pylist()[1:]], pa.string()))


@pytest.mark.parametrize("tamper", [drop_a_row, double_a_row, swap_a_row_for_another, change_a_value, forget_an_offset])
def test_rows_that_do_not_come_out_the_same_are_not_committed(
    store: Store, monkeypatch: pytest.MonkeyPatch, tamper: Any
) -> None:
    put_files(store, 3)
    version = store.status().version
    before = data_files(store.paths.data)
    write = DataFileWriter.write
    with monkeypatch.context() as patched:
        patched.setattr(DataFileWriter, "write", lambda self, rows: write(self, tamper(rows)))
        with pytest.raises(RowsDiffer, match="nothing was committed"):
            compact_all(store)
    assert store.status().version == version
    assert data_files(store.paths.data) == before
    assert positions(store) == through(18)


def test_the_proof_notices_a_file_in_the_wrong_partition(store: Store) -> None:
    put_files(store, 2)
    with compaction_run(store) as run:
        files = run.lake.reload(store.journal_id).files
        rewriter = Rewriter(
            run.paths.table, run.lake.file_schema, memory_bytes_max=1 << 28, temp_folder=store.paths.state
        )
        with pq.ParquetFile(files[0].path) as file:
            rows = file.read()
        elsewhere = DataFileWriter(run.paths.table, files[0].date + datetime.timedelta(1), "click", rows.schema)
        elsewhere.write(rows)
        moved = elsewhere.close()
        with pytest.raises(RowsDiffer):
            rewriter.require_same_rows([files[0].path], [moved])
        rewriter.close()


def test_a_partition_that_cannot_be_read_is_told_of_and_does_not_keep_others_from_it(store: Store) -> None:
    put_files(store, 3, rows=4, days=2)
    view = store.read_view()
    broken = next(one for one in view.files if one.date == view.files[0].date)
    content = bytearray(Path(broken.path).read_bytes())
    content[8:400] = bytes(392)
    Path(broken.path).write_bytes(content)
    with pytest.raises(CorruptData, match=f"date={broken.date}"):
        compact_all(store)
    assert [one.date for one in store.read_view().files].count(broken.date) == 3
    assert len(store.read_view().files) == 4
    assert not list(store.paths.compaction_temp.iterdir())


@pytest.mark.parametrize("step", ["rewrite", "require_same_rows", "lake", "sync", "record_durable", "require_version"])
def test_a_death_at_any_step_loses_and_doubles_nothing(
    folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    from storage.journal import Journal

    def stop(*_: Any, **__: Any) -> None:
        raise Crash

    where = {"lake": Lake, "sync": Lake, "record_durable": Journal, "require_version": Journal}.get(step, Rewriter)
    with store_in(folder) as store:
        put_files(store, 3)
        put(store, 2)
        expected = stored(store)
        with monkeypatch.context() as patched:
            patched.setattr(where, "rewrite" if step == "lake" else step, stop)
            with pytest.raises(Crash):
                compact_all(store)
        assert stored(store) == expected
    store, report = opened(folder)
    assert report.removed_entries == ()
    assert stored(store) == expected
    compact_all(store)
    assert stored(store) == expected
    assert len(store.read_view().files) == 1
    flusher(store).flush(20)
    assert sorted(in_files(store.read_view())) == expected
    store.close(flush=False)


def test_memory_that_does_not_suffice_is_told_and_changes_nothing(store: Store) -> None:
    put_files(store, 2, rows=3000)
    with pytest.raises((CommitRefused, duckdb.Error)):
        compact_all(store, memory_bytes_max=1_000_000)
    assert len(store.read_view().files) == 2


def test_a_compaction_that_is_told_to_stop_leaves_nothing_behind(store: Store) -> None:
    put_files(store, 3)
    before = data_files(store.paths.data)
    asked: list[int] = []

    def stop() -> bool:
        asked.append(1)
        return len(asked) > 2

    with compaction_run(store, stop=stop) as run:
        assert compact(run, thorough=True).partitions == 0
    assert data_files(store.paths.data) == before


def test_what_is_flushed_meanwhile_is_left_to_the_next(store: Store) -> None:
    """Beside a service that flushes all the time it comes to its end, and writes no row twice."""
    put_files(store, 3)
    results: list[CompactionResult] = []

    def flush_another(result: CompactionResult) -> None:
        results.append(result)
        assert len(results) < 5, "it goes on for as long as there is anything new"
        put_files(store, 1, user=lambda _: f"new-{len(results)}")

    done = compact_all(store, on_commit=flush_another)
    assert done.rows == 18
    assert [one.files_removed for one in results] == [3]
    assert len(store.read_view().files) == 2
    # The control: to the next it is as good as any other.
    assert compact_all(store).rows == 24
    assert len(store.read_view().files) == 1


def test_what_another_rewrite_made_meanwhile_is_not_left(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_files(store, 3)
    others: list[CompactionResult] = []
    rewrite = Rewriter.rewrite

    def after_another(self: Rewriter, *given: Any, **named: Any) -> list[WrittenFile]:
        if not others:
            others.append(CompactionResult())
            others.append(compact_all(store))
            put_files(store, 1, user=lambda _: "new")
        return rewrite(self, *given, **named)

    monkeypatch.setattr(Rewriter, "rewrite", after_another)
    assert compact_all(store).files_removed == 2
    assert others[-1].files_removed == 3
    assert len(store.read_view().files) == 1


def test_files_that_somebody_removed_meanwhile_are_a_conflict_and_no_damage(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    put_files(store, 3)
    rewrite = Rewriter.rewrite
    gone: list[Path] = []

    def after_the_files_went(self: Rewriter, *given: Any, **named: Any) -> list[WrittenFile]:
        if not gone:
            gone.append(Path())
            compact_all(store)
            for one in given[0].files:
                Path(one.path).unlink()
        return rewrite(self, *given, **named)

    monkeypatch.setattr(Rewriter, "rewrite", after_the_files_went)
    assert compact_all(store).partitions == 0
    assert positions(store) == through(18)


def test_conflicts_without_end_are_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    put_files(store, 2)

    def conflict(*_: Any, **__: Any) -> int:
        raise RewriteConflict("always")

    monkeypatch.setattr(Lake, "rewrite", conflict)
    monkeypatch.setattr("storage.maintenance.compaction._CONFLICTS_MAX", 2)
    with pytest.raises(RewriteConflict):
        compact_all(store)
    assert len(data_files(store.paths.data)) == 2
