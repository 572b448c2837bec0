"""What DuckDB keeps of each file that it opened does not grow for ever: the one that has it gives way to another."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

import queries.engine
from queries.engine import Engine, EngineLimits
from queries.sql.footers import _GONE_FILES_MAX, Footers
from storage.data_files import DataFile
from tests.queries.sql_tables import make_rows, sandbox, write_table

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
        connection.fetch(READ, {"files": [one.path for one in files]})


def test_the_services_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(queries.engine, "_GONE_FILES_MAX", 20)
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


def test_a_sql_workers(tmp_path: Path) -> None:
    table = write_table(tmp_path / "actions", make_rows(days=1, per_file=10))
    many = replace(table.view, files=linked(table.files[0], _GONE_FILES_MAX))
    count = "SELECT count(*) FROM actions WHERE user_id <> ''"
    with sandbox(table, tmp_path / "temp", workers=1) as sql:
        assert sql.ask(count, view=many).rows == [(_GONE_FILES_MAX * table.files[0].rows,)]
        (pid,) = sql.pool.worker_pids()
        # The control: as long as they are live, it stays.
        sql.ask(count, view=replace(many, files=many.files[::-1]))
        assert sql.pool.worker_pids() == [pid]
        sql.ask(count)
        deadline = time.monotonic() + 60
        while sql.pool.worker_pids() in ([pid], []):
            assert time.monotonic() < deadline
            time.sleep(0.02)
        assert sql.ask(count).rows == [(len(table.rows),)]


def test_few_files_and_live_ones_wear_nothing_out(tmp_path: Path) -> None:
    table = write_table(tmp_path / "actions", make_rows(days=1, per_file=10))
    paths = [one.path for one in linked(table.files[0], _GONE_FILES_MAX)]
    footers = Footers()
    footers.learn(paths[1:])
    assert not footers.mostly_gone([])
    footers.learn(paths)
    assert not footers.mostly_gone(paths[:1])
    assert footers.mostly_gone([])
