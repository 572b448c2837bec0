"""The notebook of timelines and funnels counts what plain Python counts in what was sent."""

from __future__ import annotations

from collections import Counter, defaultdict
from datetime import UTC, datetime
from pathlib import Path

import polars as pl
import pytest

from notebooks.user_timelines_and_funnels import busiest_users, funnel, sessions_chart, timeline
from tests.notebooks.running import drawn_rows, run_notebook
from tests.notebooks.stores import Sent, sent

BUSIEST = "u-ecc23c4848f8"
NAME = "user_timelines_and_funnels"


def matches(step: str, action: Sent) -> bool:
    wanted_type, _, text = step.partition(":")
    return wanted_type in ("*", action.type) and text in action.page


def sessions_by_step(steps: list[str]) -> list[int]:
    sessions: dict[str, list[Sent]] = defaultdict(list)
    for one in sent():
        sessions[one.session].append(one)
    counts = [0] * len(steps)
    for actions in sessions.values():
        # Sorting is stable: actions of one second stay in the order in which they were submitted.
        taken = 0
        for action in sorted(actions, key=lambda one: one.time):
            if taken < len(steps) and matches(steps[taken], action):
                counts[taken] += 1
                taken += 1
    return counts


def frame(*rows: tuple[str | None, int, str, str]) -> pl.LazyFrame:
    """Actions of one user: session, second, type, page; positions as given."""
    return pl.LazyFrame(
        {
            "user_id": ["u"] * len(rows),
            "session_id": pl.Series([row[0] for row in rows], dtype=pl.String),
            "time": [datetime(2024, 3, 1, 23, 59, row[1], tzinfo=UTC) for row in rows],
            "journal": ["j"] * len(rows),
            "position": list(range(len(rows))),
            "type": [row[2] for row in rows],
            "viewed_id": [row[3] if row[2] == "view" else None for row in rows],
            "page_to": [row[3] if row[2] == "navigate" else None for row in rows],
            "utc_offset_minutes": [60] * len(rows),
        },
        schema_overrides={"viewed_id": pl.String, "page_to": pl.String},
    )


def test_the_notebook_knows_the_busiest_user(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = run_notebook(monkeypatch, NAME, "--data", sample)
    expected = Counter(one.user for one in sent()).most_common(3)
    assert found["users"].select("user_id", "actions").rows()[:3] == expected
    assert expected == [(BUSIEST, 482), ("u-85103a303602", 364), ("u-90d66560cea7", 357)]
    assert found["user_actions"].height == 482
    assert sum(row["actions"] for row in drawn_rows(found["hours_chart"])) == 482
    latest = sorted((one for one in sent() if one.user == BUSIEST), key=lambda one: one.time)[-1]
    ticks = drawn_rows(found["lanes_chart"])
    assert max(row["at"] for row in ticks) == latest.time.strftime("%Y-%m-%d %H:%M:%S")
    assert len({row["session"] for row in ticks}) == 20


def test_the_users_of_one_day_are_read_from_the_files_of_that_day(
    sample: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = run_notebook(
        monkeypatch, NAME, "--data", sample, "--since", "2015-05-18", "--until", "2015-05-18", "--user", BUSIEST
    )
    expected = [one for one in sent() if one.user == BUSIEST and one.time.day == 18]
    assert found["user_actions"].height == len(expected)
    # Of eight files, one for each of four days and two types.
    assert len(list(sample.glob("actions/date=*/type=*/*.parquet"))) == 8
    plan = found["user_query"].explain()
    assert "date=2015-05-18/" in plan
    assert "date=2015-05-17/" not in plan
    assert "date=2015-05-19/" not in plan
    assert busiest_users(found["actions"]).select(pl.col("actions").sum()).collect().item() == 2_893


@pytest.mark.parametrize(
    "steps",
    [
        ["view", "navigate", "navigate", "navigate"],
        ["*:/projects/xdotool", "navigate:xdotool.xhtml", "*"],
        ["view:/no-such-page", "navigate"],
    ],
)
def test_a_funnel_counts_as_plain_python_does(steps: list[str], sample: Path) -> None:
    counted = funnel(pl.scan_delta(sample / "actions"), steps)
    expected = sessions_by_step(steps)
    assert counted["sessions"].to_list() == expected
    assert counted["step"].to_list() == steps
    if expected[0]:
        assert counted["share"].to_list() == pytest.approx([count / expected[0] for count in expected])
        assert sum(expected) > expected[0]
    else:
        assert counted["share"].to_list() == [None, None]


def test_steps_are_taken_in_order_within_a_session() -> None:
    actions = frame(
        ("a", 1, "view", "/1"), ("a", 5, "navigate", "/2"), ("a", 5, "view", "/3"),
        ("b", 2, "navigate", "/2"), ("b", 4, "view", "/1"),
        (None, 1, "view", "/1"), (None, 2, "navigate", "/2"),
    )  # fmt: skip
    counted = funnel(actions, ["view", "navigate", "view"])
    assert counted["sessions"].to_list() == [2, 1, 1]
    assert counted["median_s"].to_list() == [None, 4.0, 0.0]
    assert counted["of_previous"].to_list() == [None, 0.5, 1.0]


@pytest.mark.parametrize("steps", [[], [""], ["view", ":/about"]])
def test_a_funnel_that_is_not_written_right_is_refused(steps: list[str]) -> None:
    with pytest.raises(ValueError, match="step"):
        funnel(frame(("a", 1, "view", "/1")), steps)


def test_a_timeline_is_in_local_time_and_knows_actions_without_a_session() -> None:
    rows = timeline(
        frame(("a", 10, "view", "/1"), (None, 20, "view", "/2"), ("a", 40, "navigate", "/3")), "u"
    ).collect()
    assert rows["local_time"].to_list()[0] == datetime(2024, 3, 2, 0, 59, 10)
    assert rows["minutes_in"].to_list() == [0.0, None, 0.5]
    assert rows["page"].to_list() == ["/1", "/2", "/3"]
    assert len(drawn_rows(sessions_chart(rows))) == 2
