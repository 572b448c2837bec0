"""Where one thread of DuckDB's fails and it tells that another was interrupted, the user is told what failed."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import duckdb
import pytest

from queries.sql.engine import Engine, QueryFailed, Receiver
from queries.sql.messages import Failed, Run, Start
from tests.queries.sql_tables import SCHEMA

WRONG = "SELECT CASE WHEN n = 90000 THEN error('no number') ELSE n::VARCHAR END FROM range(100000) t(n)"


class Racing:
    """A connection that tells of an interruption, as DuckDB does once in a hundred times, the first *times* times."""

    def __init__(self, connection: duckdb.DuckDBPyConnection, times: int) -> None:
        self._connection = connection
        self._times = times
        self.tries = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def to_arrow_reader(self, rows: int) -> Any:
        self.tries += 1
        if self.tries <= self._times:
            raise duckdb.InterruptException("INTERRUPT Error: Interrupted!")
        return self._connection.to_arrow_reader(rows)


def failure_of(folder: Path, *, times: int) -> tuple[Failed, int]:
    """How the query fails that DuckDB tells so often of an interruption of, and how often it was run."""
    for name in ("data", "temp"):
        (folder / name).mkdir()
    start = Start(str(folder / "data"), str(folder / "temp"), 1 << 28, 2, 1 << 28, {}, {}, [], 0)
    engine = Engine(start, SCHEMA.table_schema, lambda: None)
    racing = Racing(engine._connection, times)
    engine._connection = racing  # type: ignore[assignment]
    run = Run(WRONG, [], None, 1_000_000, 1 << 24, False, 100, 4)
    with pytest.raises(QueryFailed) as caught:
        engine.run(run, Receiver(lambda *_: None, lambda _: None, threading.Event()))
    return caught.value.failed, racing.tries


@pytest.mark.parametrize("times", [1, 3])
def test_the_query_is_run_again_for_its_error(tmp_path: Path, times: int) -> None:
    failed, tries = failure_of(tmp_path, times=times)
    assert (failed.kind, tries) == ("sql", times + 1)
    assert "no number" in failed.message


def test_one_that_is_always_interrupted_is_a_fault_of_the_engine(tmp_path: Path) -> None:
    failed, tries = failure_of(tmp_path, times=100)
    assert (failed.kind, failed.retire, tries) == ("engine", True, 6)
