"""Who may submit now: fair shares of what waits and of what is in the journal, and rates where they are configured.

A server that is not full lets everybody in. Above half of a bound, a client may have at most its share: the bound
divided by the clients that are active. What goes beyond is answered 429 to that client, while the others go on; a full
server is 503 for everybody. What is in the journal is counted for the whole store, what is under way for each process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

from service.problems import Problem
from storage.errors import Overloaded
from storage.share_book import ShareBook
from storage.store import Store

_SHARED_FROM: Final = 0.5
_NEWCOMERS: Final = 1.25
_FOR_ALL: Final = 0.8
_NEXT_TO_NOTHING: Final = 1 / 64


@dataclass(frozen=True, slots=True)
class AdmissionLimits:
    """The settings of these names; None where there is no limit.

    Attributes:
        pending_bytes_max: bytes that may be read or wait for their commit, in one process.
        journal_bytes_max: bytes that the journal may hold.
        client_requests_per_s_max, client_bytes_per_s_max: of one client, over all processes.
    """

    pending_bytes_max: int
    journal_bytes_max: int
    client_requests_per_s_max: int | None = None
    client_bytes_per_s_max: int | None = None


class Admission:
    """Lets submissions of one process in. For one thread."""

    def __init__(
        self, store: Store, book: ShareBook, limits: AdmissionLimits, on_refused: Callable[[str], None]
    ) -> None:
        """Judge by *limits*, which may be replaced; *on_refused* hears why a client was over its share."""
        self.limits = limits
        self._store = store
        self._book = book
        self._on_refused = on_refused
        # Place of a client → bytes of it that are under way here.
        self._under_way: dict[int, int] = {}
        self._total = 0

    def begin(self, client: str, size: int) -> Passage:
        """Let a request of *client* in that has announced *size* bytes; the passage must be ended.

        Raises:
            Problem: 429: the client is over its share or its rate.
            Overloaded: the server is full.
            StoreFailed: the store is latched.
        """
        place = self._book.place_of(client)
        if self._store.held_bytes > self.limits.journal_bytes_max * _SHARED_FROM:
            self._check_share_of_journal(place)
        else:
            self._store.check_writable()
        limits = self.limits
        if limits.client_requests_per_s_max is not None or limits.client_bytes_per_s_max is not None:
            self._check_rates(place, size)
        self.grow(place, size)
        return Passage(self, place, size)

    def _check_rates(self, place: int, size: int) -> None:
        limits = self.limits
        requests, arrived = self._book.arrived_in_a_second(place)
        for what, got, limit in (
            ("requests", requests, limits.client_requests_per_s_max),
            ("bytes", arrived, limits.client_bytes_per_s_max),
        ):
            if limit is not None and got >= limit:
                self._on_refused(f"rate of {what}")
                raise _too_much(f"this client may send {limit} {what} a second", retry_after_s=1)
        self._book.add_arrived(place, size)

    def _check_share_of_journal(self, place: int) -> None:
        waiting = self._book.waiting_of(place)
        share = self.limits.journal_bytes_max // max(1, self._book.clients_waiting())
        if waiting >= share:
            self._on_refused("share of the journal")
            seconds = self._store.seconds_to_drain(waiting - share // 2)
            raise _too_much("this client has its share of the journal until the next flush", retry_after_s=seconds)
        # The last part is for those who have next to nothing in it, so that the others cannot shut them out.
        self._store.check_writable(1.0 if waiting <= share * _NEXT_TO_NOTHING else _FOR_ALL)

    def grow(self, place: int, size: int) -> None:
        """Let *size* bytes more of a client be under way.

        Raises:
            Problem: 429: the client has its share.
            Overloaded: the process has as much as it may.
        """
        limit = self.limits.pending_bytes_max
        total = self._total + size
        if total <= limit * _SHARED_FROM:
            self.count(place, size)
            return
        own = self._under_way.get(place, 0) + size
        if own > size and own > limit // len(self._under_way):
            if len(self._under_way) > 1:
                self._on_refused("share of what is under way")
                raise _too_much("this client has its share of submissions under way", retry_after_s=1)
            raise Overloaded("too many submissions are under way", retry_after_s=1)
        # Who has nothing under way is let in a little longer, and one request alone whatever its size.
        if self._total and total > limit * (1 if own > size else _NEWCOMERS):
            raise Overloaded("too many submissions are under way", retry_after_s=1)
        self.count(place, size)

    def count(self, place: int, size: int) -> None:
        """Count bytes under way, whatever the limits; negative ones have ended."""
        total = self._total = self._total + size
        self._book.set_in_flight(total)
        own = self._under_way.get(place, 0) + size
        if own:
            self._under_way[place] = own
        else:
            self._under_way.pop(place, None)

    def kept(self, place: int, size: int) -> None:
        """Count bytes of a client that are in the journal now."""
        self._book.add_waiting(place, size)


class Passage:
    """One request on its way, and the bytes that it holds."""

    __slots__ = ("_admission", "_place", "_size")

    def __init__(self, admission: Admission, place: int, size: int) -> None:
        self._admission = admission
        self._place = place
        self._size = size

    def grow(self, size: int) -> None:
        """Hold *size* bytes more, if that is allowed; raises as `Admission.grow`."""
        self._admission.grow(self._place, size)
        self._size += size

    def count(self, size: int) -> None:
        """Hold *size* bytes in all, at least; for bytes that are there already."""
        if size > self._size:
            self._admission.count(self._place, size - self._size)
            self._size = size

    def unannounced(self, size: int) -> int:
        """How many of *size* bytes that have arrived are not held yet."""
        return max(0, size - self._size)

    def kept(self, size: int) -> None:
        """So many bytes are in the journal now."""
        self._admission.kept(self._place, size)

    def end(self) -> None:
        """Hold nothing any more."""
        self._admission.count(self._place, -self._size)
        self._size = 0


def _too_much(detail: str, *, retry_after_s: int) -> Problem:
    return Problem(429, detail, headers={"retry-after": str(retry_after_s)})
