"""A worker that dies, however it dies, takes one query with it and is replaced; nothing it had is left behind."""

from __future__ import annotations

import contextlib
import gc
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from queries.sql import SqlCancelled, SqlLimits, SqlPool, SqlRequest, SqlTimeout, SqlWorkerDied
from queries.sql.process import WorkerProcess
from queries.sql.walls.report import IsolationReport
from storage.errors import Overloaded
from tests.machine_delay import machine_delay
from tests.queries.sql_tables import SCHEMA, Sandbox, SmallTable, make_rows, sandbox, write_table

FOREVER = "SELECT count(*) FROM range(1000000) a, range(1000000) b"


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> SmallTable:
    return write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=1, per_file=10))


@pytest.fixture(scope="module")
def sql(table: SmallTable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(table, tmp_path_factory.mktemp("temp"), workers=2) as one:
        yield one


def _wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class _Background:
    """A query in a thread of its own, and how it ended."""

    def __init__(self, sql: Sandbox, statement: str) -> None:
        self.outcome: Any = None
        self._thread = threading.Thread(target=self._run, args=(sql, statement))
        self._thread.start()

    def _run(self, sql: Sandbox, statement: str) -> None:
        try:
            self.outcome = sql.ask(statement).rows
        except Exception as error:  # noqa: BLE001 - whatever it is, the test looks at it
            self.outcome = error

    def join(self) -> Any:
        self._thread.join(180)
        return self.outcome


def _busy_pids(sql: Sandbox) -> list[int]:
    return [pid for pid in sql.pool.worker_pids() if pid not in sql.pool.worker_pids(idle=True)]


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSEGV, signal.SIGTERM, signal.SIGABRT])
def test_a_killed_worker_costs_its_query_and_no_other(sql: Sandbox, how: signal.Signals) -> None:
    with sql.pool.run(SqlRequest("SELECT i FROM range(20000) t(i)"), sql.view) as other:
        first = next(other)
        (survivor,) = _busy_pids(sql)
        doomed = _Background(sql, FOREVER)
        _wait_until(lambda: len(_busy_pids(sql)) == 2)
        (victim,) = set(_busy_pids(sql)) - {survivor}
        lost_before = len(sql.lost)
        os.kill(victim, how)
        assert isinstance(doomed.join(), SqlWorkerDied)
        assert first.num_rows + sum(batch.num_rows for batch in other) == 20_000
    _wait_until(lambda: len(sql.pool.worker_pids(idle=True)) == 2)
    assert sql.ask("SELECT count(*) FROM actions").rows == [(30,)]
    (lost,) = sql.lost[lost_before:]
    assert (lost.pid, lost.exit_status) == (victim, -how)
    assert survivor in sql.pool.worker_pids()


def test_a_worker_killed_while_its_answer_streams_ends_that_answer(sql: Sandbox) -> None:
    with sql.pool.run(SqlRequest("SELECT i FROM range(100000000000) t(i)"), sql.view) as result:
        next(result)
        (pid,) = _busy_pids(sql)
        os.kill(pid, signal.SIGKILL)
        with pytest.raises(SqlWorkerDied):
            list(result)
        assert list(result) == []


def test_a_worker_that_died_idle_costs_nothing(sql: Sandbox) -> None:
    _wait_until(lambda: len(sql.pool.worker_pids(idle=True)) == 2)
    for pid in sql.pool.worker_pids():
        ends = os.pidfd_open(pid)
        os.kill(pid, signal.SIGKILL)
        assert select.select([ends], [], [], 180)[0], "a killed process does not end"
        os.close(ends)
    assert [sql.ask("SELECT 1").rows for _ in range(4)] == [[(1,)]] * 4


def test_a_worker_is_replaced_though_its_folder_was_taken_away(table: SmallTable, tmp_path: Path) -> None:
    """Whoever replaces workers must not end for want of a dead one's files: later queries would wait for ever."""
    with sandbox(table, tmp_path / "temp") as sql:
        (victim,) = sql.pool.worker_pids()
        shutil.rmtree(tmp_path / "temp")
        os.kill(victim, signal.SIGKILL)
        _wait_until(lambda: victim not in sql.pool.worker_pids(idle=True) != [])
        assert sql.ask("SELECT 1").rows == [(1,)]


def _answers(sql: Sandbox) -> bool:
    """Whether a small query is answered; a busy machine may make even that too slow for a limit."""
    try:
        return sql.ask("SELECT 1").rows == [(1,)]
    except (SqlTimeout, Overloaded):
        return False


def _seconds_with_a_stopped_worker(sql: Sandbox) -> float:
    """Stop the worker that is busy, by a signal, and wait for the end of its query at the time limit."""
    with machine_delay() as delay:
        (worker,) = sql.pool.worker_pids(idle=True)
        os.kill(worker, signal.SIGSTOP)
        doomed = _Background(sql, FOREVER)
        _wait_until(lambda: _busy_pids(sql) == [worker])
        seconds = delay.seconds(doomed.join)
    assert isinstance(doomed.outcome, SqlTimeout)
    return seconds


def test_a_worker_that_is_stopped_by_a_signal_is_ended_at_the_time_limit(table: SmallTable, tmp_path: Path) -> None:
    """It cannot obey; the query ends all the same, within a second of its limit."""
    with sandbox(table, tmp_path, SqlLimits(timeout_s=1.0)) as sql:
        assert _seconds_with_a_stopped_worker(sql) < 1.0 + 1.0
        _wait_until(lambda: _answers(sql))


def test_the_control_notices_a_worker_that_is_ended_too_late(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queries.sql.running.KILL_AFTER_S", 3.0)
    began = time.monotonic()
    with sandbox(table, tmp_path, SqlLimits(timeout_s=0.5)) as sql:
        _seconds_with_a_stopped_worker(sql)
    assert time.monotonic() - began > 0.5 + 1.0


def test_nothing_is_left_after_closing(table: SmallTable, tmp_path: Path) -> None:
    with sandbox(table, tmp_path, workers=2) as sql:
        sql.ask("SELECT count(*) FROM actions")
        pids = sql.pool.worker_pids()
        os.kill(pids[0], signal.SIGKILL)
        _wait_until(lambda: len(sql.lost) == 1)
    assert list(tmp_path.iterdir()) == []
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_closing_the_pool_ends_queries_that_run(table: SmallTable, tmp_path: Path) -> None:
    with sandbox(table, tmp_path) as sql:
        running = _Background(sql, FOREVER)
        _wait_until(lambda: len(_busy_pids(sql)) == 1)
        waiting = _Background(sql, "SELECT 1")
    assert isinstance(running.join(), SqlWorkerDied)
    assert isinstance(waiting.join(), SqlCancelled)


def test_folders_of_a_killed_service_are_removed_at_the_next_start(table: SmallTable, tmp_path: Path) -> None:
    process = subprocess.Popen(["true"])
    process.wait()
    gone = tmp_path / f"sql-{process.pid}-0123abcd" / "worker-1"
    alive = tmp_path / f"sql-{os.getpid()}-0123abcd" / "worker-1"
    for folder in (gone, alive):
        folder.mkdir(parents=True)
    with sandbox(table, tmp_path) as sql:
        assert sql.ask("SELECT 1").rows == [(1,)]
        assert not gone.parent.exists()
        assert alive.exists()


def test_a_worker_ends_when_its_service_is_killed(table: SmallTable, tmp_path: Path) -> None:
    script = f"""
import os, pathlib, sys
sys.path.insert(0, {str(Path.cwd())!r})
from queries.sql import SqlPool
from storage.schema import ActionSchema
pool = SqlPool(data_folder=pathlib.Path({str(table.folder)!r}), temp_folder=pathlib.Path({str(tmp_path)!r}),
               schema=ActionSchema(), workers=1)
pool.start()
print(pool.worker_pids()[0], flush=True)
sys.stdin.read()
"""
    with subprocess.Popen(
        [sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as service:
        assert service.stdout is not None
        pid = int(service.stdout.readline())
        os.kill(pid, 0)
        service.kill()

        def gone() -> bool:
            try:
                os.kill(pid, 0)
                return Path(f"/proc/{pid}/stat").read_text().split()[2] == "Z"
            except (ProcessLookupError, FileNotFoundError):
                return True

        _wait_until(gone)


def test_a_pool_that_cannot_start_says_why(tmp_path: Path) -> None:
    pool = SqlPool(data_folder=tmp_path / "missing", temp_folder=tmp_path / "temp", schema=SCHEMA, workers=1)
    with pytest.raises(NotADirectoryError, match="missing"):
        pool.start()
    (tmp_path / "data").mkdir()
    broken = {"broken": "CREATE MACRO broken() AS no_such_function()"}
    pool = SqlPool(
        data_folder=tmp_path / "data", temp_folder=tmp_path / "temp", schema=SCHEMA, workers=1, macros=broken
    )
    with pytest.raises(SqlWorkerDied, match="no_such_function"):
        pool.start()
    assert list((tmp_path / "temp").iterdir()) == []


def test_a_pool_that_is_closed_while_it_starts_ends(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pool = SqlPool(data_folder=table.folder, temp_folder=tmp_path, schema=SCHEMA, workers=2)
    closing = threading.Thread(target=pool.close)
    wait_until_ready = WorkerProcess.wait_until_ready

    def close_meanwhile(worker: WorkerProcess) -> IsolationReport:
        if closing.ident is None:
            closing.start()
            _wait_until(lambda: pool._crew._closed)
        return wait_until_ready(worker)

    monkeypatch.setattr(WorkerProcess, "wait_until_ready", close_meanwhile)
    with pytest.raises(SqlWorkerDied):
        pool.start()
    closing.join(180)
    assert not closing.is_alive()
    assert list(tmp_path.iterdir()) == []


def test_a_pool_that_was_closed_before_it_starts_starts_nothing(table: SmallTable, tmp_path: Path) -> None:
    pool = SqlPool(data_folder=table.folder, temp_folder=tmp_path, schema=SCHEMA, workers=2)
    pool.close()
    with pytest.raises(SqlWorkerDied, match="closed"):
        pool.start()
    assert pool.worker_pids() == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a*b", "a?b", "a[b]"])
def test_a_folder_that_reads_as_a_pattern_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ValueError, match="pattern"):
        SqlPool(data_folder=tmp_path / name, temp_folder=tmp_path, schema=SCHEMA)


def test_an_abandoned_answer_frees_its_worker_at_the_time_limit(table: SmallTable, tmp_path: Path) -> None:
    with sandbox(table, tmp_path, SqlLimits(timeout_s=0.5)) as sql:
        result = sql.pool.run(SqlRequest("SELECT i FROM range(100000000000) t(i)"), sql.view)
        # Its first rows may come too late as well, which ends it the same way.
        with contextlib.suppress(SqlTimeout):
            next(result)
        _wait_until(lambda: _answers(sql))
        result.close()
        del result
        gc.collect()
