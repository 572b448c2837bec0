"""A query that reads more than its work group may is cancelled, and says so in Athena's words."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queries.athena import AthenaApi, WorkGroup
from tests.queries.athena_calls import call, cells, error, make_api, results, run
from tests.queries.athena_engine import DuckDBEngine, actions_table


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AthenaApi]:
    groups = [WorkGroup("tiny", scanned_bytes_max=100), WorkGroup("ample", scanned_bytes_max=1 << 30, description="x")]
    made = make_api(tmp_path, work_groups=groups)
    yield made
    made.close()


def test_a_scan_over_the_limit_is_cancelled(api: AthenaApi) -> None:
    found = run(api, "SELECT count(*) FROM actions", WorkGroup="tiny")
    scanned = actions_table().nbytes
    assert found["Status"]["State"] == "CANCELLED"
    assert found["Status"]["StateChangeReason"] == (
        f"Query cancelled! : The number of bytes scanned ({scanned}) exceeded the "
        "BytesScannedCutoffPerQuery limit (100)"
    )
    assert found["Statistics"]["DataScannedInBytes"] == scanned
    answer = error(api, "GetQueryResults", QueryExecutionId=found["QueryExecutionId"])
    assert answer["Message"].endswith("Final query state: CANCELLED")


def test_a_limit_that_only_shows_at_the_end_leaves_no_result(tmp_path: Path) -> None:
    class Late(DuckDBEngine):
        def run(self, sql: str, *args: object, **options: object) -> object:  # type: ignore[override]
            return super().run(sql, (), cancelled=options["cancelled"], scanned_bytes_max=None)  # type: ignore[arg-type]

    api = make_api(tmp_path, Late(), work_groups=[WorkGroup("tiny", scanned_bytes_max=100)])
    found = run(api, "SELECT * FROM actions", WorkGroup="tiny")
    assert found["Status"]["State"] == "CANCELLED"
    assert list((tmp_path / "athena" / "results").iterdir()) == []
    api.close()


@pytest.mark.parametrize("group", ["primary", "ample"])
def test_a_scan_within_the_limit_is_answered(api: AthenaApi, group: str) -> None:
    assert cells(results(api, "SELECT count(*) FROM actions", WorkGroup=group))[1] == ["12"]


def test_a_query_that_scans_nothing_is_answered_in_every_group(api: AthenaApi) -> None:
    assert cells(results(api, "SELECT 1", WorkGroup="tiny"))[1] == ["1"]


def test_executions_are_listed_by_group(api: AthenaApi) -> None:
    one = run(api, "SELECT 1", WorkGroup="ample")["QueryExecutionId"]
    two = run(api, "SELECT 2")["QueryExecutionId"]
    assert call(api, "ListQueryExecutions", WorkGroup="ample")["QueryExecutionIds"] == [one]
    assert call(api, "ListQueryExecutions")["QueryExecutionIds"] == [two]


def test_groups_are_described(api: AthenaApi) -> None:
    assert [group["Name"] for group in call(api, "ListWorkGroups")["WorkGroups"]] == ["primary", "ample", "tiny"]
    tiny = call(api, "GetWorkGroup", WorkGroup="tiny")["WorkGroup"]
    assert tiny["State"] == "ENABLED"
    configuration = tiny["Configuration"]
    assert configuration["BytesScannedCutoffPerQuery"] == 100
    assert configuration["ManagedQueryResultsConfiguration"] == {"Enabled": True}
    assert (
        "BytesScannedCutoffPerQuery" not in call(api, "GetWorkGroup", WorkGroup="primary")["WorkGroup"]["Configuration"]
    )


def test_an_unknown_group_is_an_invalid_request(api: AthenaApi) -> None:
    answer = error(api, "StartQueryExecution", QueryString="SELECT 1", WorkGroup="nope")
    assert answer["__type"] == "InvalidRequestException"
    assert answer["Message"] == "WorkGroup nope is not found."
    assert error(api, "GetWorkGroup", WorkGroup="nope")["__type"] == "InvalidRequestException"


def test_two_groups_of_one_name_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="primary"):
        make_api(tmp_path, work_groups=[WorkGroup("primary"), WorkGroup("primary")])
