"""What an error of a write to a table means for the store: full, passing, or the end of writing until a restart."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from storage.errors import CommitRefused, DiskFull, StoreFailed
from storage.latch import Latch

_DISK_FULL_BYTES: Final = 1024 * 1024
_FULL: Final = (errno.ENOSPC, errno.EDQUOT)
# Errors of this process at this moment, which say nothing about the disk.
_PASSING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


@contextmanager
def lack_of_space_told(what: str) -> Iterator[None]:
    """Turn the operating system's errors of a full disk into the store's; others stay what they are.

    Raises:
        DiskFull: no space for *what*; nothing is lost.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull(f"no space left for {what}", retry_after_s=5) from error
        raise


@contextmanager
def write_errors_told(folder: Path, latch: Latch) -> Iterator[None]:
    """Turn the operating system's errors of writing to the table in *folder* into the store's.

    Raises:
        DiskFull: no space; nothing is lost.
        CommitRefused: this process lacks something for the moment; nothing is lost.
        StoreFailed: a write or fsync failed; the latch is set.
    """
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise DiskFull("no space left for the table", retry_after_s=5) from error
        if error.errno in _PASSING:
            raise CommitRefused(f"the table in {folder} could not be written: {error}") from error
        reason = f"the table in {folder} could not be written: {error}"
        latch.set(reason)
        raise StoreFailed(reason) from error


def refusal(folder: Path, what: str) -> DiskFull | CommitRefused:
    """The error for a refused commit: the library does not tell a full disk from other reasons, so look at the disk."""
    space = os.statvfs(folder)
    if space.f_bavail * space.f_frsize < _DISK_FULL_BYTES:
        return DiskFull("no space left for the table's log", retry_after_s=5)
    return CommitRefused(f"the table in {folder} {what}")
