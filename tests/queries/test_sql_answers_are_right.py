"""Answers of user SQL equal what plain Python makes of the same rows: files and hot rows, each exactly once."""

from __future__ import annotations

import datetime
import decimal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest

from queries.formats import is_portable
from queries.sql import SnapshotUnreadable, SqlError, SqlRequest, TableView
from storage.schema import ActionSchema, PromotedProperty
from tests.queries.sql_tables import (
    FIRST_DAY,
    SCHEMA,
    Row,
    Sandbox,
    SmallTable,
    as_table,
    make_rows,
    sandbox,
    write_file,
    write_table,
)

HOT_DAY = FIRST_DAY + datetime.timedelta(days=10)


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> SmallTable:
    hot = make_rows(days=1, per_file=4, first_day=HOT_DAY, journal="hot")
    return write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=4, per_file=40), hot)


@pytest.fixture(scope="module")
def sql(table: SmallTable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(table, tmp_path_factory.mktemp("temp")) as one:
        yield one


def test_every_row_of_files_and_hot_rows_is_seen_once(sql: Sandbox) -> None:
    answer = sql.ask("SELECT journal, position FROM actions")
    expected = Counter((row["journal"], row["position"]) for row in sql.table.all_rows)
    assert Counter(answer.rows) == expected


def test_all_columns_come_back_with_their_values_and_types(sql: Sandbox) -> None:
    answer = sql.ask("SELECT * FROM actions ORDER BY journal DESC, position")
    assert answer.table.schema.names == SCHEMA.table_schema.names
    assert answer.table.to_pylist() == sql.table.all_rows
    assert [(column.name, column.type) for column in answer.result.columns][:5] == [
        ("date", "DATE"),
        ("type", "VARCHAR"),
        ("user_id", "VARCHAR"),
        ("session_id", "VARCHAR"),
        ("time", "TIMESTAMP WITH TIME ZONE"),
    ]


def test_rows_by_type_and_day(sql: Sandbox) -> None:
    answer = sql.ask("SELECT date, type, count(*) FROM actions GROUP BY ALL")
    assert {row[:2]: row[2] for row in answer.rows} == Counter((row["date"], row["type"]) for row in sql.table.all_rows)


def test_the_view_of_a_type_has_its_promoted_properties(sql: Sandbox) -> None:
    answer = sql.ask("SELECT * FROM clicks ORDER BY time, location_x")
    assert {"location_x", "location_y"} < set(answer.table.schema.names)
    assert not {"viewed_id", "page_from", "type"} & set(answer.table.schema.names)
    clicks = [row for row in sql.table.all_rows if row["type"] == "click"]
    assert answer.table["location_x"].to_pylist() == [row["location_x"] for row in clicks]


@pytest.mark.parametrize(
    ("view", "action_type", "columns"),
    [("views", "view", {"viewed_id"}), ("navigations", "navigate", {"page_from", "page_to"})],
)
def test_each_type_has_a_view(sql: Sandbox, view: str, action_type: str, columns: set[str]) -> None:
    answer = sql.ask(f"SELECT * FROM {view}")
    assert columns < set(answer.table.schema.names)
    assert answer.table.num_rows == sum(row["type"] == action_type for row in sql.table.all_rows)


def test_sessions_have_start_end_length_and_count(sql: Sandbox) -> None:
    sessions: dict[tuple[str, str], list[datetime.datetime]] = {}
    for row in sql.table.all_rows:
        sessions.setdefault((row["user_id"], row["session_id"]), []).append(row["time"])
    answer = sql.ask("SELECT user_id, session_id, started_at, ended_at, epoch(length)::BIGINT, actions FROM sessions")
    assert {row[:2]: row[2:] for row in answer.rows} == {
        key: (min(times), max(times), int((max(times) - min(times)).total_seconds()), len(times))
        for key, times in sessions.items()
    }


def test_daily_activity_counts_actions_and_users(sql: Sandbox) -> None:
    users: dict[tuple[datetime.date, str], list[str]] = {}
    for row in sql.table.all_rows:
        users.setdefault((row["date"], row["type"]), []).append(row["user_id"])
    answer = sql.ask("SELECT date, type, actions, users FROM daily_activity")
    assert {row[:2]: row[2:] for row in answer.rows} == {
        key: (len(of_day), len(set(of_day))) for key, of_day in users.items()
    }


def test_show_tables_lists_the_table_and_its_views(sql: Sandbox) -> None:
    assert [name for (name,) in sql.ask("show tables;").rows] == [
        "actions",
        "clicks",
        "daily_activity",
        "navigations",
        "sessions",
        "views",
    ]


def test_describe_names_every_column_and_reads_nothing(sql: Sandbox) -> None:
    answer = sql.ask("DESCRIBE actions")
    assert [row[0] for row in answer.rows] == SCHEMA.table_schema.names
    assert (answer.statistics.scanned_files, answer.statistics.scanned_bytes) == (0, 0)


def test_summarize_sees_all_rows(sql: Sandbox) -> None:
    answer = sql.ask("SELECT column_name, count FROM (SUMMARIZE actions) WHERE column_name = 'user_id'")
    assert answer.rows == [("user_id", len(sql.table.all_rows))]


@pytest.mark.parametrize(
    ("statement", "expected"),
    [
        ("VALUES (1, 'a'), (2, 'b')", [(1, "a"), (2, "b")]),
        ("WITH t AS (SELECT 1 AS x) SELECT x + 1 FROM t", [(2,)]),
        ("WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 4) SELECT sum(n) FROM t", [(10,)]),
        ("FROM range(3)", [(0,), (1,), (2,)]),
        ("SELECT unnest([1, 2])", [(1,), (2,)]),
        ("SELECT list_transform([1, 2], lambda x: x * 2)", [([2, 4],)]),
        ("SELECT count(*) FROM actions WHERE type = 'no such type'", [(0,)]),
        ("SELECT 'it''s' -- ; DROP TABLE actions", [("it's",)]),
        ("/* EXPLAIN */ SELECT 1;", [(1,)]),
        ("SELECT 'read_csv(''/etc/passwd'')'", [("read_csv('/etc/passwd')",)]),
        ('SELECT 1 AS "copy"', [(1,)]),
        ("WITH clicks AS (SELECT 7 AS n) SELECT n FROM clicks", [(7,)]),
        ("SELECT json_extract_string(properties, '$.n') FROM actions LIMIT 1", [("1",)]),
    ],
)
def test_what_only_looks_dangerous_is_answered(sql: Sandbox, statement: str, expected: list[Any]) -> None:
    assert sql.ask(statement).rows == expected


@pytest.mark.parametrize(
    "value",
    [
        None,
        True,
        7,
        -(1 << 63),
        1 << 100,
        1.5,
        "it's \u65e5\u672c",
        b"\x00\xff",
        datetime.date(2024, 2, 29),
        datetime.time(12, 30, 1),
        datetime.datetime(2024, 1, 2, 3, 4, 5, 678901, tzinfo=datetime.UTC),
        decimal.Decimal("123.450"),
        ["a", "b"],
        [1, None, 3],
        "\0",
    ],
)
def test_parameters_arrive_with_their_type(sql: Sandbox, value: object) -> None:
    (answer,) = sql.ask("SELECT ?", [value]).rows[0]
    assert answer == value


def test_parameters_by_number_and_by_name(sql: Sandbox) -> None:
    assert sql.ask("SELECT $2, $1", ["one", "two"]).rows == [("two", "one")]
    assert sql.ask("SELECT $b, $a", {"a": "one", "b": "two"}).rows == [("two", "one")]


@pytest.mark.parametrize("parameters", [["x"], ["x", "y", "z"]])
def test_a_wrong_number_of_parameters_is_an_error(sql: Sandbox, parameters: list[str]) -> None:
    with pytest.raises(SqlError, match="parameter"):
        sql.ask("SELECT ?, ?", parameters)


def test_a_parameter_of_an_unknown_type_is_an_error(sql: Sandbox) -> None:
    with pytest.raises(SqlError, match="object"):
        sql.ask("SELECT ?", [object()])


def test_a_parameter_is_a_value_and_never_sql(sql: Sandbox) -> None:
    text = "x' OR 1=1; DROP VIEW actions; --"
    assert sql.ask("SELECT count(*) FROM actions WHERE user_id = ?", [text]).rows == [(0,)]


@pytest.mark.parametrize(
    ("max_rows", "rows", "truncated"),
    [(0, 0, True), (1, 1, True), (491, 491, True), (492, 492, False), (9999, 492, False)],
)
def test_max_rows_cuts_exactly_and_says_so(sql: Sandbox, max_rows: int, rows: int, *, truncated: bool) -> None:
    assert len(sql.table.all_rows) == 492
    answer = sql.ask("SELECT * FROM actions", max_rows=max_rows)
    assert (answer.table.num_rows, answer.statistics.rows, answer.statistics.truncated) == (rows, rows, truncated)


def test_max_rows_cuts_an_ordered_answer_after_its_first_rows(sql: Sandbox) -> None:
    answer = sql.ask("SELECT * FROM range(100000) t(n) ORDER BY n", max_rows=5_001)
    assert [row[0] for row in answer.rows] == list(range(5_001))


def test_an_answer_of_many_batches_is_whole(sql: Sandbox) -> None:
    answer = sql.ask("SELECT n, 'text ' || n AS t FROM range(100000) r(n)")
    assert answer.table["n"].to_pylist() == list(range(100_000))
    assert answer.table["t"][99_999].as_py() == "text 99999"


def test_enums_and_nested_values_arrive(sql: Sandbox) -> None:
    answer = sql.ask("SELECT 'b'::ENUM('a', 'b'), {'x': [1, 2]}, MAP {'k': 1}, 1::HUGEINT, INTERVAL 1 DAY, uuid()")
    assert answer.rows[0][:2] == ("b", {"x": [1, 2]})


@pytest.mark.parametrize("hot_rows", [0, 3])
def test_a_table_without_files_has_typed_columns(sql: Sandbox, hot_rows: int) -> None:
    hot = as_table(sql.table.hot_rows[:hot_rows])
    view = TableView((), hot, SCHEMA.table_schema)
    answer = sql.ask("SELECT * FROM actions", view=view)
    assert answer.table.schema.field("location_x").type == pa.float64()
    assert answer.table.schema.field("date").type == pa.date32()
    assert answer.table.to_pylist() == sql.table.hot_rows[:hot_rows]
    assert (answer.statistics.scanned_files, answer.statistics.scanned_bytes) == (0, 0)
    assert sql.ask("SELECT count(*), max(users) FROM daily_activity", view=view).rows[0][0] == (1 if hot_rows else 0)


def test_a_file_from_before_a_column_was_added_reads_as_null(sql: Sandbox, table: SmallTable) -> None:
    rows = make_rows(days=1, per_file=3, first_day=FIRST_DAY + datetime.timedelta(days=200))
    clicks = [row for row in rows if row["type"] == "click"]
    old = write_file(table.folder, clicks, leave_out=["location_x", "page_to"])
    view = TableView((old, *table.files[:1]), as_table([]), SCHEMA.table_schema)
    answer = sql.ask("SELECT location_x, location_y FROM clicks WHERE date >= '2024-06-01' ORDER BY ALL", view=view)
    assert answer.rows == [(None, row["location_y"]) for row in clicks]
    assert sql.ask("SELECT count(location_y), count(location_x) FROM clicks", view=view).rows == [(43, 40)]


def test_a_later_snapshot_with_another_column_is_taken(sql: Sandbox) -> None:
    schema = SCHEMA.table_schema.append(pa.field("added", pa.int64()))
    hot = as_table([row | {"added": 5} for row in sql.table.hot_rows], schema)
    answer = sql.ask("SELECT sum(added), count(*) FROM actions", view=TableView(sql.table.files, hot, schema))
    assert answer.rows == [(5 * len(sql.table.hot_rows), len(sql.table.all_rows))]
    assert "added" not in sql.ask("SELECT * FROM actions LIMIT 1").table.schema.names


def test_each_query_sees_its_own_snapshot(sql: Sandbox) -> None:
    for files, hot in ((2, 0), (5, 7), (0, 12), (12, 1), (5, 7)):
        view = TableView(sql.table.files[:files], as_table(sql.table.hot_rows[:hot]), SCHEMA.table_schema)
        assert sql.ask("SELECT count(*) FROM actions", view=view).rows == [(40 * files + hot,)]


@pytest.mark.parametrize("hot_rows", [0, 3])
def test_a_file_that_is_gone_asks_for_a_newer_snapshot(sql: Sandbox, hot_rows: int) -> None:
    rows = make_rows(days=1, per_file=2, first_day=FIRST_DAY + datetime.timedelta(days=300))
    gone = write_file(sql.table.folder, [row for row in rows if row["type"] == "view"])
    Path(gone.path).unlink()
    hot = as_table(sql.table.hot_rows[:hot_rows])
    with pytest.raises(SnapshotUnreadable) as raised:
        sql.ask("SELECT count(*) FROM actions", view=TableView((gone,), hot, SCHEMA.table_schema))
    assert str(sql.table.folder) not in str(raised.value)
    newer = TableView(sql.table.files[:1], as_table(sql.table.hot_rows[: 3 - hot_rows]), SCHEMA.table_schema)
    assert sql.ask("SELECT count(*) FROM actions", view=newer).rows == [(40 + 3 - hot_rows,)]
    assert sql.lost == []


@pytest.mark.parametrize("damage", ["empty", "cut", "text", "overwritten"])
def test_a_damaged_file_is_not_called_wrong_sql(sql: Sandbox, damage: str) -> None:
    rows = make_rows(days=1, per_file=200, first_day=FIRST_DAY + datetime.timedelta(days=301))
    file = write_file(sql.table.folder, [row for row in rows if row["type"] == "view"])
    whole = Path(file.path).read_bytes()
    damaged = {
        "empty": b"",
        "cut": whole[: len(whole) // 2],
        "text": b"no Parquet at all, " * 50,
        "overwritten": whole[:100] + bytes(len(whole) - 1100) + whole[-1000:],
    }
    Path(file.path).write_bytes(damaged[damage])
    with pytest.raises(SnapshotUnreadable) as raised:
        sql.ask("SELECT * FROM actions", view=TableView((file,), as_table([]), SCHEMA.table_schema))
    assert str(sql.table.folder) not in str(raised.value)
    Path(file.path).unlink()
    assert sql.ask("SELECT count(*) FROM actions").rows == [(len(sql.table.all_rows),)]


def test_a_file_outside_the_table_is_refused_before_anything_runs(sql: Sandbox, tmp_path: Path) -> None:
    elsewhere = write_file(tmp_path, make_rows(days=1, per_file=1)[:1])
    with pytest.raises(ValueError, match="not below"):
        sql.ask("SELECT 1", view=TableView((elsewhere,), as_table([]), SCHEMA.table_schema))
    assert sql.ask("SELECT 1").rows == [(1,)]


@pytest.mark.parametrize(
    ("statement", "message", "position", "suggestion"),
    [
        ("selec 1", "syntax error", 0, None),
        ("SELECT * FORM actions", "syntax error", 14, None),
        ("SELECT 'é日本', * FORM actions", "syntax error", 21, None),
        ("SELECT usr_id FROM actions", "usr_id", 7, "user_id"),
        ("SELECT 'é日本', usr_id FROM actions", "usr_id", 14, "user_id"),
        ("SELECT lenght(user_id) FROM actions", "lenght", 7, "length"),
        ("SELECT * FROM acton", "acton", 14, "actions"),
        ("SELECT 'é' FROM clicks, acton", "acton", 24, "actions"),
        ("SELECT 1 +", "syntax error", 10, None),
        ("SELECT 'abc'::DATE", "abc", 12, None),
        ("EXPLAIN SELECT usr_id FROM actions", "usr_id", 15, "user_id"),
        ("/* é */ EXPLAIN ANALYZE SELECT usr_id FROM actions", "usr_id", 31, "user_id"),
        ("EXPLAIN SELECT lenght('é')", "lenght", 15, "length"),
        ("EXPLAIN SELEC 1", "syntax error", 8, None),
        ("SELECT 'open", "unterminated", 7, None),
        ("", "no statement", None, None),
        ("  -- nothing", "no statement", None, None),
        ("SELECT 1; SELECT 2", "2 statements", None, None),
        ("SELECT 1\x00", "NUL", 8, None),
        ("SELECT '\ud800'", "surrogate", 8, None),
        ("PIVOT actions ON type USING count(*)", "SELECT", None, None),
        ("SELECT user_id::INTEGER FROM actions", "Could not convert", 14, None),
        ("SELECT " + "x" * 999_992, "x", 7, None),
        ("SELECT '" + "x" * 999_991 + "'", "longer than", 999_999, None),
        ("SELECT " + "[" * 70 + "1" + "]" * 70, "nested too deeply", None, None),
        ("SELECT " + "abs(" * 900 + "1" + ")" * 900, "nested too deeply", None, None),
        ("SELECT " + "abs(" * 5000 + "1" + ")" * 5000, "memory exhausted", 19_999, None),
        ("SELECT " + "+".join("1" * 5000), "depth", None, None),
    ],
)
def test_errors_say_what_and_where(
    sql: Sandbox, statement: str, message: str, position: int | None, suggestion: str | None
) -> None:
    with pytest.raises(SqlError) as raised:
        sql.ask(statement)
    assert message in raised.value.message
    assert raised.value.position == position
    if suggestion is None:
        return
    assert suggestion in (raised.value.suggestion or "").split(", ")


def test_an_error_in_the_middle_of_an_answer_reaches_who_iterates(sql: Sandbox) -> None:
    with pytest.raises(SqlError, match="no number"):
        sql.ask("SELECT CASE WHEN n = 90000 THEN error('no number') ELSE n::VARCHAR END FROM range(100000) t(n)")
    assert sql.ask("SELECT 1").rows == [(1,)]


def test_a_type_without_a_plural_gets_a_view_too() -> None:
    """Also where the configuration names columns by words of SQL."""
    from queries.views import view_statements

    columns = ("item", "order", "group", "select", "end")
    schema = ActionSchema({"add-to-cart": tuple(PromotedProperty(one, one, "varchar") for one in columns)})
    statements = view_statements(schema)
    assert list(statements) == ["add-to-cart_actions", "sessions", "daily_activity"]
    connection = duckdb.connect()
    connection.register("actions", schema.table_schema.empty_table())
    rows: list[Row] = connection.execute(statements["add-to-cart_actions"]).to_arrow_table().to_pylist()
    assert rows == []


@pytest.mark.parametrize(
    ("text", "portable"),
    [
        ("SELECT * FROM actions ORDER BY ALL", True),
        ("SELECT * FROM actions WHERE user_id = 'nobody'", True),
        ("SELECT i, repeat('x', 50) AS text FROM range(60000) t(i)", True),
        ("SELECT [1, 2] AS l", False),
        ("SELECT sum(i) FROM range(10) t(i)", False),
        ("SELECT 1 AS a, 2 AS a", False),
        ("SELECT 'a'::ENUM ('b', 'a') AS e", False),
        ("SELECT INTERVAL 1 DAY AS i", False),
    ],
)
def test_the_stream_as_the_worker_wrote_it_has_the_rows_that_are_read_from_it(
    sql: Sandbox, text: str, portable: bool
) -> None:
    expected = sql.ask(text)
    assert is_portable(expected.result.schema) is portable
    if portable:
        with sql.pool.run(SqlRequest(text), sql.view) as result:
            written = b"".join(part for message in result.arrow_stream() for part in message)
        with pa.ipc.open_stream(written) as stream:
            assert stream.read_all().equals(expected.table)
        assert result.statistics is not None
        assert result.statistics.rows == expected.table.num_rows
