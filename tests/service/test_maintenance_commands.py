"""`actionlake compact` and `vacuum` do upkeep on a folder, whether or not it is in use; `--dry-run` changes nothing."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from service.cli import main
from storage.store import Store
from tests.storage.building import opened, positions, put, store_in, through
from tests.storage.compacting import put_files


def run(*arguments: object, env: dict[str, str] | None = None) -> Result:
    return CliRunner().invoke(main, [str(one) for one in arguments], catch_exceptions=False, env=env)


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


def test_vacuum_lists_what_would_go_and_removes_it_after_its_grace(folder: Path) -> None:
    run("compact", "--data", folder)
    before = content(folder)
    assert run("vacuum", "--dry-run", "--data", folder).stdout == "expired_rows=0 removed_files=0 removed_bytes=0\n"
    status = run("status", "--data", folder).stdout
    assert re.search(r"^files that wait to be removed +8$", status, re.MULTILINE)
    assert re.search(r"^last compaction +ended_at_ms=\d+ partitions=2 files_removed=8", status, re.MULTILINE)
    hurried = {"ACTIONLAKE_VACUUM_GRACE_MS": "1000", "ACTIONLAKE_FLUSH_TIMEOUT_MS_MAX": "999"}
    hurried |= {"ACTIONLAKE_RETRIEVE_TIMEOUT_MS_MAX": "999", "ACTIONLAKE_SQL_TIMEOUT_MS_MAX": "999"}
    time.sleep(1.1)
    listed = run("vacuum", "--dry-run", "--data", folder, env=hurried).stdout.splitlines()
    assert len(listed) == 9
    assert all(line.endswith("is no longer in the table") for line in listed[:-1])
    assert content(folder) == before
    assert run("vacuum", "--data", folder, env=hurried).stdout.splitlines() == listed[-1:]
    assert len(list(folder.glob("actions/date=*/type=*/*"))) == 2
    with store_in(folder) as store:
        assert positions(store) == through(24)


def test_vacuum_takes_out_days_past_their_retention(folder: Path) -> None:
    flags = ("--retention-days-default", 30, "--data", folder)
    before = content(folder)
    listed = run("vacuum", "--dry-run", *flags).stdout.splitlines()
    assert sum(line.endswith("have expired") for line in listed) == 8
    assert listed[-1] == "expired_rows=24 removed_files=0 removed_bytes=0"
    assert content(folder) == before
    assert run("vacuum", *flags).stdout.splitlines() == listed[-1:]
    with store_in(folder) as store:
        assert positions(store) == []
        put(store, 1)
        assert positions(store) == [25]


def test_a_grace_that_a_query_could_outlast_is_refused(folder: Path) -> None:
    result = run("vacuum", "--vacuum-grace-ms", 20_000, "--data", folder)
    assert result.exit_code == 1
    assert "vacuum_grace_ms: 20000 is not longer than retrieve_timeout_ms_max, 30000" in result.stderr


def test_a_folder_without_a_store_is_an_error_and_stays_as_it_is(tmp_path: Path) -> None:
    for name, more in (("compact", []), ("compact", ["--dry-run"]), ("vacuum", []), ("vacuum", ["--dry-run"])):
        result = run(name, "--data", tmp_path / "none", *more)
        assert result.exit_code == 1
        assert "there is no store" in result.stderr
        assert not (tmp_path / "none").exists()
