"""Which workloads a command line means."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Final

from bench.comparison.catalogue import ACTIONLAKE, CLICKHOUSE, CLICKHOUSE_BY_TIME
from bench.comparison.measuring import Effort
from bench.comparison.workload import (
    GROWTH,
    LARGE,
    SIZES,
    ComparisonWorkload,
    GrowthWorkload,
    comparison_names,
    comparison_workloads,
)
from bench.ingest import MEMORY, WORKLOADS
from bench.queries import QUERIES
from bench.restart import RESTART
from bench.runaway import RUNAWAY
from bench.streams import LONG_STREAMS
from bench.workloads import Workload

_OF_SERVERS: Final[Sequence[Workload]] = (*WORKLOADS, RESTART, QUERIES, LONG_STREAMS, RUNAWAY)
NAMES: Final = (*(one.name for one in _OF_SERVERS), *comparison_names())

# What the table "To reach" is about, the longest last.
_TARGETS_SIZE: Final = "20m"
_TARGETS_ASKED: Final = ("user", "heaviest", "week", "newest", "type-hour", "daily")
_TARGETS_OF_SERVERS: Final = ("submit-100", RESTART.name, "sustained")
_TARGETS_EFFORT: Final = Effort(cold_starts=0)


def workloads_by_name(cache: Path) -> dict[str, Sequence[Workload]]:
    """All that there are, each of `NAMES` with what it stands for; *cache* is where compared data is kept."""
    return {one.name: [one] for one in _OF_SERVERS} | comparison_workloads(cache)


def choose(names: Sequence[str], *, memory: bool, targets: bool, large: bool, cache: Path) -> list[Workload]:
    """The workloads that are meant, in the order in which they are to be run, each once.

    Without a choice: all, those of 100 million actions only with *large*.
    """
    known = workloads_by_name(cache)
    if targets:
        return [*_target_comparisons(known, large=large), *(known[name][0] for name in _TARGETS_OF_SERVERS)]
    if memory:
        return [*known[MEMORY.name]]
    if not names:
        sizes = [size for size in SIZES if large or size != LARGE]
        names = [
            *(one.name for one in _OF_SERVERS),
            *(f"compare-{size}" for size in sizes),
            *([GROWTH] if large else []),
        ]
    meant = [one for name in names for one in known[name]]
    return list({one.name: one for one in meant}.values())


def _target_comparisons(known: dict[str, Sequence[Workload]], *, large: bool) -> list[Workload]:
    """Only who is named in the table, and warm. Growth only with *large*, or when its data is there."""
    found: list[Workload] = []
    for asked in _TARGETS_ASKED:
        (workload,) = known[f"compare-{_TARGETS_SIZE}.{asked}"]
        assert isinstance(workload, ComparisonWorkload), "its name says so"
        contenders = (ACTIONLAKE, CLICKHOUSE, CLICKHOUSE_BY_TIME)
        found.append(replace(workload, contenders=contenders, effort=_TARGETS_EFFORT))
    (growth,) = known[GROWTH]
    assert isinstance(growth, GrowthWorkload), "its name says so"
    if large or growth.is_ready():
        found.append(growth)
    return found
