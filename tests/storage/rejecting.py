"""Rejects for tests: how they come about, and what is stored of them wherever it is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from storage.clock import system_now_us
from storage.journal_records import Append
from storage.paths import StorePaths
from storage.rejects_files import read_rows
from storage.rejects_flush import RejectsFlusher, RejectsLimits
from storage.rejects_table import RejectsTable
from storage.store import Store
from tests.storage.building import PARSER, action, body


def reject(store: Store, *kinds: str, user: str = "u1", now_us: int | None = None) -> None:
    """Submit one action of each kind, all of which the configuration does not know."""
    actions = [action(kind=kind, properties={"n": n}) for n, kind in enumerate(kinds)]
    parsed = PARSER.parse_json(body(actions, user=user), now_us=system_now_us())
    assert len(parsed.rejections) == len(kinds)
    store.journal.append([Append((), parsed.rejections, b"")], now_us=now_us or system_now_us())


def reject_line(store: Store, line: bytes) -> None:
    """Submit a line that is no submission."""
    parsed = PARSER.parse_ndjson(line, now_us=system_now_us())
    assert parsed.rejections
    store.append([Append(parsed.submissions, parsed.rejections, b"")])


def mover(store: Store, **limits: int) -> RejectsFlusher:
    """A flusher of the store's rejects with a table handle of its own."""
    assert store.latch is not None
    return RejectsFlusher(
        store.journal, store.paths.rejects, store.latch, now_us=system_now_us, limits=lambda: RejectsLimits(**limits)
    )


def in_table(folder: Path) -> list[dict[str, Any]]:
    """The rows of the table `rejects`, in order of their ids; a row that is there twice is in the list twice."""
    rejects = StorePaths.of(folder).rejects
    rows = [row for file in RejectsTable(rejects).snapshot("").files for row in read_rows(rejects, file)]
    return sorted(rows, key=lambda row: (row["source"], row["reject_id"]))


def ids_everywhere(store: Store) -> list[int]:
    """Ids of the rejects in the table and in the journal's database, sorted; one in both is in the list twice."""
    letters = [one["id"] for one in store.journal.read_dead_letters(limit=10_000)]
    return sorted(letters + [row["reject_id"] for row in in_table(store.paths.data)])


def table_files(folder: Path) -> list[Path]:
    """All data files below the table `rejects`, in its log or not."""
    return sorted(StorePaths.of(folder).rejects.glob("date=*/*.parquet"))
