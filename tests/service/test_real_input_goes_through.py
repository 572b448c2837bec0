"""A real web log goes in, and every door tells the same counts: before a flush, after it, and after a restart."""

from __future__ import annotations

import csv
import io
import json
import subprocess
from collections import Counter
from pathlib import Path

import polars as pl

from tests.service.command_line import actionlake
from tests.service.running_service import ACTIONLAKE, RunningService, running_service

SAMPLE = Path(__file__).parents[1] / "data" / "semicomplete-2015.ndjson.gz"
BUSIEST = {"u-ecc23c4848f8": 482, "u-85103a303602": 364, "u-90d66560cea7": 357}
DAYS = {"2015-05-17": 1632, "2015-05-18": 2893, "2015-05-19": 2896, "2015-05-20": 2578}
TYPES = {"NAVIGATE": 5039, "VIEW": 4960}


def check_rest(service: RunningService) -> None:
    users: Counter[str] = Counter()
    for type_, wanted in TYPES.items():
        lines = service.retrieve(logType=type_, format="ndjson").text.splitlines()
        assert len(lines) == wanted
        users.update(json.loads(line)["userId"] for line in lines)
    assert len(users) == 1753
    assert dict(users.most_common(3)) == BUSIEST
    for user, wanted in BUSIEST.items():
        assert len(service.retrieve_all(userId=user, limit=100)) == wanted
    for day, wanted in DAYS.items():
        bounds = {"fromTime": f"{day}T00:00:00Z", "toTime": f"{day}T23:59:59.999999Z"}
        assert len(service.retrieve_all(limit=1000, **bounds)) == wanted


def check_sql(data: Path) -> None:
    def ask(query: str) -> dict[str, int]:
        done = actionlake("sql", query, "--data", data, "--format", "csv")
        assert done.returncode == 0, done.stderr
        return {row["name"]: int(row["n"]) for row in csv.DictReader(io.StringIO(done.stdout))}

    assert ask("SELECT user_id AS name, count(*) AS n FROM actions GROUP BY 1 ORDER BY n DESC LIMIT 3") == BUSIEST
    assert ask("SELECT date AS name, count(*) AS n FROM actions GROUP BY 1") == DAYS
    assert ask("SELECT upper(type) AS name, count(*) AS n FROM actions GROUP BY 1") == TYPES


def check_polars(data: Path) -> None:
    actions = pl.scan_delta(data / "actions")
    days = actions.group_by(pl.col("date").cast(pl.String)).len().collect()
    assert dict(days.iter_rows()) == DAYS
    users = actions.group_by("user_id").len().sort("len", descending=True).head(3).collect()
    assert dict(users.iter_rows()) == BUSIEST


def test_all_doors_agree_before_a_flush_after_it_and_after_a_restart(tmp_path: Path) -> None:
    data = tmp_path / "data"
    with running_service(data) as service:
        command = [ACTIONLAKE, "import", str(SAMPLE), "--url", service.url]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=180)
        assert done.stdout.splitlines()[-1] == "accepted=9999 rejected=0"
        assert service.metric("actionlake_journal_depth") == 9999
        check_rest(service)
        check_sql(data)
        service.flush()
        assert service.metric("actionlake_journal_depth") == 0
        check_rest(service)
        check_sql(data)
        check_polars(data)
        service.kill()
    with running_service(data) as service:
        check_rest(service)
        check_polars(data)
        assert service.stop() == 0
    check_sql(data)
