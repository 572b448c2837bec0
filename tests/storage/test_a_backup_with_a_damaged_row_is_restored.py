"""A backup whose journal has a row that does not decode is restored, all but that row, which is named loudly."""

from __future__ import annotations

from pathlib import Path

from click.testing import CliRunner

from service.cli import main
from storage.backup import back_up
from storage.paths import StorePaths
from storage.restoring import restore
from tests.storage.building import SCHEMA, execute, positions, put, store_in


def _damaged_backup(folder: Path) -> Path:
    """Of a store with positions 1 to 9, 6 to 9 of them in the journal, where the row with 7 and 8 does not decode."""
    with store_in(folder / "data") as store:
        put(store, 5)
        store.flush_here()
        put(store, 1, 2, 1)
        execute(store.paths.journal, "UPDATE submissions SET payload = x'00' WHERE first_position = 7")
        back_up(store.paths, folder / "backups", keep=None)
    return folder / "backups"


def test_all_other_rows_are_there_and_the_damaged_one_is_put_aside(tmp_path: Path) -> None:
    source = _damaged_backup(tmp_path)
    paths = StorePaths.of(tmp_path / "copy")
    result = restore(source, paths, SCHEMA, with_keys=False)
    assert [one.is_put_aside for one in result.report.problems] == [True]
    assert "7" in result.report.problems[0].what
    with store_in(tmp_path / "copy") as store:
        store.flush_here()
        # Some under the old id of the journal, the others under the new one.
        assert sorted(positions(store)) == [1, 2, 3, 4, 5, 6, 9]
        assert store.status().rejects == 1


def test_the_command_names_it(tmp_path: Path) -> None:
    source = _damaged_backup(tmp_path)
    done = CliRunner().invoke(main, ["restore", str(source), "--data", str(tmp_path / "copy")])
    assert done.exit_code == 0, done.output
    assert "cannot be read, all others are restored" in done.output
    assert "dead letters" in done.output
    assert "restored files=1 rows=" in done.output


def test_other_damage_is_refused_as_before(tmp_path: Path) -> None:
    source = _damaged_backup(tmp_path)
    (journal,) = source.glob("*/journal.sqlite")
    execute(journal, "DELETE FROM submissions WHERE first_position = 6")
    done = CliRunner().invoke(main, ["restore", str(source), "--data", str(tmp_path / "copy")])
    assert done.exit_code != 0
    assert "is damaged" in done.output
