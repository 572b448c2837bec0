"""New columns for promoted properties while the store is in use: in the table, durably, before a row can have them."""

from __future__ import annotations

from storage.errors import StoreFailed
from storage.journal import Journal
from storage.lake import Lake
from storage.latch import Latch


def add_columns(lake: Lake, journal: Journal, latch: Latch) -> None:
    """Add the columns that the lake's schema has and its table lacks, durably; for the leader, between two flushes.

    Raises:
        CorruptData: a column exists with another type.
        CommitRefused: another commit was first; nothing was added.
        StoreFailed: the store is latched, or its log could not be synced, which latches it.
    """
    latch.check()
    version = lake.add_missing_columns()
    if version is None:
        return
    try:
        lake.sync(after_version=min(journal.state().durable_version, version), through_version=version)
    except OSError as error:
        reason = f"the log of the table in {lake.folder} could not be synced: {error}"
        latch.set(reason)
        raise StoreFailed(reason) from error
    journal.record_durable(version)
