"""Several processes that serve one address, each with a share of the connections."""

from __future__ import annotations

import logging
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Final

import uvicorn
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

BACKLOG: Final = 2048

_log = logging.getLogger("actionlake.serve")


@contextmanager
def listening(host: str, port: int, *, listeners: int) -> Iterator[list[socket.socket]]:
    """Listen on an address, with several sockets among which the kernel spreads the connections evenly.

    Where the kernel does not do that, there is one socket, however many are asked for.

    Raises:
        OSError: the address cannot be bound, for one because somebody else listens there.
    """
    spread = listeners > 1 and sys.platform == "linux"
    if spread:
        # Sockets that share an address would share it with another service of the same user as well.
        with closing(_bound(host, port, shared=False)) as probe:
            port = probe.getsockname()[1]
    with ExitStack() as opened:
        sockets = [opened.enter_context(_bound(host, port, shared=spread)) for _ in range(listeners if spread else 1)]
        for one in sockets:
            one.listen(BACKLOG)
            one.set_inheritable(True)
        yield sockets


def _bound(host: str, port: int, *, shared: bool) -> socket.socket:
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind((host, port))
    except BaseException:
        listener.close()
        raise
    return listener


class Workers(Multiprocess):
    """uvicorn's supervisor, with a listener for each worker.

    Workers that share a listener do not share its connections evenly: whichever is awake takes all that wait. One of
    two was measured to have four fifths of the work. The listeners are the supervisor's, so that connections to a
    worker that died wait for the one that replaces it.
    """

    def __init__(self, config: uvicorn.Config, listeners: Sequence[socket.socket]) -> None:
        super().__init__(config, sockets=[])
        # Where there are fewer listeners than workers, workers share.
        self._listeners = [listeners[number % len(listeners)] for number in range(config.workers)]

    def init_processes(self) -> None:
        """Start a worker for each listener."""
        self.processes_num = 1
        for listener in self._listeners:
            self.sockets = [listener]
            super().init_processes()
            _hear_of_its_end(self.processes[-1])

    def keep_subprocess_alive(self) -> None:
        """Replace each worker that has died or does not answer."""
        for place in self._places():
            super().keep_subprocess_alive()
            self._took(place)

    def restart_all(self) -> None:
        """Replace one worker after the other, as SIGHUP asks."""
        for place in self._places():
            super().restart_all()
            self._took(place)

    def handle_ttin(self) -> None:
        """Leave the number of workers as it is: each has its listener."""
        _log.warning("the number of workers is the setting `workers`; SIGTTIN and SIGTTOU do not change it")

    handle_ttou = handle_ttin

    def _places(self) -> Iterator[int]:
        """Show the base class one worker and its listener at a time."""
        self._all = self.processes
        try:
            for place, listener in enumerate(self._listeners):
                self.processes, self.sockets = [self._all[place]], [listener]
                yield place
        finally:
            self.processes = self._all

    def _took(self, place: int) -> None:
        self._all[place] = self.processes[0]
        _hear_of_its_end(self.processes[0])


def _hear_of_its_end(worker: Process) -> None:
    """Let a worker's end close the pipe that it is asked through; without effect on one that was seen to already.

    As long as this process holds the worker's end of it too, a worker that dies with a question unanswered, as one
    that still starts, is waited for until the time-out: a minute in which nobody takes its connections.
    """
    worker.child_conn.close()
