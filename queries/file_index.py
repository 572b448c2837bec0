"""The files of a snapshot by type and day, so that a question costs what it touches and not what there is.

A snapshot's files are in order of their date. Each UTC day is a partition, so that only the files of the first and the
last day that are asked for need to be looked at one by one.
"""

from __future__ import annotations

import datetime
import itertools
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from storage.data_files import DataFile

_DAY_US: Final = 86_400_000_000
_EPOCH_ORDINAL: Final = datetime.date(1970, 1, 1).toordinal()
_INDEXES_KEPT: Final = 8
_LAST_CHARACTER: Final = "\U0010ffff"


@dataclass(frozen=True, slots=True)
class RetrievalFilter:
    """What is asked for; None means no restriction.

    Attributes:
        user_id: exactly this user.
        action_type: exactly this type, in lower case.
        from_us, to_us: bounds of `time` in microseconds since the epoch, both included.
        user_prefix: only users whose id begins so, whatever else is asked for.
    """

    user_id: str | None = None
    action_type: str | None = None
    from_us: int | None = None
    to_us: int | None = None
    user_prefix: str | None = None

    @property
    def users_below(self) -> str | None:
        """The least text above all that begin with `user_prefix`; None if there is none."""
        return None if self.user_prefix is None else text_after_prefix(self.user_prefix)


def text_after_prefix(prefix: str) -> str | None:
    """The least text, by code points, that is greater than every text that begins with *prefix*.

    Texts from the prefix up to it, not included, are exactly those that begin with the prefix, and a range is what
    the statistics of row groups can be compared with. None if no text is greater.
    """
    last = prefix.rstrip(_LAST_CHARACTER)
    if not last:
        return None
    following = ord(last[-1]) + 1
    # Surrogates are no characters; UTF-8 skips them as well.
    return last[:-1] + chr(0xE000 if following == 0xD800 else following)


@dataclass(frozen=True, slots=True)
class Selected:
    """Files that remain, and their bytes together."""

    files: tuple[DataFile, ...]
    bytes: int


class _Ordered:
    """Files in order of their date."""

    def __init__(self, files: Sequence[DataFile]) -> None:
        self.files = tuple(files)
        self.days = [one.date.toordinal() - _EPOCH_ORDINAL for one in self.files]
        self.bytes_before = list(itertools.accumulate((one.size_bytes for one in self.files), initial=0))

    def between(self, first_day: int | None, last_day: int | None) -> Selected:
        low = 0 if first_day is None else bisect_left(self.days, first_day)
        high = len(self.files) if last_day is None else max(low, bisect_right(self.days, last_day))
        return Selected(self.files[low:high], self.bytes_before[high] - self.bytes_before[low])


class FileIndex:
    """The files of one snapshot, in order of their date."""

    def __init__(self, files: Sequence[DataFile]) -> None:
        self._all = _Ordered(files)
        by_type: dict[str, list[DataFile]] = {}
        for one in files:
            by_type.setdefault(one.type, []).append(one)
        self._by_type = {type_: _Ordered(of_type) for type_, of_type in by_type.items()}
        self._none = _Ordered(())

    @property
    def all(self) -> Selected:
        """All files."""
        return self._all.between(None, None)

    def of_partitions(self, asked: RetrievalFilter) -> Selected:
        """The files of the type and the days that are asked for."""
        ordered = self._all if asked.action_type is None else self._by_type.get(asked.action_type, self._none)
        return ordered.between(
            None if asked.from_us is None else asked.from_us // _DAY_US,
            None if asked.to_us is None else asked.to_us // _DAY_US,
        )


def within_time(selected: Selected, asked: RetrievalFilter) -> Selected:
    """Leave out the files whose bounds of time are beyond what is asked for."""
    if asked.from_us is None and asked.to_us is None:
        return selected
    files = tuple(
        one
        for one in selected.files
        if (asked.from_us is None or one.time_max_us >= asked.from_us)
        and (asked.to_us is None or one.time_min_us <= asked.to_us)
    )
    return Selected(files, sum(one.size_bytes for one in files))


class FileIndexes:
    """The indexes of the snapshots that were asked for last. May be used by any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: list[tuple[Sequence[DataFile], FileIndex]] = []

    def of(self, files: Sequence[DataFile]) -> FileIndex:
        """The index of these very files, which are never changed."""
        with self._lock:
            for known, index in self._kept:
                if known is files:
                    return index
            index = FileIndex(files)
            self._kept = [(files, index), *self._kept[: _INDEXES_KEPT - 1]]
            return index
