"""A small table for the tests of user SQL: files in Hive folders, hot rows, and the same rows as plain Python."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from queries.formats.portable import portable_batch, portable_schema
from queries.sql import Cancellation, LostWorker, SqlLimits, SqlPool, SqlRequest, SqlResult, SqlStatistics, TableView
from storage.data_files import DataFile
from storage.schema import ActionSchema

SCHEMA = ActionSchema()
FIRST_DAY = datetime.date(2024, 1, 1)
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

Row = dict[str, Any]


def microseconds(instant: datetime.datetime) -> int:
    """Microseconds since the epoch."""
    return (instant - EPOCH) // datetime.timedelta(microseconds=1)


def make_rows(*, days: int, per_file: int, first_day: datetime.date = FIRST_DAY, journal: str = "j") -> list[Row]:
    """Rows of every type on every day, spread over the day, by five users in two sessions each."""
    rows: list[Row] = []
    for day in range(days):
        date = first_day + datetime.timedelta(days=day)
        midnight = datetime.datetime.combine(date, datetime.time(), datetime.UTC)
        for action_type, promoted in SCHEMA.action_types.items():
            for number in range(per_file):
                time = midnight + datetime.timedelta(seconds=86_400 / per_file * number)
                user = f"u{number % 5}"
                row: Row = dict.fromkeys(SCHEMA.table_schema.names)
                row |= {one.column: _promoted_value(one.type, number) for one in promoted}
                row |= {
                    "date": date,
                    "type": action_type,
                    "user_id": user,
                    "session_id": f"{user}-{number % 2}",
                    "time": time,
                    "utc_offset_minutes": -360,
                    "properties": '{"n": 1}',
                    "received_at": time,
                    "journal": journal,
                    "position": len(rows) + 1,
                }
                rows.append(row)
    return rows


def _promoted_value(type_: str, number: int) -> object:
    return float(number) if type_ == "double" else f"page-{number % 3}"


def as_table(rows: Sequence[Row], schema: pa.Schema = SCHEMA.table_schema) -> pa.Table:
    """The rows as Arrow."""
    return pa.Table.from_pylist(list(rows), schema=schema)


@dataclass(frozen=True)
class SmallTable:
    """A folder with files, and what is in it."""

    folder: Path
    files: tuple[DataFile, ...]
    rows: list[Row]
    hot_rows: list[Row]

    @property
    def all_rows(self) -> list[Row]:
        """What a query sees."""
        return [*self.rows, *self.hot_rows]

    @property
    def view(self) -> TableView:
        """The snapshot."""
        return TableView(self.files, as_table(self.hot_rows), SCHEMA.table_schema)


def write_table(folder: Path, rows: Sequence[Row], hot_rows: Sequence[Row] = ()) -> SmallTable:
    """Write rows as one file for each date and type."""
    partitions: dict[tuple[datetime.date, str], list[Row]] = {}
    for row in rows:
        partitions.setdefault((row["date"], row["type"]), []).append(row)
    folder.mkdir(parents=True, exist_ok=True)
    files = tuple(write_file(folder, part) for part in partitions.values())
    return SmallTable(folder, files, list(rows), list(hot_rows))


def write_file(folder: Path, rows: Sequence[Row], *, leave_out: Sequence[str] = ()) -> DataFile:
    """Write rows of one partition as one file, as the store does, bounds rounded up as in the table's log."""
    date, action_type = rows[0]["date"], rows[0]["type"]
    path = folder / f"date={date}" / f"type={action_type}" / f"part-{rows[0]['position']}.parquet"
    path.parent.mkdir(parents=True, exist_ok=True)
    schema = pa.schema([field for field in SCHEMA.file_schema if field.name not in leave_out])
    ordered = sorted(rows, key=lambda row: (row["user_id"], row["time"]))
    pq.write_table(as_table(ordered, schema), path, compression="zstd", row_group_size=20_480)
    times = [microseconds(row["time"]) for row in rows]
    time_max_us = max(times) // 1000 * 1000 + 1000
    return DataFile(str(path), path.stat().st_size, len(rows), date, action_type, min(times), time_max_us)


@dataclass(frozen=True)
class Answer:
    """A whole answer."""

    table: pa.Table
    result: SqlResult

    @property
    def rows(self) -> list[tuple[Any, ...]]:
        """The rows as tuples."""
        return [tuple(row.values()) for row in self.portable.to_pylist()]

    @property
    def portable(self) -> pa.Table:
        """The rows with types that pyarrow knows."""
        schema = portable_schema(self.table.schema)
        return pa.Table.from_batches([portable_batch(one, schema) for one in self.table.to_batches()], schema)

    @property
    def statistics(self) -> SqlStatistics:
        """What it cost."""
        assert self.result.statistics is not None
        return self.result.statistics


@dataclass(frozen=True)
class Sandbox:
    """A pool over one table."""

    pool: SqlPool
    table: SmallTable
    view: TableView
    lost: list[LostWorker]

    def ask(
        self,
        sql: str,
        parameters: Any = (),
        *,
        max_rows: int | None = None,
        explain: bool = False,
        view: TableView | None = None,
        cancellation: Cancellation | None = None,
    ) -> Answer:
        """Run a query and take all of its rows."""
        request = SqlRequest(sql, parameters, max_rows, explain)
        with self.pool.run(request, view or self.view, cancellation) as result:
            return Answer(pa.Table.from_batches(list(result), result.schema), result)


@contextmanager
def sandbox(
    table: SmallTable, temp_folder: Path, limits: SqlLimits | None = None, *, workers: int = 1, **options: Any
) -> Iterator[Sandbox]:
    """A started pool over a table; a query waits for a worker as long as a busy machine may take to start one."""
    lost: list[LostWorker] = []
    options = {"wait_s_max": 180.0, "start_timeout_s": 180.0, **options}
    with SqlPool(
        data_folder=table.folder,
        temp_folder=temp_folder,
        schema=SCHEMA,
        limits=limits or SqlLimits(timeout_s=120),
        workers=workers,
        on_worker_lost=lost.append,
        **options,
    ) as pool:
        yield Sandbox(pool, table, table.view, lost)
