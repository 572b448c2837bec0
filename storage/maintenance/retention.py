"""Retention: days that are older than their type may become leave the table, as whole partitions.

The day is the unit: a partition goes, in one commit, when all of its day is older than the age, so that rows of the
boundary's day stay until that day is over. Rows that arrive later than that go with the next look.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from storage.data_files import DataFile
from storage.journal import Journal
from storage.lake import Lake
from storage.latch import Latch
from storage.maintenance.durability import make_durable
from storage.maintenance.planning import Partition

# Files that one commit removes, unless one partition alone has more.
_FILES_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class RetentionRules:
    """How many days actions are kept: by type, and for all other types; None is for ever."""

    days: Mapping[str, int] = field(default_factory=dict)
    days_default: int | None = None

    def days_of(self, action_type: str) -> int | None:
        """The days of one type."""
        return self.days.get(action_type, self.days_default)


@dataclass(frozen=True, slots=True)
class RetentionResult:
    """What went: partitions, files, rows, bytes of the files (which stay on disk until the vacuum)."""

    partitions: int = 0
    files: int = 0
    rows: int = 0
    bytes: int = 0

    def __add__(self, other: RetentionResult) -> RetentionResult:
        return RetentionResult(
            self.partitions + other.partitions,
            self.files + other.files,
            self.rows + other.rows,
            self.bytes + other.bytes,
        )


def expired_files(files: Iterable[DataFile], rules: RetentionRules, *, now_ms: int) -> tuple[tuple[DataFile, ...], ...]:
    """Choose what has expired, as one group of files for each commit, the oldest first; pure.

    A partition is in one group as a whole.
    """
    now = datetime.datetime.fromtimestamp(now_ms / 1000, datetime.UTC).date()
    partitions: dict[Partition, list[DataFile]] = defaultdict(list)
    for one in files:
        days = rules.days_of(one.type)
        # The whole day lies at least `days` days back: its last instant is the beginning of the next one.
        if days is not None and one.date + datetime.timedelta(days=1) <= _days_before(now, days):
            partitions[one.date, one.type].append(one)
    groups: list[tuple[DataFile, ...]] = []
    group: list[DataFile] = []
    for partition in sorted(partitions):
        if group and len(group) + len(partitions[partition]) > _FILES_MAX:
            groups.append(tuple(group))
            group = []
        group += partitions[partition]
    if group:
        groups.append(tuple(group))
    return tuple(groups)


def _days_before(day: datetime.date, days: int) -> datetime.date:
    return datetime.date.fromordinal(max(1, day.toordinal() - days))


def summed_up(files: Iterable[DataFile]) -> RetentionResult:
    """The figures of expired files."""
    chosen = tuple(files)
    return RetentionResult(
        len({(one.date, one.type) for one in chosen}),
        len(chosen),
        sum(one.rows for one in chosen),
        sum(one.size_bytes for one in chosen),
    )


def expire(
    lake: Lake, journal: Journal, latch: Latch | None, rules: RetentionRules, *, now_ms: Callable[[], int]
) -> RetentionResult:
    """Take what has expired out of the table, durably; return what went.

    Raises:
        RewriteConflict: another rewrite was first; look again.
        CommitRefused, DiskFull, StoreFailed: as `Lake.rewrite` and `make_durable`.
    """
    done = RetentionResult()
    snapshot = lake.reload(journal.state().id)
    for group in expired_files(snapshot.files, rules, now_ms=now_ms()):
        version = lake.rewrite(group, [], data_change=True)
        make_durable(lake, journal, latch, version)
        done += summed_up(group)
    return done
