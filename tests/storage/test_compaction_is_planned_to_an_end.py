"""The planner chooses files that are worth it, never two plans for one file, and comes to an end; what it costs."""

from __future__ import annotations

import datetime
import math
import random
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from storage.data_files import DataFile
from storage.file_names import is_packed_quickly
from storage.maintenance.planning import (
    CompactionLimits,
    CompactionPlan,
    PartitionRewrite,
    files_aimed_at,
    is_pressing,
    plan_compaction,
)

LIMITS = CompactionLimits(
    file_bytes_max=1000, files_spare=4, rest_ms=1000, rewrite_files_max=20, rewrite_bytes_max=5_000
)
NOW_MS = 1_000_000
RESTED_MS = NOW_MS - 5_000
DAY = datetime.date(2024, 3, 1)


def data_file(
    number: int, size: int, *, day: int = 0, kind: str = "click", at_ms: int = RESTED_MS, quick: bool = False
) -> DataFile:
    name = f"/t/part-0-quick-{number}.parquet" if quick else f"/t/f{number}"
    return DataFile(name, size, max(1, size // 10), DAY + datetime.timedelta(day), kind, 0, 1, written_at_ms=at_ms)


def plan(files: list[DataFile], **options: object) -> CompactionPlan:
    return plan_compaction(files, LIMITS, now_ms=NOW_MS, **options)  # type: ignore[arg-type]


def done(files: list[DataFile], planned: CompactionPlan, names: list[int]) -> list[DataFile]:
    """The files after the plan was carried out: sizes are what they were."""
    left = {one.path: one for one in files}
    for rewrite in planned.rewrites:
        newest_ms = max(one.written_at_ms for one in rewrite.files)
        for one in rewrite.files:
            del left[one.path]
        for piece in range(rewrite.pieces):
            names[0] += 1
            share = rewrite.bytes // rewrite.pieces + (1 if piece < rewrite.bytes % rewrite.pieces else 0)
            first = rewrite.files[0]
            made = data_file(names[0], share, kind=first.type, at_ms=newest_ms, quick=not rewrite.tight)
            made = replace(made, date=first.date)
            left[made.path] = made
    return list(left.values())


# In which most files are worth being packed tightly, and in which all are.
LARGE = replace(LIMITS, file_bytes_max=1_000_000, rewrite_bytes_max=5_000_000)
LARGEST = replace(LIMITS, file_bytes_max=200_000_000, rewrite_bytes_max=1_000_000_000)
some_files = st.lists(
    st.tuples(
        st.integers(1, 1200), st.integers(0, 2), st.sampled_from(["click", "view"]), st.booleans(), st.booleans()
    ),
    max_size=60,
).map(
    lambda rows: [
        data_file(number, size, day=day, kind=kind, at_ms=NOW_MS if fresh else RESTED_MS, quick=quick)
        for number, (size, day, kind, fresh, quick) in enumerate(rows)
    ]
)
some_limits = st.sampled_from([LIMITS, LARGE, LARGEST])


def scaled(files: list[DataFile], limits: CompactionLimits) -> list[DataFile]:
    """The same files, in the proportions of *limits*."""
    return [replace(one, size_bytes=one.size_bytes * (limits.file_bytes_max // 1000)) for one in files]


@given(some_files, st.booleans(), some_limits)
@settings(max_examples=150)
def test_doing_what_is_planned_comes_to_an_end_and_leaves_few_files(
    files: list[DataFile], thorough: bool, limits: CompactionLimits
) -> None:
    names = [len(files)]
    files = scaled(files, limits)
    total = sum(one.size_bytes for one in files)
    while (planned := plan_compaction(files, limits, now_ms=NOW_MS, thorough=thorough)).batches:
        before = len(files), quick_ones(files)
        files = done(files, planned, names)
        assert (len(files), quick_ones(files)) < before
    assert sum(one.size_bytes for one in files) == total
    partitions: dict[object, list[DataFile]] = {}
    for one in files:
        partitions.setdefault((one.date, one.type), []).append(one)
    for members in partitions.values():
        size = sum(one.size_bytes for one in members)
        aim = files_aimed_at(size, limits)
        resting = thorough or all(one.written_at_ms <= RESTED_MS for one in members)
        assert len(members) <= aim + (0 if resting else limits.files_spare)
        if size <= limits.file_bytes_max and resting:
            assert len(members) <= 2
        if resting:
            quick_bytes = sum(one.size_bytes for one in members if is_packed_quickly(one.path))
            assert quick_bytes < 128 * 1024 or quick_bytes * 4 <= size


def quick_ones(files: list[DataFile]) -> int:
    return sum(is_packed_quickly(one.path) for one in files)


@given(some_files, st.booleans(), some_limits)
@settings(max_examples=100)
def test_a_plan_names_each_file_once_and_keeps_its_bounds(
    files: list[DataFile], thorough: bool, limits: CompactionLimits
) -> None:
    files = scaled(files, limits)
    planned = plan_compaction(files, limits, now_ms=NOW_MS, thorough=thorough)
    named = Counter(one.path for rewrite in planned.rewrites for one in rewrite.files)
    assert set(named.values()) <= {1}
    assert set(named) <= {one.path for one in files}
    for rewrite in planned.rewrites:
        assert len({(one.date, one.type) for one in rewrite.files}) == 1
        assert len(rewrite.files) <= limits.rewrite_files_max
        if rewrite.pieces < len(rewrite.files):
            assert rewrite.bytes / rewrite.pieces <= limits.file_bytes_max
        else:
            assert rewrite.tight, "nothing would be better for it"
            assert quick_ones(list(rewrite.files)), "nothing would be better for it"
            assert rewrite.pieces == len(rewrite.files)
    for batch in planned.batches:
        assert sum(len(rewrite.files) for rewrite in batch) <= limits.rewrite_files_max
        assert len(batch) == 1 or sum(rewrite.bytes for rewrite in batch) <= limits.rewrite_bytes_max
    assert planned == plan_compaction(list(reversed(files)), limits, now_ms=NOW_MS, thorough=thorough), (
        "the order of the files does not matter"
    )


def test_a_partition_that_is_still_written_to_is_left_until_it_has_many_files() -> None:
    few = [data_file(number, 10, at_ms=NOW_MS) for number in range(6)]
    assert not plan(few).batches
    assert plan([*few, data_file(6, 10, at_ms=NOW_MS)]).batches
    assert plan([replace(one, written_at_ms=RESTED_MS) for one in few]).batches


@pytest.mark.parametrize("thorough", [False, True])
def test_a_small_late_file_does_not_draw_in_a_large_one_until_it_is_worth_it(thorough: bool) -> None:
    files = [data_file(0, 900), data_file(1, 5), data_file(2, 5)]
    (rewrite,) = plan(files, thorough=thorough).rewrites
    assert {one.path for one in rewrite.files} == {"/t/f1", "/t/f2"}
    assert not rewrite.tight, "it is soon merged with what comes next"
    (rewrite,) = plan([data_file(0, 600), data_file(1, 200), data_file(2, 190)], thorough=thorough).rewrites
    assert len(rewrite.files) == 3
    assert rewrite.tight


@pytest.mark.parametrize("thorough", [False, True])
def test_one_large_and_one_small_file_stay_and_two_of_about_one_size_become_one(thorough: bool) -> None:
    assert not plan([data_file(0, 400), data_file(1, 100)], thorough=thorough).batches
    (rewrite,) = plan([data_file(0, 300), data_file(1, 100)], thorough=thorough).rewrites
    assert rewrite.pieces == 1


def test_a_full_file_is_not_written_anew_for_others() -> None:
    files = [data_file(0, 995), data_file(1, 900), data_file(2, 330), data_file(3, 300), data_file(4, 20)]
    (rewrite,) = plan(files, thorough=True).rewrites
    assert {one.path for one in rewrite.files} == {"/t/f2", "/t/f3", "/t/f4"}


@dataclass
class Stream:
    """What came of a stream of flushes into one partition, and what it cost.

    Attributes:
        written, rewritten: bytes by flushes, and by compactions.
        largest: how often the largest file was among those written anew.
        files_max: most files at any moment.
    """

    written: int = 0
    rewritten: int = 0
    largest: int = 0
    files_max: int = 0

    @property
    def cost(self) -> float:
        """How often a byte was written anew."""
        return self.rewritten / self.written


def streamed(sizes: Iterable[int], *, thorough: bool, flushes_a_look: int = 1) -> Stream:
    """Plan, and do what is planned, after every so many flushes of these sizes, until nothing is planned."""
    limits = CompactionLimits(file_bytes_max=1 << 60, rewrite_bytes_max=1 << 60)
    files: list[DataFile] = []
    found, names = Stream(), [0]
    for number, size in enumerate(sizes, 1):
        names[0] += 1
        found.written += size
        files.append(data_file(names[0], size, at_ms=NOW_MS, quick=True))
        found.files_max = max(found.files_max, len(files))
        while number % flushes_a_look == 0:
            planned = plan_compaction(files, limits, now_ms=NOW_MS, thorough=thorough)
            if not planned.batches:
                break
            largest = max(files, key=lambda one: one.size_bytes)
            found.rewritten += sum(rewrite.bytes for rewrite in planned.rewrites)
            found.largest += any(largest in rewrite.files for rewrite in planned.rewrites)
            files = done(files, planned, names)
    return found


def flushes(count: int, seed: int) -> list[int]:
    """Sizes as they come: most of about one size, some much smaller and some much larger."""
    choose = random.Random(seed)
    return [1 + int(choose.lognormvariate(9, 1)) for _ in range(count)]


@pytest.mark.parametrize("flushes_a_look", [1, 5])
@pytest.mark.parametrize("count", [100, 1_000, 10_000])
def test_what_is_written_to_costs_the_logarithm_of_the_number_of_flushes(count: int, flushes_a_look: int) -> None:
    """A byte is written anew less than half as often as the number of flushes can be doubled, also in long streams."""
    for sizes in (flushes(count, seed=count), [8 + number % 5 for number in range(count)], [10] * count):
        found = streamed(sizes, thorough=False, flushes_a_look=flushes_a_look)
        assert found.cost <= 0.5 * math.log2(count)
        assert found.files_max <= 2 + CompactionLimits().files_spare + flushes_a_look


@pytest.mark.parametrize("count", [30, 300, 1_000])
def test_two_files_at_every_moment_cost_the_root_of_the_number_of_flushes(count: int) -> None:
    """As little as two files allow. Merging everything each time would cost half of the number of flushes."""
    for sizes in (flushes(count, seed=count), [8 + number % 5 for number in range(count)], [10_000] * count):
        found = streamed(sizes, thorough=True)
        assert found.files_max <= 3
        assert found.cost <= 2 * math.sqrt(count)
        assert found.largest <= 3 * math.sqrt(count)


@given(st.lists(st.integers(1, 1_000_000), min_size=1, max_size=120))
@settings(max_examples=60)
def test_no_order_of_sizes_makes_it_write_everything_anew_each_time(sizes: list[int]) -> None:
    """Whatever comes: each byte is taken in a bounded number of times for each doubling of what there is."""
    written = streamed(sizes, thorough=False)
    assert written.cost <= 2 + math.log2(sum(sizes) / min(sizes) + 1)


def test_what_was_packed_quickly_and_stays_is_packed_tightly_once_it_is_a_fair_share() -> None:
    """What an erasure has written anew, or a flush in a partition that nothing else came to."""
    limits = CompactionLimits()
    tight = [data_file(1, 100_000_000), data_file(2, 30_000_000)]

    def planned(files: list[DataFile], *, now_ms: int = NOW_MS + limits.rest_ms) -> list[PartitionRewrite]:
        return list(plan_compaction(files, limits, now_ms=now_ms).rewrites)

    assert not planned([tight[0]])
    alone = data_file(3, 1_000_000, quick=True)
    (rewrite,) = planned([alone])
    assert rewrite.tight
    assert rewrite.pieces == 1
    assert not planned([alone], now_ms=RESTED_MS + limits.rest_ms - 1), "it may be merged with what still comes"
    assert not planned([replace(alone, size_bytes=50_000)]), "nothing to be gained"
    assert not planned([tight[0], alone]), "too little of the partition"
    (rewrite,) = planned([replace(tight[0], path="/t/part-0-quick-1.parquet"), tight[1]])
    assert [one.size_bytes for one in rewrite.files] == [100_000_000], "the tight file is not written anew for it"


@pytest.mark.parametrize("thorough", [False, True])
def test_one_file_is_left_alone_and_so_is_what_is_left_out(thorough: bool) -> None:
    assert not plan([data_file(0, 10)], thorough=thorough).batches
    files = [data_file(number, 10) for number in range(9)]
    assert not plan(files, thorough=thorough, without={(DAY, "click")}).batches


def test_files_press_in_one_partition_when_there_are_many_times_the_spare_ones() -> None:
    patient = [data_file(number, 5) for number in range(2 + 4 * LIMITS.files_spare)]
    elsewhere = [data_file(100 + number, 5, day=1 + number) for number in range(100)]
    assert not is_pressing(patient + elsewhere, LIMITS)
    assert is_pressing([*patient, data_file(200, 5), *elsewhere], LIMITS)
