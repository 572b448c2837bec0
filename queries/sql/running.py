"""A query that a worker runs, as the service sees it: one beginning, one end, and any thread may ask it to stop."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import Enum
from typing import Final, NoReturn, Protocol

from queries.sql import standing_back
from queries.sql.channel import ChannelClosed
from queries.sql.errors import (
    SnapshotUnreadable,
    SqlCancelled,
    SqlError,
    SqlScanLimit,
    SqlTimeout,
    SqlTooLarge,
    SqlWorkerDied,
)
from queries.sql.lasting import LastingQueries
from queries.sql.messages import Batch, Cancel, Failed, Finished, More, Run, Started
from queries.sql.process import FileFrames, WorkerProcess
from queries.sql.request import SqlLimits, TableView

BATCHES_AHEAD: Final = 4
"""How many batches a worker may send before any was taken."""
_ASK_FOR: Final = BATCHES_AHEAD // 2

KILL_AFTER_S: Final = 0.5
"""How long a worker has to stop a query before the worker is ended."""


class StopReason(Enum):
    """Why a query was stopped from outside."""

    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    CLOSED = "closed"


class Alarm(Protocol):
    """Calls something later."""

    def call_after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call *call* in *delay_s* seconds, from another thread."""
        ...


class RunningQuery:
    """One query in one worker.

    Args:
        worker: holds nothing but this query until *give_back* is called.
        give_back: called once at the end, with whether the worker can take another query.
        replace: called if the worker had to be ended while somebody may still wait for its answer.
        alarm: for the time limit.
        lasting: what becomes of the query if it lasts; None if nothing does.
    """

    def __init__(
        self,
        worker: WorkerProcess,
        limits: SqlLimits,
        *,
        give_back: Callable[[bool], None],
        replace: Callable[[], None],
        alarm: Alarm,
        lasting: LastingQueries | None = None,
    ) -> None:
        self._worker = worker
        self._limits = limits
        self._give_back = give_back
        self._replace = replace
        self._alarm = alarm
        self._lasting = lasting
        self._put_aside = False
        self._answers = False
        self._still_s = 0.0
        self._lock = threading.Lock()
        self._reason: StopReason | None = None
        # Whether the worker has the query, and whether it knows that it shall stop.
        self._sent = False
        self._told = False
        # Batches that were taken since the worker was told.
        self._taken = 0
        self.over = False

    def begin(self, run: Run, view: TableView, frames: FileFrames) -> tuple[Started, memoryview]:
        """Have the worker run a query and wait until it has the first rows.

        Raises:
            SqlError, SqlTimeout, SqlTooLarge, SqlScanLimit, SqlCancelled, SqlWorkerDied, SnapshotUnreadable: the query
                is over.
        """
        self._alarm.call_after(self._limits.timeout_s, lambda: self.stop(StopReason.TIMEOUT))
        if self._lasting is not None:
            self._alarm.call_after(standing_back.AFTER_S, self._stand_back)
        try:
            self._worker.use(view, frames)
            self._send(run)
        except ChannelClosed:
            self._died()
        except (SqlTimeout, SqlCancelled):
            self._end(healthy=True)
            raise
        except BaseException:
            self._end(healthy=False)
            raise
        message, payload = self.receive()
        if not isinstance(message, Started):
            self._end(healthy=False)
            raise SqlWorkerDied("the worker answered out of turn")
        with self._lock:
            self._answers = True
            self._let_run()
        return message, payload

    def receive(self) -> tuple[Started | Batch | Finished, memoryview]:
        """Wait for what the worker says next.

        Raises:
            SqlError, SqlTimeout, SqlTooLarge, SqlScanLimit, SqlCancelled, SqlWorkerDied, SnapshotUnreadable: the query
                is over.
        """
        try:
            message, payload = self._worker.channel.receive()
        except ChannelClosed:
            self._died()
        if isinstance(message, Finished | Failed):
            self._end(healthy=not message.retire)
        if isinstance(message, Failed):
            self._raise(message)
        if not isinstance(message, Started | Batch | Finished):
            self._end(healthy=False)
            raise SqlWorkerDied("the worker answered out of turn")
        return message, payload

    def ask_for_more(self) -> None:
        """Let the worker send one more batch, soon: it is woken for several at once, and never for a short answer."""
        self._taken += 1
        if self._taken < _ASK_FOR:
            return
        taken, self._taken = self._taken, 0
        try:
            self._worker.channel.send(More(taken))
        except ChannelClosed:
            self._died()
        with self._lock:
            self._cancel_if_stopped()

    def stop(self, reason: StopReason) -> None:
        """Have the query stopped, from any thread; if the worker does not obey, it is ended."""
        with self._lock:
            if self.over or self._reason is not None:
                return
            self._reason = reason
            self._let_run()
            self._cancel_if_stopped()
        self._alarm.call_after(KILL_AFTER_S, self._kill_if_not_over)

    def close(self) -> None:
        """End the query if it is not over, and give the worker back."""
        self.stop(StopReason.CLOSED)
        while not self.over:
            try:
                self.receive()
            except (SqlError, SqlTimeout, SqlTooLarge, SqlScanLimit, SqlCancelled, SqlWorkerDied, SnapshotUnreadable):
                # How it ended does not matter to somebody who does not want it any more.
                return

    def _send(self, run: Run) -> None:
        with self._lock:
            self._raise_stopped()
        self._worker.channel.send(run)
        with self._lock:
            self._sent = True
            self._cancel_if_stopped()

    def _cancel_if_stopped(self) -> None:
        """Tell the worker, under the lock: it hears of it neither before this query nor at its next one.

        Where somebody is sending, who may have to wait, it is told when that is done.
        """
        if self._sent and not self.over and not self._told and self._reason is not None:
            self._told = self._worker.channel.send_if_possible(Cancel())

    def _stand_back(self) -> None:
        # Under the lock, so that the worker cannot be at its next query.
        with self._lock:
            if not self.over and self._lasting is not None:
                self._put_aside = True
                # One that shall stop has to hear of it.
                answers = self._answers or self._reason is not None
                self._lasting.begin(self._worker.pid, answers=answers)

    def _let_run(self) -> None:
        """Have the query stand still no more, under the lock."""
        if self._put_aside and not self.over and self._lasting is not None:
            self._still_s += self._lasting.let_run(self._worker.pid)

    def _kill_if_not_over(self) -> None:
        with self._lock:
            if self.over:
                return
            self._worker.kill()
        self._replace()

    def _end(self, *, healthy: bool) -> None:
        with self._lock:
            if self.over:
                return
            self.over = True
        if self._put_aside and self._lasting is not None:
            # A worker that stays aside is of no use for short queries.
            healthy = self._lasting.end(self._worker.pid, healthy=healthy)
        self._give_back(healthy)

    def _died(self) -> NoReturn:
        self._end(healthy=False)
        self._raise_stopped()
        raise SqlWorkerDied("the process that ran the query ended; only this query is lost")

    def _raise(self, failed: Failed) -> NoReturn:
        match failed.kind:
            case "sql":
                raise SqlError(failed.message, position=failed.position, suggestion=failed.suggestion)
            case "too_large":
                limit = failed.limit or "memory_bytes_max"
                raise SqlTooLarge(limit, int(getattr(self._limits, limit)), failed.message)
            case "unreadable":
                raise SnapshotUnreadable(failed.message)
            case "scan_limit":
                raise SqlScanLimit(failed.scanned_bytes)
            case "interrupted":
                self._raise_stopped()
                raise SqlWorkerDied("the query was interrupted, though nobody asked for it")
            case _:
                raise SqlWorkerDied(f"the engine failed: {failed.message}")

    def _raise_stopped(self) -> None:
        if self._reason is StopReason.TIMEOUT:
            raise SqlTimeout(self._limits.timeout_s, self._still_s)
        if self._reason is not None:
            raise SqlCancelled("the query was stopped")
