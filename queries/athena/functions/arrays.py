"""Array functions, those with lambdas among them."""

from __future__ import annotations

from typing import Final

from queries.athena import casts
from queries.athena.calls import Call, scalar
from queries.athena.casts import coerce, convert, fresh_name
from queries.athena.errors import QueryError
from queries.athena.scope import Value
from queries.athena.types import BIGINT, BOOLEAN, DOUBLE, INTEGER, VARCHAR, TrinoType, array, duckdb_type, row

_SETS: Final = {"array_intersect": "trino_array_intersect({a}, {b})", "array_except": "trino_array_except({a}, {b})"}


def _two_arrays(call: Call) -> tuple[str, str, TrinoType]:
    first, second = call.one_of(0, "array", "unknown"), call.one_of(1, "array", "unknown")
    kind = call.compiler.common([first.type, second.type])
    return coerce(first, kind).sql, coerce(second, kind).sql, kind


def _array_and_element(call: Call) -> tuple[str, str, TrinoType]:
    items, item = call.one_of(0, "array"), call.value(1)
    element = call.compiler.common([items.type.element, item.type])
    return (
        convert(items.sql, items.type, array(element), strict=True),
        convert(item.sql, item.type, element, strict=True),
        element,
    )


def _variable(call: Call, *around: Value) -> str:
    """A lambda parameter's name, that of no lambda around this one."""
    outer: list[str] = []
    scope = call.scope
    while scope is not None:
        outer.extend(value.sql for value in scope.variables.values())
        if scope.parent is None:
            break
        scope = scope.parent
    return fresh_name(*(value.sql for value in around), *outer)


@scalar("cardinality", arguments=1)
def _cardinality(call: Call) -> Value:
    value = call.one_of(0, "array", "map")
    function = "len" if value.type.name == "array" else "cardinality"
    return Value(f"CAST({function}({value.sql}) AS BIGINT)", BIGINT)


@scalar("element_at", arguments=2)
def _element_at(call: Call) -> Value:
    value = call.one_of(0, "array", "map")
    if value.type.name == "map":
        key = call.of(1, value.type.parameters[0])
        return Value(f"{value.sql}[{key}]", value.type.parameters[1])
    return Value(f"trino_element_at({value.sql}, {call.bigint(1)})", value.type.element)


@scalar("array_first", "array_last", arguments=1)
def _end(call: Call) -> Value:
    value = call.one_of(0, "array")
    return Value(f"{value.sql}[{1 if call.name == 'array_first' else -1}]", value.type.element)


@scalar("contains", arguments=2)
def _contains(call: Call) -> Value:
    items, item, _ = _array_and_element(call)
    return Value(f"trino_contains({items}, {item})", BOOLEAN)


@scalar("array_position", arguments=2)
def _array_position(call: Call) -> Value:
    items, item, _ = _array_and_element(call)
    return Value(f"trino_array_position({items}, {item})", BIGINT)


@scalar("array_remove", arguments=2)
def _array_remove(call: Call) -> Value:
    items, item, element = _array_and_element(call)
    return Value(f"trino_array_remove({items}, {item})", array(element))


@scalar("array_distinct", arguments=1)
def _array_distinct(call: Call) -> Value:
    value = call.one_of(0, "array")
    return Value(f"trino_array_distinct({value.sql})", value.type)


@scalar(*_SETS, arguments=2)
def _set_operation(call: Call) -> Value:
    a, b, kind = _two_arrays(call)
    return Value(_SETS[call.name].format(a=a, b=b), kind)


@scalar("array_union", arguments=2)
def _array_union(call: Call) -> Value:
    a, b, kind = _two_arrays(call)
    return Value(f"trino_array_distinct(trino_array_concat({a}, {b}))", kind)


@scalar("arrays_overlap", arguments=2)
def _arrays_overlap(call: Call) -> Value:
    a, b, _ = _two_arrays(call)
    return Value(f"trino_arrays_overlap({a}, {b})", BOOLEAN)


@scalar("array_join", arguments=(2, 3))
def _array_join(call: Call) -> Value:
    value = call.one_of(0, "array")
    items = value.sql
    if value.type.element.name not in ("varchar", "unknown"):
        name = _variable(call, value)
        items = f"list_transform({items}, lambda {name}: {casts.text_of(name, value.type.element)})"
    if len(call) == 3:
        return Value(f"trino_join_filled({items}, {call.text(1)}, {call.text(2)})", VARCHAR)
    return Value(f"trino_join({items}, {call.text(1)})", VARCHAR)


@scalar("array_max", "array_min", arguments=1)
def _extreme(call: Call) -> Value:
    value = call.one_of(0, "array")
    function = "list_max" if call.name == "array_max" else "list_min"
    return Value(f"trino_array_extreme({value.sql}, {function}({value.sql}))", value.type.element)


@scalar("array_sort", arguments=(1, 2))
def _array_sort(call: Call) -> Value:
    value = call.one_of(0, "array")
    if len(call) == 1:
        return Value(f"list_sort({value.sql}, 'ASC', 'NULLS LAST')", value.type)
    # Any comparator can be honoured by counting, for each element, those that go before it.
    mine, other = _variable(call, value), _variable(call, value, Value(_variable(call, value), value.type))
    ranked = fresh_name(value.sql, mine, other)
    this, that = (Value(f"{value.sql}[{name}]", value.type.element) for name in (mine, other))
    less = f"({coerce(call.apply(1, [that, this]), INTEGER).sql} < 0)"
    more = f"({coerce(call.apply(1, [this, that]), INTEGER).sql} < 0)"
    places = f"generate_series(1, len({value.sql}))"
    # Where the comparator does not decide, or says both, the order stays as it was.
    before = (
        f"len(list_filter({places}, lambda {other}: CASE WHEN {less} = {more} THEN {other} < {mine} ELSE {less} END))"
    )
    pairs = f"list_sort(list_transform({places}, lambda {mine}: {{'before': {before}, 'place': {mine}}}))"
    return Value(f"list_transform({pairs}, lambda {ranked}: {value.sql}[{ranked}.place])", value.type)


@scalar("flatten", arguments=1)
def _flatten(call: Call) -> Value:
    value = call.one_of(0, "array")
    if value.type.element.name != "array":
        raise call.refusal()
    return Value(f"trino_flatten({value.sql})", value.type.element)


@scalar("repeat", arguments=2)
def _repeat(call: Call) -> Value:
    value = call.value(0)
    return Value(f"repeat([{value.sql}], {call.bigint(1)})", array(value.type))


@scalar("sequence", arguments=(2, 3))
def _sequence(call: Call) -> Value:
    first = call.value(0)
    if first.type.is_integer:
        start, stop = call.bigint(0), call.bigint(1)
        step = call.bigint(2) if len(call) == 3 else f"CASE WHEN {start} <= {stop} THEN 1 ELSE -1 END"
        return Value(f"trino_sequence({start}, {stop}, {step})", array(BIGINT))
    if first.type.name not in ("date", "timestamp"):
        raise call.refusal()
    stop = call.of(1, first.type)
    if len(call) == 3:
        step = call.one_of(2, "interval day to second", "interval year to month").sql
    elif first.type.name == "date":
        step = f"to_days(CASE WHEN {first.sql} <= {stop} THEN 1 ELSE -1 END)"
    else:
        raise call.refusal()
    start, stop = (f"CAST({sql} AS TIMESTAMP)" for sql in (first.sql, stop))
    series = f"trino_time_sequence({start}, {stop}, {step})"
    if first.type.name == "date":
        series = f"CAST({series} AS DATE[])"
    return Value(series, array(first.type))


@scalar("slice", arguments=3)
def _slice(call: Call) -> Value:
    value = call.one_of(0, "array")
    return Value(f"trino_slice({value.sql}, {call.bigint(1)}, {call.bigint(2)})", value.type)


@scalar("trim_array", arguments=2)
def _trim_array(call: Call) -> Value:
    value = call.one_of(0, "array")
    return Value(f"trino_trim_array({value.sql}, {call.bigint(1)})", value.type)


@scalar("ngrams", arguments=2)
def _ngrams(call: Call) -> Value:
    value = call.one_of(0, "array")
    return Value(f"trino_ngrams({value.sql}, {call.bigint(1)})", array(value.type))


@scalar("cosine_similarity", "dot_product", "euclidean_distance", arguments=2)
def _vectors(call: Call) -> Value:
    function = {
        "cosine_similarity": "list_cosine_similarity",
        "dot_product": "list_inner_product",
        "euclidean_distance": "list_distance",
    }[call.name]
    return Value(f"{function}({call.of(0, array(DOUBLE))}, {call.of(1, array(DOUBLE))})", DOUBLE)


# Lambdas.


@scalar("transform", arguments=2)
def _transform(call: Call) -> Value:
    value = call.one_of(0, "array")
    name = _variable(call, value)
    body = call.apply(1, [Value(name, value.type.element)])
    return Value(f"list_transform({value.sql}, lambda {name}: {body.sql})", array(body.type))


@scalar("filter", arguments=2)
def _filter(call: Call) -> Value:
    value = call.one_of(0, "array")
    name = _variable(call, value)
    condition = call.condition(1, [Value(name, value.type.element)])
    return Value(f"list_filter({value.sql}, lambda {name}: {condition})", value.type)


@scalar("any_match", "all_match", "none_match", arguments=2)
def _match(call: Call) -> Value:
    value = call.one_of(0, "array")
    name = _variable(call, value)
    condition = call.condition(1, [Value(name, value.type.element)])
    matches = f"list_transform({value.sql}, lambda {name}: {condition})"
    if call.name == "none_match":
        return Value(f"(NOT trino_any_match({matches}))", BOOLEAN)
    return Value(f"trino_{call.name}({matches})", BOOLEAN)


@scalar("reduce", arguments=4)
def _reduce(call: Call) -> Value:
    value, initial = call.one_of(0, "array"), call.value(1)
    state_name = _variable(call, value, initial)
    item_name = _variable(call, value, initial, Value(state_name, initial.type))
    state = _state_type(call, value, initial)
    # DuckDB wants states and elements of one type, so both travel as fields of one row.
    kind = row(("item", value.type.element), ("state", state))
    body = call.apply(2, [Value(f"{state_name}.state", state), Value(f"{item_name}.item", value.type.element)])
    step = convert(body.sql, body.type, state, strict=True)
    pair = "{{'item': {item}, 'state': {state}}}"
    nothing = f"CAST(NULL AS {duckdb_type(value.type.element)})"
    items = f"list_transform({value.sql}, lambda {item_name}: " + pair.format(
        item=convert(item_name, value.type.element, value.type.element, strict=True),
        state=f"CAST(NULL AS {duckdb_type(state)})",
    )
    first = pair.format(item=nothing, state=convert(initial.sql, initial.type, state, strict=True))
    folded = (
        f"list_reduce({items}), lambda {state_name}, {item_name}: {pair.format(item=nothing, state=step)}, "
        f"CAST({first} AS {duckdb_type(kind)})).state"
    )
    return call.apply(3, [Value(f"({folded})", state)])


def _state_type(call: Call, value: Value, initial: Value) -> TrinoType:
    """The type of a reduction's state: that of the initial value, which each step must give again."""
    state = initial.type
    probe = call.apply(2, [Value("s", state), Value("x", value.type.element)])
    if call.compiler.common([state, probe.type]) != state and state.name != "unknown":
        raise QueryError(
            "TYPE_MISMATCH", f"reduce: the state is {state}, but a step gives {probe.type}; cast the initial state"
        )
    return probe.type if state.name == "unknown" else state


@scalar("zip", arguments=(2, 5))
def _zip(call: Call) -> Value:
    values = [call.one_of(i, "array") for i in range(len(call))]
    name = _variable(call, *values)
    fields = [Value(f"{v.sql}[{name}]", v.type.element) for v in values]
    return _over_places(call, values, name, call.compiler.row_of(fields))


@scalar("zip_with", arguments=3)
def _zip_with(call: Call) -> Value:
    values = [call.one_of(0, "array"), call.one_of(1, "array")]
    name = _variable(call, *values)
    body = call.apply(2, [Value(f"{v.sql}[{name}]", v.type.element) for v in values])
    return _over_places(call, values, name, body)


def _over_places(call: Call, values: list[Value], name: str, body: Value) -> Value:
    if not values:
        raise call.refusal()
    sizes = ", ".join(f"len({v.sql})" for v in values)
    missing = " OR ".join(f"{v.sql} IS NULL" for v in values)
    places = f"generate_series(1, greatest({sizes}))"
    return Value(
        f"CASE WHEN NOT ({missing}) THEN list_transform({places}, lambda {name}: {body.sql}) END", array(body.type)
    )


@scalar("row", arguments=(1, 255))
def _row(call: Call) -> Value:
    return call.compiler.row_of(call.values())
