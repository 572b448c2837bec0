"""FROM clauses of Athena's SQL into DuckDB's: tables, subqueries, VALUES, UNNEST, LATERAL and joins."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from queries.athena import casts, operators
from queries.athena.casts import fresh_name
from queries.athena.catalog import CATALOG, DATABASE, DataCatalog
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.scope import Field, Relation, Scope, Source, SourceColumn, Value
from queries.athena.syntax import name_of, require_only
from queries.athena.types import BIGINT

if TYPE_CHECKING:
    from queries.athena.expressions import ExpressionCompiler
    from queries.athena.selects import Query, QueryTranslator

_EMPTY: Final = Relation("", ())
_SIDES: Final = ("", "LEFT", "RIGHT", "FULL")
_SAMPLES: Final = ("BERNOULLI", "SYSTEM")


class RelationCompiler:
    """Translates what stands in FROM."""

    def __init__(
        self,
        catalog: DataCatalog,
        expressions: ExpressionCompiler,
        queries: QueryTranslator,
        fresh: Callable[[str], str],
    ) -> None:
        self._catalog = catalog
        self._expressions = expressions
        self._queries = queries
        self._fresh = fresh

    def from_clause(self, select: exp.Select, scope: Scope) -> Relation:
        """The relation that *select* reads: an empty one if it has no FROM.

        Raises:
            QueryError: it names something that does not exist.
            UntranslatableError: it has a part that is not translated.
        """
        clause = select.args.get("from_")
        if clause is None:
            return _EMPTY
        relation = self._relation(clause.this, scope, scope)
        return self._joined(relation, select.args.get("joins") or (), scope)

    def _joined(self, relation: Relation, joins: Sequence[exp.Expr], scope: Scope) -> Relation:
        for join in joins:
            relation = self._join(relation, join, scope)
        return relation

    def _relation(self, node: exp.Expr, scope: Scope, lateral: Scope) -> Relation:
        """One item of FROM; *lateral* has the columns to the left of it, for UNNEST and LATERAL."""
        if isinstance(node, exp.Table):
            return self._table(node, scope)
        if isinstance(node, exp.Subquery) and not isinstance(node.this, exp.Query):
            require_only(node, "this", "joins", construct="a join in parentheses")
            inner = self._joined(self._relation(node.this, scope, lateral), node.args.get("joins") or (), scope)
            return dataclasses.replace(inner, sql=f"({inner.sql})")
        if isinstance(node, exp.Subquery):
            require_only(node, "this", "alias", "joins", "with_", "order", "limit", "offset", construct="a subquery")
            inner_query = node.copy()
            inner_query.set("alias", None)
            inner_query.set("joins", None)
            relation = self._aliased(self._queries.compile_query(inner_query, scope).source(), node)
            return self._joined(relation, node.args.get("joins") or (), scope)
        if isinstance(node, exp.Values):
            require_only(node, "expressions", "alias", construct="VALUES")
            return self._aliased(self.values(node, scope).source(), node)
        if isinstance(node, exp.Lateral):
            require_only(node, "this", "alias", construct="LATERAL")
            if not isinstance(node.this, exp.Subquery):
                raise UntranslatableError("LATERAL without a subquery")
            source = self._queries.compile_query(node.this, lateral).source()
            return self._aliased(Source(f"LATERAL {source.sql}", source.columns), node)
        if isinstance(node, exp.Unnest):
            return self._unnest(node, lateral)
        raise UntranslatableError(f"{name_of(node)} in FROM")

    def _aliased(self, source: Source, node: exp.Expr) -> Relation:
        emitted, alias = self._fresh("t"), node.args.get("alias")
        if alias is None:
            return source.relation(emitted, ())
        relation = source.relation(emitted, (alias.name,))
        return relation.renamed(alias.name, [c.name for c in alias.columns] or None)

    def _table(self, node: exp.Table, scope: Scope) -> Relation:
        require_only(node, "this", "db", "catalog", "alias", "sample", "joins", construct="FROM")
        if not isinstance(node.this, exp.Identifier):
            raise UntranslatableError(f"the table function {node.this.name or name_of(node.this)}")
        path = tuple(part.name for part in node.parts)
        source = scope.tables.get(path[0].lower()) if len(path) == 1 else None
        if source is None:
            try:
                source = self._catalog.source(path)
            except QueryError as error:
                self._expressions.locate(error, node)
                raise
            path = (CATALOG, DATABASE, *path)[-3:] if len(path) < 3 else path
        emitted, alias = self._fresh("t"), node.args.get("alias")
        relation = source.relation(emitted, path)
        if alias is not None:
            relation = relation.renamed(alias.name, [c.name for c in alias.columns] or None)
        if node.args.get("sample") is not None:
            relation = dataclasses.replace(relation, sql=f"{relation.sql} {_sample(node.args['sample'])}")
        if node.args.get("joins"):
            relation = self._joined(relation, node.args["joins"], scope)
        return relation

    def values(self, node: exp.Values, scope: Scope) -> Query:
        """The rows of VALUES, each column of the type that its values have in common.

        Raises:
            QueryError: the rows have different lengths, or a column has no common type.
        """
        rows = [
            [self._expressions.compile(item, scope) for item in (r.expressions if isinstance(r, exp.Tuple) else [r])]
            for r in node.expressions
        ]
        if len({len(r) for r in rows}) != 1:
            raise QueryError("TYPE_MISMATCH", "Values rows have mismatched sizes")
        types = [self._expressions.common([r[i].type for r in rows]) for i in range(len(rows[0]))]
        texts = (
            f"({', '.join(casts.convert(v.sql, v.type, kind, strict=True) for v, kind in zip(r, types, strict=True))})"
            for r in rows
        )
        columns = ", ".join(f'"c{i}"' for i in range(1, len(types) + 1))
        return self._queries.query_of(f"SELECT * FROM (VALUES {', '.join(texts)}) AS v({columns})", types)  # noqa: S608

    def _unnest(self, node: exp.Unnest, scope: Scope) -> Relation:
        require_only(node, "expressions", "alias", "offset", construct="UNNEST")
        lists: list[Value] = []
        sizes: list[str] = []
        for item in node.expressions:
            value = self._expressions.compile(item, scope)
            lists.extend(_columns_of(value))
            sizes.append(f"len({lists[-1].sql})")
        columns = [Value(f"unnest({v.sql})", v.type) for v in lists]
        if node.args.get("offset"):
            size = f"greatest({', '.join(sizes)})" if len(sizes) > 1 else sizes[0]
            columns.append(Value(f"unnest(generate_series(1, {size}))", BIGINT))
        selected = ", ".join(f'{v.sql} AS "c{i}"' for i, v in enumerate(columns, start=1))
        kinds = tuple(SourceColumn(None, f"c{i}", v.type) for i, v in enumerate(columns, start=1))
        relation = Source(f"LATERAL (SELECT {selected})", kinds).relation(self._fresh("t"), ())
        alias, offset = node.args.get("alias"), node.args.get("offset")
        if alias is None:
            return relation
        names = [c.name for c in alias.columns]
        if isinstance(offset, exp.Identifier) and names:
            names.append(offset.name)
        return relation.renamed(alias.name, names or None)

    # Joins.

    def _join(self, left: Relation, join: exp.Expr, scope: Scope) -> Relation:
        if join.args.get("method"):
            raise UntranslatableError(f"{join.args['method']} JOIN")
        require_only(join, "this", "side", "kind", "on", "using", construct="JOIN")
        side, kind = str(join.args.get("side") or "").upper(), str(join.args.get("kind") or "").upper()
        if side not in _SIDES or kind not in ("", "INNER", "OUTER", "CROSS"):
            raise UntranslatableError(f"{side} {kind} JOIN".strip())
        right = self._relation(join.this, scope, scope.inside(left.fields))
        on, using = join.args.get("on"), join.args.get("using")
        word = f"{side} JOIN" if side else "JOIN"
        fields = left.fields + right.fields
        if using:
            return self._join_using(word, left, right, [identifier.name for identifier in using])
        if on is not None:
            condition = self._expressions.boolean(on, scope.inside(fields))
            return Relation(f"{left.sql} {word} {right.sql} ON {condition}", fields)
        if side:
            raise UntranslatableError(f"{side} JOIN without ON or USING")
        return Relation(f"{left.sql} CROSS JOIN {right.sql}", fields)

    @staticmethod
    def _join_using(word: str, left: Relation, right: Relation, names: Sequence[str]) -> Relation:
        conditions, merged = [], []
        taken: set[int] = set()
        for name in names:
            pair = []
            for side in (left, right):
                matches = [f for f in side.fields if f.answers_to((), name)]
                if len(matches) != 1:
                    problem = "is ambiguous" if matches else "is missing from a side of the join"
                    raise QueryError("COLUMN_NOT_FOUND", f"Column '{name}' {problem}")
                pair.append(matches[0])
                taken.add(id(matches[0]))
            a, b = operators.aligned("=", [f.value for f in pair])
            conditions.append(f"{a} = {b}")
            kind = operators.common_type("=", [f.value for f in pair])
            chosen = {"RIGHT JOIN": b, "FULL JOIN": f"coalesce({a}, {b})"}.get(word, a)
            merged.append(Field(name, (), Value(chosen, kind)))
        rest = tuple(f for f in left.fields + right.fields if id(f) not in taken)
        return Relation(f"{left.sql} {word} {right.sql} ON {' AND '.join(conditions)}", (*merged, *rest))


def _sample(sample: exp.Expr) -> str:
    require_only(sample, "method", "percent", construct="TABLESAMPLE")
    method, percent = str(sample.args.get("method") or "").upper(), sample.args.get("percent")
    if method not in _SAMPLES or not isinstance(percent, exp.Literal) or percent.is_string:
        raise UntranslatableError("TABLESAMPLE without BERNOULLI or SYSTEM and a number")
    return f"TABLESAMPLE {method.lower()}({percent.name}%)"


def _columns_of(value: Value) -> list[Value]:
    """The lists that UNNEST makes columns of: one of an array, two of a map, one a field of an array of rows."""
    kind = value.type
    if kind.name == "map":
        key, item = kind.parameters
        return [Value(f"map_keys({value.sql})", key), Value(f"map_values({value.sql})", item)]
    if kind.name != "array":
        raise QueryError("TYPE_MISMATCH", f"Cannot unnest type: {kind}")
    if kind.element.name != "row":
        return [Value(value.sql, kind.element)]
    name = fresh_name(value.sql)
    fields = (operators.row_field(Value(name, kind.element), i) for i in range(len(kind.element.parameters)))
    return [Value(f"list_transform({value.sql}, lambda {name}: {f.sql})", f.type) for f in fields]
