"""boto3, PyAthena, SQLAlchemy and awswrangler read a running service as they read Athena."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import awswrangler
import boto3
import pandas as pd
import polars as pl
import pyarrow as pa
import pytest
import sqlalchemy
from botocore.exceptions import ClientError
from pyathena import connect
from pyathena.arrow.cursor import ArrowCursor
from pyathena.cursor import Cursor, DictCursor
from pyathena.error import OperationalError
from pyathena.pandas.cursor import PandasCursor
from pyathena.polars.cursor import PolarsCursor

from tests.service.running_service import RunningService, action, running_service, submission
from tests.storage.building import eventually

# The clients' own code, not ours, warns of what later versions of their dependencies will change.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

KEYS = {"aws_access_key_id": "any", "aws_secret_access_key": "any", "region_name": "us-east-1"}
COUNTS = "SELECT type, count(*) AS n FROM actions GROUP BY type ORDER BY type"


@pytest.fixture(scope="module")
def athena_service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningService]:
    """Rows in files and, for one user, in the journal only; a work group with a scan limit."""
    folder = tmp_path_factory.mktemp("athena")
    config = folder / "limits.toml"
    config.write_text("[athena_work_groups.tiny]\nscanned_bytes_max = 10\n")
    with running_service(folder / "data", "--config", str(config)) as service:
        for user in range(5):
            if user == 4:
                service.flush()
            sent = [action("2023-04-01T10:00:00.123Z", "CLICK", locationX=user), action(type_="VIEW", viewedId="v")]
            service.submit(submission(f"user-{user}", *sent))
        yield service


@pytest.fixture
def client(athena_service: RunningService) -> Any:
    return boto3.client("athena", endpoint_url=athena_service.url, **KEYS)


def run(client: Any, sql: str, **more: Any) -> dict[str, Any]:
    started = client.start_query_execution(QueryString=sql, **more)
    while True:
        execution: dict[str, Any] = client.get_query_execution(QueryExecutionId=started["QueryExecutionId"])
        if execution["QueryExecution"]["Status"]["State"] not in ("QUEUED", "RUNNING"):
            ended: dict[str, Any] = execution["QueryExecution"]
            return ended
        time.sleep(0.01)


def open_cursor(service: RunningService, cursor_class: Any, **more: Any) -> Any:
    connection = connect(
        endpoint_url=service.url, work_group="primary", poll_interval=0.01, cursor_class=cursor_class, **KEYS, **more
    )
    return connection.cursor()


def test_boto3_starts_polls_and_reads(client: Any) -> None:
    execution = run(client, COUNTS)
    assert execution["Status"]["State"] == "SUCCEEDED"
    assert execution["Statistics"]["DataScannedInBytes"] > 0
    again = run(client, COUNTS)
    assert again["Statistics"]["DataScannedInBytes"] > 0
    rows = client.get_query_results(QueryExecutionId=execution["QueryExecutionId"])["ResultSet"]["Rows"]
    assert [[cell["VarCharValue"] for cell in row["Data"]] for row in rows] == [
        ["type", "n"],
        ["click", "5"],
        ["view", "5"],
    ]
    assert execution["QueryExecutionId"] in client.list_query_executions()["QueryExecutionIds"]
    batch = client.batch_get_query_execution(QueryExecutionIds=[execution["QueryExecutionId"]])
    assert len(batch["QueryExecutions"]) == 1


def test_a_wrong_query_fails_as_athena_fails(client: Any) -> None:
    failed = run(client, "SELECT nothing FROM actions")
    assert failed["Status"]["State"] == "FAILED"
    assert "COLUMN_NOT_FOUND" in failed["Status"]["StateChangeReason"]
    with pytest.raises(ClientError, match="InvalidRequestException"):
        client.start_query_execution(QueryString="SELEKT 1")
    with pytest.raises(ClientError, match="InvalidRequestException"):
        client.get_query_execution(QueryExecutionId="00000000-0000-0000-0000-000000000000")


def test_a_running_query_is_stopped(client: Any) -> None:
    ten_thousand = "UNNEST(sequence(1, 10000))"
    slow = f"SELECT count(*) FROM {ten_thousand} a(x), {ten_thousand} b(y), {ten_thousand} c(z)"
    started = client.start_query_execution(QueryString=slow)["QueryExecutionId"]
    client.stop_query_execution(QueryExecutionId=started)
    deadline = time.monotonic() + 120
    while client.get_query_execution(QueryExecutionId=started)["QueryExecution"]["Status"]["State"] != "CANCELLED":
        assert time.monotonic() < deadline
        time.sleep(0.05)
    # On a busy machine its worker was killed, and the next one is a while in coming.
    eventually(lambda: run(client, "SELECT 1")["Status"]["State"] == "SUCCEEDED")


def test_a_work_group_limits_what_is_scanned(client: Any) -> None:
    cancelled = run(client, "SELECT user_id FROM actions", WorkGroup="tiny")
    assert cancelled["Status"]["State"] == "CANCELLED"
    assert "BytesScannedCutoffPerQuery" in cancelled["Status"]["StateChangeReason"]
    assert {"primary", "tiny"} <= {one["Name"] for one in client.list_work_groups()["WorkGroups"]}


def test_the_catalog_is_described(client: Any) -> None:
    assert client.list_databases(CatalogName="AwsDataCatalog")["DatabaseList"][0]["Name"] == "default"
    table = client.get_table_metadata(CatalogName="AwsDataCatalog", DatabaseName="default", TableName="actions")
    columns = {one["Name"]: one["Type"] for one in table["TableMetadata"]["Columns"]}
    assert columns["user_id"] == "string"
    assert {one["Name"] for one in table["TableMetadata"]["PartitionKeys"]} == {"date", "type"}


def test_prepared_statements_take_parameters(client: Any) -> None:
    client.create_prepared_statement(
        StatementName="by_user", WorkGroup="primary", QueryStatement="SELECT count(*) FROM actions WHERE user_id = ?"
    )
    execution = run(client, "EXECUTE by_user USING 'user-4'")
    rows = client.get_query_results(QueryExecutionId=execution["QueryExecutionId"])["ResultSet"]["Rows"]
    assert rows[1]["Data"][0]["VarCharValue"] == "2"
    direct = run(client, "SELECT count(*) FROM actions WHERE user_id = ?", ExecutionParameters=["'user-4'"])
    assert direct["Status"]["State"] == "SUCCEEDED"


def test_history_survives_a_restart(tmp_path_factory: pytest.TempPathFactory) -> None:
    data = tmp_path_factory.mktemp("history") / "data"
    with running_service(data) as service:
        first = run(boto3.client("athena", endpoint_url=service.url, **KEYS), "SELECT 41 + 1 AS answer")
        service.kill()
    with running_service(data) as service:
        client = boto3.client("athena", endpoint_url=service.url, **KEYS)
        rows = client.get_query_results(QueryExecutionId=first["QueryExecutionId"])["ResultSet"]["Rows"]
        assert rows[1]["Data"][0]["VarCharValue"] == "42"


def test_pyathena_cursors_read_rows(athena_service: RunningService) -> None:
    assert open_cursor(athena_service, Cursor).execute(COUNTS).fetchall() == [("click", 5), ("view", 5)]
    assert open_cursor(athena_service, DictCursor).execute(COUNTS).fetchone() == {"type": "click", "n": 5}
    frame = open_cursor(athena_service, PandasCursor).execute(COUNTS).as_pandas()
    assert isinstance(frame, pd.DataFrame)
    assert frame["n"].tolist() == [5, 5]
    table = open_cursor(athena_service, ArrowCursor).execute(COUNTS).as_arrow()
    assert isinstance(table, pa.Table)
    assert table["n"].to_pylist() == [5, 5]
    polars = open_cursor(athena_service, PolarsCursor).execute(COUNTS).as_polars()
    assert isinstance(polars, pl.DataFrame)
    assert polars["n"].to_list() == [5, 5]


def test_pyathena_says_what_is_wrong_and_refuses_what_needs_s3(athena_service: RunningService) -> None:
    with pytest.raises(OperationalError, match="nothing"):
        open_cursor(athena_service, Cursor).execute("SELECT nothing FROM actions")
    with pytest.raises(Exception, match=r"(?i)unload|s3"):
        open_cursor(athena_service, ArrowCursor, cursor_kwargs={"unload": True}).execute(COUNTS)


def test_sqlalchemy_reflects_the_table(athena_service: RunningService) -> None:
    url = "awsathena+rest://any:any@athena.us-east-1.amazonaws.com:443/default?work_group=primary&poll_interval=0.01"
    engine = sqlalchemy.create_engine(url, connect_args={"endpoint_url": athena_service.url})
    with engine.connect() as connection:
        table = sqlalchemy.Table("actions", sqlalchemy.MetaData(), autoload_with=connection)
        assert {"user_id", "time", "properties", "position"} <= set(table.columns.keys())
        counted = sqlalchemy.select(sqlalchemy.func.count()).select_from(table).where(table.c.user_id == "user-1")
        assert connection.execute(counted).scalar() == 2
        assert "actions" in sqlalchemy.inspect(connection).get_table_names()
        assert not sqlalchemy.inspect(connection).has_table("nothing")
    engine.dispose()


def test_awswrangler_reads_a_frame(athena_service: RunningService) -> None:
    awswrangler.config.athena_endpoint_url = athena_service.url
    session = boto3.Session(**KEYS)
    frame = awswrangler.athena.read_sql_query(
        COUNTS, database="default", ctas_approach=False, workgroup="primary", boto3_session=session
    )
    assert frame["n"].tolist() == [5, 5]
