"""A DuckDB connection for user SQL: everything that can be switched off is, and the configuration is locked.

These settings are the second wall behind the guard, not a sandbox: inside the folders that are allowed DuckDB itself
would still write files. The operating system's walls are the third.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import duckdb

from queries.sql.literals import sql_text

# While the configuration is locked, this one may change: planning needs other optimizers than running.
_STAYS_OPEN: Final = "disabled_optimizers"


class SettingDiffers(Exception):
    """DuckDB did not take a setting; nothing may run."""


def open_locked_connection(
    *, readable: tuple[Path, ...], spill_folder: Path, memory_bytes_max: int, threads: int, temp_bytes_max: int
) -> duckdb.DuckDBPyConnection:
    """Open an in-memory database that can read the *readable* folders, write the *spill_folder*, and nothing else.

    Raises:
        SettingDiffers: a setting does not read back as it was set.
    """
    connection = duckdb.connect(":memory:", config={"threads": threads, "memory_limit": f"{memory_bytes_max}B"})
    folders = [f"{folder}/" for folder in readable]
    # The order matters: what is needed is set before access ends, and the lock comes last.
    settings: list[tuple[str, bool | int | str | list[str], str | None]] = [
        ("autoinstall_known_extensions", False, "false"),
        ("autoload_known_extensions", False, "false"),
        ("allow_community_extensions", False, "false"),
        ("allow_unsigned_extensions", False, "false"),
        ("allow_persistent_secrets", False, "false"),
        ("python_enable_replacements", False, "false"),
        ("python_scan_all_frames", False, "false"),
        ("threads", threads, str(threads)),
        ("temp_directory", str(spill_folder), str(spill_folder)),
        ("TimeZone", "UTC", "UTC"),
        ("errors_as_json", True, "true"),
        # The bytes read are DuckDB's own count; from its cache they would count as 0.
        ("enable_external_file_cache", False, "false"),
        ("enable_profiling", "no_output", "no_output"),
        ("allowed_configs", [_STAYS_OPEN], None),
        ("allowed_directories", folders, None),
        ("enable_external_access", False, "false"),
        ("lock_configuration", True, "true"),
    ]
    connection.execute(f"SET max_temp_directory_size = '{temp_bytes_max}B'")
    for name, value, _ in settings:
        connection.execute(f"SET {name} = {_literal(value)}")
    for name, _, expected in settings:
        actual = _setting(connection, name)
        if expected is not None and str(actual).lower() != expected.lower():
            raise SettingDiffers(f"{name} is {actual}, not {expected}")
    allowed = set(_setting(connection, "allowed_directories"))
    if allowed != {*folders, f"{spill_folder}/"}:
        raise SettingDiffers(f"allowed_directories is {sorted(allowed)}, not {sorted(folders)}")
    if _setting(connection, "allowed_configs") != [_STAYS_OPEN]:
        raise SettingDiffers(f"allowed_configs is {_setting(connection, 'allowed_configs')}")
    return connection


def _setting(connection: duckdb.DuckDBPyConnection, name: str) -> Any:
    row = connection.execute("SELECT current_setting($1)", [name]).fetchone()
    return None if row is None else row[0]


def _literal(value: bool | int | str | list[str]) -> str:
    if isinstance(value, bool | int):
        return str(value).lower()
    if isinstance(value, list):
        return f"[{', '.join(map(sql_text, value))}]"
    return sql_text(value)
