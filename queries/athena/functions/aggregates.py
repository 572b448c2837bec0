"""Aggregate and window functions."""

from __future__ import annotations

from typing import Final

from sqlglot import exp

from queries.athena.calls import Aggregate, Call, aggregate, window_function
from queries.athena.errors import QueryError, UntranslatableError
from queries.athena.scope import Value
from queries.athena.types import (
    BIGINT,
    BOOLEAN,
    DOUBLE,
    VARCHAR,
    TrinoType,
    array,
    decimal,
    duckdb_type,
    map_of,
)

_OF_ONE_DOUBLE: Final = {
    "stddev": "stddev_samp",
    "stddev_samp": "stddev_samp",
    "stddev_pop": "stddev_pop",
    "variance": "var_samp",
    "var_samp": "var_samp",
    "var_pop": "var_pop",
    "kurtosis": "kurtosis",
    "geometric_mean": "geomean",
}
_OF_TWO_DOUBLES: Final = ("corr", "covar_pop", "covar_samp", "regr_slope", "regr_intercept")
_RANKS: Final = {
    "row_number": BIGINT,
    "rank": BIGINT,
    "dense_rank": BIGINT,
    "percent_rank": DOUBLE,
    "cume_dist": DOUBLE,
}


def _cast_to(kind: TrinoType) -> str:
    return "CAST({} AS " + duckdb_type(kind) + ")"


@aggregate("count", arguments=(0, 1))
def _count(call: Call) -> Aggregate:
    if len(call) == 0 or isinstance(call.nodes[0], exp.Star):
        return Aggregate("count", ["*"], BIGINT)
    return Aggregate("count", [v.sql for v in call.values()], BIGINT)


@aggregate("count_if", arguments=1)
def _count_if(call: Call) -> Aggregate:
    return Aggregate("count", [f"CASE WHEN {call.of(0, BOOLEAN)} THEN 1 END"], BIGINT)


@aggregate("sum", arguments=1)
def _sum(call: Call) -> Aggregate:
    value = call.value(0)
    kind = value.type
    if kind.is_integer:
        return Aggregate("sum", [value.sql], BIGINT, _cast_to(BIGINT).format)
    if kind.name == "decimal":
        result = decimal(38, kind.scale or 0)
        return Aggregate("sum", [value.sql], result, _cast_to(result).format)
    if kind.name in ("double", "real"):
        return Aggregate("sum", [value.sql], kind, _cast_to(kind).format)
    if kind.name == "interval day to second":
        return Aggregate("sum", [value.sql], kind)
    raise call.refusal()


@aggregate("avg", arguments=1)
def _avg(call: Call) -> Aggregate:
    value = call.value(0)
    kind = value.type
    if kind.is_integer or kind.name == "double":
        return Aggregate("avg", [value.sql], DOUBLE)
    if kind.name in ("decimal", "real"):
        return Aggregate("avg", [value.sql], kind, _cast_to(kind).format)
    raise call.refusal()


@aggregate("min", "max", arguments=(1, 2))
def _extreme(call: Call) -> Aggregate:
    value = call.value(0)
    if len(call) == 2:
        return Aggregate(call.name, [value.sql, call.bigint(1)], array(value.type))
    return Aggregate(call.name, [value.sql], value.type)


@aggregate("min_by", "max_by", arguments=(2, 3))
def _extreme_by(call: Call) -> Aggregate:
    value, by = call.value(0), call.value(1)
    function = "arg_min" if call.name == "min_by" else "arg_max"
    # Wrapped, since DuckDB would pass over rows whose first argument is NULL.
    wrapped = [f"{{'v': {value.sql}}}", by.sql]
    if len(call) == 3:
        unwrap = "list_transform({}, lambda e: e.v)"
        return Aggregate(function, [*wrapped, call.bigint(2)], array(value.type), unwrap.format)
    return Aggregate(function, wrapped, value.type, "struct_extract({}, 'v')".format)


@aggregate("any_value", "arbitrary", arguments=1)
def _any_value(call: Call) -> Aggregate:
    value = call.value(0)
    return Aggregate("any_value", [value.sql], value.type)


@aggregate("array_agg", arguments=1)
def _array_agg(call: Call) -> Aggregate:
    value = call.value(0)
    return Aggregate("array_agg", [value.sql], array(value.type))


@aggregate("listagg", arguments=(1, 2))
def _listagg(call: Call) -> Aggregate:
    separator = call.text(1) if len(call) == 2 else "''"
    return Aggregate("string_agg", [call.text(0), separator], VARCHAR)


@aggregate("bool_and", "every", "bool_or", arguments=1)
def _bool(call: Call) -> Aggregate:
    return Aggregate("bool_or" if call.name == "bool_or" else "bool_and", [call.of(0, BOOLEAN)], BOOLEAN)


@aggregate("bitwise_and_agg", "bitwise_or_agg", "bitwise_xor_agg", arguments=1)
def _bitwise(call: Call) -> Aggregate:
    return Aggregate(f"bit_{call.name.split('_')[1]}", [call.bigint(0)], BIGINT)


@aggregate(*_OF_ONE_DOUBLE, arguments=1)
def _of_one_double(call: Call) -> Aggregate:
    return Aggregate(_OF_ONE_DOUBLE[call.name], [call.double(0)], DOUBLE)


@aggregate(*_OF_TWO_DOUBLES, arguments=2)
def _of_two_doubles(call: Call) -> Aggregate:
    return Aggregate(call.name, [call.double(0), call.double(1)], DOUBLE)


# Approximate functions. An exact answer is within any bound of error.


@aggregate("approx_distinct", arguments=(1, 2))
def _approx_distinct(call: Call) -> Aggregate:
    return Aggregate("count", [f"DISTINCT {call.value(0).sql}"], BIGINT)


@aggregate("approx_percentile", arguments=(2, 4))
def _approx_percentile(call: Call) -> Aggregate:
    if len(call) != 2:
        raise UntranslatableError("approx_percentile with a weight or an accuracy")
    value = call.value(0)
    if not value.type.is_numeric:
        raise call.refusal()
    kind, at = value.type if value.type.is_integer else DOUBLE, call.nodes[1]
    if isinstance(at, exp.Array):
        result, shares = array(kind), ", ".join(map(_share, at.expressions))
        return Aggregate("approx_quantile", [value.sql, f"[{shares}]"], result, _cast_to(result).format)
    return Aggregate("approx_quantile", [value.sql, _share(at)], kind, _cast_to(kind).format)


def _share(node: exp.Expr) -> str:
    """A percentage between zero and one, which DuckDB wants as a constant FLOAT."""
    while isinstance(node, exp.Paren):
        node = node.this
    if not isinstance(node, exp.Literal) or node.is_string:
        raise UntranslatableError("approx_percentile with a percentage that is not constant")
    if not 0 <= float(node.this) <= 1:
        raise QueryError("INVALID_FUNCTION_ARGUMENT", "Percentile must be between 0 and 1")
    return f"CAST('{node.this}' AS FLOAT)"


@aggregate("approx_most_frequent", arguments=3)
def _approx_most_frequent(call: Call) -> Aggregate:
    value = call.value(1)
    finish = "trino_most_frequent({}, " + call.bigint(0) + ")"
    return Aggregate("histogram", [value.sql], map_of(value.type, BIGINT), lambda text: finish.replace("{}", text))


# Maps.


@aggregate("histogram", arguments=1)
def _histogram(call: Call) -> Aggregate:
    value = call.value(0)
    kind = map_of(value.type, BIGINT)
    return Aggregate("histogram", [value.sql], kind, _cast_to(kind).format)


def _pair(key: Value, value: Value) -> str:
    return f"{{'key': {key.sql}, 'value': {value.sql}}}"


@aggregate("map_agg", arguments=2)
def _map_agg(call: Call) -> Aggregate:
    key, value = call.values()
    return Aggregate("list", [_pair(key, value)], map_of(key.type, value.type), _first_of_each_key)


def _first_of_each_key(pairs: str) -> str:
    return f"trino_map_of_ranked(trino_ranked({pairs}))"


@aggregate("multimap_agg", arguments=2)
def _multimap_agg(call: Call) -> Aggregate:
    key, value = call.values()

    def grouped(pairs: str) -> str:
        ranked = f"trino_ranked({pairs})"
        return f"trino_multimap_of_ranked({ranked}, trino_starts_of_ranked({ranked}))"

    return Aggregate("list", [_pair(key, value)], map_of(key.type, array(value.type)), grouped)


@aggregate("map_union", arguments=1)
def _map_union(call: Call) -> Aggregate:
    value = call.one_of(0, "map")
    return Aggregate(
        "list", [f"map_entries({value.sql})"], value.type, lambda text: _first_of_each_key(f"flatten({text})")
    )


# Window functions.


@window_function(*_RANKS, arguments=0)
def _rank(call: Call) -> Aggregate:
    return Aggregate(call.name, [], _RANKS[call.name])


@window_function("ntile", arguments=1)
def _ntile(call: Call) -> Aggregate:
    return Aggregate("ntile", [call.bigint(0)], BIGINT)


@window_function("first_value", "last_value", arguments=1)
def _end(call: Call) -> Aggregate:
    value = call.value(0)
    return Aggregate(call.name, [value.sql], value.type)


@window_function("nth_value", arguments=2)
def _nth_value(call: Call) -> Aggregate:
    value = call.value(0)
    return Aggregate("nth_value", [value.sql, call.bigint(1)], value.type)


@window_function("lag", "lead", arguments=(1, 3))
def _neighbour(call: Call) -> Aggregate:
    value = call.value(0)
    arguments = [
        value.sql,
        *([call.bigint(1)] if len(call) > 1 else []),
        *([call.of(2, value.type)] if len(call) > 2 else []),
    ]
    return Aggregate(call.name, arguments, value.type)
