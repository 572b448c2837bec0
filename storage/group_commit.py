"""Group commit: requests that arrive while a commit is under way share the next one, and its fsync.

The thread that commits competes for the interpreter's lock with the event loop that decodes requests. Python hands
the lock over after `sys.getswitchinterval()`, 5 ms by default, and a commit needs it about ten times: measured under
load, a commit of 0.4 ms took 20 ms. The service therefore sets that interval to a fraction (`SWITCH_INTERVAL_S`).

That thread waits for its turn to write as long as it takes, since a wait that ends by itself costs more. Requests do
not: nothing of them is taken before it is their turn, so that those that have waited for too long are refused by
another thread, and are never kept afterwards.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Any, Final

from storage.errors import Overloaded, StoreError, StoreFailed
from storage.journal import Journal
from storage.journal_file import BUSY_TIMEOUT_S
from storage.journal_records import Append

SWITCH_INTERVAL_S: Final = 0.0005
GROUP_REQUESTS_MAX: Final = 512
GROUP_BYTES_MAX: Final = 32 * 1024 * 1024
# How often it is looked whether a turn is waited for too long, for each such time.
_LOOKS: Final = 10

Outcome = bytes | StoreError
Deliver = Callable[[list[tuple[Any, Outcome]]], None]


class GroupCommitter:
    """Feeds one journal from one thread of its own.

    `submit` never blocks. Once a request's commit has been fsynced, or has failed, `deliver` is called in the
    committing thread with a list of pairs: the token that `submit` was given, and the answer or the error. Where
    somebody else has been writing for too long, it is called in another thread, with `Overloaded` for all that wait.

    Args:
        turn_s_max: how long requests wait for others to write.
        pause_s: how long to wait after a commit of so many bytes, so that whoever empties the journal keeps up. What
            arrives meanwhile shares the next commit.

    Attributes:
        pending_bytes_max: bytes that may wait; may be changed at any time.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        now_us: Callable[[], int],
        deliver: Deliver,
        pending_bytes_max: int,
        on_commit: Callable[[int, float], None],
        pause_s: Callable[[int], float] = lambda _: 0.0,
        turn_s_max: float = BUSY_TIMEOUT_S,
    ) -> None:
        self._pause_s = pause_s
        self._journal = journal
        self._now_us = now_us
        self._deliver = deliver
        self.pending_bytes_max = pending_bytes_max
        self._on_commit = on_commit
        self._wake = threading.Condition()
        self._gathered: list[tuple[Any, Append, int]] = []
        self._pending: list[tuple[Any, Append, int]] = []
        self._pending_bytes = 0
        self._closing = False
        self._turn_s_max = turn_s_max
        # Since when the thread waits for its turn, if it does, or since those that waited with it were refused.
        self._in_queue_since_s: float | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="group-commit", daemon=True)
        self._thread.start()
        self._watch = threading.Thread(target=self._watch_turns, name="group-commit-watch", daemon=True)
        self._watch.start()

    def submit(self, token: Any, append: Append) -> None:
        """Queue a request for the next commit.

        Raises:
            Overloaded, StoreFailed: as `gather`.
        """
        self.gather(token, append)
        self.hand_over()

    def gather(self, token: Any, append: Append) -> None:
        """Keep a request until `hand_over`, so that those that came at the same moment share a commit.

        A commit costs as much for one request as for ten. Handed over one by one, 64 clients' requests were committed
        three at a time, with most of the processor's time spent on commits.

        Raises:
            Overloaded: too many bytes wait already; nothing is kept.
            StoreFailed: the committer is closed.
        """
        size = append.size_bytes
        with self._wake:
            if self._closing:
                raise StoreFailed("the service is shutting down")
            if self._pending_bytes and self._pending_bytes + size > self.pending_bytes_max:
                raise Overloaded("too many submissions wait for the disk", retry_after_s=1)
            self._gathered.append((token, append, size))
            self._pending_bytes += size

    def hand_over(self) -> None:
        """Queue what was gathered for the next commit."""
        with self._wake:
            self._pending += self._gathered
            self._gathered = []
            self._wake.notify()

    def close(self) -> None:
        """Commit what waits, then stop; later submissions are refused.

        When all that waits was refused, since somebody else is writing for too long, nothing is left to be done: the
        thread that waits for its turn finds that out when it has it.
        """
        with self._wake:
            self._closing = True
            self._pending += self._gathered
            self._gathered = []
            self._wake.notify()
        self._ended.wait()
        self._watch.join()

    def _run(self) -> None:
        try:
            self._commit_until_closed()
        finally:
            # Should `deliver` ever raise, later requests are refused instead of waiting for nobody.
            with self._wake:
                self._closing = True
            self._ended.set()

    def _watch_turns(self) -> None:
        """Refuse all that waits, each time that the other thread has been in the queue for too long."""
        try:
            while not self._ended.wait(self._turn_s_max / _LOOKS):
                with self._wake:
                    if self._in_queue_since_s is None:
                        continue
                    overdue: list[tuple[Any, Append, int]] = []
                    now_s = time.monotonic()
                    if now_s - self._in_queue_since_s >= self._turn_s_max:
                        overdue, self._pending = self._pending, []
                        self._pending_bytes -= sum(size for _, _, size in overdue)
                        self._in_queue_since_s = now_s
                    nothing_is_left = self._closing and not self._pending
                if overdue:
                    error = Overloaded("the journal was busy for too long")
                    self._deliver([(token, error) for token, _, _ in overdue])
                if nothing_is_left:
                    self._ended.set()
        finally:
            with self._wake:
                self._closing = True

    def _commit_until_closed(self) -> None:
        while True:
            with self._wake:
                while not self._pending and not self._closing:
                    self._wake.wait()
                if not self._pending:
                    return
                self._in_queue_since_s = time.monotonic()
            self._pause(self._commit())

    def _take(self) -> list[tuple[Any, Append, int]]:
        with self._wake:
            self._in_queue_since_s = None
            taken = size = 0
            for _, _, one in self._pending[:GROUP_REQUESTS_MAX]:
                if taken and size + one > GROUP_BYTES_MAX:
                    break
                taken += 1
                size += one
            self._pending_bytes -= size
            group, self._pending = self._pending[:taken], self._pending[taken:]
            return group

    def _pause(self, committed_bytes: int) -> None:
        seconds = self._pause_s(committed_bytes)
        if seconds > 0:
            with self._wake:
                self._wake.wait_for(lambda: self._closing, seconds)

    def _commit(self) -> int:
        """Commit the next group; return how many bytes it had."""
        started = time.perf_counter()
        group: list[tuple[Any, Append, int]] = []

        def take() -> list[Append]:
            group.extend(self._take())
            return [append for _, append, _ in group]

        outcomes: list[Outcome]
        try:
            outcomes = self._journal.append_next(take, now_us=self._now_us())
        except Exception as error:  # noqa: BLE001
            # Whatever it is, the requests must hear of it, and the thread must live on for the next ones.
            if not group:
                take()
            failure = error if isinstance(error, StoreError) else _unexpected(error)
            outcomes = [failure] * len(group)
        if not group:
            # Everybody was refused meanwhile.
            return 0
        self._on_commit(sum(append.requests for _, append, _ in group), time.perf_counter() - started)
        self._deliver([(token, outcome) for (token, _, _), outcome in zip(group, outcomes, strict=True)])
        return sum(size for _, _, size in group)


def _unexpected(error: Exception) -> StoreFailed:
    failure = StoreFailed(f"the commit failed unexpectedly: {error!r}")
    failure.__cause__ = error
    return failure
