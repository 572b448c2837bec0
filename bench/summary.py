"""From pieces to judgements: medians over the rounds, ratios between opponents, targets met or missed. No I/O."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from bench.runs import Piece


@dataclass(frozen=True, slots=True)
class Spread:
    """A figure over the rounds of one run."""

    median: float
    least: float
    most: float
    rounds: int


def spread(pieces: Sequence[Piece], workload: str, opponent: str, figure: str) -> Spread | None:
    """The figure over all rounds in which it was measured; None when it never was."""
    values = [
        piece.figures[figure]
        for piece in pieces
        if (piece.workload, piece.opponent) == (workload, opponent) and figure in piece.figures
    ]
    return Spread(statistics.median(values), min(values), max(values), len(values)) if values else None


def ratio(pieces: Sequence[Piece], workload: str, figure: str, opponent: str, against: str) -> float | None:
    """The median of *opponent* over the median of *against*; None unless both were measured."""
    ours, theirs = spread(pieces, workload, opponent, figure), spread(pieces, workload, against, figure)
    return None if ours is None or theirs is None else ours.median / theirs.median


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What is to be reached.

    Attributes:
        bound: at least or at most this: a ratio of medians to those of `against` or `against_workload`, or without them
            the median itself.
        against: another opponent, at the same workload.
        against_workload: another workload of the same opponent.
        unit: written after the numbers.
        scale: numbers are divided by it before they are written.
        needs_flush: proven only when a flush took place inside every measured window.
    """

    title: str
    workload: str
    figure: str
    kind: Literal["at least", "at most"]
    bound: float
    against: str | None
    unit: str
    scale: float = 1.0
    needs_flush: bool = True
    against_workload: str | None = None


@dataclass(frozen=True, slots=True)
class Verdict:
    """How a target fared: `measured` is None when it was not measured, `missed_by` 0 when it was met.

    Attributes:
        missed_by: the distance to the bound as a share of the bound.
        flushed: a flush took place inside every measured window of the workload.
    """

    target: Target
    measured: float | None
    missed_by: float
    flushed: bool

    @property
    def met(self) -> bool:
        """Measured, within the bound, and under the conditions that the target asks for."""
        return self.measured is not None and self.missed_by == 0 and (self.flushed or not self.target.needs_flush)

    def text(self) -> str:
        """The verdict in words, with the distance when it was missed."""
        if self.measured is None:
            return "not measured"
        if self.missed_by:
            return f"missed by {max(self.missed_by, 0.001):.1%}"
        return "met" if self.met else "not proven: no flush in a window"


def judge(target: Target, pieces: Sequence[Piece], opponent: str) -> Verdict:
    """Set what was measured for *opponent* against *target*."""
    own = spread(pieces, target.workload, opponent, target.figure)
    measured = None if own is None else own.median
    if target.against is not None:
        measured = ratio(pieces, target.workload, target.figure, opponent, target.against)
    elif target.against_workload is not None:
        other = spread(pieces, target.against_workload, opponent, target.figure)
        measured = None if own is None or other is None else own.median / other.median
    flushes = spread(pieces, target.workload, opponent, "flushes")
    flushed = flushes is not None and flushes.least >= 1
    if measured is None:
        return Verdict(target, None, 0.0, flushed)
    short = target.bound - measured if target.kind == "at least" else measured - target.bound
    return Verdict(target, measured, max(0.0, short / target.bound), flushed)


TARGETS: Final = (
    Target(
        title="durable actions/s at 100 actions a request, against the baseline",
        workload="submit-100",
        figure="actions_per_s",
        kind="at least",
        bound=6.0,
        against="baseline",
        unit="x",
    ),
    Target(
        title="requests/s at 1 action a request, against the baseline",
        workload="submit-1",
        figure="requests_per_s",
        kind="at least",
        bound=4.0,
        against="baseline",
        unit="x",
    ),
    Target(
        title="p99 at 100 actions a request, against the baseline",
        workload="submit-100",
        figure="latency_p99_ms",
        kind="at most",
        bound=0.1,
        against="baseline",
        unit="x",
    ),
    Target(
        title="p99 at 1 action a request, against the baseline",
        workload="submit-1",
        figure="latency_p99_ms",
        kind="at most",
        bound=0.1,
        against="baseline",
        unit="x",
    ),
    Target(
        title="peak resident memory of the serving process while 10 million actions go through",
        workload="memory",
        figure="rss_peak_largest_process_bytes",
        kind="at most",
        bound=400e6,
        against=None,
        unit=" MB",
        scale=1e6,
    ),
    Target(
        title="the same for all processes of the server together",
        workload="memory",
        figure="rss_peak_bytes",
        kind="at most",
        bound=400e6,
        against=None,
        unit=" MB",
        scale=1e6,
    ),
    Target(
        title="durable actions/s for five minutes at 1,000 a request, 2 workers, flushes and upkeep included",
        workload="sustained",
        figure="actions_per_s",
        kind="at least",
        bound=400_000,
        against=None,
        unit="",
    ),
    *(
        Target(
            title=f"durable actions/s of 2 workers against 1, flushing held back, 100 a request, {clients} connections",
            workload=f"held-back-2{suffix}",
            figure="actions_per_s",
            kind="at least",
            bound=1.4,
            against=None,
            against_workload=f"held-back-1{suffix}",
            unit="x",
            needs_flush=False,
        )
        for clients, suffix in ((64, ""), (128, "-of-128"))
    ),
    Target(
        title="durable actions/s by Arrow streams into one process",
        workload="arrow-held-back",
        figure="actions_per_s",
        kind="at least",
        bound=1_000_000,
        against=None,
        unit="",
        needs_flush=False,
    ),
    Target(
        title="start with 10 million rows in the table and 100,000 in the journal",
        workload="restart",
        figure="ready_s",
        kind="at most",
        bound=2.0,
        against=None,
        unit=" s",
        needs_flush=False,
    ),
)
