"""SIGTERM drains and flushes, one service holds a folder, and its workers see the same rows and replace each other."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Final

import pytest

from storage.opening import read_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from tests.faults.effort import repetitions
from tests.faults.history import Action, History, found_in_answer, submission_body
from tests.faults.server_process import Clients, Server, ask, serving
from tests.faults.stored_rows import StoredRows
from tests.machine_delay import MachineDelay, machine_delay
from tests.service.forked_service import ENVIRONMENT, ROOT

# The bound that is tested is the setting itself: a server that does not drain waits for all of it.
_SHUTDOWN_TIMEOUT_S: Final = 30
_PATIENCE_S: Final = 180
# Nothing is flushed by age or size in these tests: what is in the table was flushed because it was asked for.
_PATIENT: Final = {"flush_interval_ms_max": "3600000", "shutdown_timeout_ms_max": str(_SHUTDOWN_TIMEOUT_S * 1000)}


def _check_drained(data: Path, history: History) -> None:
    """Check that all is in the table, nothing in the journal alone, and nothing acknowledged lost."""
    store = read_store(StorePaths.of(data), ActionSchema())
    try:
        view = store.read_view()
    finally:
        store.close(flush=False)
    assert view.hot.num_rows == 0, f"{view.hot.num_rows} actions were left in the journal"
    violations = history.judge(StoredRows().of(view))
    assert not violations, str(violations)


@pytest.fixture(scope="module")
def delay() -> Iterator[MachineDelay]:
    """How long the machine makes a server wait."""
    with machine_delay() as measured:
        yield measured


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_drains_flushes_and_exits(
    workers: int, delay: MachineDelay, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    """Send SIGTERM under load; the server answers what it has taken, flushes it and exits 0 in time."""
    history = History()
    seconds: list[float] = []
    statuses: set[int] = set()
    for number in range(repetitions(suite=1, long=50)):
        with serving(tmp_path / "data", tmp_path / "log", workers=workers, settings=_PATIENT) as server:
            clients = Clients(server, history, f"run-{number}", steadfast=False)
            clients.await_acknowledged(30)
            server.process.send_signal(signal.SIGTERM)
            seconds.append(delay.seconds(lambda: server.process.wait(_PATIENCE_S)))
            status = server.process.wait()
            clients.join()
            statuses |= {refusal.status for refusal in clients.refusals}
            assert status == 0, server.told()
        _check_drained(tmp_path / "data", history)
    assert statuses <= {503}
    assert max(seconds) < _SHUTDOWN_TIMEOUT_S
    figures(
        f"{len(seconds)} times, {len(history.acknowledged)} of {len(history.sent)} actions acknowledged,"
        f" the slowest end took {max(seconds):.2f} s"
    )


@pytest.mark.parametrize("workers", [1, 2])
def test_sigterm_is_never_lost_while_the_server_starts(
    workers: int, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    """Send SIGTERM at moments of the start; the server ends in time, by itself or by the signal."""
    statuses: list[int] = []
    for number in range(repetitions(suite=2, long=60)):
        with serving(tmp_path / "data", tmp_path / "log", workers=workers, settings=_PATIENT, prepared=False) as server:
            time.sleep(number % 6 * 0.03)
            server.process.send_signal(signal.SIGTERM)
            statuses.append(server.process.wait(_PATIENCE_S))
    figures(f"{len(statuses)} times; exit statuses {sorted(set(statuses))}")
    assert set(statuses) <= {0, -signal.SIGTERM}


def test_the_control_notices_a_server_that_does_not_drain(tmp_path: Path) -> None:
    """The same with SIGKILL, after which nothing is drained or flushed."""
    history = History()
    with serving(tmp_path / "data", tmp_path / "log", settings=_PATIENT) as server:
        clients = Clients(server, history, "run", steadfast=False)
        clients.await_acknowledged(30)
        server.kill()
        clients.join()
    with pytest.raises(AssertionError, match="left in the journal"):
        _check_drained(tmp_path / "data", history)


@pytest.fixture(scope="module")
def two_workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, Path]]:
    """A server with two workers, and its data folder; the tests below share it."""
    folder = tmp_path_factory.mktemp("two-workers")
    with serving(folder / "data", folder / "log", workers=2) as server:
        yield server, folder / "data"


def _actionlake(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "service.cli", *arguments]
    return subprocess.run(
        command, cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=_PATIENCE_S, check=False
    )


def test_a_second_service_says_who_holds_the_folder(two_workers: tuple[Server, Path]) -> None:
    """It ends at once, with an error that names the process and its address, and touches nothing."""
    server, data = two_workers
    second = _actionlake("serve", "--data", str(data), "--port", "0")
    assert second.returncode == 1
    assert f"pid {server.process.pid}" in second.stderr
    assert f"http://127.0.0.1:{server.port}" in second.stderr
    assert server.ask("GET", "/health/ready").status == 200


def test_connections_are_spread_over_the_workers(two_workers: tuple[Server, Path], tmp_path: Path) -> None:
    """Each of two gets its share of 60, and no other service gets any by listening on the same port."""
    server, _ = two_workers
    with server.each_worker(), ExitStack() as opened:
        shares = Counter(server.worker_of(opened.enter_context(closing(server.connect_and_ask()))) for _ in range(60))
    assert shares.keys() == server.workers()
    assert min(shares.values()) >= 10, shares
    other = _actionlake("serve", "--data", str(tmp_path / "data"), "--port", str(server.port), "--workers", "2")
    assert other.returncode == 1
    assert "in use" in other.stderr


def _stale_reads(server: Server, name: str, pairs: int) -> int:
    """Submit to one worker and retrieve from the other, in turn; count how often the action was not there."""
    stale = 0
    with server.each_worker() as workers:
        connections = list(workers.values())
        assert len(connections) == 2
        for number in range(pairs):
            action = Action(f"{name}-{number % 10}", number)
            first, second = connections if number % 2 else reversed(connections)
            assert ask(first, "POST", "/api/submitlogs", submission_body([action])).status == 200
            answer = ask(second, "GET", f"/api/retrievelogs?userId={action.user}")
            assert answer.status == 200
            stale += action not in {found_in_answer(log).action for log in answer.json()["logs"]}
    return stale


def test_every_worker_reads_every_acknowledged_action_at_once(
    two_workers: tuple[Server, Path], figures: Callable[[str], None]
) -> None:
    """What one worker acknowledged, the next retrieval from the other has, while flushes go on."""
    server, _ = two_workers
    pairs = repetitions(suite=200, long=20_000)
    stale = _stale_reads(server, "pair", pairs)
    flushed = int(server.ask("GET", "/api/retrievelogs", userId="pair-0").headers["actionlake-total-files"])
    figures(f"{pairs} actions submitted to one worker and read from the other, {stale} missed; {flushed} files")
    assert stale == 0
    assert flushed, "no flush went on meanwhile"


def test_the_control_notices_stale_reads(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """The same over workers whose reads may be as old as nine others."""
    with serving(tmp_path / "data", tmp_path / "log", workers=2, mistake="read_what_was_read_a_moment_ago") as server:
        stale = _stale_reads(server, "pair", 20)
    figures(f"20 actions read from the other worker, {stale} missed")
    assert stale


def test_no_worker_logs_requests(two_workers: tuple[Server, Path]) -> None:
    """Their addresses name users, whom an erasure does not find in a log."""
    server, _ = two_workers
    with server.each_worker() as workers:
        for connection in workers.values():
            assert ask(connection, "GET", "/api/retrievelogs?userId=nobody-to-log").status == 200
    assert "serving http" in server.output()
    assert "nobody-to-log" not in server.output()
    assert "HTTP/1.1" not in server.output()


def test_sql_and_status_work_beside_the_service(two_workers: tuple[Server, Path]) -> None:
    """Commands on the folder that a service holds see all that is acknowledged, flushed or not."""
    server, data = two_workers
    actions = [Action("sql", number) for number in range(40)]
    assert server.ask("POST", "/api/submitlogs", submission_body(actions)).status == 200
    query = "select count(*) as n, count(distinct position) as places from actions where user_id = 'sql'"
    told = _actionlake("sql", query, "--data", str(data), "--format", "csv")
    assert (told.returncode, told.stdout.split()) == (0, ["n,places", "40,40"]), told.stderr
    told = _actionlake("status", "--data", str(data), "--json")
    assert told.returncode == 0, told.stderr
    store = read_store(StorePaths.of(data), ActionSchema())
    try:
        head = store.journal.state().head
    finally:
        store.close(flush=False)
    assert head >= 40
    assert str(head) in json.dumps(json.loads(told.stdout))


def test_a_killed_worker_and_a_killed_keeper_are_replaced(
    two_workers: tuple[Server, Path], figures: Callable[[str], None]
) -> None:
    """Kill the process that flushes, and a worker: new ones join, what was asked for is flushed, nothing is lost."""
    server, data = two_workers
    before = [Action("before", number) for number in range(20)]
    after = [Action("after", number) for number in range(20)]
    with server.each_worker() as connections:
        keeper = server.keeper()
        assert StorePaths.of(data).leader_lock.read_text() == f"pid {keeper}"
        victim, survivor = connections
        assert ask(connections[victim], "POST", "/api/submitlogs", submission_body(before)).status == 200
        os.kill(keeper, signal.SIGKILL)
        os.kill(victim, signal.SIGKILL)
        started = time.monotonic()
        assert ask(connections[survivor], "POST", "/api/submitlogs", submission_body(after)).status == 200
        assert ask(connections[survivor], "POST", "/api/flush", b"").status == 200
        flushed_s = time.monotonic() - started
    assert server.keeper() != keeper
    while victim in server.workers() or len(server.workers()) < 2:
        assert time.monotonic() < started + _PATIENCE_S, server.told()
        time.sleep(0.02)
    with server.each_worker() as connections:
        replaced_s = time.monotonic() - started
        for connection in connections.values():
            for actions in (before, after):
                logs = ask(connection, "GET", f"/api/retrievelogs?userId={actions[0].user}").json()["logs"]
                assert sorted(found_in_answer(log).action for log in logs) == actions
    figures(f"a new keeper flushed {flushed_s:.2f} s after the kill, a new worker answered after {replaced_s:.2f} s")


def test_signals_do_not_end_the_keeper_and_its_services_death_does(tmp_path: Path) -> None:
    """It leaves the signals that end a service to its parent, and ends at once when that is killed."""
    with serving(tmp_path / "data", tmp_path / "log", settings=_PATIENT) as server:
        # With something to flush, so that the keeper has begun its work once that is answered.
        assert server.ask("POST", "/api/submitlogs", submission_body([Action("none", 0)])).status == 200
        assert server.ask("POST", "/api/flush", b"").status == 200
        keeper = server.keeper()
        for number in (signal.SIGTERM, signal.SIGINT):
            os.kill(keeper, number)
        assert server.ask("POST", "/api/submitlogs", submission_body([Action("one", 0)])).status == 200
        assert server.ask("POST", "/api/flush", b"").status == 200
        assert server.keeper() == keeper
        server.kill()
        deadline = time.monotonic() + _PATIENCE_S
        while Path(f"/proc/{keeper}").exists() and Path(f"/proc/{keeper}/cmdline").read_bytes():
            assert time.monotonic() < deadline, "the keeper lives on without its service"
            time.sleep(0.02)
