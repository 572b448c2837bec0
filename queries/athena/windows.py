"""Aggregates and window functions: DISTINCT, ORDER BY, FILTER, IGNORE NULLS and OVER around a call."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from sqlglot import exp

from queries.athena.calls import AGGREGATES, WINDOW_FUNCTIONS, Aggregate, Call
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.scope import Scope, Value
from queries.athena.syntax import require_only

if TYPE_CHECKING:
    from queries.athena.expressions import ExpressionCompiler

_FRAME_KINDS: Final = ("ROWS", "RANGE", "GROUPS")


@dataclass(frozen=True, slots=True)
class _Parts:
    """A call taken out of what stands around it."""

    name: str
    arguments: Sequence[exp.Expr]
    distinct: bool = False
    order: Sequence[exp.Expr] = ()
    filter: exp.Expr | None = None
    nulls: str = ""


def compile_aggregate(compiler: ExpressionCompiler, name: str, arguments: Sequence[exp.Expr], scope: Scope) -> Value:
    """A plain call of an aggregate, such as `sum(DISTINCT x)`."""
    return _compile(compiler, _opened(name, arguments), scope, "")


def compile_window(compiler: ExpressionCompiler, node: exp.Expr, scope: Scope) -> Value:
    """An aggregate with FILTER or WITHIN GROUP, or any call with OVER.

    Raises:
        UntranslatableError: the function or a part of the window is not translated.
        QueryError: OVER stands at a function that is no window function.
    """
    over = ""
    inner = node
    if isinstance(node, exp.Window):
        over = f" OVER ({window_text(compiler, node, scope)})"
        inner = node.this
    return _compile(compiler, _parts(inner), scope, over)


def _parts(node: exp.Expr) -> _Parts:
    if isinstance(node, exp.Filter):
        inner = _parts(node.this)
        return _Parts(inner.name, inner.arguments, inner.distinct, inner.order, node.expression.this, inner.nulls)
    if isinstance(node, exp.IgnoreNulls | exp.RespectNulls):
        inner = _parts(node.this)
        nulls = " IGNORE NULLS" if isinstance(node, exp.IgnoreNulls) else ""
        return _Parts(inner.name, inner.arguments, inner.distinct, inner.order, inner.filter, nulls)
    if isinstance(node, exp.GroupConcat):
        require_only(node, "this", "separator", construct="LISTAGG")
        inner = _opened("listagg", [node.this])
        separator = node.args.get("separator")
        return _Parts("listagg", [*inner.arguments, *([separator] if separator else [])], inner.distinct, inner.order)
    if isinstance(node, exp.Anonymous):
        return _opened(node.name.lower(), node.expressions)
    raise UntranslatableError(f"OVER after {node.sql(dialect='trino')}")


def _opened(name: str, arguments: Sequence[exp.Expr]) -> _Parts:
    order: Sequence[exp.Expr] = ()
    distinct = False
    opened = list(arguments)
    while opened and isinstance(opened[-1], exp.Order | exp.Distinct):
        last = opened.pop()
        if isinstance(last, exp.Order):
            require_only(last, "this", "expressions")
            order = last.expressions
            opened.append(last.this)
        else:
            require_only(last, "expressions")
            distinct = True
            opened.extend(last.expressions)
    return _Parts(name, opened, distinct, order)


def _compile(compiler: ExpressionCompiler, parts: _Parts, scope: Scope, over: str) -> Value:
    build = AGGREGATES.get(parts.name) or (WINDOW_FUNCTIONS.get(parts.name) if over else None)
    if build is None:
        # A known scalar function cannot have these; an unknown function is named as such.
        value = compiler.call(parts.name, parts.arguments, scope)
        raise QueryError("FUNCTION_NOT_WINDOW", f"{parts.name} of type {value.type} takes no OVER, FILTER or DISTINCT")
    call: Aggregate = build(Call(parts.name, parts.arguments, scope, compiler))
    if parts.distinct and (len(call.arguments) > 1 or call.arguments == ["*"]):
        raise UntranslatableError(f"DISTINCT in {parts.name} of anything but one argument")
    arguments = ", ".join(call.arguments)
    order = f" ORDER BY {order_text(compiler, parts.order, scope)}" if parts.order else ""
    where = f" FILTER (WHERE {compiler.boolean(parts.filter, scope)})" if parts.filter is not None else ""
    text = f"{call.function}({'DISTINCT ' if parts.distinct else ''}{arguments}{order}{parts.nulls}){where}{over}"
    return Value(call.finish(text), call.type)


def order_text(compiler: ExpressionCompiler, items: Sequence[exp.Expr], scope: Scope) -> str:
    """The items of an ORDER BY. NULL comes last unless the query says otherwise, ascending and descending alike."""
    texts = []
    for item in items:
        require_only(item, "this", "desc", "nulls_first")
        texts.append(f"{compiler.compile(item.this, scope).sql}{direction_text(item)}")
    return ", ".join(texts)


def direction_text(item: exp.Expr) -> str:
    """The direction and the place of NULL of one item of an ORDER BY."""
    return f"{' DESC' if item.args.get('desc') else ' ASC'} NULLS {'FIRST' if item.args.get('nulls_first') else 'LAST'}"


def window_text(compiler: ExpressionCompiler, node: exp.Window, scope: Scope) -> str:
    """What stands in the parentheses after OVER, a named window written out.

    Raises:
        QueryError: there is no window of that name.
    """
    require_only(node, "this", "partition_by", "order", "spec", "alias", "over", construct="OVER")
    partition, order, spec = node.args.get("partition_by"), node.args.get("order"), node.args.get("spec")
    if node.alias:
        named = compiler.windows.get(node.alias.lower())
        if named is None:
            raise QueryError("INVALID_WINDOW_REFERENCE", f"Cannot resolve WINDOW name {node.alias}")
        partition = partition or named.args.get("partition_by")
        order = order or named.args.get("order")
        spec = spec or named.args.get("spec")
    texts = []
    if partition:
        texts.append("PARTITION BY " + ", ".join(compiler.compile(item, scope).sql for item in partition))
    if order is not None:
        texts.append("ORDER BY " + order_text(compiler, order.expressions, scope))
    if spec is not None:
        texts.append(_frame_text(compiler, spec, scope))
    return " ".join(texts)


def _frame_text(compiler: ExpressionCompiler, spec: exp.Expr, scope: Scope) -> str:
    require_only(spec, "kind", "start", "start_side", "end", "end_side", construct="a window frame")
    kind = str(spec.args["kind"]).upper()
    if kind not in _FRAME_KINDS:
        raise UntranslatableError(f"the window frame {kind}")

    def bound(which: str) -> str:
        value, side = spec.args.get(which), str(spec.args.get(f"{which}_side") or "").upper()
        if value is None:
            return "CURRENT ROW"
        if value == "UNBOUNDED" and not side:
            raise QueryError("SYNTAX_ERROR", "UNBOUNDED without PRECEDING or FOLLOWING")
        text = value.upper() if isinstance(value, str) else compiler.compile(value, scope).sql
        return f"{text} {side}".rstrip()

    return f"{kind} BETWEEN {bound('start')} AND {bound('end')}"
