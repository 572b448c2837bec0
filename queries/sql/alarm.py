"""One thread that calls things when their time has come."""

from __future__ import annotations

import heapq
import itertools
import threading
import time
from collections.abc import Callable


class AlarmClock:
    """Calls functions later, one after the other. They must be quick, and not raise."""

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._calls: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self._closed = False
        self._thread = threading.Thread(target=self._ring, name="sql-alarm", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def call_after(self, delay_s: float, call: Callable[[], None]) -> None:
        """Call *call* in *delay_s* seconds, from the alarm's thread."""
        with self._condition:
            due = (time.monotonic() + delay_s, next(self._order), call)
            heapq.heappush(self._calls, due)
            if self._calls[0] is due:
                # Otherwise the thread waits for something that is due before.
                self._condition.notify()

    def close(self) -> None:
        """End the thread; what was to be called later is forgotten."""
        with self._condition:
            self._closed = True
            self._condition.notify()
        if self._thread.ident is not None:
            self._thread.join()

    def _ring(self) -> None:
        while True:
            with self._condition:
                while not self._closed and (not self._calls or self._calls[0][0] > time.monotonic()):
                    self._condition.wait(self._calls[0][0] - time.monotonic() if self._calls else None)
                if self._closed:
                    return
                _, _, call = heapq.heappop(self._calls)
            call()
