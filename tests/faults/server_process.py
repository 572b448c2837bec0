"""A real `actionlake serve`, started, asked, stopped and killed from outside, and the clients who use it."""

from __future__ import annotations

import http.client
import json
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode, urlsplit

from tests.faults.faulty_server import TAMPERING_VARIABLE
from tests.faults.history import TYPES, Action, Found, History, found_in_answer, submission_body
from tests.service.forked_service import ENVIRONMENT, ROOT, ForkedProcess

# Long, since a busy machine is no fault of the server.
_START_TIMEOUT_S: Final = 180.0
_REQUEST_TIMEOUT_S: Final = 120.0
_POLL_S: Final = 0.005
# A client that was refused, or whose connection broke, comes again after so long: many that did so at once would take
# the processor from the server that is to recover.
_COME_AGAIN_S: Final = 0.05
# What a message of a test says of a server's log: enough of its end to see what went wrong, and no more.
_TOLD_LINES: Final = 8
_TOLD_CHARACTERS_A_LINE: Final = 300
_PAGE_ROWS: Final = 997
_ACTIONS_A_SUBMISSION: Final = 3

# Everything that a server does over minutes happens within the second that a test gives it.
HASTY: Final = {
    "flush_interval_ms_max": "20",
    "flush_rows_max": "150",
    "flush_partitions_max": "3",
    "sql_workers": "1",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server answered."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """The body, decoded."""
        return json.loads(self.body)


class NoWorker(AssertionError):
    """A connection is held by no worker, for one since the worker that accepted it has died."""


class Server:
    """A process of `actionlake serve` on a port of its own choice, with its workers."""

    def __init__(
        self,
        data: Path,
        log: Path,
        *,
        workers: int = 1,
        settings: Mapping[str, str] = HASTY,
        prefix: Sequence[str] = (),
        namespaces: Sequence[str] = (),
        mistake: str | None = None,
        fault: Mapping[str, Any] | None = None,
        prepared: bool = True,
    ) -> None:
        """Start it; `await_start` waits until it serves.

        Args:
            data: the folder of the store.
            log: the file that its output is appended to.
            workers: how many processes serve.
            settings: name → value.
            prefix: begins its command.
            namespaces: what a prepared one enters first, see `tests.faults.namespaces`.
            mistake: of `tests.faults.broken_stores`, to be made by each of its processes.
            fault: what each of its processes calls `tests.faults.injected_faults.install` with.
            prepared: whether it is forked from a process that has imported what it needs; never with a prefix.
        """
        self._log = log
        self._log_begins = log.stat().st_size if log.exists() else 0
        flags = [part for name, value in settings.items() for part in ("--" + name.replace("_", "-"), value)]
        tampered = bool(mistake or fault)
        module = "tests.faults.faulty_server" if tampered else "service.cli"
        arguments = ["serve", "--data", str(data), "--port", "0"]
        arguments += ["--workers", str(workers), "--log-format", "json", *flags]
        environment = dict(ENVIRONMENT)
        if tampered:
            environment[TAMPERING_VARIABLE] = json.dumps({"mistake": mistake, "fault": fault})
        self.process: subprocess.Popen[bytes] | ForkedProcess
        with log.open("ab") as output:
            if prepared and not prefix:
                self.process = ForkedProcess(
                    module,
                    arguments,
                    output=output.fileno(),
                    environment=environment,
                    folder=ROOT,
                    namespaces=namespaces,
                )
            else:
                self.process = subprocess.Popen(
                    [*prefix, sys.executable, "-m", module, *arguments],
                    cwd=ROOT,
                    env=environment,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                )
        self.port = 0

    def await_start(self) -> None:
        """Wait until it has its port; requests are answered from then on, the first ones a little later.

        Raises:
            AssertionError: it ended, or did not start in time.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self.port:
            for entry in self.log_entries():
                words = str(entry.get("event", "")).split()
                if words[:1] == ["serving"]:
                    self.port = urlsplit(words[1]).port or 0
            assert self.process.poll() is None, f"the server ended: {self.told()}"
            assert time.monotonic() < deadline, f"the server did not start: {self.told()}"
            time.sleep(_POLL_S)

    def output(self) -> str:
        """All that this process and its workers have written."""
        with self._log.open("rb") as file:
            file.seek(self._log_begins)
            return file.read().decode(errors="replace")

    def told(self) -> str:
        """The last lines that it and its workers have written, for the message of a test that fails."""
        lines = [line[:_TOLD_CHARACTERS_A_LINE] for line in self.output().splitlines()[-_TOLD_LINES:]]
        return "\n".join(["its log ends:", *lines])

    def log_entries(self) -> list[dict[str, Any]]:
        """The entries of its log so far; lines that are no entries are passed over."""
        lines = self.output().split("\n")[:-1]
        return [json.loads(line) for line in lines if line.startswith("{")]

    def workers(self) -> set[int]:
        """The pids of its worker processes."""
        return self._descendants(b"spawn_main")

    def keeper(self) -> int:
        """The pid of its keeper.

        Raises:
            AssertionError: it has none, and none comes.
        """
        deadline = time.monotonic() + _START_TIMEOUT_S
        while True:
            for pid in self._descendants(b"keeper\0"):
                return pid
            assert time.monotonic() < deadline, f"there is no keeper: {self.told()}"
            time.sleep(_POLL_S)

    def _descendants(self, part: bytes) -> set[int]:
        """The pids of those whose command line holds *part*, but for what they started themselves.

        Until a child has become another program, it has the command line and the open files of its parent: a process
        for SQL looks like the worker that is about to start it.
        """
        found: set[int] = set()
        unseen = [self.process.pid]
        while unseen:
            pid = unseen.pop()
            try:
                if part in Path(f"/proc/{pid}/cmdline").read_bytes():
                    found.add(pid)
                    continue
                # A child is listed at the thread that started it.
                for task in Path(f"/proc/{pid}/task").iterdir():
                    unseen += map(int, (task / "children").read_text().split())
            except (FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
                continue
        return found

    @contextmanager
    def each_worker(self) -> Iterator[dict[int, http.client.HTTPConnection]]:
        """A connection to each of its worker processes, by pid; those that died meanwhile are not among them."""
        found: dict[int, http.client.HTTPConnection] = {}
        with ExitStack() as opened:
            deadline = time.monotonic() + _START_TIMEOUT_S
            while not (living := self.workers()) or living - found.keys():
                assert time.monotonic() < deadline, f"{found.keys() & living} of {living} answer; {self.told()}"
                # A worker that is killed between its accepting and its answering takes the connection with it.
                with suppress(ConnectionError, http.client.HTTPException, NoWorker):
                    connection = opened.enter_context(closing(self.connect_and_ask()))
                    found.setdefault(self.worker_of(connection), connection)
            yield {pid: connection for pid, connection in found.items() if pid in living}

    def connect_and_ask(self) -> http.client.HTTPConnection:
        """Open a connection that a worker has accepted."""
        connection = self.connect()
        assert ask(connection, "GET", "/health/live").status == 200
        return connection

    def worker_of(self, connection: http.client.HTTPConnection) -> int:
        """Find out which worker has accepted *connection*, by the socket that it holds.

        Raises:
            NoWorker: none of those that live.
        """
        ours = connection.sock.getsockname()[1]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
            _, local, remote, *_, inode = line.split()[:10]
            if int(local.split(":")[1], 16) == self.port and int(remote.split(":")[1], 16) == ours:
                for worker in self.workers():
                    if f"socket:[{inode}]" in set(_open_files(worker)):
                        return worker
        raise NoWorker(f"no worker holds the connection from port {ours}")

    def connect(self) -> http.client.HTTPConnection:
        """Open a connection, on which requests follow each other."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=_REQUEST_TIMEOUT_S)
        connection.connect()
        return connection

    def ask(self, method: str, path: str, body: bytes | None = None, **parameters: str | int) -> Answer:
        """Send one request on a connection of its own."""
        connection = self.connect()
        try:
            return ask(connection, method, path + ("?" + urlencode(parameters) if parameters else ""), body)
        finally:
            connection.close()

    def retrieve_all(self) -> list[Found]:
        """Retrieve everything that is stored, page by page."""
        found: list[Found] = []
        for action_type in TYPES:
            page: dict[str, Any] = {"next": ""}
            while page["next"] is not None:
                cursor = {"cursor": page["next"]} if page["next"] else {}
                answer = self.ask("GET", "/api/retrievelogs", logType=action_type, limit=_PAGE_ROWS, **cursor)
                assert answer.status == 200, answer
                page = answer.json()
                found += [found_in_answer(log) for log in page["logs"]]
        return found

    def kill(self) -> None:
        """Kill the process that was started with SIGKILL, and wait for it; workers are left to themselves."""
        self.process.kill()
        status = self.process.wait(_REQUEST_TIMEOUT_S)
        assert status == -signal.SIGKILL, f"the server had ended before it was killed: {status}: {self.told()}"

    def end(self) -> None:
        """Leave nothing of it behind, whatever has become of it: not even what is killed and still holds its locks."""
        with suppress(ProcessLookupError):
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait(_REQUEST_TIMEOUT_S)
        for pid in _group(self.process.pid):
            with suppress(ProcessLookupError):
                ends = os.pidfd_open(pid)
                try:
                    assert select.select([ends], [], [], _REQUEST_TIMEOUT_S)[0], f"{pid} was killed and does not end"
                finally:
                    os.close(ends)


def ask(connection: http.client.HTTPConnection, method: str, path: str, body: bytes | None = None) -> Answer:
    """Send one request on *connection* and read its answer."""
    headers = {"content-type": "application/json"} if body is not None else {}
    connection.request(method, path, body, headers)
    response = connection.getresponse()
    names = {name.lower(): value for name, value in response.getheaders()}
    return Answer(response.status, names, response.read())


def _group(leader: int) -> Iterator[int]:
    """The processes of a process group."""
    for folder in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
            # What follows the name, which may hold anything: state, parent, group.
            if int((folder / "stat").read_text().rpartition(")")[2].split()[2]) == leader:
                yield int(folder.name)


def _open_files(pid: int) -> Iterator[str]:
    try:
        links = list(Path(f"/proc/{pid}/fd").iterdir())
    except (FileNotFoundError, ProcessLookupError):  # It has ended meanwhile.
        return
    for link in links:
        with suppress(FileNotFoundError, ProcessLookupError):  # It was closed meanwhile.
            yield os.readlink(link)


@contextmanager
def serving(data: Path, log: Path, **options: Any) -> Iterator[Server]:
    """A server that has started, and is gone in the end with its workers; options as for `Server`."""
    server = Server(data, log, **options)
    try:
        server.await_start()
        yield server
    finally:
        server.end()


class Clients:
    """Clients of one server, each a thread with a connection and a user of its own, submitting without pause.

    Attributes:
        answers: how often each status was answered.
        refusals: answers that were no acknowledgement.
    """

    def __init__(self, server: Server, history: History, name: str, *, connections: int = 4, steadfast: bool) -> None:
        """Start them.

        Args:
            server: whom they talk to.
            history: where they note what they send, and what they are told.
            name: begins the names of their users.
            connections: how many.
            steadfast: whether a client goes on after a refusal or a broken connection, until `stop`. Otherwise it ends.
        """
        self._server = server
        self._history = history
        self._steadfast = steadfast
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self.acknowledged = 0
        self.refusals: list[Answer] = []
        self.broken_connections = 0
        self._threads = [
            threading.Thread(target=self._run, args=(f"{name}-{number}",), daemon=True) for number in range(connections)
        ]
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """Let each client finish its request, and end.

        Raises:
            Exception: what a client met that no fault explains.
        """
        self._stopping.set()
        self.join()

    def join(self) -> None:
        """Wait for the clients to end by themselves.

        Raises:
            Exception: what a client met that no fault explains.
        """
        for thread in self._threads:
            thread.join(2 * _REQUEST_TIMEOUT_S)
            assert not thread.is_alive(), "a client waits for an answer that does not come"
        if self._failure is not None:
            raise self._failure

    def await_acknowledged(self, count: int, *, timeout_s: float = _REQUEST_TIMEOUT_S) -> None:
        """Wait until so many submissions were acknowledged."""
        deadline = time.monotonic() + timeout_s
        while self.acknowledged < count:
            assert time.monotonic() < deadline, self._told(f"{self.acknowledged} of {count} acknowledged")
            assert any(thread.is_alive() for thread in self._threads), f"all clients ended; {self._server.told()}"
            time.sleep(_POLL_S)

    def await_refusals(self, count: int, *, timeout_s: float = _REQUEST_TIMEOUT_S) -> None:
        """Wait until so many submissions were refused."""
        deadline = time.monotonic() + timeout_s
        while len(self.refusals) < count:
            assert time.monotonic() < deadline, self._told(f"{len(self.refusals)} of {count} refused")
            time.sleep(_POLL_S)

    def _told(self, what: str) -> str:
        living = sum(thread.is_alive() for thread in self._threads)
        return (
            f"{what}, {living} clients left, {str(self.refusals[-1:])[:_TOLD_CHARACTERS_A_LINE]}; {self._server.told()}"
        )

    def _run(self, user: str) -> None:
        sequence = 0
        try:
            while not self._stopping.is_set():
                sequence = self._submit_until_it_breaks(user, sequence)
                if not self._steadfast:
                    return
                self._stopping.wait(_COME_AGAIN_S)
        except BaseException as failure:
            self._failure = failure
            raise

    def _submit_until_it_breaks(self, user: str, sequence: int) -> int:
        """Submit on one connection; return the first sequence number that was not sent."""
        connection: http.client.HTTPConnection | None = None
        try:
            connection = self._server.connect()
            while not self._stopping.is_set():
                actions = [Action(user, sequence + step) for step in range(_ACTIONS_A_SUBMISSION)]
                sequence += len(actions)
                self._history.send(actions)
                answer = ask(connection, "POST", "/api/submitlogs", submission_body(actions))
                self._note(actions, answer)
                if answer.status != 200:
                    break
        except (ConnectionError, http.client.HTTPException):
            self.broken_connections += 1
        finally:
            if connection is not None:
                connection.close()
        return sequence

    def _note(self, actions: Sequence[Action], answer: Answer) -> None:
        if answer.status == 200:
            assert answer.json() == {"status": "submitted", "accepted": len(actions), "rejected": []}
            self._history.acknowledge(actions)
            self.acknowledged += 1
            return
        self.refusals.append(answer)
        if answer.status == 507:
            self._history.refuse(actions)
