"""A part of the script of `tests.faults.scripted_run`, in a process whose system calls a test holds.

    python -m tests.faults.held_run GATE REPORTS FOLDER PART [MISTAKE]

hands its calls over at the socket GATE and does PART in FOLDER: `work` makes a store, submits, flushes, commits, trims
and compacts; `upkeep` opens one, removes what its table no longer names, and erases a user. A MISTAKE is one of
`tests.faults.broken_stores`. Reports are those of the script. An error that the store or the disk is known to answer
with ends the part, and is reported as `L`; any other ends the process with its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from storage.errors import StoreError
from tests.faults.broken_stores import MISTAKES
from tests.faults.held_calls import hand_over
from tests.faults.scripted_run import Report, perform, upkeep

_NAME: Final = "script"
WORK: Final = "work"
UPKEEP: Final = "upkeep"
PARTS: Final[Mapping[str, Callable[[Path, Report], None]]] = {
    WORK: lambda folder, report: perform(folder, _NAME, report),
    UPKEEP: lambda folder, report: upkeep(folder, f"{_NAME}-0", report),
}


def main(gate: str, reports: str, folder: str, part: str, mistake: str | None = None) -> None:
    """Do one part of the script."""
    descriptor = os.open(reports, os.O_WRONLY | os.O_CREAT | os.O_APPEND)

    def report(line: str) -> None:
        os.write(descriptor, line.encode() + b"\n")

    if mistake is not None:
        MISTAKES[mistake]()
    hand_over(gate)
    try:
        PARTS[part](Path(folder), report)
    except (StoreError, OSError) as error:
        report(f"L {type(error).__name__}: {error}")


if __name__ == "__main__":
    main(*sys.argv[1:])
