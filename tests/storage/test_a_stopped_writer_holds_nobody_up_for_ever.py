"""A process that is stopped while it writes to the journal keeps its turn; those that wait hear of it, and go on later.

Each test has a process that holds the journal's queue and is stopped by SIGSTOP, as in a frozen container.
"""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from storage.clock import system_now_us
from storage.errors import Overloaded, StoreError
from storage.group_commit import GroupCommitter
from storage.store import Store
from tests.storage.building import eventually, opened, positions, put, request, through
from tests.storage.test_writers_take_turns import HOLD, is_queued_for

SHORT_S = 0.2
FOR_EVER_S = 3600.0


class StoppedWriter:
    """A process that holds the queue of a store and does nothing."""

    def __init__(self, page: Path) -> None:
        command = [sys.executable, "-c", HOLD, str(page)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "holds\n"
        self._process.send_signal(signal.SIGSTOP)
        # It would leave the queue now, could it do anything.
        self._process.stdin.close()

    def go_on(self) -> None:
        """Let it leave the queue, and wait until it has."""
        self._process.send_signal(signal.SIGCONT)
        assert self._process.wait(120) == 0

    def end(self) -> None:
        """End it in any case."""
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()


@pytest.fixture
def stopped(store: Store) -> Iterator[StoppedWriter]:
    writer = StoppedWriter(store.paths.leader_page)
    yield writer
    writer.end()


def committer_for(store: Store, outcomes: dict[str, bytes | StoreError], *, turn_s_max: float) -> GroupCommitter:
    def deliver(told: list[tuple[Any, bytes | StoreError]]) -> None:
        for who, outcome in told:
            assert who not in outcomes, "told twice"
            outcomes[who] = outcome

    return GroupCommitter(
        store.journal,
        now_us=system_now_us,
        deliver=deliver,
        pending_bytes_max=request(1).size_bytes,
        on_commit=lambda requests, seconds: None,
        turn_s_max=turn_s_max,
    )


def refused_by(write: Callable[[], object]) -> None:
    with pytest.raises(Overloaded, match="busy for too long") as caught:
        write()
    assert caught.value.retry_after_s > 0


def waiting_threads() -> list[threading.Thread]:
    return [one for one in threading.enumerate() if one.name == "journal-queue"]


def test_requests_that_wait_are_refused_and_never_kept(store: Store, stopped: StoppedWriter) -> None:
    outcomes: dict[str, bytes | StoreError] = {}
    committer = committer_for(store, outcomes, turn_s_max=SHORT_S)
    for who in ("first", "second"):
        # There would be no room for the second if the first still counted as waiting.
        committer.submit(who, request(1, user="refused"))
        eventually(lambda who=who: who in outcomes)  # type: ignore[misc]
        assert isinstance(outcomes[who], Overloaded)
        assert outcomes[who].retry_after_s == 1  # type: ignore[union-attr]
    stopped.go_on()
    # The time is so short here that one of these may be refused, too.
    while not any(isinstance(outcome, bytes) for outcome in outcomes.values()):
        who = f"later {len(outcomes)}"
        committer.submit(who, request(1, user="kept"))
        eventually(lambda who=who: who in outcomes)  # type: ignore[misc]
    committer.close()
    assert [row.user_id for row in store.journal.read_tail(0)[1]] == ["kept"]
    assert not is_queued_for(store)


def test_without_a_limit_requests_would_wait_until_the_writer_goes_on(store: Store, stopped: StoppedWriter) -> None:
    """The control of the test above: it is the time that has them refused, and the stopped process that holds them."""
    outcomes: dict[str, bytes | StoreError] = {}
    committer = committer_for(store, outcomes, turn_s_max=FOR_EVER_S)
    committer.submit("waits", request(1))
    time.sleep(2 * SHORT_S)
    assert not outcomes
    stopped.go_on()
    eventually(lambda: isinstance(outcomes.get("waits"), bytes))
    committer.close()
    assert positions(store) == [1]


def test_everybody_else_who_writes_is_refused_and_waits_by_one_thread(
    store: Store, stopped: StoppedWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr("storage.journal_file.BUSY_TIMEOUT_S", SHORT_S)
        refused_by(lambda: put(store, 1))
        refused_by(lambda: store.journal.request_flush(0))
        refused_by(lambda: store.journal.record_durable(0))
    assert len(waiting_threads()) == 1
    assert positions(store) == []
    monkeypatch.setattr("storage.journal_file.BUSY_TIMEOUT_S", FOR_EVER_S)
    waits = threading.Thread(target=put, args=(store, 2))
    waits.start()
    assert waits.is_alive()
    stopped.go_on()
    waits.join(120)
    store.journal.record_durable(0)
    put(store, 1)
    assert positions(store) == through(3)
    eventually(lambda: not waiting_threads())
    assert not is_queued_for(store)


def test_what_was_left_behind_takes_nothing_when_the_writer_goes_on(
    store: Store, stopped: StoppedWriter, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as short:
        short.setattr("storage.journal_file.BUSY_TIMEOUT_S", SHORT_S)
        refused_by(lambda: put(store, 1))
    stopped.go_on()
    eventually(lambda: not waiting_threads())
    assert not is_queued_for(store)
    assert positions(store) == []


def test_a_store_closes_while_its_requests_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("storage.journal_file.BUSY_TIMEOUT_S", SHORT_S)
    store, _ = opened(tmp_path / "data")
    stopped = StoppedWriter(store.paths.leader_page)
    outcomes: dict[str, bytes | StoreError] = {}
    committer = committer_for(store, outcomes, turn_s_max=SHORT_S)
    committer.submit("waits", request(1))
    committer.close()
    assert isinstance(outcomes["waits"], Overloaded)
    store.close(flush=False)
    assert committer._thread.is_alive()
    stopped.go_on()
    eventually(lambda: not committer._thread.is_alive())
    stopped.end()
    again, _ = opened(tmp_path / "data")
    assert positions(again) == []
    again.close(flush=False)
