"""What is kept beside the table to find a user's rows sooner, as a reader uses it.

Everything here is a cache in the state folder, of this node's own: it may be missing, incomplete or damaged, and costs
speed then, never an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.data_files import DataFile
from storage.history.reader import HistoryReader
from storage.lake import Snapshot
from storage.paths import StorePaths
from storage.user_filters import UserFilters, data_file_name


@dataclass(frozen=True, slots=True)
class ShortcutLimits:
    """See the settings of the same names.

    Attributes:
        user_filters_bytes_max: memory for the filters in each process, and their size on disk.
        history_bytes_share_max: copies for histories are never larger than this share of the table; 0 turns them off.
        history_rest_s: a data file is copied when it is this old.
    """

    user_filters_bytes_max: int = 256 << 20
    history_bytes_share_max: float = 1.25
    history_rest_s: float = 3600.0


@dataclass(frozen=True, slots=True)
class ShortcutStatus:
    """How much of a snapshot the caches know.

    Attributes:
        filtered_files: data files whose users are known.
        copied_rows: rows of the table that are in copies.
        runs, runs_bytes: runs that copies are in, those included of which little counts any more.
        filters_bytes, footers_bytes: what this process has in memory of the users' filters and of the runs' footers.
    """

    filtered_files: int
    copied_rows: int
    runs: int
    runs_bytes: int
    filters_bytes: int
    footers_bytes: int


class Shortcuts:
    """The caches of one store as one process reads them. Methods may be called from any thread."""

    def __init__(self, paths: StorePaths, limits: ShortcutLimits) -> None:
        self._filters = UserFilters(paths.user_filters, bytes_max=limits.user_filters_bytes_max)
        self.history = HistoryReader(paths.history)

    def files_with(self, user_id: str, files: Sequence[DataFile]) -> tuple[DataFile, ...]:
        """Leave out files that certainly hold no row of *user_id*."""
        self._filters.refresh()
        return self._filters.can_hold(user_id, files)

    def status(self, snapshot: Snapshot) -> ShortcutStatus:
        """Look at what there is now."""
        self._filters.refresh()
        coverage = self.history.coverage(snapshot, frozenset())
        runs = self.history.runs
        return ShortcutStatus(
            filtered_files=len(self._filters.names & {data_file_name(one) for one in snapshot.files}),
            copied_rows=sum(one.rows for one in snapshot.files) - sum(one.rows for one in coverage.uncovered),
            runs=len(runs),
            runs_bytes=sum(run.size_bytes for run in runs),
            filters_bytes=self._filters.loaded_bytes,
            footers_bytes=self.history.footers_bytes,
        )
