"""Results come in pages of any size, the same from every process, until they are too old or too many."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from queries.athena import AthenaApi, Retention
from tests.queries.athena_calls import Answer, call, cells, error, execution, make_api, results, run, start

ROWS = 9_001
QUERY = f"SELECT x, x * 1e0 AS y FROM UNNEST(sequence(1, {ROWS})) AS t(x) ORDER BY x"


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[AthenaApi, AthenaApi, str]]:
    """Two processes' APIs on one folder, and the id of a result of the first of them."""
    folder = tmp_path_factory.mktemp("athena")
    here, there = make_api(folder), make_api(folder)
    yield here, there, run(here, QUERY)["QueryExecutionId"]
    here.close()
    there.close()


def _pages(apis: list[AthenaApi], execution_id: str, **options: object) -> list[Answer]:
    found: list[Answer] = []
    token: dict[str, object] = {}
    while True:
        api = apis[len(found) % len(apis)]
        found.append(call(api, "GetQueryResults", QueryExecutionId=execution_id, **options, **token))
        if "NextToken" not in found[-1]:
            return found
        token = {"NextToken": found[-1]["NextToken"]}


@pytest.mark.parametrize("size", [1000, 999, 7 * 128, None])
def test_pages_hold_every_row_once_in_order(pair: tuple[AthenaApi, AthenaApi, str], size: int | None) -> None:
    here, there, execution_id = pair
    pages = _pages([here, there], execution_id, **({"MaxResults": size} if size else {}))
    rows = [row for page in pages for row in cells(page)]
    assert rows[0] == ["x", "y"]
    assert rows[1:] == [[str(x), f"{x}.0"] for x in range(1, ROWS + 1)]
    assert {len(cells(page)) for page in pages[:-1]} == {size or 1000}
    assert len({str(page["ResultSet"]["ResultSetMetadata"]) for page in pages}) == 1


def test_a_page_of_one_row_is_the_header_first(tmp_path: Path) -> None:
    api = make_api(tmp_path)
    execution_id = run(api, "SELECT x FROM (VALUES 1, 2) t(x) ORDER BY 1")["QueryExecutionId"]
    assert [cells(page) for page in _pages([api], execution_id, MaxResults=1)] == [[["x"]], [["1"]], [["2"]]]
    api.close()


def test_an_empty_result_is_its_header(tmp_path: Path) -> None:
    api = make_api(tmp_path)
    answer = results(api, "SELECT type, position FROM actions WHERE false")
    assert cells(answer) == [["type", "position"]]
    assert [c["Type"] for c in answer["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]] == ["varchar", "bigint"]
    assert answer["UpdateCount"] == 0
    api.close()


def test_null_is_not_the_empty_text(tmp_path: Path) -> None:
    api = make_api(tmp_path)
    answer = results(api, "SELECT '' AS a, CAST(NULL AS varchar) AS b, 'null' AS c")
    assert answer["ResultSet"]["Rows"][1]["Data"] == [{"VarCharValue": ""}, {}, {"VarCharValue": "null"}]
    api.close()


def test_columns_of_the_same_name_are_all_there(tmp_path: Path) -> None:
    api = make_api(tmp_path)
    assert cells(results(api, "SELECT 1 AS a, 2 AS a, 3")) == [["a", "a", "_col2"], ["1", "2", "3"]]
    api.close()


@pytest.mark.parametrize("wrong", [0, -1, 1001, "10", 1.5, True])
def test_a_page_size_out_of_bounds_is_refused(pair: tuple[AthenaApi, AthenaApi, str], wrong: object) -> None:
    here, _, execution_id = pair
    answer = error(here, "GetQueryResults", QueryExecutionId=execution_id, MaxResults=wrong)
    assert answer["__type"] == "InvalidRequestException"


def test_a_token_belongs_to_its_own_result(pair: tuple[AthenaApi, AthenaApi, str]) -> None:
    here, there, execution_id = pair
    token = call(here, "GetQueryResults", QueryExecutionId=execution_id)["NextToken"]
    other = run(here, "SELECT 1")["QueryExecutionId"]
    for wrong, of in [(token, other), (token[:-2], execution_id), ("", execution_id), ("AAAA", execution_id)]:
        answer = error(there, "GetQueryResults", QueryExecutionId=of, NextToken=wrong)
        assert "NextToken" in answer["Message"]


def test_a_result_past_its_time_is_gone_and_its_execution_is_not(tmp_path: Path) -> None:
    now = [1_700_000_000.0]
    api = make_api(tmp_path, clock=lambda: now[0], retention=Retention(result_hours=2))
    early = run(api, "SELECT 1")["QueryExecutionId"]
    now[0] += 3 * 3600
    late = run(api, "SELECT 2")["QueryExecutionId"]
    api._runner.keep_retention(now=True)
    assert "no longer kept" in error(api, "GetQueryResults", QueryExecutionId=early)["Message"]
    assert execution(api, early)["Status"]["State"] == "SUCCEEDED"
    assert cells(call(api, "GetQueryResults", QueryExecutionId=late)) == [["_col0"], ["2"]]
    assert [path.stem for path in (tmp_path / "athena" / "results").iterdir()] == [late]
    api.close()


def test_the_oldest_results_go_when_all_are_too_large(tmp_path: Path) -> None:
    api = make_api(tmp_path, retention=Retention(results_bytes_max=200_000))
    ids = [run(api, QUERY.replace(str(ROWS), "4000"))["QueryExecutionId"] for _ in range(6)]
    api._runner.keep_retention(now=True)
    kept = {path.stem: path.stat().st_size for path in (tmp_path / "athena" / "results").iterdir()}
    assert 0 < len(kept) < len(ids)
    assert sum(kept.values()) <= 200_000
    assert set(kept) == set(ids[-len(kept) :])
    api.close()


def test_a_result_that_alone_is_too_large_fails_its_query_and_leaves_nothing(tmp_path: Path) -> None:
    api = make_api(tmp_path, retention=Retention(results_bytes_max=50_000))
    status = run(api, QUERY)["Status"]
    assert status["State"] == "FAILED"
    assert status["StateChangeReason"].startswith("EXCEEDED_RESULT_SIZE_LIMIT")
    assert (status["AthenaError"]["ErrorCategory"], status["AthenaError"]["ErrorType"]) == (1, 0)
    assert list((tmp_path / "athena" / "results").iterdir()) == []
    api.close()


def test_a_result_removed_by_one_process_is_not_served_from_the_memory_of_another(tmp_path: Path) -> None:
    here, there = make_api(tmp_path), make_api(tmp_path)
    execution_id = run(here, "SELECT 1")["QueryExecutionId"]
    call(there, "GetQueryResults", QueryExecutionId=execution_id)
    here._results.remove(execution_id)
    assert "no longer kept" in error(there, "GetQueryResults", QueryExecutionId=execution_id)["Message"]
    here.close()
    there.close()


def test_results_of_a_query_that_has_not_ended_or_has_failed_are_refused(tmp_path: Path) -> None:
    api = make_api(tmp_path)
    failed = start(api, "SELECT nope")
    answer = error(api, "GetQueryResults", QueryExecutionId=failed)
    assert answer["Message"] == "Query did not finish successfully. Final query state: FAILED"
    api.close()
