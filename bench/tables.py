"""The tables of ingest, as plain text cells: medians of the rounds, in the units that the headings name."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from bench.ingest import MEMORY, WORKLOADS
from bench.opponents import ACTIONLAKE, BASELINE, OPPONENTS
from bench.runs import Piece
from bench.summary import TARGETS, Spread, Target, judge, ratio, spread

ABSENT: Final = "–"

# The kernel's threads for disk and network, which are counted among the others, stay below this on a quiet machine.
OTHER_CPUS_MAX: Final = 0.3


@dataclass(frozen=True, slots=True)
class Table:
    """A table with its title; the first `text_columns` columns are text, the others numbers."""

    title: str
    columns: tuple[str, ...]
    rows: Sequence[tuple[str, ...]]
    text_columns: int = 1


def all_tables(pieces: Sequence[Piece]) -> list[Table]:
    """Every table that has a row, targets first."""
    tables = (
        targets_table(pieces, TARGETS, "Targets"),
        submissions_table(pieces),
        ratios_table(pieces),
        flushing_table(pieces),
        memory_table(pieces),
    )
    return [table for table in tables if table.rows]


def targets_table(pieces: Sequence[Piece], targets: Sequence[Target], title: str) -> Table:
    """Each target, what was measured, and by how much it was missed; no rows when none of their workloads was run."""
    rows: list[tuple[str, ...]] = []
    if {target.workload for target in targets}.isdisjoint(piece.workload for piece in pieces):
        targets = ()
    for target in targets:
        verdict = judge(target, pieces, ACTIONLAKE.name)
        measured = ABSENT if verdict.measured is None else _with_unit(verdict.measured, target)
        rows.append((target.title, f"{target.kind} {_with_unit(target.bound, target)}", measured, verdict.text()))
    return Table(title, ("target", "wanted", "measured", "verdict"), rows, text_columns=4)


def submissions_table(pieces: Sequence[Piece]) -> Table:
    """Rates and latencies of every server under every load."""
    columns = (
        "load",
        "server",
        "rounds",
        "actions/s",
        "least to most",
        "requests/s",
        "p50 ms",
        "p99 ms",
        "longest ms",
        "peak RSS MB, all",
        "CPUs server",
        "CPUs driver",
        "CPUs others",
    )
    rows = []
    for workload in WORKLOADS:
        for opponent in OPPONENTS.values():
            if workload is MEMORY or (rate := spread(pieces, workload.name, opponent.name, "actions_per_s")) is None:
                continue

            def cell(figure: str, scale: float = 1.0, workload: str = workload.name, name: str = opponent.name) -> str:
                return _cell(spread(pieces, workload, name, figure), scale)

            rows.append(
                (
                    workload.title,
                    opponent.title,
                    str(rate.rounds),
                    cell("actions_per_s"),
                    f"{number(rate.least)} to {number(rate.most)}",
                    cell("requests_per_s"),
                    cell("latency_p50_ms"),
                    cell("latency_p99_ms"),
                    cell("latency_max_ms"),
                    cell("rss_peak_bytes", 1e6),
                    cell("server_cpus"),
                    cell("driver_cpus"),
                    cell("other_cpus"),
                )
            )
    return Table("Submissions, medians over the rounds", columns, rows, text_columns=2)


def ratios_table(pieces: Sequence[Piece]) -> Table:
    """Actionlake's medians over the baseline's, load by load."""
    figures = ("actions_per_s", "latency_p50_ms", "latency_p99_ms", "latency_max_ms", "rss_peak_bytes")
    rows = []
    for workload in WORKLOADS:
        ratios = [ratio(pieces, workload.name, figure, ACTIONLAKE.name, BASELINE.name) for figure in figures]
        if ratios[0] is not None:
            rows.append((workload.title, *(ABSENT if one is None else f"{number(one)}x" for one in ratios)))
    columns = ("load", "actions/s and requests/s", "p50", "p99", "longest", "peak RSS")
    return Table(f"{ACTIONLAKE.title} over {BASELINE.title}", columns, rows)


def flushing_table(pieces: Sequence[Piece]) -> Table:
    """How much of a window's submissions was flushed inside it: whether the rate could go on."""
    rows = []
    for workload in WORKLOADS:
        flushes = spread(pieces, workload.name, ACTIONLAKE.name, "flushes")
        if flushes is None:
            continue

        def cell(figure: str, workload: str = workload.name) -> str:
            return _cell(spread(pieces, workload, ACTIONLAKE.name, figure))

        rows.append(
            (
                workload.title,
                cell("window_s"),
                number(flushes.median) if flushes.least >= 1 else f"{number(flushes.median)} (a round without)",
                cell("actions"),
                cell("flushed_rows"),
                cell("journal_depth_begin"),
                cell("journal_depth_end"),
                cell("flush_errors"),
                cell("deferred"),
            )
        )
    columns = (
        "load",
        "window s",
        "flushes",
        "actions acknowledged",
        "actions flushed",
        "journal depth, begin",
        "journal depth, end",
        "failed flushes",
        "answers 429 and 503",
    )
    return Table("Flushing inside the measured window", columns, rows)


def memory_table(pieces: Sequence[Piece]) -> Table:
    """The long run that resident memory is taken from."""
    rows = []
    for piece in pieces:
        if piece.workload == MEMORY.name:
            figures = piece.figures
            rows.append(
                (
                    OPPONENTS[piece.opponent].title,
                    number(figures["actions_stored"]),
                    number(figures["window_s"]),
                    number(figures["actions_per_s"]),
                    number(figures["processes"]),
                    number(figures["rss_peak_bytes"] / 1e6),
                    number(figures["rss_peak_largest_process_bytes"] / 1e6),
                )
            )
    columns = ("server", "actions", "seconds", "actions/s", "processes", "peak RSS MB, all", "peak RSS MB, largest")
    return Table(f"Memory: {MEMORY.title}", columns, rows)


def disturbance(pieces: Sequence[Piece]) -> str | None:
    """A warning when programs that were not measured took much of the machine; None when they did not."""
    disturbed = [piece.figures["other_cpus"] for piece in pieces if piece.figures["other_cpus"] > OTHER_CPUS_MAX]
    if not disturbed:
        return None
    return (
        f"In {len(disturbed)} of {len(pieces)} measurements other programs took more than {OTHER_CPUS_MAX} CPUs, up to"
        f" {number(max(disturbed))}: the figures are of a busy machine."
    )


def number(value: float) -> str:
    """Three significant digits, thousands apart; whole numbers from a thousand on are written out."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _cell(found: Spread | None, scale: float = 1.0) -> str:
    return ABSENT if found is None else number(found.median / scale)


def _with_unit(value: float, target: Target) -> str:
    return f"{number(value / target.scale)}{target.unit}"
