"""Whether there is room for submissions: in the journal, its write-ahead log included, and on the disk.

The disk is asked a few times a second at the most, and so is the size of the log: a request costs a comparison. Space
is kept for what must still go on when it is short: the flush that makes room in the journal, and SQLite's own log.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final

from storage.errors import DiskFull, Overloaded, StoreFailed
from storage.journal import Journal
from storage.leader_page import LeaderPage

_LOOK_S: Final = 0.25
_RETRY_S_MIN: Final = 1
_RETRY_S_MAX: Final = 60
# Before the first flush nobody knows how fast it is; a slow disk does as much.
_DRAIN_BYTES_PER_S_GUESSED: Final = 8 * 1024 * 1024
# A full journal takes submissions again when a tenth of it is free: that is how long a client is asked to wait.
_ROOM_WORTH_WAITING_FOR: Final = 0.1
# Up to this part of the journal commits go as fast as they can, and at twice that half as fast as flushes.
_UNPACED: Final = 0.25
_PAUSE_S_MAX: Final = 0.25


class Headroom:
    """Judges for one process. Methods may be called from any thread.

    Args:
        journal: the journal.
        page: on which the leader tells how fast it flushes.
        folders: whose disks must have space: of the table and of the journal.
        journal_bytes_max: the most that the journal may hold: rows, dead letters and log.
        disk_free_bytes_min: submissions are refused while a disk has less.
        now_s: the clock.
    """

    def __init__(
        self,
        journal: Journal,
        page: LeaderPage,
        *,
        folders: Sequence[Path],
        journal_bytes_max: Callable[[], int],
        disk_free_bytes_min: Callable[[], int],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._journal = journal
        self._page = page
        self._folders = tuple(folders)
        self._journal_bytes_max = journal_bytes_max
        self._disk_free_bytes_min = disk_free_bytes_min
        self._now_s = now_s
        self._next_look_s = float("-inf")
        self._log_bytes = 0
        self._disk_free_bytes = 0
        self._disk_is_short = False

    @property
    def held_bytes(self) -> int:
        """What the journal holds, as far as this process knows: rows, dead letters and the log."""
        return self._journal.bytes_held_known + self._log_bytes

    def check(self, part: float = 1.0) -> None:
        """Do nothing while there is room in this *part* of the journal, and on the disk.

        Raises:
            StoreFailed: a folder of the store, or the journal, is not where it was.
            DiskFull: a disk has too little space left for what must go on.
            Overloaded: the journal holds as much as it may.
        """
        now = self._now_s()
        if now >= self._next_look_s:
            self._look(now)
        if self._disk_is_short:
            raise DiskFull(
                f"the disk has {self._disk_free_bytes} bytes left, which are kept for flushing what is acknowledged",
                retry_after_s=5,
            )
        limit = int(self._journal_bytes_max() * part)
        if self.held_bytes >= limit:
            # Another process may have flushed since this one last looked.
            self._journal.look_at_bytes()
            self._look(now)
            if self.held_bytes >= limit:
                excess = self.held_bytes - int(limit * (1 - _ROOM_WORTH_WAITING_FOR))
                raise Overloaded(
                    "the journal is full until the next flush", retry_after_s=self.seconds_to_drain(excess)
                )

    def pause_s(self, committed_bytes: int) -> float:
        """How long the process that has just committed so much should leave the disk and the processors to the flush.

        Nothing while the journal holds less than a quarter of what it may. From there on the pause grows with what it
        holds, so that submissions settle at the rate of flushes before anything has to be refused: clients that wait
        for their answers are slowed down, and the flush gets the processor that they leave. At most a quarter of a
        second, since flushes may be failing.
        """
        unpaced = self._journal_bytes_max() * _UNPACED
        excess = self.held_bytes / unpaced - 1
        if excess <= 0:
            return 0.0
        rate = self._page.drained_bytes_per_s or _DRAIN_BYTES_PER_S_GUESSED
        return min(_PAUSE_S_MAX, 2 * min(1.0, excess) * committed_bytes / rate)

    def seconds_to_drain(self, excess_bytes: int) -> int:
        """How long it takes to flush so much, by what the last flushes have shown; for `Retry-After`.

        Up to a quarter more, at random, so that those who are told so do not all come back at once.
        """
        rate = self._page.drained_bytes_per_s or _DRAIN_BYTES_PER_S_GUESSED
        seconds = max(0, excess_bytes) / rate * random.uniform(1.0, 1.25)  # noqa: S311 - nothing is to be guessed
        return max(_RETRY_S_MIN, min(_RETRY_S_MAX, math.ceil(seconds)))

    def _look(self, now: float) -> None:
        self._journal.check_in_place()
        self._log_bytes = self._journal.wal_bytes()
        free: list[int] = []
        for folder in self._folders:
            try:
                space = os.statvfs(folder)
            except OSError as error:
                raise StoreFailed(f"the folder {folder} cannot be found: {error.strerror}") from error
            free.append(space.f_bavail * space.f_frsize)
        self._disk_free_bytes = min(free)
        self._disk_is_short = self._disk_free_bytes < self._disk_free_bytes_min()
        self._next_look_s = now + _LOOK_S
