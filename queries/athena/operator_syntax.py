"""Syntax of names, operators, predicates, conditions and subqueries."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from queries.athena import casts, operators
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.handlers import handles
from queries.athena.scope import Scope, Value
from queries.athena.syntax import require_only
from queries.athena.types import BIGINT, BOOLEAN, DOUBLE, UNKNOWN, TrinoType, common_super_type

if TYPE_CHECKING:
    from queries.athena.expressions import ExpressionCompiler

_BIGINT_MAX: Final = 2**63 - 1
_COMPARISONS: Final[dict[type[exp.Expr], str]] = {
    exp.EQ: "=",
    exp.NEQ: "<>",
    exp.LT: "<",
    exp.LTE: "<=",
    exp.GT: ">",
    exp.GTE: ">=",
    exp.NullSafeEQ: "IS NOT DISTINCT FROM",
    exp.NullSafeNEQ: "IS DISTINCT FROM",
}
_ARITHMETIC: Final[dict[type[exp.Expr], str]] = {
    exp.Add: "add",
    exp.Sub: "subtract",
    exp.Mul: "multiply",
    exp.Div: "divide",
    exp.Mod: "modulo",
}


@handles(exp.Column)
def _column(compiler: ExpressionCompiler, node: exp.Column, scope: Scope) -> Value:  # noqa: ARG001
    if not all(isinstance(part, exp.Identifier) for part in node.parts):
        raise UntranslatableError(f"the reference {node.sql()}")
    return _resolve([part.name for part in node.parts], scope)


@handles(exp.Identifier)
def _identifier(compiler: ExpressionCompiler, node: exp.Identifier, scope: Scope) -> Value:  # noqa: ARG001
    return _resolve([node.name], scope)


def _resolve(parts: Sequence[str], scope: Scope) -> Value:
    found = scope.resolve(parts)
    if found is None:
        if parts[-1].startswith("$"):
            raise UntranslatableError(f'the hidden column "{parts[-1]}"')
        raise QueryError(
            "COLUMN_NOT_FOUND",
            f"Column '{'.'.join(parts)}' cannot be resolved or requester is not authorized to access requested "
            "resources",
        )
    value, fields = found
    for name in fields:
        value = operators.field_of(value, name)
    return value


@handles(exp.Dot)
def _dot(compiler: ExpressionCompiler, node: exp.Dot, scope: Scope) -> Value:
    if not isinstance(node.expression, exp.Identifier):
        raise UntranslatableError(f"the call {node.sql()}")
    return operators.field_of(compiler.compile(node.this, scope), node.expression.name)


@handles(exp.Paren)
def _paren(compiler: ExpressionCompiler, node: exp.Paren, scope: Scope) -> Value:
    value = compiler.compile(node.this, scope)
    return Value(f"({value.sql})", value.type)


@handles(exp.Bracket)
def _bracket(compiler: ExpressionCompiler, node: exp.Bracket, scope: Scope) -> Value:
    require_only(node, "this", "expressions")
    if len(node.expressions) != 1 or isinstance(node.expressions[0], exp.Slice):
        raise UntranslatableError("a subscript that is no single index")
    container = compiler.compile(node.this, scope)
    index = node.expressions[0]
    if container.type.name == "row" and isinstance(index, exp.Literal) and str(index.this).isdigit():
        position = int(index.this)
        if not 1 <= position <= len(container.type.parameters):
            raise QueryError("INVALID_FUNCTION_ARGUMENT", f"ROW index out of bounds: {position}")
        return operators.row_field(container, position - 1)
    return operators.subscript(container, compiler.compile(index, scope))


@handles(exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)
def _arithmetic(compiler: ExpressionCompiler, node: exp.Binary, scope: Scope) -> Value:
    left, right = compiler.compile(node.left, scope), compiler.compile(node.right, scope)
    return operators.arithmetic(_ARITHMETIC[type(node)], left, right, errors_as_null=compiler.errors_as_null)


@handles(exp.Neg)
def _negative(compiler: ExpressionCompiler, node: exp.Neg, scope: Scope) -> Value:
    if isinstance(node.this, exp.Literal) and str(node.this.this) == str(_BIGINT_MAX + 1):
        return Value("CAST('-9223372036854775808' AS BIGINT)", BIGINT)
    value = compiler.compile(node.this, scope)
    if not (value.type.is_numeric or value.type.is_interval or value.type == UNKNOWN):
        raise QueryError("TYPE_MISMATCH", f"Cannot negate {value.type}")
    return Value(f"(-{value.sql})", value.type)


@handles(exp.DPipe)
def _concatenated(compiler: ExpressionCompiler, node: exp.DPipe, scope: Scope) -> Value:
    return operators.concatenated(compiler.compile(node.left, scope), compiler.compile(node.right, scope))


@handles(exp.EQ, exp.NEQ, exp.LT, exp.LTE, exp.GT, exp.GTE, exp.NullSafeEQ, exp.NullSafeNEQ)
def _compared(compiler: ExpressionCompiler, node: exp.Binary, scope: Scope) -> Value:
    symbol, left, right = _COMPARISONS[type(node)], compiler.compile(node.left, scope), node.right
    if isinstance(right, exp.Anonymous) and right.name.lower() == "all" and isinstance(right.expressions[0], exp.Query):
        right = exp.All(this=right.expressions[0])
    if isinstance(right, exp.Any | exp.All):
        kind, query = _one_column(compiler, right.this, scope)
        word = "ANY" if isinstance(right, exp.Any) else "ALL"
        a, b = _aligned_with_query(symbol, left, kind, query)
        return Value(f"({a} {symbol} {word} ({b}))", BOOLEAN)
    return operators.compared(symbol, left, compiler.compile(node.right, scope))


@handles(exp.And, exp.Or)
def _logical(compiler: ExpressionCompiler, node: exp.Connector, scope: Scope) -> Value:
    word = "AND" if isinstance(node, exp.And) else "OR"
    # A long chain leans to the left; walking down it here keeps the recursion shallow.
    operands: list[exp.Expr] = []
    current: exp.Expr = node
    while type(current) is type(node):
        operands.append(current.args["expression"])
        current = current.this
    operands.append(current)
    return Value(f"({f' {word} '.join(compiler.boolean(o, scope) for o in reversed(operands))})", BOOLEAN)


@handles(exp.Not)
def _not(compiler: ExpressionCompiler, node: exp.Not, scope: Scope) -> Value:
    return Value(f"(NOT {compiler.boolean(node.this, scope)})", BOOLEAN)


@handles(exp.Is)
def _is(compiler: ExpressionCompiler, node: exp.Is, scope: Scope) -> Value:
    if not isinstance(node.expression, exp.Null):
        raise UntranslatableError(f"IS {node.expression.sql()}")
    return Value(f"({compiler.compile(node.this, scope).sql} IS NULL)", BOOLEAN)


@handles(exp.Between)
def _between(compiler: ExpressionCompiler, node: exp.Between, scope: Scope) -> Value:
    require_only(node, "this", "low", "high")
    values = [compiler.compile(node.args[part], scope) for part in ("this", "low", "high")]
    value, low, high = operators.aligned("BETWEEN", values)
    between = f"({value} BETWEEN {low} AND {high})"
    if operators.common_type("BETWEEN", values).name in ("double", "real"):
        # NaN is between no two numbers, which DuckDB has between any and NaN.
        between = f"({between} AND {operators.comparison('<=', value, high, DOUBLE)})"
    return Value(between, BOOLEAN)


@handles(exp.In)
def _in(compiler: ExpressionCompiler, node: exp.In, scope: Scope) -> Value:
    require_only(node, "this", "expressions", "query")
    left = compiler.compile(node.this, scope)
    if node.args.get("query") is not None:
        kind, query = _one_column(compiler, node.args["query"], scope)
        a, b = _aligned_with_query("IN", left, kind, query)
        return Value(f"({a} IN ({b}))", BOOLEAN)
    if not node.expressions:
        raise QueryError("SYNTAX_ERROR", "IN without a value")
    value, *items = operators.aligned("IN", [left, *(compiler.compile(item, scope) for item in node.expressions)])
    return Value(f"({value} IN ({', '.join(items)}))", BOOLEAN)


def _one_column(compiler: ExpressionCompiler, query: exp.Expr, scope: Scope) -> tuple[TrinoType, str]:
    compiled = compiler.queries.compile_query(query, scope)
    if len(compiled.types) != 1:
        raise UntranslatableError("a subquery of more than one column", "cannot be compared with a value")
    return compiled.types[0], compiled.sql


def _aligned_with_query(symbol: str, left: Value, kind: TrinoType, query: str) -> tuple[str, str]:
    common = common_super_type(left.type, kind)
    if common is None:
        raise operators.mismatch(symbol, left.type, kind)
    value = casts.convert(left.sql, left.type, common, strict=True)
    if kind == common:
        return value, query
    return value, f"SELECT {casts.convert('q.c', kind, common, strict=True)} FROM ({query}) AS q(c)"  # noqa: S608


@handles(exp.Like)
def _like(compiler: ExpressionCompiler, node: exp.Like, scope: Scope, escape: str = "") -> Value:
    require_only(node, "this", "expression", "negate")
    left, right = (compiler.compile(side, scope) for side in (node.this, node.expression))
    if {left.type.name, right.type.name} - {"varchar", "unknown"}:
        raise operators.mismatch("LIKE", left.type, right.type)
    word = "NOT LIKE" if node.args.get("negate") else "LIKE"
    return Value(f"({left.sql} {word} {right.sql}{escape})", BOOLEAN)


@handles(exp.Escape)
def _escape(compiler: ExpressionCompiler, node: exp.Escape, scope: Scope) -> Value:
    if not isinstance(node.this, exp.Like):
        raise UntranslatableError("ESCAPE")
    return _like(compiler, node.this, scope, f" ESCAPE {compiler.compile(node.expression, scope).sql}")


@handles(exp.Exists)
def _exists(compiler: ExpressionCompiler, node: exp.Exists, scope: Scope) -> Value:
    return Value(f"EXISTS ({compiler.queries.compile_query(node.this, scope).sql})", BOOLEAN)


@handles(exp.Subquery, exp.Select)
def _subquery(compiler: ExpressionCompiler, node: exp.Expr, scope: Scope) -> Value:
    kind, query = _one_column(compiler, node, scope)
    return Value(f"({query})", kind)


@handles(exp.If)
def _if(compiler: ExpressionCompiler, node: exp.If, scope: Scope) -> Value:
    require_only(node, "this", "true", "false")
    default = node.args.get("false") or exp.Null()
    return _cases(compiler, [(compiler.boolean(node.this, scope), node.args["true"])], default, scope)


@handles(exp.Case)
def _case(compiler: ExpressionCompiler, node: exp.Case, scope: Scope) -> Value:
    require_only(node, "this", "ifs", "default")
    arms = []
    operand = compiler.compile(node.this, scope) if node.this is not None else None
    for arm in node.args["ifs"]:
        if operand is None:
            condition = compiler.boolean(arm.this, scope)
        else:
            condition = operators.compared("=", operand, compiler.compile(arm.this, scope)).sql
        arms.append((condition, arm.args["true"]))
    return _cases(compiler, arms, node.args.get("default") or exp.Null(), scope)


def _cases(
    compiler: ExpressionCompiler, arms: Sequence[tuple[str, exp.Expr]], default: exp.Expr, scope: Scope
) -> Value:
    values = [compiler.compile(result, scope) for _, result in arms] + [compiler.compile(default, scope)]
    kind = compiler.common([v.type for v in values])
    *results, otherwise = (casts.convert(v.sql, v.type, kind, strict=True) for v in values)
    branches = " ".join(f"WHEN {c} THEN {r}" for (c, _), r in zip(arms, results, strict=True))
    return Value(f"CASE {branches} ELSE {otherwise} END", kind)
