"""What the footers of data files say about their row groups, for the explanation of a query."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import duckdb

from queries.sql.literals import sql_text
from queries.sql.pruning import FileBounds, RowGroupBounds, RowGroupFilter

RowGroupSteps = tuple[tuple[int, int], tuple[int, int, int]]
"""Files and bytes left by user; row groups left, of how many, and their bytes."""

_BOUNDS: Final = """
SELECT file_name,
       any_value(stats_min_value) FILTER (path_in_schema = 'user_id'),
       any_value(stats_max_value) FILTER (path_in_schema = 'user_id'),
       epoch_us(any_value(stats_min_value) FILTER (path_in_schema = 'time')::TIMESTAMPTZ),
       epoch_us(any_value(stats_max_value) FILTER (path_in_schema = 'time')::TIMESTAMPTZ),
       sum(total_compressed_size)::BIGINT
FROM parquet_metadata([{}])
GROUP BY file_name, row_group_id
"""


def row_group_steps(
    connection: duckdb.DuckDBPyConnection, files: Sequence[FileBounds], needed: RowGroupFilter
) -> RowGroupSteps:
    """Count what the bounds in the footers leave.

    Returns:
        files and bytes of those with a row group that can hold the user; row groups that can be needed, row groups of
        all *files*, and the bytes of the former.
    """
    if not files:
        return (0, 0), (0, 0, 0)
    by_path = {one.path: one for one in files}
    listed = ", ".join(sql_text(path) for path in by_path)
    with_user: set[str] = set()
    left = total = size = 0
    for path, user_min, user_max, time_min_us, time_max_us, group_bytes in connection.execute(
        _BOUNDS.format(listed)
    ).fetchall():
        total += 1
        file = by_path[path]
        group = RowGroupBounds(path, group_bytes, file.date, file.type, time_min_us, time_max_us, user_min, user_max)
        if needed.holds_user(group):
            with_user.add(path)
        if needed.holds(group):
            left += 1
            size += group_bytes
    return (len(with_user), sum(by_path[path].size_bytes for path in with_user)), (left, total, size)
