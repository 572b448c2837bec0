"""When a query is over its time: it is told so at its limit, and its worker is ended half a second later, by the clock.

The clock is the test's: nothing here depends on how fast a machine is. That real queries end so is the business of
`test_sql_runaway_queries_are_stopped`.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from queries.sql import SqlCancelled, SqlLimits, SqlTimeout
from queries.sql.channel import ChannelClosed
from queries.sql.messages import Cancel, Failed, More, Run, UseErased
from queries.sql.process import WorkerProcess
from queries.sql.running import BATCHES_AHEAD, KILL_AFTER_S, RunningQuery, StopReason

LIMIT_S = 30.0
A_RUN = Run("SELECT 1", {}, None, rows_max=1, result_bytes_max=1, explain=False, cpu_s_max=1, batches=1)
STOPPED_WITHIN_S = 1.0


class Clock:
    """Time that passes when somebody waits; an alarm by it."""

    def __init__(self) -> None:
        self.now_s = 0.0
        self._calls: list[tuple[float, Callable[[], None]]] = []

    def call_after(self, delay_s: float, call: Callable[[], None]) -> None:
        self._calls.append((self.now_s + delay_s, call))

    def pass_to_the_next_call(self) -> None:
        self._calls.sort(key=lambda one: one[0])
        self.now_s, call = self._calls.pop(0)
        call()


class Worker:
    """A worker that never answers; it obeys after so long, or never."""

    def __init__(self, clock: Clock, *, obeys_after_s: float | None) -> None:
        self.cancelled_at_s: float | None = None
        self.killed_at_s: float | None = None
        self._clock = clock
        self._obeys_after_s = obeys_after_s
        self._obeyed = False
        self.channel = self
        self.heard: list[type] = []
        self.sending = False
        # What happens while the service tells the worker of something.
        self.meanwhile: dict[type, Callable[[], None]] = {}

    def use(self, view: object, frames: object) -> None:
        self.send(UseErased({}))

    def send(self, message: object) -> None:
        self.sending = True
        self.meanwhile.get(type(message), lambda: None)()
        self.sending = False
        self.heard.append(type(message))

    def send_if_possible(self, message: object) -> bool:
        assert isinstance(message, Cancel)
        assert self.cancelled_at_s is None, "one message is enough"
        if self.sending:
            return False
        self.heard.append(Cancel)
        self.cancelled_at_s = self._clock.now_s
        if self._obeys_after_s is not None:
            self._clock.call_after(self._obeys_after_s, self._obey)
        return True

    def _obey(self) -> None:
        self._obeyed = True

    def receive(self) -> tuple[Any, memoryview]:
        while self.killed_at_s is None:
            if self._obeyed:
                return Failed(kind="interrupted", message="interrupted"), memoryview(b"")
            self._clock.pass_to_the_next_call()
        raise ChannelClosed

    def kill(self) -> None:
        self.killed_at_s = self._clock.now_s


def query(worker: Worker, clock: Clock) -> tuple[RunningQuery, SimpleNamespace]:
    seen = SimpleNamespace(given_back=[], replaced=0)

    def replace() -> None:
        seen.replaced += 1

    running = RunningQuery(
        cast(WorkerProcess, worker),
        SqlLimits(timeout_s=LIMIT_S),
        give_back=seen.given_back.append,
        replace=replace,
        alarm=clock,
    )
    return running, seen


def begin(running: RunningQuery) -> None:
    running.begin(A_RUN, cast(Any, None), cast(Any, None))


def test_a_worker_that_obeys_is_told_at_the_limit_and_kept() -> None:
    clock = Clock()
    worker = Worker(clock, obeys_after_s=0.25)
    running, seen = query(worker, clock)
    with pytest.raises(SqlTimeout):
        begin(running)
    assert worker.cancelled_at_s == LIMIT_S
    assert clock.now_s == LIMIT_S + 0.25
    assert (worker.killed_at_s, seen.given_back, seen.replaced) == (None, [True], 0)
    clock.pass_to_the_next_call()
    assert worker.killed_at_s is None, "it may have another query by now"


def test_a_worker_that_does_not_obey_is_ended_within_a_second_of_the_limit() -> None:
    clock = Clock()
    worker = Worker(clock, obeys_after_s=None)
    running, seen = query(worker, clock)
    with pytest.raises(SqlTimeout):
        begin(running)
    assert worker.cancelled_at_s == LIMIT_S
    assert worker.killed_at_s == clock.now_s == LIMIT_S + KILL_AFTER_S
    assert clock.now_s < LIMIT_S + STOPPED_WITHIN_S
    assert (seen.given_back, seen.replaced) == ([False], 1)


@pytest.mark.parametrize("obeys_after_s", [0.0, None])
def test_a_query_that_is_cancelled_ends_within_a_second(obeys_after_s: float | None) -> None:
    clock = Clock()
    worker = Worker(clock, obeys_after_s=obeys_after_s)
    running, _ = query(worker, clock)
    clock.call_after(1.0, lambda: running.stop(StopReason.CANCELLED))
    with pytest.raises(SqlCancelled):
        begin(running)
    assert worker.cancelled_at_s == 1.0
    assert clock.now_s < 1.0 + STOPPED_WITHIN_S


def test_a_query_that_is_cancelled_before_its_worker_has_it_never_reaches_it() -> None:
    clock = Clock()
    worker = Worker(clock, obeys_after_s=None)
    running, seen = query(worker, clock)
    worker.meanwhile[UseErased] = lambda: running.stop(StopReason.CANCELLED)
    with pytest.raises(SqlCancelled):
        begin(running)
    assert worker.heard == [UseErased]
    clock.pass_to_the_next_call()
    assert (worker.killed_at_s, seen.given_back, seen.replaced) == (None, [True], 0)


def test_a_worker_hears_of_a_query_before_it_hears_that_it_is_cancelled() -> None:
    clock = Clock()
    worker = Worker(clock, obeys_after_s=0.0)
    running, seen = query(worker, clock)
    worker.meanwhile[Run] = lambda: running.stop(StopReason.CANCELLED)
    with pytest.raises(SqlCancelled):
        begin(running)
    assert worker.heard == [UseErased, Run, Cancel]
    assert (worker.killed_at_s, seen.given_back, seen.replaced) == (None, [True], 0)


def test_a_worker_that_is_asked_for_more_at_that_moment_is_told_after_it() -> None:
    clock = Clock()
    worker = Worker(clock, obeys_after_s=0.0)
    running, seen = query(worker, clock)
    worker.meanwhile[More] = lambda: running.stop(StopReason.CANCELLED)
    worker.meanwhile[Run] = lambda: clock.call_after(1.0, ask_for_more)

    def ask_for_more() -> None:
        for _ in range(BATCHES_AHEAD):
            running.ask_for_more()

    with pytest.raises(SqlCancelled):
        begin(running)
    assert worker.heard == [UseErased, Run, More, Cancel, More]
    assert worker.cancelled_at_s == 1.0
    assert (worker.killed_at_s, seen.given_back, seen.replaced) == (None, [True], 0)
