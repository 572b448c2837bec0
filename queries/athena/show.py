"""SHOW and DESCRIBE: what the data catalog says, in the words and columns of Athena's own answers."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from queries.athena.calls import AGGREGATES, SCALARS, WINDOW_FUNCTIONS
from queries.athena.catalog import CATALOG, DATABASE, DataCatalog, Table
from queries.athena.errors import QueryError
from queries.athena.literals import text_sql
from queries.athena.result_columns import hive_type
from queries.athena.statements import Show
from queries.athena.types import quoted

# Athena pads the names of columns as Hive does.
_COLUMN_CHARACTERS: Final = 20
_TABLE_PROPERTIES: Final = (("EXTERNAL", "TRUE"), ("table_type", "delta"))


@dataclass(frozen=True, slots=True)
class Shown:
    """An answer: its columns, and its rows or the query that finds them."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]] = ()
    query: str | None = None


def shown(statement: Show, catalog: DataCatalog) -> Shown:  # noqa: PLR0911 (one return a statement reads best)
    """The answer to a SHOW or DESCRIBE.

    Raises:
        QueryError: it is about something that does not exist.
    """
    match statement.what:
        case "DATABASES":
            return Shown(["database_name"], [[name] for name in _matching([DATABASE], statement.pattern)])
        case "TABLES" | "VIEWS":
            _check_database(statement.path)
            names = [t.name for t in catalog.tables.values() if statement.what == "TABLES" or t.definition is not None]
            column = "tab_name" if statement.what == "TABLES" else "views"
            return Shown([column], [[name] for name in _matching(sorted(names), statement.pattern)])
        case "COLUMNS":
            table = _table(statement.path, catalog)
            return Shown(["field"], [[name.ljust(_COLUMN_CHARACTERS)] for name in table.columns])
        case "DESCRIBE":
            return Shown(["col_name", "data_type", "comment"], _described(_table(statement.path, catalog)))
        case "PARTITIONS":
            return _partitions(_table(statement.path, catalog))
        case "CREATE TABLE":
            table = _table(statement.path, catalog)
            if table.definition is not None:
                raise QueryError("NOT_SUPPORTED", f"{table.name} is a view; use SHOW CREATE VIEW")
            return Shown(["createtab_stmt"], [[line] for line in _create_table(table)])
        case "CREATE VIEW":
            table = _table(statement.path, catalog)
            if table.definition is None:
                raise QueryError("NOT_SUPPORTED", f"{table.name} is a table; use SHOW CREATE TABLE")
            text = f"CREATE VIEW {DATABASE}.{table.name} AS\n{table.definition}"
            return Shown(["Create View"], [[line] for line in text.split("\n")])
        case "TBLPROPERTIES":
            return _properties(_table(statement.path, catalog), statement.pattern)
        case _:
            names = sorted({*SCALARS, *AGGREGATES, *WINDOW_FUNCTIONS})
            return Shown(["Function"], [[name] for name in names])


def _check_database(path: Sequence[str]) -> None:
    if path and path[-1].lower() != DATABASE:
        raise QueryError("SCHEMA_NOT_FOUND", f"Schema '{path[-1]}' does not exist")
    if len(path) > 1 and path[-2].lower() != CATALOG.lower():
        raise QueryError("CATALOG_NOT_FOUND", f"Catalog '{path[-2]}' does not exist")


def _table(path: Sequence[str], catalog: DataCatalog) -> Table:
    _check_database(path[:-1])
    table = catalog.table(path[-1])
    if table is None:
        raise QueryError("TABLE_NOT_FOUND", f"Table '{CATALOG.lower()}.{DATABASE}.{path[-1].lower()}' does not exist")
    return table


def _matching(names: Sequence[str], pattern: str | None) -> list[str]:
    """The names that match one of the patterns between `|`, in which `*` stands for anything."""
    if pattern is None:
        return list(names)
    patterns = [
        re.compile(fnmatch.translate(p.replace("[", "[[]").replace("?", "[?]")), re.IGNORECASE)
        for p in pattern.split("|")
    ]
    return [name for name in names if any(p.match(name) for p in patterns)]


def _described(table: Table) -> list[list[str]]:
    """The columns, in one text a row, the cells between tabs: so Athena sends them."""

    def line(name: str, kind: str) -> list[str]:
        return ["\t".join(cell.ljust(_COLUMN_CHARACTERS) for cell in (name, kind, ""))]

    rows = [line(name, hive_type(kind)) for name, kind in table.columns.items()]
    if table.partition_keys:
        rows += [line("", ""), ["# Partition Information\t \t "], line("# col_name", "data_type")]
        rows += [line(key, hive_type(table.columns[key])) for key in table.partition_keys]
    return rows


def _partitions(table: Table) -> Shown:
    if not table.partition_keys:
        raise QueryError("NOT_SUPPORTED", f"Table {table.name} is not a partitioned table")
    text = " || '/' || ".join(
        f"{text_sql(key + '=')} || cast({quoted(key)} as varchar)" for key in table.partition_keys
    )
    query = f'SELECT {text} AS "partition" FROM {quoted(f"{table.name}$partitions")} ORDER BY 1'  # noqa: S608
    return Shown(["partition"], query=query)


def _create_table(table: Table) -> list[str]:
    own = {name: kind for name, kind in table.columns.items() if name not in table.partition_keys}
    columns = [f"  `{name}` {hive_type(kind)}" for name, kind in own.items()]
    keys = [f"  `{key}` {hive_type(table.columns[key])}" for key in table.partition_keys]
    lines = [f"CREATE EXTERNAL TABLE `{DATABASE}.{table.name}`("]
    lines += [f"{column}{',' if i < len(columns) else ')'}" for i, column in enumerate(columns, start=1)]
    if keys:
        lines += [
            "PARTITIONED BY ( ",
            *(f"{key}{',' if i < len(keys) else ')'}" for i, key in enumerate(keys, start=1)),
        ]
    properties = [f"  '{name}'='{value}'" for name, value in _TABLE_PROPERTIES]
    lines += [
        "TBLPROPERTIES (",
        *(f"{p}{',' if i < len(properties) else ')'}" for i, p in enumerate(properties, start=1)),
    ]
    return lines


def _properties(table: Table, wanted: str | None) -> Shown:
    properties = dict(_TABLE_PROPERTIES if table.definition is None else (("presto_view", "true"),))
    if wanted is None:
        return Shown(["prpt_name", "prpt_value"], [["\t".join(pair)] for pair in properties.items()])
    if wanted not in properties:
        return Shown(["prpt_name"], [[f"Table {DATABASE}.{table.name} does not have property: {wanted}"]])
    return Shown(["prpt_name"], [[properties[wanted]]])
