"""The operating system's walls around a worker: what each refuses by itself, and that nothing else comes with it.

Here nothing else stands in the way: no guard, no settings of DuckDB, but plain Python that tries. What a platform
does not give must be reported as missing, with the reason.
"""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import duckdb
import pytest

from queries.sql import Cancellation, IsolationReport, Proof, SqlCancelled, SqlLimits, SqlRequest, Wall, standing_back
from queries.sql import connection as connection_module
from queries.sql import process as process_module
from queries.sql.walls.around import WALL_NAMES
from queries.sql.walls.proofs import WallBroken, check_against_walls
from tests.queries import walled_attempts
from tests.queries.sql_tables import Sandbox, SmallTable, make_rows, sandbox, write_table

NEEDS_IDLE = pytest.mark.skipif(not standing_back.is_known(), reason="the system has no such policy")
ROOT = Path(process_module.__file__).resolve().parents[2]
ALLOWED = ["read the table", "list the table", "write temporary data"]
OUT_OF_THE_TABLE = ["read outside", "list outside", "list the root", "write outside", "create outside"]
INTO_THE_TABLE = ["write into the table", "change the table", "remove from the table", "rename in the table"]

# What each wall refuses, if it is the only one.
REFUSED_BY = {
    "mounts": [*OUT_OF_THE_TABLE, *INTO_THE_TABLE, "read the environment"],
    "landlock": [*OUT_OF_THE_TABLE, *INTO_THE_TABLE, "connect by TCP", "mount", "read the environment"],
    "namespaces": ["connect by TCP"],
    "seccomp": [
        "connect by TCP",
        "open a UDP socket",
        "open a local socket",
        "fork",
        "run a program",
        "signal the parent",
        "trace itself",
        "map new code",
        "become root",
        "mount",
        "leave the root",
    ],
    "user": [*INTO_THE_TABLE, "write outside", "create outside", "become root", "mount", "leave the root"],
    "capabilities": ["mount", "leave the root"],
    "resource_limits": ["take much memory"],
}


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> SmallTable:
    return write_table(tmp_path_factory.mktemp("table") / "actions", make_rows(days=1, per_file=1))


@pytest.fixture(scope="module")
def sql(table: SmallTable, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    with sandbox(table, tmp_path_factory.mktemp("temp"), niceness=7) as one:
        yield one


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that another user may enter, so that a refusal is not due to the place where tests are run."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        yield Path(name)


def _try_to_get_out(folder: Path, walls: list[str]) -> dict[str, Any]:
    table = write_table(folder / "actions", make_rows(days=1, per_file=1))
    temp = folder / "temp"
    (temp / "root").mkdir(parents=True)
    outside = folder / "elsewhere" / "file"
    outside.parent.mkdir()
    outside.write_text("untouched")
    with socket.create_server(("127.0.0.1", 0)) as listener:
        asked = {
            "root": str(ROOT),
            "data": str(table.folder),
            "temp": str(temp),
            "outside": str(outside),
            "walls": walls,
            "port": listener.getsockname()[1],
            "parent": os.getpid(),
        }
        done = subprocess.run(
            [sys.executable, "-I", walled_attempts.__file__, json.dumps(asked)],
            capture_output=True,
            text=True,
            check=False,
        )
    assert done.stdout, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return answer


@pytest.mark.parametrize("wall", sorted(REFUSED_BY))
def test_a_wall_by_itself_refuses_what_it_is_for(folder: Path, wall: str) -> None:
    # A file system of its own needs a namespace of its own.
    answer = _try_to_get_out(folder, [wall, "namespaces"] if wall == "mounts" else [wall])
    standing, detail = answer["walls"][wall]
    assert detail
    went_through = [name for name, outcome in answer["tries"].items() if outcome == "went through"]
    assert set(ALLOWED) <= set(went_through)
    if standing:
        assert not set(REFUSED_BY[wall]) & set(went_through)


def test_all_walls_together_leave_only_what_queries_need(folder: Path) -> None:
    answer = _try_to_get_out(folder, list(WALL_NAMES))
    went_through = {name for name, outcome in answer["tries"].items() if outcome == "went through"}
    standing = [wall for wall, (stands, _) in answer["walls"].items() if stands]
    refused = {name for wall in standing for name in REFUSED_BY.get(wall, [])}
    assert set(ALLOWED) <= went_through
    assert not refused & went_through
    assert (folder / "elsewhere" / "file").read_text() == "untouched" or "mounts" not in standing


def test_control_without_walls_everything_goes_through(folder: Path) -> None:
    answer = _try_to_get_out(folder, [])
    assert answer["walls"] == {name: [False, "not asked for"] for name in WALL_NAMES}
    harmless = [*ALLOWED, *OUT_OF_THE_TABLE, "write into the table", "change the table", "remove from the table"]
    harmless += ["connect by TCP", "open a UDP socket", "fork", "signal the parent"]
    assert {name: answer["tries"][name] for name in harmless} == dict.fromkeys(harmless, "went through")


def test_the_report_names_every_wall_and_says_why_one_is_missing(sql: Sandbox) -> None:
    report = sql.pool.isolation()
    assert [wall.name for wall in report.walls] == list(WALL_NAMES)
    assert {*report.standing, *report.missing} == set(report.walls)
    assert all(wall.detail for wall in report.walls)
    assert "resource_limits" in [wall.name for wall in report.standing]
    assert len(report.proofs) == 5


def test_a_wall_that_does_not_hold_is_not_believed() -> None:
    proof = Proof("write into the table", refused=False, detail="went through")
    with pytest.raises(WallBroken, match="landlock"):
        check_against_walls(IsolationReport((Wall("landlock", standing=True, detail="x"),), (proof,)))
    check_against_walls(IsolationReport((Wall("landlock", standing=False, detail="x"),), (proof,)))


def test_a_worker_gets_no_environment_and_one_descriptor(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CANARY", "secret")
    started: list[dict[str, Any]] = []
    real = subprocess.Popen

    def popen(command: list[str], **options: Any) -> subprocess.Popen[bytes]:
        started.append(options)
        return real(command, **options)

    monkeypatch.setattr("queries.sql.process.subprocess.Popen", popen)
    with sandbox(table, tmp_path) as sql:
        assert sql.ask("SELECT 1").rows == [(1,)]
        (options,) = started
        assert options["env"] == {}
        assert len(options["pass_fds"]) == 1
        assert options.get("close_fds", True)
        environment = Path(f"/proc/{sql.pool.worker_pids()[0]}/environ")
        # Readable by root only, since the worker forbids to be inspected.
        if os.geteuid() == 0 and environment.exists():
            assert b"secret" not in environment.read_bytes()


def test_a_worker_stands_back_when_the_processor_is_short(sql: Sandbox) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    (pid,) = sql.pool.worker_pids()
    assert os.getpriority(os.PRIO_PROCESS, pid) == min(own + 7, 19)


def idle_threads(pid: int) -> set[int]:
    """The threads of a worker that get only what others leave."""
    threads = [int(one) for one in os.listdir(f"/proc/{pid}/task")]
    return {one for one in threads if os.sched_getscheduler(one) == os.SCHED_IDLE}


@contextmanager
def lasting(one: Sandbox) -> Iterator[int]:
    """A query that lasts, in the only worker; yields the worker's pid."""
    (pid,) = one.pool.worker_pids()
    cancellation = Cancellation()
    request = SqlRequest("SELECT count(*) FROM range(1000000) a, range(1000000) b")

    def ask() -> None:
        with suppress(SqlCancelled):
            one.pool.run(request, one.view, cancellation).close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield pid
    finally:
        cancellation.cancel()
        thread.join(180)
        assert not thread.is_alive()


def wait_until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 180
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@NEEDS_IDLE
@pytest.mark.parametrize("may_take_back", [True, False])
def test_a_worker_is_put_aside_for_a_query_that_lasts_and_for_no_other(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, may_take_back: bool
) -> None:
    monkeypatch.setattr(standing_back, "AFTER_S", 0.0)
    # A worker that is put aside on a busy machine is slow to obey, and would be ended instead of taken back.
    monkeypatch.setattr("queries.sql.running.KILL_AFTER_S", 180.0)
    # Whatever rights those have who run the tests.
    monkeypatch.setattr(standing_back, "may_put_aside_others", lambda: True)
    real, kept = standing_back.take_back, []

    def take_back(pid: int) -> bool:
        kept.append(may_take_back and real(pid))
        return kept[-1]

    monkeypatch.setattr(standing_back, "take_back", take_back)
    with sandbox(table, tmp_path, when_idle=True) as one:
        (first,) = one.pool.worker_pids()
        assert not idle_threads(first)
        # Autogroups share processors between sessions first, whatever their policies.
        assert os.getsid(first) == os.getsid(0)
        assert os.getpgid(first) == first
        with lasting(one) as pid:
            # The main thread and DuckDB's.
            wait_until(lambda: pid in idle_threads(pid) and len(idle_threads(pid)) >= SqlLimits().threads)
        # Either it has its share again, or another has its place.
        monkeypatch.setattr(standing_back, "AFTER_S", 3_600.0)
        assert one.ask("SELECT count(*) FROM actions").rows == [(3,)]
        (after,) = one.pool.worker_pids()
        assert not idle_threads(after)
        assert (after == first) == kept[0]


@NEEDS_IDLE
def test_a_worker_is_left_its_share_where_nobody_asks_to_put_it_aside(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_back, "put_aside", lambda pid: pytest.fail(f"worker {pid} is put aside"))
    monkeypatch.setattr(standing_back, "AFTER_S", 0.0)
    with sandbox(table, tmp_path, when_idle=False) as one:
        assert one.ask("SELECT count(*) FROM actions").rows == [(3,)]
        assert not idle_threads(*one.pool.worker_pids())


@NEEDS_IDLE
def test_a_worker_is_always_aside_where_the_service_may_not_put_it_aside(
    table: SmallTable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(standing_back, "may_put_aside_others", lambda: False)
    with sandbox(table, tmp_path, when_idle=True) as one:
        assert one.ask("SELECT count(*) FROM actions").rows == [(3,)]
        (pid,) = one.pool.worker_pids()
        # The main thread, and DuckDB's, which were started after it had been set.
        assert pid in idle_threads(pid)
        assert len(idle_threads(pid)) >= SqlLimits().threads


def test_a_worker_loads_nothing_of_the_service() -> None:
    script = (
        f"import sys; sys.path.insert(0, {str(ROOT)!r}); import queries.sql.worker;"
        " early = set(sys.modules); import queries.sql.engine; print(sorted(early)); print(sorted(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-I", "-c", script], capture_output=True, text=True, check=True)
    early, late = (set(json.loads(line.replace("'", '"'))) for line in done.stdout.splitlines())
    # The first walls need a process with one thread, and these start more.
    assert not early & {"duckdb", "pyarrow", "numpy", "pandas", "polars"}
    assert not late & {"deltalake", "litestar", "uvicorn", "apsw", "polars", "sqlglot", "structlog", "storage.store"}
    assert not any(name.startswith("service") for name in late)


def test_a_setting_that_duckdb_does_not_take_stops_the_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = connection_module._setting

    def setting(connection: duckdb.DuckDBPyConnection, name: str) -> Any:
        return True if name == "enable_external_access" else real(connection, name)

    monkeypatch.setattr(connection_module, "_setting", setting)
    with pytest.raises(connection_module.SettingDiffers, match="enable_external_access"):
        connection_module.open_locked_connection(
            readable=(tmp_path,), spill_folder=tmp_path, memory_bytes_max=1 << 27, threads=1, temp_bytes_max=1 << 27
        )
