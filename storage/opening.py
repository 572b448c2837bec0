"""Opening a store: who takes the folder, who recovers it, and who joins or only reads.

open_store         one process alone: takes the folder, recovers it, and writes
lock_and_recover   a supervisor: takes the folder and recovers it, and has other processes write,
join_store         each of which joins
read_store         only reads, beside whoever holds the folder
"""

from __future__ import annotations

import time
from typing import Final

from storage.durable_files import make_durable_folder
from storage.errors import StoreLocked
from storage.latch import Latch
from storage.locks import FileLock
from storage.paths import StorePaths
from storage.recovery import RecoveryReport, recover
from storage.schema import ActionSchema
from storage.store import Store
from storage.store_options import StoreOptions
from storage.write_errors import lack_of_space_told

WORKERS_END_TIMEOUT_S: Final = 15.0
_LOCK_POLL_S: Final = 0.05
# How those describe themselves who hold the folder's lock for the length of a recovery only.
FOR_A_MOMENT: Final = ", for a moment"


def open_store(
    paths: StorePaths, schema: ActionSchema, options: StoreOptions, *, holder: str
) -> tuple[Store, RecoveryReport]:
    """Take the folder's lock, recover, and open the store; make it if there is none.

    Raises:
        StoreLocked: a service or an import holds the folder.
        CorruptData: what is there is damaged.
        DiskFull: there is no space for what a start writes; nothing is lost.
        StoreFailed: the disk does not take writes.
    """
    lock, report = lock_and_recover(paths, schema, holder=holder)
    try:
        store = Store(paths, schema, options, read_only=False)
    except BaseException:
        lock.release()
        raise
    store.own(lock)
    return store, report


def _acquire(lock: FileLock, holder: str) -> None:
    """Take the folder's lock; wait for a command that only recovers the folder, but not for one that stays."""
    deadline = time.monotonic() + WORKERS_END_TIMEOUT_S
    while not lock.try_acquire(holder):
        other = lock.holder()
        # A file that is just being written says nothing for a moment.
        if (other and not other.endswith(FOR_A_MOMENT)) or time.monotonic() > deadline:
            raise StoreLocked(f"{lock.path.parent} is in use by {other or 'another process'}")
        time.sleep(_LOCK_POLL_S)


def lock_and_recover(paths: StorePaths, schema: ActionSchema, *, holder: str) -> tuple[FileLock, RecoveryReport]:
    """Take the folder's lock and recover, for a supervisor whose workers `join_store`.

    Raises:
        StoreLocked, CorruptData, DiskFull, StoreFailed: as `open_store`.
    """
    with lack_of_space_told("the store to start"):
        return _lock_and_recover(paths, schema, holder=holder)


def _lock_and_recover(paths: StorePaths, schema: ActionSchema, *, holder: str) -> tuple[FileLock, RecoveryReport]:
    make_durable_folder(paths.state)
    lock = FileLock(paths.service_lock)
    _acquire(lock, holder)
    workers = FileLock(paths.workers_lock)
    try:
        workers.acquire_within(holder, timeout_s=WORKERS_END_TIMEOUT_S)
        latch = Latch(paths.latch)
        try:
            return lock, recover(paths, schema, latch)
        finally:
            latch.close()
            workers.release()
    except BaseException:
        workers.release()
        lock.release()
        raise


def join_store(paths: StorePaths, schema: ActionSchema, options: StoreOptions) -> Store:
    """Open a store whose folder a supervisor holds and has recovered."""
    workers = FileLock(paths.workers_lock)
    workers.share()
    try:
        store = Store(paths, schema, options, read_only=False)
    except BaseException:
        workers.release()
        raise
    store.own(workers)
    return store


def read_store(paths: StorePaths, schema: ActionSchema) -> Store:
    """Open a store for reading only, whether or not a service holds it.

    Raises:
        FileNotFoundError: there is no store.
        CorruptData: what is there is damaged.
    """
    if not paths.journal.exists():
        raise FileNotFoundError(f"there is no store in {paths.data}: {paths.journal} does not exist")
    return Store(paths, schema, StoreOptions(), read_only=True)
