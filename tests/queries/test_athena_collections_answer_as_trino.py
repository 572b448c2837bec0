"""Arrays, maps, rows, lambdas and JSON have the values that Trino gives them."""

from __future__ import annotations

import pytest

from tests.queries.athena_answers import error_of, value

JSON = [
    ("json_extract('{\"a\":{\"b\":[1, 2]}}', '$.a')", '{"b":[1,2]}'),
    ("json_extract_scalar('{\"a\":{\"b\":[1,2]}}', '$.a')", None),
    ("json_extract_scalar('{\"a\":\"x\"}', '$.a')", "x"),
    ("json_extract_scalar('{\"a\":1.10,\"b\":[2.50]}', '$.a')", "1.10"),
    ("json_extract_scalar('{\"a\":1e2}', '$.a')", "1e2"),
    ("json_extract_scalar(json_parse('{\"a\":1.10}'), '$.a')", "1.1"),
    ("json_extract_scalar('{\"a\":null}', '$.a')", None),
    ("json_extract('{\"a\":null}', '$.a')", "null"),
    ("json_extract_scalar('nope', '$.a')", None),
    ("json_extract_scalar('{\"a\":true}', '$[\"a\"]')", "true"),
    ("json_extract_scalar('[1, 2, 3]', '$[2]')", "3"),
    ("json_extract('{\"a b\":1}', '$[\"a b\"]')", "1"),
    ("json_extract('{\"a\":1}', '$.z')", None),
    ("json_extract_scalar('{\"a\":12345678901234567890}', '$.a')", "12345678901234567890"),
    ("json_parse('[1, 2, 3]')", "[1,2,3]"),
    ('json_format(json_parse(\'{"a": 1, "b": 2}\'))', '{"a":1,"b":2}'),
    ("json_format(json '\"a\"')", '"a"'),
    ("cast(json '\"abc\"' as varchar)", "abc"),
    ("cast(json '42' as varchar)", "42"),
    ("cast(json 'null' as varchar)", None),
    ("cast('[1]' as json)", '"[1]"'),
    ("cast(1.234 as json)", "1.234"),
    ("cast(array[1, null, 456] as json)", "[1,null,456]"),
    ("cast(map(array['k1', 'k2'], array[1, 23]) as json)", '{"k1":1,"k2":23}'),
    (
        "cast(cast(row(123, 'abc', true) as row(v1 bigint, v2 varchar, v3 boolean)) as json)",
        '{"v1":123,"v2":"abc","v3":true}',
    ),
    ("cast(json '1' as integer)", "1"),
    ("cast(json '9223372036854775807' as bigint)", "9223372036854775807"),
    ("cast(json 'true' as boolean)", "true"),
    ("cast(json '1.234' as double)", "1.234"),
    ("cast(json '[1,23,456]' as array(integer))", "[1, 23, 456]"),
    ("cast(json '[1,null,456]' as array(integer))", "[1, null, 456]"),
    ("cast(json '[[1,23],[456]]' as array(array(integer)))", "[[1, 23], [456]]"),
    ('cast(json \'{"k1":1,"k2":23}\' as map(varchar, integer))', "{k1=1, k2=23}"),
    (
        'cast(json \'{"v1":123,"v2":"abc","v3":true}\' as row(v1 bigint, v2 varchar, v3 boolean))',
        "{v1=123, v2=abc, v3=true}",
    ),
    ("cast(json '[123,\"abc\",true]' as row(v1 bigint, v2 varchar, v3 boolean))", "{v1=123, v2=abc, v3=true}"),
    ("cast(json '[[1, 23], 456]' as array(json))", "[[1,23], 456]"),
    ('cast(json \'{"k1": [1, 23], "k2": 456}\' as map(varchar, json))', "{k1=[1,23], k2=456}"),
    ("cast(json 'null' as array(integer))", None),
    ("cast(json '2.7' as integer)", "3"),
    ("json_array_length('[1, 2, 3]')", "3"),
    ("json_array_length('{}')", None),
    ("json_array_contains('[1, 2, 3]', 2)", "true"),
    ("json_array_contains('[\"a\"]', 'a')", "true"),
    ("json_array_contains('[\"1\"]', 1)", "false"),
    ('json_size(\'{"x": {"a": 1, "b": 2}}\', \'$.x\')', "2"),
    ("json_size('{\"x\": [1, 2, 3]}', '$.x')", "3"),
    ('json_size(\'{"x": {"a": 1, "b": 2}}\', \'$.x.a\')', "0"),
    ("is_json_scalar('1')", "true"),
    ("is_json_scalar('[1, 2, 3]')", "false"),
    ("json_value('{\"a\":\"x\"}', 'lax $.a')", "x"),
    ("json_value('{\"a\":5}', 'lax $.a' returning bigint)", "5"),
    ("json_query('{\"a\":[1,2]}', 'lax $.a')", "[1,2]"),
    ("json_exists('{\"a\":1}', 'lax $.a')", "true"),
    ("json_exists('{\"a\":1}', 'lax $.b')", "false"),
]

LAMBDAS = [
    ("array_sort(array[3, 2, 5, 1, 2], (x, y) -> if(x < y, 1, if(x = y, 0, -1)))", "[5, 3, 2, 2, 1]"),
    ("array_sort(array['bc', 'ab', 'dc'], (x, y) -> if(x < y, 1, if(x = y, 0, -1)))", "[dc, bc, ab]"),
    (
        (
            "array_sort(array[3, 2, null, 5, null, 1, 2], (x, "
            "y) -> case when x is null then -1 when y is null then 1 when x < y then 1 when x = y then 0 else -1 end)"
        ),
        "[null, null, 5, 3, 2, 2, 1]",
    ),
    (
        (
            "array_sort(array[3, 2, null, 5, null, 1, 2], (x, "
            "y) -> case when x is null then 1 when y is null then -1 when x < y then 1 when x = y then 0 else -1 end)"
        ),
        "[5, 3, 2, 2, 1, null, null]",
    ),
    (
        (
            "array_sort(array['a', 'abcd', 'abc'], (x, y) -> if(length(x) < length(y), -1, "
            "if(length(x) = length(y), 0, 1)))"
        ),
        "[a, abc, abcd]",
    ),
    (
        (
            "array_sort(array[array[2, 3, 1], array[4, 2, 1, 4], array[1, 2]], (x, "
            "y) -> if(cardinality(x) < cardinality(y), -1, if(cardinality(x) = cardinality(y), 0, 1)))"
        ),
        "[[1, 2], [2, 3, 1], [4, 2, 1, 4]]",
    ),
    ("filter(array[5, -6, null, 7], x -> x > 0)", "[5, 7]"),
    ("filter(array[5, null, 7, null], x -> x is not null)", "[5, 7]"),
    ("filter(array[], x -> true)", "[]"),
    ("transform(array[5, 6], x -> x + 1)", "[6, 7]"),
    ("transform(array[], x -> x + 1)", "[]"),
    ("transform(array[5, null, 6], x -> coalesce(x, 0) + 1)", "[6, 1, 7]"),
    ("transform(array['x', 'abc', 'z'], x -> x || '0')", "[x0, abc0, z0]"),
    ("transform(array[array[1, null, 2], array[3, null]], a -> filter(a, x -> x is not null))", "[[1, 2], [3]]"),
    ("transform(array[1,2], x -> x/2)", "[0, 1]"),
    ("transform(array[1,2], x -> transform(array[10,20], y -> x + y))", "[[11, 21], [12, 22]]"),
    ("any_match(array[1,2], x -> x > 1)", "true"),
    ("any_match(array[1,null], x -> x > 1)", None),
    ("any_match(array[], x -> true)", "false"),
    ("all_match(array[1,2], x -> x > 0)", "true"),
    ("all_match(array[1,null], x -> x > 0)", None),
    ("none_match(array[1,2], x -> x > 5)", "true"),
    ("all_match(array[], x -> false)", "true"),
    ("reduce(array[], 0, (s, x) -> s + x, s -> s)", "0"),
    ("reduce(array[5, 20, 50], 0, (s, x) -> s + x, s -> s)", "75"),
    ("reduce(array[5, 20, null, 50], 0, (s, x) -> s + x, s -> s)", None),
    ("reduce(array[5, 20, null, 50], 0, (s, x) -> s + coalesce(x, 0), s -> s)", "75"),
    ("reduce(array[5, 20, null, 50], 0, (s, x) -> if(x is null, s, s + x), s -> s)", "75"),
    ("reduce(array[2147483647, 1], bigint '0', (s, x) -> s + x, s -> s)", "2147483648"),
    ("reduce(array['a','b'], bigint '0', (s,x) -> s + length(x), s -> s)", "2"),
    (
        (
            "reduce(array[5, 6, 10, 20], cast(row(0.0, 0) as row(sum double, count integer)), (s, "
            "x) -> cast(row(x + s.sum, s.count + 1) as row(sum double, count integer)), "
            "s -> if(s.count = 0, null, s.sum / s.count))"
        ),
        "10.25",
    ),
    (
        "zip_with(array[1, 3, 5], array['a', 'b', 'c'], (x, y) -> (y, x))",
        "[{field0=a, field1=1}, {field0=b, field1=3}, {field0=c, field1=5}]",
    ),
    ("zip_with(array[1, 2], array[3, 4], (x, y) -> x + y)", "[4, 6]"),
    ("zip_with(array['a'], array['d', null, 'f'], (x, y) -> coalesce(x, y))", "[a, null, f]"),
    ("map_filter(map(array[10, 20, 30], array['a', null, 'c']), (k, v) -> v is not null)", "{10=a, 30=c}"),
    ("map_filter(map(array['k1', 'k2', 'k3'], array[20, 3, 15]), (k, v) -> v > 10)", "{k1=20, k3=15}"),
    ("transform_keys(map(array[1, 2, 3], array['a', 'b', 'c']), (k, v) -> k + 1)", "{2=a, 3=b, 4=c}"),
    ("transform_values(map(array['a', 'b'], array[1, 2]), (k, v) -> k || cast(v as varchar))", "{a=a1, b=b2}"),
    (
        "transform_keys(map(array[1, 2], array[1.0, 1.4]), (k, v) -> map(array[1, 2], array['one', 'two'])[k])",
        "{one=1.0, two=1.4}",
    ),
    (
        (
            "map_zip_with(map(array[1, 2, 3], array['a', 'b', 'c']), map(array[1, 2, 3], array['d', 'e', "
            "'f']), (k, v1, v2) -> concat(v1, v2))"
        ),
        "{1=ad, 2=be, 3=cf}",
    ),
    (
        (
            "map_zip_with(map(array['k1', 'k2'], array[1, 2]), map(array['k2', 'k3'], array[4, 9]), (k, v1, "
            "v2) -> (v1, v2))"
        ),
        "{k1={field0=1, field1=null}, k2={field0=2, field1=4}, k3={field0=null, field1=9}}",
    ),
    (
        (
            "map_zip_with(map(array['a', 'b', 'c'], array[1, 8, 27]), map(array['a', 'b', 'c'], array[1, 2, "
            "3]), (k, v1, v2) -> k || cast(v1 / v2 as varchar))"
        ),
        "{a=a1, b=b4, c=c9}",
    ),
]

MAPS = [
    ("element_at(map(array['a'],array[1]), 'b')", None),
    ("map(array['a'],array[1])['a']", "1"),
    ("cardinality(map(array['a'],array[1]))", "1"),
    ("map(array['key1','key2'], array[2373, 3463])", "{key1=2373, key2=3463}"),
    ("map()", "{}"),
    ("map(array['k1','k2'], array['v1', null])", "{k1=v1, k2=null}"),
    ("map_from_entries(array[(1, 'x'), (2, 'y')])", "{1=x, 2=y}"),
    ("multimap_from_entries(array[(1, 'x'), (2, 'y'), (1, 'z')])", "{1=[x, z], 2=[y]}"),
    ("map_entries(map(array[1, 2], array['x', 'y']))", "[{field0=1, field1=x}, {field0=2, field1=y}]"),
    ("map_concat(map(array['a'],array[1]), map(array['a','b'],array[2,3]))", "{a=2, b=3}"),
    ("map_keys(map(array[1],array[2]))", "[1]"),
    ("map_values(map(array[1],array[2]))", "[2]"),
    ("cast(map(array['a'],array[1]) as map(varchar, double))", "{a=1.0}"),
]

ROWS = [
    ("row(1, 'a')", "{field0=1, field1=a}"),
    ("cast(row(1, 'a') as row(x bigint, y varchar))", "{x=1, y=a}"),
    ("cast(row(1, 'a') as row(x bigint, y varchar)).y", "a"),
    ("row(1,2)[2]", "2"),
    ("cast(array[row(1,'a')] as array(row(x bigint, y varchar)))", "[{x=1, y=a}]"),
    ("cast(null as row(x integer))", None),
]

ARRAYS = [
    ("array[1,2,4]", "[1, 2, 4]"),
    ("array['foo','bar']", "[foo, bar]"),
    ("array[1, 1.2, 4]", "[1.0, 1.2, 4.0]"),
    ("array[1,2,null,-4,null]", "[1, 2, null, -4, null]"),
    ("array[]", "[]"),
    ("array[1, 1.2, 4][2]", "1.2"),
    ("array[array[1],array[2,3]]", "[[1], [2, 3]]"),
    ("element_at(array[1,2], 5)", None),
    ("element_at(array[1,2], -1)", "2"),
    ("cardinality(array[1,2])", "2"),
    ("cardinality(cast(null as array(integer)))", None),
    ("contains(array[1,2,null], 1)", "true"),
    ("contains(array[1,2,null], 3)", None),
    ("contains(array[1,2], 3)", "false"),
    ("contains(array[1], null)", None),
    ("array_position(array[1,2,1], 1)", "1"),
    ("array_position(array[1], 5)", "0"),
    ("array_remove(array[1,2,null,1], 1)", "[2, null]"),
    ("array_distinct(array[3,1,null,1,null,3])", "[3, 1, null]"),
    ("array_intersect(array[1,2,2,null], array[2,null,5])", "[2, null]"),
    ("array_union(array[1,2,null], array[2,3,null])", "[1, 2, null, 3]"),
    ("array_except(array[1,2,2,null,4], array[2])", "[1, null, 4]"),
    ("arrays_overlap(array[1,2], array[2])", "true"),
    ("arrays_overlap(array[1,null], array[2])", None),
    ("arrays_overlap(array[1], array[2])", "false"),
    ("array_join(array[1,null,2], ',')", "1,2"),
    ("array_join(array['a',null], '-', 'x')", "a-x"),
    ("array_max(array[1,3,2])", "3"),
    ("array_max(array[1,null])", None),
    ("array_min(array['b','a'])", "a"),
    ("array_join(array[1.5e0], ',')", "1.5E0"),
    ("array_sort(array[3,null,1])", "[1, 3, null]"),
    ("flatten(array[array[1], null, array[2, null]])", "[1, 2, null]"),
    ("repeat('a', 3)", "[a, a, a]"),
    ("repeat(1, 2)", "[1, 1]"),
    ("sequence(1, 5)", "[1, 2, 3, 4, 5]"),
    ("sequence(5, 1)", "[5, 4, 3, 2, 1]"),
    ("sequence(1, 10, 3)", "[1, 4, 7, 10]"),
    ("sequence(date '2020-01-01', date '2020-01-03')", "[2020-01-01, 2020-01-02, 2020-01-03]"),
    ("sequence(date '2020-01-01', date '2020-03-01', interval '1' month)", "[2020-01-01, 2020-02-01, 2020-03-01]"),
    ("slice(array[1,2,3,4], 2, 2)", "[2, 3]"),
    ("slice(array[1,2,3,4], -2, 2)", "[3, 4]"),
    ("trim_array(array[1,2,3,4], 1)", "[1, 2, 3]"),
    ("ngrams(array['foo','bar','baz','foo'], 2)", "[[foo, bar], [bar, baz], [baz, foo]]"),
    ("ngrams(array[1,2], 5)", "[[1, 2]]"),
    (
        "zip(array[1, 2], array['1b', null, '3b'])",
        "[{field0=1, field1=1b}, {field0=2, field1=null}, {field0=null, field1=3b}]",
    ),
    ("array_first(array[1,2])", "1"),
    ("array_last(array[1,2])", "2"),
    ("cast(array[1,2] as array(varchar))", "[1, 2]"),
    ("cosine_similarity(array[1.0, 2.0], array[3.0, 4.0])", "0.9838699100999074"),
    ("dot_product(array[1.0,2.0], array[3.0,4.0])", "11.0"),
    ("euclidean_distance(array[1.0,2.0], array[3.0,4.0])", "2.8284271247461903"),
]

FAILURES = [
    ("array[1,2][3]", "INVALID_FUNCTION_ARGUMENT", "Array subscript must be less than or equal to array length: 3 > 2"),
    ("array[1,2][0]", "INVALID_FUNCTION_ARGUMENT", "SQL array indices start at 1"),
    ("map(array['a'],array[1])['b']", "INVALID_FUNCTION_ARGUMENT", "Key not present in map: b"),
    ("element_at(array[1,2], 0)", "INVALID_FUNCTION_ARGUMENT", "SQL array indices start at 1"),
    (
        "reduce(array['a','b'], 0, (s,x) -> s + length(x), s -> s)",
        "TYPE_MISMATCH",
        "reduce: the state is integer, but a step gives bigint; cast the initial state",
    ),
    (
        "sequence(1, 10, -1)",
        "INVALID_FUNCTION_ARGUMENT",
        (
            "sequence stop value should be greater than or equal to start value if step is greater than "
            "zero otherwise stop should be less than or equal to start"
        ),
    ),
    (
        "sequence(1, 100000)",
        "INVALID_FUNCTION_ARGUMENT",
        "result of sequence function must not have more than 10000 entries",
    ),
    ("map(array['a','a'], array[1,2])", "INVALID_FUNCTION_ARGUMENT", "Map keys must be unique."),
    ("cast(json '[1, 2]' as varchar)", "INVALID_CAST_ARGUMENT", "Cannot cast JSON array to varchar"),
    ("json_parse('not_json')", "INVALID_FUNCTION_ARGUMENT", "Cannot convert value to JSON: 'not_json'"),
]


@pytest.mark.parametrize(("expression", "expected"), [*JSON, *LAMBDAS, *MAPS, *ROWS, *ARRAYS])
def test_an_expression_has_trinos_value(expression: str, expected: str | None) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(("expression", "code", "message"), FAILURES)
def test_an_expression_fails_with_trinos_error(expression: str, code: str, message: str) -> None:
    error = error_of(f"SELECT {expression}")
    assert error.code == code
    assert message in error.message


# A call with one argument that is NULL is NULL.
NULL_CALLS = [
    "element_at(cast(null as array(integer)), 1)",
    "contains(cast(null as array(integer)), 1)",
    "array_position(cast(null as array(integer)), 1)",
    "array_sort(cast(null as array(integer)))",
    "array_distinct(cast(null as array(integer)))",
    "array_intersect(array[1], cast(null as array(integer)))",
    "array_join(cast(null as array(integer)), ',')",
    "array_max(cast(null as array(integer)))",
    "filter(cast(null as array(integer)), x -> x > 1)",
    "transform(cast(null as array(integer)), x -> x + 1)",
    "any_match(cast(null as array(integer)), x -> x > 1)",
    "slice(cast(null as array(integer)), 1, 1)",
    "flatten(cast(null as array(array(integer))))",
    "reverse(cast(null as array(integer)))",
    "map_keys(cast(null as map(varchar, integer)))",
    "map_concat(map(array['a'], array[1]), cast(null as map(varchar, integer)))",
    "map_filter(cast(null as map(varchar, integer)), (k, v) -> true)",
    "array_join(array[1, 2], cast(null as varchar))",
    "array_join(array[1, 2], ',', cast(null as varchar))",
    "ngrams(cast(null as array(varchar)), 2)",
    "ngrams(array[1], cast(null as integer))",
    "json_extract_scalar(cast(null as varchar), '$.a')",
    "json_parse(cast(null as varchar))",
    "json_format(cast(null as json))",
    "json_array_length(cast(null as varchar))",
    "json_array_contains(cast(null as varchar), 1)",
    "json_size(cast(null as varchar), '$')",
    "cast(cast(null as json) as array(integer))",
]


@pytest.mark.parametrize("expression", NULL_CALLS)
def test_null_in_is_null_out(expression: str) -> None:
    assert value(expression) is None
