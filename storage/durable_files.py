"""Making files and folders durable: fsync of a file is not enough, its name lives in the folder."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Final

# Folders that this process knows to be durable with their names, each with the number by which the file system knows
# it: one that was removed and made anew by another process has another.
_synced: Final[set[tuple[Path, int]]] = set()


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
