"""Which of the processes that share a state folder are alive: each holds a lock on a file of its own.

The operating system releases the lock when the process ends, in whatever way, so there is no clock in this and no
number of a process that might have been given to another one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import uuid
from pathlib import Path


class WorkerLock:
    """This process's own lock, held until `release` or the end of the process.

    Attributes:
        worker_id: what other processes know this one by.

    Raises:
        OSError: the lock file cannot be made.
    """

    def __init__(self, folder: Path) -> None:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder = folder
        self.worker_id = uuid.uuid4().hex
        # Locked before it has its final name, so that nobody finds it unlocked.
        temporary = folder / f"{self.worker_id}.new"
        self._descriptor = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._descriptor, fcntl.LOCK_EX)
        temporary.rename(self._path(self.worker_id))

    def _path(self, worker_id: str) -> Path:
        return self._folder / f"{worker_id}.lock"

    def is_alive(self, worker_id: str) -> bool:
        """Whether the process with this id still holds its lock."""
        if worker_id == self.worker_id:
            return True
        try:
            descriptor = os.open(self._path(worker_id), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        finally:
            os.close(descriptor)
        return False

    def remove_dead(self) -> None:
        """Remove the lock files of processes that have ended."""
        for path in self._folder.glob("*.lock"):
            if not self.is_alive(path.stem):
                with contextlib.suppress(FileNotFoundError):
                    path.unlink()

    def release(self) -> None:
        """Let the other processes know that this one has ended."""
        self._path(self.worker_id).unlink(missing_ok=True)
        os.close(self._descriptor)
