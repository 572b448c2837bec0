"""Letters of rows that could not be flushed, in a journal that was rolled back, against what the table has of them.

A letter of a row above the trimmed position is provisional: a later attempt may have flushed the row, which takes the
letter back (`storage.dead_letters`). A journal that is older than its table, as after restoring a disk, still has the
letter, and once it is trimmed nothing would tell that its row is in the table: a replay would double it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterable

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.data_files import DataFile
from storage.dead_letters import delete_letters
from storage.journal import Journal
from storage.lake import Lake


def forget_flushed_letters(journal: Journal, lake: Lake) -> int:
    """Delete the provisional letters of rows that the table has; return how many. Before the journal is trimmed.

    Costs nothing where no letter is provisional. After a crash between a commit and its trimming there are some, whose
    rows the table does not have.
    """
    state = journal.state()
    with journal.reading() as execute:
        found = execute("SELECT position FROM dead_letters WHERE position > ?", (state.trimmed_position,))
        provisional = [int(row[0]) for row in found]
    if not provisional:
        return 0
    flushed = _in_files(lake.snapshot(state.id).files, state.id, provisional)
    with journal.writing() as execute:
        return sum(delete_letters(execute, "position = ?", (position,)) for position in flushed)


def _in_files(files: Iterable[DataFile], journal: str, positions: list[int]) -> set[int]:
    wanted = (pc.field("journal") == journal) & pc.field("position").isin(positions)
    found: set[int] = set()
    for one in files:
        # What is missing or damaged has no row any more; recovery names it.
        with contextlib.suppress(OSError, pa.ArrowException):
            rows = pq.read_table(one.path, columns=["position"], filters=wanted, partitioning=None)
            found.update(rows["position"].to_pylist())
    return found
