"""A day leaves the table when all of it is older than its type may become: at once, durably, and no other row."""

from __future__ import annotations

import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from storage.data_files import DataFile
from storage.lake import Lake
from storage.maintenance.retention import RetentionRules, expire, expired_files
from storage.store import Store
from tests.storage.building import FIRST_DAY, positions, put, request, through
from tests.storage.compacting import put_files

DAY_MS = 86_400_000


def at(day: datetime.date, *, hour: int = 12) -> int:
    moment = datetime.datetime.combine(day, datetime.time(hour), datetime.UTC)
    return int(moment.timestamp()) * 1000


def data_file(day: datetime.date, kind: str = "click", number: int = 0) -> DataFile:
    return DataFile(f"/t/{day}-{kind}-{number}", 10, 1, day, kind, 0, 1)


@given(st.dates(datetime.date(1970, 1, 1), datetime.date(2030, 1, 1)), st.integers(1, 5000), st.integers(0, 23))
def test_no_instant_of_a_day_that_goes_is_younger_than_the_age(day: datetime.date, days: int, hour: int) -> None:
    now_ms = at(day + datetime.timedelta(days=days), hour=hour)
    rules = RetentionRules({"click": days})
    candidates = [data_file(day + datetime.timedelta(days=offset)) for offset in range(-2, 3)]
    gone = {one.date for group in expired_files(candidates, rules, now_ms=now_ms) for one in group}
    for one in candidates:
        last_instant_ms = at(one.date, hour=0) + DAY_MS - 1
        if one.date in gone:
            assert now_ms - last_instant_ms >= days * DAY_MS
        else:
            assert now_ms - last_instant_ms < (days + 1) * DAY_MS, "and it goes within a day of its time"


def test_each_type_has_its_own_age_and_none_is_for_ever() -> None:
    day = datetime.date(2024, 3, 1)
    files = [data_file(day, kind) for kind in ("click", "view", "navigate")]
    now_ms = at(day + datetime.timedelta(days=40))

    def gone(rules: RetentionRules) -> set[str]:
        return {one.type for group in expired_files(files, rules, now_ms=now_ms) for one in group}

    assert gone(RetentionRules()) == set()
    assert gone(RetentionRules(days_default=30)) == {"click", "view", "navigate"}
    assert gone(RetentionRules({"view": 90}, days_default=30)) == {"click", "navigate"}
    assert gone(RetentionRules({"view": 30})) == {"view"}


def test_a_partition_goes_in_one_commit_and_many_of_them_in_several() -> None:
    first = datetime.date(2000, 1, 1)
    files = [data_file(first + datetime.timedelta(days=n), number=k) for n in range(900) for k in range(3)]
    groups = expired_files(files, RetentionRules(days_default=1), now_ms=at(datetime.date(2024, 1, 1)))
    assert sum(map(len, groups)) == 2_700
    assert all(len(group) <= 1_000 for group in groups)
    dates = [{one.date for one in group} for group in groups]
    assert sum(map(len, dates)) == len(set.union(*dates)) == 900


def test_expired_rows_leave_the_table_and_all_others_stay(store: Store) -> None:
    put_files(store, 2, rows=6, days=3)
    store.append([request(4, kind="VIEW")])
    store.flush_here()
    put(store, 1)
    now_ms = at(FIRST_DAY.date() + datetime.timedelta(days=11), hour=0)
    lake = Lake(store.paths.table, store.schema)
    done = expire(lake, store.journal, store.latch, RetentionRules({"click": 10}), now_ms=lambda: now_ms)
    assert (done.partitions, done.files, done.rows) == (1, 2, 4)
    view = store.read_view()
    assert view.snapshot.version == store.journal.state().durable_version
    assert {(one.date.day, one.type) for one in view.files} == {(1, "view"), (2, "click"), (3, "click")}
    assert positions(store) == [3, 4, 5, 6, 9, 10, 11, 12, 13, 14, 15, 16, 17]
    assert expire(lake, store.journal, store.latch, RetentionRules({"click": 10}), now_ms=lambda: now_ms).files == 0


def test_late_rows_of_an_expired_day_go_with_the_next_look(store: Store) -> None:
    put(store, 2)
    store.flush_here()
    lake = Lake(store.paths.table, store.schema)
    rules = RetentionRules(days_default=10)
    assert expire(lake, store.journal, store.latch, rules, now_ms=lambda: at(datetime.date(2024, 6, 1))).rows == 2
    put(store, 3)
    store.flush_here()
    assert positions(store) == [3, 4, 5]
    assert expire(lake, store.journal, store.latch, rules, now_ms=lambda: at(datetime.date(2024, 6, 1))).rows == 3
    assert positions(store) == []
    put(store, 1)
    assert positions(store) == [6]


@pytest.mark.parametrize("days", [1, 5_000, 800_000])
def test_an_age_beyond_all_dates_is_no_error(days: int) -> None:
    assert through(0) == []
    files = [data_file(datetime.date(1970, 1, 1))]
    gone = expired_files(files, RetentionRules(days_default=days), now_ms=at(datetime.date(2024, 1, 1)))
    assert bool(gone) == (days <= 5_000)
