"""Athena's SQL into DuckDB's, with Athena's answers.

sqlglot reads the text; everything after that is this package's own, because a general translator passes through what
it does not know, and so answers wrongly without a word: `5/2` becomes 2.5, `try(1/0)` infinity, `array_sort` loses
its comparator. Here types are followed through the whole query, only functions that are registered are translated,
and everything else is refused by name.

The result runs in a DuckDB connection whose TimeZone is UTC and that has the macros of `macros.MACROS`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from sqlglot import exp

from queries.athena import functions
from queries.athena.catalog import DataCatalog
from queries.athena.errors import QueryError
from queries.athena.grammar import parse_query
from queries.athena.scope import Scope
from queries.athena.selects import QueryTranslator
from queries.athena.types import TrinoType

__all__ = ["Column", "Translation", "functions", "translate", "translate_query"]


@dataclass(frozen=True, slots=True)
class Column:
    """A column of a result: the name that Athena gives it, and its type."""

    name: str
    type: TrinoType


@dataclass(frozen=True, slots=True)
class Translation:
    """A query that DuckDB can run.

    Attributes:
        sql: DuckDB's text. Its columns are in order those of `columns`, under other names.
        columns: what the result is, in Athena's terms.
    """

    sql: str
    columns: tuple[Column, ...]


def translate(text: str, catalog: DataCatalog, parameters: Sequence[str] = ()) -> Translation:
    """Translate one query; *parameters* are the texts of constant expressions for its `?`, in order.

    Raises:
        MalformedQuery: *text* is not one query.
        QueryError: it means nothing, or its types do not fit.
        UntranslatableError: it has a part that is not translated; the error names it.
    """
    return translate_query(parse_query(text, parameters), text, catalog)


def translate_query(query: exp.Expr, text: str, catalog: DataCatalog) -> Translation:
    """Translate a query that has been read from *text*.

    Raises:
        QueryError: it means nothing, or its types do not fit.
        UntranslatableError: it has a part that is not translated; the error names it.
    """
    try:
        compiled = QueryTranslator(catalog, text).compile_query(query, Scope())
    except RecursionError:
        raise QueryError("STACK_OVERFLOW", "statement is too large (stack overflow during analysis)") from None
    columns = (Column(o.name or f"_col{i}", o.type) for i, o in enumerate(compiled.outputs))
    return Translation(compiled.sql, tuple(columns))
