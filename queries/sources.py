"""Where the rows of a retrieval are: in files that are to be read, and in memory already.

A user's past is read from the history's runs, as far as they cover the snapshot; the files that they do not cover, and
the hot rows, hold the rest. Where few files remain after pruning by time, they are read directly: a run costs as much
as a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa

from queries.file_index import RetrievalFilter
from queries.pruning import Pruned, prune, selected, without_other_users
from storage.data_files import DataFile
from storage.history.coverage import RunUse
from storage.history.reader import RunUnreadable
from storage.history.reading import Wanted
from storage.read_view import ReadView
from storage.user_hash import user_hash

Order = Literal["asc", "desc"]


@dataclass(frozen=True, slots=True)
class PageBounds:
    """The page that is wanted: its order, how many rows at the most, and the row that it follows, if any."""

    order: Order
    rows: int
    beyond: tuple[int, str, int] | None


@dataclass(frozen=True, slots=True)
class Sources:
    """Where the rows are; together each that is asked for once, and others too.

    Attributes:
        files: to be read.
        memory: rows that are in no such file, with all columns that are wanted.
        pruned: how it came to these files.
        copied_files, copied_bytes: files of the history's runs that were read, and bytes of them.
    """

    files: tuple[DataFile, ...]
    memory: pa.Table
    pruned: Pruned
    copied_files: int = 0
    copied_bytes: int = 0


def find_sources(
    view: ReadView, asked: RetrievalFilter, columns: Sequence[str], *, page: PageBounds | None = None
) -> Sources:
    """Find what holds the rows that are asked for; reads them from the history where it has them.

    Args:
        view: what is stored.
        asked: which rows.
        columns: that are wanted of them.
        page: where only a page is wanted.
    """
    pruned = prune(view.files, asked)
    if asked.user_id is None:
        return Sources(pruned.files, view.hot.select(list(columns)), pruned)
    hot = view.hot_rows_of(asked.user_id, columns)
    erased = view.erased.of_user(asked.user_id)
    if erased:
        # Rows that are erased would count for the page.
        page = None
    while True:
        coverage = view.shortcuts.history.coverage(view.snapshot, frozenset(columns))
        uses = [use for use in coverage.uses if _overlaps(use, asked)]
        if len(pruned.files) <= len(uses) or not uses:
            left = without_other_users(pruned, asked.user_id, view.shortcuts.files_with)
            return Sources(left.files, hot, left)
        wanted = _wanted(asked, asked.user_id, columns, page)
        try:
            found = [view.shortcuts.history.read(use, wanted) for use in uses]
        except RunUnreadable:
            # It is left out of the next coverage, so that this comes to an end.
            continue
        uncovered = pruned.then("history's copies", selected(prune(coverage.uncovered, asked).files))
        left = without_other_users(uncovered, asked.user_id, view.shortcuts.files_with)
        parts = [erased.without(one.rows) for one in found if one.rows.num_rows]
        # In order of time altogether, if they do not overlap; the hot rows are the newest, mostly.
        parts.sort(key=lambda one: one["time"][0].value if one.num_rows else 0)
        rows = pa.concat_tables([*parts, hot])
        read = [one.read_bytes for one in found if one.read_bytes]
        return Sources(left.files, rows, left, len(read), sum(read))


def _overlaps(use: RunUse, asked: RetrievalFilter) -> bool:
    first_us, last_us = use.bounds_us
    return (asked.from_us is None or last_us >= asked.from_us) and (asked.to_us is None or first_us <= asked.to_us)


def _wanted(asked: RetrievalFilter, user_id: str, columns: Sequence[str], page: PageBounds | None) -> Wanted:
    return Wanted(
        user_id,
        user_hash(user_id),
        asked.action_type,
        asked.from_us,
        asked.to_us,
        tuple(columns),
        descending=page is not None and page.order == "desc",
        rows_min=None if page is None else page.rows,
        beyond=None if page is None else page.beyond,
    )
