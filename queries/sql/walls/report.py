"""What is said about a worker's walls: which stand, which are missing and why, and what was proved by trying."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Wall:
    """One mechanism of the operating system.

    Attributes:
        name: of the mechanism, such as `landlock`.
        standing: whether the worker has it around itself.
        detail: what it does here, or why it is missing.
    """

    name: str
    standing: bool
    detail: str


@dataclass(frozen=True, slots=True)
class Proof:
    """One thing that a worker tried to do after its walls stood.

    Attributes:
        attempt: what was tried, such as `open a file outside the table`.
        refused: whether the system refused.
        detail: the system's answer.
    """

    attempt: str
    refused: bool
    detail: str


@dataclass(frozen=True, slots=True)
class IsolationReport:
    """The walls around every worker of a pool, for the log at start."""

    walls: tuple[Wall, ...]
    proofs: tuple[Proof, ...]

    @property
    def standing(self) -> tuple[Wall, ...]:
        """The mechanisms that protect."""
        return tuple(wall for wall in self.walls if wall.standing)

    @property
    def missing(self) -> tuple[Wall, ...]:
        """The mechanisms that this platform, or these rights, do not give."""
        return tuple(wall for wall in self.walls if not wall.standing)

    @property
    def open_ways(self) -> tuple[Proof, ...]:
        """The attempts that the operating system did not refuse: against these only DuckDB and the guard stand."""
        return tuple(proof for proof in self.proofs if not proof.refused)
