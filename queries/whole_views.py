"""Answers come from one pinned view as a whole, also when its files vanish: then from a newer view, from the start.

A rewrite of the table leaves the files that it replaces for as long as a query may take. A process that was held up for
longer than that finds them gone. It is never answered from the files that are left: DuckDB refuses the query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import duckdb

from storage.read_view import ReadView
from storage.store import Store

T = TypeVar("T")

_ATTEMPTS_MAX: Final = 5


def answer_whole(store: Store, answer: Callable[[ReadView], T]) -> T:
    """Call *answer* with what is stored at this instant; again with a newer view where files of that one are gone.

    Raises:
        duckdb.IOException, OSError: a file cannot be read that belongs to the newest version as well.
        Exception: whatever else *answer* raises.
    """
    view = store.read_view()
    for _ in range(_ATTEMPTS_MAX):
        try:
            return answer(view)
        except (duckdb.IOException, OSError):
            newer = store.read_view()
            if newer.snapshot.version == view.snapshot.version:
                raise
            view = newer
    return answer(view)
