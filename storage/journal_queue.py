"""The queue of those who want to write to a journal, over all processes: a lock that the kernel hands over.

Whoever waits for the lock is woken at once when it is free, and the kernel takes it back from a process that dies. From
one that is stopped, or waits for a disk that hangs, it does not: so that most wait for a time only. The kernel has no
such wait, and looking again and again would cost the lock's free time; a thread that waits in their place is left
behind when the time is over. Whoever has something better to do about a long wait waits as long as it takes, which
costs no other thread.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import threading
import weakref
from collections.abc import Iterator
from pathlib import Path

from storage.errors import Overloaded


class JournalQueue:
    """The queue as one process sees it. One thread of a process at a time may be in it."""

    def __init__(self, path: Path) -> None:
        """Open the file that is locked, which must exist.

        Raises:
            OSError: it cannot be opened.
        """
        # Locks are of open files, so that the thread that was left behind and the next one do not share one.
        self._file, self._stand_in_file = (os.open(path, os.O_RDONLY | os.O_CLOEXEC) for _ in range(2))
        self._close_files = weakref.finalize(self, _close, self._file, self._stand_in_file)
        self._changed = threading.Condition()
        self._standing_in = False
        self._wanted = False
        self._error: OSError | None = None
        self._inside = False

    @contextlib.contextmanager
    def entered(self, *, timeout_s: float | None) -> Iterator[None]:
        """Hold the lock.

        Args:
            timeout_s: how long to wait for it; None for as long as it takes.

        Raises:
            Overloaded: it was not free in time.
        """
        self._inside = True
        try:
            held = self._wait() if timeout_s is None else self._wait_for(timeout_s)
            try:
                yield
            finally:
                fcntl.flock(held, fcntl.LOCK_UN)
        finally:
            self._inside = False

    def _wait(self) -> int:
        fcntl.flock(self._file, fcntl.LOCK_EX)
        return self._file

    def _wait_for(self, timeout_s: float) -> int:
        """Return the file whose lock is held now."""
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            pass
        else:
            return self._file
        with self._changed:
            if not self._standing_in:
                threading.Thread(target=self._stand_in, name="journal-queue", daemon=True).start()
                self._standing_in = True
            self._wanted = True
            try:
                handed_over = self._changed.wait_for(lambda: not self._wanted, timeout_s)
            finally:
                self._wanted = False
            error, self._error = self._error, None
        if error is not None:
            raise error
        if not handed_over:
            raise Overloaded("the journal was busy for too long")
        return self._stand_in_file

    def _stand_in(self) -> None:
        """Take the lock, for whoever wants it by then."""
        error: OSError | None = None
        try:
            fcntl.flock(self._stand_in_file, fcntl.LOCK_EX)
        except OSError as failed:
            error = failed
        with self._changed:
            self._standing_in = False
            if self._wanted:
                self._wanted, self._error = False, error
                self._changed.notify_all()
            elif error is None:
                fcntl.flock(self._stand_in_file, fcntl.LOCK_UN)

    def close(self) -> None:
        """Close the files, unless a thread still waits: they are closed with the process then."""
        with self._changed:
            if not self._inside and not self._standing_in:
                self._close_files()
            else:
                self._close_files.detach()


def _close(*files: int) -> None:
    for file in files:
        os.close(file)
