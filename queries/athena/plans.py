"""What is to be done for a statement: a query for the engine, or rows that are known already."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from queries.athena.catalog import CATALOG, DATABASE, DataCatalog
from queries.athena.dialect import Translation, translate
from queries.athena.errors import QueryError
from queries.athena.results import ResultColumn
from queries.athena.show import shown
from queries.athena.statements import Deallocate, Execute, Explain, Prepare, Query, Show, Statement
from queries.athena.types import VARCHAR


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done.

    Attributes:
        statement_type: `DML`, `DDL` or `UTILITY`.
        substatement_type: finer than that: `SELECT`, `EXPLAIN`, `SHOW_TABLES`.
        columns: of the result.
        sql: DuckDB's query, None where the rows are known.
        rows: the rows, where they are known.
        has_header: whether the first page begins with the names of the columns.
        is_explanation: whether the engine's answer is a plan, of which each line becomes a row.
    """

    statement_type: str
    substatement_type: str
    columns: Sequence[ResultColumn] = ()
    sql: str | None = None
    rows: Sequence[Sequence[str | None]] = ()
    has_header: bool = False
    is_explanation: bool = False


@dataclass(frozen=True, slots=True)
class PreparedQueries:
    """The prepared statements of one work group, as a statement may use them."""

    get: Callable[[str], str]
    create: Callable[[str, str], None]
    delete: Callable[[str], None]


@dataclass(frozen=True, slots=True)
class QueryContext:
    """The catalog and the database that a request names for tables without them."""

    catalog: str
    database: str

    def check(self) -> None:
        """Refuse those that are not there.

        Raises:
            QueryError: one of them is not.
        """
        if self.catalog.lower() != CATALOG.lower():
            raise QueryError("CATALOG_NOT_FOUND", f"Catalog '{self.catalog}' does not exist")
        if self.database.lower() != DATABASE:
            raise QueryError("SCHEMA_NOT_FOUND", f"Schema '{self.database}' does not exist")


def plan(
    statement: Statement,
    catalog: DataCatalog,
    prepared: PreparedQueries,
    parameters: Sequence[str],
    context: QueryContext,
) -> Plan:
    """Decide what is to be done for *statement*; PREPARE and DEALLOCATE are done at once.

    Args:
        statement: the statement.
        catalog: the tables it may read.
        prepared: the prepared statements it may use.
        parameters: the texts of constant expressions for the `?` in a query.
        context: the catalog and the database that the request names.

    Raises:
        QueryError: the statement means nothing.
        UntranslatableError: it has a part that is not translated.
        ApiError: a prepared statement is missing, or there already.
    """
    context.check()
    if parameters and not isinstance(statement, Query | Explain | Execute):
        raise QueryError("INVALID_PARAMETER_USAGE", "only a query takes parameters")
    match statement:
        case Query(text):
            return _query(translate(text, catalog, parameters), "SELECT")
        case Explain(text, analyze):
            translation = translate(text, catalog, parameters)
            word = "EXPLAIN ANALYZE" if analyze else "EXPLAIN"
            columns = [ResultColumn("Query Plan", VARCHAR)]
            return Plan(
                "UTILITY", "EXPLAIN", columns, f"{word} {translation.sql}", has_header=True, is_explanation=True
            )
        case Execute(name, given):
            if given and parameters:
                raise QueryError("INVALID_PARAMETER_USAGE", "parameters are given twice: by USING and by the request")
            return _query(translate(prepared.get(name), catalog, given or parameters), "EXECUTE")
        case Prepare(name, text):
            prepared.create(name, text)
            return Plan("DDL", "PREPARE")
        case Deallocate(name):
            prepared.delete(name)
            return Plan("DDL", "DEALLOCATE_PREPARE")
        case Show():
            return _shown(statement, catalog)


def _query(translation: Translation, substatement_type: str) -> Plan:
    columns = [ResultColumn(column.name, column.type) for column in translation.columns]
    return Plan("DML", substatement_type, columns, translation.sql, has_header=True)


def _shown(statement: Show, catalog: DataCatalog) -> Plan:
    substatement_type = "SHOW_" + statement.what.replace(" ", "_") if statement.what != "DESCRIBE" else "DESCRIBE_TABLE"
    answer = shown(statement, catalog)
    columns = [ResultColumn(name, None) for name in answer.columns]
    if answer.query is None:
        return Plan("UTILITY", substatement_type, columns, rows=answer.rows)
    return Plan("UTILITY", substatement_type, columns, translate(answer.query, catalog).sql)
