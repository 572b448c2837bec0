"""`actionlake import`, `sql` and `status` do what their help says, on a folder and beside a running service."""

from __future__ import annotations

import csv
import gzip
import io
import json
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import duckdb
import polars as pl
import pytest

from queries.local_sql import LocalSql
from service.importing import ImportFailed, read_chunks
from service.sql_shell import Shell
from storage.opening import read_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from tests.service.command_line import actionlake
from tests.service.keys import KeyedService
from tests.service.running_service import ACTIONLAKE, RunningService, action, submission


def write_ndjson(path: Path, users: int, *, wrong: int = 0) -> Path:
    lines = [json.dumps(submission(f"user-{n}", action(n=n), action(type_="VIEW", viewedId="v"))) for n in range(users)]
    lines += [json.dumps(submission("wrong", action(type_="x")))] * wrong
    content = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


def test_an_import_into_a_folder_is_readable_everywhere_and_adds_nothing_the_second_time(tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "actions.ndjson.gz", 50, wrong=2)
    for _ in range(2):
        done = actionlake("import", file, "--data", tmp_path / "data")
        assert done.returncode == 0, done.stderr
        assert done.stdout.splitlines()[-1] == "accepted=100 rejected=2"
        assert "unknown_type" in done.stderr
        counted = actionlake(
            "sql", "SELECT count(*) AS n FROM actions", "--data", tmp_path / "data", "--format", "json"
        )
        assert json.loads(counted.stdout)["rows"] == [{"n": 100}]
    assert pl.scan_delta(tmp_path / "data" / "actions").collect().height == 100
    figures = json.loads(actionlake("status", "--json", "--data", tmp_path / "data").stdout)
    assert (figures["rows"], figures["journal_depth"], figures["dead_letters"]) == (100, 0, 2)


def test_a_cut_off_file_fails_and_says_where(tmp_path: Path) -> None:
    file = write_ndjson(tmp_path / "actions.ndjson.gz", 200)
    file.write_bytes(file.read_bytes()[:-20])
    done = actionlake("import", file, "--data", tmp_path / "data")
    assert done.returncode == 1
    assert "damaged after line" in done.stderr


def test_a_pipe_is_refused_instead_of_taken_for_an_empty_file() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"{}\n")
    os.close(writing)
    with pytest.raises(ImportFailed, match="not a regular file"):
        list(read_chunks(Path(f"/dev/fd/{reading}")))
    os.close(reading)


def test_commands_on_a_folder_without_a_store_say_so(tmp_path: Path) -> None:
    for arguments in (["sql", "SELECT 1"], ["status"]):
        done = actionlake(*arguments, "--data", tmp_path / "nothing")
        assert done.returncode == 1
        assert "there is no store" in done.stderr
        assert not (tmp_path / "nothing").exists()


def test_sql_says_what_is_wrong_with_a_query(three_users: Path) -> None:
    done = actionlake("sql", "SELECT usr_id FROM actions", "--data", three_users)
    assert done.returncode == 1
    assert "user_id" in done.stderr
    assert "Traceback" not in done.stderr


class TestBesideARunningService:
    def test_import_by_url_and_sql_see_rows_that_are_not_flushed(self, service: RunningService, tmp_path: Path) -> None:
        file = write_ndjson(tmp_path / "a.ndjson", 30)
        for _ in range(2):
            done = actionlake("import", file, "--url", service.url)
            assert done.stdout.splitlines()[-1] == "accepted=60 rejected=0", done.stderr
        rows = actionlake(
            "sql", "SELECT user_id, count(*) AS n FROM actions GROUP BY ALL", "--data", service.data, "--format", "csv"
        )
        assert {row["n"] for row in csv.DictReader(io.StringIO(rows.stdout))} == {"2"}
        figures = json.loads(actionlake("status", "--json", "--data", service.data).stdout)
        assert (figures["rows"], figures["journal_depth"]) == (0, 60)
        service.flush()
        figures = json.loads(actionlake("status", "--json", "--data", service.data).stdout)
        assert (figures["rows"], figures["journal_depth"]) == (60, 0)

    def test_import_into_its_folder_is_refused(self, service: RunningService, tmp_path: Path) -> None:
        done = actionlake("import", write_ndjson(tmp_path / "a.ndjson", 1), "--data", service.data)
        assert done.returncode == 1
        assert "in use" in done.stderr
        assert service.url in done.stderr

    def test_the_shell_follows_the_store(self, service: RunningService, capsys: pytest.CaptureFixture[str]) -> None:
        store = read_store(StorePaths.of(service.data), ActionSchema())
        said: list[str] = []
        try:
            shell = Shell(LocalSql(store), said.append)
            service.submit(submission("shell", action(n=1)))
            shell.feed("SELECT count(*) AS n FROM clicks")
            assert shell.prompt.endswith("-> ")
            shell.feed("WHERE user_id = 'shell';")
            assert "1" in capsys.readouterr().out
            assert "scanned" in said[-1]
            service.submit(submission("shell", action(n=2)))
            service.flush()
            shell.feed("SELECT 'n=' || count(*) AS n FROM actions WHERE user_id = 'shell';")
            assert "n=2" in capsys.readouterr().out
            shell.feed(".tables")
            assert "daily_activity" in capsys.readouterr().out
            shell.feed(".schema sessions")
            assert "started_at" in capsys.readouterr().out
            shell.feed(".nonsense")
            assert ".help" in said[-1]
            shell.feed("SELECT nonsense;")
            assert "nonsense" in said[-1]
            shell.feed(".quit")
            assert shell.finished
        finally:
            store.close(flush=False)


@pytest.fixture(scope="module")
def three_users(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("three-users")
    actionlake("import", write_ndjson(folder / "a.ndjson", 3), "--data", folder / "data")
    return folder / "data"


@pytest.mark.parametrize("form", ["csv", "json", "ndjson", "table"])
def test_sql_prints_every_format(three_users: Path, form: str) -> None:
    done = actionlake("sql", "--data", three_users, "--format", form, stdin="SELECT user_id FROM actions")
    assert done.returncode == 0
    assert "user-2" in done.stdout


def test_sql_writes_parquet_to_the_standard_output_of_a_process(three_users: Path) -> None:
    done = subprocess.run(
        [ACTIONLAKE, "sql", "--data", str(three_users), "--format", "parquet"],
        input=b"SELECT user_id FROM actions",
        capture_output=True,
        check=True,
        timeout=120,
    )
    assert pl.read_parquet(done.stdout).height == 6


@pytest.mark.parametrize(
    ("script", "said", "complaint"),
    [
        ("SELECT 1 AS one; SELECT 2 AS two;\n.tables\nSELECT 3\n AS three", ["one", "two", "daily", "three"], ""),
        (".help\n.quit\nSELECT 1 AS one;", [".timer"], ""),
        ("EXPLAIN SELECT 1;", ["PROJECTION"], ""),
        ("SELECT 1 AS one;\nSELEC 2;\nSELECT 3 AS three;", ["one"], "SELEC"),
        (".nonsense\nSELECT 1 AS one;", [], ".help"),
        (";\n-- nothing\n", [], ""),
    ],
)
def test_a_script_says_what_would_be_typed(three_users: Path, script: str, said: list[str], complaint: str) -> None:
    done = actionlake("sql", "--data", three_users, stdin=script)
    assert done.returncode == (1 if complaint else 0)
    assert complaint in done.stderr
    words = ("one", "two", "three", "daily", ".timer", "PROJECTION")
    assert [word for word in words if word in done.stdout] == [word for word in words if word in said]


def test_no_statement_is_an_error_and_no_traceback(three_users: Path) -> None:
    done = actionlake("sql", "  ", "--data", three_users)
    assert (done.returncode, done.stderr) == (1, "Error: there is no statement\n")


def test_a_reader_that_has_enough_ends_a_query_in_silence(three_users: Path) -> None:
    command = [ACTIONLAKE, "sql", "SELECT * FROM range(10000000)", "--format", "csv", "--data", str(three_users)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.read(5) == b"range"
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 1


def test_an_interrupted_statement_is_stopped_and_said_so(three_users: Path) -> None:
    """DuckDB tells of Ctrl-C as of an error, and goes on in its threads, so that the next statement would wait."""
    store = read_store(StorePaths.of(three_users), ActionSchema())
    stopped: list[str] = []

    def interrupted(_: str) -> None:
        raise RuntimeError("Query interrupted") from KeyboardInterrupt()

    try:
        session = LocalSql(store)
        session.refresh()
        connection = SimpleNamespace(
            register=session.connection.register, execute=interrupted, interrupt=lambda: stopped.append("stopped")
        )
        session.connection = cast("duckdb.DuckDBPyConnection", connection)
        with pytest.raises(KeyboardInterrupt):
            session.run("SELECT count(*) FROM range(1000000000000)")
    finally:
        store.close(flush=False)
    assert stopped == ["stopped"]


def test_an_import_sends_the_key_that_the_service_asks_for(
    keyed: KeyedService, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write_ndjson(tmp_path / "actions.ndjson", 3)
    refused = actionlake("import", file, "--url", keyed.url)
    assert refused.returncode == 1
    assert "401" in refused.stderr
    monkeypatch.setenv("ACTIONLAKE_KEY", keyed.keys.create("submit").key)
    assert actionlake("import", file, "--url", keyed.url).stdout == "accepted=6 rejected=0\n"


def test_a_key_is_made_shown_once_and_listed_without_its_secret(tmp_path: Path) -> None:
    folder = ("--data", tmp_path / "data")
    made = actionlake("keys", "create", "an app", "--scope", "sql", "--expires-in-days", "9", "--json", *folder)
    key = json.loads(made.stdout)
    assert (key["name"], key["scopes"], key["athena"]["accessKeyId"]) == ("an app", ["sql"], key["id"])
    listed = actionlake("keys", "list", "--json", *folder).stdout
    (one,) = json.loads(listed)
    assert one == {name: value for name, value in key.items() if name not in ("key", "athena")}
    assert one["expiresAt"] > one["createdAt"]
    for secret in (key["key"].split("_", 2)[2], key["athena"]["secretAccessKey"]):
        assert secret not in listed + actionlake("keys", "list", *folder).stdout
    unknown = actionlake("keys", "revoke", "nobody", *folder)
    assert (unknown.returncode, unknown.stdout) == (1, "")
    too_wide = actionlake("keys", "create", "x", "--scope", "sql", "--user-prefix", "u-", *folder)
    assert (too_wide.returncode, too_wide.stdout) == (1, "")
    assert "cannot have the scope sql" in too_wide.stderr
