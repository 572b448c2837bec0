"""Making a commit of maintenance durable, known as such, and the one that readers use."""

from __future__ import annotations

import errno
from typing import Final

from storage.errors import DiskFull, StoreFailed
from storage.journal import Journal
from storage.lake import Lake
from storage.latch import Latch

# Errors of this process at this moment, which say nothing about the disk.
_PASSING: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM)


def make_durable(lake: Lake, journal: Journal, latch: Latch | None, version: int) -> None:
    """Sync the table's log up to *version*, which holds a rewrite, record that, and have readers use that version.

    Readers of older versions, whose files are no longer in the table, are from then on only those that began before:
    this is what the vacuum's grace is counted on.

    Raises:
        DiskFull: no space for the journal's record; the commit stands, and is synced by whoever comes next.
        StoreFailed: the log could not be synced. The latch is set: a second fsync may succeed without a cause.
    """
    try:
        lake.sync(after_version=journal.state().durable_version, through_version=version)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull("no space left for the table's log", retry_after_s=5) from error
        if error.errno in _PASSING:
            raise
        reason = f"the log of the table in {lake.folder} could not be synced: {error}"
        if latch is not None:
            latch.set(reason)
        raise StoreFailed(reason) from error
    journal.record_durable(version)
    journal.require_version(version)
