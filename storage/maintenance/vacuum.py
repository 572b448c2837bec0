"""Vacuum: files that the table no longer names leave the disk, so that the folder holds what the table holds.

Two kinds of files go. Those that a rewrite took out of the table, a grace after their removal: queries that began
before read them still. And those that no commit ever named, which a crash left, a grace after they were written and
only while nobody is between writing a file and committing it (`storage.write_guard`), however long that takes.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from storage.journal import Journal
from storage.lake import Lake
from storage.latch import Latch
from storage.maintenance.durability import make_durable
from storage.maintenance.table_log import read_removals
from storage.write_guard import nobody_writes

GRACE_MS_DEFAULT: Final = 900_000
_GUARD_TIMEOUT_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class FoundFile:
    """A data file on disk: its path below the table's folder, and what the file system says of it."""

    path: str
    size_bytes: int
    modified_at_ms: int


@dataclass(frozen=True, slots=True)
class VacuumPlan:
    """What may go now, and what is waiting for its grace to end.

    Attributes:
        removed: files that were taken out of the table.
        orphans: files that no commit names.
        waiting: files of either kind that stay for now.
    """

    removed: tuple[FoundFile, ...]
    orphans: tuple[FoundFile, ...]
    waiting: tuple[FoundFile, ...]


@dataclass(frozen=True, slots=True)
class VacuumResult:
    """What went, files and bytes, and whether something had to be left for the next time."""

    files: int = 0
    bytes: int = 0
    deferred: bool = False


def plan_vacuum(
    found: Sequence[FoundFile],
    *,
    live: Collection[str],
    removed_at_ms: Mapping[str, int],
    now_ms: int,
    grace_ms: int,
) -> VacuumPlan:
    """Decide which files may go; pure.

    Args:
        found: what was on disk before *live* was read, so that a file committed in between is not taken for an orphan.
        live: paths of the files of the newest version.
        removed_at_ms: path → when it was taken out of the table, milliseconds since the epoch.
        now_ms: the time.
        grace_ms: how long files stay that nobody names any more.
    """
    removed: list[FoundFile] = []
    orphans: list[FoundFile] = []
    waiting: list[FoundFile] = []
    for one in found:
        if one.path in live:
            continue
        since_ms = removed_at_ms.get(one.path)
        if now_ms - (one.modified_at_ms if since_ms is None else since_ms) < grace_ms:
            waiting.append(one)
        elif since_ms is None:
            orphans.append(one)
        else:
            removed.append(one)
    return VacuumPlan(tuple(removed), tuple(orphans), tuple(waiting))


def find_data_files(table: Path) -> list[FoundFile]:
    """List the data files on disk, whether or not the table names them."""
    found: list[FoundFile] = []
    for folder in _partition_folders(table):
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.endswith(".parquet"):
                    with contextlib.suppress(FileNotFoundError):
                        status = entry.stat()
                        relative = f"{folder.parent.name}/{folder.name}/{entry.name}"
                        found.append(FoundFile(relative, status.st_size, status.st_mtime_ns // 1_000_000))
    return found


def look(lake: Lake, journal: Journal, *, now_ms: int, grace_ms: int) -> VacuumPlan:
    """See what may go now; changes nothing.

    Raises:
        CorruptData, OSError: the table's log or folder cannot be read.
    """
    found = find_data_files(lake.folder)
    live = _live(lake, journal)
    removals = read_removals(lake.folder)
    return plan_vacuum(found, live=live, removed_at_ms=removals.removed_at_ms, now_ms=now_ms, grace_ms=grace_ms)


def vacuum(lake: Lake, journal: Journal, latch: Latch | None, *, now_ms: int, grace_ms: int) -> VacuumResult:
    """Remove what may go, and partition folders that are empty then.

    Raises:
        CorruptData: the table's log cannot be read.
        DiskFull, StoreFailed: the log could not be synced, which comes first.
        OSError: a file could not be removed.
    """
    plan = look(lake, journal, now_ms=now_ms, grace_ms=grace_ms)
    published = journal.state().lake_version_min
    # A file goes only when the commit that took it out of the table is on disk.
    make_durable(lake, journal, latch, lake.version)
    if read_removals(lake.folder).newest_version > published:
        # A crash kept readers from being told; one that has begun just now may use an older version. Next time.
        return VacuumResult(deferred=bool(plan.removed or plan.orphans))
    gone = [one for one in plan.removed if _unlink(lake.folder / one.path)]
    deferred = False
    if not plan.orphans and not any(_is_empty(folder) for folder in _folders(lake.folder)):
        # Nothing for which anybody would have to wait.
        return VacuumResult(len(gone), sum(one.size_bytes for one in gone))
    with nobody_writes(lake.folder, timeout_s=_GUARD_TIMEOUT_S) as alone:
        if alone:
            # What was being written when the folder was listed has been committed by now, or never will be.
            live = _live(lake, journal)
            taken_out = read_removals(lake.folder).removed_at_ms
            orphans = [one for one in plan.orphans if one.path not in live and one.path not in taken_out]
            gone += [one for one in orphans if _unlink(lake.folder / one.path)]
            _remove_empty_folders(lake.folder)
        else:
            deferred = bool(plan.orphans)
    return VacuumResult(len(gone), sum(one.size_bytes for one in gone), deferred)


def _live(lake: Lake, journal: Journal) -> set[str]:
    files = lake.reload(journal.state().id).files
    return {Path(one.path).relative_to(lake.folder).as_posix() for one in files}


def _unlink(path: Path) -> bool:
    try:
        path.unlink()
    except FileNotFoundError:
        return False
    return True


def _partition_folders(table: Path) -> Iterator[Path]:
    for date in sorted(table.glob("date=*")):
        yield from sorted(date.glob("type=*"))


def _is_empty(folder: Path) -> bool:
    with contextlib.suppress(FileNotFoundError), os.scandir(folder) as entries:
        return next(entries, None) is None
    return False


def _folders(table: Path) -> list[Path]:
    return [*_partition_folders(table), *table.glob("date=*")]


def _remove_empty_folders(table: Path) -> None:
    for folder in _folders(table):
        # One that is not empty refuses, which is what tells.
        with contextlib.suppress(OSError):
            folder.rmdir()
