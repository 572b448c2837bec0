"""User filters leave out files without the user, and never one with it, whatever happens to the filters' log."""

from __future__ import annotations

import datetime
import random
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from storage.data_files import DataFile
from storage.errors import StoreLocked
from storage.lake import Lake
from storage.locks import FileLock
from storage.read_view import ReadView
from storage.shortcut_upkeep import UserFilterChore, forget_files
from storage.shortcuts import ShortcutLimits
from storage.store import Store
from storage.user_filters import UserFilters, append_filters, build_filter, keep_filters
from tests.storage.building import SCHEMA, flusher, put, store_in

BYTES_MAX = 1 << 30


def data_file(number: int) -> DataFile:
    path = f"/table/date=2024-03-01/type=click/part-{number}.parquet"
    return DataFile(path, 1000 + number, 10, datetime.date(2024, 3, 1), "click", 0, 1)


def users_of(number: int, count: int = 300) -> list[str]:
    return [f"user-{number}-{n}" for n in range(count)]


FILES = [data_file(number) for number in range(40)]


@pytest.fixture
def log(tmp_path: Path) -> Path:
    """A log with the filters of forty files that have no user in common."""
    path = tmp_path / "cache" / "user-filters.log"
    append_filters(path, [build_filter(one, users_of(n)) for n, one in enumerate(FILES)], checked_bytes=0)
    return path


def loaded(path: Path) -> UserFilters:
    filters = UserFilters(path, bytes_max=BYTES_MAX)
    filters.refresh()
    return filters


def hidden(filters: UserFilters) -> int:
    """Count the files that are left out for one of their own users."""
    return sum(
        one not in filters.can_hold(user, FILES) for n, one in enumerate(FILES) for user in users_of(n, 300)[::37]
    )


def kept_for_strangers(filters: UserFilters) -> float:
    """The share of files that are kept for users whom none of them holds."""
    kept = sum(len(filters.can_hold(f"stranger-{n}", FILES)) for n in range(200))
    return kept / (200 * len(FILES))


def test_files_with_the_user_stay_and_almost_all_others_go(log: Path) -> None:
    filters = loaded(log)
    assert hidden(filters) == 0
    assert kept_for_strangers(filters) < 0.01


@given(
    counts=st.lists(st.integers(0, 60), min_size=1, max_size=6),
    names=st.lists(st.text(min_size=1, max_size=20), min_size=60, max_size=60, unique=True),
)
@settings(max_examples=50, deadline=None)
def test_any_users_in_any_number_are_found(
    tmp_path_factory: pytest.TempPathFactory, counts: list[int], names: list[str]
) -> None:
    path = tmp_path_factory.mktemp("any") / "user-filters.log"
    source = random.Random(1)
    held = [source.sample(names, count) for count in counts]
    append_filters(path, [build_filter(one, users) for one, users in zip(FILES, held, strict=False)], checked_bytes=0)
    filters = loaded(path)
    for one, users in zip(FILES, held, strict=False):
        assert all(one in filters.can_hold(user, FILES) for user in users)


def test_a_file_without_a_filter_or_of_another_size_stays(log: Path) -> None:
    filters = loaded(log)
    unknown = data_file(99)
    other = DataFile(FILES[0].path, 77, 10, FILES[0].date, "click", 0, 1)
    assert filters.can_hold("stranger", [unknown, other, FILES[1]]) == (unknown, other)
    assert loaded(log.with_name("absent")).can_hold("stranger", FILES) == tuple(FILES)


def test_what_is_added_is_read_and_what_is_replaced_is_forgotten(log: Path) -> None:
    filters = loaded(log)
    more = data_file(50)
    append_filters(log, [build_filter(more, ["late"])], checked_bytes=filters.read_through)
    assert filters.can_hold("stranger", [more]) == (more,)
    filters.refresh()
    assert filters.can_hold("stranger", [more]) == ()
    assert filters.can_hold("late", [more]) == (more,)
    keep_filters(log, [name for name in filters.names if "part-50" in name])
    filters.refresh()
    assert len(filters.names) == 1
    log.unlink()
    filters.refresh()
    assert filters.can_hold("stranger", [more]) == (more,)


DAMAGE: dict[str, Callable[[bytearray], bytes]] = {
    "one byte": lambda content: (
        bytes([*content[: len(content) // 2], content[len(content) // 2] ^ 16])
        + bytes(content[len(content) // 2 + 1 :])
    ),
    "every bit": lambda content: bytes(len(content)),
    "cut": lambda content: bytes(content[: len(content) * 2 // 3]),
    "doubled": lambda content: bytes(content + content),
    "shifted": lambda content: bytes(content[1:]),
    "noise behind": lambda content: bytes(content) + random.Random(2).randbytes(5000),
    "empty": lambda content: b"",
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("running", [True, False], ids=["before the damage", "after the damage"])
def test_damage_hides_nothing_and_the_next_writer_repairs_it(log: Path, damage: str, running: bool) -> None:
    filters = UserFilters(log, bytes_max=BYTES_MAX)
    if running:
        filters.refresh()
    log.write_bytes(DAMAGE[damage](bytearray(log.read_bytes())))
    filters.refresh()
    assert hidden(filters) == 0
    writer = loaded(log)
    append_filters(
        log, [build_filter(one, users_of(n)) for n, one in enumerate(FILES)], checked_bytes=writer.read_through
    )
    filters.refresh()
    assert hidden(filters) == 0
    assert kept_for_strangers(filters) < 0.01


def test_a_log_of_another_store_says_nothing_about_this_one(log: Path) -> None:
    filters = UserFilters(log, bytes_max=BYTES_MAX)
    elsewhere = [DataFile(one.path.replace("part", "other"), 5, 5, one.date, "click", 0, 1) for one in FILES]
    assert filters.can_hold("stranger", elsewhere) == tuple(elsewhere)
    filters.refresh()
    assert filters.can_hold("stranger", elsewhere) == tuple(elsewhere)


def test_memory_is_bounded(log: Path) -> None:
    size = loaded(log).loaded_bytes
    filters = UserFilters(log, bytes_max=size // 2)
    filters.refresh()
    assert 0 < filters.loaded_bytes <= size // 2
    assert hidden(filters) == 0


# The upkeep, over a real store


def chore(store: Store) -> UserFilterChore:
    lake = Lake(store.paths.table, SCHEMA)
    return UserFilterChore(store.paths, ShortcutLimits(), lambda: lake.reload(store.journal_id))


def flushed(store: Store, *users: str) -> None:
    for user in users:
        put(store, 3, user=user, days=2)
        flusher(store).flush(store.journal.state().head)


def files_with(view: ReadView, user: str) -> int:
    return len(view.shortcuts.files_with(user, view.files))


def test_the_chore_makes_what_is_missing_for_every_reader(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        flushed(store, "ann", "ben")
        view = store.read_view()
        assert files_with(view, "ann") == len(view.files) == 4
        upkeep = chore(store)
        while upkeep.run():
            pass
        assert (files_with(view, "ann"), files_with(view, "ben"), files_with(view, "eve")) == (2, 2, 0)
        flushed(store, "eve")
        assert files_with(store.read_view(), "eve") == 2
        store.paths.user_filters.unlink()
        while upkeep.run():
            pass
        assert files_with(store.read_view(), "ann") == 2


def test_the_chore_forgets_files_that_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.shortcut_upkeep._DEAD_FILES_MIN", 1)
    with store_in(tmp_path) as store:
        flushed(store, "ann", "ben")
        upkeep = chore(store)
        while upkeep.run():
            pass
        before = store.paths.user_filters.stat().st_size
        view = store.read_view()
        Lake(store.paths.table, SCHEMA).rewrite(view.files[:3], [], data_change=True)
        while upkeep.run():
            pass
        assert store.paths.user_filters.stat().st_size < before / 2


def test_forgetting_files_leaves_nothing_of_them(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        flushed(store, "ann", "ben")
        while chore(store).run():
            pass
        view = store.read_view()
        forget_files(store.paths, view.files[:1])
        assert view.files[0].path.rsplit("/", 1)[1].encode() not in store.paths.user_filters.read_bytes()
        assert files_with(view, "nobody") == 1


def test_only_one_changes_the_caches_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.shortcut_upkeep._LOCK_TIMEOUT_S", 0.0)
    with store_in(tmp_path) as store:
        flushed(store, "ann")
        with FileLock(store.paths.cache_lock) as lock:
            lock.acquire("the test")
            assert not chore(store).run()
            assert not store.paths.user_filters.exists()
            with pytest.raises(StoreLocked, match="the test"):
                forget_files(store.paths, store.read_view().files)
