"""Copies that are missing, cut, changed or swapped under a reader: the answer is that of a plain scan all the same."""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow as pa
import pytest

from queries.file_index import RetrievalFilter
from storage.history.chore import checked_runs
from storage.history.manifest import MANIFEST, Run
from storage.history.reading import FooterCache
from tests.queries.histories import (
    Table,
    chosen,
    full_scan,
    history_chore,
    positions_of,
    rows_of,
    small_runs,
    table_in,
    work,
)

USERS = tuple(f"user-{n}" for n in range(8))


@pytest.fixture
def table(tmp_path: Path) -> Iterator[Table]:
    """Twelve users with a history in one run of several parts."""
    with small_runs(), table_in(tmp_path / "data") as made:
        made.add(
            pa.concat_tables(
                rows_of(12, user=user, days=[0, 1], types=["click"], first=1 + 12 * n, step_us=1)
                for n, user in enumerate(USERS)
            )
        )
        work(history_chore(made.store))
        yield made


def parts(table: Table) -> list[Path]:
    found = sorted(table.store.paths.history.glob("*/part-*.parquet"))
    assert len(found) >= 4
    return found


def wrong_answers(table: Table) -> list[str]:
    view = table.view()
    everything = full_scan(view)
    return [
        user
        for user in USERS
        if table.paged(view, RetrievalFilter(user), "asc", 1000)
        != positions_of(chosen(everything, RetrievalFilter(user), "asc"))
    ]


def copied_files(table: Table) -> int:
    view = table.view()
    return sum(table.page(view, RetrievalFilter(user)).copied_files for user in USERS)


def remove_parts(table: Table) -> None:
    for path in parts(table)[::2]:
        path.unlink()


def cut(table: Table) -> None:
    for path in parts(table):
        os.truncate(path, path.stat().st_size - 100)


def empty(table: Table) -> None:
    for path in parts(table):
        os.truncate(path, 0)


def swap_by_name(table: Table) -> None:
    found = parts(table)
    aside = found[0].with_suffix(".aside")
    for one, other in zip(found[::2], found[1::2], strict=False):
        one.rename(aside)
        other.rename(one)
        aside.rename(other)


def swap_in_place(table: Table) -> None:
    found = parts(table)
    contents = [path.read_bytes() for path in found]
    for path, content in zip(found, [*contents[1:], contents[0]], strict=True):
        path.write_bytes(content)


def change_bytes(table: Table) -> None:
    source = random.Random(1)
    for path in parts(table):
        content = bytearray(path.read_bytes())
        for _ in range(20):
            content[source.randrange(4, len(content) // 3)] ^= 0x55
        path.write_bytes(bytes(content))


def change_bytes_and_hide_it(table: Table) -> None:
    before = {path: path.stat() for path in parts(table)}
    change_bytes(table)
    for path, status in before.items():
        os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_footers(table: Table) -> None:
    for path in parts(table):
        content = bytearray(path.read_bytes())
        content[-60] ^= 1
        path.write_bytes(bytes(content))


def remove_folders(table: Table) -> None:
    for folder in table.store.paths.history.iterdir():
        shutil.rmtree(folder)


def remove_all(table: Table) -> None:
    shutil.rmtree(table.store.paths.history)


def change_manifests(table: Table) -> None:
    for path in table.store.paths.history.glob(f"*/{MANIFEST}"):
        path.write_bytes(path.read_bytes().replace(b'"rows":', b'"rowz":'))


def swap_manifests(table: Table) -> None:
    for path in table.store.paths.history.glob(f"*/{MANIFEST}"):
        shutil.copytree(path.parent, path.parent.with_name("0" * 32))


DAMAGE: tuple[Callable[[Table], None], ...] = (
    remove_parts,
    cut,
    empty,
    swap_by_name,
    swap_in_place,
    change_bytes,
    change_bytes_and_hide_it,
    change_footers,
    remove_folders,
    remove_all,
    change_manifests,
    swap_manifests,
)


# Under a reader, whose footers and manifests are in memory; and before it.
CASES = [(damage, True) for damage in DAMAGE] + [(damage, False) for damage in DAMAGE[::3]]


@pytest.mark.parametrize(("damage", "warm"), CASES, ids=lambda one: getattr(one, "__name__", str(one)))
def test_answers_stay_right_and_the_copies_are_made_again(
    table: Table, damage: Callable[[Table], None], warm: bool
) -> None:
    if warm:
        assert copied_files(table) >= len(USERS)
    damage(table)
    assert wrong_answers(table) == []
    work(history_chore(table.store))
    assert wrong_answers(table) == []
    assert copied_files(table) >= len(USERS)
    assert len(checked_runs(table.store.paths.history)) >= 1


def test_the_comparison_sees_a_copy_that_lies(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    """The control: a reader that takes one part for another is found out."""
    assert wrong_answers(table) == []
    monkeypatch.setattr(Run, "part_of", lambda run, _: next(part for part in run.parts if part is not None))
    assert len(wrong_answers(table)) > len(USERS) / 2


def test_a_footer_that_is_forgotten_is_read_again(table: Table, monkeypatch: pytest.MonkeyPatch) -> None:
    footers = FooterCache(1)
    monkeypatch.setattr(table.store._shortcuts.history, "_footers", footers)
    for _ in range(2):
        assert wrong_answers(table) == []
    assert len(footers) == 1
