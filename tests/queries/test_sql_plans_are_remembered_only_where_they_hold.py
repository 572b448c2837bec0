"""A query that is asked again is not planned again, unless its plan could be another one by now."""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import duckdb
import pytest

from queries.sql import SqlError
from queries.sql.catalog import Catalog
from queries.sql.file_lists import FileLists
from queries.sql.functions import SCALAR_FUNCTIONS
from queries.sql.guard import Guard
from queries.sql.literals import sql_text
from queries.sql.messages import Run
from queries.sql.pruning import FileBounds, FileFilter
from queries.sql.remembered_plans import RememberedPlans
from queries.sql.steadiness import VALUE_NAMES, steady_functions
from queries.views import view_statements
from tests.queries.sql_tables import SCHEMA, Sandbox, SmallTable, make_rows, sandbox, write_table

DAY_ONE = datetime.date(2024, 1, 1)


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    table = write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=4, per_file=6))
    with sandbox(table, tmp_path_factory.mktemp("temp")) as one:
        yield one


@pytest.fixture(scope="module")
def guard() -> Guard:
    connection = duckdb.connect()

    def parse(texts: list[str]) -> list[str]:
        return [
            str(connection.execute(f"SELECT json_serialize_sql({sql_text(one)}::VARCHAR)").fetchall()[0][0])
            for one in texts
        ]

    steady = steady_functions(connection, macros=["lower"])
    return Guard(lambda texts: parse(list(texts)), views=["actions"], macros=["lower"], taken=[], steady=steady)


def test_a_query_asked_again_sees_the_files_of_its_own_snapshot(sql: Sandbox) -> None:
    query = "SELECT count(*) FROM actions WHERE date >= DATE '2024-01-03'"
    assert [sql.ask(query).rows for _ in range(3)] == [[(36,)]] * 3
    fewer = SmallTable(sql.table.folder, sql.table.files[:-1], [], []).view
    more = SmallTable(sql.table.folder, sql.table.files, [], make_rows(days=1, per_file=1, first_day=DAY_ONE)).view
    for view, rows, files in ((fewer, 30, 5), (sql.view, 36, 6), (fewer, 30, 5), (more, 36, 6), (sql.view, 36, 6)):
        answer = sql.ask(query, view=view)
        assert (answer.rows, answer.result.pruning.by_time.files) == ([(rows,)], files)
        assert answer.statistics.scanned_files == files


def test_parameters_are_a_part_of_the_question(sql: Sandbox) -> None:
    query = "SELECT count(*) FROM actions WHERE date = $day AND type = $type"
    for _ in range(2):
        for day, type_, rows, files in (
            ("2024-01-02", "click", 6, 1),
            ("2024-01-03", "click", 6, 1),
            ("2024-01-03", "none", 0, 0),
            ("1999-01-01", "click", 0, 0),
        ):
            answer = sql.ask(query, {"day": datetime.date.fromisoformat(day), "type": type_})
            assert (answer.rows, answer.result.pruning.by_time.files) == ([(rows,)], files)


def test_queries_in_turn_each_read_their_own_files(sql: Sandbox) -> None:
    queries = {f"SELECT count(*) FROM actions WHERE date <= DATE '2024-01-0{day}'": day for day in range(1, 5)}
    for _ in range(3):
        for query, days in queries.items():
            answer = sql.ask(query)
            assert (answer.rows, answer.result.pruning.by_time.files) == ([(18 * days,)], 3 * days)


@pytest.mark.parametrize(
    "others",
    [
        "SELECT type, count(*) FROM actions WHERE date >= DATE '2024-01-03' GROUP BY type ORDER BY ALL",
        # Without a LIMIT: what one thread has found would tell the others what they need not read.
        "FROM Actions AS a WHERE a.date = DATE '2024-01-02' ORDER BY \"position\";",
        "SELECT actions.user_id, unnest([1, 2]) FROM actions WHERE type = 'view' ORDER BY ALL -- all days",
        "SELECT count(*) FROM actions WHERE date = (SELECT min(date) FROM actions)",
        "WITH actions2 AS (FROM actions WHERE type = 'click') SELECT count(*) FROM actions2",
        "SELECT count(*) FROM actions a JOIN actions b USING (position) WHERE a.date > DATE '2024-01-02'",
        "SELECT count(*) FROM clicks WHERE date = DATE '2024-01-04'",
        "SELECT count(DISTINCT memory.actions.user_id) FROM actions WHERE date < DATE '2024-01-03'",
        "SELECT count(memory.actions) FROM actions WHERE date < DATE '2024-01-03'",
    ],
)
def test_a_query_between_others_answers_as_the_first_time(sql: Sandbox, others: str) -> None:
    # Asked for the first time, it takes the files of the other one away from the view.
    between = f"SELECT count(*) FROM actions WHERE date = DATE '2024-01-01' AND type = 'click' -- {others}"
    first = sql.ask(others)
    for _ in range(3):
        assert sql.ask(between).rows == [(6,)]
        again = sql.ask(others)
        assert again.rows == first.rows
        assert again.statistics.scanned_files == first.statistics.scanned_files
        assert again.statistics.scanned_bytes == first.statistics.scanned_bytes


def test_the_place_of_an_error_is_told_where_a_query_is_asked_again(sql: Sandbox) -> None:
    wrong = "SELECT count(*) FROM actions WHERE date <= DATE '2024-01-02' AND user_id::INTEGER > 1"
    for _ in range(3):
        sql.ask("SELECT count(*) FROM actions WHERE date = DATE '2024-01-01'")
        with pytest.raises(SqlError) as error:
            sql.ask(wrong)
        assert error.value.position == wrong.index("::INTEGER")


def test_lists_of_files_are_kept_within_bounds() -> None:
    connection = duckdb.connect()
    lists = FileLists(connection, "first")
    days = [[FileBounds(f"{day}-{n}", 1, DAY_ONE, "click", 0, 1) for n in range(400)] for day in range(30)]
    names = [lists.variable_of(one) for one in days]
    assert len(set(names)) == len(days)
    known = [connection.execute(f"SELECT getvariable('{name}')").fetchall()[0][0] for name in names]
    assert sum(len(one) for one in known if one is not None) <= 4_000
    assert known[0] is None
    assert known[-1] == ["first", *(one.path for one in days[-1])]
    assert lists.variable_of(days[-1]) == names[-1]
    lists.forget()
    assert connection.execute(f"SELECT getvariable('{names[-1]}')").fetchall() == [(None,)]
    assert lists.variable_of(days[-1]) not in names


class _InterruptedAfterwards:
    """A connection whose statements are interrupted where they have had their effect."""

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self.connection = connection
        self.interrupts = ""

    def __getattr__(self, name: str) -> object:
        return getattr(self.connection, name)

    def execute(self, sql: str) -> duckdb.DuckDBPyConnection:
        self.connection.execute(sql)
        if self.interrupts and sql.startswith(self.interrupts):
            raise duckdb.InterruptException("interrupted")
        return self.connection


def test_an_interrupted_statement_leaves_no_list_that_is_another(tmp_path: Path) -> None:
    interrupted = _InterruptedAfterwards(duckdb.connect())
    connection = cast("duckdb.DuckDBPyConnection", interrupted)
    lists = FileLists(connection, "first")
    file = FileBounds("one", 1, DAY_ONE, "click", 0, 1)
    files = [file]
    lists.variable_of(files)
    interrupted.interrupts = "RESET"
    with pytest.raises(duckdb.InterruptException):
        lists.forget()
    name = lists.variable_of(files)
    assert connection.execute(f"SELECT getvariable('{name}')").fetchall() == [(["first", "one"],)]

    catalog = Catalog(connection, tmp_path, macros={})
    interrupted.interrupts = ""
    catalog.use_schema(SCHEMA.table_schema, {})
    catalog.use_files(files)
    interrupted.interrupts = "SET VARIABLE"
    with pytest.raises(duckdb.InterruptException):
        catalog.use_files([file, file])
    interrupted.interrupts = ""
    assert not catalog.has(files)
    catalog.use_files(files)
    assert connection.execute("SELECT getvariable('files')").fetchall() == [([catalog.template_path, "one"],)]


@pytest.mark.parametrize(
    "condition",
    [
        "date = current_date",
        "date = CURRENT_DATE",
        'date = "current_date"',
        "date = today()",
        "time > now() - INTERVAL 1 HOUR",
        "time > Now()",
        "time > current_timestamp",
        "time > get_current_timestamp()",
        "time > transaction_timestamp()",
        "time::TIMESTAMP > current_localtimestamp()",
        "age(time) < INTERVAL 3 DAY",
        "time > ago(INTERVAL 3 DAY)",
        "random() < 0.5",
        "date IN (SELECT current_date)",
        "date = (SELECT max(d) FROM (VALUES (today())) AS v(d))",
        "date = CASE WHEN type = 'click' THEN today() ELSE DATE '2024-01-01' END",
        "list_contains(list_transform([1], lambda x: today()), date)",
        # A macro of the service's own may hide a function of DuckDB's.
        "lower(type) = 'click'",
    ],
)
def test_what_asks_the_clock_is_planned_each_time(guard: Guard, condition: str) -> None:
    assert not guard.check(f"SELECT count(*) FROM actions WHERE {condition}").steady
    assert not guard.check(f"WITH a AS (SELECT * FROM actions WHERE {condition}) SELECT count(*) FROM a").steady
    assert not guard.check(f"SELECT count(*) FROM actions a JOIN actions b ON {condition}").steady


@pytest.mark.parametrize(
    "condition",
    [
        "date = DATE '2024-01-02' AND type IN ('click', 'view') AND user_id = ?",
        "time >= '2024-01-02 00:00:00+00' AND time < TIMESTAMPTZ '2024-01-02' + INTERVAL 6 HOUR",
        "date_trunc('day', time) = '2024-01-02' AND type LIKE 'cl%'",
    ],
)
def test_what_compares_with_constants_is_remembered(guard: Guard, condition: str) -> None:
    assert guard.check(f"SELECT type, count(*), min(time) FROM actions WHERE {condition} GROUP BY type").steady


def test_ready_views_do_not_ask_the_clock(guard: Guard) -> None:
    for select in view_statements(SCHEMA).values():
        assert guard.check(select).steady


def test_every_name_that_stands_for_a_function_is_known() -> None:
    connection = duckdb.connect()
    steady = steady_functions(connection, macros=())
    names = {
        str(one) for (one,) in connection.execute("SELECT lower(function_name) FROM duckdb_functions()").fetchall()
    }
    stand_alone = set()
    for name in names - steady:
        try:
            connection.execute(f'SELECT "{name}"')
        except duckdb.Error:
            continue
        stand_alone.add(name)
    assert "current_date" in stand_alone
    assert stand_alone <= VALUE_NAMES


def test_steady_functions_without_arguments_are_constants() -> None:
    connection = duckdb.connect()

    def values() -> dict[str, object]:
        found: dict[str, object] = {}
        for name in SCALAR_FUNCTIONS & steady_functions(connection, macros=()):
            try:
                found[name] = connection.execute(f'SELECT "{name}"()::VARCHAR').fetchall()
            except duckdb.Error:
                continue
        return found

    first = values()
    assert "pi" in first
    assert values() == first


def _request(text: object) -> Run:
    return Run(
        sql=f"SELECT {text}",
        parameters=[],
        max_rows=None,
        rows_max=1,
        result_bytes_max=1,
        explain=False,
        cpu_s_max=1,
        batches=0,
    )


def test_plans_are_remembered_within_bounds() -> None:
    plans = RememberedPlans()
    files = [FileBounds(f"{day}", 1, DAY_ONE + datetime.timedelta(day), "click", 0, 1) for day in range(3)]
    first_day = FileFilter([[lambda file: bool(file.date == DAY_ONE)]], [[lambda file: True]])
    for number in range(300):
        key = plans.key_of(_request(number))
        assert key is not None
        assert plans.prune(key, files) is None
        plans.learn(key, first_day, first_day.prune(files), files)
        assert (found := plans.prune(key, files)) is not None
        assert list(found.by_time) == files[:1]
        assert plans.prune(key, files) is found
    oldest, newest = plans.key_of(_request(0)), plans.key_of(_request(299))
    assert oldest is not None
    assert newest is not None
    assert plans.prune(oldest, files) is None
    plans.forget_files()
    assert (other := plans.prune(newest, files[1:])) is not None
    assert list(other.by_time) == []
    plans.forget()
    assert plans.prune(newest, files) is None


def test_large_texts_are_not_remembered() -> None:
    assert RememberedPlans().key_of(_request("x" * 10_000)) is None


def test_a_wrong_query_is_wrong_each_time(sql: Sandbox) -> None:
    for _ in range(2):
        with pytest.raises(SqlError, match="nothing_here"):
            sql.ask("SELECT nothing_here FROM actions")
