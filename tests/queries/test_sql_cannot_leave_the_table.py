"""User SQL can read the table and its views, and do nothing else: attempts to get out, and that each is refused.

Every attempt must end with a clear error of the guard. Canaries, inside the table's folder and outside, must neither
be read nor touched, and nothing may connect to a socket that listens. The control runs the same attempts in a DuckDB
without walls, where they read and overwrite the canaries: it shows that the harness would notice.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

from queries.sql import SqlError, TableView
from queries.sql.functions import SCALAR_FUNCTIONS, TABLE_FUNCTIONS
from tests.queries.canaries import CANARY, Canaries, watched_canaries
from tests.queries.escape_attempts import OTHERS, READS, WRITES
from tests.queries.sql_tables import SCHEMA, Sandbox, as_table, make_rows, sandbox, write_table


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    table = write_table(
        tmp_path_factory.mktemp("table") / "actions", make_rows(days=2, per_file=4), make_rows(days=1, per_file=1)
    )
    with sandbox(table, tmp_path_factory.mktemp("temp")) as one:
        yield one


@pytest.fixture(scope="module")
def canaries(sql: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    with watched_canaries(sql.table, tmp_path_factory.mktemp("elsewhere")) as watched:
        yield watched


def test_there_are_enough_attempts_and_none_twice() -> None:
    attempts = READS + WRITES + OTHERS
    assert len(attempts) >= 250
    assert len(set(attempts)) == len(attempts)


@pytest.mark.parametrize("attempt", READS + WRITES + OTHERS)
def test_an_attempt_is_refused_with_a_clear_error(sql: Sandbox, canaries: Canaries, attempt: str) -> None:
    python_canary = as_table([])  # A replacement scan would find it by its name.
    before = canaries.state()
    with pytest.raises(SqlError) as raised:
        sql.ask(canaries.fill(attempt))
    assert python_canary.num_rows == 0
    assert raised.value.message
    assert CANARY not in str(raised.value)
    assert canaries.state() == before
    assert canaries.connections == []


def test_after_all_attempts_the_table_answers_from_a_worker_that_never_ended(sql: Sandbox) -> None:
    assert sql.ask("SELECT count(*) FROM actions").rows == [(27,)]
    assert sql.ask("SHOW TABLES").rows[0] == ("actions",)
    assert sql.lost == []


@pytest.mark.parametrize("attempt", READS)
def test_control_without_walls_the_attempt_reads_the_canary(canaries: Canaries, attempt: str) -> None:
    connection = duckdb.connect()
    connection.execute("CREATE TABLE actions AS SELECT 'u1' AS user_id")
    try:
        answer = str(connection.execute(canaries.fill(attempt)).to_arrow_table().to_pylist())
    except duckdb.Error as error:
        answer = str(error)
    assert CANARY in answer


@pytest.mark.parametrize("attempt", WRITES)
def test_control_without_walls_the_attempt_changes_a_canary(canaries: Canaries, tmp_path: Path, attempt: str) -> None:
    copy = Canaries(tmp_path / "in.csv", tmp_path / "out.csv", canaries.parquet, tmp_path, 1, [])
    for canary in (copy.inside, copy.outside):
        canary.write_text(CANARY)
    connection = duckdb.connect()
    connection.execute("CREATE TABLE actions AS SELECT 'u1' AS user_id")
    before = copy.state()
    connection.execute(copy.fill(attempt))
    connection.close()
    after = copy.state()
    assert any(after[path] != before[path] for path in before)


def test_control_the_port_notices_a_connection(canaries: Canaries) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        accepted, _ = listener.accept()
        accepted.close()
    assert canaries.connections == []


# The allow-list itself.


def test_every_allowed_function_exists_and_what_is_left_out_is_known() -> None:
    connection = duckdb.connect()
    rows = connection.execute("SELECT lower(function_name), function_type FROM duckdb_functions()").fetchall()
    kinds: dict[str, set[str]] = {}
    for name, kind in rows:
        kinds.setdefault(name, set()).add(kind)
    # The arrow of lambdas and of JSON is an operator of the parser, not in the list of functions.
    assert SCALAR_FUNCTIONS - kinds.keys() == {"->"}
    assert all("table" in kinds[name] for name in TABLE_FUNCTIONS)
    dangerous = {"getvariable", "current_setting", "query", "query_table", "glob", "write_log", "json_serialize_plan"}
    dangerous |= {name for name in kinds if name.startswith(("read_", "duckdb_", "pragma_", "parquet_", "sniff"))}
    dangerous |= {name for name in kinds if name.endswith("_scan")}
    assert not dangerous & (SCALAR_FUNCTIONS | TABLE_FUNCTIONS)


def test_a_query_without_files_cannot_reach_the_files_of_another(sql: Sandbox) -> None:
    empty = TableView((), as_table([]), SCHEMA.table_schema)
    assert sql.ask("SELECT count(*) FROM actions", view=empty).rows == [(0,)]
