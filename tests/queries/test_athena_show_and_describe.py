"""SHOW and DESCRIBE answer in Athena's shapes: texts without a header row, the columns of DESCRIBE between tabs."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from queries.athena import AthenaApi
from tests.queries.athena_calls import call, cells, make_api, results, run
from tests.queries.athena_engine import SCHEMA, action_rows

VIEWS = ["clicks", "daily_activity", "navigations", "sessions", "views"]


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[AthenaApi]:
    made = make_api(tmp_path_factory.mktemp("athena"))
    yield made
    made.close()


def _lines(api: AthenaApi, statement: str) -> list[str]:
    answer = results(api, statement)
    assert all(len(row) == 1 for row in cells(answer))
    return [str(row[0]) for row in cells(answer)]


@pytest.mark.parametrize(
    ("statement", "lines"),
    [
        ("SHOW DATABASES", ["default"]),
        ("show schemas", ["default"]),
        ("SHOW DATABASES LIKE 'x*'", []),
        ("SHOW SCHEMAS LIKE 'def*|x'", ["default"]),
        ("SHOW TABLES", ["actions", *VIEWS]),
        ("SHOW TABLES IN default", ["actions", *VIEWS]),
        ("SHOW TABLES IN `default` 'a*'", ["actions"]),
        ("SHOW TABLES 'clicks|views'", ["clicks", "views"]),
        ("SHOW TABLES IN awsdatacatalog.default 'A*';", ["actions"]),
        ("SHOW VIEWS", VIEWS),
        ("SHOW VIEWS IN default LIKE 'd*'", ["daily_activity"]),
        ("SHOW COLUMNS IN actions", [name.ljust(20) for name in SCHEMA.table_schema.names]),
        ("SHOW COLUMNS FROM actions IN default", [name.ljust(20) for name in SCHEMA.table_schema.names]),
        ('SHOW COLUMNS IN "AwsDataCatalog"."default"."ACTIONS"', [n.ljust(20) for n in SCHEMA.table_schema.names]),
        ("SHOW PARTITIONS actions", sorted({f"date={row['date']}/type={row['type']}" for row in action_rows()})),
        ("SHOW TBLPROPERTIES actions", ["EXTERNAL\tTRUE", "table_type\tdelta"]),
        ("SHOW TBLPROPERTIES actions('table_type')", ["delta"]),
    ],
)
def test_a_statement_lists_what_there_is(api: AthenaApi, statement: str, lines: list[str]) -> None:
    assert _lines(api, statement) == lines


@pytest.mark.parametrize("statement", ["DESCRIBE actions", "DESC default.actions", "DESCRIBE EXTENDED actions"])
def test_describe_names_columns_their_types_and_the_partition_keys(api: AthenaApi, statement: str) -> None:
    lines = [[part.strip() for part in line.split("\t")] for line in _lines(api, statement)]
    blank = lines.index(["", "", ""])
    assert [line[0] for line in lines[:blank]] == SCHEMA.table_schema.names
    types = {line[0]: line[1] for line in lines[:blank]}
    assert types["user_id"] == "string"
    assert types["time"] == "timestamp"
    assert types["location_x"] == "double"
    assert types["utc_offset_minutes"] == "smallint"
    assert types["position"] == "bigint"
    assert lines[blank + 1][0] == "# Partition Information"
    assert lines[blank + 3 :] == [["date", "date", ""], ["type", "string", ""]]


def test_show_create_table_is_the_ddl_of_the_table(api: AthenaApi) -> None:
    lines = _lines(api, "SHOW CREATE TABLE actions")
    assert lines[0] == "CREATE EXTERNAL TABLE `default.actions`("
    assert "  `user_id` string," in lines
    keys = lines.index("PARTITIONED BY ( ")
    assert lines[keys + 1 : keys + 3] == ["  `date` date,", "  `type` string)"]
    assert [line for line in lines[:keys] if "`date`" in line] == []


def test_show_create_view_is_the_definition_of_the_view(api: AthenaApi) -> None:
    lines = _lines(api, "SHOW CREATE VIEW clicks")
    assert lines[0] == "CREATE VIEW default.clicks AS"
    assert "WHERE type = 'click'" in lines


@pytest.mark.parametrize(
    ("statement", "reason"),
    [
        ("SHOW TABLES IN other", "SCHEMA_NOT_FOUND"),
        ("DESCRIBE nope", "TABLE_NOT_FOUND"),
        ("SHOW COLUMNS IN other.actions", "SCHEMA_NOT_FOUND"),
        ("SHOW PARTITIONS clicks", "NOT_SUPPORTED: Table clicks is not a partitioned table"),
        ("SHOW CREATE VIEW actions", "NOT_SUPPORTED: actions is a table"),
        ("SHOW CREATE TABLE clicks", "NOT_SUPPORTED: clicks is a view"),
        ("SHOW TBLPROPERTIES nope", "TABLE_NOT_FOUND"),
    ],
)
def test_what_is_not_there_is_said_not_to_be_there(api: AthenaApi, statement: str, reason: str) -> None:
    status = run(api, statement)["Status"]
    assert status["State"] == "FAILED"
    assert status["StateChangeReason"].startswith(reason)


def test_show_functions_names_functions_that_are_translated(api: AthenaApi) -> None:
    names = _lines(api, "SHOW FUNCTIONS")
    assert {"array_sort", "approx_distinct", "date_diff", "row_number", "url_extract_host"} <= set(names)
    assert names == sorted(names)


@pytest.mark.parametrize(
    ("statement", "statement_type", "substatement_type"),
    [
        ("SHOW TABLES", "UTILITY", "SHOW_TABLES"),
        ("DESCRIBE actions", "UTILITY", "DESCRIBE_TABLE"),
        ("EXPLAIN SELECT 1", "UTILITY", "EXPLAIN"),
        ("VALUES 1", "DML", "SELECT"),
        ("(SELECT 1)", "DML", "SELECT"),
        ("TABLE actions", "DML", "SELECT"),
    ],
)
def test_statements_have_athenas_types(
    api: AthenaApi, statement: str, statement_type: str, substatement_type: str
) -> None:
    found = run(api, statement)
    assert found["Status"]["State"] == "SUCCEEDED"
    assert (found["StatementType"], found["SubstatementType"]) == (statement_type, substatement_type)


@pytest.mark.parametrize("words", ["EXPLAIN", "EXPLAIN ANALYZE"])
def test_explain_shows_the_plan_line_by_line(api: AthenaApi, words: str) -> None:
    found = run(api, f"{words} SELECT type, count(*) FROM actions WHERE position > 3 GROUP BY type")
    answer = call(api, "GetQueryResults", QueryExecutionId=found["QueryExecutionId"])
    header, *lines = [str(row[0]) for row in cells(answer)]
    assert header == "Query Plan"
    assert any("HASH_GROUP_BY" in line for line in lines)
    assert all("\n" not in line for line in lines)


def test_the_columns_of_utility_statements_are_strings(api: AthenaApi) -> None:
    columns = results(api, "SHOW TABLES")["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
    assert [(column["Name"], column["Type"]) for column in columns] == [("tab_name", "string")]
    described = results(api, "DESCRIBE actions")["ResultSet"]["ResultSetMetadata"]["ColumnInfo"]
    assert [column["Name"] for column in described] == ["col_name", "data_type", "comment"]
