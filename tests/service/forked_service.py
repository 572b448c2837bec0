"""Processes of `actionlake` for tests, forked from one that has imported what they need.

A start is mostly imports, and tests start dozens of services. Nothing else is shared: the process that forks only
imports and opens no store, and what is forked becomes the leader of a session, with the arguments,
the environment, the folder and the output that it is given. The keeper and the workers of a service are forked as well
(`tests.service.spare_processes`); those for SQL, and all others that it starts, are started as they always are, those
for SQL when they are needed (`tests.service.sql_when_asked`).

Starts themselves are tested in processes of their own, see `prepared` in `tests.faults.server_process`.
"""

from __future__ import annotations

import atexit
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Final, NoReturn

from tests.faults.namespaces import enter

ROOT: Final = Path(__file__).resolve().parents[2]
# As a service that was installed for use finds it: without pandas.
ENVIRONMENT: Final = {**os.environ, "PYTHONPATH": str(ROOT / "tests" / "faults" / "not_installed")}
_ANSWER_TIMEOUT_S: Final = 120.0
_MESSAGE_BYTES_MAX: Final = 1 << 17
_IMPORTED: Final = (
    "service.cli",
    "service.live_settings",
    "service.server",
    "service.app",
    "service.keyring",
    "tests.service.spare_processes",
    "tests.service.sql_when_asked",
)


class ForkedProcess:
    """A process that was forked, used like a `subprocess.Popen`.

    Attributes:
        pid: of the process, which is the leader of a session of its own.
        returncode: as of `subprocess.Popen`: None until `poll` or `wait` has found that it ended.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        *,
        output: int,
        environment: Mapping[str, str],
        folder: Path,
        namespaces: Sequence[str] = (),
    ) -> None:
        """Run *module* as `python -m` does, with *output* as its standard output and standard error.

        Args:
            module, arguments, output, environment, folder: of the process.
            namespaces: what it enters first, see `tests.faults.namespaces`.
        """
        self.returncode: int | None = None
        what = {
            "module": module,
            "arguments": list(arguments),
            "environment": dict(environment),
            "folder": str(folder),
            "namespaces": list(namespaces),
        }
        self.pid = _forking().ask(json.dumps(what), [output])
        self._ends = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        """Look whether it has ended."""
        if self.returncode is None and select.select([self._ends], [], [], 0)[0]:
            self._take_status()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it has not ended in time.
        """
        if self.returncode is None:
            if not select.select([self._ends], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(str(self.pid), timeout or 0.0)
            self._take_status()
        assert self.returncode is not None
        return self.returncode

    def _take_status(self) -> None:
        self.returncode = os.waitstatus_to_exitcode(_forking().ask(f"await {self.pid}", []))
        os.close(self._ends)

    def send_signal(self, number: int) -> None:
        """Send it a signal, unless it is known to have ended."""
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """Send it SIGKILL, unless it is known to have ended."""
        self.send_signal(signal.SIGKILL)


class _Forking:
    """The process that forks, seen from the tests."""

    def __init__(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.settimeout(_ANSWER_TIMEOUT_S)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", __name__, str(theirs.fileno())],
                cwd=ROOT,
                env=ENVIRONMENT,
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
            )
        self._socket = ours
        self._lock = threading.Lock()
        atexit.register(self._close)

    def ask(self, message: str, descriptors: Sequence[int]) -> int:
        with self._lock:
            socket.send_fds(self._socket, [message.encode()], descriptors)
            return int(self._socket.recv(_MESSAGE_BYTES_MAX))

    def _close(self) -> None:
        self._socket.close()
        self._process.wait()


_lock = threading.Lock()
_processes: list[_Forking] = []


def _forking() -> _Forking:
    """The one of this test process; it is started when it is first needed, and ends with it."""
    with _lock:
        if not _processes:
            _processes.append(_Forking())
        return _processes[0]


# The side of the process that forks


def _serve(channel: socket.socket) -> None:
    for name in _IMPORTED:
        importlib.import_module(name)
    # What a process that is forked does not touch, it need not copy.
    gc.collect()
    gc.freeze()
    while True:
        message, descriptors, _, _ = socket.recv_fds(channel, _MESSAGE_BYTES_MAX, 1)
        if not message:
            return
        if message.startswith(b"await "):
            _, status = os.waitpid(int(message.split()[1]), 0)
            channel.send(str(status).encode())
            continue
        leads, begun = os.pipe()
        child = os.fork()
        if child == 0:
            os.setsid()
            channel.close()
            os.close(leads)
            os.close(begun)
            _become(descriptors[0], **json.loads(message))
        os.close(descriptors[0])
        os.close(begun)
        # Whoever is told of the process may signal its group.
        os.read(leads, 1)
        os.close(leads)
        channel.send(str(child).encode())


def _become(
    output: int,
    *,
    module: str,
    arguments: Sequence[str],
    environment: Mapping[str, str],
    folder: str,
    namespaces: Sequence[str],
) -> NoReturn:
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    enter(namespaces)
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # Not imported by the tests themselves.
    from tests.service.spare_processes import lay_in_spares, run_anew
    from tests.service.sql_when_asked import start_sql_when_asked

    sys.argv = ["actionlake", *arguments]
    if arguments[:1] == ["serve"]:
        start_sql_when_asked()
        workers = dict(pairwise(arguments)).get("--workers", "1")
        if environment.get("PYTHONPATH") == ENVIRONMENT["PYTHONPATH"]:
            lay_in_spares(int(workers), _run)
        else:
            # Workers are started anew, with this process's path, and find what the process that forks does without.
            sys.path.remove(ENVIRONMENT["PYTHONPATH"])
    _run(partial(run_anew, module))


def _run(program: Callable[[], object]) -> NoReturn:
    """Run a program, and end this process as it ends."""
    status = 0
    try:
        program()
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else end.code is not None
    except BaseException:  # noqa: BLE001 - as at the end of any process
        traceback.print_exc()
        status = 1
    # What an interpreter does at its end, but for taking modules apart: DuckDB's would wait for a thread of the
    # process that imported it.
    threading._shutdown()  # type: ignore[attr-defined]  # not private to whoever ends an interpreter
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    _serve(socket.socket(fileno=int(sys.argv[1])))
