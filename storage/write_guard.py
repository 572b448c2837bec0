"""Who is between writing a data file and naming it in a commit: a lock on the table's folder itself.

A data file is on disk before a commit names it. In between it looks like what a crash left, and only this lock tells
the two apart, however long the commit takes and whatever the clocks say. Everybody who writes data files holds it
together with the others; whoever removes files that no commit names holds it alone.
"""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

_POLL_S: Final = 0.01


@contextmanager
def writing_files(table_folder: Path) -> Iterator[None]:
    """Hold off the removal of files that no commit names, from the first file's creation to the commit.

    Waits for a removal that is under way, which takes milliseconds.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(table_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH)
        yield
    finally:
        os.close(descriptor)


@contextmanager
def nobody_writes(table_folder: Path, *, timeout_s: float) -> Iterator[bool]:
    """Say whether nobody is between a data file and its commit; if so, nobody begins within the block.

    Writers are not made to wait for each other: the lock is tried again and again until *timeout_s* is over.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = os.open(table_folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    deadline = time.monotonic() + timeout_s
    try:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    yield False
                    return
                time.sleep(_POLL_S)
            else:
                yield True
                return
    finally:
        os.close(descriptor)
