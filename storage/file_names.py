"""What the name of a data file tells: which columns it has."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable

import pyarrow as pa

from storage.schema import PARTITION_COLUMNS


def columns_fingerprint(columns: pa.Schema) -> str:
    """Eight letters for the names and types of columns, in any order and without those of the partition.

    The names of data files carry it, so that files with the same columns are known without being opened.
    """
    described = sorted(f"{one.name}:{one.type}" for one in columns if one.name not in PARTITION_COLUMNS)
    return hashlib.blake2b("\n".join(described).encode(), digest_size=4).hexdigest()


def new_file_name(columns: pa.Schema) -> str:
    """Make the name of a new data file with these columns: no other file has it, and it tells which they are."""
    return f"part-{columns_fingerprint(columns)}-{uuid.uuid4().hex}.parquet"


def all_have_columns(paths: Iterable[str], columns: pa.Schema) -> bool:
    """Tell whether the names of all files say that they have exactly *columns*; False where one does not say.

    DuckDB then need not open each file once more to learn its columns (`union_by_name`).
    """
    start = f"part-{columns_fingerprint(columns)}-"
    return all(path.rpartition("/")[2].startswith(start) for path in paths)
