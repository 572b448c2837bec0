"""Which runs count for a snapshot, and which of its files are left to be read directly.

What a run holds of a partition counts if all data files that it is from are in the snapshot, and no other run that
counts has one of them. Its other rows are left out when it is read, by their date and type.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from storage.data_files import DataFile
from storage.history.manifest import Run, Source

_DAY_US: Final = 86_400_000_000
_EPOCH_DATE: Final = datetime.date(1970, 1, 1)


@dataclass(frozen=True, slots=True)
class RunUse:
    """A run as it is to be read.

    Attributes:
        run: the run.
        used: what counts of it.
        excluded: partitions whose rows are to be left out.
        bounds_us: the first and the last microsecond of the days that count.
    """

    run: Run
    used: tuple[Source, ...]
    excluded: frozenset[tuple[str, str]]
    bounds_us: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Coverage:
    """What is to be read of runs, and directly, to have every row of a snapshot once."""

    uses: tuple[RunUse, ...]
    uncovered: tuple[DataFile, ...]


def _bounds_us(sources: Sequence[Source]) -> tuple[int, int]:
    days = [(datetime.date.fromisoformat(source.date) - _EPOCH_DATE).days for source in sources]
    return min(days) * _DAY_US, (max(days) + 1) * _DAY_US - 1


def base_name(one: DataFile) -> str:
    """The name of a data file without its folder; no two data files share one."""
    return one.path.rsplit("/", 1)[1]


def cover(files: Sequence[DataFile], runs: Iterable[Run]) -> Coverage:
    """Choose, the largest runs first."""
    free = {base_name(one): one for one in files}
    uses = []
    for run in sorted(runs, key=lambda one: (-one.rows, one.id)):
        used, excluded = [], set()
        for source in run.sources:
            if all(name in free for name in source.files):
                used.append(source)
                for name in source.files:
                    del free[name]
            else:
                excluded.add(source.partition)
        if used:
            uses.append(RunUse(run, tuple(used), frozenset(excluded), _bounds_us(used)))
    return Coverage(tuple(uses), tuple(free.values()))
