"""What `verify` looks at in the data files: each by itself, and that no (journal, position) is in them twice."""

from __future__ import annotations

import datetime
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.log_replay import LoggedFile
from storage.problems import Problem
from storage.schema import TIMESTAMP

REWRITE: Final = "restore this file from a backup, or the store (actionlake restore)"
_NEVER_NULL: Final = ("user_id", "time", "utc_offset_minutes", "properties", "received_at", "journal", "position")
_DOUBLES_TOLD_MAX: Final = 20
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MILLISECOND: Final = datetime.timedelta(milliseconds=1)


@dataclass(slots=True)
class FilesFindings:
    """What the data files hold, and what is wrong with them.

    Attributes:
        rows: that could be read.
        positions: journal → how many of its rows there are, and the highest position.
        doubled: rows that are there more than once.
    """

    rows: int = 0
    positions: dict[str, tuple[int, int]] = field(default_factory=dict)
    doubled: int = 0
    problems: list[Problem] = field(default_factory=list)


def verify_files(
    table: Path, files: Sequence[LoggedFile], *, deep: bool, temp_folder: Path, memory_bytes_max: int
) -> FilesFindings:
    """Check data files against what the log says of them, and look for rows that are there twice.

    Each file is opened and its `journal` and `position` are read; with *deep* all of it. Memory is bounded by the
    columns of one row group and by *memory_bytes_max*, beyond which the search for doubles spills to *temp_folder*.
    """
    found = FilesFindings()
    codes: dict[str, int] = {}
    batches = _origins(table, files, deep=deep, found=found, codes=codes)
    schema = pa.schema([("code", pa.int32()), ("position", pa.int64()), ("file", pa.int32())])
    connection = duckdb.connect(
        config={
            "memory_limit": f"{memory_bytes_max}B",
            "threads": 2,
            "temp_directory": str(temp_folder),
            "preserve_insertion_order": False,
            "autoinstall_known_extensions": False,
            "autoload_known_extensions": False,
        }
    )
    try:
        connection.register("origins", pa.RecordBatchReader.from_batches(schema, batches))
        doubles = connection.execute(
            "SELECT code, position, count(*) AS times, min(file), max(file) FROM origins"
            " GROUP BY code, position HAVING count(*) > 1 ORDER BY code, position"
        ).fetchall()
    finally:
        connection.close()
    names = list(codes)
    found.doubled = len(doubles)
    for code, position, times, first, last in doubles[:_DOUBLES_TOLD_MAX]:
        also = "" if first == last else f", also in {files[last].path}"
        what = f"position {position} of journal {names[code]} is there {times} times{also}"
        found.problems.append(Problem(table / files[first].path, what, "restore the store from a backup"))
    if len(doubles) > _DOUBLES_TOLD_MAX:
        what = f"{len(doubles) - _DOUBLES_TOLD_MAX} more positions are there more than once"
        found.problems.append(Problem(table, what, "restore the store from a backup"))
    return found


def _origins(
    table: Path, files: Sequence[LoggedFile], *, deep: bool, found: FilesFindings, codes: dict[str, int]
) -> Iterator[pa.RecordBatch]:
    """Check one file after the other; yield the code of the journal, the position and the file of each row."""
    for number, one in enumerate(files):
        path = table / one.path
        try:
            yield from _check_file(path, one, number, deep=deep, found=found, codes=codes)
        except FileNotFoundError:
            found.problems.append(Problem(path, "is missing, and the table's log names it", REWRITE))
        except (OSError, pa.ArrowException, ValueError, KeyError, OverflowError) as error:
            found.problems.append(Problem(path, f"cannot be read: {str(error).partition(chr(10))[0]}", REWRITE))


def _check_file(
    path: Path, one: LoggedFile, number: int, *, deep: bool, found: FilesFindings, codes: dict[str, int]
) -> Iterator[pa.RecordBatch]:
    size = path.stat().st_size
    if size != one.size_bytes:
        found.problems.append(Problem(path, f"has {size} bytes, and the log says {one.size_bytes}", REWRITE))
    with pq.ParquetFile(path, page_checksum_verification=True) as file:
        if file.metadata.num_rows != one.rows:
            what = f"has {file.metadata.num_rows} rows, and the log says {one.rows}"
            found.problems.append(Problem(path, what, REWRITE))
        bounds = _Bounds(one)
        last_key: tuple[str, datetime.datetime] | None = None
        columns = None if deep else ["journal", "position"]
        for group in range(file.num_row_groups):
            bounds.add_footer(file.metadata.row_group(group))
            rows = file.read_row_group(group, columns=columns, use_threads=False)
            if deep:
                rows.validate(full=True)
                found.problems.extend(Problem(path, what, REWRITE) for what in _wrong_rows(rows, last_key))
                last_key = (rows["user_id"][-1].as_py(), rows["time"][-1].as_py())
                bounds.add_rows(rows)
            _count(rows, found)
            yield from _coded(rows, number, codes).to_batches()
        found.problems.extend(Problem(path, what, REWRITE) for what in bounds.wrong())


def _wrong_rows(rows: pa.Table, before: tuple[str, datetime.datetime] | None) -> Iterator[str]:
    """What is wrong with the rows of one group, whose predecessor ends with the key *before*."""
    for name in _NEVER_NULL:
        if rows[name].null_count:
            yield f"{name} is missing in {rows[name].null_count} rows"
    if rows["time"].type != TIMESTAMP:
        yield f"time is of type {rows['time'].type}"
    keys = rows.select(["user_id", "time"]).combine_chunks()
    order = pc.sort_indices(keys, [("user_id", "ascending"), ("time", "ascending")])
    if not keys.take(order).equals(keys):
        yield "its rows are not in the order of user_id and time"
    elif before is not None and (keys["user_id"][0].as_py(), keys["time"][0].as_py()) < before:
        yield "its row groups are not in the order of user_id and time"


def _count(rows: pa.Table, found: FilesFindings) -> None:
    found.rows += rows.num_rows
    per_journal = rows.group_by("journal", use_threads=False).aggregate([("position", "count"), ("position", "max")])
    for row in per_journal.to_pylist():
        count, highest = found.positions.get(row["journal"], (0, 0))
        found.positions[row["journal"]] = (count + row["position_count"], max(highest, row["position_max"]))


def _coded(rows: pa.Table, number: int, codes: dict[str, int]) -> pa.Table:
    """The journal as a number, the position and the number of the file."""
    encoded = rows["journal"].combine_chunks().dictionary_encode()
    known = pa.array([codes.setdefault(name, len(codes)) for name in encoded.dictionary.to_pylist()], pa.int32())
    n = rows.num_rows
    arrays = [
        known.take(encoded.indices),
        rows["position"].combine_chunks(),
        pa.repeat(pa.scalar(number, pa.int32()), n),
    ]
    return pa.table(arrays, names=["code", "position", "file"])


class _Bounds:
    """Compares the minima and maxima of a file with its statistics in the log and with its partition."""

    def __init__(self, one: LoggedFile) -> None:
        self._one = one
        self._values: dict[str, list[Any]] = {"time": [], "position": []}
        self._wrong: list[str] = []

    def add_footer(self, group: pq.RowGroupMetaData) -> None:
        """Take the bounds that a row group's footer states."""
        for place in range(group.num_columns):
            column = group.column(place)
            statistics = column.statistics
            if column.path_in_schema in self._values and statistics is not None and statistics.has_min_max:
                self._values[column.path_in_schema] += [statistics.min, statistics.max]

    def add_rows(self, rows: pa.Table) -> None:
        """Take the bounds of the rows themselves."""
        for name, values in self._values.items():
            bounds = pc.min_max(rows[name]).as_py()
            if not min(values) <= bounds["min"] <= bounds["max"] <= max(values):
                self._wrong.append(f"the footer's bounds of {name} leave out rows")
            values += [bounds["min"], bounds["max"]]

    def wrong(self) -> list[str]:
        """What does not agree."""
        wrong = self._wrong
        for name, values in self._values.items():
            if not values:
                continue
            low, high = self._logged(name)
            if low is not None and high is not None and not low <= min(values) <= max(values) <= high:
                wrong.append(f"{name} lies between {min(values)} and {max(values)}, and the log says {low} to {high}")
        if self._values["time"]:
            days = {value.date().isoformat() for value in (min(self._values["time"]), max(self._values["time"]))}
            if days != {self._one.partition.get("date")}:
                wrong.append(
                    f"it lies in the partition of {self._one.partition.get('date')} and has rows of {sorted(days)}"
                )
        return wrong

    def _logged(self, name: str) -> tuple[Any, Any]:
        statistics: Mapping[str, Any] = self._one.statistics
        low = statistics.get("minValues", {}).get(name)
        high = statistics.get("maxValues", {}).get(name)
        if name != "time" or low is None or high is None:
            return low, high
        # The log keeps milliseconds, cut off.
        return datetime.datetime.fromisoformat(low), datetime.datetime.fromisoformat(high) + _MILLISECOND
