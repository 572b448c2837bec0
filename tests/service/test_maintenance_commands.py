"""`actionlake compact` does upkeep on a folder, whether or not it is in use; `--dry-run` changes nothing."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from service.cli import main
from storage.store import Store
from tests.storage.building import opened, positions, put, store_in, through
from tests.storage.compacting import put_files


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False)


def content(folder: Path) -> dict[str, bytes]:
    """Every file of the table with what is in it."""
    return {str(path): path.read_bytes() for path in (folder / "actions").rglob("*") if path.is_file()}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with store_in(tmp_path / "data") as store:
        put_files(store, 4, days=2)
    return tmp_path / "data"


def test_compact_tells_what_it_did_and_does_it_once(folder: Path) -> None:
    before = content(folder)
    planned = run("compact", "--dry-run", "--data", folder)
    assert planned.exit_code == 0
    assert content(folder) == before
    assert len(re.findall(r"type=click: 4 files with 12 rows in \d+ bytes would become 1", planned.stdout)) == 2
    last = planned.stdout.splitlines()[-1]
    assert last == "rewritten=8 files_before=8 files_after=2"
    assert run("compact", "--data", folder).stdout.splitlines() == [last]
    assert run("compact", "--data", folder).stdout.splitlines() == ["rewritten=0 files_before=2 files_after=2"]
    with store_in(folder) as store:
        assert positions(store) == through(24)


def test_compact_works_beside_who_holds_the_folder_and_recovers_it_if_nobody_does(folder: Path) -> None:
    store: Store
    store, _ = opened(folder)
    try:
        put(store, 3)
        assert run("compact", "--data", folder).stdout.endswith("rewritten=8 files_before=8 files_after=2\n")
        assert positions(store) == through(27)
        assert len(store.read_view().files) == 2
    finally:
        store.close(flush=False)
    (folder / "actions" / "_delta_log" / f"{6:020d}.json").write_bytes(b"{torn")
    assert run("compact", "--data", folder).exit_code == 0
    with store_in(folder) as store:
        assert positions(store) == through(27)


def test_a_folder_without_a_store_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    for more in ([], ["--dry-run"]):
        result = run("compact", "--data", tmp_path / "none", *more)
        assert result.exit_code == 1
        assert "there is no store" in result.stderr
        assert not (tmp_path / "none").exists()
