"""Queries of Athena's SQL into DuckDB's: SELECT, VALUES, set operations, WITH, ORDER BY and LIMIT."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from sqlglot import exp

from queries.athena import casts
from queries.athena.catalog import DataCatalog
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.expressions import ExpressionCompiler
from queries.athena.relations import RelationCompiler
from queries.athena.scope import Field, Relation, Scope, Source, SourceColumn, Value
from queries.athena.syntax import name_of, require_only
from queries.athena.types import UNKNOWN, TrinoType, common_super_type, quoted
from queries.athena.windows import direction_text

_SET_OPERATIONS: Final[dict[type[exp.Expr], str]] = {
    exp.Union: "UNION",
    exp.Intersect: "INTERSECT",
    exp.Except: "EXCEPT",
}
_MODIFIERS: Final = ("with_", "order", "limit", "offset")


@dataclass(frozen=True, slots=True)
class Output:
    """A column of a query's result: its name, if it has one, and its type."""

    name: str | None
    type: TrinoType


@dataclass(frozen=True, slots=True)
class Query:
    """A translated query. In DuckDB its columns are called `c1`, `c2`, and so on.

    Attributes:
        sql: DuckDB's text of it.
        outputs: its columns.
    """

    sql: str
    outputs: tuple[Output, ...]

    @property
    def types(self) -> list[TrinoType]:
        """The types of its columns."""
        return [output.type for output in self.outputs]

    def source(self, sql: str | None = None) -> Source:
        """The query as something a FROM clause can read, by its own text or by a name given to it."""
        columns = (SourceColumn(o.name, f"c{i}", o.type) for i, o in enumerate(self.outputs, start=1))
        return Source(sql or f"({self.sql})", tuple(columns))


class QueryTranslator:
    """Translates one query and all queries inside it."""

    def __init__(self, catalog: DataCatalog, text: str) -> None:
        self._numbers = itertools.count(1)
        self.expressions = ExpressionCompiler(self, text)
        self.relations = RelationCompiler(catalog, self.expressions, self, self.fresh)

    def fresh(self, prefix: str) -> str:
        """A name for DuckDB that occurs nowhere else in the query."""
        return f"{prefix}{next(self._numbers)}"

    @staticmethod
    def query_of(sql: str, types: Sequence[TrinoType]) -> Query:
        """A query whose columns have no names."""
        return Query(sql, tuple(Output(None, kind) for kind in types))

    def compile_query(self, query: exp.Expr, scope: Scope) -> Query:
        """Translate *query*, which may use the names in *scope*.

        Raises:
            QueryError: it means nothing, or its types do not fit.
            UntranslatableError: it has a part that is not translated.
        """
        prefix = ""
        if query.args.get("with_") is not None:
            prefix, scope = self._with(query.args["with_"], scope)
        if isinstance(query, exp.Subquery):
            require_only(query, "this", *_MODIFIERS, construct="a query in parentheses")
            compiled = self._ordered_outside(self.compile_query(query.this, scope), query, scope)
        elif isinstance(query, exp.Select):
            compiled = self._select(query, scope)
        elif type(query) in _SET_OPERATIONS:
            compiled = self._set_operation(query, scope)
        elif isinstance(query, exp.Values):
            require_only(query, "expressions", *_MODIFIERS, construct="VALUES")
            compiled = self._ordered_outside(self.relations.values(query, scope), query, scope)
        elif isinstance(query, exp.Table):
            compiled = self._select(exp.Select(expressions=[exp.Star()], from_=exp.From(this=query)), scope)
        else:
            raise UntranslatableError(name_of(query))
        return Query(prefix + compiled.sql, compiled.outputs)

    # WITH.

    def _with(self, node: exp.Expr, scope: Scope) -> tuple[str, Scope]:
        require_only(node, "expressions", "recursive", construct="WITH")
        texts = []
        for item in node.expressions:
            if not isinstance(item, exp.CTE):
                raise UntranslatableError("WITH FUNCTION")
            require_only(item, "this", "alias", construct="WITH")
            name, names = item.alias, [c.name for c in item.args["alias"].columns] or None
            text, source = self._with_query(item, name, names, scope, recursive=bool(node.args.get("recursive")))
            texts.append(text)
            scope = scope.with_table(name, source)
        return f"WITH {'RECURSIVE ' if node.args.get('recursive') else ''}{', '.join(texts)} ", scope

    def _with_query(
        self, item: exp.CTE, name: str, names: Sequence[str] | None, scope: Scope, *, recursive: bool
    ) -> tuple[str, Source]:
        emitted = quoted(self.fresh(f"w_{name}_"))
        body = item.this
        if recursive and isinstance(body, exp.Union) and _reads(body.expression, name):
            return self._recursive(body, name, names, emitted, scope)
        query = self.compile_query(body, scope)
        return f"{emitted} AS ({query.sql})", _named(query.source(emitted), name, names)

    def _recursive(
        self, body: exp.Union, name: str, names: Sequence[str] | None, emitted: str, scope: Scope
    ) -> tuple[str, Source]:
        require_only(body, "this", "expression", "distinct", construct="a recursive query")
        base = self.compile_query(body.this, scope)
        source = _named(base.source(emitted), name, names)
        step = self.compile_query(body.expression, scope.with_table(name, source))
        for i, (a, b) in enumerate(itertools.zip_longest(base.types, step.types, fillvalue=UNKNOWN), start=1):
            if common_super_type(a, b) != a:
                raise QueryError(
                    "TYPE_MISMATCH",
                    f"recursion step relation output type ({b}) is not coercible to recursion base relation output "
                    f"type ({a}) at column {i}",
                )
        columns = ", ".join(f'"c{i}"' for i in range(1, len(base.outputs) + 1))
        word = "UNION" if body.args.get("distinct") else "UNION ALL"
        return f"{emitted}({columns}) AS (({base.sql}) {word} ({self._converted(step, base.types)}))", source

    # Set operations.

    def _set_operation(self, query: exp.Expr, scope: Scope) -> Query:
        require_only(query, "this", "expression", "distinct", *_MODIFIERS, construct=_SET_OPERATIONS[type(query)])
        left = self.compile_query(query.this, scope)
        right = self.compile_query(query.args["expression"], scope)
        word = _SET_OPERATIONS[type(query)]
        if len(left.outputs) != len(right.outputs):
            raise QueryError(
                "TYPE_MISMATCH",
                f"{word} query has different number of fields: {len(left.outputs)}, {len(right.outputs)}",
            )
        types = []
        for i, (a, b) in enumerate(zip(left.types, right.types, strict=True), start=1):
            common = common_super_type(a, b)
            if common is None:
                raise QueryError("TYPE_MISMATCH", f"column {i} in {word} query has incompatible types: {a}, {b}")
            types.append(common)
        every = "" if query.args.get("distinct") else " ALL"
        sql = f"({self._converted(left, types)}) {word}{every} ({self._converted(right, types)})"
        outputs = tuple(Output(o.name, kind) for o, kind in zip(left.outputs, types, strict=True))
        return self._ordered_outside(Query(sql, outputs), query, scope)

    @staticmethod
    def _converted(query: Query, types: Sequence[TrinoType]) -> str:
        if list(types) == query.types:
            return query.sql
        columns = ", ".join(
            f"{casts.convert(f'q.c{i}', a, b, strict=True)} AS c{i}"
            for i, (a, b) in enumerate(zip(query.types, types, strict=True), start=1)
        )
        return f"SELECT {columns} FROM ({query.sql}) AS q"  # noqa: S608

    # SELECT.

    def _select(self, select: exp.Select, scope: Scope) -> Query:
        parts = ("expressions", "from_", "joins", "where", "group", "having", "windows", "distinct")
        require_only(select, *parts, *_MODIFIERS, construct="SELECT")
        if not select.expressions:
            raise QueryError("SYNTAX_ERROR", "SELECT without an expression")
        relation = self.relations.from_clause(select, scope)
        inside = scope.inside(relation.fields)
        outer_windows = self.expressions.windows
        self.expressions.windows = {w.name.lower(): w for w in select.args.get("windows") or ()}
        try:
            return self._select_from(select, relation, inside)
        finally:
            self.expressions.windows = outer_windows

    def _select_from(self, select: exp.Select, relation: Relation, inside: Scope) -> Query:
        items = [item for node in select.expressions for item in self._items(node, relation, inside)]
        distinct = select.args.get("distinct")
        if distinct is not None:
            require_only(distinct, construct="SELECT DISTINCT")
        selected = ", ".join(f'{value.sql} AS "c{i}"' for i, (_, value) in enumerate(items, start=1))
        sql = f"SELECT {'DISTINCT ' if distinct is not None else ''}{selected}"
        if relation.sql:
            sql += f" FROM {relation.sql}"
        if select.args.get("where") is not None:
            sql += f" WHERE {self.expressions.boolean(select.args['where'].this, inside)}"
        if select.args.get("group") is not None:
            sql += f" GROUP BY {self._group(select.args['group'], len(items), inside)}"
        if select.args.get("having") is not None:
            sql += f" HAVING {self.expressions.boolean(select.args['having'].this, inside)}"
        outputs = tuple(Output(name, value.type) for name, value in items)
        names = [Field(name, (), value) for name, value in items]
        return Query(sql + self._order_and_limit(select, names, inside), outputs)

    def _items(self, node: exp.Expr, relation: Relation, scope: Scope) -> list[tuple[str | None, Value]]:
        if isinstance(node, exp.Star):
            require_only(node, construct="SELECT *")
            if not relation.fields:
                raise QueryError("COLUMN_NOT_FOUND", "SELECT * not allowed in queries without FROM clause")
            return [(f.name, f.value) for f in relation.fields]
        if isinstance(node, exp.Column) and isinstance(node.this, exp.Star):
            require_only(node.this, construct="SELECT *")
            path = [part.name for part in node.parts[:-1]]
            fields = [f for f in relation.fields if f.answers_to(path, f.name or "")]
            if not fields:
                raise QueryError("TABLE_NOT_FOUND", f"Unable to resolve reference {'.'.join(path)}")
            return [(f.name, f.value) for f in fields]
        if isinstance(node, exp.Alias):
            return [(node.alias, self.expressions.compile(node.this, scope))]
        named = node
        while isinstance(named, exp.Paren):
            named = named.this
        name = named.name if isinstance(named, exp.Column) else None
        if isinstance(named, exp.Dot):
            name = named.expression.name
        return [(name, self.expressions.compile(node, scope))]

    def _group(self, group: exp.Expr, width: int, scope: Scope) -> str:
        require_only(group, "expressions", construct="GROUP BY")
        if group.args.get("all") is not None:
            raise UntranslatableError("GROUP BY DISTINCT")
        if not group.expressions:
            raise QueryError("SYNTAX_ERROR", "GROUP BY without an expression")
        return ", ".join(self._group_item(item, width, scope) for item in group.expressions)

    def _group_item(self, item: exp.Expr, width: int, scope: Scope) -> str:
        if isinstance(item, exp.GroupingSets | exp.Rollup | exp.Cube):
            if not item.expressions:
                raise QueryError("SYNTAX_ERROR", "GROUP BY without an expression")
            word = {"groupingsets": "GROUPING SETS", "rollup": "ROLLUP", "cube": "CUBE"}[item.key]
            return f"{word} ({', '.join(self._group_item(each, width, scope) for each in item.expressions)})"
        if isinstance(item, exp.Tuple):
            return f"({', '.join(self._group_item(each, width, scope) for each in item.expressions)})"
        if isinstance(item, exp.Literal):
            return str(_ordinal(item, width, "GROUP BY"))
        return self.expressions.compile(item, scope).sql

    # ORDER BY and LIMIT.

    def _ordered_outside(self, query: Query, node: exp.Expr, scope: Scope) -> Query:
        """ORDER BY and LIMIT around a query that is no plain SELECT."""
        if not any(node.args.get(part) is not None for part in ("order", "limit", "offset")):
            return query
        fields = [Field(o.name, (), Value(f'q."c{i}"', o.type)) for i, o in enumerate(query.outputs, start=1)]
        tail = self._order_and_limit(node, fields, scope)
        columns = ", ".join(f'q."c{i}"' for i in range(1, len(fields) + 1))
        return Query(f"SELECT {columns} FROM ({query.sql}) AS q{tail}", query.outputs)  # noqa: S608

    def _order_and_limit(self, node: exp.Expr, outputs: Sequence[Field], scope: Scope) -> str:
        text = ""
        order = node.args.get("order")
        if order is not None:
            require_only(order, "expressions", construct="ORDER BY")
            inside = scope.inside(outputs)
            text += " ORDER BY " + ", ".join(self._order_item(item, outputs, inside) for item in order.expressions)
        limit, offset = node.args.get("limit"), node.args.get("offset")
        if isinstance(limit, exp.Fetch):
            text += f" LIMIT {self._fetched(limit)}"
        elif limit is not None and limit.expression.name.upper() != "ALL":
            require_only(limit, "expression", construct="LIMIT")
            text += f" LIMIT {_whole_number(limit.expression, 'LIMIT')}"
        if offset is not None:
            require_only(offset, "expression", construct="OFFSET")
            text += f" OFFSET {_whole_number(offset.expression, 'OFFSET')}"
        return text

    @staticmethod
    def _fetched(fetch: exp.Fetch) -> int:
        options = fetch.args.get("limit_options")
        if options is not None and (options.args.get("with_ties") or options.args.get("percent")):
            raise UntranslatableError(
                "FETCH FIRST ... WITH TIES" if options.args.get("with_ties") else "FETCH ... PERCENT"
            )
        count = fetch.args.get("count")
        return _whole_number(count, "FETCH FIRST") if count is not None else 1

    def _order_item(self, item: exp.Expr, outputs: Sequence[Field], scope: Scope) -> str:
        require_only(item, "this", "desc", "nulls_first", construct="ORDER BY")
        key = item.this
        if isinstance(key, exp.Literal) and not key.is_string:
            return f"{_ordinal(key, len(outputs), 'ORDER BY')}{direction_text(item)}"
        if isinstance(key, exp.Column) and len(key.parts) == 1:
            places = [i for i, f in enumerate(outputs, start=1) if f.answers_to((), key.name)]
            if len(places) > 1 and len({outputs[i - 1].value.sql for i in places}) > 1:
                raise QueryError("AMBIGUOUS_NAME", f"Column '{key.name}' is ambiguous")
            if places:
                return f"{places[0]}{direction_text(item)}"
        return f"{self.expressions.compile(key, scope).sql}{direction_text(item)}"


def _named(source: Source, name: str, names: Sequence[str] | None) -> Source:
    if names is None:
        return source
    if len(names) != len(source.columns):
        raise QueryError(
            "MISMATCHED_COLUMN_ALIASES",
            f"Column alias list has {len(names)} entries but relation '{name}' has {len(source.columns)} columns",
        )
    pairs = zip(names, source.columns, strict=True)
    return Source(source.sql, tuple(SourceColumn(given, c.column, c.type) for given, c in pairs))


def _reads(query: exp.Expr, name: str) -> bool:
    return any(not t.db and t.name.lower() == name.lower() for t in query.find_all(exp.Table))


def _ordinal(literal: exp.Expr, width: int, clause: str) -> int:
    position = int(literal.name) if literal.name.isdigit() and not literal.args.get("is_string") else 0
    if not 1 <= position <= width:
        raise QueryError("INVALID_COLUMN_REFERENCE", f"{clause} position {literal.name} is not in select list")
    return position


def _whole_number(node: exp.Expr, clause: str) -> int:
    while isinstance(node, exp.Paren):
        node = node.this
    if isinstance(node, exp.Literal) and not node.is_string and node.name.isdigit():
        return int(node.name)
    raise QueryError("INVALID_LIMIT_CLAUSE", f"{clause} must be a whole number")
