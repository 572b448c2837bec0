"""Conditional functions: coalesce, nullif, try, greatest, least, typeof."""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from queries.athena import casts, operators
from queries.athena.calls import AGGREGATES, Call, scalar
from queries.athena.errors import UntranslatableError
from queries.athena.literals import text_sql
from queries.athena.scope import Value
from queries.athena.types import BIGINT, UUID, VARCHAR, varchar

# What may stand inside `try` around an aggregate: nothing that would turn the NULL of a failure into a value.
_TRANSPARENT: Final = (exp.Paren, exp.Neg, exp.Add, exp.Sub, exp.Mul, exp.Div, exp.Mod)
_VOLATILE: Final = frozenset({"rand", "random", "uuid", "shuffle"})


@scalar("coalesce", arguments=(2, 255))
def _coalesce(call: Call) -> Value:
    values = call.values()
    kind = call.compiler.common([v.type for v in values])
    texts = (casts.convert(v.sql, v.type, kind, strict=True) for v in values)
    return Value(f"coalesce({', '.join(texts)})", kind)


@scalar("nullif", arguments=2)
def _nullif(call: Call) -> Value:
    first, second = call.values()
    equal = operators.compared("=", first, second).sql
    return Value(f"CASE WHEN {equal} THEN NULL ELSE {first.sql} END", first.type)


@scalar("greatest", "least", arguments=(1, 127))
def _extreme(call: Call) -> Value:
    values = call.values()
    kind = call.compiler.common([v.type for v in values])
    texts = [casts.convert(v.sql, v.type, kind, strict=True) for v in values]
    missing = " OR ".join(f"{text} IS NULL" for text in texts)
    return Value(f"CASE WHEN NOT ({missing}) THEN {call.name}({', '.join(texts)}) END", kind)


@scalar("try", arguments=1)
def _try(call: Call) -> Value:
    body = call.nodes[0]
    if any(_is_aggregate(node) for node in body.walk()):
        return _try_around_aggregates(call, body)
    if body.find(exp.Query):
        raise UntranslatableError("try() around a subquery")
    if any(isinstance(n, exp.Anonymous) and n.name.lower() in _VOLATILE for n in body.walk()):
        raise UntranslatableError("try() around a random value")
    value = call.value(0)
    return Value(f"TRY({value.sql})", value.type)


def _is_aggregate(node: exp.Expr) -> bool:
    return isinstance(node, exp.Window | exp.GroupConcat) or (
        isinstance(node, exp.Anonymous) and node.name.lower() in AGGREGATES
    )


def _try_around_aggregates(call: Call, body: exp.Expr) -> Value:
    # DuckDB's TRY takes no aggregates, so the one failure that arithmetic on them has, division by zero, is made NULL.
    def check(node: exp.Expr) -> None:
        if isinstance(node, _TRANSPARENT):
            for child in node.iter_expressions():
                check(child)
        elif not (_is_aggregate(node) or isinstance(node, exp.Literal | exp.Column | exp.Filter)):
            raise UntranslatableError(
                f"try() around an aggregate with more than arithmetic ({node.sql(dialect='trino')})"
            )

    check(body)
    call.compiler.errors_as_null = True
    try:
        return call.value(0)
    finally:
        call.compiler.errors_as_null = False


@scalar("typeof", arguments=1)
def _typeof(call: Call) -> Value:
    name = str(call.value(0).type)
    return Value(text_sql(name), varchar(len(name)))


@scalar("uuid", arguments=0)
def _uuid(call: Call) -> Value:  # noqa: ARG001 (builders share one signature)
    return Value("uuid()", UUID)


@scalar("current_timezone", arguments=0)
def _current_timezone(call: Call) -> Value:  # noqa: ARG001
    return Value("'UTC'", VARCHAR)


@scalar("grouping", arguments=(1, 64))
def _grouping(call: Call) -> Value:
    return Value(f"GROUPING({', '.join(v.sql for v in call.values())})", BIGINT)
