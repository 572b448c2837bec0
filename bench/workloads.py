"""What a workload is to the command that runs it; the workloads themselves are in modules of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from bench.opponents import Opponent

# Told how much of a piece is done, from 0 to 1, and what to say about it.
Progress = Callable[[float, str], None]


class Workload(Protocol):
    """One thing that is measured, in the same way against each of its opponents."""

    @property
    def name(self) -> str:
        """Names files and options: lower case, no spaces."""

    @property
    def title(self) -> str:
        """What the tables call it."""

    @property
    def opponents(self) -> Sequence[str]:
        """Who takes part, by name."""

    @property
    def rounds_max(self) -> int:
        """How many rounds make sense: fewer than asked for when one is enough."""

    def shortened(self) -> Workload | None:
        """The same for a first look, whose figures prove nothing; None when there is no short form."""

    def measure(self, opponent: Opponent, folder: Path, *, base_time_s: int, progress: Progress) -> Mapping[str, float]:
        """Run once against *opponent* in the fresh *folder*; return figures by name, units in the names.

        Raises:
            BenchFailed: there is no figure that could be believed.
        """

    def headline(self, figures: Mapping[str, float]) -> str:
        """The figures of one measurement that are worth a line while the others still run."""
