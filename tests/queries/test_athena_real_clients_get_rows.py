"""The clients that people use get the rows of the table: boto3, PyAthena with its cursors, SQLAlchemy, awswrangler."""

from __future__ import annotations

import datetime
import statistics
import time
from collections.abc import Iterator
from typing import Any

import awswrangler as wr
import boto3
import pandas as pd
import pyathena
import pytest
import sqlalchemy as sa
from botocore.exceptions import ClientError
from pyathena.arrow.cursor import ArrowCursor
from pyathena.cursor import DictCursor
from pyathena.pandas.cursor import PandasCursor
from pyathena.polars.cursor import PolarsCursor

from tests.machine_delay import MachineDelay, machine_delay
from tests.queries.athena_engine import SCHEMA, action_rows
from tests.queries.athena_server import AthenaEndpoint

# The journal's own columns are given by the service, so they say nothing about a client.
OWN = ("received_at", "journal", "position")
NAMES = [name for name in SCHEMA.table_schema.names if name not in OWN]
ROWS = sorted(action_rows(), key=lambda row: str(row["time"]))
SELECT = f"SELECT {', '.join(NAMES)} FROM actions ORDER BY time"


@pytest.fixture(scope="module")
def athena(athena_endpoint: AthenaEndpoint) -> Any:
    return boto3.client("athena", **athena_endpoint.client_arguments)


@pytest.fixture
def connection(athena_endpoint: AthenaEndpoint) -> Iterator[Any]:
    with pyathena.connect(work_group="primary", **athena_endpoint.client_arguments) as made:
        yield made


@pytest.fixture(scope="module")
def database(athena_endpoint: AthenaEndpoint) -> Iterator[sa.Engine]:
    arguments = athena_endpoint.client_arguments
    made = sa.create_engine(
        f"awsathena+rest://{arguments['aws_access_key_id']}:{arguments['aws_secret_access_key']}"
        f"@athena.{arguments['region_name']}.amazonaws.com:443/default?work_group=primary"
        f"&endpoint_url={athena_endpoint.url}"
    )
    yield made
    made.dispose()


def _run(athena: Any, query: str, **options: Any) -> dict[str, Any]:
    """Start a query by boto3 and ask until it has ended."""
    execution_id = athena.start_query_execution(QueryString=query, **options)["QueryExecutionId"]
    while True:
        found: dict[str, Any] = athena.get_query_execution(QueryExecutionId=execution_id)["QueryExecution"]
        if found["Status"]["State"] not in ("QUEUED", "RUNNING"):
            return found
        time.sleep(0.01)


def _expected(name: str) -> list[Any]:
    return [row[name] for row in ROWS]


# boto3


def test_boto3_starts_polls_and_reads(athena: Any) -> None:
    found = _run(athena, SELECT, ResultConfiguration={"OutputLocation": "s3://ignored/"})
    assert found["Status"]["State"] == "SUCCEEDED"
    assert isinstance(found["Status"]["SubmissionDateTime"], datetime.datetime)
    pages = athena.get_paginator("get_query_results").paginate(
        QueryExecutionId=found["QueryExecutionId"], PaginationConfig={"PageSize": 5}
    )
    rows = [[cell.get("VarCharValue") for cell in row["Data"]] for page in pages for row in page["ResultSet"]["Rows"]]
    assert rows[0] == NAMES
    user, day, x = NAMES.index("user_id"), NAMES.index("date"), NAMES.index("location_x")
    assert [row[user] for row in rows[1:]] == _expected("user_id")
    assert [row[day] for row in rows[1:]] == [day.isoformat() for day in _expected("date")]
    assert [row[x] for row in rows[1:]] == [None if x is None else str(x) for x in _expected("location_x")]


def test_boto3_lists_and_stops(athena: Any) -> None:
    found = _run(athena, "SELECT 1")
    athena.stop_query_execution(QueryExecutionId=found["QueryExecutionId"])
    pages = athena.get_paginator("list_query_executions").paginate(WorkGroup="primary")
    assert found["QueryExecutionId"] in [one for page in pages for one in page["QueryExecutionIds"]]
    assert athena.list_work_groups()["WorkGroups"][0]["Name"] == "primary"
    tables = athena.list_table_metadata(CatalogName="AwsDataCatalog", DatabaseName="default")["TableMetadataList"]
    assert "actions" in [table["Name"] for table in tables]


@pytest.mark.parametrize(
    ("query", "reason"),
    [
        ("UNLOAD (SELECT 1) TO 's3://b/' WITH (format = 'PARQUET')", "UNLOAD is refused"),
        ("CREATE TABLE t AS SELECT 1 AS a", "CREATE TABLE AS SELECT is refused"),
        ("SELECT 1/0", "DIVISION_BY_ZERO"),
    ],
)
def test_boto3_is_told_why_a_query_failed(athena: Any, query: str, reason: str) -> None:
    status = _run(athena, query)["Status"]
    assert status["State"] == "FAILED"
    assert reason in status["StateChangeReason"]
    assert reason in status["AthenaError"]["ErrorMessage"]


def test_boto3_raises_the_errors_of_the_api(athena: Any) -> None:
    with pytest.raises(athena.exceptions.InvalidRequestException) as raised:
        athena.start_query_execution(QueryString="SELEC 1")
    assert raised.value.response["AthenaErrorCode"] == "MALFORMED_QUERY"
    with pytest.raises(athena.exceptions.MetadataException):
        athena.get_table_metadata(CatalogName="AwsDataCatalog", DatabaseName="default", TableName="nope")
    with pytest.raises(athena.exceptions.ResourceNotFoundException):
        athena.get_prepared_statement(StatementName="nope", WorkGroup="primary")
    with pytest.raises(ClientError, match="not supported"):
        athena.create_work_group(Name="w")


def test_a_small_query_makes_its_round_trip_in_milliseconds(athena: Any) -> None:
    def make_it() -> None:
        found = _run(athena, "SELECT count(*) FROM actions")
        athena.get_query_results(QueryExecutionId=found["QueryExecutionId"])

    def idle_seconds(delay: MachineDelay) -> float:
        """How long nobody works at it: server, engine and client are in this process."""
        used_s = time.process_time()
        return delay.seconds(make_it) - (time.process_time() - used_s)

    make_it()
    with machine_delay() as delay:
        assert statistics.median(idle_seconds(delay) for _ in range(15)) < 0.04


# PyAthena


def test_pyathena_gets_python_values(connection: Any) -> None:
    cursor = connection.cursor().execute(SELECT)
    rows = [dict(zip(NAMES, row, strict=True)) for row in cursor.fetchall()]
    assert [column[0] for column in cursor.description] == NAMES
    for name in ("user_id", "session_id", "date", "location_x", "viewed_id", "utc_offset_minutes", "properties"):
        assert [row[name] for row in rows] == _expected(name), name
    assert [row["time"] for row in rows] == _expected("time")
    assert cursor.data_scanned_in_bytes > 0


def test_pyathena_pages_through_large_results(connection: Any) -> None:
    query = "SELECT x FROM UNNEST(sequence(1, 2500)) AS t(x) ORDER BY x"
    assert connection.cursor().execute(query).fetchall() == [(x,) for x in range(1, 2501)]


@pytest.mark.parametrize("user", ["O'Brien", "user-1", "nobody", "'; --", "100%"])
def test_pyathena_passes_parameters(connection: Any, user: str) -> None:
    expected = [{"n": sum(row["user_id"] == user for row in ROWS)}]
    query = "SELECT count(*) AS n FROM actions WHERE user_id = "
    assert connection.cursor(DictCursor).execute(f"{query}%(user)s", {"user": user}).fetchall() == expected
    literal = "'" + user.replace("'", "''") + "'"
    prepared = connection.cursor(DictCursor).execute(f"{query}?", [literal], paramstyle="qmark")
    assert prepared.fetchall() == expected


def test_pyathena_reports_a_failure(connection: Any) -> None:
    with pytest.raises(pyathena.error.OperationalError, match="COLUMN_NOT_FOUND: line 1:8: Column 'nope'"):
        connection.cursor().execute("SELECT nope FROM actions")


def test_pyathena_is_told_of_a_scan_that_was_cut_off(athena_endpoint: AthenaEndpoint) -> None:
    limit = "exceeded the BytesScannedCutoffPerQuery limit"
    with (
        pyathena.connect(work_group="tiny", **athena_endpoint.client_arguments) as connection,
        pytest.raises(pyathena.error.OperationalError, match=limit),
    ):
        connection.cursor().execute("SELECT count(*) FROM actions")


def test_pyathena_makes_data_frames_and_tables(connection: Any) -> None:
    pandas = connection.cursor(PandasCursor).execute(SELECT).as_pandas()
    assert list(pandas.columns) == NAMES
    assert pandas["user_id"].tolist() == _expected("user_id")
    assert pandas["location_x"].sum() == sum(x for x in _expected("location_x") if x is not None)
    arrow = connection.cursor(ArrowCursor).execute(SELECT).as_arrow()
    assert arrow.column_names == NAMES
    assert arrow["user_id"].to_pylist() == _expected("user_id")
    polars = connection.cursor(PolarsCursor).execute(SELECT).as_polars()
    assert polars.columns == NAMES
    assert polars["user_id"].to_list() == _expected("user_id")
    assert polars["location_x"].to_list() == _expected("location_x")


# SQLAlchemy


def test_sqlalchemy_reflects_the_table(database: sa.Engine) -> None:
    table = sa.Table("actions", sa.MetaData(), autoload_with=database)
    assert {column.name for column in table.columns} == set(SCHEMA.table_schema.names)
    assert isinstance(table.c.user_id.type, sa.String)
    assert isinstance(table.c.location_x.type, sa.Float)
    assert isinstance(table.c.date.type, sa.Date)
    inspector = sa.inspect(database)
    assert inspector.get_schema_names() == ["default"]
    assert inspector.has_table("actions")
    assert not inspector.has_table("nope")
    assert "clicks" in inspector.get_view_names()
    assert "type = 'click'" in str(inspector.get_view_definition("clicks"))


def test_sqlalchemy_selects_groups_and_binds(database: sa.Engine) -> None:
    table = sa.Table("actions", sa.MetaData(), autoload_with=database)
    query = (
        sa.select(table.c.type, sa.func.count().label("n"), sa.func.max(table.c.date))
        .where(table.c.date >= datetime.date(2024, 1, 2), table.c.user_id != "O'Brien")
        .group_by(table.c.type)
        .order_by(table.c.type)
        .limit(2)
    )
    with database.connect() as connection:
        found = [tuple(row) for row in connection.execute(query)]
    chosen = [row for row in ROWS if row["user_id"] != "O'Brien"]
    expected = []
    for kind in sorted({str(row["type"]) for row in chosen})[:2]:
        days = [row["date"] for row in chosen if row["type"] == kind]
        expected.append((kind, len(days), max(days, key=str)))
    assert found == expected


def test_pandas_reads_by_sqlalchemy(database: sa.Engine) -> None:
    with database.connect() as connection:
        frame = pd.read_sql(sa.text("SELECT user_id, count(*) AS n FROM actions GROUP BY 1 ORDER BY 1"), connection)
    users = sorted({str(row["user_id"]) for row in ROWS})
    assert frame["user_id"].tolist() == users
    assert frame["n"].tolist() == [_expected("user_id").count(user) for user in users]


# awswrangler


@pytest.fixture
def wrangler(athena_endpoint: AthenaEndpoint, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    arguments = dict(athena_endpoint.client_arguments)
    monkeypatch.setattr(wr.config, "athena_endpoint_url", arguments.pop("endpoint_url"))
    return {"database": "default", "ctas_approach": False, "boto3_session": boto3.Session(**arguments)}


def test_awswrangler_reads_a_typed_data_frame(wrangler: dict[str, Any]) -> None:
    frame = wr.athena.read_sql_query(SELECT, **wrangler)
    assert list(frame.columns) == NAMES
    assert frame["user_id"].tolist() == _expected("user_id")
    assert frame["utc_offset_minutes"].tolist() == _expected("utc_offset_minutes")
    assert frame["date"].tolist() == _expected("date")
    assert [None if pd.isna(x) else x for x in frame["location_x"]] == _expected("location_x")


def test_awswrangler_binds_parameters(wrangler: dict[str, Any]) -> None:
    query = "SELECT count(*) AS n FROM actions WHERE user_id = ?"
    frame = wr.athena.read_sql_query(query, params=["'O''Brien'"], paramstyle="qmark", **wrangler)
    assert frame["n"].tolist() == [_expected("user_id").count("O'Brien")]
