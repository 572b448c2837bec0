"""A slice that Arrow reads has the rows that a plain search finds, in order, whatever their times and journals are."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest

from queries import slice_rows
from queries.engine import QueryStopped
from queries.file_index import RetrievalFilter
from queries.slice_columns import FileContent, Repeated, SliceColumns
from queries.slice_rows import SliceRows, can_be_read, read_slice
from queries.sources import Order
from storage.data_files import DataFile, sort_rows, write_partitions
from storage.erased_rows import ErasedRows
from storage.schema import ActionSchema
from tests.storage.building import DAY_US

SCHEMA = ActionSchema()
COLUMNS = SCHEMA.table_schema
FIRST_DAY = 19_800
BATCH_ROWS = 70
EPOCH = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)

Row = dict[str, Any]


def microseconds(row: Row) -> int:
    return int((row["time"] - EPOCH) // datetime.timedelta(microseconds=1))


def random_rows(
    rnd: random.Random, count: int, *, days: int, instants: int, journals: Sequence[str] = ("j1", "j2", "j10")
) -> list[Row]:
    """Rows of several users, at so many different instants a day."""
    rows: list[Row] = []
    for position in range(count):
        time_us = (FIRST_DAY + rnd.randrange(days)) * DAY_US + rnd.randrange(instants) * (DAY_US // instants)
        time = EPOCH + datetime.timedelta(microseconds=time_us)
        page = rnd.choice(["home", "pricing", "", None, "é" * 20])
        row: Row = dict.fromkeys(COLUMNS.names)
        row |= {
            "date": time.date(),
            "type": rnd.choice(["click", "view", "navigate"]),
            "user_id": f"u{rnd.randrange(9)}",
            "session_id": rnd.choice([None, "s1", "s2"]),
            "time": time,
            "utc_offset_minutes": rnd.choice([-360, 0, 90]),
            "properties": f'{{"n":{position}}}',
            "location_x": rnd.choice([None, 1.5]),
            "page_from": page,
            "received_at": time,
            "journal": rnd.choice(journals),
            "position": position,
        }
        rows.append(row)
    rnd.shuffle(rows)
    return rows


def as_table(rows: Sequence[Row]) -> pa.Table:
    return pa.Table.from_pylist(list(rows), schema=COLUMNS)


def write_files(rows: Sequence[Row], folder: Path) -> list[DataFile]:
    """Files as a flush writes them."""
    return [
        DataFile(
            str(folder / one.relative_path), one.size_bytes, one.rows, one.date, one.type, one.time_min_us,
            one.time_max_us,
        )
        for one in write_partitions(sort_rows(as_table(rows)), folder)
    ]  # fmt: skip


def wanted(rows: Sequence[Row], asked: RetrievalFilter, order: Order, erased: ErasedRows) -> list[Row]:
    found = [
        row
        for row in rows
        if (asked.action_type is None or row["type"] == asked.action_type)
        and (asked.from_us is None or microseconds(row) >= asked.from_us)
        and (asked.to_us is None or microseconds(row) <= asked.to_us)
        and not erased.hides(row["user_id"], row["journal"], row["position"])
    ]
    return sorted(found, key=lambda row: (row["time"], row["journal"], row["position"]), reverse=order == "desc")


def all_rows(read: SliceRows, *, rows_max: int | None = None) -> list[Row]:
    batches = list(read.batches(rows_max=rows_max))
    assert all(batch.schema.equals(COLUMNS) and batch.num_rows <= BATCH_ROWS for batch in batches)
    rows: list[Row] = pa.Table.from_batches(batches, schema=COLUMNS).to_pylist()
    return rows


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("seed", range(10))
def test_the_rows_are_those_of_a_plain_search(tmp_path: Path, seed: int, order: Order) -> None:
    rnd = random.Random(seed)
    instants = rnd.choice([1, 3, 50, 86_400_000])
    journals = rnd.choice([["j1"], ["j1", "j2", "j10"]])
    rows = random_rows(rnd, 400, days=rnd.choice([1, 2]), instants=instants, journals=journals)
    hot = rows[: rnd.choice([0, 1, 150])]
    middle = FIRST_DAY * DAY_US + DAY_US // 2
    bounds = rnd.choice([(None, None), (middle, middle + DAY_US // 2), (middle, middle), (0, 1)])
    asked = RetrievalFilter(None, rnd.choice([None, "click"]), *bounds)
    erased = rnd.choice([ErasedRows(), ErasedRows({"u3": {"j1": 200}, "u4": {}})])
    files = write_files(rows[len(hot) :], tmp_path)
    if asked.action_type is not None:
        files = [one for one in files if one.type == asked.action_type]
    assert can_be_read(files, asked, COLUMNS, rows_max=len(rows))
    expected = wanted(rows, asked, order, erased)
    for rows_max in (None, 71):
        read = read_slice(files, as_table(hot), erased, asked, order, COLUMNS, lambda: None, batch_rows=BATCH_ROWS)
        assert read is not None
        assert all_rows(read, rows_max=rows_max) == expected[:rows_max]
        # It holds nothing any more.
        assert not read.parts


@pytest.mark.parametrize(
    "times_of",
    [
        lambda rnd: rnd.randrange(1 << 15),
        lambda rnd: rnd.randrange(1 << 40),
        # Nearly all of them at a few times that the highest bits do not tell apart.
        lambda rnd: rnd.choice([0, 1 << 50, (1 << 50) + rnd.randrange(3)]),
        lambda rnd: rnd.choice([-(1 << 62), 1 << 62, (1 << 62) + 5]),
        lambda rnd: 7,
    ],
)
def test_places_are_ordered_by_time_and_then_as_they_are_told(times_of: Callable[[random.Random], int]) -> None:
    rnd = random.Random(6)
    times = np.array([times_of(rnd) for _ in range(500)], np.int64)
    beyond = [(int(time), -place) for place, time in enumerate(times)]

    def by_all_keys(places: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
        return np.array(sorted(range(len(places)), key=lambda at: beyond[places[at]]), np.int64)

    assert slice_rows._ascending(times, by_all_keys).tolist() == sorted(range(500), key=beyond.__getitem__)


def test_texts_that_all_rows_have_are_not_read(tmp_path: Path) -> None:
    files = write_files(random_rows(random.Random(7), 60, days=1, instants=9, journals=["only"]), tmp_path)
    columns = SliceColumns(
        [FileContent.of(one) for one in files], COLUMNS.empty_table(), COLUMNS, batch_rows=9, text_bytes_max=99
    )
    with columns.opened() as read:
        for name in ("journal", "date", "viewed_id"):
            assert isinstance(read(name), Repeated)
        for name in ("type", "page_from", "time", "user_id"):
            assert not isinstance(read(name), Repeated)
        assert read("journal").whole(60).to_pylist() == ["only"] * 60


def test_times_too_far_apart_for_one_number_are_compared_all_the_same() -> None:
    rnd = random.Random(1)
    rows = random_rows(rnd, 300, days=1, instants=4)
    for row in rows:
        row["time"] += datetime.timedelta(days=rnd.choice([0, 2_000_000]))
    asked = RetrievalFilter(None, None, 0, 1 << 62)
    read = read_slice([], as_table(rows), ErasedRows(), asked, "asc", COLUMNS, lambda: None, batch_rows=BATCH_ROWS)
    assert read is not None
    assert all_rows(read) == wanted(rows, RetrievalFilter(), "asc", ErasedRows())


def test_what_needs_a_query_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = write_files(random_rows(random.Random(2), 50, days=1, instants=9), tmp_path)
    everything = RetrievalFilter(None, None, 0, 1 << 60)
    assert can_be_read(files, everything, COLUMNS, rows_max=50)
    assert not can_be_read(files, everything, COLUMNS, rows_max=49)
    assert not can_be_read(files, RetrievalFilter("u1"), COLUMNS, rows_max=50)
    assert not can_be_read(files, RetrievalFilter(None, "click", user_prefix="u"), COLUMNS, rows_max=50)
    assert not can_be_read(files, everything, COLUMNS.append(pa.field("later", pa.string())), rows_max=50)
    monkeypatch.setattr(slice_rows, "PAGES_BYTES_MAX", 10)
    nothing = COLUMNS.empty_table()
    assert read_slice(files, nothing, ErasedRows(), everything, "asc", COLUMNS, lambda: None) is None


def test_reading_stops_between_files(tmp_path: Path) -> None:
    files = write_files(random_rows(random.Random(3), 50, days=1, instants=9), tmp_path)

    def stopped() -> None:
        raise QueryStopped("nobody waits for it")

    with pytest.raises(QueryStopped):
        read_slice(files, COLUMNS.empty_table(), ErasedRows(), RetrievalFilter(), "asc", COLUMNS, stopped)


def test_a_page_that_was_altered_on_disk_is_an_error(tmp_path: Path) -> None:
    rows = random_rows(random.Random(4), 3_000, days=1, instants=9)
    files = write_files([row for row in rows if row["type"] == "click"], tmp_path)
    (path,) = (Path(one.path) for one in files)
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 1
    path.write_bytes(content)
    with pytest.raises((OSError, pa.ArrowException)):
        read_slice(files, COLUMNS.empty_table(), ErasedRows(), RetrievalFilter(), "asc", COLUMNS, lambda: None)
