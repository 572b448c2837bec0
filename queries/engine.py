"""The DuckDB that answers the service's own questions: one instance a process, one connection a query.

The bytes that a query reads are DuckDB's own count of what it asked of the file system. Its cache of file contents is
off for that reason: with it the count is 0 for everything read before, and the kernel caches files anyway. Footers
are cached, so that a file that was opened before costs its column chunks only. DuckDB forgets none of them, and they
are large (`storage.footer_memory`), so that an instance is replaced by another once most of what it keeps is of files
that are gone from the table, or it keeps too much altogether.
"""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import duckdb
import pyarrow as pa

from storage.data_files import ROW_GROUP_ROWS, DataFile
from storage.errors import StoreError
from storage.footer_memory import footer_memory_bytes

# Of footers of files that are gone; beyond it as much as of those that are there, so that reading these anew costs no
# more than reading those did.
_GONE_BYTES_MAX: Final = 8 << 20
# Of all footers: of 370 million rows, say.
_FOOTERS_BYTES_MAX: Final = 256 << 20


class QueryStopped(StoreError):
    """The query was interrupted: its time was up, or nobody waits for it any more."""


@dataclass(frozen=True, slots=True)
class EngineLimits:
    """What all queries of a process may use together.

    Attributes:
        memory_bytes_max: of DuckDB; beyond it a query spills to disk, or fails.
        threads: of DuckDB.
        temp_bytes_max: of spilled data.
    """

    memory_bytes_max: int = 1 << 30
    threads: int = 2
    temp_bytes_max: int = 2 << 30


class Engine:
    """An in-memory DuckDB instance, or one after the other. Methods may be called from any thread."""

    def __init__(self, limits: EngineLimits, temp_folder: Path) -> None:
        """Open the first instance; each spills into a folder of its own, which is named after *temp_folder*."""
        self._limits = limits
        self._temp_folder = temp_folder
        self._lock = threading.Lock()
        self._instances = 0
        self._version = -1
        # What DuckDB keeps of the files that this instance has opened, and altogether.
        self._opened: dict[str, int] = {}
        self._opened_bytes = 0
        self._connection = self._open()

    def _open(self) -> duckdb.DuckDBPyConnection:
        limits = self._limits
        self._instances += 1
        connection = duckdb.connect(
            ":memory:",
            config={
                "memory_limit": f"{limits.memory_bytes_max}B",
                "threads": limits.threads,
                # Neither other processes nor the instance before may write into the same files.
                "temp_directory": f"{self._temp_folder}-{os.getpid()}-{self._instances}",
                "max_temp_directory_size": f"{limits.temp_bytes_max}B",
                "python_enable_replacements": False,
                "autoinstall_known_extensions": False,
                "autoload_known_extensions": False,
                "enable_external_file_cache": False,
                "preserve_insertion_order": True,
            },
        )
        connection.execute("SET GLOBAL TimeZone = 'UTC'")
        connection.execute("SET GLOBAL parquet_metadata_cache = true")
        # Bytes that are not read ahead are not counted as read.
        connection.execute("SET GLOBAL prefetch_all_parquet_files = true")
        return connection

    def connect(self) -> QueryConnection:
        """Open a connection for one query; close it after use."""
        with self._lock:
            if self._opened_bytes >= _FOOTERS_BYTES_MAX:
                self._replace()
            return QueryConnection(self._connection.cursor(), self._note_opened)

    def _note_opened(self, files: Sequence[DataFile]) -> None:
        with self._lock:
            for one in files:
                if one.path not in self._opened:
                    self._opened[one.path] = size = footer_memory_bytes(max(1, -(-one.rows // ROW_GROUP_ROWS)))
                    self._opened_bytes += size

    @property
    def footers_bytes(self) -> int:
        """About what the footers that the instance keeps take in memory."""
        return self._opened_bytes

    def follow(self, version: int, files: Sequence[DataFile]) -> None:
        """Hear of the files of a version of the table that is read; costs nothing if it is no newer one.

        Queries under way keep the instance that they began with, which goes with the last of them.
        """
        with self._lock:
            if version <= self._version:
                return
            self._version = version
            gone = self._opened.keys() - {one.path for one in files}
            gone_bytes = sum(self._opened[path] for path in gone)
            if gone_bytes >= max(_GONE_BYTES_MAX, self._opened_bytes // 2):
                self._replace()

    def _replace(self) -> None:
        """Go on with an instance that keeps nothing.

        The one before is let go of, not closed, which would close the connections of the queries under way.
        """
        self._opened, self._opened_bytes = {}, 0
        self._connection = self._open()

    def close(self) -> None:
        """Close the instance; connections that are still open go with it."""
        self._connection.close()


class QueryConnection:
    """A connection for one query, run in one thread, which any other thread may interrupt."""

    def __init__(self, cursor: duckdb.DuckDBPyConnection, on_open: Callable[[Sequence[DataFile]], None]) -> None:
        """Take over *cursor*; *on_open* hears of the files that queries of it open."""
        self._cursor = cursor
        self._on_open = on_open
        self._lock = threading.Lock()
        self._stopped = False
        self._closed = False
        self._profiled = False

    def register(self, name: str, table: pa.Table) -> None:
        """Let *table* be queried as *name*."""
        self._cursor.register(name, table)

    def opens(self, files: Sequence[DataFile]) -> None:
        """Say that a query of this connection opens *files*, whose footers DuckDB keeps from then on."""
        self._on_open(files)

    def fetch(self, sql: str, parameters: Mapping[str, object]) -> pa.Table:
        """Run a query and return its whole result.

        Raises:
            QueryStopped: `interrupt` was called, before or meanwhile.
        """
        with self._translated():
            return self._cursor.execute(sql, dict(parameters)).to_arrow_table()

    def stream(self, sql: str, parameters: Mapping[str, object], *, batch_rows: int) -> pa.RecordBatchReader:
        """Run a query and return its result as a stream; the connection must stay open until it is read.

        Raises:
            QueryStopped: `interrupt` was called, before or meanwhile.
        """
        with self._translated():
            return self._cursor.execute(sql, dict(parameters)).to_arrow_reader(batch_rows)

    def bytes_read(self) -> int:
        """The bytes that the last query, once all of it was fetched, read from files."""
        return int(self._profile()["total_bytes_read"])

    def _profile(self) -> dict[str, Any]:
        profile: dict[str, Any] = json.loads(self._cursor.get_profiling_information("json"))
        return profile

    def interrupt(self) -> None:
        """Stop the query that runs, or the next one; without effect once it is closed."""
        with self._lock:
            self._stopped = True
            if not self._closed:
                self._cursor.interrupt()

    def check(self) -> None:
        """Do nothing unless the connection was interrupted; for work beside DuckDB.

        Raises:
            QueryStopped: `interrupt` was called.
        """
        if self._stopped:
            raise QueryStopped("the query was stopped")

    @contextmanager
    def _translated(self) -> Iterator[None]:
        self.check()
        if not self._profiled:
            # Not before it is needed: a page that is in memory needs no query.
            self._profiled = True
            self._cursor.execute("PRAGMA enable_profiling = 'no_output'")
        try:
            yield
        except duckdb.InterruptException as error:
            raise QueryStopped("the query was stopped") from error

    def close(self) -> None:
        """Close the connection."""
        with self._lock:
            self._closed = True
            self._cursor.close()

    def __enter__(self) -> QueryConnection:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
