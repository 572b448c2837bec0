"""Compaction of a store of a test, by handles of its own, as another process would have."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from storage.clock import system_now_us
from storage.journal import Journal
from storage.lake import Lake
from storage.maintenance.compaction import CompactionResult, CompactionRun, compact
from storage.maintenance.planning import CompactionLimits
from storage.store import Store
from tests.storage.building import put

MEMORY_BYTES = 256 * 1024 * 1024


@contextmanager
def compaction_run(store: Store, **options: Any) -> Iterator[CompactionRun]:
    """A run with handles of its own; *options* as `CompactionRun` has them."""
    given: dict[str, Any] = {
        "limits": CompactionLimits(),
        "memory_bytes_max": MEMORY_BYTES,
        "now_ms": lambda: system_now_us() // 1000,
        "lake": Lake(store.paths.table, store.schema),
        **options,
    }
    journal = Journal(store.paths.journal, store.latch)
    try:
        yield CompactionRun(paths=store.paths, journal=journal, latch=store.latch, **given)
    finally:
        journal.close()


def compact_all(store: Store, **options: Any) -> CompactionResult:
    """Compact everything that can be."""
    with compaction_run(store, **options) as run:
        return compact(run, thorough=True)


def put_files(store: Store, count: int, *, rows: int = 6, days: int = 1, user: Callable[[int], str] = str) -> None:
    """Flush *count* times, each time *rows* rows of one user over *days* days."""
    for number in range(count):
        put(store, rows, user=user(number), days=days)
        store.flush_here()
