"""The data catalog: one catalog, one database, the table `actions` and the views beside it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import duckdb
import pyarrow as pa

from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.literals import text_sql
from queries.athena.scope import Source, SourceColumn
from queries.athena.types import BIGINT, VARCHAR, TrinoType, duckdb_type, from_arrow, quoted
from storage.schema import PARTITION_COLUMNS, ActionSchema

CATALOG: Final = "AwsDataCatalog"
DATABASE: Final = "default"
ACTIONS: Final = "actions"
INFORMATION_SCHEMA: Final = "information_schema"


@dataclass(frozen=True, slots=True)
class Table:
    """A table or a view.

    Attributes:
        name: its name, in lower case.
        columns: its columns in order, each with its type; those that partition it are among them.
        partition_keys: the names of the columns that partition it.
        definition: DuckDB's SELECT behind a view, None for a table.
    """

    name: str
    columns: Mapping[str, TrinoType]
    partition_keys: tuple[str, ...] = ()
    definition: str | None = None

    @property
    def source(self) -> Source:
        """What a FROM clause reads."""
        return Source(quoted(self.name), tuple(SourceColumn(name, name, kind) for name, kind in self.columns.items()))


@dataclass(frozen=True, slots=True)
class DataCatalog:
    """All tables and views, by name."""

    tables: Mapping[str, Table]

    def table(self, name: str) -> Table | None:
        """The table or view called *name*, in whatever case."""
        return self.tables.get(name.lower())

    def source(self, path: tuple[str, ...]) -> Source:
        """What the dotted name *path* reads: a table, a view, a table's partitions, or the information schema.

        Raises:
            QueryError: there is nothing of this name.
            UntranslatableError: Athena has it, this service does not.
        """
        *above, name = (part.lower() for part in path)
        if len(above) > 1 and above[-2] != CATALOG.lower():
            raise QueryError("CATALOG_NOT_FOUND", f"Catalog '{above[-2]}' does not exist")
        schema = above[-1] if above else DATABASE
        if schema == INFORMATION_SCHEMA:
            return self._information_schema(name)
        if schema != DATABASE:
            raise QueryError("SCHEMA_NOT_FOUND", f"Schema '{schema}' does not exist")
        table = self.tables.get(name)
        if table is not None:
            return table.source
        base = self.tables.get(name.removesuffix("$partitions"))
        if base is not None and base.partition_keys:
            keys = tuple(SourceColumn(key, key, base.columns[key]) for key in base.partition_keys)
            columns = ", ".join(quoted(key.column) for key in keys)
            return Source(f"(SELECT DISTINCT {columns} FROM {quoted(base.name)})", keys)  # noqa: S608
        if "$" in name:
            raise UntranslatableError(f'the hidden table "{name}"')
        full_name = f"{CATALOG.lower()}.{DATABASE}.{name}"
        raise QueryError("TABLE_NOT_FOUND", f"Table '{full_name}' does not exist")

    def _information_schema(self, name: str) -> Source:
        catalog = text_sql(CATALOG.lower())
        if name == "schemata":
            rows = [f"({catalog}, {text_sql(s)})" for s in (DATABASE, INFORMATION_SCHEMA)]
            return _inline(rows, {"catalog_name": VARCHAR, "schema_name": VARCHAR})
        if name == "tables":
            rows = [
                f"({catalog}, '{DATABASE}', {text_sql(t.name)}, '{'BASE TABLE' if t.definition is None else 'VIEW'}')"
                for t in self.tables.values()
            ]
            return _inline(rows, dict.fromkeys(("table_catalog", "table_schema", "table_name", "table_type"), VARCHAR))
        if name == "views":
            rows = [
                f"({catalog}, '{DATABASE}', {text_sql(t.name)}, {text_sql(t.definition)})"
                for t in self.tables.values()
                if t.definition is not None
            ]
            names = ("table_catalog", "table_schema", "table_name", "view_definition")
            return _inline(rows or ["(NULL, NULL, NULL, NULL)"], dict.fromkeys(names, VARCHAR), keep=bool(rows))
        if name == "columns":
            return self._information_schema_columns(catalog)
        raise QueryError("TABLE_NOT_FOUND", f"Table '{CATALOG.lower()}.{INFORMATION_SCHEMA}.{name}' does not exist")

    def _information_schema_columns(self, catalog: str) -> Source:
        partition_key = "'partition key'"
        rows = [
            f"({catalog}, '{DATABASE}', {text_sql(table.name)}, {text_sql(column)}, {position}, NULL, 'YES', "
            f"{text_sql(str(kind))}, NULL, {partition_key if column in table.partition_keys else 'NULL'})"
            for table in self.tables.values()
            for position, (column, kind) in enumerate(table.columns.items(), start=1)
        ]
        leading = dict.fromkeys(("table_catalog", "table_schema", "table_name", "column_name"), VARCHAR)
        trailing = dict.fromkeys(("column_default", "is_nullable", "data_type", "comment", "extra_info"), VARCHAR)
        return _inline(rows, {**leading, "ordinal_position": BIGINT, **trailing})


def _inline(rows: list[str], columns: Mapping[str, TrinoType], *, keep: bool = True) -> Source:
    names = ", ".join(quoted(name) for name in columns)
    typed = ", ".join(
        f"CAST({quoted(name)} AS {duckdb_type(kind)}) AS {quoted(name)}" for name, kind in columns.items()
    )
    where = "" if keep else " WHERE false"
    sql = f"(SELECT {typed} FROM (VALUES {', '.join(rows)}) AS v({names}){where})"  # noqa: S608
    return Source(sql, tuple(SourceColumn(name, name, kind) for name, kind in columns.items()))


def data_catalog(schema: ActionSchema, views: Mapping[str, str]) -> DataCatalog:
    """The catalog of the table of *schema* and of *views*, DuckDB's SELECT of each by its name.

    The columns of a view are asked from DuckDB, over an empty table.

    Raises:
        duckdb.Error: a view does not fit the table.
    """
    columns = {field.name: from_arrow(field.type) for field in schema.table_schema}
    tables = {ACTIONS: Table(ACTIONS, columns, PARTITION_COLUMNS)}
    if views:
        with duckdb.connect(":memory:") as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register(ACTIONS, pa.Table.from_batches([], schema.table_schema))
            for name, definition in views.items():
                connection.execute(f"CREATE TEMP VIEW {quoted(name)} AS {definition}")
                described = connection.execute(f"SELECT * FROM {quoted(name)}").to_arrow_table().schema  # noqa: S608
                kinds = {field.name: from_arrow(field.type) for field in described}
                tables[name.lower()] = Table(name.lower(), kinds, (), definition)
    return DataCatalog(tables)
