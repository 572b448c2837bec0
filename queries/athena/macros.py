r"""DuckDB macros that answer as Trino's functions do where DuckDB has no such function, or one that answers otherwise.

They are plain SQL without extensions, so `MACROS` can be made in a connection before its configuration is
locked. A macro's argument is put into its body wherever the parameter stands; no macro therefore uses an argument
that may be a query of its own or random more often than it must.

`trino_raise` fails with Trino's own message. It is a failing cast, because DuckDB's `error` counts as volatile and
may not stand inside `TRY`; `raised_message` finds the message again in DuckDB's.
"""

from __future__ import annotations

import re
from typing import Final

from queries.athena.collection_macros import COLLECTIONS, JSON

_RAISED = re.compile(r"Could not convert string '([A-Z][A-Z_]*: .*)' to INT32", re.DOTALL)

# The white space of Trino's trim: Java's, without the three that do not break a line.
_SPACE: Final = "".join(
    map(chr, [9, 10, 11, 12, 13, 28, 29, 30, 31, 32, 0x1680, *range(0x2000, 0x2007), 0x2008, 0x2009, 0x200A])
) + "".join(map(chr, [0x2028, 0x2029, 0x205F, 0x3000]))

_URL: Final = r"^(?:([A-Za-z][A-Za-z0-9+.-]*):)?(?://([^/?#]*))?([^?#]*)(?:\?([^#]*))?(?:#(.*))?$"
_URL_INVALID: Final = r'[\x00-\x20<>"{}|\\^`\x7f]|%(?:[^0-9A-Fa-f]|[0-9A-Fa-f][^0-9A-Fa-f]|[0-9A-Fa-f]?$)'
_ESCAPE_INVALID: Final = r"%(?:[^0-9A-Fa-f]|[0-9A-Fa-f][^0-9A-Fa-f]|[0-9A-Fa-f]?$)"
_HOST: Final = (
    r"^(?:[^@]*@)?((?:[A-Za-z0-9](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.)*[A-Za-z](?:[A-Za-z0-9-]*[A-Za-z0-9])?\.?"
    r"|\d{1,3}(?:\.\d{1,3}){3}|\[[0-9A-Fa-f:.]+\])(?::(\d*))?$"
)
_TIMESTAMP: Final = (
    r"^\s*([+-]?\d{4,}-\d{1,2}-\d{1,2})(?: (?:((?:[01]?\d|2[0-3]):\d{1,2}(?::\d{1,2}(?:\.\d+)?)?))?\s*(\S.*?)?)?\s*$"
)
_ISO_8601: Final = (
    r"^(\d{4}(?:-\d{2}(?:-\d{2})?)?)"
    r"(?:T(?:((?:[01]\d|2[0-3])(?::\d{2}(?::\d{2}(?:[.,]\d+)?)?)?)(Z|[+-]\d{2}(?::?\d{2})?)?)?)?$"
)

_FRACTIONAL: Final = r"(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][+-]?[0-9]+)?"

_STRINGS: Final = {
    "trino_raise(message)": "[NULL][CAST(message AS INTEGER)]",
    # DuckDB's own function takes a constant separator only, and one that is NULL for the empty one.
    "trino_join(a, d)": """
        CASE WHEN d IS NOT NULL THEN substr(array_to_string(
            list_transform(list_filter(a, lambda e: e IS NOT NULL), lambda e: d || e), ''), length(d) + 1) END""",
    "trino_join_filled(a, d, filling)": """
        CASE WHEN filling IS NOT NULL THEN trino_join(list_transform(a, lambda e: coalesce(e, filling)), d) END""",
    "trino_trim(s)": f"trim(s, '{_SPACE}')",
    "trino_ltrim(s)": f"ltrim(s, '{_SPACE}')",
    "trino_rtrim(s)": f"rtrim(s, '{_SPACE}')",
    "trino_substr(s, start)": """
        CASE WHEN s IS NULL OR start IS NULL THEN NULL
             WHEN start = 0 OR -start > length(s) THEN '' ELSE substr(s, start) END""",
    "trino_substr_length(s, start, n)": """
        CASE WHEN s IS NULL OR start IS NULL OR n IS NULL THEN NULL
             WHEN start = 0 OR -start > length(s) OR n <= 0 THEN '' ELSE substr(s, start, n) END""",
    "trino_without_final_break(s)": r"""
        CASE WHEN ends_with(s, chr(10)) THEN trino_raise('NOT_SUPPORTED: $ or \Z in a regular expression over a text '
                 || 'that ends with a line break is not supported by this service: use \z')
             ELSE s END""",
    # DuckDB has a capital letter for it, which Java's upper case of one letter does not know.
    "trino_upper(s)": """
        CASE WHEN contains(s, 'ß')
             THEN array_to_string(list_transform(string_split(s, 'ß'), lambda p: upper(p)), 'ß') ELSE upper(s) END""",
    "trino_split(s, d)": """
        CASE WHEN d = '' THEN trino_raise('INVALID_FUNCTION_ARGUMENT: The delimiter may not be the empty string')
             WHEN d IS NOT NULL THEN string_split(s, d) END""",
    "trino_split_limit(s, d, n)": """
        CASE WHEN d = '' THEN trino_raise('INVALID_FUNCTION_ARGUMENT: The delimiter may not be the empty string')
             WHEN n <= 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Limit must be positive')
             WHEN s IS NULL OR d IS NULL OR n IS NULL THEN NULL
             WHEN len(string_split(s, d)) <= n THEN string_split(s, d)
             ELSE list_append(string_split(s, d)[1 : n - 1], trino_join(string_split(s, d)[n:], d)) END""",
    "trino_split_part(s, d, i)": """
        CASE WHEN i <= 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Index must be greater than zero')
             WHEN d IS NOT NULL THEN string_split(s, d)[i] END""",
    "trino_strpos_nth(s, sub, n)": """
        CASE WHEN n = 0 THEN trino_raise(
                 'INVALID_FUNCTION_ARGUMENT: ''instance'' must be a positive or negative number.')
             WHEN s IS NULL OR sub IS NULL OR n IS NULL THEN NULL
             WHEN sub = '' THEN 1
             ELSE coalesce(list_filter(generate_series(1, length(s)),
                                       lambda p: substr(s, p, length(sub)) = sub)[n], 0) END""",
    "trino_codepoint(s)": """
        CASE WHEN length(s) <> 1 THEN trino_raise(
                 'INVALID_FUNCTION_ARGUMENT: Input string must be a single character string') ELSE unicode(s) END""",
    "trino_lpad(s, n, p)": """
        CASE WHEN n < 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Target length must not be negative')
             WHEN p = '' THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Padding string must not be empty')
             ELSE lpad(s, CAST(n AS INTEGER), p) END""",
    "trino_rpad(s, n, p)": """
        CASE WHEN n < 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Target length must not be negative')
             WHEN p = '' THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Padding string must not be empty')
             ELSE rpad(s, CAST(n AS INTEGER), p) END""",
    "trino_characters(s)": "list_transform(generate_series(1, length(s)), lambda i: substr(s, i, 1))",
    "trino_replace(s, a, b)": """
        CASE WHEN a = '' AND s = '' THEN b
             WHEN a = '' THEN b || array_to_string(list_transform(trino_characters(s), lambda c: c || b), '')
             ELSE replace(s, a, b) END""",
    "trino_reverse(s)": """
        CASE WHEN strlen(s) = length(s) THEN reverse(s)
             ELSE array_to_string(list_reverse(trino_characters(s)), '') END""",
    "trino_split_to_map(s, e, k)": """
        CASE WHEN e IS NOT NULL AND k IS NOT NULL THEN map_from_entries(list_transform(
            list_filter(string_split(s, e), lambda p: p <> ''),
            lambda p: CASE WHEN strpos(p, k) = 0 OR len(string_split(p, k)) > 2
                THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Key-value delimiter must appear exactly once in each '
                                 || 'entry. Bad input: ''' || p || '''')
                ELSE {'key': string_split(p, k)[1], 'value': string_split(p, k)[2]} END)) END""",
    "trino_url_part(u, n)": f"""
        CASE WHEN NOT regexp_matches(u, '{_URL_INVALID}') THEN regexp_extract(u, '{_URL}', n) END""",
    "trino_url_host(u)": f"regexp_extract(trino_url_part(u, 2), '{_HOST}', 1)",
    "trino_url_port(u)": f"CAST(nullif(regexp_extract(trino_url_part(u, 2), '{_HOST}', 2), '') AS BIGINT)",
    "trino_url_decode(s)": f"""
        CASE WHEN regexp_matches(s, '{_ESCAPE_INVALID}')
             THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Illegal hex characters in escape (%) pattern')
             ELSE url_decode(replace(s, '+', ' ')) END""",
    "trino_url_parameter(u, name)": """
        CASE WHEN list_filter(string_split(trino_url_part(u, 4), '&'),
                              lambda p: split_part(p, '=', 1) = name)[1] IS NOT NULL
             THEN trino_url_decode(array_to_string(string_split(
                 list_filter(string_split(trino_url_part(u, 4), '&'),
                             lambda p: split_part(p, '=', 1) = name)[1], '=')[2:], '=')) END""",
    "trino_url_encode(s)": "replace(replace(replace(url_encode(s), '%20', '+'), '%2A', '*'), '~', '%7E')",
}

_NUMBERS: Final = {
    "trino_divide(a, b)": """
        a // CASE WHEN b = 0 AND a IS NOT NULL THEN trino_raise('DIVISION_BY_ZERO: Division by zero') ELSE b END""",
    "trino_modulo(a, b)": """
        a % CASE WHEN b = 0 AND a IS NOT NULL THEN trino_raise('DIVISION_BY_ZERO: Division by zero') ELSE b END""",
    # The quotient of two whole numbers, rounded half up: decimals are divided as whole numbers of their last digit.
    "trino_quotient(a, b)": """
        CASE WHEN b = 0 AND a IS NOT NULL THEN trino_raise('DIVISION_BY_ZERO: Division by zero')
             ELSE sign(a) * sign(b) * ((2 * abs(a) + abs(b)) // (2 * abs(b))) END""",
    "trino_sqrt(x)": "CASE WHEN x < 0 THEN CAST('NaN' AS DOUBLE) ELSE sqrt(x) END",
    "trino_cbrt(x)": "CASE WHEN pow(round(cbrt(x)), 3) = x THEN round(cbrt(x)) ELSE cbrt(x) END",
    "trino_ln(x)": """
        CASE WHEN x = 0 THEN CAST('-Infinity' AS DOUBLE) WHEN x < 0 THEN CAST('NaN' AS DOUBLE) ELSE ln(x) END""",
    "trino_log(x, base)": """
        CASE WHEN x = 0 THEN CAST('-Infinity' AS DOUBLE) WHEN x < 0 THEN CAST('NaN' AS DOUBLE)
             WHEN base = 2 THEN log2(x) WHEN base = 10 THEN log10(x) ELSE trino_ln(x) / trino_ln(base) END""",
    "trino_acos(x)": "CASE WHEN abs(x) > 1 THEN CAST('NaN' AS DOUBLE) ELSE acos(x) END",
    "trino_asin(x)": "CASE WHEN abs(x) > 1 THEN CAST('NaN' AS DOUBLE) ELSE asin(x) END",
    "trino_to_base(x, radix)": """
        CASE WHEN x < 0 THEN '-' ELSE '' END || lower(to_base(abs(x), CAST(radix AS INTEGER)))""",
    "trino_digit(c)": "strpos('0123456789abcdefghijklmnopqrstuvwxyz', lower(c)) - 1",
    "trino_from_base(s, radix)": """
        CASE WHEN s IS NULL OR radix IS NULL THEN NULL
             WHEN NOT regexp_full_match(s, '-?[0-9A-Za-z]+')
                  OR len(list_filter(trino_characters(ltrim(s, '-')), lambda c: trino_digit(c) >= radix)) > 0
             THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Not a valid base-' || radix || ' number: ' || s)
             ELSE CASE WHEN s[1] = '-' THEN -1 ELSE 1 END * list_reduce(
                 list_transform(trino_characters(ltrim(s, '-')), lambda c: CAST(trino_digit(c) AS BIGINT)),
                 lambda total, digit: total * radix + digit) END""",
    "trino_width_bucket_of(x, bins)": "CASE WHEN x IS NOT NULL THEN len(list_filter(bins, lambda b: b <= x)) END",
    "trino_width_bucket(x, low, high, n)": """
        CASE WHEN n <= 0 THEN trino_raise('INVALID_FUNCTION_ARGUMENT: bucketCount must be greater than 0')
             WHEN low = high THEN trino_raise('INVALID_FUNCTION_ARGUMENT: bounds cannot equal each other')
             WHEN (low < high AND x < low) OR (low > high AND x > low) THEN 0
             WHEN (low < high AND x >= high) OR (low > high AND x <= high) THEN n + 1
             ELSE CAST(floor(n * abs(x - low) / abs(high - low)) AS BIGINT) + 1 END""",
    "trino_right_shift_arithmetic(x, n)": "x >> CASE WHEN n > 63 THEN 63 ELSE n END",
    "trino_right_shift(x, n)": """
        CASE WHEN n >= 64 THEN 0 WHEN x >= 0 OR n = 0 THEN x >> n
             ELSE CAST((CAST(x AS HUGEINT) + 18446744073709551616) >> n AS BIGINT) END""",
    "trino_floor_mod(a, b)": "((a % b) + b) % b",
    # An integer keeps its low bits when it is shifted to the left; `modulus` is two to the power of its width.
    "trino_left_shift(x, n, modulus)": """
        CASE WHEN n >= 64 THEN 0 WHEN x IS NULL OR n IS NULL THEN NULL
             ELSE trino_floor_mod(CAST(x AS HUGEINT) * (CAST(1 AS HUGEINT) << n) + modulus // 2, modulus) - modulus // 2
             END""",
    "trino_random(n)": "CAST(floor(random() * n) AS BIGINT)",
    "trino_scientific_digits(d, e)": """
        substr(d, 1, 1) || '.' || coalesce(nullif(rtrim(substr(d, 2), '0'), ''), '0') || 'E' || e""",
    "trino_scientific(t)": """
        trino_scientific_digits(ltrim(replace(split_part(t, 'e', 1), '.', ''), '0'),
            length(split_part(split_part(t, 'e', 1), '.', 1))
            + coalesce(CAST(nullif(split_part(t, 'e', 2), '') AS INTEGER), 0)
            - (length(replace(split_part(t, 'e', 1), '.', ''))
               - length(ltrim(replace(split_part(t, 'e', 1), '.', ''), '0'))) - 1)""",
    "trino_double_text(x)": """
        CASE WHEN x IS NULL THEN NULL WHEN isnan(x) THEN 'NaN'
             WHEN isinf(x) THEN CASE WHEN x > 0 THEN 'Infinity' ELSE '-Infinity' END
             WHEN x = 0 THEN CASE WHEN signbit(x) THEN '-0E0' ELSE '0E0' END
             ELSE CASE WHEN x < 0 THEN '-' ELSE '' END || trino_scientific(CAST(abs(x) AS VARCHAR)) END""",
    "trino_java_double(x)": """
        CASE WHEN abs(x) >= 0.001 AND abs(x) < 10000000 THEN CAST(x AS VARCHAR)
             WHEN x = 0 THEN CASE WHEN signbit(x) THEN '-0.0' ELSE '0.0' END ELSE trino_double_text(x) END""",
    # Text as a number of Java's; NULL where Java refuses it.
    "trino_parse_integer(s)": r"nullif(regexp_extract(s, '^[\x00-\x20]*([+-]?[0-9]+)[\x00-\x20]*$', 1), '')",
    "trino_parse_decimal(s)": rf"nullif(regexp_extract(s, '^[\x00-\x20]*([+-]?{_FRACTIONAL})[\x00-\x20]*$', 1), '')",
    "trino_parse_double(s)": rf"""
        nullif(regexp_extract(s, '^[\x00-\x20]*([+-]?(?:NaN|Infinity|{_FRACTIONAL}))[fFdD]?[\x00-\x20]*$', 1), '')""",
    "trino_parse_boolean(s)": """
        CASE WHEN lower(s) IN ('t', 'true', '1') THEN true WHEN lower(s) IN ('f', 'false', '0') THEN false END""",
    "trino_checked(s, parsed, kind)": """
        CASE WHEN s IS NOT NULL AND parsed IS NULL
             THEN trino_raise('INVALID_CAST_ARGUMENT: Cannot cast ''' || s || ''' to ' || kind) ELSE parsed END""",
}

_TIMES: Final = {
    "trino_parse_date(s)": r"""
        CASE WHEN regexp_full_match(trino_trim(s), '[+-]?\d{4,}-\d{1,2}-\d{1,2}')
             THEN TRY_CAST(trino_trim(s) AS DATE) END""",
    "trino_parse_time(s)": r"""
        CASE WHEN regexp_full_match(s, '(?:[01]?\d|2[0-3]):\d{1,2}(?::\d{1,2}(?:\.\d{1,6})?)?')
             THEN TRY_CAST(CASE WHEN regexp_matches(s, ':.*:') THEN s ELSE s || ':00' END AS TIME) END""",
    "trino_clock(t)": """
        CASE WHEN t = '' THEN '00:00:00' WHEN length(t) - length(replace(t, ':', '')) = 0 THEN t || ':00:00'
             WHEN length(t) - length(replace(t, ':', '')) = 1 THEN t || ':00' ELSE replace(t, ',', '.') END""",
    "trino_local(s, pattern)": """
        TRY_CAST(regexp_extract(s, pattern, 1)
                 || repeat('-01', 2 - length(regexp_replace(substr(regexp_extract(s, pattern, 1), 2), '[^-]', '', 'g')))
                 || ' ' || trino_clock(regexp_extract(s, pattern, 2)) AS TIMESTAMP)""",
    "trino_instant(local, zone)": r"""
        CASE WHEN zone IN ('', 'Z', 'UTC') THEN timezone('UTC', local)
             WHEN regexp_full_match(zone, '[+-]\d{2}(?::?\d{2})?')
             THEN timezone('UTC', local - to_minutes(CASE WHEN zone[1] = '-' THEN -1 ELSE 1 END * (
                 CAST(substr(zone, 2, 2) AS BIGINT) * 60
                 + coalesce(CAST(nullif(replace(substr(zone, 4), ':', ''), '') AS BIGINT), 0))))
             ELSE timezone(zone, local) END""",
    "trino_parse_timestamp(s)": f"""
        CASE WHEN regexp_matches(s, '{_TIMESTAMP}') AND regexp_extract(s, '{_TIMESTAMP}', 3) = ''
             THEN trino_local(s, '{_TIMESTAMP}') END""",
    "trino_parse_timestamp_tz(s)": f"""
        CASE WHEN regexp_matches(s, '{_TIMESTAMP}')
             THEN trino_instant(trino_local(s, '{_TIMESTAMP}'), regexp_extract(s, '{_TIMESTAMP}', 3)) END""",
    "trino_from_iso8601_timestamp(s)": f"""
        CASE WHEN s IS NULL THEN NULL
             WHEN NOT regexp_matches(s, '{_ISO_8601}') OR trino_local(s, '{_ISO_8601}') IS NULL
             THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Invalid format: "' || s || '"')
             ELSE date_trunc('millisecond',
                             trino_instant(trino_local(s, '{_ISO_8601}'), regexp_extract(s, '{_ISO_8601}', 3))) END""",
    "trino_from_iso8601_date(s)": r"""
        CASE WHEN regexp_full_match(s, '\d{4}(?:-\d{2}(?:-\d{2})?)?')
             THEN CAST(s || repeat('-01', (10 - length(s)) // 3) AS DATE)
             WHEN regexp_full_match(s, '\d{4}-W\d{2}(?:-\d)?')
             THEN CAST(strptime(CASE WHEN length(s) = 8 THEN s || '-1' ELSE s END, '%G-W%V-%u') AS DATE)
             WHEN regexp_full_match(s, '\d{4}-\d{3}') THEN CAST(strptime(s, '%Y-%j') AS DATE)
             ELSE trino_raise('INVALID_FUNCTION_ARGUMENT: Invalid format: "' || s || '"') END""",
    # A moment rounded half up to so many microseconds.
    "trino_round_time(t, us)": """
        t + to_microseconds(us // 2) - to_microseconds(trino_floor_mod(epoch_us(t) + us // 2, us))""",
    "trino_whole_days(i)": """
        CASE WHEN epoch(i) % 86400 <> 0 THEN trino_raise(
                 'INVALID_FUNCTION_ARGUMENT: Cannot add hour, minutes or seconds to a date') ELSE i END""",
    "trino_offset_text(minutes)": """
        CASE WHEN minutes < 0 THEN '-' ELSE '+' END || lpad(CAST(abs(minutes) // 60 AS VARCHAR), 2, '0')
        || ':' || lpad(CAST(abs(minutes) % 60 AS VARCHAR), 2, '0')""",
    "trino_century_later(t)": "CASE WHEN year(t) < 1970 THEN t + to_years(100) ELSE t END",
    "trino_plural(n, word)": """
        CASE WHEN n > 0 THEN CAST(n AS VARCHAR) || ' ' || word || CASE WHEN n = 1 THEN '' ELSE 's' END END""",
    "trino_human_readable_seconds(x)": """
        CASE WHEN x IS NULL THEN NULL
             WHEN isnan(x) OR isinf(x) THEN trino_raise('INVALID_FUNCTION_ARGUMENT: Invalid argument found')
             ELSE coalesce(nullif(concat_ws(', ',
                trino_plural(trino_whole(x) // 604800, 'week'), trino_plural(trino_whole(x) % 604800 // 86400, 'day'),
                trino_plural(trino_whole(x) % 86400 // 3600, 'hour'),
                trino_plural(trino_whole(x) % 3600 // 60, 'minute'), trino_plural(trino_whole(x) % 60, 'second')), ''),
                '0 seconds') END""",
    "trino_whole(x)": "CAST(floor(abs(x)) AS BIGINT)",
}

_MACROS: Final = {**_STRINGS, **_NUMBERS, **_TIMES, **COLLECTIONS, **JSON}

MACROS: Final = {
    signature.split("(", 1)[0]: f"CREATE OR REPLACE TEMP MACRO {signature} AS ({body})"
    for signature, body in _MACROS.items()
}
"""The statement that makes each macro, by its name. They are run in this order, in the connection of the queries."""


def raised_message(duckdb_message: str) -> str | None:
    """The message of a `trino_raise` inside an error message of DuckDB's, or None if it is another error."""
    match = _RAISED.search(duckdb_message)
    return match[1].replace("''", "'") if match else None
