"""Access to a store for upkeep beside whoever serves it, or while nobody does."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from storage.errors import StoreLocked
from storage.journal import Journal
from storage.lake import Lake
from storage.latch import Latch
from storage.locks import FileLock
from storage.opening import FOR_A_MOMENT, lock_and_recover
from storage.paths import StorePaths
from storage.schema import ActionSchema


@dataclass(frozen=True, slots=True)
class Upkeep:
    """What upkeep works with: handles of its own."""

    paths: StorePaths
    lake: Lake
    journal: Journal
    latch: Latch


@contextmanager
def upkeep_of(paths: StorePaths, schema: ActionSchema, *, holder: str) -> Iterator[Upkeep]:
    """Open a store for upkeep, recovered: by the service that holds it, or here if none does.

    A service may start meanwhile: what this process commits is whole, so that recovery has nothing to take back.

    Raises:
        FileNotFoundError: there is no store.
        CorruptData, StoreFailed: as `lock_and_recover`.
    """
    if not paths.journal.exists():
        raise FileNotFoundError(f"there is no store in {paths.data}: {paths.journal} does not exist")
    try:
        lock, _ = lock_and_recover(paths, schema, holder=holder + FOR_A_MOMENT)
    except StoreLocked:
        _wait_for_recovery(paths)
    else:
        lock.release()
    with opened_upkeep(paths, schema) as upkeep:
        yield upkeep


@contextmanager
def opened_upkeep(paths: StorePaths, schema: ActionSchema) -> Iterator[Upkeep]:
    """Open a store that is recovered for upkeep.

    Raises:
        FileNotFoundError, CorruptData: as `Lake` and `Journal`.
    """
    latch = Latch(paths.latch)
    try:
        lake = Lake(paths.table, schema)
        journal = Journal(paths.journal, latch)
        try:
            yield Upkeep(paths, lake, journal, latch)
        finally:
            journal.close()
    finally:
        latch.close()


def _wait_for_recovery(paths: StorePaths) -> None:
    """Wait until the one who holds the folder has recovered it, which it does with the workers' lock for itself."""
    probe = FileLock(paths.workers_lock)
    probe.share()
    probe.release()
