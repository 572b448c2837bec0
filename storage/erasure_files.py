"""Data files and the rows of erased users in them: finding, counting, and writing a file anew without them.

A file is sorted by user, so that the bounds of its row groups tell which of them can hold somebody, and only the ids of
those are read. A file that is written anew streams through memory one row group at a time.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.data_files import DataFile, DataFileWriter, WrittenFile
from storage.erased_rows import ErasedRows

_KEY: Final = ["user_id", "journal", "position"]
_READ_ROWS: Final = 2048


def count_erased(path: str | Path, erased: ErasedRows) -> dict[str, int]:
    """Count a data file's erased rows by user; users without any are left out.

    Raises:
        OSError, pa.ArrowException: the file cannot be read, or is no Parquet file.
    """
    counts: dict[str, int] = {}
    with pq.ParquetFile(path) as file:
        column = file.schema_arrow.names.index("user_id")
        for group in range(file.num_row_groups):
            if not _can_hold(file.metadata.row_group(group).column(column), erased.kept_after):
                continue
            rows = file.read_row_group(group, columns=_KEY)
            for user in rows.filter(erased.mask(rows))["user_id"].to_pylist():
                counts[user] = counts.get(user, 0) + 1
    return counts


def _can_hold(chunk: Any, users: Iterable[str]) -> bool:
    """Tell by the bounds of a row group's ids whether one of *users* can be in it."""
    bounds = chunk.statistics
    if bounds is None or not bounds.has_min_max:
        return True
    # Python and Parquet agree on the order of texts: by code points is as by bytes of UTF-8.
    low, high = bounds.min, bounds.max
    return any(low <= user <= high for user in users)


def write_without(source: DataFile, erased: ErasedRows, table_folder: Path) -> WrittenFile | None:
    """Write *source* anew, durably, without its erased rows; return None, and write nothing, if none is left.

    Raises:
        OSError, pa.ArrowException: the file cannot be read or written; nothing is left of the new one.
    """
    writer: DataFileWriter | None = None
    with pq.ParquetFile(source.path) as file:
        try:
            for batch in file.iter_batches(batch_size=_READ_ROWS):
                kept = batch.filter(pc.invert(erased.mask(batch)))
                if kept.num_rows:
                    if writer is None:
                        writer = DataFileWriter(table_folder, source.date, source.type, kept.schema)
                    writer.write(pa.Table.from_batches([kept]))
            return None if writer is None else writer.close()
        except BaseException:
            if writer is not None:
                writer.abort()
            raise
