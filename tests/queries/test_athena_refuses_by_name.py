"""What is not answered as Athena would answer it is refused, and the refusal names what it is about."""

from __future__ import annotations

import logging

import pytest

from queries.athena.errors import MalformedQuery, QueryError, UntranslatableError
from queries.athena.statements import classify
from tests.queries.athena_answers import answer, error_of

STATEMENTS = [
    ("UNLOAD (SELECT * FROM actions) TO 's3://b/p/' WITH (format = 'PARQUET')", "UNLOAD", "Amazon S3"),
    ("CREATE TABLE t WITH (format = 'PARQUET') AS SELECT 1 AS a", "CREATE TABLE AS SELECT", "Amazon S3"),
    ("create external table t (a int) location 's3://b/'", "CREATE EXTERNAL", "answers queries only"),
    ("CREATE OR REPLACE VIEW v AS SELECT 1", "CREATE OR", "answers queries only"),
    ("INSERT INTO actions SELECT * FROM actions", "INSERT", "answers queries only"),
    ("delete from actions", "DELETE", "answers queries only"),
    ("UPDATE actions SET type = 'x'", "UPDATE", "answers queries only"),
    ("MERGE INTO actions USING t ON true WHEN MATCHED THEN DELETE", "MERGE", "answers queries only"),
    ("DROP TABLE actions", "DROP", "answers queries only"),
    ("ALTER TABLE actions ADD COLUMNS (a int)", "ALTER", "answers queries only"),
    ("MSCK REPAIR TABLE actions", "MSCK REPAIR TABLE", "partitions are found without it"),
    ("OPTIMIZE actions REWRITE DATA USING BIN_PACK", "OPTIMIZE", "answers queries only"),
    ("VACUUM actions", "VACUUM", "answers queries only"),
    ("GRANT SELECT ON actions TO PUBLIC", "GRANT", "answers queries only"),
    ("USE other", "USE", "one database"),
    ("SET SESSION x = 1", "SET", "answers queries only"),
    ("USING EXTERNAL FUNCTION f(x int) RETURNS int LAMBDA 'l' SELECT f(1)", "USING", "external functions"),
    ("SHOW GRANTS", "SHOW GRANTS", "not supported"),
    ("DESCRIBE INPUT p", "DESCRIBE INPUT", "not supported"),
    ("EXPLAIN (FORMAT JSON) SELECT 1", "EXPLAIN with options", "not supported"),
]


@pytest.mark.parametrize(("text", "construct", "reason"), STATEMENTS)
def test_statements_other_than_queries_are_refused(text: str, construct: str, reason: str) -> None:
    with pytest.raises(UntranslatableError) as raised:
        classify(text)
    assert construct in str(raised.value)
    assert reason in str(raised.value)
    assert raised.value.code == "NOT_SUPPORTED"


# Each is Athena's, and each would give another answer, or none, if it were passed on.
CONSTRUCTS = [
    (
        "select * from actions match_recognize (measures first(time) as y pattern (a) define a as true)",
        "MATCH_RECOGNIZE",
    ),
    ("select * from actions for timestamp as of now()", "FOR TIMESTAMP AS OF"),
    ("select * from actions for version as of 1", "FOR VERSION AS OF"),
    ('select "$path" from actions', '"$path"'),
    ('select * from "actions$history"', '"actions$history"'),
    ("select * from (values 1) a(x) natural join (values 1) b(x)", "NATURAL JOIN"),
    ("select type from actions group by distinct type", "GROUP BY DISTINCT"),
    ("select 1 < all (values 1)", "function all"),
    ("select 'a' 'b'", "a string literal after another"),
    ("select cast('a' as char(3))", "char(3)"),
    ("select cast('1.2.3.4' as ipaddress)", "ipaddress"),
    ("select timestamp '2020-01-01 00:00:00.1234567'", "7 fractional digits"),
    ("select approx_set(user_id) from actions", "function approx_set"),
    ("select st_point(1, 2)", "function st_point"),
    ("select xxhash64(to_utf8('a'))", "function xxhash64"),
    ("select list_aggregate([1], 'sum')", "list_aggregate"),
    ("select read_text('/etc/passwd')", "function read_text"),
    ("select getenv('HOME')", "function getenv"),
    ("select * from read_parquet('x')", "read_parquet"),
    ("select * from 'x.parquet'", "x.parquet"),
    ("select regexp_like(user_id, '(?=a)') from actions", "lookahead"),
    ("select regexp_like(user_id, '(?<!a)b') from actions", "lookbehind"),
    ("select regexp_like(user_id, '[a-z&&[^b]]') from actions", "intersection of character classes"),
    ("select regexp_like(user_id, '[a[b]]') from actions", "a character class inside another"),
    ("select regexp_like(user_id, '(a)\\1') from actions", "back-reference"),
    ("select regexp_like(user_id, 'a++') from actions", "possessive quantifier"),
    ("select regexp_like(user_id, '(?>a)') from actions", "atomic group"),
    ("select regexp_like('a', user_id) from actions", "regular expression that is not constant"),
    ("select json_extract(properties, '$..a') from actions", "JSON path"),
    ("select json_extract('{}', '$.*')", "JSON path"),
    ("select json_extract(properties, user_id) from actions", "not constant"),
    ("select format(user_id, 1) from actions", "not constant"),
    ("select format('%e', 1e0)", "%e"),
    ("select format_datetime(now(), 'G')", "a date pattern with G"),
    ("select date_format(now(), user_id) from actions", "not constant"),
    ("select time at time zone user_id from actions", "not constant"),
    ("select user_id rlike 'a' from actions", "RLIKE"),
    ("select user_id ilike 'a' from actions", "ILIKE"),
    ("select try(coalesce(sum(position) / 0, 5)) from actions", "try() around an aggregate"),
    ("select bit_count(1, 12)", "bit_count of a width"),
    ("select bitwise_right_shift(1, 2)", "bitwise_right_shift of integer"),
    ("select hour(from_iso8601_timestamp(user_id)) from actions", "the time zone"),
]


@pytest.mark.parametrize(("query", "construct"), CONSTRUCTS)
def test_a_part_of_a_query_that_would_answer_otherwise_is_refused(query: str, construct: str) -> None:
    error = error_of(query)
    print(error)
    assert construct.lower() in str(error).lower()


MISTAKES = [
    ("select x from actions", "COLUMN_NOT_FOUND", "Column 'x' cannot be resolved", (1, 8)),
    ("select\n  1 +\n  nope from actions", "COLUMN_NOT_FOUND", "Column 'nope' cannot be resolved", (3, 3)),
    ("select b.type from actions a", "COLUMN_NOT_FOUND", "Column 'b.type' cannot be resolved", (1, 8)),
    ("select 1 from nope", "TABLE_NOT_FOUND", "Table 'awsdatacatalog.default.nope' does not exist", (1, 15)),
    ("select 1 from other.actions", "SCHEMA_NOT_FOUND", "Schema 'other' does not exist", (1, 15)),
    ("select 1 from hive.default.actions", "CATALOG_NOT_FOUND", "Catalog 'hive' does not exist", (1, 15)),
    ("select '5' + 1", "TYPE_MISMATCH", "Cannot apply operator: varchar(1) + integer", (1, 8)),
    ("select 1 from actions where date = '2020-01-01'", "TYPE_MISMATCH", "write DATE '...' for a literal", None),
    ("select 1 from actions where type", "TYPE_MISMATCH", "must evaluate to a boolean (actual: varchar)", (1, 29)),
    ("select if(1, 2)", "TYPE_MISMATCH", "boolean", None),
    ("select 1 union all select 'a'", "TYPE_MISMATCH", "incompatible types", None),
    ("select 1 union all select 1, 2", "TYPE_MISMATCH", "different number of", None),
    ("select case when true then 1 else 'a' end", "TYPE_MISMATCH", "", None),
    ("select array[1, 'a']", "TYPE_MISMATCH", "", None),
    ("select upper(5)", "FUNCTION_NOT_FOUND", "Unexpected parameters (integer) for function upper", (1, 8)),
    ("select upper('a', 'b')", "FUNCTION_NOT_FOUND", "function upper", (1, 8)),
    ("select a.x from (values 1, 2) a(x, y)", "MISMATCHED_COLUMN_ALIASES", "", None),
    ("select x from (values 1) a(x), (values 2) b(x)", "AMBIGUOUS_NAME", "Column 'x' is ambiguous", (1, 8)),
    ("select type, count(*) from actions", "EXPRESSION_NOT_AGGREGATE", "GROUP BY", None),
    ("select 1 from actions where count(*) > 1", "EXPRESSION_NOT_SCALAR", "aggregates", None),
    ("select 1 order by 2", "INVALID_COLUMN_REFERENCE", "ORDER BY position 2", None),
    ("select type from actions group by 2", "INVALID_COLUMN_REFERENCE", "GROUP BY position 2", None),
    ("select 1 limit -1", "INVALID_LIMIT_CLAUSE", "", None),
    ("select date_trunc('eon', now())", "INVALID_FUNCTION_ARGUMENT", "'eon' is not a valid", None),
    ("select regexp_like('a', '(')", "INVALID_FUNCTION_ARGUMENT", "", None),
    ("select regexp_extract('a', '(a)', 2)", "INVALID_FUNCTION_ARGUMENT", "Pattern has 1 groups", None),
    ("select timestamp '2020-01-01 00:00 Mars/Base'", "INVALID_FUNCTION_ARGUMENT", "Mars/Base", (1, 18)),
    ("select date '2020-02-30'", "INVALID_CAST_ARGUMENT", "Cannot cast '2020-02-30' to date", None),
    ("select cast(1 as nothing)", "SYNTAX_ERROR", "nothing", (1, 18)),
    ("select count(distinct type, date) from actions", "FUNCTION_NOT_FOUND", "for function count", (1, 8)),
    ("select 1 in ()", "SYNTAX_ERROR", "IN without a value", None),
    ("select json_query('{}')", "SYNTAX_ERROR", "JSON_QUERY without a path", None),
    ("select type from actions group by rollup ()", "SYNTAX_ERROR", "GROUP BY without an expression", None),
    ("select sum(1) over (rows unbounded)", "SYNTAX_ERROR", "PRECEDING or FOLLOWING", None),
    ("with a as (select 1) select * from b", "TABLE_NOT_FOUND", "b", None),
]


# What other databases have and Athena has not.
OTHER_DIALECTS = [
    "select user_id from actions qualify row_number() over () = 1",
    "select * exclude (user_id) from actions",
    "select user_id[1:2] from actions",
    "select distinct on (user_id) user_id from actions",
    "select * from actions limit 10 percent",
    "select position // 2 from actions",
    "select user_id ~ 'a' from actions",
    "select $1",
    "select :name",
    "select @@version",
    "select `user_id` from actions",
    "select {'a': 1}",
    "select * from actions using sample 1",
    "select * from actions a asof join actions b on a.time >= b.time",
    "select * from actions semi join clicks using (user_id)",
    "select * from actions pivot (count(*) for type in ('click'))",
    "select type from actions group by all",
    "select type from actions order by all",
    "select columns('t.*') from actions",
    "select sum(position) over w from actions window w as (rows between 1 preceding and current row exclude ties)",
    "insert into actions select 1",
    "select 1 into t",
    "select * from actions for update",
    "select date_trunc(day, now())",
    "select 'a' collate nocase",
    "select 1 = 1 is true",
    "select sysdate",
]


@pytest.mark.parametrize("query", OTHER_DIALECTS)
def test_the_syntax_of_other_databases_is_not_passed_on(query: str) -> None:
    assert error_of(query).code in ("NOT_SUPPORTED", "SYNTAX_ERROR", "COLUMN_NOT_FOUND", "TYPE_MISMATCH")


@pytest.mark.parametrize(("query", "code", "message", "place"), MISTAKES)
def test_a_mistake_is_told_in_trinos_words_with_its_place(
    query: str, code: str, message: str, place: tuple[int, int] | None
) -> None:
    error = error_of(query)
    assert (error.code, message in error.message) == (code, True), str(error)
    if place is not None:
        assert (error.line, error.column) == place


@pytest.mark.parametrize(
    "text",
    ["", "  \n", ";", "-- nothing", "selec 1", "select 1; select 2", "select 'a", 'select "a', "PREPARE p", "42"],
)
def test_what_is_no_statement_is_malformed(text: str) -> None:
    with pytest.raises(MalformedQuery):
        classify(text)


@pytest.mark.parametrize(
    "text",
    ["select", "select from actions", "select 1 from", "select (1", "select 1)", "select * from actions where",
     "select 1 1", "with a select 1", "select a.b.", "values", "select case end", "select 1 order by",
     "select 1 from actions group by"],
)  # fmt: skip
def test_what_is_no_query_is_a_syntax_error(text: str) -> None:
    assert error_of(text).code == "SYNTAX_ERROR"


@pytest.mark.parametrize(
    "text",
    [
        "select " + "(" * 5000 + "1" + ")" * 5000,
        "select " + "not " * 20_000 + "true",
        "select " + " + ".join(["1"] * 20_000),
        "select " + "abs(" * 3000 + "1" + ")" * 3000,
        "select " + "case when true then " * 2000 + "1" + " end" * 2000,
        "select * from " + "(select * from " * 2000 + "actions" + ")" * 2000,
    ],
    ids=["parentheses", "not", "sum", "calls", "case", "subqueries"],
)
def test_a_query_that_is_nested_too_deep_is_an_error_and_nothing_worse(text: str) -> None:
    with pytest.raises(QueryError) as raised:
        answer(text)
    assert raised.value.code in ("STACK_OVERFLOW", "SYNTAX_ERROR")


@pytest.mark.parametrize(
    "text", ["if secret", "select json_query('{}', '$.{secret')", "select secret(", "describe secret"]
)
def test_nobodys_query_is_written_into_a_log(text: str, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.DEBUG), pytest.raises(QueryError):
        answer(text)
    assert "secret" not in caplog.text
