"""Other limits and ages take effect in a store that leads: soon, and not when its upkeep is next due by itself."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from storage.caretaker import Caretaker, Chore
from storage.flush import FlushLimits
from storage.maintenance.options import MaintenanceOptions
from storage.maintenance.retention import RetentionRules
from storage.rejects_flush import RejectsLimits
from storage.store import Store
from tests.storage.building import eventually, put, store_in
from tests.storage.rejecting import reject


@pytest.fixture
def leading(folder: Path) -> Iterator[Store]:
    """A store that does nothing by itself for a day."""
    limits = FlushLimits(interval_ms_max=86_400_000)
    with store_in(folder, flush=limits, rejects=RejectsLimits(interval_ms_max=86_400_000)) as store:
        store.start_leading()
        eventually(lambda: store.leads)
        yield store


def use(store: Store, **options: Any) -> None:
    assert store.use(store.schema, replace(store.options, **options))


def test_a_flush_by_fewer_rows(leading: Store) -> None:
    put(leading, 5)
    use(leading, flush=FlushLimits(interval_ms_max=86_400_000, rows_max=3))
    eventually(lambda: leading.journal.state().depth == 0)


def test_rejects_move_by_fewer_letters(leading: Store) -> None:
    reject(leading, "a", "b")
    use(leading, rejects=RejectsLimits(interval_ms_max=86_400_000, letters_max=2))
    eventually(lambda: leading.status().rejects == 2)


def test_rejects_move_by_a_journal_that_may_hold_less(leading: Store) -> None:
    reject(leading, "a", "b")
    use(leading, journal_bytes_max=40)
    eventually(lambda: leading.status().rejects == 2)


def test_days_expire_by_another_age(leading: Store) -> None:
    put(leading, 5)
    leading.flush(timeout_s=120)
    assert leading.status().rows == 5
    use(leading, maintenance=MaintenanceOptions(retention=RetentionRules(days_default=10)))
    eventually(lambda: leading.status().rows == 0)


def test_what_is_made_due_while_it_is_being_done_is_done_again() -> None:
    begun, go_on = threading.Semaphore(0), threading.Semaphore(0)

    def run() -> bool:
        begun.release()
        go_on.acquire()
        return False

    caretaker = Caretaker([Chore("a", 86_400.0, run)], leads=lambda: True)
    try:
        assert begun.acquire(timeout=180)
        caretaker.wake()
        go_on.release()
        assert begun.acquire(timeout=180)
    finally:
        go_on.release(10)
        caretaker.stop()
