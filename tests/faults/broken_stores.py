"""Stores that are wrong on purpose: the fault tests must notice each of them, or they notice nothing.

Each of these does what its name says and nothing else differently, so that a test that passes on them would pass on
the mistake as well.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from deltalake import Schema
from deltalake.transaction import CommitProperties, Transaction

from storage.data_files import WrittenFile
from storage.errors import StoreError
from storage.group_commit import GroupCommitter
from storage.lake import _NO_HOOKS, Lake, _add_action
from storage.latch import Latch
from storage.read_view import ReadView
from storage.schema import PARTITION_COLUMNS
from storage.store import Store

# Recovery takes a commit of rows without any transaction for one that was cut off, and removes it.
_NOBODY: Final = "nobody"
_MOMENT_S: Final = 0.01
_READS_OF_A_VIEW: Final = 10


def acknowledge_before_the_commit() -> None:
    """Make the group commit tell its clients that all is well, and ask the journal a moment later."""

    def commit(committer: GroupCommitter) -> int:
        group = committer._take()
        committer._deliver([(token, append.answer) for token, append, _ in group])
        time.sleep(_MOMENT_S)
        with contextlib.suppress(StoreError):  # There is nobody left to tell.
            committer._journal.append([append for _, append, _ in group], now_us=committer._now_us())
        return sum(size for _, _, size in group)

    GroupCommitter._commit = commit  # type: ignore[method-assign,assignment]


def commit_rows_before_their_watermark() -> None:
    """Make a flush commit its rows first, and the watermark that speaks of them in a second commit."""

    def append(lake: Lake, files: Sequence[WrittenFile], *, journal: str, after: int, watermark: int) -> int:
        _commit(lake, files, [Transaction(_NOBODY, watermark)])
        return _commit(lake, [], [Transaction(journal, watermark)])

    Lake.append = append  # type: ignore[method-assign,assignment]


def commit_the_watermark_before_its_rows() -> None:
    """Make a flush commit the watermark first, and the rows that it speaks of in a second commit."""

    def append(lake: Lake, files: Sequence[WrittenFile], *, journal: str, after: int, watermark: int) -> int:
        _commit(lake, [], [Transaction(journal, watermark)])
        return _commit(lake, files, [Transaction(_NOBODY, watermark)])

    Lake.append = append  # type: ignore[method-assign,assignment]


def forget_that_a_write_failed() -> None:
    """Make a failed write or fsync the matter of one request, as if the next one might be lucky."""
    Latch.set = lambda latch, reason: None  # type: ignore[method-assign,assignment]


def read_what_was_read_a_moment_ago() -> None:
    """Make readers content with the view that up to nine reads before theirs were given, as a cache would be.

    Reads are counted, since a view that is let go after some time is never an old one where reads are slow.
    """
    read_view = Store.read_view
    kept: dict[int, tuple[int, ReadView | None]] = {}

    def read_view_now_and_then(store: Store) -> ReadView:
        reads, view = kept.get(id(store), (_READS_OF_A_VIEW, None))
        if view is None or reads >= _READS_OF_A_VIEW:
            reads, view = 0, read_view(store)
        kept[id(store)] = (reads + 1, view)
        return view

    Store.read_view = read_view_now_and_then  # type: ignore[method-assign,assignment]


def _commit(lake: Lake, files: Sequence[WrittenFile], transactions: list[Transaction]) -> int:
    lake._table.update_incremental()
    lake._table.create_write_transaction(
        [_add_action(one) for one in files],
        "append",
        Schema.from_arrow(lake.schema.table_schema),
        partition_by=list(PARTITION_COLUMNS),
        commit_properties=CommitProperties(app_transactions=transactions),
        post_commithook_properties=_NO_HOOKS,
    )
    lake._table.update_incremental()
    return int(lake._table.version())


MISTAKES: Final[Mapping[str, Callable[[], None]]] = {
    one.__name__: one
    for one in (
        acknowledge_before_the_commit,
        commit_rows_before_their_watermark,
        commit_the_watermark_before_its_rows,
        forget_that_a_write_failed,
        read_what_was_read_a_moment_ago,
    )
}
