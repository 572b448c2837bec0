"""A query that counts different values day by day answers as over all days at once; others are left as they are."""

from __future__ import annotations

import datetime
import itertools
import threading

import duckdb
import msgspec
import pyarrow as pa
import pytest

from queries.sql.day_groups import DayGroups, day_groups, parts_by_days
from queries.sql.engine import Engine, Receiver
from queries.sql.messages import Run, Start
from queries.sql.pruning import FileBounds
from queries.views import view_statements
from storage.erased_rows import NOTHING_ERASED, ErasedRows
from tests.queries.sql_tables import FIRST_DAY, SCHEMA, as_table, make_rows, write_table

DAILY = "SELECT date, type, count(*) AS actions, count(DISTINCT user_id) AS users FROM actions GROUP BY date, type"
BY_DAYS = [
    f"{DAILY} ORDER BY date, type",
    f"{DAILY} ORDER BY 2 DESC, DATE NULLS FIRST -- by type",
    f"{DAILY} HAVING count(DISTINCT session_id) > 1 ORDER BY users, 1, 2;",
    "SELECT count(DISTINCT user_id), count(DISTINCT user_id), a.date FROM actions AS a"
    " WHERE time > '2024-01-02' GROUP BY a.date",
    'SELECT sum(DISTINCT position) AS s, min(user_id) FROM Actions GROUP BY "date", session_id ORDER BY s, 2',
]
AS_THEY_ARE = [
    "SELECT date, count(*) FROM actions GROUP BY date",
    "SELECT type, count(DISTINCT user_id) FROM actions GROUP BY type",
    f"{DAILY} LIMIT 3",
    f"{DAILY} ORDER BY count(*)",
    f"WITH x AS (SELECT 1) {DAILY}",
    f"{DAILY} UNION ALL {DAILY}",
    "SELECT DISTINCT date, count(DISTINCT user_id) FROM actions GROUP BY date",
    "SELECT date, count(DISTINCT user_id) FROM actions GROUP BY ALL",
    "SELECT date, count(DISTINCT user_id) FROM actions GROUP BY ROLLUP (date)",
    "SELECT date, type, count(DISTINCT user_id) FROM actions GROUP BY CUBE (date, type)",
    "SELECT date, count(DISTINCT user_id) FROM actions GROUP BY GROUPING SETS ((date), ())",
    "SELECT date, count(DISTINCT user_id) FROM clicks GROUP BY date",
    "SELECT date, count(DISTINCT memory.actions.user_id) FROM actions GROUP BY date",
    "SELECT date, count(DISTINCT user_id), (SELECT count(*) FROM actions) FROM actions GROUP BY date",
    "SELECT date, count(DISTINCT user_id), rank() OVER (ORDER BY date) FROM actions GROUP BY date",
    "SELECT date, count(DISTINCT user_id) FROM actions WHERE type = $1 GROUP BY date",
    "SELECT month(date) AS date, count(DISTINCT user_id) FROM actions GROUP BY date",
    "SELECT a.date, count(DISTINCT a.user_id) FROM actions AS a JOIN actions AS b USING (date) GROUP BY a.date",
    "SELECT date, count(DISTINCT user_id) FROM actions TABLESAMPLE 10% GROUP BY date",
    "SELECT date, count(DISTINCT user_id) FROM actions GROUP BY date USING SAMPLE 10%",
]


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Engine:
    """A worker's engine, in this process, over five days of files, and hot rows of one of them and of a later one."""
    folder, temp = tmp_path_factory.mktemp("table") / "actions", tmp_path_factory.mktemp("temp")
    hot = [
        *make_rows(days=1, per_file=3, first_day=FIRST_DAY + datetime.timedelta(days=2), journal="hot"),
        *make_rows(days=1, per_file=2, first_day=FIRST_DAY + datetime.timedelta(days=9), journal="hot"),
    ]
    table = write_table(folder, make_rows(days=5, per_file=20), hot)
    start = Start(str(folder), str(temp), 1 << 28, 2, 1 << 28, view_statements(SCHEMA), {}, [], 0)
    made = Engine(start, SCHEMA.table_schema, lambda: None)
    files = [
        FileBounds(one.path, one.size_bytes, one.date, one.type, one.time_min_us, one.time_max_us)
        for one in table.files
    ]
    made.use_table(SCHEMA.table_schema, files)
    made.use_hot(as_table(hot))
    return made


def answer(engine: Engine, sql: str) -> tuple[list[str], list[tuple[object, ...]], int]:
    """The names of the columns, the rows, and how many files were read."""
    names: list[str] = []
    rows: list[tuple[object, ...]] = []

    def take(batch: pa.RecordBatch) -> None:
        rows.extend(zip(*(column.to_pylist() for column in batch.columns), strict=True))

    receiver = Receiver(lambda started, _: names.extend(name for name, _ in started.columns), take, threading.Event())
    run = Run(sql, [], None, 1000, 1 << 24, False, 100, 4)
    return names, rows, engine.run(run, receiver).scanned_files


@pytest.mark.parametrize("sql", BY_DAYS)
def test_the_answer_is_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch, sql: str) -> None:
    names, rows, files = answer(engine, sql)
    monkeypatch.setattr("queries.sql.day_groups._WORTH_BYTES", 0)
    monkeypatch.setattr("queries.sql.day_groups._PART_BYTES_MIN", 1)
    ran: list[str] = []
    union = DayGroups.union

    def noted(groups: DayGroups, select: str, parts: list[str]) -> str:
        ran.append(union(groups, select, parts))
        return ran[-1]

    monkeypatch.setattr(DayGroups, "union", noted)
    found = answer(engine, sql)
    assert len(ran) == 1
    assert ran[0].count("UNION ALL (WITH") >= 3
    assert found[0] == names
    assert found[2] == files > 0
    if "ORDER BY" in sql:
        assert found[1] == rows
    else:
        assert sorted(found[1], key=str) == sorted(rows, key=str)


def test_erased_rows_are_left_out_all_the_same(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("queries.sql.day_groups._WORTH_BYTES", 0)
    monkeypatch.setattr("queries.sql.day_groups._PART_BYTES_MIN", 1)
    before = answer(engine, BY_DAYS[0])[1]
    engine.use_erased(ErasedRows.of([("u1", {})]))
    try:
        without = answer(engine, BY_DAYS[0])[1]
    finally:
        engine.use_erased(NOTHING_ERASED)
    assert [row[3] for row in before][:3] == [5, 5, 5]
    assert [row[3] for row in without][:3] == [4, 4, 4]


def test_a_query_asked_again_after_one_by_days_reads_its_own_files(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("queries.sql.day_groups._WORTH_BYTES", 0)
    monkeypatch.setattr("queries.sql.day_groups._PART_BYTES_MIN", 1)
    queries = [f"SELECT count(*) FROM actions WHERE date = DATE '2024-01-0{day}'" for day in range(1, 6)]
    first = [answer(engine, sql) for sql in queries]
    # Now each of them has a list of its own, and then each part of the days has one.
    assert [answer(engine, sql) for sql in queries] == first
    by_days = answer(engine, BY_DAYS[0])
    assert [answer(engine, sql) for sql in queries] == first
    assert answer(engine, BY_DAYS[0]) == by_days


def tree_of(sql: str) -> dict[str, object]:
    text = duckdb.execute(
        "SELECT json_serialize_sql($1::VARCHAR, skip_null := true, skip_empty := true)", [sql]
    ).fetchall()
    tree: dict[str, object] = msgspec.json.decode(text[0][0])["statements"][0]["node"]
    return tree


@pytest.mark.parametrize("sql", AS_THEY_ARE)
def test_others_are_left_as_they_are(sql: str) -> None:
    assert day_groups(sql, tree_of(sql)) is None


@pytest.mark.parametrize("sql", BY_DAYS)
def test_these_are_not(sql: str) -> None:
    assert day_groups(sql, tree_of(sql.rstrip(";"))) is not None


def test_parts_are_whole_days_and_few() -> None:
    def file(day: int, size: int) -> FileBounds:
        return FileBounds(f"f{day}", size, FIRST_DAY + datetime.timedelta(days=day), "click", 0, 0)

    assert parts_by_days([]) == []
    assert len(parts_by_days([file(day, 1 << 20) for day in range(20)])) == 1
    many = [file(day // 3, 4 << 20) for day in range(900)]
    parts = parts_by_days(many)
    assert [one for part in parts for one in part] == many
    assert 10 < len(parts) < 60
    for before, after in itertools.pairwise(parts):
        assert before[-1].date < after[0].date
