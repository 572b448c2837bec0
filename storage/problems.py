"""A problem that a check has found: which file, what is wrong with it, and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

RESTORE: Final = "restore the store from a backup (actionlake restore)"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong.

    Attributes:
        file: the file or folder that it is about.
        what: what is wrong with it.
        advice: what to do.
    """

    file: Path
    what: str
    advice: str

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; {self.advice}"
