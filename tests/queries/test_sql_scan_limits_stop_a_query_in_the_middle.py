"""A query that has read more than it may is stopped while it runs, and says how much it had read."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from pathlib import Path

import pytest

from queries.sql import SqlLimits, SqlRequest, SqlScanLimit, SqlTimeout
from tests.queries.sql_tables import Sandbox, make_rows, sandbox, write_table

# Reads the table at once and then counts for hours.
_READS_AND_GOES_ON = "SELECT count(*) FROM actions a, range(1000000) b, range(1000000) c WHERE a.position + b.range < 0"
_TIMEOUT_S = 3.0
_LIMITS = SqlLimits(memory_bytes_max=256 << 20, threads=1, timeout_s=120.0)


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    table = write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=3, per_file=200))
    with sandbox(table, tmp_path_factory.mktemp("temp"), _LIMITS) as one:
        yield one


def _run(sql: Sandbox, text: str, scanned_bytes_max: int | None) -> list[object]:
    with sql.pool.run(SqlRequest(text, scanned_bytes_max=scanned_bytes_max), sql.view) as result:
        return [row for batch in result for row in batch.to_pylist()]


def test_a_query_over_its_limit_is_stopped_while_it_runs(sql: Sandbox) -> None:
    pids = sql.pool.worker_pids()
    with pytest.raises(SqlScanLimit) as stopped:
        _run(sql, _READS_AND_GOES_ON, 1_000)
    assert 1_000 < stopped.value.scanned_bytes <= 4 * sum(one.size_bytes for one in sql.table.files)
    assert _run(sql, "SELECT 1 AS one", 1_000) == [{"one": 1}]
    assert sql.pool.worker_pids() == pids, "the worker obeyed, and takes the next query"


def test_the_control_without_a_limit_runs_into_the_time_limit(sql: Sandbox, tmp_path: Path) -> None:
    limits = dataclasses.replace(_LIMITS, timeout_s=_TIMEOUT_S)
    with sandbox(sql.table, tmp_path, limits) as hasty, pytest.raises(SqlTimeout):
        _run(hasty, _READS_AND_GOES_ON, None)


def test_a_query_within_its_limit_is_answered(sql: Sandbox) -> None:
    expected = [{"actions": len(sql.table.rows)}]
    assert _run(sql, "SELECT count(user_id) AS actions FROM actions", 1 << 30) == expected
