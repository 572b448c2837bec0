"""Answers come from one pinned view as a whole, also when its files vanish: then from a newer view, from the start.

A rewrite of the table leaves the files that it replaces for as long as a query may take. A process that was held up for
longer than that finds them gone. It is never answered from the files that are left: DuckDB refuses the query.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, TypeVar

import duckdb
import pyarrow as pa

from storage.errors import CorruptData
from storage.read_view import ReadView
from storage.recovery import damaged_files
from storage.store import Store

T = TypeVar("T")

_ATTEMPTS_MAX: Final = 5


def answer_whole(store: Store, answer: Callable[[ReadView], T]) -> T:
    """Call *answer* with what is stored at this instant; again with a newer view where files of that one are gone.

    Raises:
        CorruptData: a file that belongs to the newest version is missing or damaged.
        Exception: whatever else *answer* raises.
    """
    view = store.read_view()
    for _ in range(_ATTEMPTS_MAX):
        try:
            return answer(view)
        except (duckdb.IOException, OSError) as error:
            newer = store.read_view()
            if newer.snapshot.version == view.snapshot.version:
                _require_whole_files(view, error)
                raise
            view = newer
        except (duckdb.Error, pa.ArrowException) as error:
            # What is in a file is wrong, if it is that; a file that was written once does not become right.
            _require_whole_files(view, error)
            raise
    return answer(view)


def _require_whole_files(view: ReadView, error: Exception) -> None:
    """Raise `CorruptData` that names the files at fault, if *error* may be explained by their sizes."""
    damage = list(damaged_files(view.snapshot))
    if damage:
        more = f", and {len(damage) - 1} more" if len(damage) > 1 else ""
        raise CorruptData(
            f"{damage[0]}{more}: restore the file from a backup, or the store (actionlake verify names all)"
        ) from error
