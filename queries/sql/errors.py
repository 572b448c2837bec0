"""What can go wrong with a user's query, named by what a caller would do about it.

StoreError
├── InvalidInput
│   └── SqlError          the query is wrong, or asks for what nobody may have; correct it
├── Overloaded            every worker is busy; retry later (from `storage.errors`)
├── SqlTimeout            it ran longer than it may
├── SqlTooLarge           it needs more memory, temporary space or result than it may; the limit is named
├── SqlScanLimit          it has read more than the caller allows
├── SqlCancelled          the caller asked for it to be stopped
├── SqlWorkerDied         its worker process ended; nothing but this query was lost; it may be sent again
└── SnapshotUnreadable    a file of the snapshot could not be read; take a newer snapshot and ask again
"""

from __future__ import annotations

from storage.errors import InvalidInput, StoreError


class SqlError(InvalidInput):
    """The query is wrong, or asks for something that user SQL may not do.

    Attributes:
        message: what is wrong, without machine paths.
        position: where in the text, as a 0-based offset in characters, or None where unknown.
        suggestion: what was probably meant, or None.
    """

    def __init__(self, message: str, *, position: int | None = None, suggestion: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.position = position
        self.suggestion = suggestion


class SqlTimeout(StoreError):
    """The query ran longer than `timeout_s`, the streaming of its answer included.

    Attributes:
        limit: the name of the limit.
        timeout_s: its value.
        still_s: how much of that time it had to stand still, since submissions came.
    """

    def __init__(self, timeout_s: float, still_s: float = 0.0) -> None:
        text = f"the query was stopped after its time limit: timeout_s is {timeout_s:g}"
        if still_s:
            text += f"; it stood still for {still_s:.1f} s of that, since submissions came (sql_share_min)"
        super().__init__(text)
        self.limit = "timeout_s"
        self.timeout_s = timeout_s
        self.still_s = still_s


class SqlTooLarge(StoreError):
    """The query needs more than it may use.

    Attributes:
        limit: the name of the limit, a field of `SqlLimits`.
        value: the limit's value.
    """

    def __init__(self, limit: str, value: int, what: str) -> None:
        super().__init__(f"{what}: {limit} is {value}")
        self.limit = limit
        self.value = value


class SqlScanLimit(StoreError):
    """The query was stopped because it read more than its `scanned_bytes_max`.

    Attributes:
        scanned_bytes: what it had read when that was noticed.
    """

    def __init__(self, scanned_bytes: int) -> None:
        super().__init__(f"the query was stopped after it had read {scanned_bytes} bytes, which is more than it may")
        self.scanned_bytes = scanned_bytes


class SqlCancelled(StoreError):
    """The query was stopped because the caller asked for it."""


class SqlWorkerDied(StoreError):
    """The process that ran the query ended. Other queries were not touched, and a new process takes its place."""


class SnapshotUnreadable(StoreError):
    """A file of the snapshot is gone or cannot be read. A newer snapshot may not need it any more."""
