"""Every operation's answer has the members and the types of AWS's own description of the API, and so have errors."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from typing import Any

import botocore.session
import pytest
from botocore.model import ListShape, MapShape, Shape, StructureShape

from queries.athena import AthenaApi, WorkGroup
from tests.queries.athena_calls import call, make_api, run
from tests.queries.athena_engine import SCHEMA

MODEL = botocore.session.Session().get_service_model("athena")
CATALOG: dict[str, object] = {"CatalogName": "AwsDataCatalog"}
DATABASE: dict[str, object] = {**CATALOG, "DatabaseName": "default"}
STATEMENT: dict[str, object] = {"StatementName": "p", "WorkGroup": "primary"}


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AthenaApi]:
    made = make_api(tmp_path_factory.mktemp("athena"), work_groups=[WorkGroup("tiny", scanned_bytes_max=1)])
    call(made, "CreatePreparedStatement", QueryStatement="SELECT ?", Description="d", **STATEMENT)
    yield made
    made.close()


@pytest.fixture(scope="module")
def executions(api: AthenaApi) -> list[str]:
    """One execution of each end."""
    ends = [
        run(api, "SELECT *, ? AS a FROM actions", ExecutionParameters=["1"]),
        run(api, "SELECT nope"),
        run(api, "SELECT count(*) FROM actions", WorkGroup="tiny"),
        run(api, "DESCRIBE actions"),
    ]
    assert [e["Status"]["State"] for e in ends] == ["SUCCEEDED", "FAILED", "CANCELLED", "SUCCEEDED"]
    return [e["QueryExecutionId"] for e in ends]


def _faults(value: Any, shape: Shape, path: str) -> list[str]:
    """Where *value* is not what *shape* describes."""
    if isinstance(shape, StructureShape):
        unknown = [f"{path}.{name} is unknown" for name in set(value) - set(shape.members)]
        missing = [f"{path}.{name} is missing" for name in shape.required_members if name not in value]
        inner = [
            fault
            for name, member in shape.members.items()
            if name in value
            for fault in _faults(value[name], member, f"{path}.{name}")
        ]
        return unknown + missing + inner
    if isinstance(shape, ListShape):
        return [f for i, item in enumerate(value) for f in _faults(item, shape.member, f"{path}[{i}]")]
    if isinstance(shape, MapShape):
        return [f for key, item in value.items() for f in _faults(item, shape.value, f"{path}[{key}]")]
    kinds: dict[str, type | tuple[type, ...]] = {
        "string": str, "integer": int, "long": int, "boolean": bool, "timestamp": (int, float), "double": float,
    }  # fmt: skip
    fits = isinstance(value, kinds[shape.type_name]) and isinstance(value, bool) == (shape.type_name == "boolean")
    if not fits:
        return [f"{path} is {value!r}, not a {shape.type_name}"]
    allowed = getattr(shape, "enum", [])
    return [f"{path} is {value!r}, which is not one of {allowed}"] if allowed and value not in allowed else []


OPERATIONS: list[tuple[str, dict[str, object]]] = [
    ("StartQueryExecution", {"QueryString": "SELECT 1", "ResultConfiguration": {"OutputLocation": "s3://b/p/"}}),
    ("ListQueryExecutions", {"MaxResults": 1}),
    ("ListWorkGroups", {"MaxResults": 1}),
    ("GetWorkGroup", {"WorkGroup": "tiny"}),
    ("ListDataCatalogs", {}),
    ("GetDataCatalog", {"Name": "AwsDataCatalog"}),
    ("ListDatabases", CATALOG),
    ("GetDatabase", DATABASE),
    ("ListTableMetadata", DATABASE),
    ("ListTableMetadata", {**DATABASE, "MaxResults": 2}),
    ("GetTableMetadata", {**DATABASE, "TableName": "actions"}),
    ("GetTableMetadata", {**DATABASE, "TableName": "clicks"}),
    ("GetPreparedStatement", STATEMENT),
    ("BatchGetPreparedStatement", {"WorkGroup": "primary", "PreparedStatementNames": ["p", "nope"]}),
    ("ListPreparedStatements", {"WorkGroup": "primary"}),
    ("UpdatePreparedStatement", {**STATEMENT, "QueryStatement": "SELECT ? + 1"}),
]


@pytest.mark.parametrize(("operation", "payload"), OPERATIONS)
def test_an_answer_fits(api: AthenaApi, operation: str, payload: dict[str, object]) -> None:
    answer = call(api, operation, **payload)
    assert _faults(answer, MODEL.operation_model(operation).output_shape, operation) == []


@pytest.mark.parametrize("operation", ["GetQueryExecution", "GetQueryResults", "GetQueryRuntimeStatistics"])
@pytest.mark.parametrize("end", range(4))
def test_an_answer_about_an_execution_fits(api: AthenaApi, executions: list[str], operation: str, end: int) -> None:
    status, answer = api.handle(operation, {"QueryExecutionId": executions[end]})
    if operation == "GetQueryResults" and end in (1, 2):
        assert status == 400
        return
    assert status == 200
    assert _faults(answer, MODEL.operation_model(operation).output_shape, operation) == []


def test_an_answer_about_many_executions_fits(api: AthenaApi, executions: list[str]) -> None:
    answer = call(api, "BatchGetQueryExecution", QueryExecutionIds=[*executions, "0" * 36])
    assert _faults(answer, MODEL.operation_model("BatchGetQueryExecution").output_shape, "") == []
    assert len(answer["QueryExecutions"]) == len(executions)


ERRORS: list[tuple[str, dict[str, object], str]] = [
    ("StartQueryExecution", {}, "InvalidRequestException"),
    ("StartQueryExecution", {"QueryString": "SELEC"}, "InvalidRequestException"),
    ("StartQueryExecution", {"QueryString": 5}, "InvalidRequestException"),
    ("StartQueryExecution", {"QueryString": "SELECT 1" + " " * 262_144}, "InvalidRequestException"),
    ("StartQueryExecution", {"QueryString": "SELECT 1", "Surprise": 1}, "InvalidRequestException"),
    ("StartQueryExecution", {"QueryString": "SELECT 1", "ExecutionParameters": "1"}, "InvalidRequestException"),
    ("StartQueryExecution", {"QueryString": "SELECT 1", "QueryExecutionContext": "x"}, "InvalidRequestException"),
    (
        "StartQueryExecution",
        {"QueryString": "SELECT 1", "ResultConfiguration": {"EncryptionConfiguration": {"EncryptionOption": "SSE_S3"}}},
        "InvalidRequestException",
    ),
    ("GetQueryExecution", {}, "InvalidRequestException"),
    ("GetTableMetadata", {**DATABASE, "TableName": "nope"}, "MetadataException"),
    ("GetTableMetadata", {**CATALOG, "DatabaseName": "nope", "TableName": "actions"}, "MetadataException"),
    ("ListDatabases", {"CatalogName": "nope"}, "MetadataException"),
    ("GetDataCatalog", {"Name": "nope"}, "InvalidRequestException"),
    ("ListTableMetadata", {**DATABASE, "Expression": "("}, "InvalidRequestException"),
    ("GetPreparedStatement", {**STATEMENT, "StatementName": "nope"}, "ResourceNotFoundException"),
    ("BatchGetQueryExecution", {"QueryExecutionIds": []}, "InvalidRequestException"),
]


@pytest.mark.parametrize(("operation", "payload", "name"), ERRORS)
def test_an_error_is_one_that_clients_know(
    api: AthenaApi, operation: str, payload: dict[str, object], name: str
) -> None:
    status, answer = api.handle(operation, payload)
    assert (status, answer["__type"]) == (400, name)
    shape = MODEL.shape_for(name)
    assert isinstance(shape, StructureShape)
    body = {key: value for key, value in answer.items() if key not in ("__type", "message")}
    assert _faults(body, shape, name) == []
    assert answer["Message"]


@pytest.mark.parametrize("operation", ["CreateNotebook", "StartSession", "DeleteWorkGroup", "", "__init__", "handle"])
def test_an_operation_that_is_not_there_is_said_not_to_be(api: AthenaApi, operation: str) -> None:
    status, answer = api.handle(operation, {})
    assert (status, answer["__type"]) == (400, "UnknownOperationException")


def test_an_operation_that_breaks_is_an_internal_error_and_no_exception(api: AthenaApi) -> None:
    status, answer = AthenaApi.handle(api, "ListTableMetadata", None)  # type: ignore[arg-type]
    assert (status, answer["__type"]) == (500, "InternalServerException")


def test_the_table_is_described_with_its_columns_and_keys(api: AthenaApi) -> None:
    table = call(api, "GetTableMetadata", TableName="ACTIONS", **DATABASE)["TableMetadata"]
    names = [column["Name"] for column in table["Columns"]]
    keys = [key["Name"] for key in table["PartitionKeys"]]
    assert keys == ["date", "type"]
    assert [*keys, *names] == SCHEMA.table_schema.names
    assert table["TableType"] == "EXTERNAL_TABLE"
    assert datetime.datetime.now().timestamp() - table["CreateTime"] < 3600


def test_tables_are_chosen_by_an_expression(api: AthenaApi) -> None:
    def named(expression: str) -> list[str]:
        answer = call(api, "ListTableMetadata", Expression=expression, **DATABASE)
        return [table["Name"] for table in answer["TableMetadataList"]]

    assert named("act*") == ["actions"]
    assert named("clicks|views") == ["clicks", "views"]
    assert named("*") == ["actions", "clicks", "daily_activity", "navigations", "sessions", "views"]
    assert named("nope") == []
