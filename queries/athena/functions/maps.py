"""Map functions, those with lambdas among them."""

from __future__ import annotations

from queries.athena.calls import Call, scalar
from queries.athena.casts import coerce, fresh_name
from queries.athena.scope import Value
from queries.athena.types import UNKNOWN, TrinoType, array, map_of


def _entry(call: Call, value: Value) -> tuple[str, list[Value]]:
    """A name for an entry of a map, and its key and value."""
    outer = [variable.sql for variable in call.scope.variables.values()]
    name = fresh_name(value.sql, *outer)
    key, item = value.type.parameters
    return name, [Value(f"{name}.key", key), Value(f"{name}.value", item)]


def _from_pairs(pairs: str, kind: TrinoType) -> Value:
    return Value(f"map_from_entries({pairs})", kind)


@scalar("map", arguments=(0, 2))
def _map(call: Call) -> Value:
    if len(call) == 0:
        return Value("map([], [])", map_of(UNKNOWN, UNKNOWN))
    keys, values = call.one_of(0, "array"), call.one_of(1, "array")
    return Value(f"map({keys.sql}, {values.sql})", map_of(keys.type.element, values.type.element))


@scalar("map_keys", "map_values", arguments=1)
def _side(call: Call) -> Value:
    value = call.one_of(0, "map")
    return Value(f"{call.name}({value.sql})", array(value.type.parameters[0 if call.name == "map_keys" else 1]))


@scalar("map_entries", arguments=1)
def _map_entries(call: Call) -> Value:
    value = call.one_of(0, "map")
    name, (key, item) = _entry(call, value)
    pair = call.compiler.row_of([key, item])
    return Value(f"list_transform(map_entries({value.sql}), lambda {name}: {pair.sql})", array(pair.type))


def _pairs_of_rows(call: Call) -> tuple[str, TrinoType, TrinoType]:
    value = call.one_of(0, "array")
    element = value.type.element
    if element.name != "row" or len(element.parameters) != 2:
        raise call.refusal()
    name = fresh_name(value.sql)
    key, item = (f"struct_extract({name}, '{element.field_name(i)}')" for i in range(2))
    pairs = f"list_transform({value.sql}, lambda {name}: {{'key': {key}, 'value': {item}}})"
    return pairs, *element.parameters


@scalar("map_from_entries", arguments=1)
def _map_from_entries(call: Call) -> Value:
    pairs, key, item = _pairs_of_rows(call)
    return _from_pairs(pairs, map_of(key, item))


@scalar("multimap_from_entries", arguments=1)
def _multimap_from_entries(call: Call) -> Value:
    pairs, key, item = _pairs_of_rows(call)
    ranked = f"trino_ranked({pairs})"
    return Value(f"trino_multimap_of_ranked({ranked}, trino_starts_of_ranked({ranked}))", map_of(key, array(item)))


@scalar("map_concat", arguments=(2, 127))
def _map_concat(call: Call) -> Value:
    values = [call.one_of(i, "map") for i in range(len(call))]
    kind = call.compiler.common([v.type for v in values])
    first, *rest = (coerce(v, kind).sql for v in values)
    for other in rest:
        first = f"trino_map_concat({first}, {other})"
    return Value(first, kind)


@scalar("map_filter", arguments=2)
def _map_filter(call: Call) -> Value:
    value = call.one_of(0, "map")
    name, pair = _entry(call, value)
    return _from_pairs(f"list_filter(map_entries({value.sql}), lambda {name}: {call.condition(1, pair)})", value.type)


@scalar("transform_keys", "transform_values", arguments=2)
def _transform(call: Call) -> Value:
    value = call.one_of(0, "map")
    name, (key, item) = _entry(call, value)
    body = call.apply(1, [key, item])
    new_key, new_item = (body, item) if call.name == "transform_keys" else (key, body)
    pair = f"{{'key': {new_key.sql}, 'value': {new_item.sql}}}"
    pairs = f"list_transform(map_entries({value.sql}), lambda {name}: {pair})"
    return _from_pairs(pairs, map_of(new_key.type, new_item.type))


@scalar("map_zip_with", arguments=3)
def _map_zip_with(call: Call) -> Value:
    first, second = call.one_of(0, "map"), call.one_of(1, "map")
    key = call.compiler.common([first.type.parameters[0], second.type.parameters[0]])
    maps = [coerce(v, map_of(key, v.type.parameters[1])) for v in (first, second)]
    outer = [variable.sql for variable in call.scope.variables.values()]
    name = fresh_name(*(m.sql for m in maps), *outer)
    values = [Value(f"{m.sql}[{name}]", m.type.parameters[1]) for m in maps]
    body = call.apply(2, [Value(name, key), *values])
    keys = f"trino_array_distinct(list_concat(map_keys({maps[0].sql}), map_keys({maps[1].sql})))"
    pairs = f"list_transform({keys}, lambda {name}: {{'key': {name}, 'value': {body.sql}}})"
    missing = " OR ".join(f"{m.sql} IS NULL" for m in maps)
    kind = map_of(key, body.type)
    return Value(f"CASE WHEN NOT ({missing}) THEN map_from_entries({pairs}) END", kind)
