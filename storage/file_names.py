"""What the name of a data file tells: which columns it has, and whether it was packed in a hurry."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterable
from typing import Final

import pyarrow as pa

from storage.packing import Packing
from storage.schema import PARTITION_COLUMNS

_QUICK: Final = "quick-"


def columns_fingerprint(columns: pa.Schema) -> str:
    """Eight letters for the names and types of columns, in any order and without those of the partition.

    The names of data files carry it, so that files with the same columns are known without being opened.
    """
    described = sorted(f"{one.name}:{one.type}" for one in columns if one.name not in PARTITION_COLUMNS)
    return hashlib.blake2b("\n".join(described).encode(), digest_size=4).hexdigest()


def new_file_name(columns: pa.Schema, packing: Packing) -> str:
    """Make the name of a new data file with these columns: no other file has it, and it tells which they are."""
    quick = _QUICK if packing is Packing.QUICK else ""
    return f"part-{columns_fingerprint(columns)}-{quick}{uuid.uuid4().hex}.parquet"


def is_packed_quickly(path: str) -> bool:
    """Tell whether the name of a file says so; one from before names told it does not."""
    return path.rpartition("/")[2].split("-")[2:3] == [_QUICK.rstrip("-")]


def all_have_columns(paths: Iterable[str], columns: pa.Schema) -> bool:
    """Tell whether the names of all files say that they have exactly *columns*; False where one does not say.

    DuckDB then need not open each file once more to learn its columns (`union_by_name`).
    """
    start = f"part-{columns_fingerprint(columns)}-"
    return all(path.rpartition("/")[2].startswith(start) for path in paths)
