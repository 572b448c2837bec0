"""Data files hold sorted rows in row groups of about 20,000, and every reader gets the columns typed."""

from __future__ import annotations

import datetime
import json
import random
from itertools import pairwise
from pathlib import Path

import duckdb
import polars as pl
import pyarrow.parquet as pq
import pytest
from deltalake import DeltaTable

from storage.clock import system_now_us
from storage.data_files import ROW_GROUP_ROWS
from storage.errors import CorruptData
from storage.flush import FlushLimits
from storage.journal_records import Append
from storage.schema import ActionSchema, PromotedProperty
from storage.store import Store
from storage.submission import SubmissionLimits, SubmissionParser
from tests.storage.building import (
    FIRST_DAY,
    PARSER,
    action,
    body,
    data_files,
    flusher,
    log_entry,
    opened,
    positions,
    put,
    remove_checkpoints,
    request,
    store_in,
    through,
)

_POLARS_TYPES = {
    "date": pl.Date,
    "type": pl.String,
    "user_id": pl.String,
    "session_id": pl.String,
    "time": pl.Datetime("us", "UTC"),
    "utc_offset_minutes": pl.Int16,
    "properties": pl.String,
    "location_x": pl.Float64,
    "location_y": pl.Float64,
    "viewed_id": pl.String,
    "page_from": pl.String,
    "page_to": pl.String,
    "received_at": pl.Datetime("us", "UTC"),
    "journal": pl.String,
    "position": pl.Int64,
}
_DUCKDB_TYPES = {
    "date": "DATE",
    "type": "VARCHAR",
    "user_id": "VARCHAR",
    "session_id": "VARCHAR",
    "time": "TIMESTAMP WITH TIME ZONE",
    "utc_offset_minutes": "SMALLINT",
    "properties": "VARCHAR",
    "location_x": "DOUBLE",
    "location_y": "DOUBLE",
    "viewed_id": "VARCHAR",
    "page_from": "VARCHAR",
    "page_to": "VARCHAR",
    "received_at": "TIMESTAMP WITH TIME ZONE",
    "journal": "VARCHAR",
    "position": "BIGINT",
}


def put_shuffled(store: Store, users: int, actions: int) -> None:
    """As many submissions as *users*, whose times are in no order, within one day."""
    chance = random.Random(1)
    group = []
    for _ in range(users):
        made = [
            action(at=FIRST_DAY + datetime.timedelta(seconds=chance.randrange(40_000)), properties={"locationX": 1.5})
            for _ in range(actions)
        ]
        parsed = PARSER.parse_json(body(made, user=f"u{chance.randrange(10**6):06}"), now_us=system_now_us())
        group.append(Append(parsed.submissions, (), b""))
    store.append(group)


def test_rows_are_sorted_by_user_and_time_in_row_groups_of_about_twenty_thousand(store: Store) -> None:
    put_shuffled(store, 25, 2_000)
    flusher(store).flush(50_000)
    (path,) = data_files(store.paths.data)
    with pq.ParquetFile(path) as file:
        metadata = file.metadata
        groups = [metadata.row_group(n) for n in range(metadata.num_row_groups)]
        table = file.read(columns=["user_id", "time", "position"])
    assert [group.num_rows for group in groups] == [20_480, 20_480, 9_040]
    assert ROW_GROUP_ROWS == 20_480
    rows = list(zip(*(column.to_pylist() for column in table.columns), strict=True))
    assert rows == sorted(rows)
    names = [metadata.schema.column(n).name for n in range(metadata.num_columns)]
    users, bounds = names.index("user_id"), []
    for group in groups:
        assert {group.column(n).compression for n in range(metadata.num_columns)} == {"ZSTD"}
        assert [one.column_index for one in group.sorting_columns] == [users, names.index("time")]
        statistics = group.column(users).statistics
        assert statistics.has_min_max
        bounds.append((statistics.min, statistics.max))
    assert bounds == sorted(bounds)
    assert all(before[1] <= after[0] for before, after in pairwise(bounds))


def test_partition_columns_are_in_the_folders_and_not_in_the_files(store: Store) -> None:
    store.append([request(4, days=2), request(1, kind="View")])
    flusher(store).flush(5)
    paths = {str(path.parent.relative_to(store.paths.table)) for path in data_files(store.paths.data)}
    assert paths == {
        "date=2024-03-01/type=click",
        "date=2024-03-02/type=click",
        "date=2024-03-01/type=view",
    }
    for path in data_files(store.paths.data):
        names = pq.read_schema(path).names
        assert names == [name for name in store.schema.table_schema.names if name not in ("date", "type")]


def test_the_date_is_the_utc_date_of_the_time(store: Store) -> None:
    """One instant before and one after midnight, written with offsets that put them on other days."""
    made = [
        {"time": "2024-02-29T23:59:59.999999Z", "type": "click"},
        {"time": "2024-03-01T00:00:00+00:00", "type": "click"},
        {"time": "2024-03-01T01:29:59.999999+01:30", "type": "click"},
        {"time": "2024-02-29T16:00:00-08:00", "type": "click"},
        {"time": "1970-01-01T00:00:00Z", "type": "click"},
    ]
    parsed = PARSER.parse_json(json.dumps({"userId": "u", "actions": made}).encode(), now_us=system_now_us())
    store.append([Append(parsed.submissions, (), b"")])
    expected = ["2024-02-29", "2024-03-01", "2024-02-29", "2024-03-01", "1970-01-01"]
    hot = store.read_view().hot
    assert [str(date) for date in hot["date"].to_pylist()] == expected
    flusher(store).flush(5)
    frame = pl.scan_delta(str(store.paths.table)).sort("position").collect()
    assert [str(date) for date in frame["date"]] == expected
    assert frame["utc_offset_minutes"].to_list() == [0, 0, 90, -480, 0]


def test_the_log_bounds_time_and_says_nothing_of_users_and_properties(store: Store) -> None:
    made = [
        {"time": "2024-03-01T00:00:00.123456Z", "type": "click", "properties": {"secret": "property-secret"}},
        {"time": "2024-03-01T00:00:01.999999Z", "type": "click"},
    ]
    text = json.dumps({"userId": "user-secret", "actions": made}).encode()
    parsed = PARSER.parse_json(text, now_us=system_now_us())
    store.append([Append(parsed.submissions, (), b"")])
    flusher(store).flush(2)
    (one,) = store.read_view().files
    day = 1_709_251_200_000_000
    assert (one.time_min_us, one.time_max_us) == (day + 123_000, day + 2_000_000), "cut down, and one ms later"
    assert (one.rows, one.type, one.date) == (2, "click", datetime.date(2024, 3, 1))
    assert one.size_bytes == Path(one.path).stat().st_size
    entry = log_entry(store.paths.data, 1).read_text()
    assert "secret" not in entry
    lines = [json.loads(line) for line in entry.splitlines()]
    assert list(lines[-1]) == ["txn"], "an entry that is cut off has lost its watermark"
    with pq.ParquetFile(next(log_entry(store.paths.data, 1).parent.glob("*.checkpoint.parquet"))) as checkpoint:
        assert "secret" not in str(checkpoint.read().to_pylist())


@pytest.mark.parametrize("from_checkpoint", [True, False])
def test_a_snapshot_is_the_same_from_a_checkpoint_and_from_the_entries(folder: Path, from_checkpoint: bool) -> None:
    with store_in(folder) as store:
        put(store, 5, days=5)
        flusher(store).flush(5)
        before = store.read_view().snapshot
    if not from_checkpoint:
        remove_checkpoints(folder)
    with store_in(folder) as store:
        assert store.read_view().snapshot == before
        assert len(before.files) == 5


def test_polars_and_duckdb_read_all_columns_typed(store: Store) -> None:
    store.append([request(2), request(1, kind="navigate"), request(1, kind="view")])
    flusher(store).flush(4)
    frame = pl.scan_delta(str(store.paths.table)).collect()
    assert dict(frame.schema) == _POLARS_TYPES
    assert frame.height == 4
    files = [one.path for one in store.read_view().files]
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        names = ", ".join(_DUCKDB_TYPES)
        sql = (
            f"SELECT {names} FROM read_parquet(?, hive_partitioning = true,"
            " hive_types = {'date': DATE, 'type': VARCHAR}) ORDER BY position"
        )
        described = connection.execute(f"DESCRIBE {sql}", [files]).fetchall()
        assert {row[0]: row[1] for row in described} == _DUCKDB_TYPES
        assert connection.execute(sql, [files]).to_arrow_table()["location_x"].to_pylist() == [0.0, 1.0, None, None]
        glob = str(store.paths.table / "*/*/*.parquet")
        assert connection.execute("SELECT count(*) FROM read_parquet(?)", [glob]).fetchall() == [(4,)]


def test_the_tables_own_schema_is_the_one_schema(store: Store) -> None:
    table = DeltaTable(str(store.paths.table))
    assert [field.name for field in table.schema().fields] == store.schema.table_schema.names
    assert table.metadata().partition_columns == ["date", "type"]
    assert table.metadata().configuration["delta.dataSkippingStatsColumns"] == "time,received_at,position"


# Configurations that change

_NARROW = ActionSchema({"click": (PromotedProperty("locationX", "location_x", "double"),)})
_WIDE = ActionSchema(
    {
        "click": (PromotedProperty("locationX", "location_x", "double"), PromotedProperty("alt", "alt", "boolean")),
        "scroll": (PromotedProperty("depth", "depth", "bigint"),),
    }
)


def put_parsed(store: Store, schema: ActionSchema, kind: str, properties: object) -> None:
    parser = SubmissionParser(schema, SubmissionLimits())
    parsed = parser.parse_json(body([action(kind=kind, properties=properties)]), now_us=system_now_us())
    assert parsed.rejections == ()
    store.append([Append(parsed.submissions, (), b"")])


def test_a_new_promoted_property_becomes_a_column_at_the_next_start(folder: Path) -> None:
    with store_in(folder, schema=_NARROW) as store:
        put_parsed(store, _NARROW, "click", {"locationX": 1, "alt": True})
        flusher(store).flush(1)
        put_parsed(store, _NARROW, "click", {"locationX": 2, "alt": True})
    with store_in(folder, schema=_WIDE) as store:
        put_parsed(store, _WIDE, "click", {"locationX": 3, "alt": True})
        put_parsed(store, _WIDE, "scroll", {"depth": 4})
        hot = store.read_view().hot
        assert hot["alt"].to_pylist() == [None, True, None]
        assert hot["depth"].to_pylist() == [None, None, 4]
        flusher(store).flush(4)
        frame = pl.scan_delta(str(store.paths.table)).sort("position").collect()
        assert frame["alt"].to_list() == [None, None, True, None]
        assert frame["depth"].to_list() == [None, None, None, 4]
        assert frame["location_x"].to_list() == [1.0, 2.0, 3.0, None]
        assert frame.schema["alt"] == pl.Boolean
        assert frame.schema["depth"] == pl.Int64
    # And a restart with the same configuration adds nothing.
    with store_in(folder, schema=_WIDE) as store:
        assert store.read_view().snapshot.version == 3


def test_a_promoted_property_that_is_configured_no_longer_keeps_its_column(folder: Path) -> None:
    """What was promoted when it was accepted is kept; what is accepted later is not promoted any more."""
    with store_in(folder, schema=_WIDE) as store:
        put_parsed(store, _WIDE, "click", {"locationX": 1, "alt": True})
        flusher(store).flush(1)
        put_parsed(store, _WIDE, "click", {"locationX": 2, "alt": True})
    with store_in(folder, schema=_NARROW) as store:
        put_parsed(store, _NARROW, "click", {"locationX": 3, "alt": True})
        assert positions(store) == through(3)
        flusher(store, limits=FlushLimits()).flush(3)
        frame = pl.scan_delta(str(store.paths.table)).sort("position").collect()
        assert frame["alt"].to_list() == [True, True, None]
        assert frame["location_x"].to_list() == [1.0, 2.0, 3.0]


def test_no_column_is_ever_retyped(folder: Path) -> None:
    with store_in(folder, schema=_NARROW):
        pass
    retyped = ActionSchema({"click": (PromotedProperty("locationX", "location_x", "varchar"),)})
    with pytest.raises(CorruptData, match="location_x"):
        opened(folder, schema=retyped)
    with store_in(folder, schema=_NARROW) as store:
        assert store.read_view().snapshot.version == 0
