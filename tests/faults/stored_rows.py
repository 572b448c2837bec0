"""Reading back all that a store holds, straight from its files and its journal: no query engine in between."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.parquet as pq

from storage.read_view import ReadView
from tests.faults.history import Found, found_in_table

_COLUMNS: Final = ["user_id", "session_id", "time", "utc_offset_minutes", "properties", "journal", "position"]


class StoredRows:
    """Reads views of one store. Data files never change, so that each is read once, however often it is listed."""

    def __init__(self) -> None:
        self._files: dict[str, list[Found]] = {}

    def of(self, view: ReadView) -> list[Found]:
        """All rows of *view*: those of its files, then the hot ones."""
        found: list[Found] = []
        for one in view.files:
            if one.path not in self._files:
                table = pq.ParquetFile(Path(one.path)).read(columns=_COLUMNS, use_threads=False)
                table = table.append_column("type", pa.repeat(one.type, table.num_rows))
                if view.erased:
                    # What is to be seen of this file may change from view to view.
                    found += _found(view.erased.without(table))
                    continue
                self._files[one.path] = _found(table)
            found += self._files[one.path]
        return found + _found(view.hot.select([*_COLUMNS, "type"]))


def _found(table: pa.Table) -> list[Found]:
    time_us = table["time"].cast(pa.int64())
    return [found_in_table(row) for row in table.drop_columns("time").append_column("time_us", time_us).to_pylist()]
