"""After a user was erased, neither the history nor the results of queries tell of that user, on disk or in memory."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.queries.athena_calls import HeldEngine, call, cells, ended, error, make_api, results, run, start

USERS = ["user-1", "O'Brien", "zoë"]


def _files_that_hold(folder: Path, text: str) -> list[str]:
    return [path.name for path in folder.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


@pytest.mark.parametrize("user", USERS)
def test_history_results_and_prepared_statements_forget(tmp_path: Path, user: str) -> None:
    here, there = make_api(tmp_path), make_api(tmp_path)
    literal = "'" + user.replace("'", "''") + "'"
    by_text = run(here, f"SELECT * FROM actions WHERE user_id = {literal}")["QueryExecutionId"]
    by_parameter = run(here, "SELECT count(*) FROM actions WHERE user_id = ?", ExecutionParameters=[literal])
    by_failure = run(here, f"SELECT CAST({literal} AS integer)")["QueryExecutionId"]
    innocent = run(here, "SELECT user_id FROM actions")["QueryExecutionId"]
    call(there, "GetQueryResults", QueryExecutionId=innocent)
    query = f"SELECT {literal}"
    call(here, "CreatePreparedStatement", StatementName="p", QueryStatement=query, WorkGroup="primary")

    assert here.forget(user) == 3
    for gone in (by_text, by_parameter["QueryExecutionId"], by_failure):
        error(there, "GetQueryExecution", QueryExecutionId=gone)
    error(there, "GetPreparedStatement", StatementName="p", WorkGroup="primary")
    assert call(there, "ListQueryExecutions")["QueryExecutionIds"] == [innocent]
    assert "no longer kept" in error(there, "GetQueryResults", QueryExecutionId=innocent)["Message"]
    for form in {user, user.replace("'", "''")}:
        assert _files_that_hold(tmp_path, form) == []
    assert list((tmp_path / "athena" / "results").iterdir()) == []
    assert cells(results(there, "SELECT 1")) == [["_col0"], ["1"]]
    here.close()
    there.close()


def test_a_query_that_runs_meanwhile_fails_and_may_be_run_again(tmp_path: Path) -> None:
    engine = HeldEngine()
    here, there = make_api(tmp_path, engine, concurrency_max=1), make_api(tmp_path)
    ids = [start(here, "SELECT 'user-1'") for _ in range(2)]
    engine.running.acquire()
    assert there.forget("user-1") == 0
    engine.let_go.set()
    for one in ids:
        found = ended(there, one)
        assert found["Query"] == "-- erased"
        assert found["Status"]["State"] == "FAILED"
        assert "a user was erased while this query ran; run it again" in found["Status"]["StateChangeReason"]
        assert found["Status"]["AthenaError"]["Retryable"] is True
    assert list((tmp_path / "athena" / "results").iterdir()) == []
    assert ended(here, start(here, "SELECT 2"))["Status"]["State"] == "SUCCEEDED"
    here.close()
    there.close()
    assert _files_that_hold(tmp_path, "user-1") == []


def test_what_a_process_that_died_was_writing_goes_too(tmp_path: Path) -> None:
    here = make_api(tmp_path)
    dead = tmp_path / "athena" / "results" / "00000000-0000-0000-0000-000000000000.partial"
    dead.write_text("user-1")
    assert here.forget("user-1") == 0
    assert _files_that_hold(tmp_path, "user-1") == []
    here.close()
