"""What plans said about files, remembered for queries that are asked again.

Dashboards send the same few texts all day. Planning a query over the stand-in, and reading what the plan says, takes
longer than all else that is done around a small query.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import msgspec

from queries.sql.messages import Run
from queries.sql.pruning import FileBounds, FileFilter, PrunedFiles

_QUERIES_MAX: Final = 256
_KEY_BYTES_MAX: Final = 8_192
# Lists of more files are made anew each time, so that what is remembered stays below 4 MB.
_FILES_LISTED_MAX: Final = 2_000

Key = tuple[str, bytes]


class RememberedPlans:
    """Filters of files by query, the last 256 of them, and what they left of the files at hand."""

    def __init__(self) -> None:
        self._filters: OrderedDict[Key, FileFilter] = OrderedDict()
        self._pruned: dict[Key, PrunedFiles] = {}

    def key_of(self, request: Run) -> Key | None:
        """What identifies a query; None where it is too large to be remembered."""
        parameters = msgspec.msgpack.encode(request.parameters) if request.parameters else b""
        return (request.sql, parameters) if len(request.sql) + len(parameters) <= _KEY_BYTES_MAX else None

    def forget(self) -> None:
        """Forget everything: columns or views have changed."""
        self._filters.clear()
        self.forget_files()

    def forget_files(self) -> None:
        """Forget what was left of the files: there are others now."""
        self._pruned.clear()

    def prune(self, key: Key, files: Sequence[FileBounds]) -> PrunedFiles | None:
        """Leave out the files that a query of before does not need; None if it is not remembered.

        Args:
            key: the query.
            files: the same since `forget_files` was called last.
        """
        found = self._filters.get(key)
        if found is None:
            return None
        self._filters.move_to_end(key)
        pruned = self._pruned.get(key)
        return pruned if pruned is not None else self._note(key, found.prune(files), files)

    def learn(self, key: Key, chosen: FileFilter, pruned: PrunedFiles, files: Sequence[FileBounds]) -> None:
        """Remember a query's filter, and what it left of *files*."""
        while len(self._filters) >= _QUERIES_MAX:
            oldest, _ = self._filters.popitem(last=False)
            self._pruned.pop(oldest, None)
        self._filters[key] = chosen
        self._note(key, pruned, files)

    def _note(self, key: Key, pruned: PrunedFiles, files: Sequence[FileBounds]) -> PrunedFiles:
        listed = sum(len(one) for one in (pruned.by_partition, pruned.by_time) if one is not files)
        if listed <= _FILES_LISTED_MAX:
            self._pruned[key] = pruned
        return pruned
