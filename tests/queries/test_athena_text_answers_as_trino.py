"""Functions of texts, patterns and URLs have the values that Trino's documentation and code give them."""

from __future__ import annotations

import pytest

from tests.queries.athena_answers import error_of, value

FORMATS = [
    ("format('%s%%', 123)", "123%"),
    ("format('%.5f', pi())", "3.14159"),
    ("format('%03d', 8)", "008"),
    ("format('%,.2f', 1234567.89)", "1,234,567.89"),
    ("format('%-7s,%7s', 'hello', 'world')", "hello  ,  world"),
    ("format('%2$s %3$s %1$s', 'a', 'b', 'c')", "b c a"),
    ("format('%1$tA, %1$tB %1$te, %1$tY', date '2006-07-04')", "Tuesday, July 4, 2006"),
    ("format('%s-%s', 'a', 5)", "a-5"),
    ("format('%d', -5)", "-5"),
    ("format('%05d', -42)", "-0042"),
    ("format('%x', 255)", "ff"),
    ("format('%.2f', 1.005e0)", "1.01"),
    ("format('%s', 1.5e10)", "1.5E10"),
    ("format('%s', null)", "null"),
    ("format('%b', true)", "true"),
    ("format('%,d', 1234567)", "1,234,567"),
    ("format('%8.2f|', 3.14159)", "    3.14|"),
]

REGULAR_EXPRESSIONS = [
    ("regexp_like('1a 2b 14m', '\\d+b')", "true"),
    ("regexp_extract('1a 2b 14m', '\\d+')", "1"),
    ("regexp_extract('1a 2b 14m', '(\\d+)([a-z]+)', 2)", "a"),
    ("regexp_extract('abc', 'z')", None),
    ("regexp_extract('abc', '(z)?b', 1)", None),
    ("regexp_extract_all('1a 2b 14m', '\\d+')", "[1, 2, 14]"),
    ("regexp_extract_all('1a 2b 14m', '(\\d+)([a-z]+)', 2)", "[a, b, m]"),
    ("regexp_replace('1a 2b 14m', '\\d+[ab] ')", "14m"),
    ("regexp_replace('1a 2b 14m', '(\\d+)([ab]) ', '3c$2 ')", "3ca 3cb 14m"),
    ("regexp_split('1a 2b 14m', '\\s*[a-z]+\\s*')", "[1, 2, 14, ]"),
    ("regexp_count('1a 2b 14m', '\\s*[a-z]+\\s*')", "3"),
    ("regexp_position('I have 23 apples, 5 pears and 13 oranges', '\\b\\d+\\b')", "8"),
    ("regexp_replace('ab', '(?<x>a)', '${x}-')", "a-b"),
    ("regexp_like('a' || chr(10), 'a$')", "true"),
    ("regexp_like(chr(11), '\\s')", "true"),
    ("regexp_like('a.b', '\\Qa.b\\E')", "true"),
    ("regexp_extract('xa', 'a$')", "a"),
    ("regexp_replace('xa', 'a$', 'b')", "xb"),
    ("regexp_extract('ab' || chr(10), '(a)b$', 1)", "a"),
    ("regexp_position('xa' || chr(10), 'a$')", "2"),
    ("regexp_like(chr(11), '\\S')", "false"),
    ("regexp_like(chr(11), '[\\S]')", "false"),
    ("regexp_like('é', '[\\S]')", "true"),
    ("regexp_split('a' || chr(13) || chr(10) || 'b', '\\R')", "[a, b]"),
]

URLS = [
    ("url_extract_host('https://user@www.example.com:8080/p%20q/x?a=1&b=c%20d#frag')", "www.example.com"),
    ("url_extract_port('https://www.example.com:8080/p')", "8080"),
    ("url_extract_path('https://www.example.com:8080/p%20q/x?a=1')", "/p q/x"),
    ("url_extract_parameter('https://x.com/?a=1&b=c%20d+e', 'b')", "c d e"),
    ("url_extract_query('https://x.com/?a=1')", "a=1"),
    ("url_extract_protocol('http://localhost:8080/req_path')", "http"),
    ("url_extract_fragment('http://x/#f')", "f"),
    ("url_extract_host('not a url')", None),
    ("url_extract_host('foo')", ""),
    ("url_extract_parameter('http://x/?a=1','z')", None),
    ("url_extract_query('http://x/')", ""),
    ("url_encode('a b*~/é')", "a+b*%7E%2F%C3%A9"),
    ("url_decode('a%20b+c')", "a b c"),
]

BYTES = [
    ("to_base64url(x'fbff')", "-_8="),
    ("from_base64url('-_8=')", "fb ff"),
    ("to_hex(to_utf8('abc'))", "616263"),
    ("from_hex('616263')", "61 62 63"),
    ("to_base64(to_utf8('abc'))", "YWJj"),
    ("from_utf8(from_base64('YWJj'))", "abc"),
    ("to_hex(md5(to_utf8('a')))", "0CC175B9C0F1B6A831C399E269772661"),
    ("x'6162'", "61 62"),
    (
        "sha256(to_utf8(''))",
        "e3 b0 c4 42 98 fc 1c 14 9a fb f4 c8 99 6f b9 24 27 ae 41 e4 64 9b 93 4c a4 95 99 1b 78 52 b8 55",
    ),
    ("sha1(to_utf8('abc'))", "a9 99 3e 36 47 06 81 6a ba 3e 25 71 78 50 c2 6c 9c d0 d8 9d"),
]

STRINGS = [
    ("rtrim('a ') || '|'", "a|"),
    ("concat('a', null)", None),
    ("'a' || 'b'", "ab"),
    ("'x' || null", None),
    ("array[1] || array[2]", "[1, 2]"),
    ("array[1] || 2", "[1, 2]"),
    ("2 || array[1]", "[2, 1]"),
    ("substr('hello', -3)", "llo"),
    ("substr('hello', 0, 2)", ""),
    ("substr('abc', -5)", ""),
    ("substr('abc', 2)", "bc"),
    ("substring('hello' from 2 for 3)", "ell"),
    ("substr('abc', 2, -1)", ""),
    ("lpad('hello', 3, 'x')", "hel"),
    ("lpad('hi', 5, 'xy')", "xyxhi"),
    ("rpad('hi', 5, 'xy')", "hixyx"),
    ("trim('  a ')", "a"),
    ("trim(both '$' from '$var$')", "var"),
    ("trim(trailing 'ER' from upper('worker'))", "WORK"),
    ("ltrim(' a')", "a"),
    ("trim(' ' || chr(9) || 'a' || chr(10))", "a"),
    ("strpos('abc', '')", "1"),
    ("strpos('high', 'ig')", "2"),
    ("position('b' in 'abc')", "2"),
    ("strpos('abcabc', 'b', 2)", "5"),
    ("strpos('abcabc', 'b', -1)", "5"),
    ("strpos('abc','z')", "0"),
    ("split('a,b,c', ',')", "[a, b, c]"),
    ("split('a,b,c', ',', 2)", "[a, b,c]"),
    ("split('', ',')", "[]"),
    ("split_part('a,b', ',', 2)", "b"),
    ("split_part('a,b', ',', 5)", None),
    ("split_to_map('a=1,b=2', ',', '=')", "{a=1, b=2}"),
    ("replace('abc', 'b')", "ac"),
    ("replace('abab', 'a', 'x')", "xbxb"),
    ("replace('abc', '', 'x')", "xaxbxcx"),
    ("translate('abcd','aac','zq')", "zbd"),
    ("translate('abcd','a','zy')", "zbcd"),
    ("reverse('abc')", "cba"),
    ("reverse(array[1,2])", "[2, 1]"),
    ("chr(65)", "A"),
    ("codepoint('A')", "65"),
    ("hamming_distance('abc','abd')", "1"),
    ("levenshtein_distance('kitten','sitting')", "3"),
    ("length('héllo')", "5"),
    ("length(to_utf8('héllo'))", "6"),
    ("upper('é')", "É"),
    ("lower('É')", "é"),
    ("starts_with('abc','ab')", "true"),
    ("ends_with('abc','bc')", "true"),
    ("concat_ws(',', 'a', null, 'b')", "a,b"),
    ("concat_ws(',', array['a',null,'b'])", "a,b"),
    ("concat_ws(null, 'a')", None),
    ("normalize('e' || chr(769))", "é"),
    ("cardinality(split('', ','))", "1"),
    ("concat('a', 'b', 'c')", "abc"),
    ("upper('straße')", "STRAßE"),
    ("concat_ws(',', cast(null as varchar), null, 'b')", "b"),
]

FAILURES = [
    ("split_part('a', ',', 0)", "INVALID_FUNCTION_ARGUMENT", "Index must be greater than zero"),
    (
        "regexp_extract('a' || chr(10), 'a$')",
        "NOT_SUPPORTED",
        "over a text that ends with a line break is not supported by this service: use \\z",
    ),
]


@pytest.mark.parametrize(("expression", "expected"), [*FORMATS, *REGULAR_EXPRESSIONS, *URLS, *BYTES, *STRINGS])
def test_an_expression_has_trinos_value(expression: str, expected: str | None) -> None:
    assert value(expression) == expected


@pytest.mark.parametrize(("expression", "code", "message"), FAILURES)
def test_an_expression_fails_with_trinos_error(expression: str, code: str, message: str) -> None:
    error = error_of(f"SELECT {expression}")
    assert error.code == code
    assert message in error.message


# A call with one argument that is NULL is NULL.
NULL_CALLS = [
    "substr(cast(null as varchar), 1)",
    "substr('a', cast(null as bigint))",
    "lpad(cast(null as varchar), 3, 'x')",
    "trim(cast(null as varchar))",
    "strpos('abc', cast(null as varchar))",
    "split(cast(null as varchar), ',')",
    "split_part('a,b', cast(null as varchar), 1)",
    "replace('abc', cast(null as varchar), 'x')",
    "reverse(cast(null as varchar))",
    "starts_with('abc', cast(null as varchar))",
    "length(cast(null as varchar))",
    "upper(cast(null as varchar))",
    "levenshtein_distance('a', cast(null as varchar))",
    "regexp_like(cast(null as varchar), 'a')",
    "regexp_extract(cast(null as varchar), 'a')",
    "regexp_extract_all(cast(null as varchar), 'a')",
    "regexp_replace(cast(null as varchar), 'a', 'b')",
    "regexp_split(cast(null as varchar), 'a')",
    "regexp_count(cast(null as varchar), 'a')",
    "regexp_position(cast(null as varchar), 'a')",
    "url_extract_host(cast(null as varchar))",
    "url_extract_parameter(cast(null as varchar), 'a')",
    "url_encode(cast(null as varchar))",
    "to_utf8(cast(null as varchar))",
    "from_hex(cast(null as varchar))",
    "md5(cast(null as varbinary))",
    "split_to_map(cast(null as varchar), ',', '=')",
    "'a' || cast(null as varchar)",
    "cast(null as varchar) like 'a'",
    "'a' like cast(null as varchar)",
    "normalize(cast(null as varchar))",
    "translate(cast(null as varchar), 'a', 'b')",
    "codepoint(cast(null as varchar(1)))",
    "split('a,b', cast(null as varchar))",
    "split(cast(null as varchar), ',', 2)",
    "split('a,b', ',', cast(null as integer))",
    "split_to_map('a=1', cast(null as varchar), '=')",
    "split_to_map('a=1', ',', cast(null as varchar))",
    "concat_ws(cast(null as varchar), array['a'])",
    "concat_ws(cast(null as varchar), 'a', 'b')",
]


@pytest.mark.parametrize("expression", NULL_CALLS)
def test_null_in_is_null_out(expression: str) -> None:
    assert value(expression) is None
