"""The planner chooses files that are worth it, never two plans for one file, and comes to an end."""

from __future__ import annotations

import datetime
from collections import Counter
from dataclasses import replace

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings

from storage.data_files import DataFile
from storage.maintenance.planning import CompactionLimits, CompactionPlan, files_aimed_at, plan_compaction

LIMITS = CompactionLimits(
    file_bytes_max=1000, files_spare=4, rest_ms=1000, rewrite_files_max=20, rewrite_bytes_max=5_000
)
NOW_MS = 1_000_000
RESTED_MS = NOW_MS - 5_000
DAY = datetime.date(2024, 3, 1)


def data_file(number: int, size: int, *, day: int = 0, kind: str = "click", at_ms: int = RESTED_MS) -> DataFile:
    return DataFile(
        f"/t/f{number}", size, max(1, size // 10), DAY + datetime.timedelta(day), kind, 0, 1, written_at_ms=at_ms
    )


def plan(files: list[DataFile], **options: object) -> CompactionPlan:
    return plan_compaction(files, LIMITS, now_ms=NOW_MS, **options)  # type: ignore[arg-type]


def done(files: list[DataFile], planned: CompactionPlan, names: list[int]) -> list[DataFile]:
    """The files after the plan was carried out: sizes are what they were."""
    left = {one.path: one for one in files}
    for rewrite in planned.rewrites:
        for one in rewrite.files:
            del left[one.path]
        for piece in range(rewrite.pieces):
            names[0] += 1
            share = rewrite.bytes // rewrite.pieces + (1 if piece < rewrite.bytes % rewrite.pieces else 0)
            made = replace(rewrite.files[0], path=f"/t/f{names[0]}", size_bytes=share, rows=max(1, share // 10))
            left[made.path] = made
    return list(left.values())


some_files = st.lists(
    st.tuples(st.integers(1, 1200), st.integers(0, 2), st.sampled_from(["click", "view"]), st.booleans()), max_size=60
).map(
    lambda rows: [
        data_file(number, size, day=day, kind=kind, at_ms=NOW_MS if fresh else RESTED_MS)
        for number, (size, day, kind, fresh) in enumerate(rows)
    ]
)


@given(some_files, st.booleans())
@settings(max_examples=150)
def test_doing_what_is_planned_comes_to_an_end_and_leaves_few_files(files: list[DataFile], thorough: bool) -> None:
    names = [len(files)]
    total = sum(one.size_bytes for one in files)
    while (planned := plan(files, thorough=thorough)).batches:
        before = len(files)
        files = done(files, planned, names)
        assert len(files) < before
    assert sum(one.size_bytes for one in files) == total
    partitions: dict[object, list[DataFile]] = {}
    for one in files:
        partitions.setdefault((one.date, one.type), []).append(one)
    for members in partitions.values():
        size = sum(one.size_bytes for one in members)
        aim = files_aimed_at(size, LIMITS, thorough=thorough)
        resting = thorough or all(one.written_at_ms <= RESTED_MS for one in members)
        assert len(members) <= aim + (0 if resting else LIMITS.files_spare)
        if size <= LIMITS.file_bytes_max and resting:
            assert len(members) <= 2


@given(some_files, st.booleans())
@settings(max_examples=100)
def test_a_plan_names_each_file_once_and_keeps_its_bounds(files: list[DataFile], thorough: bool) -> None:
    planned = plan(files, thorough=thorough)
    named = Counter(one.path for rewrite in planned.rewrites for one in rewrite.files)
    assert set(named.values()) <= {1}
    assert set(named) <= {one.path for one in files}
    for rewrite in planned.rewrites:
        assert len({(one.date, one.type) for one in rewrite.files}) == 1
        assert rewrite.pieces < len(rewrite.files) <= LIMITS.rewrite_files_max
        assert rewrite.bytes / rewrite.pieces <= LIMITS.file_bytes_max
    for batch in planned.batches:
        assert sum(len(rewrite.files) for rewrite in batch) <= LIMITS.rewrite_files_max
        assert len(batch) == 1 or sum(rewrite.bytes for rewrite in batch) <= LIMITS.rewrite_bytes_max
    assert planned == plan(list(reversed(files)), thorough=thorough), "the order of the files does not matter"


def test_a_partition_that_is_still_written_to_is_left_until_it_has_many_files() -> None:
    few = [data_file(number, 10, at_ms=NOW_MS) for number in range(6)]
    assert not plan(few).batches
    assert plan([*few, data_file(6, 10, at_ms=NOW_MS)]).batches
    assert plan([replace(one, written_at_ms=RESTED_MS) for one in few]).batches


def test_a_small_late_file_does_not_draw_in_a_large_one_until_it_is_worth_it() -> None:
    files = [data_file(0, 900), data_file(1, 5), data_file(2, 5)]
    (rewrite,) = plan(files).rewrites
    assert {one.path for one in rewrite.files} == {"/t/f1", "/t/f2"}
    (rewrite,) = plan([data_file(0, 600), data_file(1, 200), data_file(2, 190)]).rewrites
    assert len(rewrite.files) == 3


def test_late_rows_are_written_anew_a_bounded_number_of_times() -> None:
    """2,000 flushes into a partition that always rests: the rewritten bytes stay within a small multiple."""
    limits = replace(LIMITS, file_bytes_max=1_000_000, rewrite_files_max=500, rewrite_bytes_max=10_000_000)
    files: list[DataFile] = []
    names = [0]
    rewritten = 0
    for _ in range(2_000):
        names[0] += 1
        files.append(data_file(names[0], 10))
        while (planned := plan_compaction(files, limits, now_ms=NOW_MS)).batches:
            rewritten += sum(rewrite.bytes for rewrite in planned.rewrites)
            files = done(files, planned, names)
    assert len(files) <= 2
    assert rewritten < 200 * 20_000, "merging everything each time would write 20 million bytes"


def test_what_is_written_to_without_pause_is_rewritten_few_times_and_never_has_many_files() -> None:
    """2,000 flushes without a rest, five between two looks; with what is larger joined each time it took 9 times."""
    limits = CompactionLimits(file_bytes_max=1_000_000, files_spare=16)
    files: list[DataFile] = []
    names = [0]
    rewritten = 0
    for number in range(2_000):
        names[0] += 1
        # Flushes are not all of one size.
        files.append(data_file(names[0], 8 + number % 5, at_ms=NOW_MS))
        while number % 5 == 0 and (planned := plan_compaction(files, limits, now_ms=NOW_MS)).batches:
            rewritten += sum(rewrite.bytes for rewrite in planned.rewrites)
            files = done(files, planned, names)
        assert len(files) <= 2 + limits.files_spare + 5
    assert rewritten <= 3.5 * 20_000


@pytest.mark.parametrize("thorough", [False, True])
def test_one_file_is_left_alone_and_so_is_what_is_left_out(thorough: bool) -> None:
    assert not plan([data_file(0, 10)], thorough=thorough).batches
    files = [data_file(number, 10) for number in range(9)]
    assert not plan(files, thorough=thorough, without={(DAY, "click")}).batches
