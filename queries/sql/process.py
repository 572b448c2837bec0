"""One worker process, as the service sees it: started, given snapshots, spoken to, ended."""

from __future__ import annotations

import contextlib
import select
import shutil
import socket
import subprocess
import sys
import threading
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import pyarrow as pa

from queries.sql.channel import Channel, ChannelClosed, encode_frame
from queries.sql.errors import SqlWorkerDied
from queries.sql.handover import HotSender
from queries.sql.messages import FromWorker, NotReady, Ready, Start, UseErased, UseTable
from queries.sql.request import SqlLimits, TableView
from queries.sql.walls.report import IsolationReport
from storage.erased_rows import NOTHING_ERASED

_SOURCE_FOLDER: Final = Path(__file__).resolve().parents[2]
# The worker loads the very code that its service runs, wherever that is, and takes nothing else from its surroundings.
_BOOTSTRAP: Final = "import sys; sys.path.insert(0, sys.argv.pop()); from queries.sql.worker import main; main()"
_FRAME_BESIDE_RESULT_BYTES: Final = 1 << 24
_STANDARD_ERROR_BYTES_SHOWN: Final = 4_096

Frame = list[bytes | memoryview]


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """What every worker of a pool is started with."""

    data_folder: Path
    temp_folder: Path
    limits: SqlLimits
    schema: pa.Schema
    views: Mapping[str, str]
    macros: Mapping[str, str]
    walls: frozenset[str]
    niceness: int
    when_idle: bool
    start_timeout_s: float


@dataclass(slots=True)
class FileFrames:
    """A snapshot's files and columns as a frame, made once for all workers."""

    data_folder: Path
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _last: tuple[TableView, Frame] | None = None

    def of(self, view: TableView) -> Frame:
        """Return the frame.

        Raises:
            ValueError: a file is not below the data folder.
        """
        with self._lock:
            if self._last is None or not _same_files(self._last[0], view):
                self._last = (view, self._encode_files(view))
            return self._last[1]

    def _encode_files(self, view: TableView) -> Frame:
        prefix = f"{self.data_folder}/"
        for file in view.files:
            if not file.path.startswith(prefix):
                raise ValueError(f"{file.path} is not below {self.data_folder}")
        files = [
            (one.path, one.size_bytes, one.date.toordinal(), one.type, one.time_min_us, one.time_max_us)
            for one in view.files
        ]
        views = None if view.views is None else dict(view.views)
        return encode_frame(UseTable(files, views), memoryview(view.schema.serialize()))


@dataclass(frozen=True, slots=True)
class LostWorker:
    """A worker that ended or was ended; for logs, not for users.

    Attributes:
        pid: of its process; None if none could be started.
        exit_status: negative for a signal; None if none could be started.
        standard_error: the last that it wrote there, or why none could be started.
    """

    pid: int | None
    exit_status: int | None
    standard_error: str


class WorkerProcess:
    """A started process. `wait_until_ready` must be called before anything else is said to it.

    The thread that makes this object must outlive it: the kernel ends a worker when that thread ends.
    """

    def __init__(self, settings: WorkerSettings) -> None:
        self._settings = settings
        self._folder = settings.temp_folder / f"worker-{uuid.uuid4().hex}"
        (self._folder / "root").mkdir(parents=True)
        self._view: TableView | None = None
        self._hot = HotSender()
        self._erased = NOTHING_ERASED
        self._socket, theirs = socket.socketpair()
        self._standard_error_path = settings.temp_folder / f"{self._folder.name}.err"
        try:
            with theirs:
                self._process = self._spawn(theirs)
        except OSError:
            self._socket.close()
            shutil.rmtree(self._folder)
            raise
        self.channel: Channel[FromWorker] = Channel(
            self._socket.fileno(),
            FromWorker,
            payload_bytes_max=settings.limits.result_bytes_max + _FRAME_BESIDE_RESULT_BYTES,
            allocate=pa.allocate_buffer,
        )

    def _spawn(self, theirs: socket.socket) -> subprocess.Popen[bytes]:
        with self._standard_error_path.open("wb") as standard_error:
            return subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-c", _BOOTSTRAP, str(theirs.fileno()), str(_SOURCE_FOLDER)],
                env={},
                cwd="/",
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=standard_error,
                pass_fds=[theirs.fileno()],
                # Not a session of its own: Linux shares processors between sessions first, whatever their priorities.
                process_group=0,
            )

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._process.pid

    @property
    def alive(self) -> bool:
        """Whether the process has not ended."""
        return self._process.poll() is None

    def wait_until_ready(self) -> IsolationReport:
        """Wait until the worker's walls stand.

        Raises:
            SqlWorkerDied: it cannot start, or takes too long; it is ended.
        """
        settings = self._settings
        start = Start(
            data_folder=str(settings.data_folder),
            temp_folder=str(self._folder),
            memory_bytes_max=settings.limits.memory_bytes_max,
            threads=settings.limits.threads,
            temp_bytes_max=settings.limits.temp_bytes_max,
            views=dict(settings.views),
            macros=dict(settings.macros),
            walls=sorted(settings.walls),
            niceness=settings.niceness,
            when_idle=settings.when_idle,
        )
        try:
            self.channel.send(start, memoryview(settings.schema.serialize()))
            answer = self._first_message()
        except ChannelClosed as error:
            lost = self.reap()
            self.close()
            raise SqlWorkerDied(f"a worker did not start: {error}\n{lost.standard_error}") from error
        if isinstance(answer, Ready):
            return answer.isolation
        self.reap()
        self.close()
        why = answer.message if isinstance(answer, NotReady) else "it began with an unexpected message"
        raise SqlWorkerDied(f"a worker did not start: {why}")

    def _first_message(self) -> FromWorker:
        poll = select.poll()
        poll.register(self._socket, select.POLLIN)
        if not poll.poll(self._settings.start_timeout_s * 1000):
            raise ChannelClosed(f"not ready after {self._settings.start_timeout_s:g} s")
        message, _ = self.channel.receive()
        return message

    def has(self, view: TableView) -> bool:
        """Whether the worker has the files of a snapshot already."""
        return self._view is not None and self._view.files is view.files

    def use(self, view: TableView, frames: FileFrames) -> None:
        """Let the next query see *view*; sends only what the worker has not.

        Raises:
            ChannelClosed: the worker is gone.
            ValueError: a file is not below the data folder.
        """
        known, self._view = self._view, None
        if known is None or not _same_files(known, view):
            self.channel.send_frame(frames.of(view))
        if known is None or known.schema != view.schema or known.views != view.views:
            # New columns or views make the worker forget the hot rows, too.
            known = None
            self._hot.forget()
        if known is None or known.hot is not view.hot:
            self.channel.send(*self._hot.encode(view.hot))
        if view.erased != self._erased:
            self.channel.send(UseErased({user: dict(kept) for user, kept in view.erased.kept_after.items()}))
            self._erased = view.erased
        self._view = view

    def kill(self) -> None:
        """End the process. A thread that waits for its answer gets `ChannelClosed` at once.

        The kernel may take a while to give back a large process's memory before it closes its end of the socket, so
        that this end is shut as well.
        """
        self._process.kill()
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def reap(self) -> LostWorker:
        """End the process, wait for it, and remove what it left behind."""
        self.kill()
        status = self._process.wait()
        lost = LostWorker(self._process.pid, status, self._last_words())
        shutil.rmtree(self._folder, ignore_errors=True)
        # What is left is removed at the next start; `_last_words` tells of a folder that was taken away.
        with contextlib.suppress(OSError):
            self._standard_error_path.unlink()
        return lost

    def close(self) -> None:
        """Close the channel. To be called by whoever uses it, or when nobody does."""
        self._socket.close()

    def _last_words(self) -> str:
        try:
            written = self._standard_error_path.read_bytes()
        except OSError as error:
            # Of a state folder that was taken away, say: what a worker has to say must not end who looks after them.
            return f"what it wrote last cannot be read: {error}"
        return written[-_STANDARD_ERROR_BYTES_SHOWN:].decode(errors="replace").strip()


def _same_files(one: TableView, other: TableView) -> bool:
    return one.files is other.files and bool(one.schema == other.schema) and one.views == other.views
