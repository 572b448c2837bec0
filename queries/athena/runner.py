"""Running executions: a few threads take plans, ask the engine, keep the result, and write down how it ended."""

from __future__ import annotations

import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Final

import pyarrow as pa

from queries.athena.engine import EngineError, EngineResult, QueryCancelled, ScanLimitExceeded, SqlEngine
from queries.athena.errors import QueryError, TooManyRequests
from queries.athena.executions import Execution, Failure, History, State
from queries.athena.failures import failure
from queries.athena.liveness import WorkerLock
from queries.athena.plans import Plan
from queries.athena.results import ResultFiles
from queries.athena.work_groups import WorkGroup
from storage.errors import InvalidInput, StoreError

_logger = logging.getLogger(__name__)

STOPPED_BY_USER: Final = "Query cancelled by user"
_INTERNAL_CODE: Final = "GENERIC_INTERNAL_ERROR"
_OWNER_ENDED: Final = "GENERIC_INTERNAL_ERROR: the process that ran this query has ended; run it again"
_DISCARDED: Final = "GENERIC_INTERNAL_ERROR: a user was erased while this query ran; run it again"
_STOP_POLL_S: Final = 0.2
_RETENTION_PERIOD_S: Final = 30.0

# Athena's numbers of kinds of errors.
_EXHAUSTED, _INTERNAL, _USER, _DATA = 0, 100, 1000, 1001
_DATA_CODES: Final = frozenset(
    {"DIVISION_BY_ZERO", "INVALID_CAST_ARGUMENT", "INVALID_FUNCTION_ARGUMENT", "NUMERIC_VALUE_OUT_OF_RANGE"}
)
_EXHAUSTED_CODES: Final = frozenset({"EXCEEDED_LOCAL_MEMORY_LIMIT", "EXCEEDED_RESULT_SIZE_LIMIT"})


@dataclass(frozen=True, slots=True)
class Retention:
    """How long results and history are kept.

    Attributes:
        result_hours: a result is removed after so many hours.
        results_bytes_max: the oldest results are removed when all together are larger.
        history_days: an execution is forgotten after so many days.
        history_max: the oldest executions are forgotten when there are more.
    """

    result_hours: float = 24
    results_bytes_max: int = 1 << 30
    history_days: float = 45
    history_max: int = 100_000


@dataclass(slots=True)
class _Job:
    execution: Execution
    plan: Plan
    group: WorkGroup
    cancelled: threading.Event = field(default_factory=threading.Event)
    done: threading.Event = field(default_factory=threading.Event)


class Runner:
    """Runs the executions of this process, and tidies up after those of processes that have ended.

    Args:
        engine: what runs queries.
        history: where executions are written down.
        results: where results are kept.
        lock: this process's proof of life.
        clock: the time in seconds since the epoch.
        concurrency_max: executions at once.
        queue_max: executions that may wait.
        retention: how long results and history are kept.
    """

    def __init__(
        self,
        *,
        engine: SqlEngine,
        history: History,
        results: ResultFiles,
        lock: WorkerLock,
        clock: Callable[[], float],
        concurrency_max: int,
        queue_max: int,
        retention: Retention,
    ) -> None:
        self._engine = engine
        self._history = history
        self._results = results
        self._lock = lock
        self._clock = clock
        self._places = concurrency_max + queue_max
        self._retention = retention
        self._threads = ThreadPoolExecutor(concurrency_max, thread_name_prefix="athena")
        self._jobs: dict[str, _Job] = {}
        self._jobs_lock = threading.Lock()
        self._closing = threading.Event()
        self._work_to_watch = threading.Event()
        self._tidied_at = float("-inf")
        self._watcher = threading.Thread(target=self._watch, name="athena-watch", daemon=True)
        self._watcher.start()

    # Running.

    def reserve(self) -> None:
        """Check that one more execution may be queued.

        Raises:
            TooManyRequests: too many are.
        """
        with self._jobs_lock:
            if len(self._jobs) >= self._places:
                raise TooManyRequests(f"{len(self._jobs)} queries are running or queued, which is the most at once")

    def submit(self, execution: Execution, plan: Plan, group: WorkGroup) -> None:
        """Run an execution that is written down as queued, when a thread is free."""
        job = _Job(execution, plan, group)
        with self._jobs_lock:
            self._jobs[execution.id] = job
        self._work_to_watch.set()
        self._threads.submit(self._run, job)

    def wait(self, execution_id: str, timeout_s: float) -> None:
        """Wait until an execution of this process has ended, at most *timeout_s*."""
        with self._jobs_lock:
            job = self._jobs.get(execution_id)
        if job is not None:
            job.done.wait(timeout_s)

    def stop(self, execution: Execution) -> None:
        """Stop an execution, of whichever process; it ends as CANCELLED soon, unless it ends by itself first."""
        self._history.request_stop(execution.id)
        self._stop_here(execution.id)
        self.bury(execution)

    def _stop_here(self, execution_id: str) -> None:
        with self._jobs_lock:
            job = self._jobs.get(execution_id)
        if job is None:
            return
        job.cancelled.set()
        # One that runs ends when the engine notices; one that waits for a thread ends here.
        if self._history.cancelled_in_queue(execution_id, self._clock(), STOPPED_BY_USER):
            job.done.set()

    def _run(self, job: _Job) -> None:
        try:
            started_at = self._clock()
            if not job.cancelled.is_set() and self._history.started(job.execution.id, started_at):
                ended = self._ended(replace(job.execution, state=State.RUNNING, started_at=started_at), job)
                if not self._history.ended(ended):
                    self._results.remove(job.execution.id)
                    self._end_discarded(ended)
        except Exception:
            # What failed is the writing down, so nobody can be told but the log; the execution stays as it was.
            _logger.exception("an execution's end could not be written down", extra={"execution_id": job.execution.id})
        finally:
            with self._jobs_lock:
                self._jobs.pop(job.execution.id, None)
            job.done.set()

    def _end_discarded(self, execution: Execution) -> None:
        """End an execution that must not have a result, because a user was erased since it began."""
        error = Failure(category=1, error_type=_INTERNAL, retryable=True, message=_DISCARDED)
        blank = replace(execution, rows=0, result_bytes=None)
        self._history.ended(blank.ended(State.FAILED, self._clock(), _DISCARDED, error), discarded=True)

    def _ended(self, execution: Execution, job: _Job) -> Execution:  # noqa: PLR0911 (one return an outcome reads best)
        """Run the plan; whatever happens is how the execution ends."""
        try:
            return self._succeeded(execution, job)
        except QueryCancelled:
            return execution.ended(State.CANCELLED, self._clock(), STOPPED_BY_USER)
        except ScanLimitExceeded as limit:
            reason = job.group.cut_off(limit.scanned_bytes)
            return replace(execution, scanned_bytes=limit.scanned_bytes).ended(State.CANCELLED, self._clock(), reason)
        except QueryError as error:
            return failed(execution, error, self._clock())
        except InvalidInput as error:
            return failed(execution, failure(str(error)), self._clock())
        except StoreError as error:
            return failed(execution, EngineError(_INTERNAL_CODE, str(error), retryable=True), self._clock())
        except Exception as error:
            _logger.exception("a query failed in a way that was not foreseen", extra={"execution_id": execution.id})
            unforeseen = EngineError(_INTERNAL_CODE, f"{type(error).__name__}: {error}", retryable=True)
            return failed(execution, unforeseen, self._clock())

    def _succeeded(self, execution: Execution, job: _Job) -> Execution:
        plan = job.plan
        if plan.sql is None:
            written = self._results.write(execution.id, plan.columns, _known_rows(plan), has_header=plan.has_header)
            engine_ms, scanned_bytes = 0.0, 0
        else:
            limit = job.group.scanned_bytes_max
            answer = self._engine.run(plan.sql, (), cancelled=job.cancelled, scanned_bytes_max=limit)
            batches = _plan_lines(answer) if plan.is_explanation else answer.batches
            try:
                written = self._results.write(execution.id, plan.columns, batches, has_header=plan.has_header)
            finally:
                close = getattr(answer.batches, "close", None)
                if close is not None:
                    close()
            engine_ms, scanned_bytes = answer.engine_ms, answer.scanned_bytes
            if limit is not None and scanned_bytes > limit:
                self._results.remove(execution.id)
                raise ScanLimitExceeded(scanned_bytes)
        return replace(
            execution,
            rows=written.rows,
            result_bytes=written.size_bytes,
            engine_ms=round(engine_ms),
            scanned_bytes=scanned_bytes,
        ).ended(State.SUCCEEDED, self._clock())

    # Tidying up.

    def bury(self, execution: Execution) -> Execution:
        """End an unfinished execution whose process has ended, as FAILED.

        Returns:
            the execution as it is now.
        """
        if execution.state.is_final or self._lock.is_alive(execution.owner):
            return execution
        error = Failure(category=1, error_type=_INTERNAL, retryable=True, message=_OWNER_ENDED)
        dead = execution.ended(State.FAILED, self._clock(), _OWNER_ENDED, error)
        if not self._history.ended(dead):
            self._end_discarded(dead)
        self._results.remove(execution.id)
        return self._history.get(execution.id) or dead

    def bury_all(self) -> None:
        """End the unfinished executions of all processes that have ended, and remove results that nobody knows."""
        for execution in self._history.unfinished():
            self.bury(execution)
        self._lock.remove_dead()
        # In this order, so that what ends meanwhile in another process is found by one of the two.
        there = self._results.names()
        running = {execution.id for execution in self._history.unfinished()}
        known = set(self._history.with_result())
        for execution_id in there - known - running:
            self._results.remove(execution_id)

    def _watch(self) -> None:
        """Look for requests of other processes to stop, while anything runs; and keep the retention."""
        while not self._closing.is_set():
            self._work_to_watch.wait(_RETENTION_PERIOD_S)
            if self._closing.wait(_STOP_POLL_S):
                return
            try:
                for execution_id in self._history.stops_requested(self._lock.worker_id):
                    self._stop_here(execution_id)
                self.keep_retention()
            except (sqlite3.Error, OSError):
                _logger.exception("the history of queries could not be tidied")
            with self._jobs_lock:
                if not self._jobs:
                    self._work_to_watch.clear()

    def keep_retention(self, *, now: bool = False) -> None:
        """Remove results and history that are too old or too much, unless that was done a moment ago.

        Raises:
            sqlite3.Error, OSError: they cannot be removed.
        """
        if not now and time.monotonic() - self._tidied_at < _RETENTION_PERIOD_S:
            return
        self._tidied_at = time.monotonic()
        limits, clock = self._retention, self._clock()
        oldest = clock - limits.result_hours * 3600
        for execution_id in self._history.results_to_remove(oldest, limits.results_bytes_max):
            self._results.remove(execution_id)
            self._history.result_removed(execution_id)
        self._results.close_removed()
        self._history.forget(clock - limits.history_days * 86_400, limits.history_max)

    def close(self) -> None:
        """Stop what runs, and wait until it has ended."""
        self._closing.set()
        self._work_to_watch.set()
        with self._jobs_lock:
            waiting = list(self._jobs)
        for execution_id in waiting:
            self._stop_here(execution_id)
        self._threads.shutdown(wait=True)
        self._watcher.join()


def failed(execution: Execution, error: QueryError, completed_at: float) -> Execution:
    """An execution that ended by *error*."""
    retryable = error.retryable if isinstance(error, EngineError) else False
    if error.code in _EXHAUSTED_CODES:
        category, error_type = 1, _EXHAUSTED
    elif isinstance(error, EngineError):
        category, error_type = 1, _INTERNAL
    else:
        category, error_type = 2, _DATA if error.code in _DATA_CODES else _USER
    reason = str(error)
    return execution.ended(State.FAILED, completed_at, reason, Failure(category, error_type, retryable, reason))


def _known_rows(plan: Plan) -> Iterator[pa.RecordBatch]:
    width = max((len(row) for row in plan.rows), default=0)
    if width:
        columns = [pa.array([row[i] for row in plan.rows], pa.string()) for i in range(width)]
        yield pa.RecordBatch.from_arrays(columns, names=[f"c{i}" for i in range(width)])


def _plan_lines(answer: EngineResult) -> Iterator[pa.RecordBatch]:
    """The lines of a plan, which DuckDB gives as the last column of one row."""
    for batch in answer.batches:
        plans = batch.column(batch.num_columns - 1).to_pylist()
        lines = [line for plan in plans for line in str(plan).rstrip("\n").split("\n")]
        yield pa.RecordBatch.from_arrays([pa.array(lines, pa.string())], names=["plan"])
