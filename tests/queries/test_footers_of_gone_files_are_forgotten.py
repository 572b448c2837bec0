"""What DuckDB keeps of each file that it opened does not grow for ever: the one that has it gives way to another."""

from __future__ import annotations

import ctypes
import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import queries.engine
import queries.sql.footers
from queries.direct_reading import DirectReader
from queries.engine import Engine, EngineLimits, QueryStopped
from queries.file_index import RetrievalFilter
from queries.sql.footers import Footers
from storage.data_files import ROW_GROUP_ROWS, DataFile
from storage.footer_memory import FOOTER_GROWTH, footer_memory_bytes
from tests.queries.sql_tables import as_table, make_rows, sandbox, write_table

READ = "SELECT count(*) AS n FROM read_parquet($files, filename = true) WHERE user_id <> ''"


def linked(one: DataFile, count: int) -> tuple[DataFile, ...]:
    """The same rows under as many names."""
    path = Path(one.path)
    made = []
    for number in range(count):
        link = path.with_name(f"part-linked-{number}.parquet")
        os.link(path, link)
        made.append(replace(one, path=str(link)))
    return tuple(made)


def cached_bytes(engine: Engine) -> int:
    with engine.connect() as connection:
        cached = connection.fetch(
            "SELECT sum(memory_usage_bytes)::BIGINT AS n FROM duckdb_memory() WHERE tag = 'OBJECT_CACHE'", {}
        )
    return int(cached["n"][0].as_py() or 0)


def read(engine: Engine, files: Sequence[DataFile]) -> None:
    with engine.connect() as connection:
        connection.opens(files)
        connection.fetch(READ, {"files": [one.path for one in files]})


def test_the_services_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries.engine, "_GONE_BYTES_MAX", 400_000)
    table = write_table(tmp_path / "actions", make_rows(days=1, per_file=10))
    files = linked(table.files[0], 40)
    engine = Engine(EngineLimits(), tmp_path / "temp")
    read(engine, files)
    kept = cached_bytes(engine)
    assert kept > 40 * 1_000
    engine.follow(1, files)
    # The control: what is live, or gone in small numbers, stays.
    engine.follow(2, files[:21])
    assert cached_bytes(engine) == kept
    with engine.connect() as under_way:
        stream = under_way.stream("SELECT range AS n FROM range(200_000)", {}, batch_rows=10_000)
        first = next(stream)
        engine.follow(3, files[:1])
        assert cached_bytes(engine) < kept / 2
        # Who began before goes on.
        assert first.num_rows + sum(batch.num_rows for batch in stream) == 200_000
    read(engine, files[:1])
    assert 0 < cached_bytes(engine) < kept / 2
    engine.close()


def test_a_query_under_way_keeps_the_instance_that_it_began_with(tmp_path: Path) -> None:
    engine = Engine(EngineLimits(), tmp_path / "temp")
    with engine.connect() as before:
        engine._replace()
        with engine.connect() as after:
            for connection in (before, after):
                assert connection.fetch("SELECT 1 AS one", {}).to_pylist() == [{"one": 1}]
        before.interrupt()
        with pytest.raises(QueryStopped):
            before.fetch("SELECT 1", {})
    engine.close()


def test_large_files_count_for_what_they_keep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file of a hundred row groups keeps as much as a hundred small ones."""
    monkeypatch.setattr(queries.engine, "_GONE_BYTES_MAX", 2_000_000)
    table = write_table(tmp_path / "actions", make_rows(days=1, per_file=10))
    small = linked(table.files[0], 3)
    engine = Engine(EngineLimits(), tmp_path / "temp")
    read(engine, small)
    kept = cached_bytes(engine)
    engine.follow(1, small[:1])
    # The control: two small ones that are gone are nothing.
    assert cached_bytes(engine) == kept
    large = [replace(one, rows=100 * ROW_GROUP_ROWS) for one in small[1:]]
    with engine.connect() as connection:
        connection.opens([replace(one, path=f"{one.path}-large") for one in large])
    engine.follow(2, small[:1])
    assert cached_bytes(engine) < kept
    engine.close()


def test_those_of_files_that_are_read_directly(tmp_path: Path) -> None:
    """Page after page while compaction replaces what it has read: what is kept is of the files that are there."""
    table = write_table(tmp_path / "actions", make_rows(days=1, per_file=10))
    reader = DirectReader()
    files = linked(table.files[0], 40)
    schema = pa.schema([("time", pa.timestamp("us", "UTC")), ("type", pa.string())])
    one_bytes = 0
    for start in range(0, 40, 4):
        live = files[start : start + 4]
        reader.follow(live)
        assert reader.read(live, RetrievalFilter(), schema, lambda: None) is not None
        one_bytes = one_bytes or reader.footers_bytes // 4
        assert (reader.footers_kept, reader.footers_bytes) == (4, 4 * one_bytes)
    # The control: whoever hears of no other version keeps those of all that it read.
    for start in range(0, 36, 4):
        reader.read(files[start : start + 4], RetrievalFilter(), schema, lambda: None)
    assert (reader.footers_kept, reader.footers_bytes) == (40, 40 * one_bytes)


def test_live_files_keep_no_more_than_may_be_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_table(tmp_path / "actions", make_rows(days=1, per_file=10))
    files = linked(table.files[0], 40)
    engine = Engine(EngineLimits(), tmp_path / "temp")
    read(engine, files)
    kept = cached_bytes(engine)
    # The control: there are not that many.
    assert cached_bytes(engine) == kept > 0
    monkeypatch.setattr(queries.engine, "_FOOTERS_BYTES_MAX", 400_000)
    assert cached_bytes(engine) < kept / 2
    engine.close()


def test_a_sql_workers(tmp_path: Path) -> None:
    table = write_table(tmp_path / "actions", make_rows(days=1, per_file=10))
    count_of_files = 3 * queries.sql.footers._GONE_BYTES_MAX // (2 * footer_bytes_in_memory(table.files[0]))
    many = replace(table.view, files=linked(table.files[0], count_of_files))
    count = "SELECT count(*) FROM actions WHERE user_id <> ''"
    with sandbox(table, tmp_path / "temp", workers=1) as sql:
        assert sql.ask(count, view=many).rows == [(count_of_files * table.files[0].rows,)]
        (pid,) = sql.pool.worker_pids()
        # The control: as long as they are live, it stays.
        sql.ask(count, view=replace(many, files=many.files[::-1]))
        assert sql.pool.worker_pids() == [pid]
        sql.ask(count)
        deadline = time.monotonic() + 180
        while sql.pool.worker_pids() in ([pid], []):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert sql.ask(count).rows == [(len(table.rows),)]


def footer_bytes_in_memory(one: DataFile) -> int:
    footers = Footers()
    footers.learn([one.path])
    return footers.bytes_of([one.path]) * FOOTER_GROWTH


def test_few_files_and_live_ones_are_not_too_many(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = write_table(tmp_path / "actions", make_rows(days=1, per_file=10))
    paths = [one.path for one in linked(table.files[0], 10)]
    monkeypatch.setattr(queries.sql.footers, "_GONE_BYTES_MAX", 5 * footer_bytes_in_memory(table.files[0]))
    footers = Footers()
    footers.learn(paths)
    assert not footers.too_many(paths)
    assert not footers.too_many(paths[4:])
    assert footers.too_many(paths[5:])
    monkeypatch.setattr(queries.sql.footers, "_ALL_BYTES_MAX", 10 * footer_bytes_in_memory(table.files[0]))
    assert footers.too_many(paths), "live ones may not keep more than that either"


def test_a_footer_takes_in_memory_what_is_counted(tmp_path: Path) -> None:
    """Arrow's own footers, which are made of the same objects as DuckDB's, measured by the allocator's own figure."""
    allocated = _allocated_bytes
    if allocated() is None:
        pytest.skip("the C library does not tell what is allocated")
    path = tmp_path / "groups.parquet"
    rows = as_table(make_rows(days=1, per_file=200))
    pq.write_table(rows, path, row_group_size=10)
    size = pq.read_metadata(path).serialized_size
    before = allocated()
    kept = [pq.read_metadata(path) for _ in range(20)]
    after = allocated()
    assert before is not None
    assert after is not None
    taken = (after - before) / len(kept)
    assert FOOTER_GROWTH / 2 < taken / size < FOOTER_GROWTH * 1.5
    groups = kept[0].num_row_groups
    assert footer_memory_bytes(groups) / 2 < taken < footer_memory_bytes(groups) * 2


class _Allocations(ctypes.Structure):
    """`struct mallinfo2` of glibc."""

    _fields_ = tuple(
        (name, ctypes.c_size_t)
        for name in (
            *("arena", "ordblks", "smblks", "hblks", "hblkhd", "usmblks", "fsmblks"),
            *("uordblks", "fordblks", "keepcost"),
        )
    )


def _allocated_bytes() -> int | None:
    told = getattr(ctypes.CDLL(None), "mallinfo2", None)
    if told is None:
        return None
    told.restype = _Allocations
    figures = told()
    return int(figures.uordblks + figures.hblkhd)
