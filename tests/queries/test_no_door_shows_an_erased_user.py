"""From the moment an erasure is recorded no door shows the user's rows, although all of them are still there."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from queries.engine import Engine, EngineLimits
from queries.file_index import RetrievalFilter
from queries.formats import Format
from queries.local_sql import LocalSql
from queries.retrieval import RetrievalRequest, retrieve_page
from queries.sources import Order
from queries.sql import SqlPool, SqlRequest, TableView
from queries.streaming import StreamRequest, stream_retrieval
from storage.opening import read_store
from storage.store import Store
from tests.queries.histories import history_chore, small_runs, work
from tests.storage.building import SCHEMA, put, store_in

USER = 'bob\'s "erased" é'
# Actions of the user before the erasure, in files and hot; of others; of the user who came back, in files and hot.
ERASED, OTHERS, BACK = 12, 20, 3


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with store_in(tmp_path_factory.mktemp("doors") / "data") as made:
        put(made, 8, user=USER, days=2)
        put(made, OTHERS, user="ann", days=2)
        made.flush_here()
        put(made, ERASED - 8, user=USER)
        made.erase(USER)
        # In a flush of its own, so that the rows which come back are in a file while the erasure is still to be done.
        made.flush_here()
        put(made, 2, user=USER)
        made.flush_here()
        put(made, BACK - 2, user=USER)
        yield made


def _page(store: Store, asked: RetrievalFilter) -> list[str]:
    engine = Engine(EngineLimits(), store.paths.state / "query-temp")
    try:
        with engine.connect() as connection:
            view = store.read_view()
            rows = retrieve_page(connection, view, RetrievalRequest(asked, "asc", 1000)).rows
            return [json.loads(row)["userId"] for row in rows]
    finally:
        engine.close()


def _stream(store: Store, asked: RetrievalFilter, format_: Format) -> bytes:
    engine = Engine(EngineLimits(), store.paths.state / "query-temp")
    try:
        with engine.connect() as connection:
            stream = stream_retrieval(connection, store.read_view(), StreamRequest(asked, "asc", format_))
            return b"".join(stream.content)
    finally:
        engine.close()


EVERYTHING = RetrievalFilter(from_us=0, to_us=4_000_000_000_000_000)


def _streamed_lines(store: Store) -> list[str]:
    return [json.loads(line)["userId"] for line in _stream(store, EVERYTHING, Format.NDJSON).splitlines()]


def _streamed_arrow(store: Store) -> list[str]:
    with pa.ipc.open_stream(_stream(store, EVERYTHING, Format.ARROW)) as stream:
        users: list[str] = stream.read_all()["user_id"].to_pylist()
        return users


def _local_sql(store: Store) -> list[str]:
    beside = read_store(store.paths, SCHEMA)
    try:
        batches = LocalSql(beside).run("SELECT user_id FROM actions").batches
        return [user for batch in batches for user in batch.column(0).to_pylist()]
    finally:
        beside.close(flush=False)


DOORS: list[Callable[[Store], list[str]]] = [
    lambda store: _page(store, EVERYTHING),
    _streamed_lines,
    _streamed_arrow,
    _local_sql,
]


@pytest.mark.parametrize("door", DOORS, ids=["page", "ndjson", "arrow", "actionlake sql"])
def test_the_user_is_gone_and_others_and_later_actions_are_there(
    store: Store, door: Callable[[Store], list[str]]
) -> None:
    seen = door(store)
    assert {user: seen.count(user) for user in seen} == {"ann": OTHERS, USER: BACK}


def test_asking_for_the_user_shows_what_came_later(store: Store) -> None:
    assert _page(store, RetrievalFilter(user_id=USER)) == [USER] * BACK
    assert _page(store, RetrievalFilter(user_id="ann")) == ["ann"] * OTHERS


def test_the_control_shows_that_the_rows_are_still_in_the_files(store: Store) -> None:
    stored = store.read_view()
    assert sum(one.rows for one in stored.files) > OTHERS + BACK
    assert stored.hot.num_rows == BACK - 2


@pytest.fixture(scope="module")
def ask(store: Store, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Any]]:
    pool = SqlPool(data_folder=store.paths.table, temp_folder=tmp_path_factory.mktemp("sql"), schema=SCHEMA, workers=1)
    with pool:

        def ask(sql: str, *, everything: bool = False) -> list[Any]:
            view = store.read_view()
            table = TableView(view.files, view.hot, view.schema.table_schema)
            if not everything:
                table = TableView(view.files, view.hot, view.schema.table_schema, erased=view.erased)
            with pool.run(SqlRequest(sql), table) as result:
                return [tuple(row.values()) for batch in result for row in batch.to_pylist()]

        yield ask


def test_user_sql_shows_others_and_later_actions(ask: Callable[..., Any]) -> None:
    counts = "SELECT user_id, count(*) FROM actions GROUP BY user_id ORDER BY user_id"
    for _ in range(2):
        assert ask(counts) == [("ann", OTHERS), (USER, BACK)]
        assert ask("SELECT count(*) FROM clicks") == [(OTHERS + BACK,)]
        # A worker that had the erasure shows everything again when it is over.
        assert ask(counts, everything=True)[1][1] > BACK


@pytest.mark.parametrize("kind", ["EXPLAIN", "EXPLAIN ANALYZE"])
@pytest.mark.parametrize(
    "query", ["SELECT * FROM actions ORDER BY time LIMIT 3", "SELECT user_id, count(*) FROM actions GROUP BY 1"]
)
def test_no_plan_tells_who_is_being_erased(ask: Callable[..., Any], kind: str, query: str) -> None:
    plan = str(ask(f"{kind} {query}"))
    assert "HASH_JOIN" in plan, "the condition is there"
    assert "bob" not in plan


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM erased_rows",
        "SELECT * FROM main.erased_rows",
        "SELECT sql FROM duckdb_views()",
        "SHOW TABLES",
    ],
)
def test_nobody_can_ask_who_is_being_erased(ask: Callable[..., Any], query: str) -> None:
    try:
        answer = str(ask(query))
    except Exception as error:  # noqa: BLE001 - whatever refuses it
        answer = str(error)
    assert "bob" not in answer
    assert "kept_after" not in answer


def test_a_store_without_erasures_pays_nothing(tmp_path: Path) -> None:
    with store_in(tmp_path / "data") as made:
        put(made, 3)
        view = made.read_view()
        assert not view.erased
        assert view.hot is made._reader._hot.table


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_copies_for_histories_show_what_the_files_show(tmp_path: Path, order: Order) -> None:
    """The copies hold the erased rows and those of the user who came back, and pages are cut out of them."""
    with small_runs(), store_in(tmp_path / "data") as made:
        put(made, 8, user=USER, days=4)
        put(made, 8, user="ann", days=4)
        made.flush_here()
        made.erase(USER)
        put(made, 5, user=USER, days=5)
        made.flush_here()
        put(made, 2, user=USER)
        chore = history_chore(made)
        work(chore)
        view = made.read_view()
        assert view.shortcuts.history.coverage(view.snapshot, frozenset()).uncovered == ()
        engine = Engine(EngineLimits(), made.paths.state / "query-temp")
        asked = RetrievalFilter(user_id=USER)
        pages: list[int] = []
        cursor = None
        try:
            with engine.connect() as connection:
                while not pages or cursor is not None:
                    page = retrieve_page(connection, view, RetrievalRequest(asked, order, 2, cursor))
                    assert page.copied_files
                    pages.append(len(page.rows))
                    cursor = page.next
        finally:
            engine.close()
        assert pages == [2, 2, 2, 1]
        with pa.ipc.open_stream(_stream(made, asked, Format.ARROW)) as stream:
            assert sorted(stream.read_all()["position"].to_pylist()) == list(range(17, 24))
