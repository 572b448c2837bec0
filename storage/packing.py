"""How the columns of a Parquet file are encoded and compressed.

Only encodings that DuckDB, Polars, Arrow, Spark and Athena all read are chosen. What each of them, and each level of
zstd, saves and costs is in decision 26.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Any, Final

import pyarrow as pa
import pyarrow.compute as pc

_ENCODINGS: Final[Mapping[str, str]] = {
    # Neighbours differ by less than their values are large.
    "time": "DELTA_BINARY_PACKED",
    "position": "DELTA_BINARY_PACKED",
    # The actions of a session have the same one, which zstd sees where it stands beside itself.
    "received_at": "PLAIN",
    # Lengths apart from texts: the texts of sorted ids begin alike, and zstd takes what is alike from the one before.
    "user_id": "DELTA_LENGTH_BYTE_ARRAY",
    "session_id": "DELTA_LENGTH_BYTE_ARRAY",
}
# Texts of any length, which get a dictionary only where it is worth while.
_FREE_TEXT: Final = "properties"
_REPEATED_SHARE: Final = 0.5
_QUICK_LEVEL: Final = 1
_TIGHT_LEVEL: Final = 15
# From here on zstd weighs a repetition against what its bytes cost otherwise, which is what digits need.
_TIGHT_LEVELS: Final[Mapping[str, int]] = {"user_id": 16, "session_id": 16}


class Packing(Enum):
    """What is spent on a file's size."""

    QUICK = "quick"
    """As fast as can be: for files that somebody waits for, or that are soon written anew."""
    TIGHT = "tight"
    """A fifth smaller, some microseconds a row slower to write and as fast to read: for files that stay."""


def packing_options(rows: pa.Table, packing: Packing) -> dict[str, Any]:
    """Tell pyarrow's writer how to encode and compress each column.

    Args:
        rows: the first ones of the file, by which it is decided what a dictionary is worth while for.
        packing: what is to be spent.
    """
    names = rows.column_names
    plain = {*_ENCODINGS, *(() if _repeats(rows) else (_FREE_TEXT,))}
    level = _QUICK_LEVEL if packing is Packing.QUICK else _TIGHT_LEVEL
    levels = {} if packing is Packing.QUICK else _TIGHT_LEVELS
    return {
        "compression": "zstd",
        "compression_level": {name: levels.get(name, level) for name in names},
        "column_encoding": {name: encoding for name, encoding in _ENCODINGS.items() if name in names},
        "use_dictionary": [name for name in names if name not in plain],
    }


def _repeats(rows: pa.Table) -> bool:
    """Whether the free text has few different values."""
    if _FREE_TEXT not in rows.column_names:
        return False
    different = pc.count_distinct(rows[_FREE_TEXT], mode="all").as_py()
    return bool(different <= _REPEATED_SHARE * rows.num_rows)
