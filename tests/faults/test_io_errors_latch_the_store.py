"""A failed write or fsync latches the store: no submission is taken any more, reads go on, and a restart recovers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import pytest

from storage.latch import Latch
from storage.paths import StorePaths
from tests.faults.effort import repetitions
from tests.faults.history import Action, History, submission_body
from tests.faults.injected_faults import DATABASE_WRITE, FSYNC
from tests.faults.server_process import Clients, ask, serving
from tests.faults.store_process import Run, Spawner, spawner
from tests.faults.traced_faults import can_trace, failing_syncs

_TRACED: Final = can_trace()


def _fail_once(processes: Spawner, run: Run, history: History) -> None:
    """Let a run meet its fault, and check all that holds from then on, until a restart."""
    running = processes.start(run)
    found = running.read_to_the_end(history)
    assert running.refusals, "no client was refused"
    assert {text.split(":")[0] for text in running.refusals} == {"StoreFailed"}
    assert Latch(StorePaths.of(run.folder).latch).reason is not None, "the store is not latched"
    assert history.acknowledged <= {row.action for row in found}, "a read after the failure misses actions"


def _recover(processes: Spawner, folder: Path, history: History) -> str:
    """Restart without a fault and check everything; return the figures."""
    found = processes.start(Run(str(folder), "recovery", threads=0)).read_to_the_end(history)
    assert Latch(StorePaths.of(folder).latch).reason is None, "a restart has not cleared the latch"
    violations = history.judge(found)
    assert not violations, str(violations)
    return f"{len(history.acknowledged)} actions acknowledged, {len(found)} found after the restart"


@pytest.mark.parametrize(("call", "step"), [(FSYNC, 1), (DATABASE_WRITE, 5)])
def test_every_failing_call_latches_the_store(
    call: str, step: int, tmp_path: Path, figures: Callable[[str], None]
) -> None:
    """Let the N-th fsync of the flush, or write of the database, fail, for one N after the other."""
    history = History()
    cycles = repetitions(suite=8, long=400)
    with spawner() as processes:
        for at in range(1, cycles * step + 1, step):
            fault = {"error": "EIO", "calls": [call], "at": at}
            _fail_once(processes, Run(str(tmp_path), f"client-{at}", fault=fault), history)
            last = _recover(processes, tmp_path, history)
    figures(f"{cycles} failures of {call}: {last}")
    assert history.acknowledged, "nothing was acknowledged before any failure"


if _TRACED:

    @pytest.mark.parametrize("at", [20, 45])
    def test_a_failing_fsync_of_the_journal_latches_the_store(
        at: int, tmp_path: Path, figures: Callable[[str], None]
    ) -> None:
        """Let the fsync of a group commit fail by the kernel's tracing interface, once; the next would succeed."""
        history = History()
        journal = StorePaths.of(tmp_path).journal
        log = tmp_path / "trace"
        with spawner() as processes:
            assert not processes.start(Run(str(tmp_path), "creation", threads=0)).read_to_the_end(history)
            with spawner(failing_syncs(journal.with_name(f"{journal.name}-wal"), at=at, log=log)) as traced:
                _fail_once(traced, Run(str(tmp_path), "client"), history)
            last = _recover(processes, tmp_path, history)
        failed = log.read_text().count("(INJECTED)")
        figures(f"{failed} fsync failed, the {at}th of its thread: {last}")
        assert failed
        assert history.acknowledged


def test_the_control_notices_a_store_that_is_not_latched(tmp_path: Path) -> None:
    """The same over a store that forgets that a write failed."""
    fault = {"error": "EIO", "calls": [DATABASE_WRITE], "at": 20}
    forgetful = Run(str(tmp_path), "client", mistake="forget_that_a_write_failed", fault=fault)
    with spawner() as processes, pytest.raises(AssertionError, match="not latched"):
        _fail_once(processes, forgetful, History())


_KINDS: Final = ["injected", "traced"] if _TRACED else ["injected"]


@pytest.mark.parametrize("kind", _KINDS)
def test_the_server_is_latched_for_every_worker(kind: str, tmp_path: Path, figures: Callable[[str], None]) -> None:
    """One write of one process fails, once: both workers answer 503 from then on, and both go on reading.

    What is traced fails by a count, which a submission may never wait for: the keeper, whose flushes sync as well, may
    come to it before many submissions were acknowledged. It cannot before the first was.
    """
    history = History()
    data, log, now = tmp_path / "data", tmp_path / "log", tmp_path / "now"
    journal = StorePaths.of(data).journal
    options: dict[str, Any] = {"fault": {"error": "EIO", "calls": [DATABASE_WRITE], "once": str(now)}}
    if kind == "traced":
        options = {"prefix": failing_syncs(journal.with_name(f"{journal.name}-wal"), at=60, log=tmp_path / "trace")}
    with serving(data, log, workers=2, **options) as server:
        clients = Clients(server, history, "client", connections=6, steadfast=True)
        clients.await_acknowledged(1)
        now.touch()
        clients.await_refusals(1)
        with server.each_worker() as connections:
            assert len(connections) == 2
            for worker, connection in connections.items():
                answer = ask(connection, "POST", "/api/submitlogs", submission_body([Action(f"late-{worker}", 0)]))
                assert answer.status == 503, answer
                assert answer.headers["content-type"] == "application/problem+json"
                ready = ask(connection, "GET", "/health/ready")
                assert ready.status == 503
                assert "journal" in ready.json()["reason"]
                assert ask(connection, "GET", "/health/live").status == 200
        clients.stop()
        assert {refusal.status for refusal in clients.refusals} == {503}
        found = server.retrieve_all()
        assert history.acknowledged <= {row.action for row in found}, "a retrieval after the failure misses actions"
    with serving(data, log, workers=2) as server:
        found = server.retrieve_all()
        violations = history.judge(found)
        assert server.ask("GET", "/health/ready").status == 200
        assert server.ask("POST", "/api/submitlogs", submission_body([Action("again", 0)])).status == 200
    figures(
        f"{len(clients.refusals)} submissions answered 503, {len(history.acknowledged)} actions acknowledged,"
        f" {len(found)} found after the restart; violations: {violations}"
    )
    assert not violations, str(violations)
    assert history.acknowledged
