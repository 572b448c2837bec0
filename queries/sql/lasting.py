"""What becomes of queries that last: their workers stand back, and Linux looks more often who should run."""

from __future__ import annotations

from queries.sql import standing_back
from queries.sql.ticks import Ticks


class LastingQueries:
    """How the queries of one pool stand back when they last. Any thread may call.

    Args:
        always_aside: whether the pool's workers are aside from their start.
    """

    def __init__(self, *, always_aside: bool) -> None:
        self._always_aside = always_aside
        self._ticks = Ticks()

    def begin(self, pid: int) -> None:
        """Put a worker aside whose query lasts."""
        if not self._always_aside:
            standing_back.put_aside(pid)
        self._ticks.hold()

    def end(self, pid: int, *, healthy: bool) -> bool:
        """Take a worker back that `begin` put aside, if it is healthy; whether it is of use for another query."""
        self._ticks.release()
        # The process of one that is not may be gone, and another one have its id.
        return healthy and (self._always_aside or standing_back.take_back(pid))

    def close(self) -> None:
        """End what runs for the queries that last."""
        self._ticks.close()
