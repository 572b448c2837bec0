"""A DuckDB connection for user SQL: everything that can be switched off is, and the configuration is locked.

These settings are the second wall behind the guard, not a sandbox: inside the folders that are allowed DuckDB itself
would still write files. The operating system's walls are the third.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import duckdb

from queries.sql.literals import sql_text

# While the configuration is locked, this one may change: planning needs other optimizers than running.
_STAYS_OPEN: Final = "disabled_optimizers"
# Of what a query read, and of EXPLAIN ANALYZE; in DuckDB's own order.
_PROFILED: Final = (
    "EXTRA_INFO",
    "LATENCY",
    "OPERATOR_CARDINALITY",
    "OPERATOR_NAME",
    "OPERATOR_TIMING",
    "TOTAL_BYTES_READ",
)
_SIZES: Final = frozenset({"memory_limit", "max_temp_directory_size"})
# DuckDB shows sizes with one decimal of a binary unit.
_SIZE_TOLERANCE: Final = 0.05

Setting = bool | int | str | list[str]


class SettingDiffers(Exception):
    """DuckDB did not take a setting; nothing may run."""


def open_locked_connection(
    *, readable: tuple[Path, ...], spill_folder: Path, memory_bytes_max: int, threads: int, temp_bytes_max: int
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database that can read the *readable* folders, write the *spill_folder*, and nothing else.

    Raises:
        SettingDiffers: a setting does not read back as it was set.
    """
    memory_limit = f"{memory_bytes_max}B"
    connection = duckdb.connect(":memory:", config={"threads": threads, "memory_limit": memory_limit})
    # The order matters: what is needed is set before access ends, and the lock comes last.
    settings: dict[str, Setting] = {
        "autoinstall_known_extensions": False,
        "autoload_known_extensions": False,
        "allow_community_extensions": False,
        "allow_unsigned_extensions": False,
        "allow_persistent_secrets": False,
        "python_enable_replacements": False,
        "python_scan_all_frames": False,
        "memory_limit": memory_limit,
        "threads": threads,
        "temp_directory": str(spill_folder),
        "max_temp_directory_size": f"{temp_bytes_max}B",
        "TimeZone": "UTC",
        "errors_as_json": True,
        # Otherwise a time loses its zone on the way, a large UHUGEINT becomes negative, and BIT what is in memory.
        "arrow_lossless_conversion": True,
        # The bytes read are DuckDB's own count; from its cache they would count as 0.
        "enable_external_file_cache": False,
        # Only what DuckDB reads ahead is counted: without this, of files that are not tiny, no column at all.
        "prefetch_all_parquet_files": True,
        # Footers of files that were opened before; what is kept of a file is used only while it is the same.
        "parquet_metadata_cache": True,
        # Nobody sees it, and the thread that waits for the others would look how far they are, again and again.
        "enable_progress_bar": False,
        "enable_profiling": "no_output",
        # No more than is told; each count is kept for every operator of every query.
        "custom_profiling_settings": json.dumps(dict.fromkeys(_PROFILED, "true")),
        "allowed_configs": [_STAYS_OPEN],
        "allowed_directories": [f"{folder}/" for folder in (*readable, spill_folder)],
        "enable_external_access": False,
        "lock_configuration": True,
    }
    for name, value in settings.items():
        connection.execute(f"SET {name} = {_literal(value)}")
    for name, value in settings.items():
        actual = _setting(connection, name)
        if not _is_same(name, value, actual):
            raise SettingDiffers(f"{name} is {actual}, not {value}")
    return connection


def _setting(connection: duckdb.DuckDBPyConnection, name: str) -> Any:
    """Return what DuckDB has for a setting; a size as a number of bytes."""
    shown = "parse_formatted_bytes(current_setting($1))" if name in _SIZES else "current_setting($1)"
    row = connection.execute(f"SELECT {shown}", [name]).fetchone()
    return None if row is None else row[0]


def _is_same(name: str, value: Setting, actual: Any) -> bool:
    if name in _SIZES:
        wanted = int(str(value).removesuffix("B"))
        return bool(abs(actual - wanted) <= _SIZE_TOLERANCE * wanted)
    if isinstance(value, list):
        return isinstance(actual, list) and set(actual) == set(value)
    return str(actual).lower() == str(value).lower()


def _literal(value: Setting) -> str:
    if isinstance(value, int):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(sql_text, value))}]"
    return sql_text(value)
