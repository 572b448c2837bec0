"""What `explain=true` shows: how many files, row groups and bytes each step of pruning leaves of a retrieval."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import pyarrow as pa

from queries.file_index import RetrievalFilter
from queries.pruning import Pruned, PruningStep
from storage.data_files import DataFile
from storage.footer_memory import read_footer


@dataclass(frozen=True, slots=True)
class RowGroupStep:
    """How many row groups of the remaining files the statistics in their footers leave, and their bytes."""

    row_groups: int
    total_row_groups: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Explanation:
    """All steps in their order: files by partition, by time, by user, then row groups."""

    files: tuple[PruningStep, ...]
    row_groups: RowGroupStep
    hot_rows: int

    def as_json(self) -> dict[str, object]:
        """The object that an answer carries."""
        return {
            "files": [{"step": one.step, "files": one.files, "bytes": one.bytes} for one in self.files],
            "rowGroups": {
                "rowGroups": self.row_groups.row_groups,
                "totalRowGroups": self.row_groups.total_row_groups,
                "bytes": self.row_groups.bytes,
            },
            "hotRows": self.hot_rows,
        }


def explain_retrieval(pruned: Pruned, asked: RetrievalFilter, *, hot_rows: int) -> Explanation:
    """Read the footers of the files that remain, and tell what their statistics leave.

    Raises:
        OSError: a file cannot be read.
    """
    groups = [(one, _row_groups(one, asked)) for one in pruned.files]
    with_user = [one for one, (left, _, _) in groups if left]
    by_user = PruningStep("bounds of user_id and time in footers", len(with_user), sum(f.size_bytes for f in with_user))
    left = RowGroupStep(
        sum(one[0] for _, one in groups), sum(one[1] for _, one in groups), sum(one[2] for _, one in groups)
    )
    return Explanation((*pruned.steps, by_user), left, hot_rows)


def _row_groups(one: DataFile, asked: RetrievalFilter) -> tuple[int, int, int]:
    """Return how many row groups of a file can hold what is asked for, how many it has, and the bytes of the former."""
    metadata, schema = read_footer(one.path)
    places = {name: place for place, name in enumerate(schema.names)}
    left = size = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        users = group.column(places["user_id"]).statistics
        times = group.column(places["time"]).statistics
        bounds = (_microseconds(times.min), _microseconds(times.max))
        if _can_hold(users.min, users.max, bounds, asked):
            left += 1
            size += sum(group.column(place).total_compressed_size for place in range(metadata.num_columns))
    return left, metadata.num_row_groups, size


def _can_hold(user_min: str, user_max: str, times: Sequence[int], asked: RetrievalFilter) -> bool:
    if asked.user_id is not None and not user_min <= asked.user_id <= user_max:
        return False
    if asked.user_prefix is not None and user_max < asked.user_prefix:
        return False
    if asked.users_below is not None and user_min >= asked.users_below:
        return False
    if asked.from_us is not None and times[1] < asked.from_us:
        return False
    return asked.to_us is None or times[0] <= asked.to_us


def _microseconds(moment: object) -> int:
    return int(pa.scalar(moment, pa.timestamp("us", "UTC")).value)
