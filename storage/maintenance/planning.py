"""Which files to write anew: decided from what the table's log says of them alone; pure.

A partition, one date and type, should end as few files, sorted by user, of a bounded size. Merging everything at each
new file would write the same rows again and again, so that small files are merged with small ones first.

A partition that is still being written to may have some more files meanwhile, and uses them as a log-structured merge
tree does: what is small is merged among itself, and what is larger left until there is as much of what is smaller. Each
row is written anew a number of times that grows with the logarithm of its partition, two or three on its way to a full
file. Under load, what compaction takes is what flushes lack.

A partition that rests has at most two files, unless it is too large for that: what is new is merged with what is small,
and the large file is taken in only when the smaller ones come to a fair share of it, or when sparing it has cost as
much as taking it in. Where something comes and the partition is compacted after it, again and again, that is within a
constant factor of the least that two files allow, which grows with the root of the number of times: see decision 28.

What was packed quickly, by a flush or an erasure, and rests and is a fair share of its partition, is packed tightly.
"""

from __future__ import annotations

import datetime
from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from storage.data_files import DataFile
from storage.file_names import is_packed_quickly

Partition = tuple[datetime.date, str]

# Files come to a fair share of a larger one, or of the rest of their partition, when that is at most so many times as
# large as they are together.
_FAIR_SHARE: Final = 3
# What is packed tightly costs about so many times as much to write: see decision 26.
_TIGHT_COST: Final = 4
# Below this, what is packed quickly stays so: a fifth of it is not worth opening a file for.
_TIGHT_BYTES_MIN: Final = 128 * 1024
# A partition that is written to may have so many times its spare files while there is no idle time to merge them.
_PRESSING: Final = 4


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
        tight: these are expected to stay, so that it is worth while to make them small.
    """

    date: datetime.date
    type: str
    files: tuple[DataFile, ...]
    pieces: int
    tight: bool = False

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

    Doing what is planned leaves fewer files, or as many of which fewer are packed quickly, so that planning and doing
    again and again comes to an end.

    Args:
        files: of one snapshot.
        limits: see there.
        now_ms: the time, milliseconds since the epoch.
        thorough: treat every partition as if it rested.
        without: partitions to leave as they are.
    """
    partitions: dict[Partition, list[DataFile]] = defaultdict(list)
    for one in files:
        partitions[one.date, one.type].append(one)
    rewrites: list[tuple[int, PartitionRewrite]] = []
    for partition, members in partitions.items():
        if partition in without:
            continue
        aim = files_aimed_at(sum(one.size_bytes for one in members), limits)
        by_size = sorted(members, key=lambda one: (one.size_bytes, one.path))
        if thorough or now_ms - max(one.written_at_ms for one in members) >= limits.rest_ms:
            chosen = _choose_of_resting(by_size, aim, limits)
        else:
            chosen = _choose_of_written(by_size, aim, limits)
        if chosen is not None:
            rewrites.append((len(members) - aim, chosen))
    rewrites.sort(key=lambda one: (-one[0], one[1].date, one[1].type))
    return CompactionPlan(_batches([rewrite for _, rewrite in rewrites], limits))


def is_pressing(files: Iterable[DataFile], limits: CompactionLimits) -> bool:
    """Whether a partition has so many of a snapshot's *files* that compaction must not wait for an idle processor."""
    sizes: dict[Partition, list[int]] = defaultdict(list)
    for one in files:
        sizes[one.date, one.type].append(one.size_bytes)
    return any(
        len(members) > files_aimed_at(sum(members), limits) + _PRESSING * limits.files_spare
        for members in sizes.values()
    )


def files_aimed_at(size_bytes: int, limits: CompactionLimits) -> int:
    """How many files a partition of that size may have while it rests."""
    full = _pieces(size_bytes, limits)
    return full + 1 + full // 4


def _choose_of_written(by_size: Sequence[DataFile], aim: int, limits: CompactionLimits) -> PartitionRewrite | None:
    """Choose the smallest files if there are too many, and each larger one that at most doubles what is merged.

    Half of the files to spare stay, so that the next merge is some time away.
    """
    if len(by_size) <= aim + limits.files_spare:
        return None
    count = len(by_size) - aim + 1 - limits.files_spare // 2
    size = _bytes_of(by_size[:count])
    while count < len(by_size) and by_size[count].size_bytes <= size and not _is_full(by_size[count], size, limits):
        size += by_size[count].size_bytes
        count += 1
    return _merge(by_size, count, limits, tight=False)


def _choose_of_resting(by_size: Sequence[DataFile], aim: int, limits: CompactionLimits) -> PartitionRewrite | None:
    """Choose the smallest files, as many as bring their number down to *aim*, and those worth joining or packing."""
    count = max(1, len(by_size) - aim + 1)
    size = _bytes_of(by_size[:count])
    while count < len(by_size) and _is_worth_joining(by_size[count], by_size[:count], size, limits):
        size += by_size[count].size_bytes
        count += 1
    total = _bytes_of(by_size)
    quick = [one for one in by_size if is_packed_quickly(one.path)]
    quick_bytes = _bytes_of(quick)
    if quick_bytes >= _TIGHT_BYTES_MIN and _is_fair_share(quick_bytes, of=total - quick_bytes):
        merged = [one for one in by_size[:count] if count > 1 and not is_packed_quickly(one.path)]
        return _pack([*quick, *merged], limits)
    return _merge(by_size, count, limits, tight=_is_fair_share(size, of=total - size))


def _is_worth_joining(larger: DataFile, chosen: Sequence[DataFile], size: int, limits: CompactionLimits) -> bool:
    """Whether files of *size* bytes together are worth writing a *larger* one anew.

    The largest of those *chosen* is taken for what earlier merges have made of what came since the larger one was
    written, in steps like what is new now: these have cost about its square by twice a step.
    """
    if _is_full(larger, size, limits):
        return False
    new = size - chosen[-1].size_bytes or size
    spared_enough = size * size >= 2 * new * _TIGHT_COST * larger.size_bytes
    return spared_enough or _is_fair_share(size, of=larger.size_bytes)


def _is_full(one: DataFile, more: int, limits: CompactionLimits) -> bool:
    """Whether a file is as large as those that are made where there are several, and would be cut with *more* bytes."""
    return 2 * one.size_bytes > limits.file_bytes_max < one.size_bytes + more


def _is_fair_share(size: int, *, of: int) -> bool:
    return of <= _FAIR_SHARE * size


def _merge(
    by_size: Sequence[DataFile], count: int, limits: CompactionLimits, *, tight: bool
) -> PartitionRewrite | None:
    """Make fewer files of the first *count*, and of more where these alone would make as many again."""
    while count < len(by_size) and count > 1 and _pieces(_bytes_of(by_size[:count]), limits) >= count:
        count += 1
    chosen = tuple(by_size[: min(count, limits.rewrite_files_max)])
    pieces = _pieces(_bytes_of(chosen), limits)
    if pieces >= len(chosen):
        return None
    return PartitionRewrite(chosen[0].date, chosen[0].type, chosen, pieces, tight)


def _pack(chosen: Sequence[DataFile], limits: CompactionLimits) -> PartitionRewrite:
    """Make no more files than they are of *chosen*, the first of them, as far as one commit goes."""
    taken: list[DataFile] = []
    for one in chosen[: limits.rewrite_files_max]:
        if taken and _bytes_of(taken) + one.size_bytes > limits.rewrite_bytes_max:
            break
        taken.append(one)
    pieces = min(len(taken), _pieces(_bytes_of(taken), limits))
    return PartitionRewrite(taken[0].date, taken[0].type, tuple(taken), pieces, tight=True)


def _bytes_of(files: Sequence[DataFile]) -> int:
    return sum(one.size_bytes for one in files)


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
