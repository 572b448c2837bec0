"""Expressions of Athena's SQL into DuckDB's, each with its type.

Every kind of syntax that is translated is registered with `handlers.handles`, and each handler says which parts of
its node it reads; anything else, and any part that is not listed, is refused by name. Nothing is passed on on trust.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from sqlglot import exp

from queries.athena import call_syntax, constant_syntax, operator_syntax
from queries.athena.calls import AGGREGATES, SCALARS, WINDOW_FUNCTIONS, Call
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.handlers import HANDLERS
from queries.athena.scope import Scope, Value
from queries.athena.syntax import name_of
from queries.athena.types import UNKNOWN, TrinoType, common_super_type, quoted, row
from queries.athena.windows import compile_aggregate

__all__ = ["CompiledQuery", "ExpressionCompiler", "QueryCompiler", "call_syntax", "constant_syntax", "operator_syntax"]


class CompiledQuery(Protocol):
    """A translated query, as far as an expression around it needs to know."""

    @property
    def sql(self) -> str:
        """DuckDB's text of it."""

    @property
    def types(self) -> Sequence[TrinoType]:
        """The types of its columns."""


class QueryCompiler(Protocol):
    """What translates the queries inside expressions."""

    def compile_query(self, query: exp.Expr, scope: Scope) -> CompiledQuery:
        """Translate *query*, which may use the names in *scope*."""


class ExpressionCompiler:
    """Translates expressions.

    Attributes:
        queries: translates subqueries.
        text: the query's text, for places in messages.
        errors_as_null: whether a failing operator gives NULL, as around aggregates inside `try`.
        windows: the named windows of the query that is being translated, by name in lower case.
    """

    def __init__(self, queries: QueryCompiler, text: str) -> None:
        self.queries = queries
        self.text = text
        self.errors_as_null = False
        self.windows: dict[str, exp.Window] = {}

    def compile(self, node: exp.Expr, scope: Scope) -> Value:
        """*node* as DuckDB's text and Trino's type.

        Raises:
            QueryError: it means nothing in this scope, or its types do not fit.
            UntranslatableError: it is not translated.
        """
        handler = HANDLERS.get(type(node))
        try:
            if handler is None:
                raise UntranslatableError(name_of(node))
            return handler(self, node, scope)
        except QueryError as error:
            self.locate(error, node)
            raise

    def locate(self, error: QueryError, node: exp.Expr) -> None:
        """Tell *error* where *node* stands in the text, if that is known."""
        place = node.meta.get("start")
        if place is None:
            place = min((part.meta["start"] for part in node.walk() if "start" in part.meta), default=None)
        if place is not None and place < len(self.text):
            line = self.text.count("\n", 0, place) + 1
            error.located(line, place - self.text.rfind("\n", 0, place))

    def boolean(self, node: exp.Expr, scope: Scope) -> str:
        """*node*, which must be a boolean.

        Raises:
            QueryError: it is not.
        """
        value = self.compile(node, scope)
        if value.type.name not in ("boolean", "unknown"):
            error = QueryError("TYPE_MISMATCH", f"Expression must evaluate to a boolean (actual: {value.type})")
            self.locate(error, node)
            raise error
        return value.sql

    def common(self, kinds: Sequence[TrinoType]) -> TrinoType:
        """The type to which all *kinds* are coerced.

        Raises:
            QueryError: there is none.
        """
        result = UNKNOWN
        for kind in kinds:
            merged = common_super_type(result, kind)
            if merged is None:
                raise QueryError(
                    "TYPE_MISMATCH",
                    f"All values must be coercible to a common type, which {result} and {kind} do not have",
                )
            result = merged
        return result

    @staticmethod
    def row_of(values: Sequence[Value]) -> Value:
        """`ROW(values)`: its fields have no names."""
        kind = row(*((None, v.type) for v in values))
        fields = ", ".join(f"{quoted(kind.field_name(i))} := {v.sql}" for i, v in enumerate(values))
        return Value(f"struct_pack({fields})", kind)

    def call(self, name: str, arguments: Sequence[exp.Expr], scope: Scope) -> Value:
        """A call of Trino's function *name*.

        Raises:
            UntranslatableError: there is none, or it is not translated.
        """
        if name in AGGREGATES:
            return compile_aggregate(self, name, arguments, scope)
        if name in WINDOW_FUNCTIONS:
            raise QueryError("MISSING_OVER", f"Window function {name} requires an OVER clause")
        build = SCALARS.get(name)
        if build is None:
            raise UntranslatableError(f"the function {name}")
        return build(Call(name, arguments, scope, self))
