"""The tables of runaway queries: what ingest keeps beside them, and what small queries keep beside ingest."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench.opponents import ACTIONLAKE
from bench.runaway import ALONE, ALONE_AGAIN, LOADS, RUNAWAY, RUNAWAYS, SMALL
from bench.runs import Piece
from bench.summary import Target, spread
from bench.tables import ABSENT, Table, number, targets_table

P99_RATIO_MAX: Final = 1.1

RUNAWAY_TARGETS: Final = tuple(
    Target(
        title=f"p99 of submissions ({load.title}) beside {one.title}, to that alone",
        workload=RUNAWAY.name,
        figure=f"{load.name}_{one.name}_p99_ratio",
        kind="at most",
        bound=P99_RATIO_MAX,
        against=None,
        unit="x",
        needs_flush=False,
    )
    for load in LOADS
    for one in RUNAWAYS
)


def runaway_tables(pieces: Sequence[Piece]) -> list[Table]:
    """Every table of runaway queries, targets first; none when they were not measured."""
    if not any(piece.workload == RUNAWAY.name for piece in pieces):
        return []
    return [targets_table(pieces, RUNAWAY_TARGETS, "Runaway queries: targets"), _windows_table(pieces)]


def _windows_table(pieces: Sequence[Piece]) -> Table:
    """Each load beside each kind of query."""

    def cell(figure: str, unit: str = "") -> str:
        found = spread(pieces, RUNAWAY.name, ACTIONLAKE.name, figure)
        return ABSENT if found is None else f"{number(found.median)}{unit}"

    kinds = {
        ALONE: "nothing",
        ALONE_AGAIN: "nothing, again",
        **{one.name: one.title for one in RUNAWAYS},
        SMALL: "small queries, one after the other",
    }
    rows: list[tuple[str, ...]] = [
        (
            load.title,
            title,
            cell(f"{load.name}_{kind}_actions_per_s"),
            cell(f"{load.name}_{kind}_actions_ratio", "x"),
            cell(f"{load.name}_{kind}_p50_ms"),
            cell(f"{load.name}_{kind}_p99_ms"),
            cell(f"{load.name}_{kind}_p99_ratio", "x"),
            cell(f"{load.name}_{kind}_longest_ms"),
            cell(f"{load.name}_{kind}_ms"),
            cell(f"{load.name}_{kind}_longest_small_ms"),
        )
        for load in LOADS
        for kind, title in kinds.items()
    ]
    rows.append(("none", kinds[SMALL], *[ABSENT] * 6, cell("small_idle_ms"), ABSENT))
    columns = (
        "submissions", "beside", "actions/s", "to alone", "p50 ms", "p99 ms", "to alone", "longest ms",
        "a small query ms", "longest ms",
    )  # fmt: skip
    return Table("Runaway queries: windows in turn", columns, rows, text_columns=2)
