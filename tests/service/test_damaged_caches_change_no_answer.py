"""A service whose caches are deleted, cut and swapped while it answers: every answer is that of a plain scan."""

from __future__ import annotations

import json
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.service.running_service import RunningService, action, running_service, submission
from tests.storage.building import eventually

USERS = [f"user-{n}" for n in range(20)]
DAYS = 12
FLAGS = ("--history-rest-ms", "0", "--history-bytes-share-max", "4")


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Twenty users on twelve days with three types, in thirty-six files that are copied at once."""
    with running_service(tmp_path_factory.mktemp("caches") / "data", *FLAGS) as running:
        source = random.Random(1)
        for user in USERS:
            actions = [
                action(f"2023-07-{day:02d}T{source.randrange(24):02d}:30:00Z", type_, user=user, n=n)
                for day in range(1, DAYS + 1)
                for n, type_ in enumerate(("CLICK", "VIEW", "NAVIGATE"))
            ]
            assert running.submit(submission(user, *actions)).json()["accepted"] == len(actions)
        running.flush()
        yield running


def steps(service: RunningService) -> dict[str, int]:
    explained = service.retrieve(userId=USERS[0], explain="true").json()["explain"]["files"]
    return {one["step"]: one["files"] for one in explained}


def copied(service: RunningService) -> bool:
    return steps(service).get("history's copies") == 0


def await_copies(service: RunningService) -> None:
    # What makes them needs the processor that each look takes as well.
    eventually(lambda: copied(service), pause_s=0.1)


def plain_scan(service: RunningService, user: str) -> list[tuple[str, str, str]]:
    """What is stored of a user by a door that knows no caches."""
    answer = service.client.post(
        "/api/sql",
        json={
            "sql": "SELECT strftime(time, '%Y-%m-%dT%H:%M:%SZ'), upper(type), properties FROM actions"
            " WHERE user_id = ? ORDER BY time, journal, position",
            "parameters": [user],
        },
    ).json()
    return [tuple(row.values()) if isinstance(row, dict) else tuple(row) for row in answer["rows"]]


def assert_right(service: RunningService) -> None:
    for user in USERS[::3]:
        rows = [
            (row["time"], row["type"], json.dumps(row["properties"], separators=(",", ":")))
            for row in service.retrieve_all(userId=user, limit=10)
        ]
        expected = [
            (time, type_, json.dumps(json.loads(text), separators=(",", ":")))
            for time, type_, text in plain_scan(service, user)
        ]
        assert rows == expected
        assert len(rows) == DAYS * 3


def files_of(folder: Path) -> list[Path]:
    return [path for path in sorted(folder.rglob("*")) if path.is_file()]


def delete_everything(cache: Path) -> None:
    # The keeper may be writing into it.
    shutil.rmtree(cache.rename(cache.with_name("gone")))


def cut(cache: Path) -> None:
    for path in files_of(cache):
        os.truncate(path, path.stat().st_size // 2)


def swap(cache: Path) -> None:
    found = files_of(cache)
    contents: list[Any] = [path.read_bytes() for path in found]
    for path, content in zip(found, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content)


@pytest.mark.parametrize("damage", [delete_everything, cut, swap], ids=lambda one: one.__name__)
def test_answers_stay_right_and_the_caches_come_back(service: RunningService, damage: Any) -> None:
    await_copies(service)
    assert_right(service)
    damage(service.data / "cache")
    assert_right(service)
    await_copies(service)
    assert_right(service)


def test_status_and_metrics_tell_how_much_is_covered(service: RunningService) -> None:
    await_copies(service)
    metrics = service.client.get("/metrics").text
    assert f"actionlake_history_rows {float(len(USERS) * DAYS * 3)}" in metrics
    assert "actionlake_history_runs 1.0" in metrics
