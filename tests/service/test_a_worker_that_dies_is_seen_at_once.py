"""A worker that dies while its supervisor waits for an answer is replaced then, not when the answer is overdue."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import uvicorn

from service.workers import Workers, listening

# Longer than a test may take.
OVERDUE_S = 3_600


@pytest.fixture
def workers() -> Iterator[Workers]:
    """A supervisor with one worker, which does not answer, as if it still started."""
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTIN, signal.SIGTTOU)
    before = {
        number: signal.getsignal(number) for number in (*numbers, signal.SIGUSR1, signal.SIGUSR2, signal.SIGWINCH)
    }
    with listening("127.0.0.1", 0, listeners=1) as listeners:
        # Its start never ends by itself.
        config = uvicorn.Config(
            "signal:pause", factory=True, workers=1, log_config=None, timeout_worker_healthcheck=OVERDUE_S
        )
        supervisor = Workers(config, listeners)
        supervisor.init_processes()
        os.kill(_pid(supervisor), signal.SIGSTOP)
        try:
            yield supervisor
        finally:
            for one in supervisor.processes:
                one.kill()
                one.join()
            for number, handler in before.items():
                signal.signal(number, handler)


def _pid(supervisor: Workers) -> int:
    pid = supervisor.processes[0].pid
    assert pid is not None
    return pid


def test_it_is_replaced(workers: Workers) -> None:
    victim = _pid(workers)
    # The question has been asked by then, or it is asked of one that is dead: both must end.
    killing = threading.Timer(0.2, os.kill, [victim, signal.SIGKILL])
    killing.start()
    workers.keep_subprocess_alive()
    killing.join()
    assert _pid(workers) != victim


def test_so_is_the_next(workers: Workers) -> None:
    for _ in range(2):
        victim = _pid(workers)
        os.kill(victim, signal.SIGKILL)
        workers.keep_subprocess_alive()
        assert _pid(workers) != victim
        os.kill(_pid(workers), signal.SIGSTOP)
