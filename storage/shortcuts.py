"""What is kept beside the table to find a user's rows sooner, as a reader uses it.

Everything here is a cache in the state folder, of this node's own: it may be missing, incomplete or damaged, and costs
speed then, never an answer.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from storage.data_files import DataFile
from storage.paths import StorePaths
from storage.user_filters import UserFilters


@dataclass(frozen=True, slots=True)
class ShortcutLimits:
    """See the settings of the same names.

    Attributes:
        user_filters_bytes_max: memory for the filters in each process, and their size on disk.
    """

    user_filters_bytes_max: int = 256 << 20


class Shortcuts:
    """The caches of one store as one process reads them. Methods may be called from any thread."""

    def __init__(self, paths: StorePaths, limits: ShortcutLimits) -> None:
        self._filters = UserFilters(paths.user_filters, bytes_max=limits.user_filters_bytes_max)

    def files_with(self, user_id: str, files: Sequence[DataFile]) -> tuple[DataFile, ...]:
        """Leave out files that certainly hold no row of *user_id*."""
        self._filters.refresh()
        return self._filters.can_hold(user_id, files)
