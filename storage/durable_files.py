"""Making files and folders durable: fsync of a file is not enough, its name lives in the folder."""

from __future__ import annotations

import os
from pathlib import Path


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

    Raises:
        OSError: a folder could not be made or synced.
    """
    missing = [folder]
    while not missing[-1].parent.exists():
        missing.append(missing[-1].parent)
    for one in reversed(missing):
        if not one.exists():
            one.mkdir(exist_ok=True)
            fsync_path(one)
            fsync_path(one.parent)
