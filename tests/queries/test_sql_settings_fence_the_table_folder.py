"""DuckDB's settings by themselves, without a guard before them, keep queries in the table's folder, and no more."""

from __future__ import annotations

from collections.abc import Iterator

import duckdb
import pytest

from queries.sql.connection import open_locked_connection
from tests.queries.canaries import CANARY, Canaries, watched_canaries
from tests.queries.sql_tables import as_table, make_rows, write_table


@pytest.fixture(scope="module")
def canaries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Canaries]:
    table = write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=1, per_file=1))
    with watched_canaries(table, tmp_path_factory.mktemp("elsewhere")) as watched:
        yield watched


@pytest.fixture(scope="module")
def locked(canaries: Canaries, tmp_path_factory: pytest.TempPathFactory) -> duckdb.DuckDBPyConnection:
    spill = tmp_path_factory.mktemp("spill")
    return open_locked_connection(
        readable=(canaries.folder,), spill_folder=spill, memory_bytes_max=1 << 28, threads=1, temp_bytes_max=1 << 28
    )


@pytest.mark.parametrize(
    "attempt",
    [
        "SELECT * FROM read_text('{outside}')",
        "SELECT * FROM '{outside}'",
        "SELECT * FROM glob('{elsewhere}/*')",
        "SELECT * FROM read_text('{folder}/../../{elsewhere_name}/{outside_name}')",
        "COPY (SELECT 1) TO '{outside}'",
        "ATTACH '{elsewhere}/new.db'",
        "INSTALL httpfs",
        "LOAD httpfs",
        "LOAD '{outside}'",
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        "SET memory_limit = '100GB'",
        "SET allowed_directories = ['/']",
        "SET python_enable_replacements = true",
        "RESET memory_limit",
        "PRAGMA threads = 64",
        "CREATE PERSISTENT SECRET s (TYPE http, BEARER_TOKEN 'b')",
        "SELECT * FROM python_canary",
        "SELECT * FROM read_csv('http://127.0.0.1:{port}/x')",
        "EXPORT DATABASE '{elsewhere}/export'",
        "IMPORT DATABASE '{elsewhere}'",
    ],
)
def test_settings_alone_keep_queries_in_the_table_folder(
    locked: duckdb.DuckDBPyConnection, canaries: Canaries, attempt: str
) -> None:
    python_canary = as_table([])
    before = canaries.state()
    with pytest.raises(duckdb.Error) as raised:
        locked.execute(canaries.fill(attempt)).fetchall()
    assert python_canary.num_rows == 0
    assert CANARY not in str(raised.value)
    assert canaries.state() == before


def test_settings_alone_leave_the_table_folder_open(locked: duckdb.DuckDBPyConnection, canaries: Canaries) -> None:
    """Why the guard is needed, and the system's walls behind it: inside the folder DuckDB reads and writes."""
    assert CANARY in str(locked.execute(f"SELECT content FROM read_text('{canaries.inside}')").fetchall())
    written = canaries.folder / "written.csv"
    locked.execute(f"COPY (SELECT 1) TO '{written}'")
    assert written.exists()
    written.unlink()
