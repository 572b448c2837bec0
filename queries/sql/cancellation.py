"""Stopping a query from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Cancellation:
    """Lets another thread stop a query that is being started or answered. One for each query."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._cancelled = False
        self._on_cancel: Callable[[], None] | None = None

    @property
    def cancelled(self) -> bool:
        """Whether `cancel` was called."""
        return self._cancelled

    def cancel(self) -> None:
        """Stop the query, or, if it has not begun, let it not begin. The query ends with `SqlCancelled`."""
        with self._lock:
            self._cancelled = True
            on_cancel = self._on_cancel
        if on_cancel is not None:
            on_cancel()

    def bind(self, on_cancel: Callable[[], None]) -> None:
        """Have *on_cancel* called by `cancel`; at once if that was called before."""
        with self._lock:
            self._on_cancel = on_cancel
            cancelled = self._cancelled
        if cancelled:
            on_cancel()
