"""For each shape of retrieval: how many files may be opened and how many bytes read, out of how many."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from tests.service.running_service import RunningService, action, running_service, submission
from tests.storage.building import eventually

DAYS = 10
USERS = 200
TYPES = ("CLICK", "VIEW", "NAVIGATE")
FILES = DAYS * len(TYPES)


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Thirty files, one for each day and type, each with all 200 users, hour by hour."""
    with running_service(tmp_path_factory.mktemp("pushdown") / "data") as service:
        for user in range(USERS):
            sent = [
                action(f"2023-07-{day:02d}T{(user + n) % 24:02d}:30:00Z", type_, n=n, text=f"{user:04d}-{n}" * 20)
                for day in range(1, DAYS + 1)
                for n, type_ in enumerate(TYPES)
            ]
            assert service.submit(submission(f"user-{user:04d}", *sent)).json()["accepted"] == FILES
        service.flush()
        yield service


DAY = {"fromTime": "2023-07-04T00:00:00Z", "toTime": "2023-07-04T23:59:59Z"}
HOUR = {"fromTime": "2023-07-04T10:00:00Z", "toTime": "2023-07-04T10:59:59Z"}

SHAPES = {
    # name: filters, rows, files at the most, share of the table's bytes at the most
    "user": ({"userId": "user-0100"}, FILES, FILES, 1.0),
    "user and day": ({"userId": "user-0100", **DAY}, 3, 3, 0.15),
    "type": ({"logType": "view"}, DAYS * USERS, DAYS, 0.4),
    "type and hour": ({"logType": "view", **HOUR}, USERS // 24, 1, 0.05),
    "user, type and hour": ({"userId": "user-0009", "logType": "view", **HOUR}, 1, 1, 0.05),
    "a day without anything": ({"fromTime": "2024-01-01T00:00:00Z", "toTime": "2024-01-02T00:00:00Z"}, 0, 0, 0.0),
}


def table_bytes(service: RunningService) -> int:
    explained = service.retrieve(userId="user-0100", explain="true").json()["explain"]
    return int(explained["files"][0]["bytes"])


@pytest.mark.parametrize("shape", SHAPES)
def test_a_retrieval_opens_only_files_that_can_hold_it(lake: RunningService, shape: str) -> None:
    filters, rows, files_max, share_max = SHAPES[shape]
    response = lake.retrieve(limit=10_000, **filters)
    assert abs(len(response.json()["logs"]) - rows) <= (1 if "hour" in shape else 0)
    assert int(response.headers["actionlake-total-files"]) == FILES
    assert int(response.headers["actionlake-scanned-files"]) <= files_max
    assert int(response.headers["actionlake-scanned-bytes"]) <= share_max * table_bytes(lake)


@pytest.mark.parametrize("shape", [name for name in SHAPES if "without" not in name])
def test_explain_tells_each_step_of_it(lake: RunningService, shape: str) -> None:
    filters, _, files_max, _ = SHAPES[shape]
    steps = lake.retrieve(explain="true", **filters).json()["explain"]
    counts = [one["files"] for one in steps["files"]]
    assert counts[0] == FILES
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] <= files_max
    groups = steps["rowGroups"]
    assert 0 < groups["rowGroups"] <= groups["totalRowGroups"] <= files_max


def test_a_user_that_no_file_can_hold_costs_footers_only(lake: RunningService) -> None:
    response = lake.retrieve(userId="zzz", explain="true")
    assert response.json()["logs"] == []
    assert response.json()["explain"]["rowGroups"]["rowGroups"] == 0
    again = lake.retrieve(userId="zzz")
    assert int(again.headers["actionlake-scanned-bytes"]) == 0


def test_a_user_within_the_bounds_of_every_file_is_looked_for_in_none(lake: RunningService) -> None:
    def files_left() -> int:
        steps = lake.retrieve(userId="user-0100x", explain="true").json()["explain"]["files"]
        by_step = {one["step"]: one["files"] for one in steps}
        assert by_step["bounds of time"] == FILES
        return int(by_step["user filters"])

    eventually(lambda: files_left() == 0)
    assert int(lake.retrieve(userId="user-0100x").headers["actionlake-scanned-files"]) == 0


SQL_SHAPES: dict[str, tuple[str, int]] = {
    "user and day": ("user_id = 'user-0100' AND date = '2023-07-04'", 3),
    "type": ("type = 'view'", DAYS),
    "type and hour": ("type = 'view' AND time BETWEEN '2023-07-04 10:00:00Z' AND '2023-07-04 10:59:59Z'", 1),
    "all three": ("user_id = 'user-0009' AND type = 'view' AND time >= TIMESTAMPTZ '2023-07-10 00:00:00Z'", 1),
}


@pytest.mark.parametrize("shape", SQL_SHAPES)
def test_sql_opens_only_files_that_can_hold_it(lake: RunningService, shape: str) -> None:
    condition, files_max = SQL_SHAPES[shape]
    counted = {"sql": f"SELECT count(*) FROM actions WHERE {condition}"}
    response: httpx.Response = lake.client.post("/api/sql", json=counted)
    statistics: dict[str, Any] = response.json()["statistics"]
    assert statistics["totalFiles"] == FILES
    assert statistics["scannedFiles"] <= files_max
    explained = lake.client.post("/api/sql", json={"sql": f"SELECT * FROM actions WHERE {condition}", "explain": True})
    explanation = explained.json()["explain"]
    counts = [one["files"] for one in explanation["files"]]
    assert counts[0] == FILES
    assert counts == sorted(counts, reverse=True)
    assert counts[-1] <= files_max
    groups = explanation["rowGroups"]
    assert 0 < groups["rowGroups"] <= groups["totalRowGroups"] <= files_max
    assert 0 < groups["bytes"] < table_bytes(lake)


def test_sql_explains_that_a_user_is_in_no_row_group(lake: RunningService) -> None:
    asked = {"sql": "SELECT * FROM actions WHERE user_id = 'zzz' AND type = 'view'", "explain": True}
    explanation = lake.client.post("/api/sql", json=asked).json()["explain"]
    assert [one["step"] for one in explanation["files"]][-1] == "bounds of user_id in footers"
    assert explanation["files"][-1]["files"] == 0
    assert explanation["rowGroups"]["rowGroups"] == 0
    assert explanation["rowGroups"]["totalRowGroups"] >= DAYS
