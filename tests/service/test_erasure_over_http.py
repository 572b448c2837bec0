"""A user is erased over HTTP: at once for every retrieval, and with a receipt that tells when nothing is left."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from storage.backup_records import record_backup
from storage.paths import StorePaths
from tests.service.running_service import RunningService, action, running_service, submission
from tests.storage.what_is_left import traces


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """One service whose queries end soon, so that an erasure need not wait for them."""
    flags = ("--erasure-grace-ms", "100", "--retrieve-timeout-ms-max", "1000", "--sql-timeout-ms-max", "1000")
    with running_service(tmp_path_factory.mktemp("erasure") / "data", *flags) as running:
        yield running


def _done(service: RunningService, location: str) -> dict[str, Any]:
    deadline = time.monotonic() + 180
    while True:
        receipt: dict[str, Any] = service.client.get(location).json()
        if receipt["status"] == "done":
            return receipt
        assert time.monotonic() < deadline, receipt
        time.sleep(0.05)


def _in_time(ask: Callable[[], httpx.Response], *, too_late: set[int]) -> Any:
    """What is answered within the short limits, asked for again where the machine was too busy for them."""
    deadline = time.monotonic() + 180
    while (answer := ask()).status_code in too_late:
        assert time.monotonic() < deadline, answer.text
    assert answer.status_code == 200, answer.text
    return answer.json()


def _count(service: RunningService, user: str) -> int:
    question = {"sql": "SELECT count(*) AS n FROM actions WHERE user_id = ?", "parameters": [user]}
    by_sql: int = _in_time(lambda: service.client.post("/api/sql", json=question), too_late={408, 503})["rows"][0]["n"]
    page = _in_time(lambda: service.retrieve(userId=user), too_late={503})
    assert page["next"] is None
    assert by_sql == len(page["logs"])
    return by_sql


# Ids that a path has trouble with, one of them the word of a route, one as long as an id may be.
USERS = ["erase", "a/b//c d", "/é😀'\"%2F?#", "u" * 256]


def test_every_id_can_be_erased_by_path_and_by_body(service: RunningService) -> None:
    ways = [("erase", "path"), *((one[-251:] + "." + by, by) for by in ("path", "body") for one in USERS)]
    for user, _ in ways:
        service.submit(submission(user, action(), action(type_="VIEW", viewedId=user)))
        service.submit(submission(f"{user[:-1]}~", action()))
    service.flush()
    receipts: dict[str, str] = {}
    record_backup(StorePaths.of(service.data), Path("/somewhere/else"), 1_700_000_000_000_000)
    for user, by in ways:
        service.submit(submission(user, action(), action(type_="nonsense")))
        assert _count(service, user) == 3
        if by == "path":
            answer = service.client.delete(f"/api/users/{quote(user, safe='')}")
        else:
            answer = service.client.post("/api/users/erase", json={"userId": user})
        assert answer.status_code == 202, answer.text
        assert answer.headers["location"] == f"/api/erasures/{answer.json()['erasure']}"
        assert _count(service, user) == 0
        service.submit(submission(user, action()))
        assert _count(service, user) == 1, "who comes back keeps what is submitted afterwards"
        receipts[user] = answer.headers["location"]
    for user, location in receipts.items():
        receipt = _done(service, location)
        assert receipt["deadLetters"] == 1
        assert not receipt["overdue"]
        assert receipt["backups"]["covered"] is False
        assert [made["path"] for made in receipt["backups"]["made"]] == ["/somewhere/else"]
        assert user not in str(receipt) or user == "erase"
        assert _count(service, user) == 1
        assert _count(service, f"{user[:-1]}~") == 1


def test_nothing_is_left_on_disk(service: RunningService) -> None:
    user = "user-to-be-forgotten-3f9a"
    service.submit(submission(user, action()))
    service.flush()
    service.client.post("/api/sql", json={"sql": f"SELECT * FROM actions WHERE user_id = '{user}'"})
    assert traces(service.data, user)
    answer = service.client.post("/api/users/erase", json={"userId": user})
    _done(service, answer.headers["location"])
    assert traces(service.data, user) == []
    assert user not in service.log()


def test_receipts_are_listed_newest_first(service: RunningService) -> None:
    first = service.client.delete("/api/users/nobody-1").json()["erasure"]
    second = service.client.delete("/api/users/nobody-2").json()["erasure"]
    listed = [one["erasure"] for one in service.client.get("/api/erasures").json()["erasures"]]
    assert listed[:2] == [second, first]


@pytest.mark.parametrize(
    ("method", "path", "body", "status"),
    [
        ("DELETE", "/api/users/", None, (400, 404, 405)),
        ("DELETE", "/api/users/%ff", None, (400,)),
        # What a framework takes for the same path must not erase a user of the name `/api//users/x`.
        ("DELETE", "/api//users/x", None, (404,)),
        ("DELETE", "/api/users%2Fx", None, (404,)),
        ("DELETE", "/%61pi/users/x", None, (404,)),
        ("POST", "/api/users/erase", {"userId": ""}, (400,)),
        ("POST", "/api/users/erase", {"user": "x"}, (400,)),
        ("POST", "/api/users/erase", {"userId": 7}, (400,)),
        ("GET", "/api/erasures/nothing", None, (404,)),
    ],
)
def test_wrong_requests_are_refused(
    service: RunningService, method: str, path: str, body: Any, status: tuple[int, ...]
) -> None:
    answer = service.client.request(method, path, json=body)
    assert answer.status_code in status, answer.text
    assert answer.headers["content-type"].startswith("application/problem+json")
