"""Making files and folders durable: fsync of a file is not enough, its name lives in the folder."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Final

# Folders that this process knows to be durable with their names, each with the number by which the file system knows
# it: one that was removed and made anew by another process has another.
_synced: Final[set[tuple[Path, int]]] = set()
# Folders as they were when this process synced them last: with their number, and when they were changed.
_unchanged: Final[dict[Path, tuple[int, int]]] = {}
_TICK_NS: Final = 1_000_000_000


def fsync_path(path: Path) -> None:
    """Fsync a file or a folder by its path.

    Raises:
        OSError: it does not exist or could not be synced.
    """
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def make_names_durable(folders: Iterable[Path]) -> None:
    """Fsync folders, so that what was removed from them is gone for good, whoever removed it and died before a sync.

    A folder that is not there any more is left out. One that this process has synced and that was not changed since
    costs a look at it.

    Raises:
        OSError: a folder could not be synced.
    """
    for folder in folders:
        try:
            status = folder.stat()
            known = status.st_ino, status.st_mtime_ns
            if _unchanged.get(folder) == known:
                continue
            fsync_path(folder)
        except FileNotFoundError:
            continue
        # The file system's clock ticks slowly: what was changed a moment ago may change again and look the same.
        if time.time_ns() - status.st_mtime_ns > _TICK_NS:
            _unchanged[folder] = known


def make_durable_folder(folder: Path) -> None:
    """Make *folder* and its missing parents, and fsync each folder that got a new entry.

    A folder that is there already may have been made by a process that died before its fsync, or whose fsync failed:
    it is synced as well, by each process when it meets it first. Each folder is synced before one is made in it, so
    that this can be the case only of the last of those that are there.

    Raises:
        OSError: a folder could not be made or synced.
    """
    missing: list[Path] = []
    there = folder
    while not there.exists():
        missing.append(there)
        there = there.parent
    _sync_what_is_there(there)
    for one in reversed(missing):
        if not one.exists():
            one.mkdir(exist_ok=True)
            fsync_path(one)
            fsync_path(one.parent)
            _synced.add((one, one.stat().st_ino))


def _sync_what_is_there(folder: Path) -> None:
    status = folder.stat()
    if (folder, status.st_ino) in _synced:
        return
    fsync_path(folder)
    # The name of what is mounted there is not ours; nor can it be where we may not even look.
    if folder.parent.stat().st_dev == status.st_dev and os.access(folder.parent, os.R_OK):
        fsync_path(folder.parent)
    _synced.add((folder, status.st_ino))
