"""However a data file is packed, DuckDB, Polars and Arrow read the same rows; partitions that rest are made small."""

from __future__ import annotations

import datetime
import random
from pathlib import Path

import duckdb
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from bench.comparison.actions import ComparedActions
from storage.data_files import DataFile, DataFileWriter, sort_rows
from storage.maintenance.planning import CompactionLimits, plan_compaction
from storage.packing import Packing
from storage.schema import ActionSchema
from storage.store import Store
from tests.storage.building import FIRST_DAY, put
from tests.storage.compacting import compact_all, put_files

_SCHEMA = ActionSchema().file_schema
_DAY = FIRST_DAY.date()
# What Spark and Athena read as well; BYTE_STREAM_SPLIT of integers, for one, is too new for them.
_ENCODINGS = {"PLAIN", "RLE", "RLE_DICTIONARY", "DELTA_BINARY_PACKED", "DELTA_LENGTH_BYTE_ARRAY", "PLAIN_DICTIONARY"}


def made(rows: int, *, different: int) -> pa.Table:
    """Rows with *different* properties, texts of all lengths, nulls, and the extremes of every number."""
    chance = random.Random(rows)
    users = sorted(chance.choice(["", "u", "ü" * 40, f"u-{chance.randrange(900)}"]) for _ in range(rows))
    texts = [f'{{"n": {n}, "t": "{"é" * (n % 50)}"}}' for n in range(different)]
    extremes = [-(1 << 63), (1 << 63) - 1, 0]
    columns = {
        "user_id": users,
        "session_id": [None if n % 7 == 0 else f"{user}-{n // 3}" for n, user in enumerate(users)],
        "time": pa.array([chance.randrange(86_400 * 10**6) for _ in users], pa.int64()).cast(pa.timestamp("us", "UTC")),
        "utc_offset_minutes": [chance.choice([-840, 0, 60, 840]) for _ in users],
        "properties": [texts[n % different] for n in range(rows)],
        "location_x": [chance.choice([None, float("inf"), -0.0, chance.random()]) for _ in users],
        "viewed_id": [chance.choice([None, "", "x" * 300, str(n)]) for n in range(rows)],
        "received_at": pa.array([n // 3 * 1_000_003 for n in range(rows)], pa.int64()).cast(pa.timestamp("us", "UTC")),
        "journal": ["j"] * rows,
        "position": [extremes[n] if n < 3 else chance.randrange(1 << 40) for n in range(rows)],
    }
    arrays = [
        pa.array(columns[one.name], one.type) if one.name in columns else pa.nulls(rows, one.type) for one in _SCHEMA
    ]
    return pa.table(arrays, schema=_SCHEMA)


def written(folder: Path, rows: pa.Table, packing: Packing) -> Path:
    """The file of these rows."""
    writer = DataFileWriter(folder, _DAY, "click", _SCHEMA, packing)
    # In pieces that are no row groups.
    for start in range(0, rows.num_rows, 15_000):
        writer.write(rows.slice(start, 15_000))
    return folder / writer.close().relative_path


@pytest.mark.parametrize("packing", list(Packing))
@pytest.mark.parametrize(("rows", "different"), [(1, 1), (25_000, 5), (22_000, 22_000)])
def test_duckdb_polars_and_arrow_read_what_was_written(
    tmp_path: Path, packing: Packing, rows: int, different: int
) -> None:
    expected = made(rows, different=different)
    path = written(tmp_path, expected, packing)
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        assert file.schema_arrow.equals(_SCHEMA), "the types need no schema of Arrow's own beside them"
        assert file.read().equals(expected)
        metadata = file.metadata
    chunks = [metadata.row_group(g).column(c) for g in range(metadata.num_row_groups) for c in range(len(_SCHEMA))]
    assert {encoding for chunk in chunks for encoding in chunk.encodings} <= _ENCODINGS
    assert pl.read_parquet(path).to_arrow().cast(_SCHEMA).equals(expected)
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        read = connection.execute("SELECT * FROM read_parquet(?, hive_partitioning = false)", [str(path)])
        assert read.to_arrow_table().cast(_SCHEMA).equals(expected)


def test_properties_get_a_dictionary_where_they_repeat(tmp_path: Path) -> None:
    column = _SCHEMA.get_field_index("properties")
    for different, expected in ((5, True), (2_000, False)):
        path = written(tmp_path, made(2_000, different=different), Packing.QUICK)
        chunk = pq.read_metadata(path).row_group(0).column(column)
        assert chunk.has_dictionary_page is expected


def test_files_that_stay_are_smaller(tmp_path: Path) -> None:
    """By actions as they are: ids of digits, sessions, times to the millisecond."""
    ((rows, _),) = ComparedActions(15_000, days=1).tables()
    ordered = sort_rows(rows)
    clicks = ordered.filter(pc.equal(ordered["type"], "click")).select(_SCHEMA.names)
    quick, tight = (written(tmp_path, clicks, packing).stat().st_size for packing in (Packing.QUICK, Packing.TIGHT))
    assert tight < 0.95 * quick


def test_only_partitions_that_rest_are_packed_tightly() -> None:
    files = [DataFile(f"f{n}", 1_000_000 + n, 10, _DAY, "click", 0, 1, written_at_ms=n) for n in range(40)]
    limits = CompactionLimits()
    for now_ms, thorough, expected in ((0, False, False), (limits.rest_ms + 39, False, True), (0, True, True)):
        plan = plan_compaction(files, limits, now_ms=now_ms, thorough=thorough)
        assert [one.tight for one in plan.rewrites] == [expected]


def test_a_compaction_packs_as_it_is_told(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    packed: list[Packing] = []
    make = DataFileWriter.__init__

    def and_note(
        self: DataFileWriter, folder: Path, date: datetime.date, type_: str, schema: pa.Schema, packing: Packing
    ) -> None:
        packed.append(packing)
        make(self, folder, date, type_, schema, packing)

    put_files(store, 3, rows=9)
    monkeypatch.setattr("storage.maintenance.rewriting.DataFileWriter.__init__", and_note)
    compact_all(store)
    assert packed == [Packing.TIGHT]
    put(store, 1)
    assert len(store.read_view().files) == 1
