"""Processes that run a real store and can be killed at any moment.

Importing the libraries takes ten times as long as opening a store, so that one process, the spawner, imports them once
and forks for each run. It must never use deltalake itself, whose threads do not survive a fork.

A run reports through a pipe, line by line, each written whole by one system call:

    O                             the store is open
    S user first count            a submission is about to be handed over
    A user first count            it was acknowledged
    R user first count error      it was refused
    B                             a flush is about to commit
    C                             it has committed, and neither synced nor trimmed yet
    F                             a flush is done
    L error                       a flush has failed
    D JSON                        a row that is stored, when the run ends by itself
    E JSON                        the run itself failed, with its traceback
"""

from __future__ import annotations

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final, NoReturn

from tests.faults.history import Action, Found, History
from tests.faults.namespaces import enter

_PIPE_BYTES: Final = 1 << 20
_ANSWER_TIMEOUT_S: Final = 180.0
_MESSAGE_BYTES_MAX: Final = 4096
# The errors by which the store promises that nothing of a submission is kept.
NOTHING_KEPT: Final = ("DiskFull", "Overloaded")


@dataclass(frozen=True, slots=True)
class Run:
    """What a forked process is to do.

    Attributes:
        folder: of the store.
        name: begins the names of its users, so that no two runs send the same action.
        threads: how many clients submit at once, each waiting for its acknowledgements. With none the run opens the
            store, reports what is in it and ends.
        actions_max: the most actions of one submission.
        patience: whether a client goes on when it is told to come again later. Otherwise it ends at any refusal, and
            the run with the last of its clients.
        read_only: look into a store that another run holds, report what is in it, and end.
        holds_after_commit: whether a flush that has committed goes no further, so that a kill comes before its trim.
        mistake: of `tests.faults.broken_stores`, or None for the store as it is.
        fault: what to call `tests.faults.injected_faults.install` with.
        fault_from_start: whether that is done before the store is opened, or once it is open.
        namespaces: what it enters first, see `tests.faults.namespaces`.
    """

    folder: str
    name: str
    threads: int = 3
    actions_max: int = 3
    patience: bool = False
    read_only: bool = False
    holds_after_commit: bool = False
    mistake: str | None = None
    fault: dict[str, Any] = field(default_factory=dict)
    fault_from_start: bool = False
    namespaces: list[str] = field(default_factory=list)


class Spawner:
    """The process that forks runs, seen from the test."""

    def __init__(self, prefix: Sequence[str] = ()) -> None:
        """Start it by a command that *prefix* begins; the first `start` waits for its imports."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_TIMEOUT_S)
        root = Path(__file__).resolve().parents[2]
        command = [*prefix, sys.executable, "-m", "tests.faults.store_process", str(theirs.fileno())]
        self._process = subprocess.Popen(command, cwd=root, pass_fds=[theirs.fileno()])
        theirs.close()
        self._socket = ours
        # Tests run stores in several threads at once.
        self._lock = threading.Lock()

    def start(self, run: Run) -> RunningStore:
        """Fork a process for *run*."""
        reader, writer = os.pipe()
        try:
            pid = self._ask(json.dumps(asdict(run)), [writer])
        finally:
            os.close(writer)
        return RunningStore(pid, reader, self)

    def await_end(self, pid: int) -> int:
        """Wait for a run to be gone with all its locks, and return its status as `os.waitpid` does."""
        return self._ask(f"await {pid}", [])

    def _ask(self, message: str, descriptors: Sequence[int]) -> int:
        with self._lock:
            socket.send_fds(self._socket, [message.encode()], descriptors)
            return int(self._socket.recv(_MESSAGE_BYTES_MAX))

    def close(self) -> None:
        """End the spawner."""
        self._socket.close()
        self._process.wait(_ANSWER_TIMEOUT_S)


class RunningStore:
    """A forked process and what it has reported so far."""

    def __init__(self, pid: int, reader: int, spawner: Spawner) -> None:
        self.pid = pid
        self.opened = False
        self.refusals: list[str] = []
        self.failures: list[str] = []
        self.submissions_acknowledged = 0
        self.commits_begun = 0
        self.commits = 0
        self.flushes = 0
        self.flush_errors: list[str] = []
        self.rows: list[Found] = []
        self._reader = reader
        self._spawner = spawner
        self._rest = b""

    def read_for(self, history: History, *, seconds: float) -> bool:
        """Note its reports into *history* for that long; return whether it still runs."""
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0:
            if not self._read_once(history, left):
                return False
        return True

    def read_until(self, history: History, happened: Callable[[RunningStore], bool], *, timeout_s: float) -> bool:
        """Note its reports until something has *happened* or it has ended; return whether that happened."""
        deadline = time.monotonic() + timeout_s
        while not happened(self) and (left := deadline - time.monotonic()) > 0:
            if not self._read_once(history, left):
                break
        return happened(self)

    def kill(self, history: History) -> None:
        """Kill it with SIGKILL, note what it had reported by then, and wait for it to be gone.

        Raises:
            AssertionError: it had ended before, by itself.
        """
        os.kill(self.pid, signal.SIGKILL)
        status = self.await_end(history)
        assert not self.failures, self.failures[0]
        assert os.WIFSIGNALED(status), f"the run had ended before it was killed: {status}"
        assert os.WTERMSIG(status) == signal.SIGKILL, f"the run had ended before it was killed: {status}"

    def await_end(self, history: History) -> int:
        """Note its reports until it ends, and return its status as `os.waitpid` does."""
        while self._read_once(history, _ANSWER_TIMEOUT_S):
            pass
        os.close(self._reader)
        return self._spawner.await_end(self.pid)

    def read_to_the_end(self, history: History) -> list[Found]:
        """Note its reports until it ends by itself, and return the rows that it found stored.

        Raises:
            AssertionError: it failed.
        """
        status = self.await_end(history)
        assert not self.failures, self.failures[0]
        assert status == 0, f"the run ended with status {status}"
        return self.rows

    def _read_once(self, history: History, timeout_s: float) -> bool:
        ready, _, _ = select.select([self._reader], [], [], timeout_s)
        if not ready:
            return True
        block = os.read(self._reader, _PIPE_BYTES)
        *lines, self._rest = (self._rest + block).split(b"\n")
        for line in lines:
            self._note(line.decode(), history)
        return bool(block)

    def _note(self, line: str, history: History) -> None:
        kind, _, rest = line.partition(" ")
        match kind:
            case "O":
                self.opened = True
            case "B":
                self.commits_begun += 1
            case "C":
                self.commits += 1
            case "F":
                self.flushes += 1
            case "L":
                self.flush_errors.append(rest)
            case "D":
                user, sequence, whole, journal, position = json.loads(rest)
                self.rows.append(Found(Action(user, sequence), whole, (journal, position)))
            case "E":
                self.failures.append(json.loads(rest))
            case _:
                self._note_submission(kind, rest, history)

    def _note_submission(self, kind: str, rest: str, history: History) -> None:
        user, first, count, *error = rest.split(" ", 3)
        actions = [Action(user, int(first) + step) for step in range(int(count))]
        match kind:
            case "S":
                history.send(actions)
            case "A":
                history.acknowledge(actions)
                self.submissions_acknowledged += 1
            case "R":
                self.refusals.append(error[0])
                if error[0].startswith(NOTHING_KEPT):
                    history.refuse(actions)
            case _:
                raise ValueError(f"not a report: {kind} {rest}")


@contextmanager
def spawner(prefix: Sequence[str] = ()) -> Iterator[Spawner]:
    """The spawner of all tests of this process; with a *prefix* one of its own, which is closed in the end."""
    if not prefix:
        yield _shared()
        return
    one = Spawner(prefix)
    try:
        yield one
    finally:
        one.close()


_lock: Final = threading.Lock()
_spawners: Final[list[Spawner]] = []


def _shared() -> Spawner:
    with _lock:
        if not _spawners:
            _spawners.append(Spawner())
            atexit.register(_spawners[0].close)
        return _spawners[0]


# The spawner's side


def _serve(channel: socket.socket) -> None:
    _import_everything()
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES_MAX, 1)
        if not message:
            return
        if message.startswith(b"await "):
            _, status = os.waitpid(int(message.split()[1]), 0)
            channel.send(str(status).encode())
            continue
        child = os.fork()
        if child == 0:
            channel.close()
            _run_and_exit(Run(**json.loads(message)), descriptors[0])
        os.close(descriptors[0])
        channel.send(str(child).encode())


def _import_everything() -> None:
    import tests.faults.store_run
    from storage.schema import ActionSchema

    # The first empty table makes pyarrow import what converts from pandas, wherever that is installed.
    ActionSchema().table_schema.empty_table()
    del tests


def _run_and_exit(run: Run, reports: int) -> NoReturn:
    status = 1
    try:
        from tests.faults.store_run import perform

        enter(run.namespaces)
        perform(run, reports)
        status = 0
    except BaseException:  # noqa: BLE001 - whatever it is, the test must hear of it
        os.write(reports, b"E " + json.dumps(traceback.format_exc()[-2000:]).encode() + b"\n")
    finally:
        os._exit(status)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
