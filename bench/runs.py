"""A run in its folder: what all its pieces share, and one JSON file for each piece that is done.

Only figures of one run are set against each other, so a run is continued only on the same machine with the same code
and libraries.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from bench.errors import BenchFailed

_HEADER: Final = "run.json"
_PIECES: Final = "pieces"


@dataclass(frozen=True, slots=True, kw_only=True)
class RunHeader:
    """What all pieces of a run share.

    Attributes:
        name: the run's folder; later runs sort after earlier ones.
        base_time_s: about when the submitted actions happened, in seconds since 1970.
        quick: a first look whose figures prove nothing.
        environment: see `bench.environment.describe_environment`.
        fsync_median_ms: of the disk, measured when the run began.
    """

    name: str
    base_time_s: int
    quick: bool
    rounds: int
    environment: dict[str, Any]
    fsync_median_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """One workload against one opponent, once.

    Attributes:
        round: 1 for the first.
        command: what was typed to run it, without folders.
        began_at: UTC, ISO 8601.
    """

    workload: str
    opponent: str
    round: int
    command: str
    began_at: str
    figures: Mapping[str, float]


class Run:
    """The folder of one run."""

    def __init__(self, folder: Path, header: RunHeader) -> None:
        self.folder = folder
        self.header = header

    @classmethod
    def create(cls, parent: Path, header: RunHeader) -> Run:
        """Begin a run in a new folder of *parent*."""
        folder = parent / header.name
        (folder / _PIECES).mkdir(parents=True)
        _write(folder / _HEADER, asdict(header))
        return cls(folder, header)

    @classmethod
    def latest(cls, parent: Path, environment: Mapping[str, Any]) -> Run:
        """Open the newest run of *parent*.

        Raises:
            BenchFailed: there is none, or it was begun in another environment.
        """
        found = sorted(parent.glob(f"*/{_HEADER}"))
        if not found:
            raise BenchFailed("there is no run to continue")
        header = RunHeader(**json.loads(found[-1].read_text()))
        changed = sorted(name for name in environment if environment[name] != header.environment.get(name))
        if changed:
            raise BenchFailed(f"run {header.name} cannot be continued, since it began with other: {', '.join(changed)}")
        return cls(found[-1].parent, header)

    def pieces(self) -> list[Piece]:
        """All pieces that are done."""
        return [Piece(**json.loads(path.read_text())) for path in sorted((self.folder / _PIECES).glob("*.json"))]

    def save(self, piece: Piece) -> None:
        """Keep *piece*."""
        _write(self.folder / _PIECES / f"{piece.workload}.{piece.opponent}.{piece.round}.json", asdict(piece))


def _write(path: Path, content: Mapping[str, Any]) -> None:
    """Write the file whole or not at all: a run may be interrupted at any moment."""
    unfinished = path.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(unfinished, path)
