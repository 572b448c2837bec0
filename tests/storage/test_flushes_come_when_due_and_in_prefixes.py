"""A flush comes when it is due or asked for, in prefixes of positions that each have a watermark of their own."""

from __future__ import annotations

import pytest

from storage.flush import Flusher, FlushLimits, FlushPlan, FlushResult, plan_flush
from storage.journal_records import JournalState
from storage.lake import Lake
from storage.store import Store
from tests.storage.building import (
    data_files,
    flusher,
    in_lake,
    positions,
    put,
    stored,
    through,
)

# Prefixes


@pytest.mark.parametrize(
    ("counts", "days", "limits", "commits"),
    [
        ([20], 5, FlushLimits(), [20]),
        ([20], 5, FlushLimits(partitions_max=2), [8, 8, 4]),
        ([20], 5, FlushLimits(partitions_max=1), [4, 4, 4, 4, 4]),
        ([10, 10], 2, FlushLimits(rows_max=1), [10, 10]),
        ([10, 10], 2, FlushLimits(bytes_max=1), [10, 10]),
        ([10, 10], 2, FlushLimits(rows_max=1, partitions_max=1), [5, 5, 5, 5]),
        ([6, 6], 3, FlushLimits(partitions_max=2), [4, 4, 4]),
        ([10] * 5, 2, FlushLimits(rows_max=10, backlog_commits=2), [20, 20, 10]),
        ([15, 15], 1, FlushLimits(rows_max=10, backlog_commits=2), [15, 15]),
    ],
)
def test_a_flush_is_split_into_prefixes_each_with_its_own_watermark(
    store: Store, counts: list[int], days: int, limits: FlushLimits, commits: list[int]
) -> None:
    """By rows, bytes and partitions; inside a submission, and across the end of one."""
    put(store, *counts, days=days)
    done: list[FlushResult] = []
    flusher(store, limits=limits, done=done).flush(sum(counts))
    assert [one.rows for one in done] == commits
    assert in_lake(store) == through(sum(counts))
    assert Lake(store.paths.table, store.schema).watermark(store.journal_id) == sum(counts)
    assert store.journal.state().bytes == 0


def test_a_flush_up_to_a_position_takes_whole_submissions(store: Store) -> None:
    put(store, 3)
    put(store, 3)
    flusher(store).flush(2)
    assert in_lake(store) == through(3)
    flusher(store).flush(100)
    assert in_lake(store) == through(6)


@pytest.mark.parametrize(
    ("counts", "limits", "commits"),
    [
        ([10, 10, 4], FlushLimits(rows_max=10), [10, 10]),
        ([10, 10, 5], FlushLimits(rows_max=10), [10, 10, 5]),
        ([4], FlushLimits(rows_max=10), [4]),
        ([10, 10, 4], FlushLimits(rows_max=10, bytes_max=500), [10, 10, 4]),
    ],
)
def test_what_is_not_worth_a_commit_is_left_where_nobody_waits_for_it(
    store: Store, counts: list[int], limits: FlushLimits, commits: list[int]
) -> None:
    """Less than half of what a commit may take, by rows and by bytes, and only at the end of a flush."""
    put(store, *counts)
    done: list[FlushResult] = []
    flusher(store, limits=limits, done=done).flush(sum(counts), to_the_end=False)
    assert [one.rows for one in done] == commits
    assert in_lake(store) == through(sum(commits))
    assert positions(store) == through(sum(counts))
    flusher(store, limits=limits).flush(sum(counts))
    assert in_lake(store) == through(sum(counts))


def test_a_flush_that_somebody_waits_for_goes_to_the_end() -> None:
    assert {why: FlushPlan(1, why).to_the_end for why in ("request", "age", "rows", "bytes")} == {
        "request": True,
        "age": True,
        "rows": False,
        "bytes": False,
    }


def test_an_empty_journal_makes_no_commit(store: Store) -> None:
    flusher(store).flush(0)
    assert store.read_view().snapshot.version == 0


# When a flush is due


def state(*, head: int = 10, trimmed: int = 0, size: int = 1000, requested: int = 0) -> JournalState:
    return JournalState("j", head + 1, trimmed, 0, 0, size, requested)


@pytest.mark.parametrize(
    ("journal", "waited_ms", "plan"),
    [
        (state(), 59_999, None),
        (state(), 60_000, FlushPlan(10, "age")),
        (state(head=199_999), 0, None),
        (state(head=200_000), 0, FlushPlan(200_000, "rows")),
        (state(head=250_000, trimmed=100_000), 0, None),
        (state(size=67_108_864), 0, FlushPlan(10, "bytes")),
        (state(requested=1), 0, FlushPlan(10, "request")),
        (state(requested=5, trimmed=5), 0, None),
        (state(head=5, trimmed=5, requested=7, size=1 << 40), 1 << 40, None),
    ],
)
def test_a_flush_is_due_by_age_rows_bytes_or_request(
    journal: JournalState, waited_ms: int, plan: FlushPlan | None
) -> None:
    oldest = 1_000_000_000_000
    now = oldest + waited_ms * 1000
    assert plan_flush(journal, oldest_received_at_us=oldest, now_us=now, limits=FlushLimits()) == plan


def test_what_a_flush_did_is_told(store: Store) -> None:
    put(store, 4, days=2)
    done: list[FlushResult] = []
    worker: Flusher = flusher(store, done=done)
    worker.flush(4)
    (one,) = done
    assert (one.rows, one.files, one.version, one.rejected) == (4, 2, 1, 0)
    assert one.bytes == sum(path.stat().st_size for path in data_files(store.paths.data))
    assert one.seconds > 0
    assert [journal for journal, _ in stored(store)] == [store.journal_id] * 4
