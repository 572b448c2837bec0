"""The table opens in Polars and in DuckDB without anything of the project, all columns typed, and both see the same.

DuckDB's `delta` extension comes from its own wheel, so that nothing is downloaded at run time.
"""

from __future__ import annotations

import json
import shutil
from datetime import date
from importlib import resources
from pathlib import Path

import duckdb
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from storage.clock import system_now_us
from storage.journal_records import Append
from storage.opening import open_store
from storage.paths import StorePaths
from storage.schema import DEFAULT_ACTION_TYPES, ActionSchema, PromotedProperty
from storage.store_options import StoreOptions
from storage.submission import SubmissionLimits, SubmissionParser

SCHEMA = ActionSchema(
    {
        **DEFAULT_ACTION_TYPES,
        "purchase": (
            PromotedProperty("amountCents", "amount_cents", "bigint"),
            PromotedProperty("gift", "gift", "boolean"),
        ),
    }
)
POLARS_TYPES = {
    "date": pl.Date(), "type": pl.String(), "user_id": pl.String(), "session_id": pl.String(),
    "time": pl.Datetime("us", "UTC"), "utc_offset_minutes": pl.Int16(), "properties": pl.String(),
    "location_x": pl.Float64(), "location_y": pl.Float64(), "viewed_id": pl.String(), "page_from": pl.String(),
    "page_to": pl.String(), "amount_cents": pl.Int64(), "gift": pl.Boolean(),
    "received_at": pl.Datetime("us", "UTC"), "journal": pl.String(), "position": pl.Int64(),
}  # fmt: skip
DUCKDB_TYPES = {
    "date": "DATE", "type": "VARCHAR", "user_id": "VARCHAR", "session_id": "VARCHAR",
    "time": "TIMESTAMP WITH TIME ZONE", "utc_offset_minutes": "SMALLINT", "properties": "VARCHAR",
    "location_x": "DOUBLE", "location_y": "DOUBLE", "viewed_id": "VARCHAR", "page_from": "VARCHAR",
    "page_to": "VARCHAR", "amount_cents": "BIGINT", "gift": "BOOLEAN",
    "received_at": "TIMESTAMP WITH TIME ZONE", "journal": "VARCHAR", "position": "BIGINT",
}  # fmt: skip


def submission(n: int) -> bytes:
    actions = [
        {"time": "2024-02-29T23:59:59.999999-06:00", "type": "CLICK", "properties": {"locationX": n, "locationY": 0.5}},
        {"time": "1970-01-01T00:00:00Z", "type": "VIEW", "properties": {"viewedId": "naïve ☕"}},
        {"time": "2024-03-01T00:00:00+05:45", "type": "Navigate", "properties": {"pageFrom": "/a", "pageTo": "/b"}},
        {"time": "2024-03-01T12:00:00.5Z", "type": "PURCHASE", "properties": {"amountCents": 2**62 + n, "gift": n > 1}},
        {"time": "2024-03-01T12:00:01Z", "type": "PURCHASE"},
    ]
    return json.dumps({"userId": f"user-{n}", "sessionId": f"s-{n}" if n else None, "actions": actions}).encode()


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table in four commits: files of an older schema, without the columns of purchases, among them."""
    data = tmp_path_factory.mktemp("store")
    for schema, users in ((ActionSchema(), range(2)), (SCHEMA, range(2, 5)), (SCHEMA, range(5, 7))):
        store, _ = open_store(StorePaths.of(data), schema, StoreOptions(), holder="test")
        parser = SubmissionParser(schema, SubmissionLimits())
        for n in users:
            parsed = parser.parse_json(submission(n), now_us=system_now_us())
            (answer,) = store.append([Append(parsed.submissions, parsed.rejections, b"{}", None)])
            assert answer == b"{}"
        store.flush_here()
        store.close(flush=False)
    return StorePaths.of(data).table


@pytest.fixture(scope="module")
def connection() -> duckdb.DuckDBPyConnection:
    """DuckDB with the extension `delta` from its wheel."""
    folder = resources.files("duckdb_extension_delta") / "extensions" / f"v{duckdb.__version__}"
    connected = duckdb.connect(config={"autoinstall_known_extensions": False, "autoload_known_extensions": False})
    connected.execute(f"LOAD '{folder / 'delta.duckdb_extension'}'")
    connected.execute("SET TimeZone = 'UTC'")
    return connected


def in_polars(table: Path) -> pl.DataFrame:
    return pl.scan_delta(table).sort("position").collect()


def in_duckdb(connection: duckdb.DuckDBPyConnection, source: str, columns: str = "*") -> pl.DataFrame:
    return connection.sql(f"SELECT {columns} FROM {source} ORDER BY position").pl()


def test_all_columns_are_typed_in_polars(table: Path) -> None:
    assert dict(pl.scan_delta(table).collect_schema()) == POLARS_TYPES


def test_all_columns_are_typed_in_duckdb(table: Path, connection: duckdb.DuckDBPyConnection) -> None:
    described = connection.sql(f"DESCRIBE FROM delta_scan('{table}')").fetchall()
    assert {row[0]: row[1] for row in described} == DUCKDB_TYPES


def test_both_read_what_was_sent_and_agree(table: Path, connection: duckdb.DuckDBPyConnection) -> None:
    rows = in_polars(table)
    # Two of the seven users came before purchases were a type.
    assert rows.height == 2 * 3 + 5 * 5
    assert rows["position"].to_list() == list(range(1, 32))
    assert rows.filter(user_id="user-6", amount_cents=2**62 + 6).select("gift", "session_id").rows() == [(True, "s-6")]
    click = rows.filter(user_id="user-6", type="click").row(0, named=True)
    assert (click["date"], click["utc_offset_minutes"]) == (date(2024, 3, 1), -360)
    assert click["time"].isoformat() == "2024-03-01T05:59:59.999999+00:00"
    assert click["properties"] == '{"locationX": 6, "locationY": 0.5}'
    assert rows.filter(user_id="user-0")["viewed_id"].to_list() == [None, "naïve ☕", None]
    assert set(rows.filter(user_id="user-0")["session_id"]) == {None}
    assert_frame_equal(rows, in_duckdb(connection, f"delta_scan('{table}')"))


def test_a_filter_leaves_files_unread_in_both(table: Path, connection: duckdb.DuckDBPyConnection) -> None:
    plan = pl.scan_delta(table).filter(pl.col("date") == date(1970, 1, 1), pl.col("type") == "view").explain()
    assert "date=1970-01-01/type=view/" in plan
    assert "date=2024" not in plan
    query = f"SELECT count(*) FROM delta_scan('{table}') WHERE date = DATE '1970-01-01' AND type = 'view'"
    (_, explained) = connection.sql(f"EXPLAIN ANALYZE {query}").fetchall()[0]
    assert "Total Files Read: 3" in explained
    assert len(list(table.glob("date=*/type=*/*.parquet"))) == 3 + 3 + 3 + 2


def test_the_plain_glob_is_second_best(table: Path, connection: duckdb.DuckDBPyConnection, tmp_path: Path) -> None:
    copy = tmp_path / "actions"
    shutil.copytree(table, copy)
    glob = f"read_parquet('{copy}/date=*/type=*/*.parquet', hive_partitioning=true, union_by_name=true)"
    columns = ", ".join(in_polars(table).columns)
    assert_frame_equal(in_duckdb(connection, glob, columns), in_polars(table))
    # What a rewrite leaves behind until it is vacuumed is no part of the table, but the glob sees it.
    left_behind = next((copy / "date=1970-01-01" / "type=view").glob("*.parquet"))
    rows_left_behind = pl.scan_parquet(left_behind).select(pl.len()).collect().item()
    shutil.copy(left_behind, left_behind.with_name("part-left-behind.parquet"))
    assert in_duckdb(connection, f"delta_scan('{copy}')").height == 31
    assert in_polars(copy).height == 31
    assert in_duckdb(connection, glob, columns).height == 31 + rows_left_behind
