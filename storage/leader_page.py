"""What the leader and the other processes of a store tell each other without a lock: a page of shared memory.

The leader says on it that it wants its turn to write, when it last looked, and what went wrong; the others read that
for nothing. Nothing here is needed after a crash: the page is advice and news, never state. Its file is also what
those who want to write queue for.
"""

from __future__ import annotations

import time
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.errors import DiskFull
from storage.journal_queue import JournalQueue
from storage.shared_page import map_page

# Places of the page's 64-bit numbers.
_WANTED_UNTIL_NS: Final = 0
_LOOKED_AT_US: Final = 1
_ERRORS: Final = 2
_ERROR_IS_DISK_FULL: Final = 3
_MESSAGE_BYTES: Final = 4
_DRAINED_BYTES_PER_S: Final = 5
_FLUSHES_BEGUN: Final = 6
_FLUSHING: Final = 7
_MESSAGE_BEGINS: Final = 64
_MESSAGE_BYTES_MAX: Final = 1024

# An append waits this long at the most for a leader that wants to write.
_TURN_S: Final = 0.02
_YIELD_S: Final = 0.0005


@dataclass(frozen=True, slots=True)
class LeaderError:
    """The leader's last failed attempt: the how many-th it is, whether the disk was full, and what it said."""

    number: int
    disk_full: bool
    message: str


class LeaderPage:
    """The page as one process maps it. Any thread may use it."""

    def __init__(self, path: Path) -> None:
        """Map the page; make it if there is none.

        Raises:
            OSError: the file cannot be made.
        """
        self._page = map_page(path)
        self._queue = JournalQueue(path)
        self._numbers = memoryview(self._page)[:_MESSAGE_BEGINS].cast("Q")

    # Turns

    def want_turn(self) -> None:
        """Ask the appends of all processes to make way, for a moment; say `end_turn` when the queue is passed."""
        self._numbers[_WANTED_UNTIL_NS] = time.monotonic_ns() + int(_TURN_S * 1_000_000_000)

    def end_turn(self) -> None:
        """Let appends go on at once."""
        self._numbers[_WANTED_UNTIL_NS] = 0

    def give_way(self) -> None:
        """Wait while the leader wants its turn, before an append begins.

        A lock goes to whoever is awake, and a process that appends without pause often is before one that waited. A
        request that a dead leader left expires.
        """
        wanted_until = self._numbers[_WANTED_UNTIL_NS]
        while wanted_until and time.monotonic_ns() < wanted_until:
            time.sleep(_YIELD_S)
            wanted_until = self._numbers[_WANTED_UNTIL_NS]

    def queued(self, *, timeout_s: float | None) -> AbstractContextManager[None]:
        """Hold the lock that every write of any process to the journal waits for; the kernel wakes the next at once.

        SQLite's own write lock has no queue: who waits for it looks again once a millisecond, while it is free. For one
        thread of a process at a time; see `JournalQueue.entered`.
        """
        return self._queue.entered(timeout_s=timeout_s)

    # News

    def note_look(self, now_us: int) -> None:
        """Say that the leader has looked at the journal."""
        self._numbers[_LOOKED_AT_US] = now_us

    @property
    def looked_at_us(self) -> int | None:
        """When a leader last looked, or None if none ever has."""
        return self._numbers[_LOOKED_AT_US] or None

    def note_error(self, error: BaseException) -> None:
        """Tell of a failed attempt. Only for the leader."""
        text = str(error).encode("utf-8", "replace")[:_MESSAGE_BYTES_MAX]
        self._page[_MESSAGE_BEGINS : _MESSAGE_BEGINS + len(text)] = text
        self._numbers[_MESSAGE_BYTES] = len(text)
        self._numbers[_ERROR_IS_DISK_FULL] = isinstance(error, DiskFull)
        # Last, since whoever sees the new number reads the rest.
        self._numbers[_ERRORS] += 1

    def last_error(self) -> LeaderError:
        """The last failed attempt; number 0 if there was none."""
        text = self._page[_MESSAGE_BEGINS : _MESSAGE_BEGINS + self._numbers[_MESSAGE_BYTES]]
        return LeaderError(
            self._numbers[_ERRORS], bool(self._numbers[_ERROR_IS_DISK_FULL]), text.decode("utf-8", "replace")
        )

    # Draining

    def note_flush_begins(self) -> None:
        """Say that the journal is being flushed. Only for the leader; one that failed goes on with the next."""
        if not self._numbers[_FLUSHING]:
            self._numbers[_FLUSHES_BEGUN] += 1
            self._numbers[_FLUSHING] = 1

    def note_flush_ended(self, *, drained_bytes: int, seconds: float) -> None:
        """Say that the flush has moved so many bytes of the journal, and how long that took. Only for the leader."""
        self._numbers[_FLUSHING] = 0
        if drained_bytes and seconds > 0:
            before = self._numbers[_DRAINED_BYTES_PER_S]
            measured = int(drained_bytes / seconds)
            self._numbers[_DRAINED_BYTES_PER_S] = (before + measured) // 2 if before else measured

    @property
    def flushes_begun(self) -> int:
        """How many flushes have begun."""
        return self._numbers[_FLUSHES_BEGUN]

    @property
    def flushing(self) -> bool:
        """Whether a flush is under way."""
        return bool(self._numbers[_FLUSHING])

    @property
    def drained_bytes_per_s(self) -> int:
        """How many bytes of the journal the last flushes moved in a second of their work; 0 before the first."""
        return self._numbers[_DRAINED_BYTES_PER_S]

    def close(self) -> None:
        """Unmap the page."""
        self._queue.close()
        self._numbers.release()
        self._page.close()
