"""The workers of a pool: kept at their number, handed out to one query each, replaced when they are lost."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

from queries.sql.cancellation import Cancellation
from queries.sql.errors import SqlCancelled, SqlWorkerDied
from queries.sql.process import LostWorker, WorkerProcess, WorkerSettings
from queries.sql.request import TableView
from queries.sql.walls.report import IsolationReport
from storage.errors import Overloaded

_RETRY_S_MIN: Final = 0.1
_RETRY_S_MAX: Final = 5.0
_LOOK_AFTER_IDLE_S: Final = 1.0


class Crew:
    """Worker processes. Methods may be called from any thread.

    Args:
        settings: of every worker.
        size: how many there are.
        waiting_max, wait_s_max: how many queries may wait for a worker, and how long.
        on_lost: called for each worker that is lost, from the thread that replaces it.
    """

    def __init__(
        self,
        settings: WorkerSettings,
        *,
        size: int,
        waiting_max: int,
        wait_s_max: float,
        on_lost: Callable[[LostWorker], None],
    ) -> None:
        self._settings = settings
        self._size = size
        self._waiting_max = waiting_max
        self._wait_s_max = wait_s_max
        self._on_lost = on_lost
        self._changed = threading.Condition()
        self._members: set[WorkerProcess] = set()
        self._idle: list[WorkerProcess] = []
        self._lost: list[WorkerProcess] = []
        self._starting: list[WorkerProcess] = []
        self._waiting = 0
        self._closed = False
        self._start_error: SqlWorkerDied | None = None
        self._isolation: IsolationReport | None = None
        # The kernel ends workers with the thread that started them, so one thread starts them all, and stays.
        self._keeper = threading.Thread(target=self._keep, name="sql-crew", daemon=True)

    def start(self) -> IsolationReport:
        """Start all workers and wait until they are ready.

        Raises:
            SqlWorkerDied: a worker cannot be started.
        """
        self._keeper.start()
        with self._changed:
            self._changed.wait_for(lambda: self._start_error or self._closed or len(self._members) == self._size)
            error, isolation = self._start_error, self._isolation
            if self._closed:
                error = SqlWorkerDied("the pool was closed while it started")
        if error is not None or isolation is None:
            raise error or SqlWorkerDied("no worker was started")
        return isolation

    def take(self, view: TableView, cancellation: Cancellation) -> WorkerProcess:
        """Wait for an idle worker, preferably one that has the files of *view*.

        Raises:
            Overloaded: all are busy, and too many wait already, or this one waited too long.
            SqlCancelled: cancelled meanwhile.
        """
        deadline_s = time.monotonic() + self._wait_s_max
        with self._changed:
            if not self._idle and self._waiting >= self._waiting_max:
                raise Overloaded(f"{self._waiting} queries wait for one of {self._size} workers already")
            self._waiting += 1
            try:
                while True:
                    if cancellation.cancelled or self._closed:
                        raise SqlCancelled("the query was stopped before it began")
                    if self._idle:
                        worker = next((one for one in reversed(self._idle) if one.has(view)), self._idle[-1])
                        self._idle.remove(worker)
                        if worker.alive:
                            return worker
                        self._lose(worker)
                        worker.close()
                    elif not self._changed.wait(deadline_s - time.monotonic()):
                        raise Overloaded(f"no worker was free for {self._wait_s_max:g} s")
            finally:
                self._waiting -= 1

    def give_back(self, worker: WorkerProcess, *, healthy: bool) -> None:
        """Return a worker after its query; one that is not healthy, or was replaced meanwhile, is not used again."""
        with self._changed:
            if healthy and not self._closed and worker in self._members:
                self._idle.append(worker)
                self._changed.notify_all()
                return
            self._lose(worker)
        worker.close()

    def replace(self, worker: WorkerProcess) -> None:
        """Start another worker for one that is busy, and of which nobody knows when it will be given back."""
        with self._changed:
            self._lose(worker)

    def wake(self) -> None:
        """Have those who wait for a worker look whether they are cancelled."""
        with self._changed:
            self._changed.notify_all()

    def pids(self, *, idle: bool) -> list[int]:
        """The ids of the processes: of all, or of those that have no query."""
        with self._changed:
            return sorted(worker.pid for worker in (self._idle if idle else self._members))

    def close(self) -> None:
        """End all workers. Queries that run end with `SqlCancelled` or `SqlWorkerDied`."""
        with self._changed:
            self._closed = True
            for worker in [*self._members, *self._starting]:
                worker.kill()
            self._changed.notify_all()
        if self._keeper.ident is not None:
            self._keeper.join()

    def _lose(self, worker: WorkerProcess) -> None:
        if worker in self._members:
            self._members.discard(worker)
            self._lost.append(worker)
            self._changed.notify_all()

    def _keep(self) -> None:
        """Bury lost workers and start new ones, until the crew is closed."""
        retry_s = _RETRY_S_MIN
        while True:
            with self._changed:
                self._changed.wait_for(self._something_is_to_do, timeout=_LOOK_AFTER_IDLE_S)
                for worker in [one for one in self._idle if self._closed or not one.alive]:
                    self._idle.remove(worker)
                    self._lose(worker)
                    worker.close()
                if self._closed:
                    self._lost.extend(self._members)
                    self._members.clear()
                lost, self._lost = self._lost, []
                closed, missing = self._closed, self._size - len(self._members)
            for worker in lost:
                buried = worker.reap()
                if not closed:
                    self._on_lost(buried)
            if closed:
                return
            if self._start_workers(missing):
                retry_s = _RETRY_S_MIN
            else:
                with self._changed:
                    self._changed.wait_for(lambda: self._closed, timeout=retry_s)
                retry_s = min(retry_s * 2, _RETRY_S_MAX)

    def _something_is_to_do(self) -> bool:
        return self._closed or bool(self._lost) or len(self._members) < self._size

    def _start_workers(self, count: int) -> bool:
        """Start workers, all at once, and wait for each; returns whether all are ready."""
        starting: list[WorkerProcess] = []
        while len(starting) < count:
            try:
                starting.append(WorkerProcess(self._settings))
            except OSError as error:
                self._could_not_start(SqlWorkerDied(f"no process can be started: {error}"))
                break
        with self._changed:
            self._starting = starting
            if self._closed:
                for worker in starting:
                    worker.kill()
        ready = [self._wait_for(worker) for worker in starting]
        self._starting = []
        return len(ready) == count and all(ready)

    def _wait_for(self, worker: WorkerProcess) -> bool:
        try:
            isolation = worker.wait_until_ready()
        except (SqlWorkerDied, OSError) as error:
            # Nobody would start workers any more, nor be told that there are none, if this thread ended.
            self._could_not_start(error if isinstance(error, SqlWorkerDied) else SqlWorkerDied(str(error)))
            return False
        with self._changed:
            self._isolation = isolation
            self._members.add(worker)
            self._idle.append(worker)
            self._changed.notify_all()
        return True

    def _could_not_start(self, error: SqlWorkerDied) -> None:
        self._on_lost(LostWorker(None, None, str(error)))
        with self._changed:
            self._start_error = error
            self._changed.notify_all()
