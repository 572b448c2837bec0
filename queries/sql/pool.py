"""The sandbox as the service sees it: a pool of worker processes that answer SELECTs over a pinned snapshot."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Final

import pyarrow as pa

from queries.sql import standing_back
from queries.sql.alarm import AlarmClock
from queries.sql.cancellation import Cancellation
from queries.sql.crew import Crew
from queries.sql.errors import SqlError, SqlWorkerDied
from queries.sql.lasting import LastingQueries
from queries.sql.messages import Run
from queries.sql.parameters import check_text, encode_parameters
from queries.sql.process import FileFrames, LostWorker, WorkerSettings
from queries.sql.request import SQL_CHARACTERS_MAX, SqlLimits, SqlRequest, TableView
from queries.sql.result import SqlResult
from queries.sql.running import BATCHES_AHEAD, RunningQuery, StopReason
from queries.sql.walls.around import WALL_NAMES
from queries.sql.walls.report import IsolationReport
from queries.views import view_statements
from storage.schema import ActionSchema

_FOLDER_PREFIX: Final = "sql-"
_PATTERN_CHARACTERS: Final = frozenset("*?[")


class SqlPool:
    """Worker processes for user SQL. All methods may be called from any thread.

    Args:
        data_folder: the table's folder; nothing else can be read by a query.
        temp_folder: for spilled data; a folder in it is made for this pool, and removed by `close`.
        schema: for the ready views.
        limits: of each query.
        workers: processes; each runs one query at a time.
        waiting_max: queries that may wait for a worker; one more is refused at once.
        wait_s_max: how long one waits before it is refused.
        niceness: how far workers stand back from the service when the processor is short.
        when_idle: let queries that last have only what others leave of the processors, where the system knows such a
            thing; all queries, where the service may not put its workers aside.
        acknowledged: gives the position of the last action that was acknowledged, by any process; quick.
        share_min: of the time, that queries which last run at least while that position grows; 1 lets them run on.
        macros: CREATE MACRO statements by name: scalar functions of the service's own that queries may call.
        walls: the system's walls to raise around a worker; fewer than all only for tests of single ones.
        start_timeout_s: how long a worker may take to start.
        on_worker_lost: called for each worker that ended or was ended, from another thread; must be quick.

    Raises:
        ValueError: the path of the data folder cannot be told from a pattern of paths.
    """

    def __init__(
        self,
        *,
        data_folder: Path,
        temp_folder: Path,
        schema: ActionSchema,
        limits: SqlLimits | None = None,
        workers: int = 2,
        waiting_max: int = 32,
        wait_s_max: float = 5.0,
        niceness: int = 10,
        when_idle: bool = False,
        acknowledged: Callable[[], int] = lambda: 0,
        share_min: float = 1.0,
        macros: Mapping[str, str] | None = None,
        walls: frozenset[str] = frozenset(WALL_NAMES),
        start_timeout_s: float = 30.0,
        on_worker_lost: Callable[[LostWorker], None] = lambda _: None,
    ) -> None:
        data_folder = data_folder.absolute()
        if _PATTERN_CHARACTERS & set(str(data_folder)):
            raise ValueError(f"DuckDB would take {data_folder} for a pattern; use a folder without any of * ? [")
        self._limits = limits or SqlLimits()
        always_aside = when_idle and not standing_back.may_put_aside_others()
        self._lasting: LastingQueries | None = None
        if when_idle and standing_back.is_known():
            self._lasting = LastingQueries(always_aside=always_aside, acknowledged=acknowledged, share_min=share_min)
        self._parent_folder = temp_folder.absolute()
        self._folder = self._parent_folder / f"{_FOLDER_PREFIX}{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._frames = FileFrames(data_folder)
        self._alarm = AlarmClock()
        self._isolation: IsolationReport | None = None
        settings = WorkerSettings(
            data_folder=data_folder,
            temp_folder=self._folder,
            limits=self._limits,
            schema=schema.table_schema,
            views=view_statements(schema),
            macros=macros or {},
            walls=walls,
            niceness=niceness,
            when_idle=always_aside,
            start_timeout_s=start_timeout_s,
        )
        self._crew = Crew(
            settings, size=workers, waiting_max=waiting_max, wait_s_max=wait_s_max, on_lost=on_worker_lost
        )

    def start(self) -> None:
        """Start the workers and wait until their walls stand. The data folder must exist.

        Raises:
            OSError: there is no data folder, or the folder for temporary data cannot be made.
            SqlWorkerDied: a worker cannot be started; the message says why.
        """
        if not self._frames.data_folder.is_dir():
            raise NotADirectoryError(f"{self._frames.data_folder} is no folder")
        self._remove_leftovers()
        self._folder.mkdir(parents=True)
        self._alarm.start()
        try:
            self._isolation = self._crew.start()
        except SqlWorkerDied:
            self.close()
            raise

    def isolation(self) -> IsolationReport:
        """What stands between a query and the rest of the machine, for the log at start.

        Raises:
            SqlWorkerDied: the pool was not started.
        """
        if self._isolation is None:
            raise SqlWorkerDied("the pool was not started")
        return self._isolation

    def run(self, request: SqlRequest, view: TableView, cancellation: Cancellation | None = None) -> SqlResult:
        """Run a query over a snapshot; returns when its first rows are there, or that there are none.

        Blocks, so it belongs in a thread. The result must be closed.

        Args:
            request: what to run.
            view: the snapshot.
            cancellation: lets another thread stop the query, also before this returns.

        Raises:
            SqlError: the query is wrong, or asks for something that is not allowed.
            SqlTimeout: it took longer than its limit.
            SqlTooLarge: it needs more memory, temporary space or result than its limits.
            SqlScanLimit: it read more than it may.
            SqlCancelled: it was cancelled.
            SqlWorkerDied: its worker ended; it may be sent again.
            SnapshotUnreadable: a file of the snapshot is gone; take a newer snapshot.
            Overloaded: all workers are busy.
            ValueError: a file of the snapshot is not below the data folder.
        """
        if len(request.sql) > SQL_CHARACTERS_MAX:
            raise SqlError(f"the text is longer than {SQL_CHARACTERS_MAX} characters", position=SQL_CHARACTERS_MAX)
        check_text(request.sql)
        run = Run(
            sql=request.sql,
            parameters=encode_parameters(request.parameters),
            max_rows=request.max_rows,
            rows_max=self._limits.rows_max,
            result_bytes_max=self._limits.result_bytes_max,
            explain=request.explain,
            cpu_s_max=int((self._limits.timeout_s + 1) * (self._limits.threads + 1)) + 1,
            batches=BATCHES_AHEAD,
            scanned_bytes_max=request.scanned_bytes_max,
        )
        # Before a worker is taken, so that files of somewhere else cost none.
        self._frames.of(view)
        cancellation = cancellation or Cancellation()
        cancellation.bind(self._crew.wake)
        worker = self._crew.take(view, cancellation)
        query = RunningQuery(
            worker,
            self._limits,
            give_back=lambda healthy: self._crew.give_back(worker, healthy=healthy),
            replace=lambda: self._crew.replace(worker),
            alarm=self._alarm,
            lasting=self._lasting,
        )
        cancellation.bind(lambda: query.stop(StopReason.CANCELLED))
        started, schema = query.begin(run, view, self._frames)
        return SqlResult(query, started, pa.ipc.read_schema(pa.py_buffer(schema)))

    def worker_pids(self, *, idle: bool = False) -> list[int]:
        """The ids of the worker processes, or of those that wait for a query; for figures about them."""
        return self._crew.pids(idle=idle)

    def close(self) -> None:
        """End all workers, those of running queries too, and remove their temporary data."""
        if self._lasting is not None:
            self._lasting.close()
        self._crew.close()
        self._alarm.close()
        shutil.rmtree(self._folder, ignore_errors=True)

    def __enter__(self) -> SqlPool:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _remove_leftovers(self) -> None:
        """Remove the folders of pools whose process is gone: killed, with data still spilled."""
        for folder in self._parent_folder.glob(f"{_FOLDER_PREFIX}*-*"):
            pid = folder.name.removeprefix(_FOLDER_PREFIX).partition("-")[0]
            if pid.isdecimal() and not _is_running(int(pid)):
                shutil.rmtree(folder, ignore_errors=True)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
