"""Syntax of calls: plain ones, and those with words of their own between the parentheses."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlglot import exp

from queries.athena import casts
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.handlers import handles
from queries.athena.scope import Scope, Value
from queries.athena.syntax import data_type, require_only
from queries.athena.windows import compile_window

if TYPE_CHECKING:
    from queries.athena.expressions import ExpressionCompiler

_EXTRACTED: Final = {
    "YEAR": "year",
    "QUARTER": "quarter",
    "MONTH": "month",
    "WEEK": "week",
    "DAY": "day",
    "DAY_OF_MONTH": "day",
    "DAY_OF_WEEK": "day_of_week",
    "DOW": "day_of_week",
    "DAY_OF_YEAR": "day_of_year",
    "DOY": "day_of_year",
    "YEAR_OF_WEEK": "year_of_week",
    "YOW": "year_of_week",
    "HOUR": "hour",
    "MINUTE": "minute",
    "SECOND": "second",
    "TIMEZONE_HOUR": "timezone_hour",
    "TIMEZONE_MINUTE": "timezone_minute",
}

handles(exp.Window, exp.Filter, exp.GroupConcat)(compile_window)


@handles(exp.Anonymous)
def _call(compiler: ExpressionCompiler, node: exp.Anonymous, scope: Scope) -> Value:
    return compiler.call(node.name.lower(), node.expressions, scope)


@handles(exp.Extract)
def _extract(compiler: ExpressionCompiler, node: exp.Extract, scope: Scope) -> Value:
    return compiler.call(
        _EXTRACTED.get(node.name.upper(), f"extract {node.name.lower()} from"), [node.expression], scope
    )


@handles(exp.Substring)
def _substring(compiler: ExpressionCompiler, node: exp.Substring, scope: Scope) -> Value:
    parts = [node.args.get(part) for part in ("this", "start", "length")]
    return compiler.call("substr", [part for part in parts if part is not None], scope)


@handles(exp.StrPosition)
def _position(compiler: ExpressionCompiler, node: exp.StrPosition, scope: Scope) -> Value:
    require_only(node, "this", "substr")
    return compiler.call("strpos", [node.this, node.args["substr"]], scope)


@handles(exp.Trim)
def _trim(compiler: ExpressionCompiler, node: exp.Trim, scope: Scope) -> Value:
    require_only(node, "this", "expression", "position")
    name = {"LEADING": "ltrim", "TRAILING": "rtrim"}.get(str(node.args.get("position") or "").upper(), "trim")
    return compiler.call(name, [part for part in (node.this, node.args.get("expression")) if part is not None], scope)


@handles(exp.JSONValue)
def _json_value(compiler: ExpressionCompiler, node: exp.JSONValue, scope: Scope) -> Value:
    require_only(node, "this", "path", "returning")
    value = compiler.call("json_value", [node.this, node.args["path"]], scope)
    returning = node.args.get("returning")
    return casts.cast(value, data_type(returning), strict=False) if isinstance(returning, exp.DataType) else value


@handles(exp.JSONExtract)
def _json_query(compiler: ExpressionCompiler, node: exp.JSONExtract, scope: Scope) -> Value:
    if not node.args.get("json_query"):
        raise UntranslatableError("the operator ->")
    require_only(node, "this", "expression", "json_query")
    if not isinstance(node.expression, exp.Expr):
        raise QueryError("SYNTAX_ERROR", "JSON_QUERY without a path")
    return compiler.call("json_query", [node.this, node.expression], scope)
