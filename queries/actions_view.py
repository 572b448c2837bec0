"""The view `actions` in DuckDB: the data files of one snapshot, and the hot rows above its watermark."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from storage.data_files import DataFile

HOT_ROWS = "hot_rows"


def actions_sql(files: Sequence[DataFile], columns: pa.Schema, *, all_files_have_all_columns: bool = False) -> str:
    """SQL for all rows of *files* and of the table that is registered as `hot_rows`, with *columns* in order.

    Args:
        files: of the pinned snapshot.
        columns: all columns of the table.
        all_files_have_all_columns: spares DuckDB to open every file before it knows the columns.
    """
    names = ", ".join(_quoted(name) for name in columns.names)
    hot = f"SELECT {names} FROM {HOT_ROWS}"  # noqa: S608
    if not files:
        return hot
    paths = ", ".join(_literal(one.path) for one in files)
    union = "false" if all_files_have_all_columns else "true"
    return (
        f"SELECT {names} FROM read_parquet([{paths}], hive_partitioning = true,"  # noqa: S608
        f" hive_types = {{'date': DATE, 'type': VARCHAR}}, union_by_name = {union}) UNION ALL {hot}"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
