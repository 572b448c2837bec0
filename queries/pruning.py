"""Which files can hold what is asked for: by partition first, then by the bounds of `time`, then by their users."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from queries.file_index import FileIndexes, RetrievalFilter, Selected, within_time
from storage.data_files import DataFile

FilesWith = Callable[[str, Sequence[DataFile]], tuple[DataFile, ...]]
"""Leaves out files that certainly do not hold a user."""

_indexes: Final = FileIndexes()


@dataclass(frozen=True, slots=True)
class PruningStep:
    """How many files, and bytes in them, were left after one step."""

    step: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """The files that remain, and how it came to that."""

    files: tuple[DataFile, ...]
    steps: tuple[PruningStep, ...]

    def then(self, step: str, selected: Selected) -> Pruned:
        """What remains after one more step."""
        return Pruned(selected.files, (*self.steps, PruningStep(step, len(selected.files), selected.bytes)))


def prune(files: Sequence[DataFile], asked: RetrievalFilter) -> Pruned:
    """Leave out the files whose partition or bounds of time say that they hold nothing that is asked for.

    Args:
        files: of a snapshot, in order of their date; the same object for the same snapshot, since an index of it is
            kept.
        asked: what is asked for.
    """
    index = _indexes.of(files)
    in_partitions = index.of_partitions(asked)
    return (
        Pruned((), ())
        .then("all files", index.all)
        .then("partition (date, type)", in_partitions)
        .then("bounds of time", within_time(in_partitions, asked))
    )


def without_other_users(pruned: Pruned, user_id: str, files_with: FilesWith) -> Pruned:
    """Leave out, also, the files that do not hold a user."""
    return pruned.then("user filters", selected(files_with(user_id, pruned.files)))


def selected(files: Sequence[DataFile]) -> Selected:
    """These files with their bytes."""
    return Selected(tuple(files), sum(one.size_bytes for one in files))
