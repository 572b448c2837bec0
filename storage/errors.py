"""What can go wrong in the store, named by what a caller would do about it.

StoreError
├── InvalidInput    the caller's request is wrong; correct it (the submission's own errors derive from it)
├── Overloaded      full for now; retry after `retry_after_s`
│   └── DiskFull    no space left; nothing was kept; goes on by itself when space returns
├── StoreFailed     an earlier write or fsync failed; reads go on, a restart recovers
├── CommitRefused   the table did not take a commit; nothing is lost, it is tried again by itself
├── RewriteConflict another rewrite of the table was first; nothing was changed, plan again from what is there now
├── StoreLocked     another process holds the folder
└── CorruptData     a file is damaged; the message names the file, the place and what to do
"""

from __future__ import annotations


class StoreError(Exception):
    """The base of all errors that the store raises on purpose."""


class InvalidInput(StoreError):
    """The caller's request is wrong; sending it again unchanged is pointless."""


class Overloaded(StoreError):
    """The store is full for now. Nothing of the request was kept.

    Attributes:
        retry_after_s: how long to wait before the next attempt, in seconds.
    """

    def __init__(self, message: str, *, retry_after_s: int = 1) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class DiskFull(Overloaded):
    """The disk has no space left. Nothing of the request was kept; submits go on when space returns."""


class StoreFailed(StoreError):
    """A write or fsync failed, now or earlier. Not acknowledged, never retried in place; a restart recovers."""


class CommitRefused(StoreError):
    """The table did not take a commit. The rows are safe in the journal, and the flush is tried again by itself."""


class RewriteConflict(StoreError):
    """Another rewrite of the table was first. Nothing was changed: plan again from a new snapshot."""


class StoreLocked(StoreError):
    """Another process holds the folder."""


class CorruptData(StoreError):
    """A file is damaged. The message names the file and the place."""
