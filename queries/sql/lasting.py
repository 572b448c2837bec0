"""What becomes of queries that last: they stand back, and most of the time stand still while submissions come.

A thread that stands back (`standing_back`) still delays others. Linux owes it a little of each processor, and when it
pays, the thread stays there until the next tick, up to 4 ms away; to threads of other sessions, and of the kernel, it
counts in full; and where a container or a virtual machine may take so much processor time and no more, threads that
take all that is left have everything halted, the service too. A process that stands still does none of this. So
workers whose queries last are stopped (SIGSTOP) while submissions come, but for a small share of the time, and go on at
once when none came for a moment. That share is taken in few long runs, since each begins with what Linux owes by then,
and on all processors but one.

A query that has begun to answer does not stand still: its client waits for each row, and takes them as fast as it can.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from queries.sql import standing_back

LOOK_EACH_S: Final = 0.02
QUIET_AFTER_S: Final = 0.1
"""Submissions come no more when none was acknowledged for so long."""
RUN_S: Final = 0.05
"""How long queries run at a time while submissions come."""

_logger = logging.getLogger(__name__)


@dataclass(slots=True)
class _Worker:
    """One that stands still at times.

    Attributes:
        descriptor: of its process, since a signal must not reach another one that got its id when it had ended.
        still_since_s: when it began to stand still; None while it runs.
        still_s: for how long it did before.
    """

    descriptor: int
    still_since_s: float | None = None
    still_s: float = 0.0


class LastingQueries:
    """How the queries of one pool stand back when they last. Any thread may call.

    Args:
        always_aside: whether the pool's workers are aside from their start.
        acknowledged: gives the position of the last action that was acknowledged, by any process; quick.
        share_min: of the time, that queries run at least while submissions come; 1 lets them never stand still.
    """

    def __init__(self, *, always_aside: bool, acknowledged: Callable[[], int], share_min: float) -> None:
        self._always_aside = always_aside
        self._acknowledged = acknowledged
        self._still_s_max = RUN_S / share_min - RUN_S
        self._changed = threading.Condition()
        self._workers: dict[int, _Worker] = {}
        self._still = False
        self._refused = False
        self._closed = False
        self._thread: threading.Thread | None = None

    def begin(self, pid: int, *, answers: bool) -> None:
        """Put a worker aside whose query lasts, and have it stand still at times unless the query *answers* already."""
        if not self._always_aside:
            standing_back.put_aside(pid)
        if answers or self._still_s_max <= 0:
            return
        try:
            worker = _Worker(os.pidfd_open(pid))
        except OSError as error:
            # It has ended, or the system knows no such thing (Linux before 5.3).
            _logger.debug("a query that lasts does not stand still: %s", error)
            return
        with self._changed:
            if self._closed:
                os.close(worker.descriptor)
                return
            self._workers[pid] = worker
            if self._still:
                self._stop(pid)
            if self._thread is None:
                self._thread = threading.Thread(target=self._take_turns, name="sql-lasting", daemon=True)
                self._thread.start()
            self._changed.notify()

    def let_run(self, pid: int) -> float:
        """Have a worker stand still no more: its query answers, or shall stop. Nothing if it never did.

        Returns:
            For how many seconds it stood still since `begin`; 0 the next time.
        """
        with self._changed:
            if pid not in self._workers:
                return 0.0
            self._go_on(pid)
            worker = self._workers.pop(pid)
            os.close(worker.descriptor)
            return worker.still_s

    def end(self, pid: int, *, healthy: bool) -> bool:
        """Take a worker back that `begin` put aside, if it is healthy; whether it is of use for another query."""
        self.let_run(pid)
        # The process of one that is not may be gone, and another one have its id.
        return healthy and (self._always_aside or standing_back.take_back(pid))

    def close(self) -> None:
        """Let all workers run, and none stand still any more."""
        with self._changed:
            self._closed = True
            thread = self._thread
            for pid in list(self._workers):
                self.let_run(pid)
            self._changed.notify()
        if thread is not None:
            thread.join()

    def _take_turns(self) -> None:
        last, came_at_s, turn_began_s = self._acknowledged(), float("-inf"), time.monotonic()
        with self._changed:
            while not self._closed:
                if not self._workers:
                    self._still = False
                    self._changed.wait()
                    last, came_at_s, turn_began_s = self._acknowledged(), float("-inf"), time.monotonic()
                    continue
                self._changed.wait(LOOK_EACH_S)
                now_s, position = time.monotonic(), self._acknowledged()
                if position != last:
                    last, came_at_s = position, now_s
                submissions_come = now_s - came_at_s < QUIET_AFTER_S
                turn_s = now_s - turn_began_s
                if self._still:
                    turns = not submissions_come or turn_s >= self._still_s_max
                else:
                    turns = submissions_come and turn_s >= RUN_S
                if turns:
                    self._still = not self._still
                    turn_began_s = now_s
                    for pid in self._workers:
                        if self._still:
                            self._stop(pid)
                        elif submissions_come:
                            self._run(pid)
                        else:
                            self._go_on(pid)

    def _stop(self, pid: int) -> None:
        if self._signal(pid, signal.SIGSTOP):
            self._workers[pid].still_since_s = time.monotonic()
        standing_back.leave_a_processor(pid)

    def _run(self, pid: int) -> None:
        self._signal(pid, signal.SIGCONT)
        worker = self._workers[pid]
        if worker.still_since_s is not None:
            worker.still_s += time.monotonic() - worker.still_since_s
            worker.still_since_s = None

    def _go_on(self, pid: int) -> None:
        standing_back.use_all_processors(pid)
        self._run(pid)

    def _signal(self, pid: int, number: signal.Signals) -> bool:
        """Signal a worker; one that may not be signalled runs on, which is told of once. Whether it was signalled."""
        try:
            signal.pidfd_send_signal(self._workers[pid].descriptor, number)
        except ProcessLookupError:
            # It has ended; whoever waits for it learns it from its channel.
            return False
        except OSError as error:
            if not self._refused:
                self._refused = True
                _logger.warning(
                    "queries that last may delay submissions: they cannot be made to stand still (%s)", error
                )
            return False
        return True
