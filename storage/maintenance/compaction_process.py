"""The process that compacts, as its parent sees it: started, heard of, and ended.

Sorting and writing millions of rows takes memory and the interpreter's lock, which the parent's flushes should have to
themselves; what the child took goes back to the system with it.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Final

import msgspec

from storage.errors import CommitRefused, RewriteConflict
from storage.maintenance.compaction import CompactionResult
from storage.maintenance.compaction_child import Task, Told
from storage.maintenance.planning import CompactionLimits
from storage.paths import StorePaths

_MODULE: Final = "storage.maintenance.compaction_child"
_SOURCE_FOLDER: Final = Path(__file__).resolve().parents[2]


class CompactionProcess:
    """One compaction under way in a process of its own. For one thread, but for *on_commit*, called in another."""

    def __init__(
        self,
        paths: StorePaths,
        limits: CompactionLimits,
        *,
        memory_bytes_max: int,
        on_commit: Callable[[CompactionResult], None],
        stands_back: bool = False,
    ) -> None:
        """Start it.

        Args:
            paths: of the store.
            limits: see there.
            memory_bytes_max: beside what the process has anyway.
            on_commit: called with each commit.
            stands_back: let it have only the time of processors that nobody else wants, which may be none.

        Raises:
            OSError: it could not be started.
        """
        task = Task(str(paths.data), str(paths.state), asdict(limits), memory_bytes_max, stands_back)
        # The child runs the very code that its parent runs, whatever folder that was started in.
        path = os.pathsep.join(filter(None, [str(_SOURCE_FOLDER), os.environ.get("PYTHONPATH")]))
        self.stands_back = stands_back
        self._on_commit = on_commit
        self._error: Told | None = None
        self._progress_s = time.monotonic()
        self._process = subprocess.Popen(  # noqa: S603 - this very program
            [sys.executable, "-P", "-m", _MODULE],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdin is not None
        # It may have died already, which `finished` tells.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(msgspec.json.encode(task) + b"\n")
            self._process.stdin.flush()
        self._listener = threading.Thread(target=self._listen, name="compaction", daemon=True)
        self._listener.start()

    @property
    def pid(self) -> int:
        """The child's process id."""
        return self._process.pid

    @property
    def seconds_since_progress(self) -> float:
        """How long ago it committed, or was started."""
        return time.monotonic() - self._progress_s

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = msgspec.json.decode(line, type=Told)
            if told.commit is not None:
                self._progress_s = time.monotonic()
                figures = {name: value if name == "seconds" else int(value) for name, value in told.commit.items()}
                self._on_commit(CompactionResult(**figures))  # type: ignore[arg-type]
            else:
                self._error = told

    def finished(self) -> bool:
        """Whether it has ended; if so, in order.

        Raises:
            RewriteConflict: others were first, again and again.
            CommitRefused: it did not end in order; what it committed stays, and it may be tried again.
        """
        status = self._process.poll()
        if status is None:
            return False
        self.stop()
        if self._error is not None:
            if self._error.conflict:
                raise RewriteConflict(str(self._error.error))
            raise CommitRefused(f"a compaction failed: {self._error.error}")
        if status:
            raise CommitRefused(f"a compaction ended with status {status}")
        return True

    def stop(self) -> None:
        """End it now, wherever it is; without effect when it has ended."""
        self._process.kill()
        self._process.wait()
        self._listener.join()
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        # What was not written any more is of no interest.
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.close()
        self._process.stdout.close()
