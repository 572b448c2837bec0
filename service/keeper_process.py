"""The keeper as the service sees it: started, started again when it dies, and ended last, with the last flush."""

from __future__ import annotations

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Final

from service.keeper import DRAIN
from service.live_settings import LiveSettings
from service.sources import HANDED_OVER_VARIABLE

KEEPER_MODULE: Final = "service.keeper"

_SOURCE_FOLDER: Final = Path(__file__).resolve().parents[1]
_PAUSE_S_MIN: Final = 0.1
_PAUSE_S_MAX: Final = 10.0
# A keeper that has lived for so long did not die of what it began with.
_LONG_LIFE_S: Final = 30.0

_log = logging.getLogger("actionlake.keeper")


class KeeperProcess:
    """Runs a keeper for the length of a `with` block; at its end, the keeper flushes what is left and ends.

    Only for the holder of the folder's lock. The keeper hears of the end of this process, whatever its cause, by the
    closing of a pipe.
    """

    def __init__(self, live: LiveSettings) -> None:
        # The keeper runs the very code that its service runs, whatever folder the service was started in.
        path = os.pathsep.join(filter(None, [str(_SOURCE_FOLDER), os.environ.get("PYTHONPATH")]))
        self._environment = {**os.environ, "PYTHONPATH": path}
        self._live = live
        self._command = [sys.executable, "-P", "-m", KEEPER_MODULE]
        self._lock = threading.Lock()
        self._draining = threading.Event()
        self._process: subprocess.Popen[bytes]
        self._watcher = threading.Thread(target=self._watch, name="keeper-watcher", daemon=True)

    def __enter__(self) -> KeeperProcess:
        self._process = self._spawn()
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with self._lock:
            self._draining.set()
            assert self._process.stdin is not None
            # It may have died just now.
            with contextlib.suppress(BrokenPipeError):
                self._process.stdin.write(DRAIN)
                self._process.stdin.flush()
        self._watcher.join()
        if self._process.returncode:
            _log.error("the keeper ended with status %d; rows may be left in the journal", self._process.returncode)

    def _spawn(self) -> subprocess.Popen[bytes]:
        environment = {**self._environment, HANDED_OVER_VARIABLE: self._live.hand_over()}
        return subprocess.Popen(self._command, env=environment, stdin=subprocess.PIPE)  # noqa: S603

    def _watch(self) -> None:
        pause_s = _PAUSE_S_MIN
        while True:
            started_s = time.monotonic()
            status = self._process.wait()
            if self._draining.is_set():
                return
            _log.error("the keeper ended with status %d and is started again", status)
            if time.monotonic() - started_s > _LONG_LIFE_S:
                pause_s = _PAUSE_S_MIN
            if self._draining.wait(pause_s):
                return
            pause_s = min(_PAUSE_S_MAX, pause_s * 2)
            with self._lock:
                if self._draining.is_set():
                    return
                assert self._process.stdin is not None
                self._process.stdin.close()
                self._process = self._spawn()
