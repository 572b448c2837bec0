"""What an erasure has to look at is looked at while others write; they wait while files are removed, and no longer."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

import storage.eraser
from storage.erasure_files import count_erased
from storage.erasure_records import Phase
from storage.write_guard import nobody_writes
from tests.storage.building import put, store_in
from tests.storage.compacting import compact_all
from tests.storage.erasing import USER, fill, finish
from tests.storage.what_is_left import traces


@pytest.fixture
def others_wait(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was opened, synced or changed of the caches while nobody else could begin to write."""
    found: list[str] = []
    alone: list[Path] = []

    @contextmanager
    def and_note(table: Path, *, timeout_s: float) -> Iterator[bool]:
        with nobody_writes(table, timeout_s=timeout_s) as granted:
            alone.append(table)
            try:
                yield granted
            finally:
                alone.clear()

    def noted(name: str) -> Callable[..., Any]:
        step = getattr(storage.eraser, name)

        def note(*given: Any, **named: Any) -> Any:
            if alone:
                found.append(name)
            return step(*given, **named)

        return note

    monkeypatch.setattr("storage.eraser.nobody_writes", and_note)
    for name in ("count_erased", "forget_files", "forget_rows", "make_names_durable"):
        monkeypatch.setattr(f"storage.eraser.{name}", noted(name))
    return found


def test_nothing_that_takes_long_is_done_while_others_wait(folder: Path, others_wait: list[str]) -> None:
    with store_in(folder, erasure_grace_ms=0) as store:
        fill(store)
        for _ in range(4):
            put(store, 10, user=USER, days=2)
            store.flush_here()
        compact_all(store)
        put(store, 10, user="someone-else", days=2)
        store.flush_here()
        compact_all(store)
        store.erase(USER)
        finish(store)
        assert traces(folder, USER) == []
        # What a crash left unfinished, which nobody can tell from what is being written, is looked at once more.
        assert others_wait == ["count_erased"]


def test_a_sweep_that_meets_a_long_compaction_is_put_off_and_does_not_look_at_everything_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with store_in(folder, erasure_grace_ms=0) as store:
        for _ in range(3):
            put(store, 10, user=USER)
            put(store, 10, user="someone-else")
            store.flush_here()
        compact_all(store)
        opened: list[str] = []

        def count(path: Any, erased: Any) -> Any:
            opened.append(str(path))
            return count_erased(path, erased)

        monkeypatch.setattr("storage.eraser.count_erased", count)
        monkeypatch.setattr("storage.eraser._WRITERS_TIMEOUT_S", 0.1)
        store.erase(USER)
        eraser = store.make_eraser()
        at_work = os.open(store.paths.table, os.O_RDONLY)
        try:
            fcntl.flock(at_work, fcntl.LOCK_SH)
            for _ in range(3):
                eraser.run()
            assert store.erasures(limit=1)[0].phase is Phase.SWEEPING
            assert len(opened) == len(set(opened)) > 0
        finally:
            os.close(at_work)
        finish(store, eraser)
        assert len(opened) == len(set(opened))
        assert traces(folder, USER) == []
