"""Prepared statements are kept by work group, by name, over restarts; parameters are values and nothing else."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queries.athena import AthenaApi, WorkGroup
from tests.queries.athena_calls import Answer, call, cells, error, make_api, results, run

QUERY = "SELECT position FROM actions WHERE type = ? AND position > ? ORDER BY 1"


@pytest.fixture
def api(tmp_path: Path) -> Iterator[AthenaApi]:
    made = make_api(tmp_path, work_groups=[WorkGroup("other")])
    yield made
    made.close()


def _create(api: AthenaApi, name: str = "p", query: str = QUERY, group: str = "primary", **options: object) -> Answer:
    return call(api, "CreatePreparedStatement", StatementName=name, QueryStatement=query, WorkGroup=group, **options)


def _get(api: AthenaApi, name: str = "p", group: str = "primary") -> Answer:
    answer: Answer = call(api, "GetPreparedStatement", StatementName=name, WorkGroup=group)["PreparedStatement"]
    return answer


def test_prepare_execute_and_deallocate_by_statement(api: AthenaApi) -> None:
    assert run(api, f"PREPARE p FROM {QUERY}")["SubstatementType"] == "PREPARE"
    assert cells(results(api, "EXECUTE p USING 'click', 4")) == [["position"], ["7"], ["10"]]
    assert run(api, "DEALLOCATE PREPARE p")["Status"]["State"] == "SUCCEEDED"
    status = run(api, "EXECUTE p USING 'click', 4")["Status"]
    assert status["State"] == "FAILED"
    assert "PreparedStatement p was not found in WorkGroup primary" in status["StateChangeReason"]


def test_parameters_may_come_with_the_request(api: AthenaApi) -> None:
    _create(api)
    found = run(api, "EXECUTE p", ExecutionParameters=["'view'", "5"])
    assert found["ExecutionParameters"] == ["'view'", "5"]
    assert found["SubstatementType"] == "EXECUTE"
    assert cells(results(api, QUERY, ExecutionParameters=["'view'", "8"])) == [["position"], ["11"]]


@pytest.mark.parametrize(
    ("statement", "parameters", "reason"),
    [
        ("EXECUTE p USING 'click'", [], "Incorrect number of parameters: expected 2 but found 1"),
        ("EXECUTE p USING 'click', 1, 2", [], "Incorrect number of parameters: expected 2 but found 3"),
        ("EXECUTE p USING 'click', 1", ["'x'", "1"], "parameters are given twice"),
        ("EXECUTE p", ["click", "1"], "parameter 'click' is not constant; put text in single quotes"),
        ("EXECUTE p", ["'a' OR 1 = 1 --", "1"], "must evaluate to a boolean"),
        ("EXECUTE p USING position, 1", [], "is not constant"),
        ("SHOW TABLES", ["1"], "only a query takes parameters"),
    ],
)
def test_wrong_parameters_fail_the_query(api: AthenaApi, statement: str, parameters: list[str], reason: str) -> None:
    _create(api)
    status = run(api, statement, **({"ExecutionParameters": parameters} if parameters else {}))["Status"]
    assert status["State"] == "FAILED"
    assert reason in status["StateChangeReason"]


@pytest.mark.parametrize("text", ["it's", "'; DROP TABLE actions; --", "?", "\\", 'a"b', "ü\n\t"])
def test_every_text_can_be_a_parameter(api: AthenaApi, text: str) -> None:
    quoted = "'" + text.replace("'", "''") + "'"
    assert cells(results(api, "SELECT ? AS a", ExecutionParameters=[quoted])) == [["a"], [text]]


def test_statements_belong_to_their_work_group(api: AthenaApi) -> None:
    _create(api, group="other", query="SELECT 1")
    assert _get(api, group="other")["QueryStatement"] == "SELECT 1"
    answer = error(api, "GetPreparedStatement", StatementName="p", WorkGroup="primary")
    assert answer["__type"] == "ResourceNotFoundException"
    assert answer["ResourceName"] == "p"
    assert run(api, "EXECUTE p")["Status"]["State"] == "FAILED"
    assert cells(results(api, "EXECUTE p", WorkGroup="other")) == [["_col0"], ["1"]]


def test_a_statement_is_described_changed_and_deleted(api: AthenaApi) -> None:
    _create(api, Description="first")
    assert _get(api)["Description"] == "first"
    call(api, "UpdatePreparedStatement", StatementName="p", WorkGroup="primary", QueryStatement="SELECT 2")
    changed = _get(api)
    assert (changed["QueryStatement"], changed["WorkGroupName"]) == ("SELECT 2", "primary")
    assert error(api, "CreatePreparedStatement", StatementName="p", WorkGroup="primary", QueryStatement="SELECT 3")
    assert call(api, "DeletePreparedStatement", StatementName="p", WorkGroup="primary") == {}
    for operation in ("GetPreparedStatement", "DeletePreparedStatement"):
        answer = error(api, operation, StatementName="p", WorkGroup="primary")
        assert answer["__type"] == "ResourceNotFoundException"


def test_statements_are_listed_by_name_page_by_page(api: AthenaApi) -> None:
    for name in ("c", "a", "d", "b"):
        _create(api, name)
    first = call(api, "ListPreparedStatements", WorkGroup="primary", MaxResults=3)
    assert [one["StatementName"] for one in first["PreparedStatements"]] == ["a", "b", "c"]
    last = call(api, "ListPreparedStatements", WorkGroup="primary", MaxResults=3, NextToken=first["NextToken"])
    assert [one["StatementName"] for one in last["PreparedStatements"]] == ["d"]
    assert "NextToken" not in last
    batch = call(api, "BatchGetPreparedStatement", WorkGroup="primary", PreparedStatementNames=["d", "x", "a"])
    assert [one["StatementName"] for one in batch["PreparedStatements"]] == ["d", "a"]
    assert [one["StatementName"] for one in batch["UnprocessedPreparedStatementNames"]] == ["x"]


@pytest.mark.parametrize("name", ["", "1a", "a b", "a-b", "x" * 257])
def test_a_name_that_is_none_is_refused(api: AthenaApi, name: str) -> None:
    answer = error(api, "CreatePreparedStatement", StatementName=name, WorkGroup="primary", QueryStatement="SELECT 1")
    assert answer["__type"] == "InvalidRequestException"


def test_statements_survive_a_restart(tmp_path: Path) -> None:
    api = make_api(tmp_path)
    _create(api)
    api.close()
    again = make_api(tmp_path)
    assert _get(again)["QueryStatement"] == QUERY
    again.close()
