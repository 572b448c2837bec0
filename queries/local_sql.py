"""SQL over a folder, for its owner: a plain DuckDB in this process, with the table and the helper views in view.

There is no sandbox here: whoever may read the folder may run what they like. Every statement sees the folder as it is
at that moment, the rows that a running service has acknowledged and not flushed yet included.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import duckdb
import pyarrow as pa

from queries.actions_view import HOT_ROWS, actions_sql
from queries.views import view_statements
from queries.without_erased import ERASED_ROWS
from storage.errors import StoreError
from storage.read_view import ReadView
from storage.store import Store

_BATCH_ROWS = 10_000


class LocalSqlError(StoreError):
    """The statement is wrong, or failed; the message is DuckDB's."""


@dataclass(slots=True)
class LocalResult:
    """A result that is read once, in batches, and figures that are right after it was read.

    Attributes:
        schema: of the batches.
        batches: to be read once.
        connection: DuckDB's, for showing tables.
    """

    schema: pa.Schema
    batches: Iterator[pa.RecordBatch]
    connection: duckdb.DuckDBPyConnection
    started: float
    total_files: int

    @property
    def elapsed_s(self) -> float:
        """Seconds since the statement began."""
        return time.perf_counter() - self.started

    def scan_line(self) -> str:
        """Say what was scanned, for people."""
        profile = json.loads(self.connection.get_profiling_information("json"))
        files = sum(_files_read(profile))
        read = profile["total_bytes_read"]
        return f"{self.elapsed_s * 1000:,.0f} ms, scanned {files:,} of {self.total_files:,} files, {read:,} bytes"


class LocalSql:
    """A session: one connection whose view `actions` follows the store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self.connection = duckdb.connect(config={"enable_external_file_cache": False})
        self.connection.execute("SET parquet_metadata_cache = true")
        # Bytes that are not read ahead are not counted as read.
        self.connection.execute("SET prefetch_all_parquet_files = true")
        self.connection.execute("SET TimeZone = 'UTC'")
        self.connection.execute("SET arrow_lossless_conversion = true")
        self.connection.execute("PRAGMA enable_profiling = 'no_output'")
        self._version = -1
        self._erasing = False
        self._files = 0

    def refresh(self) -> None:
        """Pin the newest state of the store in the view.

        Raises:
            StoreError: it cannot be read.
        """
        view: ReadView = self._store.read_view()
        self.connection.register(HOT_ROWS, view.hot)
        erasing = bool(view.erased)
        if erasing:
            self.connection.register(ERASED_ROWS, view.erased.as_table())
        if view.snapshot.version != self._version or erasing != self._erasing:
            select = actions_sql(view.files, view.schema.table_schema, erasing=erasing)
            self.connection.execute(f"CREATE OR REPLACE VIEW actions AS {select}")
            for name, select in view_statements(view.schema).items():
                self.connection.execute(f'CREATE OR REPLACE VIEW "{name}" AS {select}')
            self._version, self._erasing = view.snapshot.version, erasing
            self._files = len(view.files)

    def statements(self, text: str) -> list[str]:
        """The statements of *text*, each by itself.

        Raises:
            LocalSqlError: it does not parse.
        """
        with self._duckdb_errors():
            return [one.query for one in self.connection.extract_statements(text)]

    def run(self, statement: str) -> LocalResult:
        """Run one statement, or several, and return the last one's result.

        Raises:
            LocalSqlError: it is wrong or failed, or there is none.
            StoreError: the store cannot be read.
            KeyboardInterrupt: it was interrupted.
        """
        self.refresh()
        started = time.perf_counter()
        with self._duckdb_errors():
            # None where there is nothing but comments, which the types do not say.
            executed: duckdb.DuckDBPyConnection | None = self.connection.execute(statement)
            if executed is None:
                raise LocalSqlError("there is no statement")
            reader = executed.to_arrow_reader(_BATCH_ROWS)
        return LocalResult(reader.schema, self._batches(reader), self.connection, started, self._files)

    def _batches(self, reader: pa.RecordBatchReader) -> Iterator[pa.RecordBatch]:
        with self._duckdb_errors():
            yield from reader

    @contextmanager
    def _duckdb_errors(self) -> Iterator[None]:
        try:
            yield
        except (duckdb.Error, pa.ArrowException) as error:
            raise LocalSqlError(str(error)) from error
        except (RuntimeError, KeyboardInterrupt) as error:
            # Ctrl-C, which DuckDB makes another error of, or does not see, and goes on in its threads.
            if isinstance(error, RuntimeError) and not isinstance(error.__cause__, KeyboardInterrupt):
                raise
            self.connection.interrupt()
            raise KeyboardInterrupt from error


def _files_read(node: dict[str, Any]) -> Iterator[int]:
    files = node.get("extra_info", {}).get("Total Files Read")
    if files is not None:
        yield int(files)
    for child in node.get("children", ()):
        yield from _files_read(child)
