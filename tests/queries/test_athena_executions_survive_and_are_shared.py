"""An execution that was started is never lost: it is there after a restart, and in every process on the folder."""

from __future__ import annotations

import os
import signal
import sqlite3
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from queries.athena import AthenaApi, Retention
from storage.schema import ActionSchema, PromotedProperty
from tests.queries.athena_calls import (
    HeldEngine,
    call,
    cells,
    ended,
    error,
    execution,
    make_api,
    results,
    run,
    start,
    state,
)
from tests.queries.athena_engine import SCHEMA, DuckDBEngine
from tests.storage.building import eventually


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AthenaApi]:
    made = make_api(tmp_path)
    yield made
    made.close()


def test_an_execution_tells_what_it_did(api: AthenaApi) -> None:
    found = run(api, "SELECT count(*) FROM actions")
    assert found["Status"]["State"] == "SUCCEEDED"
    assert found["Status"]["CompletionDateTime"] >= found["Status"]["SubmissionDateTime"]
    assert "StateChangeReason" not in found["Status"]
    assert (found["StatementType"], found["SubstatementType"]) == ("DML", "SELECT")
    assert found["QueryExecutionContext"] == {"Database": "default", "Catalog": "AwsDataCatalog"}
    assert found["WorkGroup"] == "primary"
    assert found["ManagedQueryResultsConfiguration"] == {"Enabled": True}
    statistics = found["Statistics"]
    assert statistics["DataScannedInBytes"] > 0
    parts = ("QueryQueueTimeInMillis", "EngineExecutionTimeInMillis", "ServiceProcessingTimeInMillis")
    assert sum(statistics[part] for part in parts) <= statistics["TotalExecutionTimeInMillis"] + 2


@pytest.mark.parametrize(
    ("query", "category", "error_type", "reason"),
    [
        ("SELECT nope FROM actions", 2, 1000, "COLUMN_NOT_FOUND: line 1:8: Column 'nope' cannot be resolved"),
        ("SELECT count(*) FROM actions WHERE 1 / (position - position) = 1", 2, 1001, "DIVISION_BY_ZERO"),
        ("SELECT cast(user_id AS integer) FROM actions", 2, 1001, "INVALID_CAST_ARGUMENT: Cannot cast 'user-1' to INT"),
        ("CREATE TABLE t AS SELECT 1 AS a", 2, 1000, "NOT_SUPPORTED: CREATE TABLE AS SELECT is refused"),
    ],
)
def test_a_query_that_fails_says_why(api: AthenaApi, query: str, category: int, error_type: int, reason: str) -> None:
    status = run(api, query)["Status"]
    assert status["State"] == "FAILED"
    assert status["StateChangeReason"].startswith(reason)
    assert status["AthenaError"] == {
        "ErrorCategory": category,
        "ErrorType": error_type,
        "Retryable": False,
        "ErrorMessage": status["StateChangeReason"],
    }


def test_what_is_no_sql_is_refused_before_it_starts(api: AthenaApi) -> None:
    answer = error(api, "StartQueryExecution", QueryString="SELEC 1")
    assert answer["__type"] == "InvalidRequestException"
    assert answer["AthenaErrorCode"] == "MALFORMED_QUERY"
    assert call(api, "ListQueryExecutions")["QueryExecutionIds"] == []


def test_history_and_results_survive_a_restart(tmp_path: Path) -> None:
    api = make_api(tmp_path)
    done = run(api, "SELECT type FROM actions ORDER BY position LIMIT 1")
    failed = run(api, "SELECT nope")
    api.close()
    again = make_api(tmp_path)
    assert execution(again, done["QueryExecutionId"]) == done
    assert execution(again, failed["QueryExecutionId"]) == failed
    page = call(again, "GetQueryResults", QueryExecutionId=done["QueryExecutionId"])
    assert cells(page) == [["type"], ["click"]]
    again.close()


def test_another_process_sees_stops_and_lists_what_this_one_runs(tmp_path: Path) -> None:
    here, there = make_api(tmp_path, HeldEngine()), make_api(tmp_path)
    running = start(here, "SELECT 1")
    assert state(there, running) in ("QUEUED", "RUNNING")
    assert call(there, "ListQueryExecutions")["QueryExecutionIds"] == [running]
    assert call(there, "StopQueryExecution", QueryExecutionId=running) == {}
    status = ended(there, running)["Status"]
    assert (status["State"], status["StateChangeReason"]) == ("CANCELLED", "Query cancelled by user")
    for api in (here, there):
        assert error(api, "GetQueryResults", QueryExecutionId=running)["__type"] == "InvalidRequestException"
        api.close()


def test_a_result_is_served_by_every_process(tmp_path: Path) -> None:
    here, there = make_api(tmp_path), make_api(tmp_path)
    done = run(here, "SELECT 'é', CAST(NULL AS integer)")["QueryExecutionId"]
    assert call(there, "GetQueryResults", QueryExecutionId=done) == call(here, "GetQueryResults", QueryExecutionId=done)
    here.close()
    assert cells(call(there, "GetQueryResults", QueryExecutionId=done))[1] == ["é", None]
    there.close()


_CHILD = textwrap.dedent(
    """
    import sys, time
    from pathlib import Path
    from tests.queries.athena_calls import HeldEngine, make_api, start
    engine = HeldEngine()
    api = make_api(Path(sys.argv[1]), engine, concurrency_max=1)
    ids = [start(api, "SELECT 'from the child'") for _ in range(2)]
    engine.running.acquire()
    print(*ids, flush=True)
    time.sleep(60)
    """
)


def test_what_a_killed_process_ran_or_queued_fails_and_says_so(tmp_path: Path) -> None:
    survivor = make_api(tmp_path)
    with subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        ids = child.stdout.readline().split()
        assert [state(survivor, one) for one in ids] == ["RUNNING", "QUEUED"]
        partial = tmp_path / "athena" / "results" / f"{ids[0]}.partial"
        eventually(partial.exists)
        os.kill(child.pid, signal.SIGKILL)
    assert partial.exists()
    for one in ids:
        status = execution(survivor, one)["Status"]
        assert status["State"] == "FAILED"
        assert "the process that ran this query has ended" in status["StateChangeReason"]
        assert status["AthenaError"]["Retryable"] is True
    assert not partial.exists()
    survivor.close()


def test_a_start_ends_what_dead_processes_left(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", _CHILD, str(tmp_path)], stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        ids = child.stdout.readline().split()
        os.kill(child.pid, signal.SIGKILL)
    assert len(list((tmp_path / "athena" / "workers").iterdir())) == 1
    make_api(tmp_path).close()
    with sqlite3.connect(tmp_path / "athena.sqlite") as connection:
        states = dict(connection.execute("SELECT id, state FROM executions"))
    connection.close()
    assert states == dict.fromkeys(ids, "FAILED")
    assert list((tmp_path / "athena" / "workers").iterdir()) == []
    assert list((tmp_path / "athena" / "results").iterdir()) == []


def test_closing_stops_what_runs_and_what_waits(tmp_path: Path) -> None:
    engine = HeldEngine()
    api, other = make_api(tmp_path, engine, concurrency_max=1), make_api(tmp_path)
    ids = [start(api, "SELECT 1") for _ in range(3)]
    engine.running.acquire()
    api.close()
    assert [state(other, one) for one in ids] == ["CANCELLED"] * 3
    other.close()


def test_the_same_token_starts_one_query(api: AthenaApi) -> None:
    first = start(api, "SELECT 1", ClientRequestToken="t" * 32)
    assert start(api, "SELECT 1", ClientRequestToken="t" * 32) == first
    answer = error(api, "StartQueryExecution", QueryString="SELECT 2", ClientRequestToken="t" * 32)
    assert answer["__type"] == "InvalidRequestException"
    assert answer["Message"] == "Idempotent parameters do not match"
    assert call(api, "ListQueryExecutions")["QueryExecutionIds"] == [first]
    assert start(api, "SELECT 1", ClientRequestToken="u" * 32) != first


def test_executions_are_listed_newest_first_page_by_page(api: AthenaApi) -> None:
    ids = [start(api, f"SELECT {i}") for i in range(7)]
    seen, token = [], None
    while True:
        page = call(api, "ListQueryExecutions", MaxResults=3, **({"NextToken": token} if token else {}))
        seen.append(page["QueryExecutionIds"])
        token = page.get("NextToken")
        if token is None:
            break
    assert [len(one) for one in seen] == [3, 3, 1]
    assert [one for page_of_ids in seen for one in page_of_ids] == ids[::-1]
    assert error(api, "ListQueryExecutions", NextToken="x")["__type"] == "InvalidRequestException"


def test_many_executions_are_asked_for_at_once(api: AthenaApi) -> None:
    ids = [run(api, f"SELECT {i}")["QueryExecutionId"] for i in range(3)]
    missing = "00000000-0000-0000-0000-000000000000"
    answer = call(api, "BatchGetQueryExecution", QueryExecutionIds=[ids[2], missing, ids[0]])
    assert [one["Query"] for one in answer["QueryExecutions"]] == ["SELECT 2", "SELECT 0"]
    assert [one["QueryExecutionId"] for one in answer["UnprocessedQueryExecutionIds"]] == [missing]


@pytest.mark.parametrize("operation", ["GetQueryExecution", "GetQueryResults", "StopQueryExecution"])
@pytest.mark.parametrize("name", ["00000000-0000-0000-0000-000000000000", "../../etc/passwd", "x' OR 1=1 --"])
def test_an_unknown_execution_is_an_invalid_request(api: AthenaApi, operation: str, name: str) -> None:
    answer = error(api, operation, QueryExecutionId=name)
    assert answer["__type"] == "InvalidRequestException"
    assert answer["Message"] == f"QueryExecution {name} was not found"


def test_a_query_that_waits_can_be_stopped(tmp_path: Path) -> None:
    engine = HeldEngine()
    api = make_api(tmp_path, engine, concurrency_max=1)
    first, second = start(api, "SELECT 1"), start(api, "SELECT 2")
    engine.running.acquire()
    call(api, "StopQueryExecution", QueryExecutionId=second)
    assert state(api, second) == "CANCELLED"
    engine.let_go.set()
    assert ended(api, first)["Status"]["State"] == "SUCCEEDED"
    assert call(api, "StopQueryExecution", QueryExecutionId=first) == {}
    assert state(api, first) == "SUCCEEDED"
    api.close()


def test_a_running_query_is_stopped(api: AthenaApi, tmp_path: Path) -> None:
    endless = start(api, "SELECT count(*) FROM UNNEST(sequence(1, 9999)) a(x), UNNEST(sequence(1, 9999)) b(y), "
                         "UNNEST(sequence(1, 9999)) c(z) WHERE x * y % 7 = z % 5")  # fmt: skip
    call(api, "StopQueryExecution", QueryExecutionId=endless)
    assert ended(api, endless)["Status"]["State"] == "CANCELLED"


def test_too_many_queries_are_refused_and_not_queued(tmp_path: Path) -> None:
    engine = HeldEngine()
    api = make_api(tmp_path, engine, concurrency_max=1, queue_max=2, poll_wait_s=0)
    ids = [start(api, "SELECT 1") for _ in range(3)]
    answer = error(api, "StartQueryExecution", QueryString="SELECT 1")
    assert answer["__type"] == "TooManyRequestsException"
    assert answer["Reason"] == "CONCURRENT_QUERY_LIMIT_EXCEEDED"
    engine.let_go.set()
    assert [ended(api, one)["Status"]["State"] for one in ids] == ["SUCCEEDED"] * 3
    assert ended(api, start(api, "SELECT 1"))["Status"]["State"] == "SUCCEEDED"
    api.close()


def test_a_short_query_has_ended_when_it_is_first_asked_about(tmp_path: Path) -> None:
    api = make_api(tmp_path, poll_wait_s=60)
    assert [state(api, start(api, "SELECT 1")) for _ in range(20)] == ["SUCCEEDED"] * 20
    api.close()


def test_the_history_is_bounded(tmp_path: Path) -> None:
    now = [1_700_000_000.0]
    retention = Retention(result_hours=1, history_days=2, history_max=3)
    api = make_api(tmp_path, clock=lambda: now[0], retention=retention)
    old = run(api, "SELECT 1")["QueryExecutionId"]
    now[0] += 3 * 86_400
    recent = [run(api, f"SELECT {i}")["QueryExecutionId"] for i in range(5)]
    api._runner.keep_retention(now=True)
    assert call(api, "ListQueryExecutions")["QueryExecutionIds"] == recent[::-1]
    error(api, "GetQueryExecution", QueryExecutionId=old)
    now[0] += 7200
    api._runner.keep_retention(now=True)
    api._runner.keep_retention(now=True)
    assert call(api, "ListQueryExecutions")["QueryExecutionIds"] == recent[:1:-1]
    api.close()


def test_the_file_is_private_and_overwrites_what_it_deletes(api: AthenaApi, tmp_path: Path) -> None:
    assert (tmp_path / "athena.sqlite").stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "athena" / "results").stat().st_mode & 0o777 == 0o700
    settings = {name: api._history.execute(f"PRAGMA {name}")[0][0] for name in ("secure_delete", "journal_mode")}
    assert settings == {"secure_delete": 1, "journal_mode": "wal"}


def test_an_engine_that_breaks_fails_the_query_and_nothing_else(tmp_path: Path) -> None:
    class Broken(DuckDBEngine):
        def run(self, sql: str, *args: object, **options: object) -> object:  # type: ignore[override]
            raise RuntimeError("a wire came loose")

    api = make_api(tmp_path, Broken())
    status = run(api, "SELECT 1")["Status"]
    assert status["State"] == "FAILED"
    assert status["StateChangeReason"] == "GENERIC_INTERNAL_ERROR: RuntimeError: a wire came loose"
    assert status["AthenaError"]["ErrorCategory"] == 1
    assert cells(results(api, "SHOW DATABASES")) == [["default"]]
    api.close()


def test_a_schema_that_changes_is_seen_by_the_next_query(tmp_path: Path) -> None:
    scrolled = ActionSchema({"scroll": (PromotedProperty("depth", "depth", "bigint"),)})
    schemas = [SCHEMA]
    api = AthenaApi(engine=HeldEngine(), state_folder=tmp_path, schema=lambda: schemas[-1])
    assert run(api, "SELECT depth FROM actions")["Status"]["StateChangeReason"].startswith("COLUMN_NOT_FOUND")
    schemas.append(scrolled)
    columns = cells(results(api, "SHOW COLUMNS IN actions"))
    assert ["depth".ljust(20)] in columns
    assert ["viewed_id".ljust(20)] not in columns
    assert run(api, "SELECT viewed_id FROM actions")["Status"]["StateChangeReason"].startswith("COLUMN_NOT_FOUND")
    api.close()
