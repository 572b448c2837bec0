"""Retention follows each user as plain Python does, by the day and by the week, and says which periods may go on."""

from __future__ import annotations

from collections import defaultdict
from datetime import date, timedelta
from pathlib import Path
from typing import Literal

import polars as pl
import pytest

from notebooks.weekly_retention import average, granularity_for, retention
from tests.notebooks.running import drawn_rows, run_notebook
from tests.notebooks.stores import sent

NAME = "weekly_retention"


def counted_by_hand(active: list[tuple[str, date]], days: int) -> dict[tuple[date, int], int]:
    """Users of each cohort and age; cohorts without anybody at an age are left out."""
    periods: dict[str, set[date]] = defaultdict(set)
    for user, day in active:
        periods[user].add(day - timedelta(days=day.weekday() if days == 7 else 0))
    counts: dict[tuple[date, int], int] = defaultdict(int)
    for of_user in periods.values():
        for period in of_user:
            counts[min(of_user), (period - min(of_user)).days // days] += 1
    return counts


@pytest.mark.parametrize(("granularity", "days"), [("auto", 1), ("day", 1), ("week", 7)])
def test_the_notebook_counts_as_plain_python_does(
    granularity: str, days: int, sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_notebook(monkeypatch, NAME, "--data", sample, "--granularity", granularity)
    cohorts = found["cohorts"]
    expected = counted_by_hand([(one.user, one.time.date()) for one in sent()], days)
    assert {(row[0], row[1]): row[2] for row in cohorts.iter_rows()} == expected
    assert cohorts.filter(age=0)["size"].sum() == 1_753
    last = max(cohort + timedelta(days=age * days) for cohort, age in expected)
    assert {(row[0], row[1]) for row in cohorts.filter(~pl.col("complete")).iter_rows()} == {
        (cohort, age) for cohort, age in expected if cohort + timedelta(days=age * days) == last
    }
    assert len(drawn_rows(found["grid_chart"])) == len(expected)


def seen(*rows: tuple[str, int]) -> pl.LazyFrame:
    """Users and the days from Monday, 4 March 2024, on which they were active."""
    first = date(2024, 3, 4)
    return pl.LazyFrame({"user_id": [row[0] for row in rows], "date": [first + timedelta(days=row[1]) for row in rows]})


def test_a_week_in_which_nobody_came_back_is_a_row_too() -> None:
    cohorts = retention(seen(("a", 0), ("b", 6), ("a", 20), ("c", 22)), "week")
    assert cohorts.rows() == [
        (date(2024, 3, 4), 0, 2, 2, 1.0, True),
        (date(2024, 3, 4), 1, 0, 2, 0.0, True),
        (date(2024, 3, 4), 2, 1, 2, 0.5, True),
        (date(2024, 3, 4), 3, 0, 2, 0.0, False),
        (date(2024, 3, 25), 0, 1, 1, 1.0, False),
    ]
    assert average(cohorts).rows() == [(0, 1.0, 2, 1), (1, 0.0, 2, 1), (2, 0.5, 2, 1)]


def test_the_average_weighs_cohorts_by_their_size() -> None:
    cohorts = retention(seen(*((f"big-{n}", 0) for n in range(9)), ("small", 1), ("small", 2), ("later", 5)), "day")
    share = average(cohorts).filter(age=1)["share"].item()
    assert share == pytest.approx(1 / 10)


@pytest.mark.parametrize(
    ("days", "wanted", "chosen"),
    [(3, "auto", "day"), (12, "auto", "day"), (13, "auto", "week"), (3, "week", "week"), (300, "day", "day")],
)
def test_weeks_are_chosen_where_there_are_two_of_them(days: int, wanted: str, chosen: Literal["day", "week"]) -> None:
    assert granularity_for(date(2024, 3, 4), date(2024, 3, 4) + timedelta(days=days), wanted) == chosen


def test_another_granularity_is_refused() -> None:
    with pytest.raises(ValueError, match="'month'"):
        granularity_for(date(2024, 3, 4), date(2024, 3, 5), "month")
