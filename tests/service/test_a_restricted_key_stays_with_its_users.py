"""A key that is restricted to a user prefix submits and retrieves for those users only, in every format."""

from __future__ import annotations

import io
import json
from collections.abc import Mapping
from typing import Any

import httpx
import polars as pl
import pytest

from queries.file_index import text_after_prefix
from storage.access_keys import NewKey
from tests.service.keys import KeyedService
from tests.service.running_service import action, submission

TIMES = {"fromTime": "2001-05-01T00:00:00Z", "toTime": "2001-05-02T00:00:00Z"}
INSIDE = ("team-a", "team-a/1", "team-aa", "team-a\U0010ffff\U0010ffff", "team-añ")
OUTSIDE = ("team-", "team-A", "team-b", "team-`", "zeta", "tea", "Team-a")


@pytest.fixture(scope="module")
def filled(keyed: KeyedService) -> KeyedService:
    """Each user has an action in a file and one in the journal only."""
    for moment in ("2001-05-01T10:00:00Z", "2001-05-01T11:00:00Z"):
        lines = [json.dumps(submission(user, action(moment))) for user in INSIDE + OUTSIDE]
        answer = keyed.call(
            "POST",
            "/api/submitlogs",
            keyed.keys.all,
            content="\n".join(lines).encode(),
            headers={"content-type": "application/x-ndjson"},
        )
        assert answer.json()["accepted"] == len(INSIDE + OUTSIDE)
        if moment.endswith("10:00:00Z"):
            keyed.flush()
    return keyed


@pytest.fixture(scope="module")
def key(keyed: KeyedService) -> NewKey:
    return keyed.keys.create("submit", "retrieve", user_prefix="team-a")


def retrieve(keyed: KeyedService, key: NewKey, **parameters: str) -> httpx.Response:
    return keyed.call("GET", "/api/retrievelogs", key, params={**TIMES, **parameters})


def users(format_: str, content: bytes) -> list[str]:
    match format_:
        case "json":
            return [row["userId"] for row in json.loads(content)["logs"]]
        case "ndjson":
            return [json.loads(line)["userId"] for line in content.splitlines()]
        case "csv":
            return pl.read_csv(content)["userId"].to_list()
        case "arrow":
            return pl.read_ipc_stream(io.BytesIO(content))["user_id"].to_list()
        case _:
            return pl.read_parquet(content)["user_id"].to_list()


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("format_", ["json", "ndjson", "csv", "arrow", "parquet"])
def test_retrievals_are_filtered_without_being_asked_to(
    filled: KeyedService, key: NewKey, format_: str, order: str
) -> None:
    everything = users(format_, retrieve(filled, filled.keys.all, format=format_, order=order).content)
    assert sorted(everything) == sorted(2 * (INSIDE + OUTSIDE)), "the control sees all of them"
    assert sorted(users(format_, retrieve(filled, key, format=format_, order=order).content)) == sorted(2 * INSIDE)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_pages_stay_with_the_users(filled: KeyedService, key: NewKey, order: str) -> None:
    seen: list[str] = []
    cursor: dict[str, str] = {}
    while True:
        page = retrieve(filled, key, order=order, limit="3", **cursor).json()
        seen += [row["userId"] for row in page["logs"]]
        if page["next"] is None:
            break
        cursor = {"cursor": page["next"]}
    assert sorted(seen) == sorted(2 * INSIDE)


def test_a_cursor_of_another_key_is_refused(filled: KeyedService, key: NewKey) -> None:
    cursor = retrieve(filled, filled.keys.all, limit="2").json()["next"]
    answer = retrieve(filled, key, limit="2", cursor=cursor)
    assert answer.status_code == 400
    assert answer.json()["errors"][0]["parameter"] == "cursor"
    other = filled.keys.create("retrieve", user_prefix="team-a/")
    own = retrieve(filled, key, limit="2").json()["next"]
    assert retrieve(filled, other, limit="2", cursor=own).status_code == 400


def test_asking_for_one_user_works_inside_and_is_403_outside(filled: KeyedService, key: NewKey) -> None:
    for format_ in ("json", "ndjson"):
        for user in INSIDE:
            assert users(format_, retrieve(filled, key, userId=user, format=format_).content) == [user, user]
        for user in OUTSIDE:
            refused(retrieve(filled, key, userId=user, format=format_), user)


def refused(answer: httpx.Response, user: str) -> None:
    assert answer.status_code == 403, answer.text
    problem: Mapping[str, Any] = answer.json()
    assert problem["errors"][0]["parameter"] == "userId"
    assert repr(user) in problem["detail"]


def test_submissions_for_other_users_are_403_and_nothing_of_them_is_kept(filled: KeyedService, key: NewKey) -> None:
    moment = "2001-06-01T10:00:00Z"
    for user in INSIDE[:2]:
        assert filled.submit(submission(user, action(moment)), key).json()["accepted"] == 1
    for user in OUTSIDE:
        refused(filled.submit(submission(user, action(moment)), key), user)
        refused(filled.submit(submission(user, action(moment, "unknown")), key), user)
    lines = [json.dumps(submission(user, action(moment))) for user in ("team-a/9", "team-b")]
    headers = {"content-type": "application/x-ndjson"}
    refused(filled.call("POST", "/api/submitlogs", key, content="\n".join(lines).encode(), headers=headers), "team-b")
    stream = io.BytesIO()
    rows = pl.DataFrame({"user_id": ["team-a/9", "team-b"], "time": [moment] * 2, "type": ["view"] * 2})
    rows.with_columns(pl.col("time").str.to_datetime(time_zone="UTC")).write_ipc_stream(stream)
    headers = {"content-type": "application/vnd.apache.arrow.stream"}
    refused(filled.call("POST", "/api/submitlogs", key, content=stream.getvalue(), headers=headers), "team-b")
    kept = filled.call(
        "GET", "/api/retrievelogs", filled.keys.all, params={"fromTime": moment, "toTime": moment}
    ).json()
    assert [row["userId"] for row in kept["logs"]] == list(INSIDE[:2])


def test_row_groups_without_the_users_are_not_read(filled: KeyedService) -> None:
    def left(prefix: str | None) -> int:
        key = filled.keys.create("retrieve", user_prefix=prefix)
        explained = retrieve(filled, key, explain="true").json()["explain"]
        groups: int = explained["rowGroups"]["rowGroups"]
        return groups

    assert left(None) >= 1
    assert left("team-a") >= 1
    assert left("zzz") == left("A") == 0


def test_an_idempotency_key_is_the_api_keys_own(filled: KeyedService) -> None:
    one, two = (filled.keys.create("submit") for _ in range(2))
    first = submission("idempotent", action("2001-07-01T10:00:00Z"))
    second = submission("idempotent", action("2001-07-01T11:00:00Z"), action("2001-07-01T12:00:00Z"))
    same = {"Idempotency-Key": "the-same"}
    assert filled.submit(first, one, **same).json()["accepted"] == 1
    assert filled.submit(second, two, **same).json()["accepted"] == 2
    assert filled.submit(second, one, **same).status_code == 422
    assert filled.submit(first, one, **same).json()["accepted"] == 1
    kept = filled.call("GET", "/api/retrievelogs", filled.keys.all, params={"userId": "idempotent"}).json()
    assert len(kept["logs"]) == 3


@pytest.mark.parametrize(
    ("prefix", "after"),
    [
        ("a", "b"),
        ("team-a", "team-b"),
        ("ab\U0010ffff", "ac"),
        ("\U0010ffff\U0010ffff", None),
        ("x\ud7ff", "x\ue000"),
        ("\uffff", "\U00010000"),
        ("a\x00", "a\x01"),
    ],
)
def test_the_text_after_a_prefix_is_the_least_above_it(prefix: str, after: str | None) -> None:
    assert text_after_prefix(prefix) == after
    for text in (prefix, prefix + "\x00", prefix + "\U0010ffff" * 3):
        assert text.encode() >= prefix.encode()
        assert after is None or text.encode() < after.encode()
