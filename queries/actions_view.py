"""The view `actions` in DuckDB: the data files of one snapshot, and the hot rows above its watermark."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from storage.data_files import DataFile
from storage.file_names import all_have_columns

HOT_ROWS = "hot_rows"


def actions_sql(files: Sequence[DataFile], columns: pa.Schema) -> str:
    """SQL for all rows of *files* and of the table that is registered as `hot_rows`, with *columns* in order.

    The hot rows have all columns, if only as an empty table, which is how a column is known that no file has yet.
    """
    names = ", ".join(_quoted(name) for name in columns.names)
    if not files:
        return f"SELECT {names} FROM {HOT_ROWS}"  # noqa: S608
    paths = ", ".join(_literal(one.path) for one in files)
    by_name = "" if all_have_columns((one.path for one in files), columns) else ", union_by_name = true"
    return (
        f"SELECT {names} FROM (SELECT * FROM read_parquet([{paths}], hive_partitioning = true,"  # noqa: S608
        f" hive_types = {{'date': DATE, 'type': VARCHAR}}{by_name})"
        f" UNION ALL BY NAME SELECT * FROM {HOT_ROWS})"
    )


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
