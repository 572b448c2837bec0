"""Who waits with how much, over all processes of a store: a file of shared memory that each process writes its part of.

Clients are told apart by a hash into a fixed number of places, so that memory is bounded whatever comes, and the cost
is a few additions a request. Two clients that meet in one place share one share; the salt differs from one store to the
next. Each process writes its own region only, and reads those of the others: nobody holds a lock. Nothing here is
needed after a crash.

What a client has in the journal is counted by flushes: what was appended since the last one began, and, while one is
under way, what it is moving. The leader numbers them (`LeaderPage.flushes_begun`).
"""

from __future__ import annotations

import fcntl
import mmap
import os
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Final

PLACES: Final = 256
PROCESSES_MAX: Final = 66

_WORD_BYTES: Final = 8
_LOOK_S: Final = 0.25
# Words of a region's head.
_PID: Final = 0
_IN_FLIGHT: Final = 1
_FLUSH: Final = 2
_SECOND: Final = 3
_HEAD: Final = 8
# Tables of a region, each with a word for each place: two of each kind, for what is even and what is odd.
_WAITING: Final = 0
_REQUESTS: Final = 2
_BYTES: Final = 4
_TABLES: Final = 6
_REGION_WORDS: Final = _HEAD + _TABLES * PLACES
# The file's own head: the salt.
_FILE_WORDS: Final = 8
_FILE_BYTES: Final = (_FILE_WORDS + PROCESSES_MAX * _REGION_WORDS) * _WORD_BYTES
_ZEROS: Final = memoryview(bytes(PLACES * _WORD_BYTES)).cast("Q")


class ShareBook:
    """The part of one process, and the sums over all. For one thread, but `in_flight` of others may be read meanwhile.

    Args:
        path: of the file; made if there is none.
        flushes_begun: how many flushes have begun since the service did.
        flushing: whether one of them is under way.
        now_s: a clock that is the same for all processes.
    """

    def __init__(
        self,
        path: Path,
        *,
        flushes_begun: Callable[[], int],
        flushing: Callable[[], bool],
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self._flushes_begun = flushes_begun
        self._flushing = flushing
        self._now_s = now_s
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            os.posix_fallocate(descriptor, 0, _FILE_BYTES)
            self._map = mmap.mmap(descriptor, _FILE_BYTES)
            self._words = memoryview(self._map).cast("Q")
            if not self._words[0]:
                self._words[0] = int.from_bytes(os.urandom(4)) + 1
            self._start = self._claim()
        finally:
            # The mapping holds on to the open file, and with it to the lock.
            fcntl.flock(descriptor, fcntl.LOCK_UN)
            os.close(descriptor)
        self._salt = self._words[0] & 0xFFFFFFFF
        self._places: dict[str, int] = {}
        self._known_claimed: list[int] = []
        self._looked_s = float("-inf")

    def _claim(self) -> int:
        """Take the region of a process that is gone; while the file is locked."""
        for region in range(PROCESSES_MAX):
            start = _FILE_WORDS + region * _REGION_WORDS
            pid = self._words[start + _PID]
            if pid == 0 or not _is_running(pid):
                self._clear(start)
                self._words[start + _PID] = os.getpid()
                return start
        raise OSError(f"more than {PROCESSES_MAX} processes serve one store")

    def _clear(self, start: int) -> None:
        for word in range(_HEAD):
            self._words[start + word] = 0
        for table in range(_TABLES):
            self._clear_table(start, table)

    def _clear_table(self, start: int, table: int) -> None:
        begin = start + _HEAD + table * PLACES
        self._words[begin : begin + PLACES] = _ZEROS

    def place_of(self, client: str) -> int:
        """The place of a client."""
        place = self._places.get(client)
        if place is None:
            if len(self._places) >= 4096:
                self._places.clear()
            place = self._places[client] = zlib.crc32(client.encode(), self._salt) % PLACES
        return place

    # What is under way

    def set_in_flight(self, size: int) -> None:
        """Tell how many bytes of requests are being read or wait for their commit in this process."""
        self._words[self._start + _IN_FLIGHT] = size

    @property
    def in_flight(self) -> int:
        """Of this process."""
        return self._words[self._start + _IN_FLIGHT]

    def in_flight_of_all(self) -> int:
        """Of all processes."""
        return sum(self._words[start + _IN_FLIGHT] for start in self._claimed())

    # What is in the journal

    def add_waiting(self, place: int, size: int) -> None:
        """Count bytes of a client that are in the journal now."""
        flush = self._flushes_begun()
        start = self._start
        known = self._words[start + _FLUSH]
        if known != flush:
            # What the last but one flush moved is gone, and with a longer pause what is before it as well.
            self._clear_table(start, _WAITING + flush % 2)
            if flush != known + 1:
                self._clear_table(start, _WAITING + 1 - flush % 2)
            self._words[start + _FLUSH] = flush
        self._words[start + _HEAD + (_WAITING + flush % 2) * PLACES + place] += size

    def waiting_of(self, place: int) -> int:
        """Bytes of a client in the journal, over all processes."""
        return sum(self._words[begin + place] for begin in self._waiting_tables())

    def clients_waiting(self) -> int:
        """How many clients have something in the journal."""
        tables = [self._words[begin : begin + PLACES].tolist() for begin in self._waiting_tables()]
        return sum(map(any, zip(*tables, strict=True))) if tables else 0

    def _waiting_tables(self) -> list[int]:
        """Where the tables begin that hold what is in the journal by now."""
        flush, flushing = self._flushes_begun(), self._flushing()
        found: list[int] = []
        for start in self._claimed():
            known = self._words[start + _FLUSH]
            tables = start + _HEAD + _WAITING * PLACES
            if known == flush:
                found.append(tables + flush % 2 * PLACES)
                if flushing:
                    found.append(tables + (1 - flush % 2) * PLACES)
            elif known == flush - 1 and flushing:
                found.append(tables + known % 2 * PLACES)
        return found

    # What comes in a second

    def add_arrived(self, place: int, size: int) -> None:
        """Count a request of a client, and its bytes, in this second."""
        second = int(self._now_s())
        start = self._start
        known = self._words[start + _SECOND]
        if known != second:
            for kind in (_REQUESTS, _BYTES):
                self._clear_table(start, kind + second % 2)
                if second != known + 1:
                    self._clear_table(start, kind + 1 - second % 2)
            self._words[start + _SECOND] = second
        self._words[start + _HEAD + (_REQUESTS + second % 2) * PLACES + place] += 1
        self._words[start + _HEAD + (_BYTES + second % 2) * PLACES + place] += size

    def arrived_in_a_second(self, place: int) -> tuple[float, float]:
        """Requests and bytes of a client within the last second, over all processes.

        The second before this one counts by the part of it that the last second reaches into.
        """
        now = self._now_s()
        second = int(now)
        before = 1 - (now - second)
        requests = size = 0.0
        for start in self._claimed():
            known = self._words[start + _SECOND]
            for which, weight in ((second, 1.0), (second - 1, before)):
                if which in (known, known - 1):
                    at = start + _HEAD + which % 2 * PLACES + place
                    requests += weight * self._words[at + _REQUESTS * PLACES]
                    size += weight * self._words[at + _BYTES * PLACES]
        return requests, size

    def _claimed(self) -> list[int]:
        """Where the regions of all processes begin; looked up a few times a second."""
        now = time.monotonic()
        if now - self._looked_s > _LOOK_S:
            starts = range(_FILE_WORDS, _FILE_WORDS + PROCESSES_MAX * _REGION_WORDS, _REGION_WORDS)
            self._known_claimed = [start for start in starts if self._words[start + _PID]]
            self._looked_s = now
        return self._known_claimed

    def close(self) -> None:
        """Give the region back."""
        self._clear(self._start)
        self._words.release()
        self._map.close()


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
