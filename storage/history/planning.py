"""What to do next about runs: remove those that are of no use, copy what has come to rest, merge. Pure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from storage.data_files import DataFile
from storage.history.coverage import RunUse, cover
from storage.history.manifest import Run

# A first run is made of about this much, so that it can be sorted in memory.
BUILD_ROWS_MAX: Final = 1_000_000
BUILD_BYTES_MAX: Final = 64 << 20
# Less than this is read directly meanwhile.
_BUILD_ROWS_MIN: Final = 50_000
_BUILD_FILES_MIN: Final = 32
# Runs are merged once there is nothing left to copy, or when there are more than this.
_RUNS_MAX: Final = 16
# A run stays by itself while it is more than this many times as large as all smaller ones together. Each run costs a
# retrieval a file, and of a row group about a millisecond; 8 instead of 3 writes each row half as often again.
_GROWTH: Final = 8
# A run that is for more than this share of no use is made anew without it.
_DEAD_SHARE_MAX: Final = 0.3


@dataclass(frozen=True, slots=True)
class Remove:
    """Remove runs of which nothing counts, or that do not check."""

    runs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Build:
    """Copy the rows of these data files into a run of their own."""

    files: tuple[DataFile, ...]


@dataclass(frozen=True, slots=True)
class Merge:
    """Replace runs by one that holds what counts of them."""

    uses: tuple[RunUse, ...]


Step = Remove | Build | Merge


@dataclass(frozen=True, slots=True)
class Room:
    """How much may be written.

    Attributes:
        kept_bytes_max: that all runs together may take.
        free_bytes: that may be written to the disk while runs that are to be replaced are still there.
    """

    kept_bytes_max: int
    free_bytes: int


def plan_step(
    files: Sequence[DataFile],
    runs: Sequence[Run],
    *,
    columns: Sequence[str],
    rested: Callable[[DataFile], bool],
    room: Room,
) -> Step | None:
    """Decide the next step; None when there is nothing to do.

    Args:
        files: of the newest snapshot.
        runs: that check.
        columns: that runs must have.
        rested: whether a file is expected to stay.
        room: for what is written.
    """
    coverage = cover(files, runs)
    in_use = {use.run.id for use in coverage.uses}
    useless = [run.id for run in runs if run.id not in in_use or not set(columns) <= set(run.columns)]
    if useless:
        return Remove(tuple(useless))
    kept_bytes = sum(run.size_bytes for run in runs)
    if kept_bytes > room.kept_bytes_max:
        largest_last = sorted(runs, key=lambda run: run.size_bytes)
        return Remove((largest_last[0].id,))
    build = _build(coverage.uncovered, rested, min(room.kept_bytes_max - kept_bytes, room.free_bytes))
    if build is not None and len(runs) < _RUNS_MAX:
        return build
    merge = _merge(coverage.uses)
    if merge is not None and sum(use.run.size_bytes for use in merge.uses) <= room.free_bytes:
        return merge
    return build


def _build(uncovered: Sequence[DataFile], rested: Callable[[DataFile], bool], bytes_left: int) -> Build | None:
    """The oldest files that are to be copied, so that a run holds neighbouring days."""
    candidates = sorted(uncovered, key=lambda one: (one.date, one.type, one.path))
    waiting = [one for one in candidates if rested(one)]
    if sum(one.rows for one in waiting) < _BUILD_ROWS_MIN and len(waiting) < _BUILD_FILES_MIN:
        return None
    chosen: list[DataFile] = []
    rows = size = 0
    for one in waiting:
        if chosen and (rows + one.rows > BUILD_ROWS_MAX or size + one.size_bytes > BUILD_BYTES_MAX):
            break
        chosen.append(one)
        rows += one.rows
        size += one.size_bytes
    # A copy is about as large as what it is of.
    return Build(tuple(chosen)) if chosen and size * 1.1 <= bytes_left else None


def _merge(uses: Sequence[RunUse]) -> Merge | None:
    """The smallest runs that belong together, by size; or one that is for a good part of no use."""
    ordered = sorted(uses, key=lambda use: -use.run.rows)
    smaller = 0
    first = None
    for place in range(len(ordered) - 1, -1, -1):
        rows = ordered[place].run.rows
        if place < len(ordered) - 1 and rows <= _GROWTH * smaller:
            first = place
        smaller += rows
    if first is not None:
        return Merge(tuple(ordered[first:]))
    for use in ordered:
        live = sum(source.rows for source in use.used)
        if live < use.run.rows * (1 - _DEAD_SHARE_MAX):
            return Merge((use,))
    return None
