# One statement a line, however long.
# ruff: noqa: E501
"""Which files a query reads: few enough, never too few, and the figures about it are true.

The table has 6 days of 3 types, each in 2 files: one of the morning and one of the afternoon.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as pq
import pytest

from queries.sql import FileCount
from queries.sql.pruning import FilePruner
from queries.views import view_statements
from storage.data_files import DataFile
from tests.queries.sql_tables import SCHEMA, Row, Sandbox, SmallTable, as_table, make_rows, sandbox, write_file

TOTAL_FILES = 36


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    folder = tmp_path_factory.mktemp("table") / "actions"
    rows = make_rows(days=6, per_file=24)
    halves: dict[tuple[Any, ...], list[Row]] = {}
    for row in rows:
        halves.setdefault((row["date"], row["type"], row["time"].hour < 12), []).append(row)
    files: tuple[DataFile, ...] = tuple(write_file(folder, part) for part in halves.values())
    with sandbox(SmallTable(folder, files, rows, []), tmp_path_factory.mktemp("temp")) as one:
        yield one


@pytest.fixture(scope="module")
def bare(sql: Sandbox) -> duckdb.DuckDBPyConnection:
    """The same views over all files, without any of our choosing of files."""
    connection = duckdb.connect()
    connection.execute("SET TimeZone = 'UTC'; SET enable_external_file_cache = false")
    paths = [file.path for file in sql.table.files]
    columns = ", ".join(SCHEMA.table_schema.names)
    connection.execute(
        f"CREATE VIEW actions AS SELECT {columns} FROM read_parquet({paths},"
        " hive_partitioning = true, hive_types = {'date': DATE, 'type': VARCHAR})"
    )
    for name, select in view_statements(SCHEMA).items():
        connection.execute(f"CREATE VIEW {name} AS {select}")
    return connection


@pytest.mark.parametrize(
    ("condition", "by_partition", "by_time"),
    [
        ("true", 36, 36),
        ("user_id = 'u1'", 36, 36),
        ("date = '2024-01-02'", 6, 6),
        ("type = 'click'", 12, 12),
        ("date = '2024-01-02' AND type = 'click'", 2, 2),
        ("user_id = 'u1' AND date = '2024-01-02' AND type = 'click'", 2, 2),
        ("type IN ('click', 'view')", 24, 24),
        ("type <> 'click'", 24, 24),
        ("type LIKE 'cl%'", 12, 12),
        ("date BETWEEN '2024-01-02' AND '2024-01-03'", 12, 12),
        ("date > '2024-01-05'", 6, 6),
        ("'2024-01-05' < date", 6, 6),
        ("date IN ('2024-01-01', '2024-01-06', '1999-01-01')", 12, 12),
        ("date = '1999-01-01'", 0, 0),
        ("false", 0, 0),
        ("date = '2024-01-01' OR date = '2024-01-04'", 12, 12),
        ("time >= '2024-01-02 00:00:00+00' AND time < '2024-01-02 01:00:00+00'", 36, 3),
        ("time >= '2024-01-02 01:00:00+01' AND time < '2024-01-02 02:00:00+01'", 36, 3),
        ("time BETWEEN '2024-01-02 06:00:00Z' AND '2024-01-02 18:00:00Z'", 36, 6),
        ("type = 'view' AND time = '2024-01-02 06:00:00Z'", 12, 1),
        ("time > '2024-01-06 20:00:00Z'", 36, 3),
        ("time < '2024-01-01 00:00:00Z'", 36, 0),
        ("time <= '2024-01-01 00:00:00Z'", 36, 3),
        ("date_trunc('day', time) = '2024-01-02'", 36, 6),
        ("time >= '2024-01-02'::TIMESTAMPTZ AND time < '2024-01-02'::TIMESTAMPTZ + INTERVAL 6 HOUR", 36, 3),
        ("(time < '2024-01-01 01:00:00Z') OR (time > '2024-01-06 22:00:00Z')", 36, 6),
        ("time < now() - INTERVAL 1 DAY", 36, 36),
        ("time > now()", 36, 0),
        ("time < 'infinity'", 36, 36),
        ("time > '0044-03-15 (BC)'", 36, 36),
        ("time IS NOT NULL AND date = '2024-01-02'", 6, 6),
        # Nothing is known about these, so nothing is left out before; DuckDB itself may leave out partitions.
        ("extract(hour FROM time) = 3", 36, 36),
        ("time IS NULL OR date = '2024-01-02'", 36, 36),
        ("time::DATE = '2024-01-02'", 36, 36),
    ],
)
def test_conditions_leave_out_files(sql: Sandbox, condition: str, by_partition: int, by_time: int) -> None:
    answer = sql.ask(f"SELECT count(*) FROM actions WHERE {condition}")
    pruning = answer.result.pruning
    sizes = sum(file.size_bytes for file in sql.table.files)
    assert pruning.total == FileCount(TOTAL_FILES, sizes)
    assert (pruning.by_partition.files, pruning.by_time.files) == (by_partition, by_time)
    assert answer.statistics.scanned_files <= by_time
    assert answer.statistics.total_files == TOTAL_FILES


def test_bound_parameters_leave_out_files(sql: Sandbox) -> None:
    begin = datetime.datetime(2024, 1, 2, tzinfo=datetime.UTC)
    by_position = sql.ask(
        "SELECT count(*) FROM actions WHERE type = ? AND time >= ? AND time < ?",
        ["click", begin, begin + datetime.timedelta(hours=3)],
    )
    by_name = sql.ask("SELECT count(*) FROM clicks WHERE date = $day", {"day": "2024-01-02"})
    assert (by_position.result.pruning.by_time.files, by_position.rows) == (1, [(3,)])
    assert (by_name.result.pruning.by_time.files, by_name.rows) == (2, [(24,)])


def test_views_pass_conditions_on(sql: Sandbox) -> None:
    assert sql.ask("SELECT * FROM clicks WHERE date = '2024-01-02'").result.pruning.by_time.files == 2
    assert sql.ask("SELECT * FROM daily_activity WHERE date = '2024-01-02'").result.pruning.by_time.files == 6


def test_two_scans_read_the_files_of_both(sql: Sandbox) -> None:
    answer = sql.ask(
        "SELECT count(*) FROM actions a JOIN actions b USING (user_id)"
        " WHERE a.date = '2024-01-01' AND a.type = 'click' AND b.date = '2024-01-05' AND b.type = 'view'"
    )
    assert answer.result.pruning.by_time.files == 4
    assert answer.statistics.scanned_files == 4


def test_a_query_without_the_table_reads_nothing(sql: Sandbox) -> None:
    answer = sql.ask("SELECT sum(n) FROM range(100) t(n)")
    assert answer.result.pruning.by_time.files == 0
    assert (answer.statistics.scanned_files, answer.statistics.scanned_bytes) == (0, 0)


# Shapes in which leaving out a file too many would change the answer.
SHAPES = [
    "SELECT count(*), min(time), max(time) FROM actions",
    "SELECT * FROM actions ORDER BY time DESC, type LIMIT 7",
    "SELECT count(*) FROM (SELECT received_at AS time, time AS received_at FROM actions) WHERE time > '2024-01-05'",
    "SELECT count(*) FROM (SELECT user_id AS type, type AS user_id FROM actions) WHERE type = 'u1'",
    "SELECT count(*) FROM (SELECT date + 1 AS date FROM actions) WHERE date = '2024-01-03'",
    "SELECT count(*) FROM (SELECT time - INTERVAL 1 DAY AS time FROM actions) WHERE time < '2024-01-02'",
    "SELECT count(*) FROM actions WHERE type = 'view'' OR ''1''=''1' OR type = 'click'",
    "SELECT count(*) FROM actions WHERE user_id = 'u1' || chr(10) || ' AND type=''view''' OR date = '2024-01-02'",
    "SELECT count(*) FROM actions WHERE type > 'a' || chr(10) || 'b' AND type < 'm'",
    "SELECT count(*) FROM actions WHERE type <> chr(0) AND date = '2024-01-02'",
    "SELECT count(*) FROM actions WHERE (type = 'click' OR user_id = 'u2') AND (date = '2024-01-02' OR type = 'view')",
    "SELECT count(*) FROM actions WHERE (date = '2024-01-02' AND type = 'click') OR (date = '2024-01-03' AND type = 'view')",
    "SELECT count(*) FROM actions WHERE NOT (date = '2024-01-02' AND type = 'click')",
    "SELECT count(*) FROM actions WHERE NOT (time < '2024-01-03' OR time > '2024-01-04')",
    "SELECT count(*) FROM actions WHERE type NOT IN ('click')",
    "SELECT count(*) FROM actions WHERE date NOT BETWEEN '2024-01-02' AND '2024-01-04'",
    "SELECT count(*) FROM actions WHERE CASE WHEN type = 'click' THEN date = '2024-01-02' ELSE date = '2024-01-03' END",
    "SELECT count(*) FROM actions WHERE coalesce(type, 'x') = 'click' AND date = '2024-01-02'",
    "SELECT count(*) FROM actions WHERE date IS DISTINCT FROM '2024-01-02'",
    "SELECT count(*) FROM actions a LEFT JOIN actions b ON a.user_id = b.user_id AND b.date = '2024-01-02' AND a.time = b.time",
    "SELECT count(b.user_id) FROM actions a LEFT JOIN actions b ON a.position = b.position AND b.type = 'click' WHERE a.date = '2024-01-02'",
    "SELECT count(*) FROM actions a RIGHT JOIN actions b ON a.position = b.position AND a.date = '2024-01-02'",
    "SELECT count(*) FROM actions a FULL JOIN actions b ON a.position = b.position AND a.date = '2024-01-02' AND b.type = 'view'",
    "SELECT count(*) FROM actions a SEMI JOIN actions b ON a.user_id = b.user_id AND b.date = '2024-01-02'",
    "SELECT count(*) FROM actions a ANTI JOIN actions b ON a.time = b.time AND b.type = 'click' AND b.date < '2024-01-03'",
    "SELECT count(*) FROM actions a ASOF JOIN clicks b ON a.user_id = b.user_id AND a.time >= b.time WHERE a.date = '2024-01-02'",
    "SELECT count(*) FROM actions a POSITIONAL JOIN (SELECT 1)",
    "SELECT count(*) FROM actions WHERE date = (SELECT max(date) FROM actions)",
    "SELECT count(*) FROM actions WHERE time > (SELECT min(time) + INTERVAL 2 DAY FROM actions WHERE type = 'view')",
    "SELECT count(*) FROM actions a WHERE EXISTS (FROM actions b WHERE b.user_id = a.user_id AND b.date = '2024-01-02' AND b.type <> a.type)",
    "SELECT sum((SELECT count(*) FROM actions b WHERE b.user_id = a.user_id AND b.date = '2024-01-02')) FROM actions a WHERE a.type = 'click'",
    "SELECT count(*) FROM actions a, LATERAL (SELECT b.time FROM actions b WHERE b.user_id = a.user_id AND b.date = '2024-01-06' ORDER BY b.time LIMIT 2)",
    "SELECT count(*) FROM (FROM actions WHERE date = '2024-01-02' UNION ALL FROM actions WHERE type = 'click')",
    "SELECT count(*) FROM (FROM actions EXCEPT FROM actions WHERE date = '2024-01-02')",
    "SELECT count(*) FROM (FROM actions INTERSECT FROM actions WHERE type = 'view')",
    "WITH t AS (FROM actions WHERE type = 'click') SELECT count(*) FROM t a JOIN t b USING (position) WHERE a.date = '2024-01-02'",
    "WITH t AS MATERIALIZED (FROM actions WHERE date > '2024-01-03') SELECT (SELECT count(*) FROM t WHERE type = 'view'), (SELECT count(*) FROM t)",
    "WITH RECURSIVE t(d, n) AS (SELECT DATE '2024-01-01', 0::BIGINT UNION ALL SELECT d + 1, (SELECT count(*) FROM actions WHERE date = d) FROM t WHERE d < '2024-01-07') SELECT sum(n) FROM t",
    "WITH RECURSIVE t(p) AS (SELECT min(position) FROM actions UNION ALL SELECT a.position FROM t JOIN actions a ON a.position = t.p + 1 AND a.type = 'click') SELECT count(*) FROM t",
    "SELECT type, count(*) FILTER (WHERE date = '2024-01-02') FROM actions GROUP BY type ORDER BY type",
    "SELECT count(*) FROM (SELECT row_number() OVER (PARTITION BY user_id ORDER BY time, position) AS n, date FROM actions) WHERE n = 1 AND date = '2024-01-01'",
    "SELECT max(total) FROM (SELECT date, sum(count(*)) OVER (ORDER BY date) AS total FROM actions GROUP BY date) WHERE date = '2024-01-06'",
    "SELECT user_id, count(*) FROM actions GROUP BY user_id HAVING min(date) = '2024-01-01' ORDER BY 1",
    "SELECT count(*) FROM (SELECT DISTINCT ON (user_id) * FROM actions ORDER BY user_id, time DESC, position) WHERE date = '2024-01-06'",
    "SELECT count(*) FROM (FROM actions ORDER BY time, position LIMIT 100) WHERE type = 'click'",
    "FROM actions PIVOT (count(*) FOR type IN ('click', 'view') GROUP BY date) ORDER BY date",
    "SELECT count(*) FROM (UNPIVOT actions ON user_id, type INTO NAME n VALUE v) WHERE v = 'click'",
    "SELECT user_id, actions FROM sessions WHERE started_at < '2024-01-01 06:00:00Z' ORDER BY ALL",
    "SELECT count(*) FROM sessions WHERE ended_at > '2024-01-06'",
    "SELECT * FROM daily_activity WHERE type = 'click' AND users > 1 ORDER BY date",
    "SELECT count(*) FROM actions WHERE time > now() - INTERVAL 100 YEAR AND time < current_date",
    "SELECT count(*) FROM actions WHERE time = ANY (SELECT time FROM actions WHERE date = '2024-01-02')",
    "SELECT count(*) FROM actions GROUP BY GROUPING SETS ((type), ()) ORDER BY 1",
    "SELECT grouping(type), count(*) FROM actions WHERE date = '2024-01-02' GROUP BY ROLLUP (type) ORDER BY ALL",
    "SELECT count(*) FROM actions WHERE struct_pack(a := type).a = 'click' AND [date][1] = '2024-01-02'",
    "SELECT count(*) FROM actions t WHERE (t.type, t.date) IN (('click', DATE '2024-01-02'), ('view', DATE '2024-01-03'))",
    "SELECT count(*) FROM actions WHERE COLUMNS(lambda c: c IN ('type')) = 'click'",
    "SELECT 1 WHERE NOT EXISTS (FROM actions WHERE date = '2024-01-03' AND type = 'click')",
    "SELECT count(*) FROM actions WHERE TRY_CAST(user_id AS DATE) IS NULL AND date >= '2024-01-05'",
]  # fmt: skip


@pytest.mark.parametrize("statement", SHAPES)
def test_an_answer_from_few_files_is_that_from_all(
    sql: Sandbox, bare: duckdb.DuckDBPyConnection, statement: str
) -> None:
    assert sql.ask(statement).portable.to_pylist() == bare.execute(statement).to_arrow_table().to_pylist()


def test_the_comparison_notices_a_file_left_out(sql: Sandbox, bare: duckdb.DuckDBPyConnection) -> None:
    """The control: one file less than needed changes the answers of the shapes that read it all."""
    fewer = SmallTable(sql.table.folder, sql.table.files[1:], [], []).view
    differing = [
        statement
        for statement in SHAPES
        if sql.ask(statement, view=fewer).table.to_pylist() != bare.execute(statement).to_arrow_table().to_pylist()
    ]
    assert len(differing) > len(SHAPES) / 3


def _column_bytes(statement: str) -> int:
    """What DuckDB itself counts of columns when it runs a statement whose footers it knows already."""
    with duckdb.connect() as connection:
        connection.execute("SET enable_external_file_cache = false; SET parquet_metadata_cache = true")
        # Without this it counts only what it reads of footers.
        connection.execute("SET prefetch_all_parquet_files = true; SET enable_profiling = 'no_output'")
        for _ in range(2):
            connection.execute(statement).to_arrow_table()
        read: int = json.loads(connection.get_profiling_information("json"))["total_bytes_read"]
        return read


@pytest.mark.parametrize("columns", ["count(*)", "max(user_id)", "user_id, time", "*"])
@pytest.mark.parametrize("condition", ["date = '2024-01-02' AND type = 'click'", "type = 'view'", "true"])
def test_bytes_are_those_really_read_also_on_a_repeat(sql: Sandbox, columns: str, condition: str) -> None:
    statement = f"SELECT {columns} FROM actions WHERE {condition}"
    first, again = (sql.ask(statement).statistics for _ in range(2))
    assert (first.scanned_files, first.scanned_bytes) == (again.scanned_files, again.scanned_bytes)
    paths = [
        file.path
        for file in sql.table.files
        if condition == "true" or (f"'{file.type}'" in condition and ("date" not in condition or file.date.day == 2))
    ]
    assert first.scanned_files == len(paths)
    hive = "hive_partitioning = true, hive_types = {'date': DATE, 'type': VARCHAR}"
    footers = sum(pq.read_metadata(path).serialized_size + 16 for path in paths)
    of_columns = _column_bytes(f"SELECT {columns} FROM read_parquet({paths}, {hive})")
    assert first.scanned_bytes == footers + of_columns


@pytest.mark.parametrize("column", ["user_id", "properties"])
def test_bytes_of_files_that_are_not_tiny_are_those_of_the_columns_that_are_read(tmp_path: Path, column: str) -> None:
    rows = make_rows(days=1, per_file=30_000)
    for number, row in enumerate(rows):
        row |= {"user_id": f"u{number * 7919 % 30_000}", "properties": f'{{"n": {number * 104_729 % 1_000_003}}}'}
    files = tuple(write_file(tmp_path / "actions", part) for part in (rows[:30_000], rows[30_000:60_000]))
    column_bytes = 0
    for file in files:
        footer = pq.read_metadata(file.path)
        place = footer.schema.names.index(column)
        groups = range(footer.num_row_groups)
        column_bytes += sum(footer.row_group(group).column(place).total_compressed_size for group in groups)
    with sandbox(SmallTable(tmp_path / "actions", files, rows, []), tmp_path / "temp") as one:
        statistics = one.ask(f"SELECT count(DISTINCT {column}) FROM actions").statistics
    assert column_bytes < statistics.scanned_bytes < column_bytes + 2 * 16_384


def test_an_answer_cut_short_counts_what_was_read(sql: Sandbox) -> None:
    cut = sql.ask("SELECT * FROM actions WHERE date = '2024-01-02'", max_rows=3).statistics
    assert cut.truncated
    assert cut.scanned_files == 6
    whole = sql.ask("SELECT * FROM actions WHERE date = '2024-01-02'").statistics
    assert 0 < cut.scanned_bytes <= 1.1 * whole.scanned_bytes


def test_explain_shows_the_plan_and_the_files_without_running(sql: Sandbox) -> None:
    statement = (
        "SELECT user_id, count(*) FROM actions WHERE date = '2024-01-02' AND time > '2024-01-02 12:00:00Z' GROUP BY ALL"
    )
    answer = sql.ask(statement, explain=True)
    ((key, plan),) = answer.rows
    assert key == "physical_plan"
    assert "PARQUET" in plan
    assert [answer.result.pruning.by_partition.files, answer.result.pruning.by_time.files] == [6, 3]
    assert sql.ask(f"EXPLAIN {statement}").rows == answer.rows


@pytest.mark.parametrize("statement", ["EXPLAIN ANALYZE SELECT * FROM actions", "EXPLAIN SELECT * FROM actions"])
def test_plans_name_no_paths(sql: Sandbox, statement: str) -> None:
    ((_, plan),) = sql.ask(statement).rows
    pressed = "".join(character for character in plan if character.isalnum() or character in "./-_=")
    for path in (sql.table.files[0].path, str(sql.table.folder), "template.parquet", "part-1.parquet"):
        assert path not in pressed


def test_explain_analyze_tells_rows_and_files(sql: Sandbox) -> None:
    answer = sql.ask("EXPLAIN ANALYZE SELECT count(*) FROM actions WHERE date = '2024-01-02'")
    assert "READ_PARQUET  72 rows" in answer.rows[0][1]
    assert "Total Files Read: 6" in answer.rows[0][1]
    assert answer.statistics.scanned_files == 6


@pytest.mark.parametrize(
    "plan",
    [
        [{"name": "READ_CSV_AUTO ", "children": [], "extra_info": {}}],
        [{"name": "PROJECTION", "extra_info": {}, "children": [{"name": "GLOB", "children": [], "extra_info": {}}]}],
        [{"name": "SEQ_SCAN ", "children": [], "extra_info": {"Table": "memory.main.something"}}],
    ],
)
def test_a_plan_that_reads_something_else_is_refused(plan: list[Any]) -> None:
    from queries.sql import SqlError

    pruner = FilePruner(lambda _: [], table="memory.planning.t", columns={"x_date": "date"})
    with pytest.raises(SqlError, match="not allowed"):
        pruner.file_filter(json.dumps(plan))


def test_hot_rows_are_counted_and_seen(sql: Sandbox, tmp_path: Path) -> None:
    hot = make_rows(days=1, per_file=5, first_day=datetime.date(2025, 1, 1))
    view = SmallTable(sql.table.folder, sql.table.files, [], hot).view
    answer = sql.ask("SELECT count(*) FROM actions WHERE date = '2025-01-01'", view=view)
    assert answer.rows == [(15,)]
    assert (answer.result.pruning.by_time.files, answer.result.pruning.hot_rows) == (0, 15)
    assert as_table(hot).num_rows == 15
