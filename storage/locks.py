"""Advisory locks on files: who may write to a folder, and which worker flushes. The kernel frees them at any death."""

from __future__ import annotations

import fcntl
import os
import time
from pathlib import Path
from types import TracebackType

from storage.errors import StoreLocked

_POLL_S = 0.05


class FileLock:
    """An exclusive lock on a file, held until `release` or the end of the process.

    The file's text says who holds it. The file itself stays: removing it would let two processes lock two files of
    one name.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None

    @property
    def held(self) -> bool:
        """Whether this object holds the lock."""
        return self._descriptor is not None

    def try_acquire(self, holder: str) -> bool:
        """Take the lock if it is free, and write *holder* into the file for people to read.

        Raises:
            OSError: the file cannot be opened.
        """
        if self._descriptor is not None:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            return False
        self._descriptor = descriptor
        self.describe(holder)
        return True

    def share(self) -> None:
        """Hold the lock together with others who share it, waiting for one who has it alone.

        Raises:
            OSError: the file cannot be opened.
        """
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        fcntl.flock(self._descriptor, fcntl.LOCK_SH)

    def acquire_within(self, holder: str, *, timeout_s: float) -> None:
        """Take the lock, waiting for those who hold it to end.

        Raises:
            StoreLocked: it was not free in time.
        """
        deadline = time.monotonic() + timeout_s
        while not self.try_acquire(holder):
            if time.monotonic() > deadline:
                raise StoreLocked(f"worker processes of an earlier service still use {self.path.parent}")
            time.sleep(_POLL_S)

    def acquire(self, holder: str) -> None:
        """Take the lock.

        Raises:
            StoreLocked: somebody else holds it; the message says who.
        """
        if not self.try_acquire(holder):
            raise StoreLocked(f"{self.path.parent} is in use by {self.holder() or 'another process'}")

    def describe(self, holder: str) -> None:
        """Replace the file's text by *holder*; the lock must be held."""
        if self._descriptor is None:
            raise RuntimeError("only the holder of a lock describes itself")
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, holder.encode(), 0)

    def holder(self) -> str:
        """Return what the present or last holder wrote of itself."""
        try:
            return self.path.read_text(encoding="utf-8", errors="replace").strip()
        except FileNotFoundError:
            return ""

    def release(self) -> None:
        """Give the lock back; without effect if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def __enter__(self) -> FileLock:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.release()
