"""GET /api/retrievelogs answers exactly what was submitted, page by page, before and after a flush."""

from __future__ import annotations

import threading
from typing import Any

import pytest

from tests.service.running_service import RunningService, action, submission
from tests.service.test_submissions_over_http import problem


@pytest.mark.parametrize(
    ("query", "parameters"),
    [
        ("", {"userId"}),
        ("order=asc", {"userId"}),
        ("userId=", {"userId"}),
        ("userId=u&fromTime=2020-01-01T00:00:00Z", {"toTime"}),
        ("userId=u&toTime=2020-01-01T00:00:00Z", {"fromTime"}),
        ("logType=swipe", {"logType"}),
        ("fromTime=yesterday&toTime=2020-01-01T00:00:00Z", {"fromTime"}),
        ("fromTime=2020-01-01T00:00:00Z&toTime=2020-01-01T00:00:00", {"toTime"}),
        ("fromTime=2020-01-02T00:00:00Z&toTime=2020-01-01T00:00:00Z", {"fromTime"}),
        ("userId=u&order=up", {"order"}),
        ("userId=u&limit=0", {"limit"}),
        ("userId=u&limit=10001", {"limit"}),
        ("userId=u&limit=ten", {"limit"}),
        ("userId=u&limit=-1", {"limit"}),
        ("userId=u&cursor=nonsense", {"cursor"}),
        ("userId=u&cursor=%00", {"cursor"}),
        ("userid=u", {"userid"}),
        ("userId=u&userId=v", {"userId"}),
    ],
)
def test_wrong_parameters_are_400_and_named(service: RunningService, query: str, parameters: set[str]) -> None:
    answer = problem(service.client.get(f"/api/retrievelogs?{query}"), 400)
    assert {one["parameter"] for one in answer["errors"]} == parameters


def test_every_combination_of_filters_means_what_it_says(service: RunningService) -> None:
    rows = [
        ("f-1", "CLICK", "2021-03-01T10:00:00Z"),
        ("f-1", "VIEW", "2021-03-01T11:00:00.250+02:00"),
        ("f-1", "CLICK", "2021-03-02T00:00:00-05:30"),
        ("f-2", "CLICK", "2021-03-01T10:00:00Z"),
        ("f-2", "NAVIGATE", "2021-03-05T00:00:00Z"),
    ]
    for user, type_, time in rows:
        assert service.submit(submission(user, action(time, type_))).json()["accepted"] == 1

    def found(**filters: str) -> set[tuple[str, str, str]]:
        logs = service.retrieve_all(**filters)
        return {(one["userId"], one["type"], one["time"]) for one in logs if one["userId"].startswith("f-")}

    for _ in range(2):
        assert found(userId="f-1") == {row for row in rows if row[0] == "f-1"}
        assert found(logType="click") == {row for row in rows if row[1] == "CLICK"}
        assert found(logType="CLICK", userId="f-2") == {rows[3]}
        assert found(fromTime="2021-03-01T10:00:00Z", toTime="2021-03-01T10:00:00Z") == {rows[0], rows[3]}
        assert found(userId="f-1", fromTime="2021-03-01T09:00:00Z", toTime="2021-03-01T10:00:00Z") == {rows[0], rows[1]}
        assert found(logType="view", fromTime="2021-03-01T09:00:00.25Z", toTime="2021-03-01T09:00:00.25Z") == {rows[1]}
        assert found(userId="f-1", logType="click", fromTime="2021-03-02T00:00:00Z", toTime="2021-03-03T00:00:00Z") == {
            rows[2]
        }
        assert found(userId="nobody") == set()
        service.flush()


def test_a_plus_that_was_not_escaped_is_understood(service: RunningService) -> None:
    service.submit(submission("plus", action("2021-03-01T12:00:00+02:00")))
    query = "userId=plus&fromTime=2021-03-01T12:00:00+02:00&toTime=2021-03-01T12:00:00 02:00"
    response = service.client.get(f"/api/retrievelogs?{query.replace(' ', '%20')}")
    assert [one["time"] for one in response.json()["logs"]] == ["2021-03-01T12:00:00+02:00"]


def test_times_keep_their_offset_and_their_digits(service: RunningService) -> None:
    sent = [
        "2021-05-01T00:00:00Z",
        "2021-05-01T00:00:01.5+05:30",
        "2021-05-01T00:00:02.123456-00:30",
        "2021-05-01T00:00:03.100000Z",
        "2021-05-01T00:00:04+00:00",
        "2021-05-01T00:00:05.000001-12:45",
        "1970-01-01T00:00:00Z",
    ]
    wanted = [
        "1970-01-01T00:00:00Z",
        "2021-04-30T18:30:01.500+05:30".replace("2021-04-30T18:30:01", "2021-05-01T00:00:01"),
        "2021-05-01T00:00:00Z",
        "2021-05-01T00:00:03.100Z",
        "2021-05-01T00:00:04Z",
        "2021-05-01T00:00:02.123456-00:30",
        "2021-05-01T00:00:05.000001-12:45",
    ]
    service.submit(submission("times", *[action(time) for time in sent]))
    for _ in range(2):
        assert [one["time"] for one in service.retrieve(userId="times").json()["logs"]] == wanted
        service.flush()


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_stay_right_while_rows_arrive_and_are_flushed(service: RunningService, order: str) -> None:
    user = f"paging-{order}"
    for number in range(40):
        # Ties of time across submissions are broken by position.
        service.submit(submission(user, *[action(f"2022-01-01T00:00:{number // 4:02d}Z", n=number)] * 2))
    at_first_page = service.retrieve(userId=user, limit=10_000, order=order).json()["logs"]
    seen: list[dict[str, Any]] = []
    cursor = None
    page_number = 0
    while True:
        parameters = {"userId": user, "limit": 7, "order": order} | ({"cursor": cursor} if cursor else {})
        page = service.retrieve(**parameters).json()
        seen += page["logs"]
        cursor = page["next"]
        if cursor is None:
            break
        assert len(page["logs"]) == 7
        page_number += 1
        if page_number % 3 == 0:
            service.flush()
        service.submit(submission(user, action("2022-01-01T00:00:05Z", n=1000 + page_number)))
    old = [one for one in seen if one["properties"]["n"] < 1000]
    assert old == at_first_page
    new = [one["properties"]["n"] for one in seen if one["properties"]["n"] >= 1000]
    assert len(new) == len(set(new))
    assert page_number > 0


def test_a_cursor_of_another_question_is_refused(service: RunningService) -> None:
    service.submit(submission("cursor", *[action()] * 3))
    cursor = service.retrieve(userId="cursor", limit=1).json()["next"]
    problem(service.retrieve(userId="other", limit=1, cursor=cursor), 400)
    problem(service.retrieve(userId="cursor", limit=1, cursor=cursor, order="desc"), 400)
    assert service.retrieve(userId="cursor", limit=5, cursor=cursor).status_code == 200


def test_scan_headers_tell_what_was_read(service: RunningService) -> None:
    service.flush()
    for day in range(1, 6):
        for user in ("scan-1", "scan-2"):
            service.submit(submission(user, action(f"2023-02-0{day}T10:00:00Z", "CLICK")))
            service.submit(submission(user, action(f"2023-02-0{day}T10:00:00Z", "VIEW")))
    hot = service.retrieve(userId="scan-1", fromTime="2023-02-01T00:00:00Z", toTime="2023-02-05T23:00:00Z")
    assert len(hot.json()["logs"]) == 10
    assert (hot.headers["actionlake-scanned-files"], hot.headers["actionlake-scanned-bytes"]) == ("0", "0")
    service.flush()
    whole_day = {"fromTime": "2023-02-03T00:00:00Z", "toTime": "2023-02-03T23:59:59Z"}
    one = service.retrieve(userId="scan-1", logType="click", **whole_day)
    assert len(one.json()["logs"]) == 1
    assert one.headers["actionlake-scanned-files"] == "1"
    assert int(one.headers["actionlake-total-files"]) >= 10
    assert 0 < int(one.headers["actionlake-scanned-bytes"]) < 20_000
    again = service.retrieve(userId="scan-1", logType="click", **whole_day)
    assert int(again.headers["actionlake-scanned-bytes"]) > 0
    assert "dur=" in again.headers["server-timing"]


def test_an_acknowledged_action_is_in_the_next_answer_while_many_write(service: RunningService) -> None:
    missing: list[str] = []

    def write_and_read(name: str) -> None:
        with __import__("httpx").Client(base_url=service.url, timeout=180) as client:
            for number in range(25):
                body = submission(name, action(n=number))
                assert client.post("/api/submitlogs", json=body).status_code == 200
                logs = client.get("/api/retrievelogs", params={"userId": name}).json()["logs"]
                if [one["properties"]["n"] for one in logs] != list(range(number + 1)):
                    missing.append(f"{name} {number}")

    threads = [threading.Thread(target=write_and_read, args=(f"writer-{number}",)) for number in range(6)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        service.flush()
    for thread in threads:
        thread.join()
    assert missing == []
