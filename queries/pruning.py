"""Which files can hold what is asked for: by partition first, then by the bounds of `time`, then by their users."""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from storage.data_files import DataFile

_DAY_US = 86_400_000_000
_LAST_CHARACTER = "\U0010ffff"
_EPOCH_ORDINAL = datetime.date(1970, 1, 1).toordinal()


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
class PruningStep:
    """How many files, and bytes in them, were left after one step."""

    step: str
    files: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Pruned:
    """The files that remain, and how it came to that."""

    files: tuple[DataFile, ...]
    steps: tuple[PruningStep, ...]


FilesWith = Callable[[str, Sequence[DataFile]], tuple[DataFile, ...]]
"""Leaves out files that certainly do not hold a user."""


def prune(files: Iterable[DataFile], asked: RetrievalFilter, files_with: FilesWith) -> Pruned:
    """Leave out the files that cannot hold a row that is asked for."""
    all_files = tuple(files)
    by_partition = tuple(one for one in all_files if _partition_matches(one, asked))
    by_time = tuple(one for one in by_partition if _time_matches(one, asked))
    steps = (
        _step("all files", all_files),
        _step("partition (date, type)", by_partition),
        _step("bounds of time", by_time),
    )
    if asked.user_id is None:
        return Pruned(by_time, steps)
    by_user = files_with(asked.user_id, by_time)
    return Pruned(by_user, (*steps, _step("user filters", by_user)))


def _step(name: str, files: tuple[DataFile, ...]) -> PruningStep:
    return PruningStep(name, len(files), sum(one.size_bytes for one in files))


def _partition_matches(one: DataFile, asked: RetrievalFilter) -> bool:
    if asked.action_type is not None and one.type != asked.action_type:
        return False
    day = one.date.toordinal() - _EPOCH_ORDINAL
    if asked.from_us is not None and day < asked.from_us // _DAY_US:
        return False
    return asked.to_us is None or day <= asked.to_us // _DAY_US


def _time_matches(one: DataFile, asked: RetrievalFilter) -> bool:
    if asked.from_us is not None and one.time_max_us < asked.from_us:
        return False
    return asked.to_us is None or one.time_min_us <= asked.to_us
