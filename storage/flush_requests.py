"""Having what is acknowledged by now flushed by whichever process leads, and waiting for it."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

from storage.dead_letters import read_rejects_state
from storage.errors import DiskFull, Overloaded
from storage.journal import Journal
from storage.latch import Latch
from storage.leader_page import LeaderPage

_POLL_S: Final = 0.01


class FlushRequests:
    """Asks for flushes from any process of a store.

    Args:
        journal, page, latch: of the store.
        wake: has the leader look at once, if it is in this process.
    """

    def __init__(self, journal: Journal, page: LeaderPage, latch: Latch, wake: Callable[[], None]) -> None:
        self._journal = journal
        self._page = page
        self._latch = latch
        self._wake = wake

    def flush(self, *, timeout_s: float) -> int:
        """Have everything that is acknowledged by now flushed, rejects too; return the watermark.

        Raises:
            DiskFull: it is not done in time, and the disk is full.
            Overloaded: it is not done in time.
            StoreFailed: the store is latched.
        """
        target = self._journal.state().head
        # Read first: an attempt that fails once the request is there is told to who asked.
        earlier_errors = self._page.last_error().number
        if self._journal.state().trimmed_position < target:
            self._journal.request_flush(target)
        deadline = time.monotonic() + timeout_s
        while (trimmed := self._journal.state().trimmed_position) < target:
            self._latch.check()
            self._wake()
            error = self._page.last_error()
            if error.disk_full and error.number > earlier_errors:
                raise DiskFull(error.message, retry_after_s=5)
            if time.monotonic() > deadline:
                raise Overloaded(f"the flush took longer than {timeout_s:g} s and goes on", retry_after_s=5)
            time.sleep(_POLL_S)
        self._flush_rejects(deadline)
        return trimmed

    def _flush_rejects(self, deadline: float) -> None:
        """Have the dead letters of this moment moved by whichever worker leads."""
        with self._journal.reading() as execute:
            state = read_rejects_state(execute)
        target = state.head
        if target <= state.moved_through:
            return
        with self._journal.writing() as execute:
            execute("UPDATE rejects SET flush_requested_id = max(flush_requested_id, ?)", (target,))
        # Letters that an erasure deletes meanwhile are never moved.
        while state.moved_through < min(target, state.head):
            self._latch.check()
            self._wake()
            if time.monotonic() > deadline:
                raise Overloaded("moving the rejects took too long and goes on", retry_after_s=5)
            time.sleep(_POLL_S)
            with self._journal.reading() as execute:
                state = read_rejects_state(execute)
