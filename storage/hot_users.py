"""Where each user's rows are among the hot rows, so that a history costs the same however full the journal is.

Rows are indexed in segments of `SEGMENT_ROWS` positions, once there are many and a user is asked for: a number made of
each id, and the order by it. Two users may share a number, so that what is found is compared with the id itself. What
is not indexed, the newest rows among it, is looked through.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import Final

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

SEGMENT_ROWS: Final = 65_536
# Fewer are looked through in half a millisecond.
INDEXED_FROM_ROWS: Final = 262_144
_WORD_BYTES: Final = 8
_MULTIPLIERS: Final = (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9, 0x27D4EB2F165667C5)

Numbers = npt.NDArray[np.uint64]
Places = npt.NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class _Segment:
    """The rows at positions from `first` on: their ids' numbers in order, and for each the position that it is of."""

    first: int
    numbers: Numbers
    positions: Places

    @property
    def end(self) -> int:
        return self.first + len(self.numbers)

    def positions_of(self, number: np.uint64) -> Places:
        begin = np.searchsorted(self.numbers, number)
        return self.positions[begin : np.searchsorted(self.numbers, number, side="right")]


class HotUsers:
    """The index of one journal's hot rows. Methods may be called from any thread, also with older rows."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._segments: list[_Segment] = []

    @property
    def indexed_rows(self) -> int:
        """How many rows are indexed."""
        return sum(len(one.numbers) for one in self._segments)

    def rows_of(self, user_id: str, hot: pa.Table, columns: pa.Table) -> pa.Table:
        """The user's rows, in their order.

        Args:
            user_id: the user.
            hot: rows of the journal at consecutive positions.
            columns: what is wanted of the same rows.
        """
        if hot.num_rows < INDEXED_FROM_ROWS:
            return columns.filter(pc.equal(hot["user_id"], user_id))
        first = hot["position"][0].as_py()
        segments = [one for one in self._indexed(hot, first) if one.end > first and one.first < first + hot.num_rows]
        begin = segments[0].first - first if segments else hot.num_rows
        end = segments[-1].end - first if segments else hot.num_rows
        found = _looked_through(user_id, hot, columns, 0, max(0, begin))
        number = _numbers(pa.array([user_id], pa.string()))[0]
        places = (
            np.sort(np.concatenate([np.empty(0, np.int64), *(one.positions_of(number) for one in segments)])) - first
        )
        found += _taken(user_id, hot, columns, places[(places >= 0) & (places < hot.num_rows)])
        found += _looked_through(user_id, hot, columns, end, hot.num_rows)
        return pa.concat_tables([columns.slice(0, 0), *found])

    def _indexed(self, hot: pa.Table, first: int) -> list[_Segment]:
        """The segments in order, without gaps, after those were added that *hot* fills."""
        with self._lock:
            kept = [one for one in self._segments if one.end > first]
            next_first = kept[-1].end if kept else first
            while next_first >= first and next_first + SEGMENT_ROWS <= first + hot.num_rows:
                users = hot["user_id"].slice(next_first - first, SEGMENT_ROWS).combine_chunks()
                numbers = _numbers(users)
                order = np.argsort(numbers)
                kept.append(_Segment(next_first, numbers[order], order + next_first))
                next_first += SEGMENT_ROWS
            self._segments = kept
            return kept


def _looked_through(user_id: str, hot: pa.Table, columns: pa.Table, begin: int, end: int) -> list[pa.Table]:
    if begin >= end:
        return []
    users = hot["user_id"].slice(begin, end - begin)
    return [columns.slice(begin, end - begin).filter(pc.equal(users, user_id))]


def _taken(user_id: str, hot: pa.Table, columns: pa.Table, places: Places) -> list[pa.Table]:
    """The rows at these places that are of the user; chunk by chunk, since taking from several at once copies all."""
    taken: list[pa.Table] = []
    begin = 0
    for chunk in hot["user_id"].chunks:
        end = begin + len(chunk)
        low, high = np.searchsorted(places, (begin, end))
        if high > low:
            local = places[low:high] - begin
            ours = pc.equal(chunk.take(pa.array(local)), user_id)
            taken.append(columns.slice(begin, len(chunk)).take(pa.array(local).filter(ours)))
        begin = end
    return taken


def _numbers(users: pa.StringArray) -> Numbers:
    """A number for each id, of its length and of its first, middle and last eight bytes."""
    _, offsets_buffer, data_buffer = users.buffers()
    offsets = np.frombuffer(offsets_buffer, np.int32)[users.offset : users.offset + len(users) + 1].astype(np.int64)
    # Room for a word from any place on, and so that there is a word at all.
    data = np.zeros(int(offsets[-1]) + _WORD_BYTES, np.uint8)
    if data_buffer is not None:
        data[: offsets[-1]] = np.frombuffer(data_buffer, np.uint8)[: offsets[-1]]
    words: Numbers = np.ndarray(len(data) - _WORD_BYTES + 1, "<u8", data, strides=(1,))
    begins, lengths = offsets[:-1], np.diff(offsets)
    used = np.minimum(lengths, _WORD_BYTES)
    mask = np.where(
        used == _WORD_BYTES, ~np.uint64(0), (np.uint64(1) << (used * 8 % 64).astype(np.uint64)) - np.uint64(1)
    )
    numbers = lengths.astype(np.uint64) * np.uint64(_MULTIPLIERS[0])
    last = np.maximum(lengths - _WORD_BYTES, 0)
    for place, multiplier in zip((begins, begins + last // 2, begins + last), _MULTIPLIERS[1:], strict=True):
        numbers = (numbers ^ (words[place] & mask)) * np.uint64(multiplier)
        numbers ^= numbers >> np.uint64(29)
    return numbers
