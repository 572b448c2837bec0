"""The table's log: checkpoints, so that opening it costs the same after years, and the end of what they sum up.

Two checkpoints are kept, and every entry since the older one: should the newer one be damaged, nothing is lost. A
checkpoint is made of versions that are durable only, and what is below is removed only when both of them can be read.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.parquet as pq

from storage.durable_files import fsync_path
from storage.journal import Journal
from storage.lake import Lake, checkpoints, log_entries, newest_version
from storage.latch import Latch
from storage.log_replay import read_entry
from storage.write_errors import write_errors_told

_CHECKPOINTS_KEPT: Final = 2
# Somebody who has just listed the log may still want to read what it saw.
ENTRY_AGE_MS_MIN: Final = 60_000


def commits_since_checkpoint(table: Path) -> int:
    """How many versions a reader has to read one by one."""
    return newest_version(table) - max(checkpoints(table), default=-1)


def write_checkpoint(lake: Lake, journal: Journal, latch: Latch) -> int:
    """Make the newest version durable and write its checkpoint; return the version.

    Raises:
        CommitRefused: it could not be written; the table is as good without it.
        DiskFull, StoreFailed: as `write_errors_told`.
    """
    with write_errors_told(lake.folder, latch):
        version = lake.checkpoint(durable_version=journal.state().durable_version)
    journal.record_durable(version)
    return version


def clean_log(table: Path, *, durable_version: int, now_ms: int, age_ms_min: int = ENTRY_AGE_MS_MIN) -> int:
    """Remove entries and checkpoints that nobody needs any more; return how many files went.

    Args:
        table: the table's folder.
        durable_version: versions above it are never touched, and no checkpoint above it is relied upon.
        now_ms: the time.
        age_ms_min: younger files stay.

    Raises:
        OSError: a file could not be removed.
    """
    points = {version: path for version, path in checkpoints(table).items() if version <= durable_version}
    kept = sorted(points, reverse=True)[:_CHECKPOINTS_KEPT]
    if len(kept) < _CHECKPOINTS_KEPT or not all(_is_whole(points[version]) for version in kept):
        return 0
    removed = 0
    # From the oldest on, so that what is left after a crash is still one run of versions.
    for found in (points, log_entries(table)):
        for version in sorted(version for version in found if version < kept[-1]):
            if now_ms - found[version].stat().st_mtime_ns // 1_000_000 < age_ms_min:
                break
            found[version].unlink()
            removed += 1
    if removed:
        fsync_path(table / "_delta_log")
    return removed


def _is_whole(checkpoint: Path) -> bool:
    try:
        pq.read_metadata(checkpoint)
    except (OSError, pa.ArrowException):
        return False
    return True


@dataclass(frozen=True, slots=True)
class Removals:
    """What the log says of files that were taken out of the table.

    Attributes:
        removed_at_ms: path below the table's folder → when, milliseconds since the epoch; as far back as checkpoints
            remember, an hour.
        newest_version: the last version that removed a file, among the entries that are there; -1 if none did.
    """

    removed_at_ms: Mapping[str, int]
    newest_version: int


def read_removals(table: Path) -> Removals:
    """Read what was removed from the newest checkpoint and the entries since.

    Raises:
        CorruptData, ValueError, OSError: they cannot be read.
    """
    removed: dict[str, int] = {}
    points = checkpoints(table)
    summed_up = max(points, default=-1)
    if points:
        with pq.ParquetFile(points[summed_up]) as file:
            tombstones: Any = file.read(columns=["remove.path", "remove.deletionTimestamp"])
        for one in tombstones["remove"].to_pylist() if "remove" in tombstones.column_names else ():
            if one is not None and one["path"] is not None:
                removed[unquote(one["path"])] = int(one["deletionTimestamp"] or 0)
    newest = -1
    for version, path in sorted(log_entries(table).items()):
        found = [action["remove"] for action in read_entry(path) if "remove" in action]
        if found:
            newest = version
        if version > summed_up:
            removed.update((unquote(one["path"]), int(one["deletionTimestamp"])) for one in found)
    return Removals(removed, newest)


def system_now_ms() -> int:
    """The clock: milliseconds since the epoch."""
    return time.time_ns() // 1_000_000
