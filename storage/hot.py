"""Hot rows: the journal's tail as Arrow, so that an acknowledged action is in the next answer.

Each worker keeps what it has read of the tail and reads on from there. Positions in the journal are dense, so that a
row's place follows from its position.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
import pyarrow as pa

from storage.columns import JournalRow, rows_to_table
from storage.hot_users import HotUsers
from storage.schema import ActionSchema

_CHUNKS_MAX: Final = 32
# Memory of rows that were flushed which is not worth copying the others for.
_SPARE_BYTES: Final = 1 << 20


class HotRows:
    """The rows of one journal at positions above `after`, up to `through`. Not safe for several threads at once."""

    def __init__(self, journal: str, schema: ActionSchema) -> None:
        self.journal = journal
        self.after = 0
        self.through = 0
        self.users = HotUsers()
        self._schema = schema
        self._table = schema.table_schema.empty_table()

    def next_after(self, watermark: int) -> int:
        """Forget rows up to *watermark* and return the position above which the journal has to be read."""
        if watermark == self.after:
            return self.through
        if self.after < watermark < self.through:
            self._table = _without_first(self._table, watermark - self.after)
        else:
            # All was flushed, or it is an older snapshot than the last reader's: what lies between was dropped. No
            # part of the rows stays, not even one of length 0, which would keep the memory of all of them.
            self._table = self._schema.table_schema.empty_table()
            self.users = HotUsers()
            self.through = watermark
        self.after = watermark
        return self.through

    def extend(self, rows: Sequence[JournalRow]) -> None:
        """Add rows that were read from the journal above `through`; the first may begin at or before it.

        Raises:
            CorruptData: a row does not decode, or a position is missing between two rows.
        """
        if not rows:
            return
        fresh = rows_to_table(rows, self.journal, self._schema)
        expected = rows[-1].last_position - self.through
        self._table = pa.concat_tables([self._table, fresh.slice(fresh.num_rows - expected)])
        if self._table["position"].num_chunks > _CHUNKS_MAX:
            self._table = self._table.combine_chunks()
        self.through = rows[-1].last_position

    @property
    def held_bytes(self) -> int:
        """What the rows take in memory, that of flushed ones included which are in one chunk with others."""
        return int(self._table.get_total_buffer_size())

    @property
    def table(self) -> pa.Table:
        """The rows, with all columns of the table; later calls of this object do not change what was returned."""
        return self._table


def _without_first(rows: pa.Table, count: int) -> pa.Table:
    """Leave out the first rows, and let go of their memory but for what is at most as much as the others take."""
    left = rows.slice(count)
    # A slice keeps all of a chunk, which may be of all rows.
    if left.get_total_buffer_size() > 2 * left.nbytes + _SPARE_BYTES:
        left = left.take(np.arange(left.num_rows))
    return left
