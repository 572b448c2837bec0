"""Reading rejects, wherever they are: the table `rejects`, the letters it does not have yet, and marks over both.

A reader stays exact as `storage.read_view` says it for actions: in ONE read transaction of the journal's database read
how far letters are moved, the marks, and the letters above the watermark of the snapshot at hand. If letters were moved
that this snapshot does not have, or marks let go that only a later version tells, load the table again and repeat.

Rejects are ordered by when they were received, then by source and id, in which no two are alike. Files of the table are
sorted by the same, so that a page reads each file from one end and only until the page is full.
"""

from __future__ import annotations

import datetime
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from storage.dead_letters import Execute, read_marks, read_rejects_state, select_letters
from storage.errors import CorruptData, StoreFailed
from storage.journal import Journal
from storage.rejects_files import Marks, Row, decode_original, row_of_letter, with_mark
from storage.rejects_table import RejectsFile, RejectsSnapshot, RejectsTable

_READ_ATTEMPTS_MAX: Final = 100
_FILES_GONE_MAX: Final = 3
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)
_KEYS: Final = [
    "source",
    "reject_id",
    "received_at",
    "user_id",
    "session_id",
    "line",
    "action_index",
    "code",
    "message",
    "original_bytes",
    "position",
    "state",
    "state_at",
    "replayed_position",
]


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Where a reject stands in the order of all; `source` and `id` name it for good."""

    received_at_us: int
    source: str
    id: int


@dataclass(frozen=True, slots=True)
class Reject:
    """An action, or a line, that was not kept, and what became of it.

    Attributes:
        place: when it was received, and its name.
        user_id, session_id: of its submission; None where a line was no submission.
        line, action_index: where it stood in its request.
        code, message: why it was not kept, by the last attempt.
        original: the exact bytes.
        position: of a row that could not be flushed: its place in the journal.
        state: `open` or `replayed`.
        state_at_us: when it was last tried.
        replayed_position: where in the journal a replay put its first action.
    """

    place: Place
    user_id: str | None
    session_id: str | None
    line: int | None
    action_index: int | None
    code: str
    message: str
    original: bytes
    position: int | None
    state: str
    state_at_us: int | None
    replayed_position: int | None


@dataclass(frozen=True, slots=True)
class RejectsFilter:
    """Which rejects: all that every given criterion holds for. Times are of receipt, both included.

    `through` leaves out what its source has kept after it, `user_prefix` all users whose id begins otherwise, and lines
    that name no user.
    """

    user_id: str | None = None
    code: str | None = None
    from_us: int | None = None
    to_us: int | None = None
    state: str | None = None
    ids: frozenset[tuple[str, int]] | None = None
    through: tuple[str, int] | None = None
    user_prefix: str | None = None

    def holds(self, row: Row) -> bool:
        """Tell whether *row*, marks applied, is asked for."""
        received = _microseconds(row["received_at"])
        return (
            (self.user_id is None or row["user_id"] == self.user_id)
            and (self.user_prefix is None or (row["user_id"] or "").startswith(self.user_prefix))
            and (self.code is None or row["code"] == self.code)
            and (self.state is None or row["state"] == self.state)
            and (self.from_us is None or received >= self.from_us)
            and (self.to_us is None or received <= self.to_us)
            and (self.ids is None or (row["source"], row["reject_id"]) in self.ids)
            and (self.through is None or row["source"] != self.through[0] or row["reject_id"] <= self.through[1])
        )


@dataclass(frozen=True, slots=True)
class RejectsPage:
    """Some rejects in order, where to go on (None: there are no more), and of which version of the table they are.

    Those of the present source with an id above `watermark` were dead letters.
    """

    rejects: Sequence[Reject]
    next: Place | None
    version: int
    watermark: int


@dataclass(frozen=True, slots=True)
class RejectsTableSize:
    """How much the table `rejects` holds."""

    rows: int
    files: int
    bytes: int


@dataclass(slots=True)
class _Found:
    """A row without its text, and where that is: in a row group of a file, or among the letters."""

    place: Place
    row: Row
    file: RejectsFile | None = None
    group: int = 0
    index: int = 0
    original: bytes = field(default=b"")


class RejectsReader:
    """Reads one store's rejects. Methods may be called from any thread."""

    def __init__(self, journal: Journal, folder: Path) -> None:
        self._journal = journal
        self._folder = folder
        self._lock = threading.Lock()
        self._table: RejectsTable | None = None

    def page(
        self, wanted: RejectsFilter, *, descending: bool, after: Place | None, limit: int, bytes_max: int
    ) -> RejectsPage:
        """Read up to *limit* rejects strictly after *after*, at least one if there is one, of *bytes_max* together.

        Raises:
            CorruptData: the table's log or one of its files is damaged.
            StoreFailed: the journal could not be read, or does not belong to the table.
        """
        for attempt in range(_FILES_GONE_MAX + 1):
            try:
                return self._page(wanted, descending=descending, after=after, limit=limit, bytes_max=bytes_max)
            except FileNotFoundError as error:
                # Replaced and removed while it was looked for, after an erasure say: a newer version has others.
                if attempt == _FILES_GONE_MAX:
                    raise CorruptData(f"a file of the table in {self._folder} is missing: {error}") from error
        raise AssertionError("the last attempt returns or raises")

    def _page(
        self, wanted: RejectsFilter, *, descending: bool, after: Place | None, limit: int, bytes_max: int
    ) -> RejectsPage:
        with self._lock:
            snapshot, letters, marks = self._view(wanted, descending=descending, after=after, limit=limit + 1)
        found = letters
        try:
            for file in self._candidates(snapshot, wanted, descending=descending, after=after):
                if len(found) > limit and _beyond(file, found[limit].place, descending=descending):
                    break
                found += self._in_file(file, wanted, marks, descending=descending, after=after, limit=limit + 1)
                found.sort(key=lambda one: one.place, reverse=descending)
                del found[limit + 1 :]
            chosen = _within(found[:limit], bytes_max)
            self._read_originals(chosen)
        except pa.ArrowException as error:
            raise CorruptData(f"a file of the table in {self._folder} is damaged: {error}") from error
        more = len(chosen) < len(found)
        return RejectsPage(
            [_reject(one) for one in chosen], chosen[-1].place if more else None, snapshot.version, snapshot.watermark
        )

    def in_table(self) -> RejectsTableSize:
        """How much the table holds, without what waits in the journal's database.

        Raises:
            CorruptData: the table's log cannot be read.
        """
        with self._lock:
            files = self._opened().snapshot("").files
        return RejectsTableSize(sum(one.rows for one in files), len(files), sum(one.size_bytes for one in files))

    def _opened(self) -> RejectsTable:
        if self._table is None:
            self._table = RejectsTable(self._folder)
        return self._table

    def newest(self) -> tuple[str, int]:
        """The present source, and the id of its newest reject."""
        with self._journal.reading() as execute:
            state = read_rejects_state(execute)
        return state.source, state.head

    def _view(
        self, wanted: RejectsFilter, *, descending: bool, after: Place | None, limit: int
    ) -> tuple[RejectsSnapshot, list[_Found], Marks]:
        table = self._opened()
        for _ in range(_READ_ATTEMPTS_MAX):
            with self._journal.reading() as execute:
                source = read_rejects_state(execute).source
            snapshot = table.snapshot(source)
            with self._journal.reading() as execute:
                state = read_rejects_state(execute)
                if (
                    state.source == source
                    and state.moved_through <= snapshot.watermark
                    and snapshot.version >= state.version_min
                ):
                    marks = {(one.source, one.id): one for one in read_marks(execute)}
                    letters = _letters(
                        execute, source, snapshot.watermark, wanted, marks, descending=descending, after=after,
                        limit=limit,
                    )  # fmt: skip
                    return snapshot, letters, marks
        raise StoreFailed(f"no version of the table in {self._folder} reaches what the journal has moved to it")

    @staticmethod
    def _candidates(
        snapshot: RejectsSnapshot, wanted: RejectsFilter, *, descending: bool, after: Place | None
    ) -> list[RejectsFile]:
        low, high = wanted.from_us, wanted.to_us
        if after is not None and descending:
            high = after.received_at_us if high is None else min(high, after.received_at_us)
        elif after is not None:
            low = after.received_at_us if low is None else max(low, after.received_at_us)
        files = [
            one
            for one in snapshot.files
            if (low is None or one.received_max_us >= low)
            and (high is None or one.received_min_us <= high)
            and (wanted.ids is None or any(one.id_min <= id_ <= one.id_max for _, id_ in wanted.ids))
        ]
        if descending:
            return sorted(files, key=lambda one: one.received_max_us, reverse=True)
        return sorted(files, key=lambda one: one.received_min_us)

    def _in_file(
        self,
        file: RejectsFile,
        wanted: RejectsFilter,
        marks: Marks,
        *,
        descending: bool,
        after: Place | None,
        limit: int,
    ) -> list[_Found]:
        found: list[_Found] = []
        with pq.ParquetFile(self._folder / file.relative_path) as opened:
            groups = range(opened.num_row_groups)
            for group in reversed(groups) if descending else groups:
                keys = opened.read_row_group(group, columns=_KEYS)
                keys = keys.append_column("index", pa.array(range(keys.num_rows), pa.int64()))
                rows = keys.filter(_mask(keys, wanted, marks)).to_pylist()
                for row in reversed(rows) if descending else rows:
                    one = _asked_for(row, wanted, marks, descending=descending, after=after)
                    if one is not None:
                        one.file, one.group, one.index = file, group, row["index"]
                        found.append(one)
                        if len(found) == limit:
                            return found
        return found

    def _read_originals(self, chosen: Sequence[_Found]) -> None:
        groups: dict[tuple[str, int], list[_Found]] = {}
        for one in chosen:
            if one.file is not None:
                groups.setdefault((one.file.relative_path, one.group), []).append(one)
        for (path, group), of_group in groups.items():
            with pq.ParquetFile(self._folder / path) as opened:
                texts = opened.read_row_group(group, columns=["original", "original_encoding"])
            for one in of_group:
                text, encoding = (texts[name][one.index].as_py() for name in ("original", "original_encoding"))
                one.original = decode_original(text, encoding)


def _letters(
    execute: Execute,
    source: str,
    watermark: int,
    wanted: RejectsFilter,
    marks: Marks,
    *,
    descending: bool,
    after: Place | None,
    limit: int,
) -> list[_Found]:
    found: list[_Found] = []
    for letter in select_letters(execute, after=watermark, user_id=wanted.user_id, descending=descending):
        row = row_of_letter(letter, source)
        one = _asked_for(row, wanted, marks, descending=descending, after=after)
        if one is not None:
            found.append(one)
            if len(found) == limit:
                break
    for one in found:
        one.original = execute("SELECT original FROM dead_letters WHERE id = ?", (one.place.id,)).fetchone()[0]
        one.row["original_bytes"] = len(one.original)
    return found


def _asked_for(
    row: Row, wanted: RejectsFilter, marks: Marks, *, descending: bool, after: Place | None
) -> _Found | None:
    marked = with_mark(row, marks)
    if marked is None or not wanted.holds(marked):
        return None
    place = Place(_microseconds(row["received_at"]), row["source"], row["reject_id"])
    if after is not None and (place >= after if descending else place <= after):
        return None
    return _Found(place, marked)


def _mask(keys: pa.Table, wanted: RejectsFilter, marks: Marks) -> pa.Array:
    """Rows that may be asked for, told column by column; what marks may change is judged row by row later."""
    mask = pa.repeat(pa.scalar(value=True), keys.num_rows)
    if wanted.user_id is not None:
        mask = pc.and_(mask, pc.fill_null(pc.equal(keys["user_id"], wanted.user_id), fill_value=False))
    received = keys["received_at"].cast(pa.int64())
    if wanted.from_us is not None:
        mask = pc.and_(mask, pc.greater_equal(received, wanted.from_us))
    if wanted.to_us is not None:
        mask = pc.and_(mask, pc.less_equal(received, wanted.to_us))
    if wanted.ids is not None:
        mask = pc.and_(mask, pc.is_in(keys["reject_id"], pa.array([id_ for _, id_ in wanted.ids], pa.int64())))
    marked = pc.is_in(keys["reject_id"], pa.array([id_ for _, id_ in marks], pa.int64()))
    for name, value in (("code", wanted.code), ("state", wanted.state)):
        if value is not None:
            mask = pc.and_(mask, pc.or_(marked, pc.equal(keys[name], value)))
    return mask


def _beyond(file: RejectsFile, last: Place, *, descending: bool) -> bool:
    """Tell whether all of a file comes after *last*."""
    if descending:
        return file.received_max_us < last.received_at_us
    return file.received_min_us > last.received_at_us


def _within(found: list[_Found], bytes_max: int) -> list[_Found]:
    size = 0
    for place, one in enumerate(found):
        size += one.row["original_bytes"]
        if place and size > bytes_max:
            return found[:place]
    return found


def _reject(found: _Found) -> Reject:
    row = found.row
    return Reject(
        place=found.place,
        user_id=row["user_id"],
        session_id=row["session_id"],
        line=row["line"],
        action_index=row["action_index"],
        code=row["code"],
        message=row["message"],
        original=found.original,
        position=row["position"],
        state=row["state"],
        state_at_us=None if row["state_at"] is None else _microseconds(row["state_at"]),
        replayed_position=row["replayed_position"],
    )


def _microseconds(moment: datetime.datetime) -> int:
    return (moment - _EPOCH) // _MICROSECOND
