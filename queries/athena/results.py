"""Results of queries, kept as Arrow files for a bounded time, and read back page by page by any process.

A file is written under another name and renamed when it is whole, so a result is either there or not. Batches have
one size, except the last, so that the batch of a row is known without reading those before it.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import pyarrow as pa

from queries.athena.errors import QueryError
from queries.athena.result_columns import column_info, text_column_info
from queries.athena.types import TrinoType
from queries.athena.values import texts

_BATCH_ROWS: Final = 4096
_OPEN_MAX: Final = 32
_METADATA: Final = b"athena"
_WHOLE: Final = ".arrow"
_PARTIAL: Final = ".partial"
_ID: Final = re.compile(r"[0-9a-f-]{36}")


@dataclass(frozen=True, slots=True)
class ResultColumn:
    """A column of a result: its name, and its type, or None for the plain text of a statement that is no query."""

    name: str
    type: TrinoType | None

    @property
    def info(self) -> dict[str, object]:
        """The column as GetQueryResults describes it."""
        return text_column_info(self.name) if self.type is None else column_info(self.name, self.type)


@dataclass(frozen=True, slots=True)
class Page:
    """Some rows of a result, as text.

    Attributes:
        columns: the result's columns.
        rows: the rows, NULL as None.
        rows_total: how many rows the whole result has.
        has_header: whether the result's first page begins with the names of the columns.
    """

    columns: Sequence[ResultColumn]
    rows: Sequence[Sequence[str | None]]
    rows_total: int
    has_header: bool


@dataclass(frozen=True, slots=True)
class Written:
    """What a finished result file holds."""

    rows: int
    size_bytes: int


class ResultFiles:
    """The folder of results.

    Args:
        folder: made if it is not there, for its owner only.
        bytes_max: no single result may be larger.

    Raises:
        OSError: the folder cannot be made.
    """

    def __init__(self, folder: Path, *, bytes_max: int) -> None:
        self._folder = folder
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self._open: OrderedDict[str, pa.ipc.RecordBatchFileReader] = OrderedDict()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def write(
        self, execution_id: str, columns: Sequence[ResultColumn], batches: Iterator[pa.RecordBatch], *, has_header: bool
    ) -> Written:
        """Keep the rows of *batches*, whose columns are in order those of *columns*.

        Raises:
            QueryError: the result is larger than it may be.
            OSError: it cannot be written; nothing of it is left.
        """
        final = self._path(execution_id)
        temporary = final.with_suffix(_PARTIAL)
        try:
            rows = self._write(temporary, columns, batches, has_header=has_header)
            size_bytes = temporary.stat().st_size
            os.replace(temporary, final)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        return Written(rows, size_bytes)

    def _write(
        self, path: Path, columns: Sequence[ResultColumn], batches: Iterator[pa.RecordBatch], *, has_header: bool
    ) -> int:
        described = [{"name": c.name, "type": c.type.to_plain() if c.type is not None else None} for c in columns]
        metadata = {_METADATA: json.dumps({"columns": described, "has_header": has_header}).encode()}
        rows = 0
        writer: pa.ipc.RecordBatchFileWriter | None = None
        with contextlib.ExitStack() as stack:
            sink = stack.enter_context(open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "wb"))
            for batch in _same_size(batches):
                if writer is None:
                    schema = _numbered([field.type for field in batch.schema], metadata)
                    writer = stack.enter_context(pa.ipc.new_file(sink, schema))
                writer.write_batch(pa.RecordBatch.from_arrays(batch.columns, schema=schema))
                rows += batch.num_rows
                if sink.tell() > self._bytes_max:
                    raise QueryError(
                        "EXCEEDED_RESULT_SIZE_LIMIT",
                        f"the result is larger than {self._bytes_max} bytes, the most that is kept",
                    )
            if writer is None:
                schema = _numbered([pa.null()] * len(columns), metadata)
                stack.enter_context(pa.ipc.new_file(sink, schema))
        return rows

    def page(self, execution_id: str, offset: int, count: int) -> Page:
        """*count* rows from row *offset* on, fewer at the end.

        Raises:
            FileNotFoundError: the result is not, or no longer, kept.
        """
        reader = self._reader(execution_id)
        described = json.loads(reader.schema.metadata[_METADATA])
        columns = [
            ResultColumn(c["name"], TrinoType.from_plain(c["type"]) if c["type"] is not None else None)
            for c in described["columns"]
        ]
        batches = reader.num_record_batches
        total = (batches - 1) * _BATCH_ROWS + reader.get_batch(batches - 1).num_rows if batches else 0
        wanted = range(offset, min(offset + count, total))
        rows: list[Sequence[str | None]] = []
        while len(rows) < len(wanted):
            index, start = divmod(offset + len(rows), _BATCH_ROWS)
            piece = reader.get_batch(index).slice(start, len(wanted) - len(rows))
            # The rows of DESCRIBE have one cell, its columns between tabs, though three columns are described.
            kinds = (c.type or TrinoType("varchar") for c in columns)
            rows.extend(zip(*(texts(a, kind) for a, kind in zip(piece.columns, kinds, strict=False)), strict=True))
        return Page(columns, rows, total, described["has_header"])

    def _reader(self, execution_id: str) -> pa.ipc.RecordBatchFileReader:
        path = self._path(execution_id)
        with self._lock:
            reader = self._open.pop(execution_id, None)
            # Another process may have removed it, and then it must not be shown from this one's memory.
            if reader is None or not path.exists():
                reader = pa.ipc.open_file(pa.memory_map(str(path)))
            self._open[execution_id] = reader
            while len(self._open) > _OPEN_MAX:
                self._open.popitem(last=False)
            return reader

    def remove(self, execution_id: str) -> None:
        """Remove a result, if it is there.

        Raises:
            OSError: it cannot be removed.
        """
        with self._lock:
            self._open.pop(execution_id, None)
        self._path(execution_id).unlink(missing_ok=True)
        self._path(execution_id).with_suffix(_PARTIAL).unlink(missing_ok=True)

    def close_removed(self) -> None:
        """Let go of results that other processes have removed, so that their space on the disk is free."""
        with self._lock:
            for execution_id in [i for i in self._open if not self._path(i).exists()]:
                del self._open[execution_id]

    def remove_all_but(self, execution_ids: set[str]) -> None:
        """Remove every result, whole or in the making, but those of some executions.

        Raises:
            OSError: one cannot be removed.
        """
        for execution_id in self.names() - execution_ids:
            self.remove(execution_id)
            self._path(execution_id).with_suffix(_PARTIAL).unlink(missing_ok=True)

    def names(self) -> set[str]:
        """The executions of which there is a result, whole or in the making."""
        return {path.stem for path in self._folder.iterdir() if path.suffix in (_WHOLE, _PARTIAL)}

    def _path(self, execution_id: str) -> Path:
        if not _ID.fullmatch(execution_id):
            raise ValueError(f"{execution_id!r} is not the id of an execution")
        return self._folder / f"{execution_id}{_WHOLE}"


def _numbered(types: Sequence[pa.DataType], metadata: dict[bytes, bytes]) -> pa.Schema:
    """The schema of a result file. Its columns are numbered, since those of a result may have the same name."""
    return pa.schema([pa.field(f"c{i}", kind) for i, kind in enumerate(types)], metadata)


def _same_size(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """The same rows in batches of `_BATCH_ROWS`, the last one smaller."""
    waiting: list[pa.RecordBatch] = []
    rows = 0
    for batch in batches:
        if batch.num_rows == 0:
            continue
        waiting.append(batch)
        rows += batch.num_rows
        if rows < _BATCH_ROWS:
            continue
        whole = pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]
        for start in range(0, rows - rows % _BATCH_ROWS, _BATCH_ROWS):
            yield whole.slice(start, _BATCH_ROWS)
        rows %= _BATCH_ROWS
        waiting = [whole.slice(whole.num_rows - rows)] if rows else []
    if rows:
        yield pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]
