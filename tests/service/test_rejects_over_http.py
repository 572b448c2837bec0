"""What was not kept can be listed, tried again and dropped, over HTTP and by the command line, each stored once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tests.service.command_line import actionlake
from tests.service.running_service import RunningService, action, running_service, submission

PURCHASE = '[action_types.purchase]\namountCents = { column = "amount_cents", type = "bigint" }\n[action_types.click]\n'


def rejected(service: RunningService, **parameters: Any) -> list[dict[str, Any]]:
    response = service.client.get("/api/rejectedlogs", params=parameters)
    assert response.status_code == 200, response.text
    found: list[dict[str, Any]] = response.json()["rejected"]
    return found


def decide(service: RunningService, what: str, **selection: Any) -> dict[str, Any]:
    response = service.client.post(f"/api/rejectedlogs/{what}", json=selection)
    assert response.status_code == 200, response.text
    answer: dict[str, Any] = response.json()
    return answer


def command(*arguments: str) -> str:
    done = actionlake("rejected", *arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_type_that_is_configured_later_arrives_once_however_often_it_is_replayed(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_service(data) as service:
        sent = action("2023-01-03T00:00:00+02:00", "Purchase", amountCents=1234)
        assert service.submit(submission("buyer", sent, action(type_="CLICK"))).json()["accepted"] == 1
        service.submit(submission("other", action("2023-01-03", "purchase"), action(type_="scroll")))
        service.flush()
        assert decide(service, "replay", all=True)["replayed"] == 0
        service.kill()
    (tmp_path / "wider.toml").write_text(PURCHASE)
    with running_service(data, "--config", str(tmp_path / "wider.toml")) as service:
        assert decide(service, "replay", all=True, dryRun=True)["replayed"] == 1
        done = decide(service, "replay", all=True)
        assert (done["replayed"], done["actions"], done["stillRejected"], done["next"]) == (1, 1, 2, None)
        assert sorted(one["code"] for one in done["reasons"]) == ["bad_time", "unknown_type"]
        logs = service.retrieve(userId="buyer", logType="purchase").json()["logs"]
        assert [(one["time"], one["sessionId"]) for one in logs] == [("2023-01-03T00:00:00+02:00", "s-1")]
        for _ in range(2):
            assert decide(service, "replay", all=True)["replayed"] == 0
            service.flush()
        service.kill()
    with running_service(data, "--config", str(tmp_path / "wider.toml")) as service:
        assert decide(service, "replay", userId="buyer")["replayed"] == 0
        assert len(service.retrieve(userId="buyer", logType="purchase").json()["logs"]) == 1
        assert [(one["state"], one["code"]) for one in rejected(service, userId="other")] == [
            ("open", "unknown_type"),
            ("open", "bad_time"),
        ]
        assert service.metric("actionlake_rejects_rows") == 3
    table = pl.scan_delta(data / "actions").filter(pl.col("user_id") == "buyer").sort("time").collect()
    assert table["amount_cents"].to_list() == [None, 1234]
    states = pl.scan_delta(data / "rejects").collect()
    assert sorted(states["state"].to_list()) == ["open", "open", "replayed"]


def test_rejects_are_found_by_user_code_and_time_and_in_pages(service: RunningService) -> None:
    for n in range(5):
        service.submit(submission("pages", action(type_=f"kind{n}"), action("2023-01-03")))
        if n == 2:
            service.flush()
    everything = rejected(service, userId="pages")
    assert len(everything) == 10
    assert [one["receivedAt"] for one in everything] == sorted((one["receivedAt"] for one in everything), reverse=True)
    assert {one["code"] for one in rejected(service, userId="pages", code="bad_time")} == {"bad_time"}
    middle = everything[4]["receivedAt"]
    assert len(rejected(service, userId="pages", fromTime=middle)) + len(
        rejected(service, userId="pages", toTime=middle)
    ) == 10 + len([one for one in everything if one["receivedAt"] == middle])
    for order in ("asc", "desc"):
        found: list[str] = []
        parameters: dict[str, Any] = {"userId": "pages", "limit": 3, "order": order}
        while True:
            page = service.client.get("/api/rejectedlogs", params=parameters).json()
            found += [one["id"] for one in page["rejected"]]
            if page["next"] is None:
                break
            parameters["cursor"] = page["next"]
            service.flush()
        expected = [one["id"] for one in everything]
        assert found == (expected if order == "desc" else expected[::-1])
    one = everything[0]
    assert json.loads(one["original"])["time"] == "2023-01-03"
    assert (one["userId"], one["sessionId"], one["index"], one["line"], one["state"]) == (
        "pages", "s-1", 1, None, "open",
    )  # fmt: skip
    assert rejected(service, id=one["id"]) == [one]


def test_a_dropped_reject_is_gone(service: RunningService) -> None:
    service.submit(submission("drops", action(type_="a"), action(type_="b")))
    first, second = rejected(service, userId="drops")
    assert decide(service, "drop", ids=[first["id"]], dryRun=True)["dropped"] == 1
    assert decide(service, "drop", ids=[first["id"]])["dropped"] == 1
    assert [one["id"] for one in rejected(service, userId="drops")] == [second["id"]]
    service.flush()
    assert decide(service, "drop", userId="drops")["dropped"] == 1
    assert rejected(service, userId="drops") == []


@pytest.mark.parametrize(
    ("selection", "parameter"),
    [
        ({}, "all"),
        ({"all": True, "userId": "u"}, "all"),
        ({"ids": ["x"]}, "ids"),
        ({"ids": []}, "ids"),
        ({"userId": ""}, "userId"),
        ({"fromTime": "yesterday"}, "fromTime"),
        ({"fromTime": "2024-01-02T00:00:00Z", "toTime": "2024-01-01T00:00:00Z"}, "fromTime"),
        ({"all": True, "cursor": "x"}, "cursor"),
        ({"all": True, "limit": 0}, "limit"),
        ({"state": "gone"}, "state"),
    ],
)
def test_a_wrong_selection_is_named_and_decides_nothing(
    service: RunningService, selection: dict[str, Any], parameter: str
) -> None:
    for what in ("replay", "drop"):
        response = service.client.post(f"/api/rejectedlogs/{what}", json=selection)
        assert response.status_code == 400, response.text
        assert [one["parameter"] for one in response.json()["errors"]] == [parameter]


@pytest.mark.parametrize(
    "parameters", [{"limit": "0"}, {"order": "up"}, {"cursor": "x"}, {"what": "x"}, {"id": "1"}, {"toTime": "x"}]
)
def test_a_wrong_parameter_is_named(service: RunningService, parameters: dict[str, str]) -> None:
    response = service.client.get("/api/rejectedlogs", params=parameters)
    assert response.status_code == 400
    assert [one["parameter"] for one in response.json()["errors"]] == list(parameters)


def test_the_command_line_replays_beside_a_service_and_without_one(tmp_path: Path) -> None:
    data = tmp_path / "data"
    (tmp_path / "wider.toml").write_text(PURCHASE)
    folder = ("--data", str(data), "--state", str(tmp_path / "state"))
    with running_service(data, *folder[2:]) as service:
        service.submit(submission("u", action(type_="purchase"), action(type_="scroll")))
        listed = [json.loads(line) for line in command("list", "--json", *folder).splitlines()]
        assert [one["code"] for one in listed] == ["unknown_type"] * 2
        assert json.loads(command("show", listed[0]["id"], *folder)) == listed[0]
        assert json.loads(command("show", listed[0]["id"], "--url", service.url)) == listed[0]
        assert command("replay", "--all", "--url", service.url).strip().endswith("still_rejected=2")
        wider = ("--config", str(tmp_path / "wider.toml"))
        assert command("replay", "--all", *folder, *wider) == "replayed=1 actions=1 still_rejected=1\n"
        assert len(service.retrieve(userId="u").json()["logs"]) == 1, "seen at once by the service"
        assert command("replay", "--all", *folder, *wider) == "replayed=0 actions=0 still_rejected=1\n"
        assert command("drop", "--code", "unknown_type", "--status", "open", "--dry-run", *folder) == ("dropped=1\n")
    assert command("drop", "--status", "open", *folder) == "dropped=1\n"
    assert "replayed" in command("list", *folder)
    figures = json.loads(actionlake("status", "--json", *folder).stdout)
    assert (figures["rows"], figures["dead_letters"], figures["dead_letters_in_journal"]) == (1, 1, 0)
