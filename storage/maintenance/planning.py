"""Which files to write anew: decided from what the table's log says of them alone; pure.

A partition, one date and type, should end as few files, sorted by user, of a bounded size. Merging everything at each
new file would write the same rows again and again, so that small files are merged with small ones first, and drawn
into a larger one only when they are worth it: each row is written anew a number of times that grows with the
logarithm of its partition.

A partition that is still being written to may have some more files meanwhile, and uses them: files of about one size
are merged among themselves, and larger ones are left until there are many of them as well. Under load, what
compaction takes is what flushes lack, and each row is written anew two or three times on its way to a full file.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from storage.data_files import DataFile

Partition = tuple[datetime.date, str]

# A file joins a merge when it is at most so many times as large as what is merged already.
_WORTH_JOINING: Final = 4
# While its partition is written to, when it is at most so many times as large as the largest that has to be merged.
_OF_ONE_SIZE: Final = 3


@dataclass(frozen=True, slots=True)
class CompactionLimits:
    """What compaction aims at, and how much it does at once.

    Attributes:
        file_bytes_max: about the largest file that is written.
        files_spare: so many files more than a resting one may have before it is merged, a partition may have while it
            is being written to.
        rest_ms: a partition rests when its newest file is as old as this.
        rewrite_files_max: files that are open at once, and replaced by one commit.
        rewrite_bytes_max: bytes of files that one commit replaces, unless one partition alone has more.
    """

    file_bytes_max: int = 128 * 1024 * 1024
    files_spare: int = 16
    rest_ms: int = 900_000
    rewrite_files_max: int = 512
    rewrite_bytes_max: int = 256 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class PartitionRewrite:
    """Files of one partition to be replaced by at most *pieces* files of the same rows.

    Attributes:
        resting: these are expected to stay, so that it is worth while to make them small.
    """

    date: datetime.date
    type: str
    files: tuple[DataFile, ...]
    pieces: int
    resting: bool = False

    @property
    def partition(self) -> Partition:
        """The partition."""
        return self.date, self.type

    @property
    def rows(self) -> int:
        """How many rows are in the files."""
        return sum(one.rows for one in self.files)

    @property
    def bytes(self) -> int:
        """The size of the files."""
        return sum(one.size_bytes for one in self.files)


@dataclass(frozen=True, slots=True)
class CompactionPlan:
    """What to do, in this order; the rewrites of one batch go into one commit."""

    batches: tuple[tuple[PartitionRewrite, ...], ...]

    @property
    def rewrites(self) -> tuple[PartitionRewrite, ...]:
        """All rewrites of the plan."""
        return tuple(rewrite for batch in self.batches for rewrite in batch)


def plan_compaction(
    files: Iterable[DataFile],
    limits: CompactionLimits,
    *,
    now_ms: int,
    thorough: bool = False,
    without: Collection[Partition] = (),
) -> CompactionPlan:
    """Choose what to rewrite of a snapshot's *files*, the partitions with the most files too many first.

    Doing what is planned leaves fewer files, and planning and doing again and again comes to an end.

    Args:
        files: of one snapshot.
        limits: see there.
        now_ms: the time, milliseconds since the epoch.
        thorough: treat every partition as if it rested, and leave no file that could be spared.
        without: partitions to leave as they are.
    """
    partitions: dict[Partition, list[DataFile]] = defaultdict(list)
    for one in files:
        partitions[one.date, one.type].append(one)
    rewrites: list[tuple[int, PartitionRewrite]] = []
    for partition, members in partitions.items():
        if len(members) < 2 or partition in without:
            continue
        aim = files_aimed_at(sum(one.size_bytes for one in members), limits, thorough=thorough)
        resting = thorough or now_ms - max(one.written_at_ms for one in members) >= limits.rest_ms
        if len(members) > aim + (0 if resting else limits.files_spare):
            chosen = _choose(members, aim, limits, resting=resting)
            if chosen is not None:
                rewrites.append((len(members) - aim, chosen))
    rewrites.sort(key=lambda one: (-one[0], one[1].date, one[1].type))
    return CompactionPlan(_batches([rewrite for _, rewrite in rewrites], limits))


def files_aimed_at(size_bytes: int, limits: CompactionLimits, *, thorough: bool) -> int:
    """How many files a partition of that size may have while it rests."""
    full = max(1, -(-size_bytes // limits.file_bytes_max))
    return full + full // 4 if thorough else max(2, full + 1 + full // 4)


def _choose(
    members: Sequence[DataFile], aim: int, limits: CompactionLimits, *, resting: bool
) -> PartitionRewrite | None:
    """Choose the smallest files, as many as bring their number down to *aim*, and those worth joining.

    In a partition that is written to, half of the files to spare stay, so that the next merge is some time away.
    """
    by_size = sorted(members, key=lambda one: (one.size_bytes, one.path))
    count = len(by_size) - aim + 1 - (0 if resting else limits.files_spare // 2)
    size = sum(one.size_bytes for one in by_size[:count])
    of_one_size = _OF_ONE_SIZE * by_size[count - 1].size_bytes
    while count < len(by_size) and by_size[count].size_bytes <= (_WORTH_JOINING * size if resting else of_one_size):
        size += by_size[count].size_bytes
        count += 1
    if _pieces(size, limits) >= count:
        # Merging these alone would make as many files again.
        count = len(by_size)
    chosen = tuple(by_size[: min(count, limits.rewrite_files_max)])
    pieces = _pieces(sum(one.size_bytes for one in chosen), limits)
    if pieces >= len(chosen):
        return None
    return PartitionRewrite(chosen[0].date, chosen[0].type, chosen, pieces, resting)


def _pieces(size_bytes: int, limits: CompactionLimits) -> int:
    return max(1, -(-size_bytes // limits.file_bytes_max))


def _batches(
    rewrites: Sequence[PartitionRewrite], limits: CompactionLimits
) -> tuple[tuple[PartitionRewrite, ...], ...]:
    batches: list[tuple[PartitionRewrite, ...]] = []
    batch: list[PartitionRewrite] = []
    files = size = 0
    for one in rewrites:
        too_many = files + len(one.files) > limits.rewrite_files_max or size + one.bytes > limits.rewrite_bytes_max
        if batch and too_many:
            batches.append(tuple(batch))
            batch, files, size = [], 0, 0
        batch.append(one)
        files += len(one.files)
        size += one.bytes
    if batch:
        batches.append(tuple(batch))
    return tuple(batches)
