"""Whatever an operation is sent, it answers, or refuses naming the client's mistake: never an error of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from queries.athena import AthenaApi
from tests.faults.effort import repetitions
from tests.queries.athena_calls import call, make_api, run

MODEL = botocore.session.Session().get_service_model("athena")
# Words that are right in some place, and pieces of queries; put together they come far into the code.
NAMES = ["AwsDataCatalog", "default", "primary", "actions", "clicks", "daily_activity", "p", "LAMBDA", "", "*", "%"]
PIECES = [
    *("SELECT", "FROM", "actions", "WHERE", "GROUP BY", "ORDER BY", "LIMIT", "WITH", "AS", "(", ")", ",", "*", "?"),
    *("count(*)", "type", '"user_id"', "'a'", "1", "0.5", "=", "NOT", "NULL", "CAST(", "AS BIGINT)", "[1]", "x -> x"),
    *("SHOW", "TABLES", "PARTITIONS", "DESCRIBE", "EXPLAIN", "EXECUTE", "PREPARE", "USING", "IN", ";", "--", "/*", "'"),
    *("date_trunc('day', time)", "UNNEST(", "JOIN", "UNION ALL", "INTERVAL '1' DAY", "json_extract(properties, '$.a')"),
]
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=5,
)
queries = st.lists(st.sampled_from(PIECES), max_size=12).map(" ".join)


def fitting(shape: Shape, ids: list[str]) -> st.SearchStrategy[Any]:
    """What AWS's own description lets a client send there."""
    if isinstance(shape, StructureShape):
        members = {name: sent(member, ids) for name, member in shape.members.items()}
        required = {name: members.pop(name) for name in shape.required_members}
        return st.fixed_dictionaries(required, optional=members)
    if isinstance(shape, ListShape):
        return st.lists(sent(shape.member, ids), max_size=3)
    if isinstance(shape, MapShape):
        return st.dictionaries(st.sampled_from(NAMES), sent(shape.value, ids), max_size=2)
    match shape.type_name:
        case "integer" | "long":
            return st.integers(-1, 1001)
        case "boolean":
            return st.booleans()
        case _:
            return st.sampled_from([*NAMES, *ids]) | queries | st.text(max_size=20)


def sent(shape: Shape, ids: list[str]) -> st.SearchStrategy[Any]:
    """Mostly what fits, sometimes anything."""
    fits = fitting(shape, ids)
    return st.integers(0, 9).flatmap(lambda one: anything if one == 0 else fits)


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AthenaApi]:
    made = make_api(tmp_path_factory.mktemp("athena"))
    call(made, "CreatePreparedStatement", QueryStatement="SELECT ?", StatementName="p", WorkGroup="primary")
    yield made
    made.close()


@pytest.fixture(scope="module")
def ids(api: AthenaApi) -> list[str]:
    ended = [run(api, "SELECT * FROM actions"), run(api, "SELECT nope"), run(api, "DESCRIBE actions")]
    return [str(one["QueryExecutionId"]) for one in ended]


def operations() -> list[str]:
    return sorted(set(MODEL.operation_names))


@given(data=st.data())
@settings(
    max_examples=repetitions(suite=250, long=20_000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_no_operation_fails(api: AthenaApi, ids: list[str], data: st.DataObject) -> None:
    known = sorted(api._operations)
    operation = data.draw(st.sampled_from(known) | st.sampled_from(operations()))
    shape = MODEL.operation_model(operation).input_shape
    payload = data.draw(fitting(shape, ids) if shape is not None else st.just({}))
    status, answer = api.handle(operation, payload)
    assert status in (200, 400), (operation, payload, answer)
    assert status == 200 or answer["__type"]
    json.dumps(answer)


@given(text=queries | st.text(max_size=60))
@settings(
    max_examples=repetitions(suite=150, long=20_000),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_text_of_a_query_fails(api: AthenaApi, text: str) -> None:
    status, answer = api.handle("StartQueryExecution", {"QueryString": text})
    assert status in (200, 400), (text, answer)


def test_the_control_notices_an_operation_that_fails(api: AthenaApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(api._operations, "GetWorkGroup", lambda _: {"a": 1 // 0})
    with pytest.raises(AssertionError):
        test_no_operation_fails.hypothesis.inner_test(api, [], _Drawn("GetWorkGroup"))  # type: ignore[attr-defined]


class _Drawn:
    """Draws one operation, with nothing in it."""

    def __init__(self, operation: str) -> None:
        self._drawn: list[Any] = [operation, {}]

    def draw(self, _: object) -> Any:
        return self._drawn.pop(0)
