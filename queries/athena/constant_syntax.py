"""Syntax of what stands for itself: literals, constructors, casts, the current time."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from sqlglot import exp

from queries.athena import casts, literals
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.handlers import handles
from queries.athena.scope import Scope, Value
from queries.athena.syntax import data_type, require_only
from queries.athena.temporal import at_time_zone, constant_moment
from queries.athena.types import (
    BIGINT,
    BOOLEAN,
    DATE,
    DOUBLE,
    INTEGER,
    INTERVAL_DAY,
    INTERVAL_YEAR,
    JSON,
    UNKNOWN,
    VARBINARY,
    TrinoType,
    array,
    decimal,
    duckdb_type,
    timestamp,
    timestamp_tz,
    varchar,
)

if TYPE_CHECKING:
    from queries.athena.expressions import ExpressionCompiler

_INTEGER_MAX: Final = 2**31 - 1
_BIGINT_MAX: Final = 2**63 - 1
_CLOCKS: Final[dict[type[exp.Expr], tuple[str, TrinoType]]] = {
    exp.CurrentDate: ("current_date", DATE),
    exp.CurrentTimestamp: ("date_trunc('millisecond', now())", timestamp_tz()),
    exp.Localtimestamp: ("date_trunc('millisecond', timezone('UTC', now()))", timestamp()),
}


@handles(exp.Literal)
def _literal(compiler: ExpressionCompiler, node: exp.Literal, scope: Scope) -> Value:  # noqa: ARG001
    text = str(node.this)
    if node.is_string:
        return Value(literals.text_sql(text), varchar(len(text)))
    if text.isdigit():
        number = int(text)
        if number > _BIGINT_MAX:
            raise QueryError("INVALID_LITERAL", f"Invalid numeric literal: {text}")
        kind = INTEGER if number <= _INTEGER_MAX else BIGINT
        return Value(f"CAST({number} AS {duckdb_type(kind)})", kind)
    if "e" in text.lower():
        return Value(f"CAST('{text}' AS DOUBLE)", DOUBLE)
    return _decimal_literal(text.lstrip("0"))


def _decimal_literal(text: str) -> Value:
    whole, _, fraction = text.lstrip("+-").partition(".")
    kind = decimal(max(len(whole) + len(fraction), 1), len(fraction))
    return Value(f"CAST('{text}' AS {duckdb_type(kind)})", kind)


@handles(exp.HexString)
def _hex(compiler: ExpressionCompiler, node: exp.HexString, scope: Scope) -> Value:  # noqa: ARG001
    return Value(f"unhex('{node.this}')", VARBINARY)


@handles(exp.UnicodeString)
def _unicode(compiler: ExpressionCompiler, node: exp.UnicodeString, scope: Scope) -> Value:  # noqa: ARG001
    if node.args.get("escape"):
        raise UntranslatableError("UESCAPE")
    text = literals.unicode_string(str(node.this))
    return Value(literals.text_sql(text), varchar(len(text)))


@handles(exp.Null)
def _null(compiler: ExpressionCompiler, node: exp.Null, scope: Scope) -> Value:  # noqa: ARG001
    return Value("NULL", UNKNOWN)


@handles(exp.Boolean)
def _true_or_false(compiler: ExpressionCompiler, node: exp.Boolean, scope: Scope) -> Value:  # noqa: ARG001
    return Value("true" if node.this else "false", BOOLEAN)


@handles(exp.Interval)
def _interval(compiler: ExpressionCompiler, node: exp.Interval, scope: Scope) -> Value:  # noqa: ARG001
    require_only(node, "this", "unit")
    unit = node.args.get("unit")
    if not (isinstance(node.this, exp.Literal) and node.this.is_string) or unit is None:
        raise UntranslatableError("INTERVAL without a quoted number and a unit")
    start, end = (unit.this.name, unit.expression.name) if isinstance(unit, exp.IntervalSpan) else (unit.name, None)
    span = literals.parse_interval(node.this.this, start, end)
    return Value(literals.span_sql(span), INTERVAL_YEAR if span.is_year_to_month else INTERVAL_DAY)


@handles(exp.ParseJSON)
def _json_literal(compiler: ExpressionCompiler, node: exp.ParseJSON, scope: Scope) -> Value:
    return Value(f"trino_json_parse({compiler.compile(node.this, scope).sql})", JSON)


@handles(exp.Cast, exp.TryCast)
def _cast(compiler: ExpressionCompiler, node: exp.Cast, scope: Scope) -> Value:
    require_only(node, "this", "to", "safe")
    target = data_type(node.to)
    operand, strict = node.this, not isinstance(node, exp.TryCast)
    text = operand.this if isinstance(operand, exp.Literal) and operand.is_string else None
    if text is not None and target.name in ("timestamp", "timestamp with time zone", "time"):
        try:
            return constant_moment(str(text), target)
        except QueryError:
            if strict:
                raise
            return Value(f"CAST(NULL AS {duckdb_type(target)})", target)
    if text is not None and target.name == "decimal" and not node.to.expressions:
        return _decimal_literal(str(text))
    return casts.cast(compiler.compile(operand, scope), target, strict=strict)


@handles(exp.Array)
def _array(compiler: ExpressionCompiler, node: exp.Array, scope: Scope) -> Value:
    require_only(node, "expressions")
    values = [compiler.compile(item, scope) for item in node.expressions]
    element = compiler.common([v.type for v in values])
    items = ", ".join(casts.convert(v.sql, v.type, element, strict=True) for v in values)
    kind = array(element)
    return Value(
        f"CAST([{items}] AS {duckdb_type(kind)})" if element.name == "unknown" or not values else f"[{items}]", kind
    )


@handles(exp.Tuple)
def _tuple(compiler: ExpressionCompiler, node: exp.Tuple, scope: Scope) -> Value:
    return compiler.row_of([compiler.compile(item, scope) for item in node.expressions])


@handles(exp.AtTimeZone)
def _at_time_zone(compiler: ExpressionCompiler, node: exp.AtTimeZone, scope: Scope) -> Value:
    zone = node.args["zone"]
    if not (isinstance(zone, exp.Literal) and zone.is_string):
        raise UntranslatableError("AT TIME ZONE with a zone that is not constant")
    return at_time_zone(compiler.compile(node.this, scope), zone.this)


@handles(exp.CurrentDate, exp.CurrentTimestamp, exp.Localtimestamp)
def _now(compiler: ExpressionCompiler, node: exp.Expr, scope: Scope) -> Value:  # noqa: ARG001
    require_only(node)
    sql, kind = _CLOCKS[type(node)]
    return Value(sql, kind)
