"""Stores with copies of histories, made in this process, and retrievals from them beside a plain scan."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pytest

from queries.engine import Engine, EngineLimits
from queries.file_index import RetrievalFilter
from queries.formats import Format
from queries.retrieval import RetrievalPage, RetrievalRequest, retrieve_page
from queries.sources import Order
from queries.streaming import StreamRequest, stream_retrieval
from storage.data_files import sort_rows, write_partitions
from storage.history.building import Job, build_run
from storage.history.chore import HistoryChore
from storage.lake import Lake
from storage.read_view import ReadView
from storage.shortcut_upkeep import UserFilterChore
from storage.shortcuts import ShortcutLimits
from storage.store import Store
from tests.storage.building import SCHEMA

Row = tuple[int, str, int]

DAY_US: Final = 86_400_000_000
FIRST_US: Final = 19_783 * DAY_US


@contextmanager
def small_runs() -> Iterator[None]:
    """Let few rows make a run, of several parts with several row groups each."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr("storage.history.building.PART_ROWS", 12)
        patched.setattr("storage.history.building.ROW_GROUP_ROWS", 4)
        patched.setattr("storage.history.building.PASS_BYTES", 4096)
        patched.setattr("storage.history.reading._HALVES_FROM_GROUPS", 2)
        patched.setattr("storage.history.planning.BUILD_ROWS_MAX", 40)
        patched.setattr("storage.history.planning._BUILD_ROWS_MIN", 1)
        yield


class DoneHere:
    """A job that is done in this process, at once."""

    def __init__(self, job: Job) -> None:
        self.returncode: int | None = 0
        build_run(job)

    def poll(self) -> int | None:
        return self.returncode

    def kill(self) -> None:
        raise AssertionError("it has ended")

    def wait(self) -> int:
        return 0


def history_chore(store: Store, *, share_max: float = 1000.0, rest_s: float = 0.0) -> HistoryChore:
    """What makes the runs of *store*; the tiny files of tests are mostly footers, so that the share is no matter."""
    lake = Lake(store.paths.table, SCHEMA)
    limits = ShortcutLimits(history_bytes_share_max=share_max, history_rest_s=rest_s)
    return HistoryChore(
        store.paths, limits, lambda: lake.reload(store.journal_id), lambda: lake.file_schema, start=DoneHere
    )


def filter_chore(store: Store) -> UserFilterChore:
    """What makes the user filters of *store*."""
    lake = Lake(store.paths.table, SCHEMA)
    return UserFilterChore(store.paths, ShortcutLimits(), lambda: lake.reload(store.journal_id))


def work(chore: HistoryChore, steps: int = 100) -> None:
    """Do what there is to do, up to so many steps, each begun and finished."""
    for _ in range(steps):
        if not chore.run() and not chore.busy:
            return


def rows_of(count: int, *, user: str, days: Sequence[int], types: Sequence[str], first: int, step_us: int) -> pa.Table:
    """Rows as a flush has them, positions from *first* on; many with the same time."""
    names = SCHEMA.table_schema.names
    columns: dict[str, list[Any]] = {name: [None] * count for name in names}
    for n in range(count):
        time_us = FIRST_US + days[n % len(days)] * DAY_US + (n // 2) * step_us
        values = {
            "date": time_us // DAY_US,
            "type": types[n % len(types)],
            "user_id": user,
            "session_id": f"s{n % 3}" if n % 4 else None,
            "time": time_us,
            "utc_offset_minutes": (n % 5) * 60 - 120,
            "properties": json.dumps({"n": first + n}),
            "location_x": float(n),
            "received_at": time_us,
            "journal": "j",
            "position": first + n,
        }
        for name, value in values.items():
            columns[name][n] = value
    arrays = []
    for field in SCHEMA.table_schema:
        storage = {"date": pa.int32(), "time": pa.int64(), "received_at": pa.int64()}.get(field.name, field.type)
        arrays.append(pa.array(columns[field.name], storage).cast(field.type))
    return pa.table(arrays, schema=SCHEMA.table_schema)


@dataclass
class Table:
    """A store whose table is written directly: many small files for little time."""

    store: Store
    engine: Engine
    lake: Lake
    next_position: int = 1

    def add(self, rows: pa.Table) -> None:
        """Commit rows of the journal `j`, the next ones, as a flush does."""
        written = write_partitions(sort_rows(rows), self.store.paths.table)
        after = self.next_position - 1
        self.next_position += rows.num_rows
        self.lake.append(written, journal="j", after=after, watermark=self.next_position - 1)

    def view(self) -> ReadView:
        """What is stored now; `Store.read_view` does not know of commits of other journals."""
        self.store._lake.reload(self.store.journal_id)
        return self.store.read_view()

    def compact(self, *, users_gone: Sequence[str] = (), every: int = 1) -> None:
        """Rewrite every *every*-th partition into one file, without the rows of some users."""
        view = self.view()
        by_partition: dict[tuple[Any, str], list[Any]] = {}
        for one in view.files:
            by_partition.setdefault((one.date, one.type), []).append(one)
        for files in list(by_partition.values())[::every]:
            rows = pa.concat_tables([_file_rows(one) for one in files])
            kept = rows.filter(pc.invert(pc.is_in(rows["user_id"], pa.array(list(users_gone), pa.string()))))
            written = write_partitions(sort_rows(kept), self.store.paths.table) if kept.num_rows else []
            self.lake.rewrite(files, written, data_change=bool(users_gone))

    def page(self, view: ReadView, asked: RetrievalFilter, order: Order = "asc", limit: int = 1000) -> RetrievalPage:
        """One page."""
        with self.engine.connect() as connection:
            return retrieve_page(connection, view, RetrievalRequest(asked, order, limit))

    def paged(self, view: ReadView, asked: RetrievalFilter, order: Order, limit: int) -> list[int]:
        """The positions on all pages, in order, by the number in their properties."""
        found: list[int] = []
        cursor = None
        with self.engine.connect() as connection:
            while True:
                page = retrieve_page(connection, view, RetrievalRequest(asked, order, limit, cursor))
                assert len(page.rows) <= limit
                found += [json.loads(row)["properties"]["n"] for row in page.rows]
                cursor = page.next
                if cursor is None:
                    return found

    def streamed(self, view: ReadView, asked: RetrievalFilter, order: Order = "asc") -> pa.Table:
        """All columns of the rows, as an Arrow stream has them."""
        with self.engine.connect() as connection:
            stream = stream_retrieval(connection, view, StreamRequest(asked, order, Format.ARROW))
            with pa.ipc.open_stream(b"".join(stream.content)) as reader:
                return reader.read_all()


def _file_rows(one: Any) -> pa.Table:
    import pyarrow.parquet as pq

    with pq.ParquetFile(one.path) as file:
        read = file.read()
    columns = {name: read[name] for name in read.column_names}
    columns["date"] = pa.repeat(pa.scalar(one.date, pa.date32()), one.rows)
    columns["type"] = pa.repeat(pa.scalar(one.type, pa.string()), one.rows)
    return pa.table([columns[name] for name in SCHEMA.table_schema.names], schema=SCHEMA.table_schema)


def full_scan(view: ReadView) -> pa.Table:
    """All rows of a view, without any shortcut."""
    return pa.concat_tables([*(_file_rows(one) for one in view.files), view.hot])


def chosen(everything: pa.Table, asked: RetrievalFilter, order: Order) -> pa.Table:
    """What a retrieval must answer, from a full scan."""
    times = everything["time"].cast(pa.int64())
    keep = pc.greater_equal(times, asked.from_us or 0)
    if asked.to_us is not None:
        keep = pc.and_(keep, pc.less_equal(times, asked.to_us))
    if asked.user_id is not None:
        keep = pc.and_(keep, pc.equal(everything["user_id"], asked.user_id))
    if asked.user_prefix is not None:
        keep = pc.and_(keep, pc.starts_with(everything["user_id"], asked.user_prefix))
    if asked.action_type is not None:
        keep = pc.and_(keep, pc.equal(everything["type"], asked.action_type))
    direction = "ascending" if order == "asc" else "descending"
    return everything.filter(keep).sort_by([(name, direction) for name in ("time", "journal", "position")])


def positions_of(rows: pa.Table) -> list[int]:
    """Their positions."""
    return [int(position) for position in rows["position"].to_pylist()]


@contextmanager
def table_in(folder: Path) -> Iterator[Table]:
    """An empty table in *folder*."""
    from tests.storage.building import store_in

    with store_in(folder) as store:
        engine = Engine(EngineLimits(threads=1), folder / "query-temp")
        try:
            yield Table(store, engine, Lake(store.paths.table, SCHEMA))
        finally:
            engine.close()
