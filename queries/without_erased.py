"""The condition under which rows of files are shown while erasures are under way: one place for all doors.

The users stand in a relation that is handed over as Arrow and joined, never in a text, so that neither a view, a plan
nor an error message tells an id. Without an erasure under way none of this is there.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

ERASED_ROWS: Final = "erased_rows"
"""The name under which `ErasedRows.as_table` is registered."""


def without_erased(stored: str, columns: Sequence[str]) -> str:
    """SQL for *columns*, quoted where they need it, of the rows of *stored* that are not erased.

    Args:
        stored: SQL whose rows have `user_id`, `journal` and `position` beside *columns*.
        columns: to be shown.
    """
    # A hash join at any number of users; an anti join with this condition would compare each row with each user.
    shown = ", ".join(f"stored.{name}" for name in columns)
    return (
        f"SELECT {shown} FROM ({stored}) AS stored LEFT JOIN {ERASED_ROWS} AS erased"  # noqa: S608
        " ON stored.user_id = erased.user_id"
        " WHERE erased.user_id IS NULL OR stored.position > erased.kept_after[stored.journal]"
    )
