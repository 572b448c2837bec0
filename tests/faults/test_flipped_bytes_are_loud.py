"""A byte that flips in the journal or its write-ahead log is noticed, or it harms nothing: never are rows lost or wrong
without a word."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from storage.errors import StoreError
from storage.journal import mark_of
from storage.paths import StorePaths
from storage.store import Store
from storage.verification import verify
from tests.faults.effort import repetitions
from tests.storage.building import SCHEMA, full_table, opened, put, store_in

_COLUMNS = ["user_id", "session_id", "time", "properties", "received_at", "journal", "position"]
# The two halves of the database: one on which a checkpoint was made, and the log after it.
_FILES = ("journal.sqlite", "journal.sqlite-wal")
# Bytes that SQLite itself does not look at: the counters of a header, what is free in a page.
_Rows = list[dict[str, Any]]


def _rows(store: Store) -> _Rows:
    rows: _Rows = full_table(store.read_view(), _COLUMNS).to_pylist()
    return rows


@pytest.fixture
def template(tmp_path: Path) -> tuple[Path, _Rows]:
    """A store as a killed process leaves it: rows in the table, in the database and in its log."""
    with store_in(tmp_path / "running") as store:
        put(store, 3, 2)
        store.flush_here()
        put(store, 4, user="before the checkpoint")
        store.journal.checkpoint(truncate=True)
        put(store, 2, user="after the checkpoint")
        put(store, 1, 3, user="much later")
        rows = _rows(store)
        shutil.copytree(tmp_path / "running", tmp_path / "killed", ignore=shutil.ignore_patterns("*.lock", "*-shm"))
    return tmp_path / "killed", rows


def _outcome(folder: Path, rows: _Rows) -> str:
    """Start on a damaged folder: `loud`, `harmless`, or what was wrong and not said."""
    try:
        store, _ = opened(folder)
    except StoreError:
        return "loud"
    try:
        found = _rows(store)
    except StoreError:
        return "loud"
    finally:
        store.close(flush=False)
    if found == rows:
        return "harmless"
    if verify(StorePaths.of(folder), SCHEMA, deep=True).problems:
        return "told by verify"
    return f"silent: {len(found)} rows instead of {len(rows)}, or others"


def _flip(template: Path, folder: Path, name: str, place: int) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(template, folder)
    with (folder / name).open("r+b") as file:
        file.seek(place)
        byte = file.read(1)[0]
        file.seek(place)
        file.write(bytes([byte ^ (1 << place % 8)]))


@pytest.mark.parametrize("name", _FILES)
def test_no_flipped_byte_is_silent(
    template: tuple[Path, _Rows], name: str, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    killed, rows = template
    size = (killed / name).stat().st_size
    # A prime, so that every place within a page comes up.
    step = repetitions(suite=1499, long=7)
    outcomes: dict[str, list[int]] = {}
    for place in range(step % 61, size, step):
        _flip(killed, tmp_path / "flipped", name, place)
        outcomes.setdefault(_outcome(tmp_path / "flipped", rows), []).append(place)
    counts = {outcome: len(places) for outcome, places in outcomes.items()}
    figures(f"{sum(counts.values())} flipped bytes of {size} in {name}: {counts}")
    silent = {outcome: places[:5] for outcome, places in outcomes.items() if outcome.startswith("silent")}
    assert not silent
    assert outcomes.keys() & {"loud", "told by verify"}


def test_the_control_without_the_note_of_what_was_acknowledged(template: tuple[Path, _Rows], tmp_path: Path) -> None:
    """A flip in the middle of the log is silent where the note is missing, and loud where it is."""
    killed, rows = template
    place = (killed / "journal.sqlite-wal").stat().st_size // 2
    _flip(killed, tmp_path / "flipped", "journal.sqlite-wal", place)
    assert _outcome(tmp_path / "flipped", rows) == "loud"
    assert verify(StorePaths.of(tmp_path / "flipped"), SCHEMA, deep=False).problems
    mark_of(StorePaths.of(tmp_path / "flipped").journal).unlink()
    assert _outcome(tmp_path / "flipped", rows).startswith("silent")
