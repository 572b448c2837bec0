"""Rows of users whose erasure is under way: for every reader as good as gone, wherever they still lie.

An erasure covers what was acknowledged before it. A user who comes back keeps what is submitted afterwards, so that a
row is erased by its user, its journal and its position together.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc

_AS_TABLE: Final = pa.schema(
    [pa.field("user_id", pa.string()), pa.field("kept_after", pa.map_(pa.string(), pa.int64()))]
)


@dataclass(frozen=True)
class ErasedRows:
    """Which rows are erased; false where there are none.

    Attributes:
        kept_after: user → journal → the position above which that user's rows of that journal are kept. Rows of any
            other journal are erased.
    """

    kept_after: Mapping[str, Mapping[str, int]] = field(default_factory=dict)

    @classmethod
    def of(cls, erasures: Iterable[tuple[str, Mapping[str, int]]]) -> ErasedRows:
        """Put erasures together, each a user and that user's `kept_after`; a row is kept if all of them keep it."""
        merged: dict[str, Mapping[str, int]] = {}
        for user, kept in erasures:
            known = merged.get(user)
            if known is None:
                merged[user] = dict(kept)
            else:
                merged[user] = {name: max(known[name], kept[name]) for name in known.keys() & kept.keys()}
        return cls(merged)

    def __bool__(self) -> bool:
        """Whether there are any."""
        return bool(self.kept_after)

    def of_user(self, user: str) -> ErasedRows:
        """Only the rows of *user*."""
        return ErasedRows({user: self.kept_after[user]}) if user in self.kept_after else NOTHING_ERASED

    def hides(self, user: str, journal: str, position: int) -> bool:
        """Whether this row is erased."""
        kept = self.kept_after.get(user)
        return kept is not None and not position > kept.get(journal, position)

    def mask(self, rows: pa.Table | pa.RecordBatch) -> pa.ChunkedArray | pa.Array:
        """Tell for each row, which needs `user_id`, `journal` and `position`, whether it is erased."""
        users = rows.column("user_id")
        erased = pc.is_in(users, pa.array(self.kept_after, pa.string()))
        if not pc.any(erased).as_py():
            return erased
        journals, positions = rows.column("journal"), rows.column("position")
        for user in pc.unique(users.filter(erased)).to_pylist():
            for journal, after in self.kept_after[user].items():
                kept = pc.and_(
                    pc.equal(users, user), pc.and_(pc.equal(journals, journal), pc.greater(positions, after))
                )
                erased = pc.and_(erased, pc.invert(kept))
        return erased

    def without(self, rows: pa.Table) -> pa.Table:
        """Return *rows* without the erased ones; the very same table if there are none."""
        if not self or not rows.num_rows:
            return rows
        erased = self.mask(rows)
        return rows.filter(pc.invert(erased)) if pc.any(erased).as_py() else rows

    def as_table(self) -> pa.Table:
        """The users as rows `user_id, kept_after`, for queries."""
        return pa.table(
            [list(self.kept_after), [list(kept.items()) for kept in self.kept_after.values()]], schema=_AS_TABLE
        )


NOTHING_ERASED: Final = ErasedRows()
