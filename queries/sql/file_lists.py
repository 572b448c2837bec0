"""Lists of files by which DuckDB knows what a query reads: each said once, and not again for each query.

A list is a variable of the connection. Setting one is a statement that is planned and run like any other, which takes
as long as planning a small query does, so that those of the last queries stay.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final

import duckdb

from queries.sql.literals import sql_text
from queries.sql.pruning import FileBounds

# No other variable of the connection begins so: the catalog has `files` and `files_0`, `files_1`, ...
_PREFIX: Final = "listed_"
# Some hundred bytes each, in all lists together.
_PATHS_MAX: Final = 4_000


class FileLists:
    """The lists that a connection knows.

    Args:
        connection: what is said to it is of the session, whatever becomes of the transaction.
        first: the path of a file that is in front of each list.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, first: str) -> None:
        self._connection = connection
        self._first = first
        self._number = 0
        # By identity; the list itself is kept, so that no other can take its place.
        self._known: OrderedDict[int, tuple[Sequence[FileBounds], str]] = OrderedDict()
        self._paths = 0

    def variable_of(self, files: Sequence[FileBounds]) -> str:
        """Return the name of the variable that lists these files, whose sequence must not change any more."""
        known = self._known.get(id(files))
        if known is not None:
            self._known.move_to_end(id(files))
            return known[1]
        self._number += 1
        name = f"{_PREFIX}{self._number}"
        listed = ", ".join(map(sql_text, [self._first, *(file.path for file in files)]))
        self._connection.execute(f"SET VARIABLE {name} = [{listed}]")
        self._known[id(files)] = files, name
        self._paths += 1 + len(files)
        while self._paths > _PATHS_MAX and len(self._known) > 1:
            self._forget(next(iter(self._known)))
        return name

    def forget(self) -> None:
        """Let go of all lists: there are other files now."""
        for one in list(self._known):
            self._forget(one)

    def _forget(self, identity: int) -> None:
        # First, since a statement that is interrupted may have been done.
        files, name = self._known.pop(identity)
        self._paths -= 1 + len(files)
        self._connection.execute(f"RESET VARIABLE {name}")
