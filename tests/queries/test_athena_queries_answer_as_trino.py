"""Queries have the rows, in the order, and of the types that Trino gives them: grouping, joining, windows, sets."""

from __future__ import annotations

import collections
import datetime
from collections.abc import Callable
from typing import Any

import pytest

from tests.queries.athena_answers import answer, error_of, rows
from tests.queries.athena_engine import SCHEMA, action_rows

Rows = list[tuple[str | None, ...]]

QUERIES: list[tuple[str, Rows, str]] = [
    (
        (
            "select from_iso8601_timestamp(x), to_unixtime(from_iso8601_timestamp(x)), "
            "from_iso8601_timestamp(x) at time zone 'UTC', "
            "hour(from_iso8601_timestamp(x) at time zone 'UTC') from (values '2020-05-11T11:15:05.055+01:00') t(x)"
        ),
        [("2020-05-11 10:15:05.055 UTC", "1.589192105055E9", "2020-05-11 10:15:05.055 UTC", "10")],
        "timestamp(3) with time zone, double, timestamp(3) with time zone, bigint",
    ),
    (
        (
            "select cast(x as timestamp with time zone) = timestamp '2020-05-11 05:00 UTC' from (values "
            "'2020-05-11 01:00 America/New_York') t(x)"
        ),
        [("true",)],
        "boolean",
    ),
    (
        "select any_value(x), var_samp(x), stddev_samp(x), covar_samp(x, y), regr_intercept(y, x), bitwise_xor_agg(x) "
        "from (values (2, 5), (2, 5), (5, 11)) t(x, y) where x is not null and y > 1",
        [("2", "3.0", "1.7320508075688772", "6.0", "1.0", "5")],
        "integer, double, double, double, double, bigint",
    ),
    (
        (
            "select count(*), count(x), count(distinct x), sum(x), avg(x), min(x), max(x), count_if(x>1), "
            "arbitrary(x), bool_and(x>0), every(x>0), bool_or(x>2), sum(distinct x), max(x,2), "
            "min(x,2) from (values 1,2,2,null) t(x)"
        ),
        [
            (
                "4",
                "3",
                "2",
                "5",
                "1.6666666666666667",
                "1",
                "2",
                "2",
                "1",
                "true",
                "true",
                "false",
                "3",
                "[2, 2]",
                "[1, 2]",
            )
        ],
        (
            "bigint, bigint, bigint, bigint, double, integer, integer, bigint, integer, boolean, boolean, "
            "boolean, bigint, array(integer), array(integer)"
        ),
    ),
    ("select sum(x), avg(x) from (values 1.50, 2.25) t(x)", [("3.75", "1.88")], "decimal(38,2), decimal(3,2)"),
    (
        "select sum(x), avg(x), sum(cast(x as real)) from (values 1e0, 2.5e0) t(x)",
        [("3.5", "1.75", "3.5")],
        "double, double, real",
    ),
    (
        (
            "select max_by(x,y), min_by(x,y), max_by(x,y,2), "
            "min_by(x,y,3) from (values (1,1),(null,3),(3,null),(4,2)) t(x,y)"
        ),
        [(None, "1", "[null, 4]", "[1, 4, null]")],
        "integer, integer, array(integer), array(integer)",
    ),
    (
        (
            "select approx_distinct(x), approx_percentile(x, 0.5), approx_percentile(x, array[0.1, 0.9]), "
            "stddev(x), stddev_pop(x), variance(x), var_pop(x), geometric_mean(x), kurtosis(x), corr(x,x), "
            "covar_pop(x,x), regr_slope(x,x) from (values 1,2,2,3,10) t(x)"
        ),
        [
            (
                "4",
                "2",
                "[1, 10]",
                "3.646916505762094",
                "3.2619012860600183",
                "13.3",
                "10.64",
                "2.605171084697352",
                "4.272146531742888",
                "1.0",
                "10.64",
                "1.0",
            )
        ],
        "bigint, integer, array(integer), double, double, double, double, double, double, double, double, double",
    ),
    (
        (
            "select histogram(x), map_agg(x,y), multimap_agg(x,y), array_agg(y order by y desc), listagg(y, "
            "',') within group (order by y), approx_most_frequent(2, x, "
            "10) from (values ('a',1),('b',2),('a',3),(null,4)) t(x,z) cross join unnest(array[cast(z as "
            "varchar)]) u(y)"
        ),
        [("{a=2, b=1}", "{a=1, b=2}", "{a=[1, 3], b=[2]}", "[4, 3, 2, 1]", "1,2,3,4", "{a=2, b=1}")],
        (
            "map(varchar(1), bigint), map(varchar(1), varchar), map(varchar(1), array(varchar)), "
            "array(varchar), varchar, map(varchar(1), bigint)"
        ),
    ),
    (
        "select map_union(m) from (values map(array['a'],array[1]), map(array['a','b'],array[2,3])) t(m)",
        [("{a=1, b=3}",)],
        "map(varchar(1), integer)",
    ),
    (
        (
            "select array_agg(x), array_agg(distinct x order by x), count(*) filter (where x > 1), "
            "sum(x) filter (where x > 100), bitwise_and_agg(x), bitwise_or_agg(x) from (values 3,1,3) t(x)"
        ),
        [("[3, 1, 3]", "[1, 3]", "2", None, "1", "3")],
        "array(integer), array(integer), bigint, bigint, bigint, bigint",
    ),
    (
        (
            "select x, row_number() over (order by x), rank() over (order by x), "
            "dense_rank() over (order by x), ntile(2) over (order by x), lag(x) over (order by x), lead(x, "
            "1, 0) over (order by x), first_value(x) over (order by x), last_value(x) over (order by x), "
            "sum(x) over (order by x rows between 1 preceding and current row), "
            "percent_rank() over (order by x), "
            "cume_dist() over (order by x) from (values 1,2,2,4) t(x) order by 1,2"
        ),
        [
            ("1", "1", "1", "1", "1", None, "2", "1", "1", "1", "0.0", "0.25"),
            ("2", "2", "2", "2", "1", "1", "2", "1", "2", "3", "0.3333333333333333", "0.75"),
            ("2", "3", "2", "2", "2", "2", "4", "1", "2", "4", "0.3333333333333333", "0.75"),
            ("4", "4", "4", "3", "2", "2", "0", "1", "4", "6", "1.0", "1.0"),
        ],
        "integer, bigint, bigint, bigint, bigint, integer, integer, integer, integer, bigint, double, double",
    ),
    (
        (
            "select x, lag(y) ignore nulls over (order by x), nth_value(x, "
            "2) over (order by x rows between unbounded preceding and unbounded following), "
            "count(*) filter (where y is null) over w, "
            "sum(x) over (w rows unbounded preceding) from (values (1,5),(2,null),(3,6)) t(x,y) window w as "
            "(order by x)"
        ),
        [("1", None, "2", "0", "1"), ("2", "5", "2", "1", "3"), ("3", "5", "2", "1", "6")],
        "integer, integer, integer, bigint, bigint",
    ),
    (
        (
            "select a, b, grouping(a,b), "
            "count(*) from (values (1,2),(1,3)) t(a,b) group by grouping sets ((a),(b),()) order by 3,1,2"
        ),
        [("1", None, "1", "2"), (None, "2", "2", "1"), (None, "3", "2", "1"), (None, None, "3", "2")],
        "integer, integer, bigint, bigint",
    ),
    (
        "select a, count(*) from (values 1,1,2) t(a) group by rollup(a) order by a",
        [("1", "2"), ("2", "1"), (None, "3")],
        "integer, bigint",
    ),
    ("select a+1, count(*) from (values 1,1,2) t(a) group by a+1 having count(*) > 1", [("2", "2")], "integer, bigint"),
    (
        ("select upper(x) as x, count(*) from (values 'a','A','b') t(x) group by upper(x) order by count(*) desc, x"),
        [("A", "2"), ("B", "1")],
        "varchar, bigint",
    ),
    (
        "select x % 2 as k, sum(x) s from (values 1,2,3) t(x) group by 1 order by k desc",
        [("1", "4"), ("0", "2")],
        "integer, bigint",
    ),
    ("select x from (values 1,null,3) t(x) order by x desc", [("3",), ("1",), (None,)], "integer"),
    ("select x from (values 1,null,3) t(x) order by x nulls first", [(None,), ("1",), ("3",)], "integer"),
    (
        "select x from (values 1,2,3,4) t(x) order by x offset 1 rows fetch first 2 rows only",
        [("2",), ("3",)],
        "integer",
    ),
    ("select x from (values 1,2,3,4) t(x) order by x offset 1 limit 2", [("2",), ("3",)], "integer"),
    ("with a as (select 1 x), b(y) as (select x+1 from a) select * from a, b", [("1", "2")], "integer, integer"),
    (
        "with recursive n(i) as (select 1 union all select i+1 from n where i < 4) select sum(i) from n",
        [("10",)],
        "bigint",
    ),
    ("select 1 union select 2 intersect select 2 except select 5 order by 1", [("1",), ("2",)], "integer"),
    ("select 1 union all select 2.5 order by 1", [("1.0",), ("2.5",)], "decimal(11,1)"),
    (
        "select * from (values (1,'a'),(2,'b')) as t(id, name) where name in (select 'b')",
        [("2", "b")],
        "integer, varchar(1)",
    ),
    (
        (
            "select t.id, u.x, u.n from (values (1, array['p','q'])) as t(id, "
            "arr) cross join unnest(arr) with ordinality as u(x, n) order by n"
        ),
        [("1", "p", "1"), ("1", "q", "2")],
        "integer, varchar(1), bigint",
    ),
    ("select * from unnest(array[1,2], array['a']) as t(n, s)", [("1", "a"), ("2", None)], "integer, varchar(1)"),
    (
        "select k, v from unnest(map(array['a','b'], array[1,2])) as t(k, v) order by k",
        [("a", "1"), ("b", "2")],
        "varchar(1), integer",
    ),
    ("select * from unnest(array[row(1,'x'), row(2,'y')]) as t(a, b)", [("1", "x"), ("2", "y")], "integer, varchar(1)"),
    (
        (
            "select t.id, u.x from (values (1, array[]), (2, array[5])) as t(id, "
            "arr) left join unnest(arr) as u(x) on true order by 1"
        ),
        [("1", None), ("2", "5")],
        "integer, integer",
    ),
    (
        "select a.id, b.v from (values 1,2) a(id) left join (values (1,'x')) b(id, v) on a.id = b.id order by 1",
        [("1", "x"), ("2", None)],
        "integer, varchar(1)",
    ),
    (
        (
            "select id, v, w from (values (1,'x')) a(id, v) full outer join (values (2,'y')) b(id, "
            "w) using (id) order by id"
        ),
        [("1", "x", None), ("2", None, "y")],
        "integer, varchar(1), varchar(1)",
    ),
    (
        "select * from (values (1,'x')) a(id, v) join (values (1,'y')) b(id, w) using (id)",
        [("1", "x", "y")],
        "integer, varchar(1), varchar(1)",
    ),
    ("select l.y from (values 1,2) t(x), lateral (select x * 10 as y) l order by 1", [("10",), ("20",)], "integer"),
    ("select * from (values 1,2) t(x) where exists (select 1 from (values 2) u(y) where y = t.x)", [("2",)], "integer"),
    (
        "select (select max(y) from (values 1,2) u(y) where y <= t.x) from (values 1,2) t(x) order by 1",
        [("1",), ("2",)],
        "integer",
    ),
    (
        "select try(sum(x) / count(*) - 1), try(sum(x) / (count(*) - 2)) from (values 1,2) t(x)",
        [("0", None)],
        "bigint, bigint",
    ),
    ("select 1 as a, 2 as a", [("1", "2")], "integer, integer"),
    ("select a.* from (select 1, 2 as b) a", [("2",)], "integer"),
    ('select count(*) as "Total", max(x) as mx from (values 1) t(x)', [("1", "1")], "bigint, integer"),
    ("values (1, 'a'), (2, null)", [("1", "a"), ("2", None)], "integer, varchar(1)"),
]


@pytest.mark.parametrize(("query", "expected", "types"), QUERIES)
def test_a_query_has_trinos_rows_and_types(query: str, expected: Rows, types: str) -> None:
    translation, found = answer(query)
    assert found == expected
    assert ", ".join(str(column.type) for column in translation.columns) == types


ACTIONS = action_rows()


def _x(row: dict[str, Any]) -> float:
    return -1.0 if row["location_x"] is None else float(row["location_x"])


@pytest.mark.parametrize(
    ("condition", "holds"),
    [
        ("type = 'click'", lambda row: row["type"] == "click"),
        ("date = date '2024-01-02'", lambda row: row["date"] == datetime.date(2024, 1, 2)),
        ("\"time\" >= timestamp '2024-01-03 00:00 UTC'", lambda row: row["time"].day == 3),
        ("day(time at time zone 'Asia/Tokyo') = 3", lambda row: row["time"].hour >= 15 or row["time"].day == 3),
        ("session_id is null", lambda row: row["session_id"] is None),
        ("session_id <> 's0'", lambda row: row["session_id"] == "s1"),
        ("user_id in ('user-1', 'O''Brien')", lambda row: row["user_id"] in ("user-1", "O'Brien")),
        ("location_x > 20 and LOCATION_Y < 9", lambda row: _x(row) > 20 and row["location_y"] < 9),
        ("cast(json_extract_scalar(properties, '$.locationX') as double) > 20", lambda row: _x(row) > 20),
        ("not (viewed_id like 'v1%')", lambda row: (row["viewed_id"] or "v1")[:2] != "v1"),
        ("utc_offset_minutes + 60 > 0", lambda row: row["utc_offset_minutes"] > -60),
        ("hour(time) between 6 and 12", lambda row: 6 <= row["time"].hour <= 12),
    ],
)  # fmt: skip
def test_a_condition_chooses_the_actions_for_which_it_holds(
    condition: str, holds: Callable[[dict[str, Any]], bool]
) -> None:
    found = rows(f"select position from actions where {condition} order by position")
    assert found == [(str(row["position"]),) for row in ACTIONS if holds(row)]


def test_groups_are_counted_as_python_counts_them() -> None:
    groups = collections.Counter((str(row["date"]), row["type"]) for row in ACTIONS)
    expected = [(day, kind, str(count)) for (day, kind), count in sorted(groups.items())]
    assert rows("select date, type, count(*) from actions group by date, type order by 1, 2") == expected
    assert rows("select date, type, actions from daily_activity order by date, type") == expected


def test_views_are_tables_too() -> None:
    clicks = [row for row in ACTIONS if row["type"] == "click"]
    assert rows("select user_id, location_x from clicks order by time") == [
        (row["user_id"], str(row["location_x"])) for row in clicks
    ]
    [(length,)] = rows("select length from sessions where user_id = 'user-1' and session_id = 's1'")
    assert length == "0 09:00:00.369"


@pytest.mark.parametrize(
    "table",
    [
        "actions", "ACTIONS", '"actions"', "default.actions", "awsdatacatalog.default.actions",
        '"AwsDataCatalog"."default"."Actions"', "(select * from actions)", "(table actions)",
    ],
)  # fmt: skip
def test_every_name_of_the_table_is_the_table(table: str) -> None:
    assert rows(f"select count(*) from {table}") == [(str(len(ACTIONS)),)]


def test_columns_keep_the_names_they_are_written_with() -> None:
    translation, _ = answer(
        'select 1 as Foo, 2 as "B r", 3, USER_ID, "User_Id" as x, a.type, upper(type) from actions a'
    )
    assert [column.name for column in translation.columns] == ["Foo", "B r", "_col2", "USER_ID", "x", "type", "_col6"]


def test_the_partitions_of_the_table_are_a_table() -> None:
    partitions = sorted({(str(row["date"]), row["type"]) for row in ACTIONS})
    assert rows('select * from "actions$partitions" order by 1, 2') == partitions


def test_the_information_schema_describes_the_table() -> None:
    columns = rows(
        "select column_name, data_type, extra_info from information_schema.columns "
        "where table_schema = 'default' and table_name = 'actions' order by ordinal_position"
    )
    assert [name for name, _, _ in columns] == SCHEMA.table_schema.names
    assert columns[:3] == [
        ("date", "date", "partition key"),
        ("type", "varchar", "partition key"),
        ("user_id", "varchar", None),
    ]
    assert ("actions", "BASE TABLE") in rows("select table_name, table_type from information_schema.tables")
    [(definition,)] = rows("select view_definition from information_schema.views where table_name = 'clicks'")
    assert definition is not None
    assert "FROM actions" in definition


@pytest.mark.parametrize(
    ("query", "parameters", "expected"),
    [
        ("select ?, ? + 1", ["'it''s ?'", "41"], [("it's ?", "42")]),
        ("select count(*) from actions where type = ? and date >= ?", ["'click'", "date '2024-01-01'"], [("4",)]),
        ("select x from (values 1, 2, 3) t(x) order by 1 desc limit ?", ["2"], [("3",), ("2",)]),
        ("select '?', ?", ["null"], [("?", None)]),
    ],
)
def test_parameters_stand_for_constants(query: str, parameters: list[str], expected: Rows) -> None:
    assert rows(query, *parameters) == expected


@pytest.mark.parametrize(
    ("query", "parameters"),
    [("select ?", []), ("select 1", ["1"]), ("select ?", ["1", "2"]), ("select ?, ?", ["1"])],
)
def test_a_wrong_number_of_parameters_is_refused(query: str, parameters: list[str]) -> None:
    error = error_of(query, *parameters)
    assert error.code == "INVALID_PARAMETER_USAGE"
    assert "Incorrect number of parameters" in error.message


@pytest.mark.parametrize(
    "parameter", ["1; select 2", "user_id from actions --", "(select 1)", "1, 2", "", "1) or (1=1"]
)
def test_a_parameter_is_never_a_piece_of_the_query(parameter: str) -> None:
    error_of("select count(*) from actions where position = ?", parameter)


def test_what_is_not_a_constant_evaluates_as_constants_do() -> None:
    """DuckDB computes constants before it runs a query, by other code than it runs over rows."""
    expressions = [
        ("substr(s, -2)", "cd"), ("5 / n", "2"), ("split_part(s, 'b', n)", "cd"), ("cast(n * 1e0 as varchar)", "2.0E0"),
        ("regexp_extract(s, '(b)(c)', 2)", "c"), ("date_add('day', n, d)", "2020-03-02"), ("element_at(a, -1)", "3"),
        ("transform(a, x -> x * n)", "[2, null, 6]"), ("format('%05d|%s', n, s)", "00002|abcd"), ("try(n / 0)", None),
        ("json_extract_scalar(j, '$.k[1]')", "2"), ("date_diff('month', d, d + interval '40' day)", "1"),
        ("to_iso8601(d)", "2020-02-29"),
        ("array_sort(a, (x, y) -> if(x is null, -1, if(y is null or x < y, 1, -1)))", "[null, 3, 1]"),
        ("reduce(a, 0, (s, x) -> s + coalesce(x, n), s -> s)", "6"), ("url_extract_parameter(u, 'q')", "x y"),
        ("array_join(a, s)", "1abcd3"), ("array_join(a, s, u)", "1abcdhttp://h/?q=x+yabcd3"),
        ("replace('b-', '', s)", "abcdbabcd-abcd"), ("replace(s, substr(s, n, 1), j)", 'a{"k": [1, 2]}cd'),
        ("split('1abcd2abcd3', s, n)", "[1, 2abcd3]"), ("concat_ws(s, array['x', 'y'])", "xabcdy"),
        ("lpad('x', n + 1, s)", "abx"), ("translate(u, s, 'xyz')", "http://h/?q=x+y"), ("strpos(u, '/', n)", "7"),
        ("date_trunc('month', d)", "2020-02-01"), ("slice(a, n, 1)", "[null]"), ("contains(a, n + 1)", "true"),
    ]  # fmt: skip
    source = (
        "(values ('abcd', 2, date '2020-02-29', array[1, null, 3], '{\"k\": [1, 2]}', 'http://h/?q=x+y'), "
        "(null, null, null, null, null, null)) t(s, n, d, a, j, u)"
    )
    [found, empty] = rows(f"select {', '.join(text for text, _ in expressions)} from {source} order by s")
    assert list(found) == [expected for _, expected in expressions]
    assert [text for text in empty if text not in (None, "null|null")] == []
