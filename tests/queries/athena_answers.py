"""What a text in Athena's SQL answers, over the rows of `athena_engine`, for tests of the dialect."""

from __future__ import annotations

import functools

import duckdb
import pyarrow as pa

from queries.athena.catalog import DataCatalog, data_catalog
from queries.athena.dialect import Translation, translate
from queries.athena.errors import QueryError
from queries.athena.failures import failure
from queries.athena.macros import MACROS
from queries.athena.types import TrinoType, duckdb_type
from queries.athena.values import texts
from queries.views import view_statements
from tests.queries.athena_engine import SCHEMA, actions_table

Row = tuple[str | None, ...]


@functools.cache
def catalog() -> DataCatalog:
    """The table and its views."""
    return data_catalog(SCHEMA, view_statements(SCHEMA))


@functools.cache
def _connection() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect(
        config={"autoinstall_known_extensions": "false", "autoload_known_extensions": "false", "threads": "1"}
    )
    connection.execute("SET TimeZone = 'UTC'")
    for statement in MACROS.values():
        connection.execute(statement)
    connection.register("table_of_actions", actions_table())
    connection.execute("CREATE TABLE actions AS FROM table_of_actions")
    for name, select in view_statements(SCHEMA).items():
        connection.execute(f"CREATE VIEW {name} AS {select}")
    return connection


@functools.cache
def _arrow_type(kind: TrinoType) -> pa.DataType:
    sql = f"SELECT CAST(NULL AS {duckdb_type(kind)})"
    return _connection().execute(sql).to_arrow_table().schema.field(0).type


def answer(sql: str, *parameters: str) -> tuple[Translation, list[Row]]:
    """The translation of *sql* and its rows as texts.

    What DuckDB answers must be of the types that the translation has promised; but it gives no type to a NULL that it
    knows before it runs the query.

    Raises:
        QueryError: the query is refused, or fails.
    """
    translation = translate(sql, catalog(), parameters)
    try:
        table = _connection().execute(translation.sql).to_arrow_table()
    except duckdb.Error as error:
        raise failure(str(error)) from error
    for column, data, field in zip(translation.columns, table.columns, table.schema, strict=True):
        if data.null_count < len(data):
            assert field.type == _arrow_type(column.type), (sql, str(column.type), field.type)
    cells = [texts(data, column.type) for data, column in zip(table.columns, translation.columns, strict=True)]
    return translation, list(zip(*cells, strict=True))


def rows(sql: str, *parameters: str) -> list[Row]:
    """The rows of a query, as texts."""
    return answer(sql, *parameters)[1]


def value(expression: str) -> str | None:
    """The value of an expression, as text."""
    [[text]] = rows(f"SELECT {expression}")
    return text


def error_of(sql: str, *parameters: str) -> QueryError:
    """The error that a query ends with."""
    try:
        answered = rows(sql, *parameters)
    except QueryError as error:
        return error
    raise AssertionError(f"{sql} answers {answered}")
