"""The macros of `macros.MACROS` for arrays, maps and JSON."""

from __future__ import annotations

from typing import Final

COLLECTIONS: Final = {
    "trino_array_at(a, i)": """
        CASE WHEN i = 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: SQL array indices start at 1')
             WHEN i < 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Array subscript is negative: ' || i)
             WHEN i > len(a) THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Array subscript must be less than or equal '
                                              || 'to array length: ' || i || ' > ' || len(a))
             ELSE a[i] END""",
    "trino_element_at(a, i)": """
        CASE WHEN i = 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: SQL array indices start at 1') ELSE a[i] END""",
    "trino_map_at(m, k)": """
        CASE WHEN m IS NULL OR k IS NULL THEN NULL WHEN map_contains(m, k) THEN m[k]
             ELSE trino_raise('INVALID_FUNCTION_ARGUMENT: Key not present in map: ' || k) END""",
    "trino_has_null(a)": "len(a) <> list_count(a)",
    "trino_contains(a, x)": """
        CASE WHEN a IS NULL OR x IS NULL THEN NULL WHEN list_contains(a, x) THEN true
             WHEN trino_has_null(a) THEN NULL ELSE false END""",
    "trino_array_distinct(a)": "list_filter(a, lambda e, i: list_position(a, e) = i)",
    "trino_array_intersect(a, b)": """
        CASE WHEN a IS NOT NULL AND b IS NOT NULL
             THEN list_filter(trino_array_distinct(a), lambda e: list_position(b, e) IS NOT NULL) END""",
    "trino_array_except(a, b)": """
        CASE WHEN a IS NOT NULL AND b IS NOT NULL
             THEN list_filter(trino_array_distinct(a), lambda e: list_position(b, e) IS NULL) END""",
    "trino_array_concat(a, b)": "CASE WHEN a IS NOT NULL AND b IS NOT NULL THEN list_concat(a, b) END",
    "trino_array_extreme(a, extreme)": "CASE WHEN NOT trino_has_null(a) THEN extreme END",
    "trino_array_position(a, x)": """
        CASE WHEN a IS NULL OR x IS NULL THEN NULL ELSE coalesce(CAST(list_position(a, x) AS BIGINT), 0) END""",
    "trino_array_remove(a, x)": "CASE WHEN x IS NOT NULL THEN list_filter(a, lambda e: e IS NULL OR e <> x) END",
    "trino_arrays_overlap(a, b)": """
        CASE WHEN a IS NULL OR b IS NULL THEN NULL WHEN list_has_any(a, b) THEN true
             WHEN len(a) > 0 AND len(b) > 0 AND (trino_has_null(a) OR trino_has_null(b)) THEN NULL ELSE false END""",
    "trino_any_match(matches)": """
        CASE WHEN matches IS NULL THEN NULL WHEN list_contains(matches, true) THEN true
             WHEN trino_has_null(matches) THEN NULL ELSE false END""",
    "trino_array_equals(a, b)": """
        CASE WHEN a IS NULL OR b IS NULL THEN NULL WHEN len(a) <> len(b) THEN false
             ELSE trino_all_match(list_transform(a, lambda e, i: e = b[i])) END""",
    "trino_all_match(matches)": """
        CASE WHEN matches IS NULL THEN NULL WHEN list_contains(matches, false) THEN false
             WHEN trino_has_null(matches) THEN NULL ELSE true END""",
    "trino_sequence(a, b, step)": """
        CASE WHEN step = 0 OR (step > 0 AND b < a) OR (step < 0 AND b > a) THEN trino_raise(
                 'INVALID_FUNCTION_ARGUMENT: sequence stop value should be greater than or equal to start value if '
                 || 'step is greater than zero otherwise stop should be less than or equal to start')
             WHEN (b - a) // step >= 10000 THEN trino_raise(
                 'INVALID_FUNCTION_ARGUMENT: result of sequence function must not have more than 10000 entries')
             ELSE generate_series(a, b, step) END""",
    "trino_time_sequence(a, b, step)": """
        CASE WHEN (a + step > a AND b < a) OR (a + step < a AND b > a) OR a + step = a THEN trino_raise(
                 'INVALID_FUNCTION_ARGUMENT: sequence stop value should be greater than or equal to start value if '
                 || 'step is greater than zero otherwise stop should be less than or equal to start')
             ELSE generate_series(a, b, step) END""",
    "trino_slice(a, start, n)": """
        CASE WHEN start = 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: SQL array indices start at 1')
             WHEN n < 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: length must be greater than or equal to 0')
             WHEN start IS NULL OR n IS NULL THEN NULL
             WHEN n = 0 OR -start > len(a) THEN a[1:0]
             WHEN start < 0 THEN a[len(a) + start + 1 : len(a) + start + n] ELSE a[start : start + n - 1] END""",
    "trino_trim_array(a, n)": """
        CASE WHEN n < 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: size must not be negative: ' || n)
             WHEN n > len(a) THEN trino_raise('INVALID_FUNCTION_ARGUMENT: size must not exceed array cardinality '
                                              || len(a) || ': ' || n)
             ELSE a[1 : len(a) - n] END""",
    "trino_ngrams(a, n)": """
        CASE WHEN n <= 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: N must be positive')
             WHEN a IS NOT NULL AND n IS NOT NULL
             THEN list_transform(generate_series(1, greatest(len(a) - n + 1, 1)), lambda i: a[i : i + n - 1]) END""",
    "trino_flatten(a)": "flatten(list_filter(a, lambda e: e IS NOT NULL))",
    "trino_map_concat(a, b)": "CASE WHEN a IS NOT NULL AND b IS NOT NULL THEN map_concat(a, b) END",
    # Pairs sorted by key and place, from which the first of each key is kept.
    "trino_ranked(pairs)": """
        list_sort(list_transform(list_filter(pairs, lambda p: p.key IS NOT NULL),
                                 lambda p, i: {'key': p.key, 'place': i, 'value': p.value}))""",
    "trino_map_of_ranked(ranked)": """
        map_from_entries(list_transform(
            list_filter(ranked, lambda p, i: i = 1 OR ranked[i - 1].key <> p.key),
            lambda p: {'key': p.key, 'value': p.value}))""",
    "trino_starts_of_ranked(ranked)": """
        list_filter(generate_series(1, len(ranked)), lambda i: i = 1 OR ranked[i - 1].key <> ranked[i].key)""",
    "trino_multimap_of_ranked(ranked, starts)": """
        map_from_entries(list_transform(starts, lambda s, i: {'key': ranked[s].key, 'value': list_transform(
            ranked[s : CASE WHEN i = len(starts) THEN len(ranked) ELSE starts[i + 1] - 1 END], lambda p: p.value)}))""",
    "trino_most_frequent(counts, n)": """
        map_from_entries(list_transform(
            list_sort(list_transform(map_entries(counts),
                                     lambda e: {'n': -CAST(e.value AS BIGINT), 'key': e.key}))[1:n],
            lambda e: {'key': e.key, 'value': -e.n}))""",
}

JSON: Final = {
    "trino_json_extract(j, path)": "CASE WHEN json_valid(j) THEN json_extract(j, path) END",
    "trino_json_scalar(j, path)": """
        CASE WHEN json_valid(j) AND json_type(j, path) NOT IN ('OBJECT', 'ARRAY')
             THEN json_extract_string(j, path) END""",
    # Of a text, a number as it is written there, where one of its numbers only has that value.
    "trino_json_text_scalar(j, path)": r"""
        CASE WHEN NOT json_valid(j) OR json_type(j, path) IN ('OBJECT', 'ARRAY') THEN NULL
             WHEN json_type(j, path) = 'DOUBLE'
             THEN trino_only(list_distinct(list_filter(
                      regexp_extract_all(j, '-?[0-9]+(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?'),
                      lambda n: TRY_CAST(n AS DOUBLE) = TRY_CAST(json_extract_string(j, path) AS DOUBLE))),
                      json_extract_string(j, path))
             ELSE json_extract_string(j, path) END""",
    "trino_only(texts, otherwise)": "CASE WHEN len(texts) = 1 THEN texts[1] ELSE otherwise END",
    "trino_json_array_length(j)": """
        CASE WHEN json_valid(j) AND json_type(j) = 'ARRAY' THEN CAST(json_array_length(j) AS BIGINT) END""",
    "trino_json_size(j, path)": """
        CASE WHEN json_valid(j) THEN CASE json_type(j, path)
             WHEN 'ARRAY' THEN CAST(json_array_length(j, path) AS BIGINT)
             WHEN 'OBJECT' THEN CAST(len(json_keys(j, path)) AS BIGINT) ELSE 0 * length(json_type(j, path)) END END""",
    "trino_is_json_scalar(j)": """
        CASE WHEN j IS NULL THEN NULL WHEN NOT json_valid(j)
             THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Invalid JSON value: ' || j)
             ELSE json_type(j) NOT IN ('OBJECT', 'ARRAY') END""",
    "trino_json_array_contains(j, kinds, x)": """
        CASE WHEN json_valid(j) AND json_type(j) = 'ARRAY' AND x IS NOT NULL
             THEN len(list_filter(CAST(json_extract(j, '$[*]') AS JSON[]),
                                  lambda e: list_contains(kinds, json_type(e)) AND json_extract_string(e, '$') = x)) > 0
        END""",
    "trino_json_parse(s)": """
        CASE WHEN s IS NOT NULL AND NOT json_valid(s)
             THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Cannot convert value to JSON: ''' || s || '''')
             ELSE json(s) END""",
    "trino_json_text(j, kind)": """
        CASE WHEN json_type(j) IN ('OBJECT', 'ARRAY')
             THEN trino_raise('INVALID_CAST_ARGUMENT: Cannot cast JSON ' || lower(json_type(j)) || ' to ' || kind)
             ELSE json_extract_string(j, '$') END""",
    "trino_json_varchar(j)": """
        CASE WHEN json_type(j) = 'DOUBLE' AND regexp_matches(CAST(j AS VARCHAR), '[.eE]')
             THEN trino_double_text(CAST(json_extract_string(j, '$') AS DOUBLE))
             ELSE trino_json_text(j, 'varchar') END""",
    "trino_json_boolean(j)": """
        CASE WHEN json_type(j) IN ('DOUBLE', 'BIGINT', 'UBIGINT', 'HUGEINT')
             THEN CAST(CAST(json_extract_string(j, '$') AS DOUBLE) <> 0 AS VARCHAR)
             ELSE trino_json_text(j, 'boolean') END""",
    "trino_json_whole(j, kind)": """
        CASE json_type(j)
             WHEN 'DOUBLE' THEN CAST(CAST(round(CAST(json_extract_string(j, '$') AS DOUBLE)) AS HUGEINT) AS VARCHAR)
             WHEN 'BOOLEAN' THEN CASE json_extract_string(j, '$') WHEN 'true' THEN '1' ELSE '0' END
             ELSE trino_json_text(j, kind) END""",
    "trino_json_fractional(j, kind)": """
        CASE json_type(j) WHEN 'BOOLEAN' THEN CASE json_extract_string(j, '$') WHEN 'true' THEN '1' ELSE '0' END
             ELSE trino_json_text(j, kind) END""",
}
