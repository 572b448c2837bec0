"""Who is between writing a data file and naming it in a commit: a lock on the table's folder itself.

A data file is on disk before a commit names it. In between it looks like what a crash left, and only this lock tells
the two apart, however long the commit takes and whatever the clocks say. Everybody who writes data files holds it
together with the others; whoever removes files that no commit names holds it alone.

A second lock, on the folder of the table's log, is the door to the first: who comes to write goes through it, and who
wants to be alone keeps it shut. So writers that follow each other without a pause cannot keep a removal waiting. Nor
can one that takes long, as a compaction does, keep the others waiting with it: the door is open again for a moment each
half second.
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
# How long the door is shut at a time for those who are inside to leave, and then open for those who wait at it.
_SHUT_S_MAX: Final = 0.5
_OPEN_S: Final = 0.1
_DOOR: Final = "_delta_log"


@contextmanager
def writing_files(table_folder: Path) -> Iterator[None]:
    """Hold off the removal of files that no commit names, from the first file's creation to the commit.

    Waits for a removal that is under way, which takes milliseconds, and half a second at a time for one that waits for
    those who write already.

    Raises:
        OSError: the folder cannot be opened.
    """
    descriptor = _open(table_folder)
    try:
        door = _open(table_folder / _DOOR)
        try:
            fcntl.flock(door, fcntl.LOCK_SH)
            fcntl.flock(descriptor, fcntl.LOCK_SH)
        finally:
            os.close(door)
        yield
    finally:
        os.close(descriptor)


def _open(folder: Path) -> int:
    return os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


@contextmanager
def nobody_writes(table_folder: Path, *, timeout_s: float) -> Iterator[bool]:
    """Say whether nobody is between a data file and its commit; if so, nobody begins within the block.

    Those who write already are waited for until *timeout_s* is over; whoever comes meanwhile waits about half a second.

    Raises:
        OSError: the folder cannot be opened.
    """
    deadline_s = time.monotonic() + timeout_s
    door = _open(table_folder / _DOOR)
    try:
        descriptor = _open(table_folder)
        try:
            yield _alone_inside(door, descriptor, deadline_s)
        finally:
            os.close(descriptor)
    finally:
        os.close(door)


def _alone_inside(door: int, descriptor: int, deadline_s: float) -> bool:
    while _alone(door, deadline_s):
        if _alone(descriptor, min(deadline_s, time.monotonic() + _SHUT_S_MAX)):
            return True
        fcntl.flock(door, fcntl.LOCK_UN)
        if time.monotonic() > deadline_s:
            break
        time.sleep(_OPEN_S)
    return False


def _alone(descriptor: int, deadline_s: float) -> bool:
    """Lock it for this process alone, unless that takes too long."""
    while True:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline_s:
                return False
            time.sleep(_POLL_S)
        else:
            return True
