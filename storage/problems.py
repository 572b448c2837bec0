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
        is_put_aside: whether the store goes on by itself: what is damaged is put aside, and all else is whole.
    """

    file: Path
    what: str
    advice: str
    is_put_aside: bool = False

    def __str__(self) -> str:
        return f"{self.file}: {self.what}; {self.advice}"
