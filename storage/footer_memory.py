"""What the footer of a data file takes in memory, for whoever keeps footers and has to bound them.

Parquet's readers make an object of each column of each row group. Measured with DuckDB 1.5.5 and Arrow 25, a footer
takes nine times in memory what it takes on disk: 20 KB for a file of one row group, and 1.5 MB for one of 2.5 million
rows. So a number of files bounds nothing, and DuckDB's own figure (`duckdb_memory()`) is a seventh of the truth.

Whoever lets go of a footer must be rid of it. Arrow's `FileMetaData`, once it was asked for its `schema`, and that
schema hold each other, which only Python's collector of cycles ends: it comes by the number of new objects, and two
small ones stand for megabytes that it knows nothing of. A service that read new files all the time had three dozen such
footers beside the three that it kept. Hence `read_footer`, which takes names and types from elsewhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

# What a footer takes in memory, to what it takes on disk.
FOOTER_GROWTH: Final = 10
_FILE_BYTES: Final = 6_000
# With the columns that every table has; each further one takes 1 KB.
_ROW_GROUP_BYTES: Final = 14_000


def footer_memory_bytes(row_groups: int) -> int:
    """About what the footer of a data file of so many row groups takes in memory."""
    return _FILE_BYTES + _ROW_GROUP_BYTES * row_groups


def read_footer(source: str | Path | pa.NativeFile) -> tuple[pq.FileMetaData, pa.Schema]:
    """Read a footer, and the schema of its file, whose fields are the columns in their order where none is nested.

    The footer's memory is free once nothing refers to it; do not ask it for its own `schema`.

    Raises:
        OSError: the file cannot be read.
        pa.ArrowException: it is none of Parquet.
    """
    with pq.ParquetFile(source) as file:
        return file.metadata, file.schema_arrow
