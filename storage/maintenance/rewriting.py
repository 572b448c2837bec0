"""Writing the rows of some data files anew: sorted, in files of a bounded size, in bounded memory, and proven.

DuckDB sorts, a range of users that fits into memory at a time, and hands the rows on a row group at a time; they are
written by the same code as those of a flush. Before anything is committed, count and an order-independent hash over all
columns of the old files are compared with those of the new files as they are read back: a row that was lost, doubled
or changed stops the rewrite.
"""

from __future__ import annotations

import datetime
import errno
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from storage.data_files import ROW_GROUP_ROWS, DataFileWriter, WrittenFile, remove_unreferenced
from storage.errors import CommitRefused, CorruptData, DiskFull
from storage.maintenance.planning import PartitionRewrite
from storage.packing import Packing

_HIVE: Final = "union_by_name = true, hive_partitioning = true, hive_types = {'date': DATE, 'type': VARCHAR}"
_KEYS: Final = "user_id, time, position, journal"
# A range of rows that is sorted at once may be so small a part of the memory.
_RANGES_IN_MEMORY: Final = 6
# What a row takes beside its encoded values.
_ROW_BYTES: Final = 200
_SAMPLE_ROWS_PER_RANGE: Final = 200
_SAMPLE_ROWS_MAX: Final = 200_000
_NO_SPACE: Final = ("No space left on device", "max_temp_directory_size")


@dataclass(frozen=True, slots=True)
class Fingerprint:
    """A multiset of rows: how many, and the sum and the exclusive or of the hashes of all their columns."""

    rows: int
    sum: int
    exclusive_or: int


class RowsDiffer(CorruptData):
    """The rows that were written are not the rows that were read. Nothing was committed."""


class Rewriter:
    """Writes rows of data files anew. For one thread; to be closed.

    Attributes:
        on_written: called with each data file that was written and is durable, before it is proven and committed.
    """

    def __init__(
        self,
        table_folder: Path,
        schema: pa.Schema,
        *,
        memory_bytes_max: int,
        temp_folder: Path,
        on_written: Callable[[WrittenFile], None] = lambda _: None,
    ) -> None:
        """Start the engine.

        Args:
            table_folder: of the table.
            schema: all columns of the table but the partition columns.
            memory_bytes_max: of DuckDB; what does not fit is spilled.
            temp_folder: where it is spilled to.
            on_written: see the attribute.
        """
        self._folder = table_folder
        self._schema = schema
        self._memory_bytes_max = memory_bytes_max
        self.on_written = on_written
        self._connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{memory_bytes_max}B",
                "threads": 1,
                "temp_directory": str(temp_folder),
                "preserve_insertion_order": False,
                "python_enable_replacements": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
            },
        )
        self._connection.execute("SET TimeZone = 'UTC'")
        # It would be written to where a process tells of its commits.
        self._connection.execute("SET enable_progress_bar = false")
        # Files from before a column was added lack it, perhaps all of them: an empty table says what columns there are.
        keys = [pa.field("date", pa.date32()), pa.field("type", pa.string())]
        self._connection.register("no_rows", pa.schema([*keys, *schema]).empty_table())

    def rewrite(self, wanted: PartitionRewrite, *, stop: Callable[[], bool] = lambda: False) -> list[WrittenFile]:
        """Write the rows of one partition's files into new ones, which are durable and in no commit.

        Rows are sorted by user, time and position. No two of the new files share a user, unless that user alone has
        more than a file holds.

        Raises:
            Stopped: *stop* said so.
            CorruptData: a file cannot be read.
            DiskFull, OSError: the files could not be written; none is left.
            CommitRefused: the memory does not suffice.
        """
        files = _Files(self._folder, wanted, self._schema)
        paths = [one.path for one in wanted.files]
        columns = ", ".join(f'"{name}"' for name in self._schema.names)
        try:
            with _errors_named(f"the partition date={wanted.date}/type={wanted.type}"):
                for condition, bounds in self._ranges(paths, wanted.rows):
                    rows = f"SELECT {columns} FROM {_stored('$files')} WHERE {condition} ORDER BY {_KEYS}"  # noqa: S608
                    found = self._connection.execute(rows, {"files": paths, **bounds})
                    for batch in found.to_arrow_reader(ROW_GROUP_ROWS):
                        _go_on_unless(stop)
                        files.write(pa.Table.from_batches([batch]).cast(self._schema))
            written = files.close()
        except BaseException:
            files.abort()
            raise
        for one in written:
            self.on_written(one)
        return written

    def _ranges(self, paths: list[str], rows: int) -> Iterator[tuple[str, dict[str, object]]]:
        """Cut what is to be sorted into ranges of user and time that fit into memory, in order.

        DuckDB spills while it sorts, but what it needs at the end of a sort grows with what is sorted. Files are
        sorted, so that a range reads few row groups that are not its own. Yields conditions with their parameters.
        """
        encoded = self._connection.execute(
            "SELECT coalesce(sum(total_uncompressed_size), 0) FROM parquet_metadata($files)", {"files": paths}
        ).fetchone()
        assert encoded is not None
        ranges = -(-(int(encoded[0]) + rows * _ROW_BYTES) // max(1, self._memory_bytes_max // _RANGES_IN_MEMORY))
        edges: list[tuple[str, int]] = []
        if ranges > 1:
            wanted = min(_SAMPLE_ROWS_MAX, ranges * _SAMPLE_ROWS_PER_RANGE)
            sample = sorted(
                self._connection.execute(
                    f"SELECT user_id, epoch_us(time) FROM read_parquet($files) USING SAMPLE {wanted} ROWS",  # noqa: S608
                    {"files": paths},
                ).fetchall()
            )
            edges = sorted({sample[len(sample) * place // ranges] for place in range(1, ranges)}) if sample else []
        for low, high in zip([None, *edges], [*edges, None], strict=True):
            conditions = ["true"]
            bounds: dict[str, object] = {}
            if low is not None:
                conditions.append("user_id >= $after AND (user_id > $after OR time > make_timestamptz($after_us))")
                bounds |= {"after": low[0], "after_us": low[1]}
            if high is not None:
                conditions.append("user_id <= $to AND (user_id < $to OR time <= make_timestamptz($to_us))")
                bounds |= {"to": high[0], "to_us": high[1]}
            yield " AND ".join(conditions), bounds

    def require_same_rows(self, old: Sequence[str], new: Sequence[WrittenFile]) -> None:
        """Prove that the *new* files hold the rows of the *old* ones, each as often, in the same partitions.

        Raises:
            RowsDiffer: they do not.
            CorruptData: a file cannot be read.
        """
        before = self.fingerprint(old)
        after = self.fingerprint([str(self._folder / one.relative_path) for one in new])
        if before != after:
            raise RowsDiffer(
                f"rewriting {len(old)} files from {old[0]} on would change rows: {before} became {after};"
                " nothing was committed, and the files stay as they are"
            )

    def fingerprint(self, paths: Sequence[str]) -> Fingerprint:
        """Read files and sum up their rows.

        Raises:
            CorruptData: a file cannot be read.
        """
        if not paths:
            return Fingerprint(0, 0, 0)
        columns = ", ".join(["date", "type", *(f'"{name}"' for name in self._schema.names)])
        with _errors_named(f"one of {len(paths)} files from {paths[0]} on"):
            found = self._connection.execute(
                "SELECT count(*), coalesce(sum(hashed), 0), coalesce(bit_xor(hashed), 0)"  # noqa: S608
                f" FROM (SELECT hash({columns}) AS hashed FROM {_stored('$files')})",
                {"files": list(paths)},
            ).fetchone()
        assert found is not None
        return Fingerprint(*map(int, found))

    def close(self) -> None:
        """Stop the engine."""
        self._connection.close()


class Stopped(Exception):
    """The rewrite was told to stop; nothing is left of it."""


def _go_on_unless(stop: Callable[[], bool]) -> None:
    if stop():
        raise Stopped("told to stop")


class _Files:
    """Spreads sorted rows over files of about the same number of rows, cut where the user changes."""

    def __init__(self, folder: Path, wanted: PartitionRewrite, schema: pa.Schema) -> None:
        self._folder = folder
        self._partition: tuple[datetime.date, str] = wanted.partition
        self._schema = schema
        self._packing = Packing.TIGHT if wanted.tight else Packing.QUICK
        self._rows_wanted = max(1, -(-wanted.rows // wanted.pieces))
        # A user with more rows than this is cut in two all the same.
        self._rows_max = self._rows_wanted + self._rows_wanted // 4
        self._writer: DataFileWriter | None = None
        self._last_user: str | None = None
        self._written: list[WrittenFile] = []

    def write(self, rows: pa.Table) -> None:
        while rows.num_rows:
            count = self._fitting(rows)
            if count:
                if self._writer is None:
                    self._writer = DataFileWriter(self._folder, *self._partition, self._schema, self._packing)
                self._writer.write(rows.slice(0, count))
                self._last_user = rows["user_id"][count - 1].as_py()
                rows = rows.slice(count)
            if rows.num_rows:
                self._close_file()

    def _fitting(self, rows: pa.Table) -> int:
        """How many leading rows belong into the file that is open, or would be opened."""
        held = self._writer.rows if self._writer is not None else 0
        if held + rows.num_rows <= self._rows_wanted:
            return int(rows.num_rows)
        at_least = max(0, self._rows_wanted - held)
        users = rows["user_id"].combine_chunks()
        if at_least == 0:
            if users[0].as_py() != self._last_user:
                return 0
            at_least = 1
        before, after = users.slice(at_least - 1, len(users) - at_least), users.slice(at_least)
        change = pc.index(pc.not_equal(before, after), True).as_py()
        wanted = at_least + change if change >= 0 else rows.num_rows
        return int(min(wanted, max(0, self._rows_max - held)))

    def _close_file(self) -> None:
        if self._writer is not None:
            self._written.append(self._writer.close())
            self._writer = None

    def close(self) -> list[WrittenFile]:
        self._close_file()
        return self._written

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.abort()
        remove_unreferenced(self._written, self._folder)


def _stored(files: str) -> str:
    return f"(SELECT * FROM no_rows UNION ALL BY NAME SELECT * FROM read_parquet({files}, {_HIVE}))"  # noqa: S608


@contextmanager
def _errors_named(what: str) -> Iterator[None]:
    try:
        yield
    except (duckdb.Error, pa.ArrowException) as error:
        text = str(error).partition("\n")[0]
        if any(sign in str(error) for sign in _NO_SPACE):
            raise DiskFull(f"no space left to sort {what}", retry_after_s=5) from error
        if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory Error" in text:
            raise CommitRefused(f"{what} cannot be sorted within the memory that compaction may use: {text}") from error
        raise CorruptData(f"{what} cannot be rewritten: {text}") from error
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise DiskFull(f"no space left to rewrite {what}", retry_after_s=5) from error
        raise
