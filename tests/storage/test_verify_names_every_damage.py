"""`verify` says nothing of a store that is whole, also beside one that is busy, and names each damage and its file."""

from __future__ import annotations

import datetime
import json
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from service.cli import main
from storage.data_files import WrittenFile, sort_rows, write_partitions
from storage.flush import FlushLimits
from storage.lake import Lake
from storage.latch import Latch
from storage.paths import StorePaths
from storage.rejects_table import RejectsTable
from storage.schema import ActionSchema
from storage.verification import VerifyReport, verify
from tests.storage.building import (
    SCHEMA,
    data_files,
    execute,
    flusher,
    log_entry,
    opened,
    put,
    remove_checkpoints,
    store_in,
)
from tests.storage.rejecting import mover, reject

_ROWS = 30


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A store with a checkpoint, entries after it, several files, and rows that are in the journal only."""
    folder = tmp_path_factory.mktemp("whole") / "data"
    with store_in(folder) as store:
        put(store, 4, 5, days=3)
        store.flush_here()
        Lake(store.paths.table, SCHEMA).checkpoint()
        put(store, 6, user="u2")
        store.flush_here()
        put(store, 6, 2, user="u3")
        # The second of these submissions is in the table in part.
        flusher(store, limits=FlushLimits(rows_max=7, partitions_max=1)).flush(22)
        put(store, 7)
    # Each flusher begins with a checkpoint; here entries are to follow the first one.
    log = folder / "actions" / "_delta_log"
    for path in log.glob("*.checkpoint.parquet"):
        if int(path.name[:20]) > 1:
            path.unlink()
    (log / "_last_checkpoint").unlink()
    return folder


@pytest.fixture
def folder(whole: Path, tmp_path: Path) -> Path:
    """A copy of that store, to be damaged."""
    shutil.copytree(whole, tmp_path / "data")
    return tmp_path / "data"


def _verify(folder: Path, *, deep: bool = True) -> VerifyReport:
    return verify(StorePaths.of(folder), SCHEMA, deep=deep)


@pytest.mark.parametrize("deep", [False, True])
def test_a_whole_store_has_no_problems(folder: Path, deep: bool) -> None:
    report = _verify(folder, deep=deep)
    assert report.problems == ()
    assert report.rows == _ROWS
    assert report.files == len(data_files(folder))
    assert report.absent == 0


def _newest_file(folder: Path) -> Path:
    return max(data_files(folder), key=lambda path: path.stat().st_mtime_ns)


def _remove_a_file(folder: Path) -> Path:
    path = _newest_file(folder)
    path.unlink()
    return path


def _truncate_a_file(folder: Path) -> Path:
    path = _newest_file(folder)
    path.write_bytes(path.read_bytes()[:-30])
    return path


def _damage_a_page(folder: Path) -> Path:
    path = _newest_file(folder)
    content = bytearray(path.read_bytes())
    content[40] ^= 4
    path.write_bytes(content)
    return path


def _rewrite(folder: Path, change: Callable[[pa.Table], pa.Table]) -> Path:
    """Change the rows of a file behind the log's back; the log tells the right size."""
    path = max(data_files(folder), key=lambda one: pq.read_metadata(one).num_rows)
    with pq.ParquetFile(path) as file:
        rows = file.read()
    before = path.stat().st_size
    pq.write_table(change(rows), path, compression="zstd")
    entry = next(e for e in _entries(folder) if path.name in e.read_text())
    entry.write_text(entry.read_text().replace(f'"size":{before}', f'"size":{path.stat().st_size}'))
    for checkpoint in (folder / "actions" / "_delta_log").glob("*checkpoint*"):
        checkpoint.unlink()
    return path


def _entries(folder: Path) -> list[Path]:
    return sorted((folder / "actions" / "_delta_log").glob("*.json"))


def _lose_a_row(folder: Path) -> Path:
    return _rewrite(folder, lambda rows: rows.slice(1))


def _shuffle_rows(folder: Path) -> Path:
    return _rewrite(folder, lambda rows: rows.take(list(reversed(range(rows.num_rows)))))


def _replace_column(rows: pa.Table, name: str, values: list[object]) -> pa.Table:
    place = rows.schema.get_field_index(name)
    return rows.set_column(place, rows.schema.field(name), pa.array(values, rows.schema.field(name).type))


def _move_rows_to_another_day(folder: Path) -> Path:
    def later(rows: pa.Table) -> pa.Table:
        day = datetime.timedelta(days=40)
        return _replace_column(rows, "time", [value + day for value in rows["time"].to_pylist()])

    return _rewrite(folder, later)


def _double_a_position_within_a_file(folder: Path) -> Path:
    def doubled(rows: pa.Table) -> pa.Table:
        values = rows["position"].to_pylist()
        return _replace_column(rows, "position", [values[1], *values[1:]])

    return _rewrite(folder, doubled)


def _lose_a_user(folder: Path) -> Path:
    return _rewrite(folder, lambda rows: _replace_column(rows, "user_id", [None, *rows["user_id"].to_pylist()[1:]]))


def _commit_again(folder: Path) -> Path:
    """Commit rows that the table has, as a second compaction of the same files would."""
    table = StorePaths.of(folder).table
    lake = Lake(table, SCHEMA)
    one = lake.snapshot("any").files[0]
    with pq.ParquetFile(one.path) as file:
        rows = file.read()
    rows = rows.append_column("date", pa.repeat(one.date, rows.num_rows))
    rows = rows.append_column("type", pa.repeat(one.type, rows.num_rows)).select(SCHEMA.table_schema.names)
    written = write_partitions(sort_rows(rows.cast(SCHEMA.table_schema)), table)
    lake.append(written, journal="another", after=0, watermark=len(rows))
    return table / "date"


def _tear_the_last_entry(folder: Path) -> Path:
    path = _entries(folder)[-1]
    path.write_bytes(path.read_bytes()[:-40])
    return path


def _cut_the_last_entry_between_lines(folder: Path) -> Path:
    path = _entries(folder)[-1]
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:-1]))
    return path


def _tear_an_entry_below_the_checkpoint(folder: Path) -> Path:
    path = log_entry(folder, 1)
    path.write_bytes(path.read_bytes()[:-40])
    return path


def _remove_an_entry(folder: Path) -> Path:
    path = _entries(folder)[-2]
    path.unlink()
    return path


def _damage_the_checkpoint(folder: Path) -> Path:
    path = max((folder / "actions" / "_delta_log").glob("*.checkpoint.parquet"))
    path.write_bytes(path.read_bytes()[:100])
    return path


def _name_a_checkpoint_that_is_not_there(folder: Path) -> Path:
    path = folder / "actions" / "_delta_log" / "_last_checkpoint"
    path.write_text('{"version": 7, "size": 3}')
    return path


def _lose_all_checkpoints_of_a_short_log(folder: Path) -> Path:
    """The log as after its clean-up, without what stands for the entries that are gone."""
    remove_checkpoints(folder)
    for path in _entries(folder)[:2]:
        path.unlink()
    return _entries(folder)[0].with_name(f"{0:020d}.json")


def _journal(folder: Path) -> Path:
    return StorePaths.of(folder).journal


def _sql(statement: str) -> Callable[[Path], Path]:
    def run(folder: Path) -> Path:
        execute(_journal(folder), statement)
        return _journal(folder)

    return run


def _damage_the_journal_header(folder: Path) -> Path:
    content = bytearray(_journal(folder).read_bytes())
    content[0:16] = b"no longer SQLite"
    _journal(folder).write_bytes(content)
    return _journal(folder)


def _damage_a_journal_page(folder: Path) -> Path:
    execute(_journal(folder), "PRAGMA wal_checkpoint(TRUNCATE)")
    root = execute(_journal(folder), "SELECT rootpage FROM sqlite_schema WHERE name = 'submissions'")[0][0]
    content = bytearray(_journal(folder).read_bytes())
    content[(root - 1) * 4096 : (root - 1) * 4096 + 8] = b"\xff" * 8
    _journal(folder).write_bytes(content)
    return _journal(folder)


def _latch(folder: Path) -> Path:
    path = StorePaths.of(folder).latch
    Latch(path).set("the disk said no")
    return path


_DAMAGES: list[tuple[Callable[[Path], Path], str]] = [
    (_remove_a_file, "is missing"),
    (_truncate_a_file, "bytes, and the log says"),
    (_damage_a_page, "cannot be read"),
    (_lose_a_row, "rows, and the log says"),
    (_shuffle_rows, "not in the order"),
    (_move_rows_to_another_day, "lies in the partition of"),
    (_double_a_position_within_a_file, "is there 2 times"),
    (_lose_a_user, "user_id is missing in 1 rows"),
    (_commit_again, "is there 2 times, also in"),
    (_tear_the_last_entry, "is damaged"),
    (_cut_the_last_entry_between_lines, "cut off before its transaction"),
    (_tear_an_entry_below_the_checkpoint, "is damaged"),
    (_remove_an_entry, "is missing, between"),
    (_damage_the_checkpoint, "is damaged"),
    (_lose_all_checkpoints_of_a_short_log, "no checkpoint"),
    (_name_a_checkpoint_that_is_not_there, "does not name a checkpoint"),
    (_damage_the_journal_header, "is damaged"),
    (_damage_a_journal_page, ""),
    (_sql("DELETE FROM submissions WHERE first_position = (SELECT max(first_position) FROM submissions)"), "lacks"),
    (_sql("DELETE FROM submissions WHERE first_position = (SELECT min(first_position) FROM submissions)"), "lacks"),
    (_sql("UPDATE submissions SET payload = CAST(x'00' || substr(payload, 2) AS BLOB)"), "checksum"),
    (_sql("UPDATE journal SET next_position = next_position - 3"), "beyond its last position"),
    (_sql("UPDATE journal SET next_position = 5"), "older copy"),
    (_sql("UPDATE journal SET trimmed_position = 29"), "was trimmed up to position 29"),
    (_sql("UPDATE journal SET durable_version = 90"), "speaks of version 90"),
    (_sql("UPDATE journal SET id = 'other'"), "was trimmed"),
    (lambda folder: _journal(folder).rename(folder / "elsewhere") and _journal(folder), ""),
    (_latch, "the disk said no"),
]


@pytest.mark.parametrize(("damage", "sign"), _DAMAGES, ids=[getattr(one, "__qualname__", "") for one, _ in _DAMAGES])
def test_each_damage_is_named_with_its_file(folder: Path, damage: Callable[[Path], Path], sign: str) -> None:
    file = damage(folder)
    report = _verify(folder)
    assert report.problems, "nothing was noticed"
    told = [one for one in report.problems if str(one.file).startswith(str(file)) and sign in one.what]
    assert told, [str(one) for one in report.problems]
    assert all(one.advice for one in report.problems)


def test_several_damages_are_all_named(folder: Path) -> None:
    files = {_truncate_a_file(folder), min(data_files(folder)), _name_a_checkpoint_that_is_not_there(folder)}
    min(data_files(folder)).unlink()
    execute(_journal(folder), "UPDATE submissions SET payload = CAST(x'00' || substr(payload, 2) AS BLOB)")
    assert files | {_journal(folder)} <= {one.file for one in _verify(folder, deep=False).problems}


def test_a_flush_that_leaves_rows_out_is_noticed(tmp_path: Path) -> None:
    """A commit of fewer rows than positions, where nothing was put aside."""
    append = Lake.append

    def shortened(lake: Lake, files: list[WrittenFile], **given: object) -> int:
        return append(lake, files[:-1], **given)  # type: ignore[arg-type]

    with store_in(tmp_path / "data") as store:
        put(store, 6, days=2)
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(Lake, "append", shortened)
            store.flush_here()
    (problem,) = _verify(tmp_path / "data").problems
    assert "adds 3 rows for 6 positions" in problem.what


def test_a_file_above_the_watermark_is_noticed(folder: Path) -> None:
    entry = _entries(folder)[-1]
    content = entry.read_text()
    mark = json.loads(content.splitlines()[-1])["txn"]
    entry.write_text(content.replace(f'"version":{mark["version"]}', f'"version":{mark["version"] - 1}'))
    assert any("above its watermark" in one.what for one in _verify(folder).problems)


def test_a_busy_store_has_no_false_problems(tmp_path: Path) -> None:
    """Submissions, flushes and trims go on while the folder is verified again and again."""
    store, _ = opened(tmp_path / "data", flush=FlushLimits(interval_ms_max=30))
    stop = threading.Event()

    def submit() -> None:
        while not stop.is_set():
            put(store, 5, 3, days=2)
            time.sleep(0.005)

    submitting = threading.Thread(target=submit)
    store.start_leading()
    submitting.start()
    reports: list[VerifyReport] = []
    try:
        while len(reports) < 12 or reports[-1].version <= reports[0].version + 5:
            reports.append(_verify(tmp_path / "data", deep=False))
            store.flush(timeout_s=120)
    finally:
        stop.set()
        submitting.join()
        store.close(flush=False)
    assert [str(problem) for report in reports for problem in report.problems] == []
    assert reports[-1].rows > reports[0].rows


def test_the_command_ends_with_the_figures(folder: Path) -> None:
    run = CliRunner().invoke(main, ["verify", "--data", str(folder)])
    assert run.exit_code == 0, run.output
    assert run.output.splitlines()[-1] == f"verified files={len(data_files(folder))} rows={_ROWS} problems=0"
    file = _remove_a_file(folder)
    run = CliRunner().invoke(main, ["verify", "--deep", "--data", str(folder)])
    assert run.exit_code == 1
    assert run.output.startswith(f"{file}: is missing")
    assert run.output.splitlines()[-1].endswith("problems=1")
    run = CliRunner().invoke(main, ["verify", "--json", "--data", str(folder)])
    assert run.exit_code == 1
    assert json.loads(run.output)["problems"][0]["file"] == str(file)


def test_a_folder_without_a_store_is_said_to_be_none(tmp_path: Path) -> None:
    run = CliRunner().invoke(main, ["verify", "--data", str(tmp_path)])
    assert run.exit_code == 1
    assert "no store" in run.output


def test_a_promoted_column_that_came_later_is_no_problem(folder: Path) -> None:
    schema = ActionSchema({"click": SCHEMA.action_types["view"]})
    assert verify(StorePaths.of(folder), schema, deep=True).problems == ()


def test_the_rejects_are_looked_at_too(tmp_path: Path) -> None:
    folder = tmp_path / "data"
    with store_in(folder) as store:
        put(store, 2)
        reject(store, "a", "b")
        mover(store).flush()
        reject(store, "c")
        mover(store).flush()
        assert _verify(folder).problems == ()
        (live,) = RejectsTable(store.paths.rejects).snapshot("").files
    file = store.paths.rejects / live.relative_path
    with pq.ParquetFile(file) as reader:
        rows = reader.read()
    pq.write_table(pa.concat_tables([rows, rows.slice(0, 1)]), file)
    told = [str(one) for one in _verify(folder).problems]
    assert any("rejects more than once" in one for one in told)
    assert any(f"{file}: has" in one for one in told)
    file.unlink()
    assert any(f"{file}: is missing" in str(one) for one in _verify(folder).problems)
    execute(_journal(folder), "UPDATE rejects SET moved_through = 9")
    assert any("is older than the journal" in one.what for one in _verify(folder).problems)


def test_a_start_names_data_files_that_are_missing_or_cut_short(folder: Path) -> None:
    missing = _remove_a_file(folder)
    short = _truncate_a_file(folder)
    store, report = opened(folder)
    store.close(flush=False)
    assert {one.split(" ")[0] for one in report.damaged_files} == {str(missing), str(short)}
    assert _verify(folder).problems
