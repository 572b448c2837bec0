"""Keeping the shortcuts: making what is missing, and forgetting what must not stay.

Nothing here is needed for an answer (see `storage.shortcuts`). Whoever changes the caches holds their lock, so that
the leader's chores, and an erasure in another process, do not undo each other's work.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.data_files import DataFile
from storage.erased_rows import ErasedRows
from storage.errors import StoreLocked
from storage.history.chore import forget_sources, remove_run
from storage.history.coverage import RunUse, base_name
from storage.history.manifest import Run, read_manifest, run_folders
from storage.history.packed import CopyDamaged
from storage.history.reading import FooterCache, Wanted, read_user
from storage.lake import Snapshot
from storage.locks import FileLock
from storage.paths import StorePaths
from storage.shortcuts import ShortcutLimits
from storage.user_filters import UserFilter, UserFilters, append_filters, build_filter, keep_filters
from storage.user_hash import user_hash

# One step of the chore: about a second of work.
_FILES_A_STEP: Final = 256
_ROWS_A_STEP: Final = 2_000_000
# A log that is for the greater part about files that are gone is written anew.
_DEAD_FILES_MIN: Final = 256
_LOCK_TIMEOUT_S: Final = 30.0
_FOOTERS_BYTES_MAX: Final = 16 << 20


class UserFilterChore:
    """Makes the filters of files that have none, from their column `user_id`, newest files first."""

    def __init__(self, paths: StorePaths, limits: ShortcutLimits, snapshot: Callable[[], Snapshot]) -> None:
        self._paths = paths
        self._limits = limits
        self._snapshot = snapshot
        self._filters = UserFilters(paths.user_filters, bytes_max=limits.user_filters_bytes_max)
        self._done: tuple[int, int] | None = None

    def run(self) -> bool:
        """Make some of the filters that are missing; return whether there are more.

        Raises:
            OSError: the cache cannot be written.
        """
        lock = FileLock(self._paths.cache_lock)
        # Busy: an erasure, or a copy that is under way. Whoever holds it is done at the next look.
        if not lock.try_acquire(f"pid {os.getpid()}, user filters"):
            return False
        with lock:
            return self._step()

    def _step(self) -> bool:
        snapshot = self._snapshot()
        self._filters.refresh()
        if self._done == (snapshot.version, self._filters.read_through):
            return False
        names = self._filters.names
        live = {one.path.rsplit("/", 1)[1]: one for one in snapshot.files}
        dead = [name for name in names if name.rsplit("/", 1)[1] not in live]
        if len(dead) > max(_DEAD_FILES_MIN, len(names) // 2):
            keep_filters(self._paths.user_filters, names - frozenset(dead))
            self._filters.refresh()
            names = self._filters.names
        if self._filters.loaded_bytes >= self._limits.user_filters_bytes_max:
            return False
        known = {name.rsplit("/", 1)[1] for name in names}
        missing = [one for name, one in live.items() if name not in known]
        missing.sort(key=lambda one: one.time_max_us, reverse=True)
        made = list(_build_some(missing))
        if made:
            append_filters(self._paths.user_filters, made, checked_bytes=self._filters.read_through)
            return True
        self._done = (snapshot.version, self._filters.read_through)
        return False


def _build_some(missing: Iterable[DataFile]) -> Iterable[UserFilter]:
    rows = files = 0
    for one in missing:
        if files >= _FILES_A_STEP or rows >= _ROWS_A_STEP:
            return
        try:
            users = distinct_users(one)
        except FileNotFoundError:
            # Compacted and vacuumed since the snapshot.
            continue
        rows += one.rows
        files += 1
        yield build_filter(one, users)


def distinct_users(one: DataFile) -> list[str]:
    """Read which users a data file holds.

    Raises:
        FileNotFoundError: it was removed.
        OSError: it cannot be read.
    """
    with pq.ParquetFile(one.path) as file:
        column = file.read(columns=["user_id"], use_threads=False)["user_id"]
    distinct: pa.Array = pc.unique(column)
    return [str(user) for user in distinct.to_pylist()]


def forget_files(paths: StorePaths, files: Iterable[DataFile]) -> None:
    """Remove everything that was derived from these data files from the caches, at once.

    For an erasure, after the commit that removed the files: what was copied of the erased user must not stay.

    Raises:
        StoreLocked: somebody else changes the caches, and does not come to an end.
        OSError: the caches could not be written.
    """
    forgotten = {base_name(one) for one in files}
    with _changing_caches(paths):
        _keep_filters_of(paths, lambda name: name not in forgotten)
        forget_sources(paths.history, forgotten)


def forget_rows(paths: StorePaths, erased: ErasedRows, live: Iterable[DataFile]) -> None:
    """Remove every run that holds erased rows, and the filters of all files that are not *live*.

    A run keeps what it has of files that a compaction has replaced since, and that may be gone from the disk: no name
    of a file leads to it any more, so that the runs themselves are looked at. What cannot be read of one goes as well.

    Raises:
        StoreLocked, OSError: as `forget_files`.
    """
    names = {base_name(one) for one in live}
    with _changing_caches(paths):
        _keep_filters_of(paths, lambda name: name in names)
        for folder in run_folders(paths.history):
            run = read_manifest(folder)
            if run is None or _holds(paths.history, run, erased):
                remove_run(paths.history, folder.name)


def _holds(history: Path, run: Run, erased: ErasedRows) -> bool:
    """Whether a run holds erased rows, also among those that do not count any more; True where nobody can tell."""
    everything = RunUse(run, run.sources, frozenset(), (0, 0))
    footers = FooterCache(_FOOTERS_BYTES_MAX)
    for user in erased.kept_after:
        wanted = Wanted(user, user_hash(user), None, None, None, ("user_id", "journal", "position"))
        try:
            rows = read_user(history, everything, wanted, footers).rows
        except (CopyDamaged, OSError, pa.ArrowException):
            return True
        if rows.num_rows and pc.any(erased.mask(rows)).as_py():
            return True
    return False


@contextmanager
def _changing_caches(paths: StorePaths) -> Iterator[None]:
    with FileLock(paths.cache_lock) as lock:
        try:
            lock.acquire_within(f"pid {os.getpid()}, forgetting files", timeout_s=_LOCK_TIMEOUT_S)
        except StoreLocked as error:
            raise StoreLocked(f"the caches in {paths.state} are being changed by {lock.holder()}") from error
        yield


def _keep_filters_of(paths: StorePaths, stays: Callable[[str], bool]) -> None:
    """Rewrite the filters with those only whose data file, named without its folder, *stays*."""
    filters = UserFilters(paths.user_filters, bytes_max=1 << 62)
    filters.refresh()
    kept = [name for name in filters.names if stays(name.rsplit("/", 1)[1])]
    if len(kept) < len(filters.names):
        keep_filters(paths.user_filters, kept)
