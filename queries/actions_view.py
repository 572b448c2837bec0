"""The view `actions` in DuckDB: the data files of one snapshot, and the hot rows above its watermark."""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from queries.without_erased import without_erased
from storage.data_files import DataFile
from storage.file_names import all_have_columns

HOT_ROWS = "hot_rows"


def actions_sql(files: Sequence[DataFile], columns: pa.Schema, *, erasing: bool = False) -> str:
    """SQL for all rows of *files* and of the table that is registered as `hot_rows`, with *columns* in order.

    With *erasing* the rows of files that are registered as erased are left out. The hot rows have all columns, if only
    as an empty table, which is how a column is known that no file has yet.
    """
    quoted = [_quoted(name) for name in columns.names]
    names = ", ".join(quoted)
    if not files:
        return f"SELECT {names} FROM {HOT_ROWS}"  # noqa: S608
    paths = ", ".join(_literal(one.path) for one in files)
    by_name = "" if all_have_columns((one.path for one in files), columns) else ", union_by_name = true"
    both = (
        f"SELECT {names} FROM (SELECT * FROM read_parquet([{paths}], hive_partitioning = true,"  # noqa: S608
        f" hive_types = {{'date': DATE, 'type': VARCHAR}}{by_name})"
        f" UNION ALL BY NAME SELECT * FROM {HOT_ROWS})"
    )
    # Also over the hot rows, which hold none: they say what columns there are.
    return without_erased(both, quoted) if erasing else both


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"
