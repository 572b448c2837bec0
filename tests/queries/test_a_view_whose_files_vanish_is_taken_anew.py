"""A query whose files vanish under it is answered from a newer view, whole, or refused: never in part."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from queries.engine import Engine, EngineLimits
from queries.file_index import RetrievalFilter
from queries.formats import Format
from queries.retrieval import RetrievalRequest, retrieve_page
from queries.streaming import StreamRequest, stream_retrieval
from queries.whole_views import answer_whole
from storage.errors import CorruptData
from storage.lake import Lake
from storage.maintenance.table_log import system_now_ms
from storage.maintenance.vacuum import vacuum
from storage.read_view import ReadView
from storage.store import Store
from tests.storage.building import put, store_in
from tests.storage.compacting import compact_all, put_files

ALL_CLICKS = RetrievalFilter(action_type="click")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    with store_in(tmp_path / "data") as one:
        put_files(one, 4, rows=5, days=2)
        put(one, 3)
        yield one


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    one = Engine(EngineLimits(), tmp_path / "temp")
    yield one
    one.close()


def replace_the_files(store: Store) -> None:
    compact_all(store)
    lake = Lake(store.paths.table, store.schema)
    done = vacuum(lake, store.journal, store.latch, now_ms=system_now_ms() + 1_000, grace_ms=0)
    assert done.files == 8


def test_a_page_is_answered_from_a_newer_view(store: Store, engine: Engine) -> None:
    seen: list[int] = []

    def answer(view: ReadView) -> int:
        if not seen:
            replace_the_files(store)
        seen.append(len(view.files))
        with engine.connect() as connection:
            return len(retrieve_page(connection, view, RetrievalRequest(ALL_CLICKS, "asc", 1_000)).rows)

    assert answer_whole(store, answer) == 23
    assert seen == [8, 2]


@pytest.mark.parametrize("form", [Format.NDJSON, Format.ARROW])
def test_a_stream_begins_with_a_newer_view(store: Store, engine: Engine, form: Format) -> None:
    seen: list[int] = []
    with engine.connect() as connection:

        def answer(view: ReadView) -> bytes:
            if not seen:
                replace_the_files(store)
            seen.append(len(view.files))
            return b"".join(stream_retrieval(connection, view, StreamRequest(ALL_CLICKS, "asc", form)).content)

        content = answer_whole(store, answer)
    assert seen == [8, 2]
    if form is Format.NDJSON:
        assert len([msgspec.json.decode(line) for line in content.splitlines()]) == 23


def test_the_next_view_after_a_compaction_is_a_newer_one(store: Store) -> None:
    """Which is what the grace counts on, also where no flush comes."""
    assert len(store.read_view().files) == 8
    compact_all(store)
    assert len(store.read_view().files) == 2


@pytest.mark.parametrize("whole", [False, True])
def test_a_file_that_is_missing_or_cut_off_is_named(store: Store, engine: Engine, whole: bool) -> None:
    path = Path(store.read_view().files[0].path)
    if whole:
        path.unlink()
    else:
        os.truncate(path, 100)

    def answer(view: ReadView) -> int:
        with engine.connect() as connection:
            return len(retrieve_page(connection, view, RetrievalRequest(ALL_CLICKS, "asc", 1_000)).rows)

    with pytest.raises(CorruptData, match=path.name):
        answer_whole(store, answer)
