"""Runs are planned within their bounds, made in a process of their own, and removed with what they are from."""

from __future__ import annotations

import datetime
import itertools
import os
from pathlib import Path

import pytest

from storage.data_files import DataFile
from storage.history.chore import BuildFailed, HistoryChore, checked_runs
from storage.history.coverage import cover
from storage.history.manifest import FORMAT, Part, Run, Source
from storage.history.planning import Build, Merge, Remove, Room, Step, plan_step
from storage.lake import Lake, Snapshot
from storage.paths import StorePaths
from storage.shortcut_upkeep import forget_files
from storage.shortcuts import ShortcutLimits
from storage.store import Store
from tests.storage.building import SCHEMA, eventually, flusher, put, store_in

PLENTY = Room(1 << 50, 1 << 50)
ROWS = 100_000


def data_file(number: int, *, rows: int = ROWS, day: int = 0) -> DataFile:
    date = datetime.date(2024, 3, 1) + datetime.timedelta(days=day)
    return DataFile(f"/t/date={date}/type=click/part-{number}.parquet", rows * 20, rows, date, "click", 0, 1)


def run_of(id_: str, *files: DataFile, columns: tuple[str, ...] = ("user_id",)) -> Run:
    by_date: dict[str, list[DataFile]] = {}
    for one in files:
        by_date.setdefault(one.date.isoformat(), []).append(one)
    sources = tuple(
        Source(date, "click", sum(one.rows for one in of), tuple(one.path.rsplit("/", 1)[1] for one in of))
        for date, of in by_date.items()
    )
    rows = sum(one.rows for one in files)
    return Run(FORMAT, id_, 0, (Part("part", rows * 20, rows, ""),), columns, sources)


def plan(files: list[DataFile], runs: list[Run], *, room: Room = PLENTY, rested: bool = True) -> Step | None:
    return plan_step(files, runs, columns=["user_id"], rested=lambda _: rested, room=room)


def test_what_has_rested_is_copied_oldest_first_in_bounded_pieces() -> None:
    files = [data_file(n, day=30 - n) for n in range(30)]
    step = plan(files, [])
    assert isinstance(step, Build)
    assert 0 < sum(one.rows for one in step.files) <= 1_000_000
    assert step.files[0] == files[-1]
    assert plan(files, [], rested=False) is None
    assert plan([data_file(1, rows=10)], []) is None


def test_copying_goes_on_until_few_large_runs_cover_everything() -> None:
    files = [data_file(n, day=n) for n in range(200)]
    runs: list[Run] = []
    written = 0
    for number in itertools.count():
        step = plan(files, runs)
        if step is None:
            break
        made: list[DataFile] = []
        if isinstance(step, Build):
            made = list(step.files)
        elif isinstance(step, Merge):
            merged = {use.run.id for use in step.uses}
            names = {name for use in step.uses for source in use.used for name in source.files}
            made = [one for one in files if one.path.rsplit("/", 1)[1] in names]
            runs = [run for run in runs if run.id not in merged]
        runs.append(run_of(f"run-{number}", *made))
        written += sum(one.rows for one in made)
    assert len(runs) <= 3
    assert cover(files, runs).uncovered == ()
    # Each row is written a few times, not once for every level that there could be.
    assert written <= 4 * 200 * ROWS


def test_room_is_kept() -> None:
    files = [data_file(n, day=n) for n in range(3)]
    table_bytes = sum(one.size_bytes for one in files)
    assert plan(files, [], room=Room(table_bytes // 2, 1 << 50)) is None
    assert plan(files, [], room=Room(1 << 50, table_bytes // 2)) is None
    assert plan(files, [], room=Room(0, 1 << 50)) is None
    kept = [run_of("a", files[0]), run_of("b", *files[1:])]
    assert plan(files, kept, room=Room(table_bytes - 1, 1 << 50)) == Remove(("a",))
    # Merging needs room for both while it lasts.
    assert isinstance(plan(files, kept), Merge)
    assert plan(files, kept, room=Room(1 << 50, table_bytes // 2)) is None


def test_runs_of_no_use_are_removed_and_half_dead_ones_made_anew() -> None:
    files = [data_file(n, day=n) for n in range(4)]
    run = run_of("a", *files)
    assert plan([data_file(9)], [run]) == Remove(("a",))
    assert plan(files, [run_of("a", *files, columns=("other",))]) == Remove(("a",))
    step = plan(files[:2], [run])
    assert isinstance(step, Merge)
    assert step.uses[0].excluded == {("2024-03-03", "click"), ("2024-03-04", "click")}
    assert plan(files, [run]) is None


def test_a_partition_counts_once_and_only_while_all_of_it_is_there() -> None:
    files = [data_file(1), data_file(2), data_file(3, day=1)]
    whole, twice = run_of("whole", *files), run_of("twice", files[0])
    found = cover(files, [twice, whole])
    assert [use.run.id for use in found.uses] == ["whole"]
    late = data_file(4)
    assert cover([*files, late], [whole]).uncovered == (late,)
    left = cover([files[1], files[2]], [whole])
    assert left.uncovered == (files[1],)
    assert left.uses[0].excluded == {("2024-03-01", "click")}


# Over a real store, in real processes


def chore(store: Store) -> HistoryChore:
    lake = Lake(store.paths.table, SCHEMA)
    limits = ShortcutLimits(history_bytes_share_max=1000.0, history_rest_s=0.0)
    return HistoryChore(store.paths, limits, lambda: lake.reload(store.journal_id), lambda: lake.file_schema)


def worked(one: HistoryChore) -> bool:
    return not one.run() and not one.busy


@pytest.fixture
def many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.history.planning._BUILD_ROWS_MIN", 1)


def flushed(store: Store, user: str, days: int = 3) -> None:
    put(store, 30, user=user, days=days)
    flusher(store).flush(store.journal.state().head)


@pytest.mark.usefixtures("many")
def test_a_process_makes_and_merges_runs_and_forgetting_removes_them(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        flushed(store, "ann")
        upkeep = chore(store)
        eventually(lambda: worked(upkeep), timeout_s=120)
        flushed(store, "ben")
        eventually(lambda: worked(upkeep), timeout_s=120)
        view = store.read_view()
        history = store.paths.history
        (run,) = checked_runs(history)
        assert run.rows == 60
        assert cover(view.files, [run]).uncovered == ()
        assert not list(history.glob(".*"))
        assert history.stat().st_mode & 0o077 == 0
        (history / ".building-left-by-a-crash").mkdir()
        forget_files(store.paths, view.files[:1])
        assert list(history.iterdir()) == []


@pytest.mark.usefixtures("many")
def test_the_process_runs_this_very_code_wherever_it_is_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    elsewhere = tmp_path / "elsewhere" / "storage"
    elsewhere.mkdir(parents=True)
    (elsewhere / "__init__.py").write_text("raise SystemExit('somebody else's code')")
    monkeypatch.chdir(elsewhere.parent)
    with store_in(tmp_path / "data") as store:
        flushed(store, "ann", days=1)
        upkeep = chore(store)
        eventually(lambda: worked(upkeep), timeout_s=120)
        assert len(checked_runs(store.paths.history)) == 1


@pytest.mark.usefixtures("many")
def test_what_is_under_way_ends_with_its_chore_or_fails_alone(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        flushed(store, "ann")
        stopped = chore(store)
        stopped.run()
        assert stopped.busy
        stopped.stop()
        upkeep = chore(store)
        damaged = Path(store.read_view().files[0].path)
        whole = damaged.read_bytes()
        damaged.write_bytes(whole[: len(whole) // 2])
        with pytest.raises(BuildFailed, match="magic bytes"):
            eventually(lambda: worked(upkeep), timeout_s=120)
        assert list(store.paths.history.iterdir()) == []
        damaged.write_bytes(whole)
        eventually(lambda: worked(upkeep), timeout_s=120)
        assert len(checked_runs(store.paths.history)) == 1


@pytest.mark.usefixtures("many")
def test_a_copy_of_files_that_went_meanwhile_is_thrown_away(tmp_path: Path) -> None:
    with store_in(tmp_path) as store:
        flushed(store, "ann")
        upkeep = chore(store)
        upkeep.run()
        Lake(store.paths.table, SCHEMA).rewrite(store.read_view().files[:1], [], data_change=True)
        eventually(lambda: worked(upkeep), timeout_s=120)
        (run,) = checked_runs(store.paths.history)
        assert len(run.sources) == 2


def test_nothing_is_looked_at_while_nothing_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looks: list[float] = []

    def no_runs(_: Path) -> list[Run]:
        looks.append(0)
        return []

    monkeypatch.setattr("storage.history.chore.checked_runs", no_runs)
    paths = StorePaths.of(tmp_path)
    (paths.history / "run").mkdir(parents=True)
    versions = [1]
    chore = HistoryChore(paths, ShortcutLimits(), lambda: Snapshot(versions[-1], 0, ()), lambda: SCHEMA.table_schema)
    for _ in range(3):
        assert not chore.run()
    assert len(looks) == 1
    versions.append(2)
    for _ in range(3):
        chore.run()
    assert len(looks) == 2
    # As a reader does that finds it damaged.
    os.utime(paths.history / "run", (1.0, 1.0))
    chore.run()
    assert len(looks) == 3
    monkeypatch.setattr("storage.history.chore._LOOK_AGAIN_S", -1.0)
    chore._idle = None
    chore.run()
    chore.run()
    assert len(looks) == 5
