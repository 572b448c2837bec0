"""In which order a page reads its files, and when it may stop: from its own end of time, a few, then more.

A page of the newest rows is full, mostly, after the newest files. Files are taken in the order of the bound of time at
which they begin, and a page that is full ends where its last row lies before all that the other files can hold.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storage.data_files import DataFile

# So many files are opened at once before anything is known; then twice as many with every step.
_FIRST_FILES: Final = 12
# A file holds few rows of one user, and many of a type.
_FIRST_ROWS_FACTOR: Final = 4


@dataclass(frozen=True, slots=True)
class ReadingStep:
    """Files to be read together.

    Attributes:
        files: of this step; may be none at the beginning.
        rest_us: the first (or, in descending order, the last) time that the files of later steps can hold; None when
            there are no later steps.
        ascending: the order.
    """

    files: tuple[DataFile, ...]
    rest_us: int | None
    ascending: bool

    def is_beyond(self, time_us: int) -> bool:
        """Whether all that later steps can hold lies beyond this time, strictly."""
        if self.rest_us is None:
            return True
        return time_us < self.rest_us if self.ascending else time_us > self.rest_us


def reading_steps(
    files: Sequence[DataFile], *, ascending: bool, rows: int, of_one_user: bool, begin_with_none: bool
) -> list[ReadingStep]:
    """Cut files into steps, at least one.

    Args:
        files: to be read.
        ascending: the order of the page.
        rows: that the page may have.
        of_one_user: whether it asks for one user only.
        begin_with_none: whether it may be full before any file is read.
    """
    if ascending:
        ordered = sorted(files, key=lambda one: one.time_min_us)
    else:
        ordered = sorted(files, key=lambda one: one.time_max_us, reverse=True)
    ends = [0] if begin_with_none and files else []
    count, rows_wanted = _FIRST_FILES, rows * _FIRST_ROWS_FACTOR
    end = taken_files = taken_rows = 0
    for one in ordered:
        enough = taken_files >= count if of_one_user else taken_rows >= rows_wanted
        if enough:
            ends.append(end)
            count, rows_wanted, taken_files, taken_rows = count * 2, rows_wanted * 2, 0, 0
        end, taken_files, taken_rows = end + 1, taken_files + 1, taken_rows + one.rows
    ends.append(end)
    steps, start = [], 0
    for end in ends:
        rest = None
        if end < len(ordered):
            rest = ordered[end].time_min_us if ascending else ordered[end].time_max_us
        steps.append(ReadingStep(tuple(ordered[start:end]), rest, ascending))
        start = end
    return steps
