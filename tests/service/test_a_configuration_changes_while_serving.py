"""Types, promoted columns and limits change under load, in every worker, without a failed request or a restart."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator
from importlib import resources
from pathlib import Path
from typing import Any

import boto3
import duckdb
import httpx
import polars as pl
import pytest
from deltalake import DeltaTable

from tests.service.running_service import NO_TLS, RunningService, action, running_service, submission
from tests.storage.building import eventually

VIEWS = """
[action_types.view]
viewedId = { column = "viewed_id", type = "varchar" }
"""
CLICKS = """
[action_types.click]
locationX = { column = "location_x", type = "double" }
locationY = { column = "location_y", type = "double" }
"""
PURCHASES = """
[action_types.purchase]
amountCents = { column = "amount_cents", type = "bigint" }
"""
BEGINNING = "flush_rows_max = 50\n" + CLICKS + VIEWS
CONNECTIONS = 12


class Load:
    """Clients that submit and retrieve with hardly a pause, and what they were told."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._stop = threading.Event()
        self.submitted = 0
        self.failures: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(one,)) for one in (self._submit, self._retrieve)]

    def _run(self, once: Callable[[httpx.Client], httpx.Response]) -> None:
        while not self._stop.is_set():
            # Connections of its own, so that all workers get some.
            with httpx.Client(base_url=self._url, timeout=180, verify=NO_TLS) as client:
                for _ in range(5):
                    try:
                        response = once(client)
                    except httpx.TransportError as error:
                        self.failures.append(repr(error))
                        continue
                    if response.status_code != 200 or response.json().get("rejected"):
                        self.failures.append(response.text)
            # What is waited for needs the processors as well.
            time.sleep(0.01)

    def _submit(self, client: httpx.Client) -> httpx.Response:
        sent = submission("load", action("2024-01-01T00:00:00Z", "CLICK", locationX=self.submitted))
        response = client.post("/api/submitlogs", json=sent)
        self.submitted += 1
        return response

    @staticmethod
    def _retrieve(client: httpx.Client) -> httpx.Response:
        return client.get("/api/retrievelogs", params={"userId": "load", "limit": 1, "order": "desc"})

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Two workers, a keeper and a supervisor, each of which follows the file by itself."""
    folder = tmp_path_factory.mktemp("changing")
    (folder / "actionlake.toml").write_text(BEGINNING)
    with running_service(folder / "data", "--workers", "2", "--sql-workers", "1") as service:
        yield service


def save(service: RunningService, content: str) -> None:
    """As an editor saves: a new file, renamed over the old one."""
    path = service.data.parent / "actionlake.toml"
    fresh = path.with_suffix(".new")
    fresh.write_text(content)
    os.replace(fresh, path)


def everywhere(service: RunningService, ask: Callable[[httpx.Client], Any], wanted: Any) -> None:
    """Wait until many new connections in a row, which both workers answer, get what is wanted."""
    deadline = time.monotonic() + 180
    in_a_row = 0
    while in_a_row < CONNECTIONS:
        with httpx.Client(base_url=service.url, timeout=180, verify=NO_TLS) as client:
            got = ask(client)
        in_a_row = in_a_row + 1 if got == wanted else 0
        assert time.monotonic() < deadline, f"{got!r} where {wanted!r} was to come:\n{service.log()[-3000:]}"


def submit_one(kind: str, **properties: Any) -> Callable[[httpx.Client], Any]:
    sent = submission("u", action("2024-02-01T00:00:00Z", kind, **properties))
    return lambda client: client.post("/api/submitlogs", json=sent).json()["accepted"]


def readiness(client: httpx.Client) -> tuple[int, str]:
    response = client.get("/health/ready")
    return response.status_code, response.json()["configuration"].partition(":")[0]


def in_sql(client: httpx.Client, sql: str) -> Any:
    response = client.post("/api/sql", json={"sql": sql})
    return response.json().get("rows", response.json().get("detail"))


def in_athena(service: RunningService, sql: str) -> list[list[str]]:
    keys = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
    client = boto3.client("athena", endpoint_url=service.url, **keys)
    query = client.start_query_execution(QueryString=sql)["QueryExecutionId"]
    while (status := client.get_query_execution(QueryExecutionId=query)["QueryExecution"]["Status"])["State"] in (
        "QUEUED",
        "RUNNING",
    ):
        time.sleep(0.02)
    assert status["State"] == "SUCCEEDED", status
    rows = client.get_query_results(QueryExecutionId=query)["ResultSet"]["Rows"]
    return [[cell.get("VarCharValue") for cell in row["Data"]] for row in rows[1:]]


def in_duckdb(table: Path, sql: str) -> list[tuple[Any, ...]]:
    extension = resources.files("duckdb_extension_delta") / "extensions" / f"v{duckdb.__version__}"
    with duckdb.connect(config={"allow_unsigned_extensions": False}) as connection:
        connection.execute(f"LOAD '{next(Path(str(extension)).glob('*.duckdb_extension'))}'")
        return connection.execute(sql.replace("TABLE", f"delta_scan('{table}')")).fetchall()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_type_with_a_new_column_comes_under_load(served: RunningService) -> None:
    table = served.data / "actions"
    assert served.submit(submission("u", action(type_="VIEW", viewedId="old"))).json()["accepted"] == 1
    assert served.submit(submission("u", action(type_="PURCHASE"))).json()["rejected"][0]["code"] == "unknown_type"
    served.flush()
    opened_before = DeltaTable(str(table))
    everywhere(served, lambda client: in_sql(client, "SELECT count(*) AS n FROM views"), [{"n": 1}])
    with Load(served.url) as load:
        everywhere(served, lambda client: client.get("/health/ready").status_code, 200)
        save(served, BEGINNING + PURCHASES)
        everywhere(served, submit_one("PURCHASE", amountCents=2**40), 1)
        amounts = "SELECT DISTINCT amount_cents AS a FROM purchase_actions"
        everywhere(served, lambda client: in_sql(client, amounts), [{"a": 2**40}])
        arrow = pl.read_ipc_stream(served.retrieve(userId="u", logType="purchase", format="arrow").content)
        assert set(arrow["amount_cents"]) == {2**40}
        assert in_athena(served, "SELECT DISTINCT amount_cents FROM actions WHERE type = 'purchase'") == [[str(2**40)]]
        submitted = load.submitted
        everywhere(served, lambda client: client.get("/health/ready").status_code, 200)
        eventually(lambda: load.submitted > submitted)
    assert load.failures == []
    assert load.submitted > submitted > 0
    served.flush()
    # No value that was accepted is missing in the table, whichever worker took it and whichever flushed it.
    rows = pl.scan_delta(str(table)).select("type", "amount_cents", "viewed_id", "location_x").collect()
    purchases = rows.filter(pl.col("type") == "purchase")
    assert purchases.height >= CONNECTIONS
    assert set(purchases["amount_cents"]) == {2**40}
    assert rows.filter(pl.col("type") == "click").height == load.submitted
    counts = "SELECT count(amount_cents), count(viewed_id), count(location_x) FROM TABLE"
    assert in_duckdb(table, counts) == [(purchases.height, 1, load.submitted)]
    # A reader that opened the table before the column came reads what it knew.
    assert pl.scan_delta(opened_before).collect()["viewed_id"].to_list() == ["old"]


def test_a_wrong_file_is_said_everywhere_and_changes_nothing(served: RunningService) -> None:
    save(served, "flush_rows_max = 'many'\n")
    # Each of the four processes says so once; the keeper and the supervisor answer nobody, so that it is waited for.
    said = "everything stays as it is: flush_rows_max"
    everywhere(served, lambda _: served.log().count(said), 4)
    everywhere(served, readiness, (200, "invalid"))
    assert served.metric("actionlake_configuration_valid") == 0
    told = served.client.get("/api/config").json()
    assert "flush_rows_max" in told["error"]
    assert told["settings"]["flush_rows_max"] == {
        "value": 50, "source": "file", "live": True, "changedAt": None,
    }  # fmt: skip
    assert submit_one("CLICK")(served.client) == 1
    # A column of another type cannot be followed either: nothing in the table is ever retyped.
    save(served, BEGINNING + PURCHASES.replace("bigint", "varchar"))
    everywhere(served, lambda client: "retyped" in client.get("/health/ready").json()["configuration"], True)
    assert served.log().count(said) == 4
    save(served, BEGINNING + PURCHASES + "[athena_work_groups.a]\n")
    everywhere(served, lambda _: served.log().count("is right again"), 4)
    everywhere(served, readiness, (200, "valid"))
    assert served.metric("actionlake_configuration_valid") == 1
    told = served.client.get("/api/config").json()
    assert told["needsRestart"] == {"athena_work_groups": {"a": {"scanned_bytes_max": None}}}


def test_limits_change(served: RunningService) -> None:
    big = submission("big", action("2024-02-01T00:00:00Z", "CLICK", text="x" * 300))
    assert served.client.post("/api/submitlogs", json=big).status_code == 200
    save(served, "submit_body_bytes_max = 300\nretrieve_limit_max = 7\nlog_level = 'error'\n" + BEGINNING)
    everywhere(served, lambda client: client.post("/api/submitlogs", json=big).status_code, 413)
    limited = {"userId": "u", "limit": "8"}
    everywhere(served, lambda client: client.get("/api/retrievelogs", params=limited).status_code, 400)
    assert served.client.get("/api/config").json()["settings"]["retrieve_limit_max"]["changedAt"] is not None
    # So does what is logged: a change that is seen while only errors are is not told of.
    save(served, "retrieve_limit_max = 8\nlog_level = 'error'\n" + BEGINNING)
    everywhere(served, lambda client: client.get("/api/retrievelogs", params=limited).status_code, 200)
    save(served, "retrieve_limit_max = 9\nlog_level = 'info'\n" + BEGINNING)
    everywhere(served, lambda _: served.log().count("settings changed: log_level, retrieve_limit_max"), 4)
    assert "settings changed: retrieve_limit_max" not in served.log()


def test_a_type_goes_and_what_is_stored_stays(served: RunningService) -> None:
    stored = len(served.retrieve_all(userId="u", logType="purchase"))
    save(served, CLICKS)
    everywhere(served, submit_one("VIEW"), 0)
    everywhere(served, lambda client: "views" in str(in_sql(client, "SELECT * FROM views")), True)
    assert stored >= CONNECTIONS
    assert len(served.retrieve_all(userId="u", logType="purchase")) == stored
    counted = in_sql(served.client, "SELECT count(*) AS n FROM actions WHERE type = 'purchase'")
    assert counted == [{"n": stored}]
    served.flush()
    # The table keeps the column.
    assert pl.scan_delta(str(served.data / "actions")).collect()["amount_cents"].drop_nulls().len() == stored
