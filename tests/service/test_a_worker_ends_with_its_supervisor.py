"""A worker whose supervisor was killed ends in time for the next service, whatever its clients are about."""

from __future__ import annotations

import asyncio
import os
import signal
import threading

import pytest

import service.app
import storage.opening
from service.sources import SUPERVISED_VARIABLE

SUPERVISOR, INIT = 4711, 1


def test_it_does_not_wait_for_its_clients_for_longer_than_the_next_service_waits(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parents = iter([SUPERVISOR, SUPERVISOR, INIT])
    signals: list[tuple[int, int]] = []
    statuses: list[int] = []
    ended = threading.Event()

    def end(status: int) -> None:
        statuses.append(status)
        ended.set()

    monkeypatch.setenv(SUPERVISED_VARIABLE, str(SUPERVISOR))
    monkeypatch.setattr(os, "getppid", lambda: next(parents))
    # Nobody heeds the signal, as while a client takes its time with an answer.
    monkeypatch.setattr(os, "kill", lambda *sent: signals.append(sent))
    monkeypatch.setattr(os, "_exit", end)
    monkeypatch.setattr(service.app, "ORPHAN_END_S_MAX", 0.01)
    asyncio.run(service.app._stop_with_parent())
    assert signals == [(os.getpid(), signal.SIGTERM)]
    assert ended.wait(120)
    assert statuses == [1]


def test_the_next_service_waits_for_longer() -> None:
    assert service.app.ORPHAN_END_S_MAX < storage.opening.WORKERS_END_TIMEOUT_S / 2
