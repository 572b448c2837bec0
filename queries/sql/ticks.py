"""Has Linux look again, each half millisecond, at which thread should have each processor.

A thread that is put aside (`standing_back`) gives way to any other that wants its processor, but not always at once.
Linux (since 6.6) chooses by what each thread is owed. One that has just been interrupted, or has slept for a moment,
may be in debt by some microseconds, and then has to wait for a thread that is not, though that one is put aside. The
debt is soon paid, and yet Linux looks again only at its next tick, which is up to 4 ms away (HZ=250), or when another
thread wakes there. So one does, on every processor: this module, run as a program.
"""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import threading
import time
from typing import Final

INTERVAL_S: Final = 0.0005
NICENESS: Final = 10
"""Enough to leave the service alone where it takes every processor, and too little to wait for threads put aside."""
PROCESSORS_MAX: Final = 8
"""Where there are more, a thread that wakes finds another one free, and ticks on all of them would cost more."""

_logger = logging.getLogger(__name__)


class Ticks:
    """A program that ticks while anybody holds it. All methods may be called from any thread.

    It takes about 5% of each processor that has time, and ends with this process, however that ends.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._program: subprocess.Popen[bytes] | None = None

    def hold(self) -> None:
        """Let it tick until `release` was called as often as this."""
        with self._lock:
            self._holders += 1
            if self._program is None:
                self._program = self._start()

    def release(self) -> None:
        """Let go of it."""
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self._stop()

    def close(self) -> None:
        """End it, whoever holds it."""
        with self._lock:
            self._stop()

    @property
    def pid(self) -> int | None:
        """Of the program, while it runs."""
        with self._lock:
            return None if self._program is None else self._program.pid

    def _start(self) -> subprocess.Popen[bytes] | None:
        processors = sorted(os.sched_getaffinity(0))
        if len(processors) > PROCESSORS_MAX:
            return None
        try:
            return subprocess.Popen(  # noqa: S603
                [sys.executable, "-I", "-S", __file__, *map(str, processors)],
                env={},
                cwd="/",
                # Nothing is written to it: it ends when this end is closed.
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                # Ctrl-C is for the service.
                process_group=0,
            )
        except OSError as error:
            _logger.warning("queries that last may delay others by some milliseconds: no ticks (%s)", error)
            return None

    def _stop(self) -> None:
        program, self._program = self._program, None
        if program is not None:
            with program:
                program.kill()


def _tick(processor: int) -> None:
    os.sched_setaffinity(0, {processor})
    while True:
        time.sleep(INTERVAL_S)


def _main() -> None:
    os.nice(NICENESS)
    for processor in sys.argv[1:]:
        threading.Thread(target=_tick, args=(int(processor),), daemon=True).start()
    sys.stdin.buffer.read()


if __name__ == "__main__":
    _main()
