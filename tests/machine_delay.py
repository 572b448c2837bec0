"""How long this machine makes a process wait for a processor: what a bound on time may be exceeded by, and no more.

A bound on seconds is kept or not kept by the code and by the machine together. A process beside the test, at the
niceness of what is tested, takes turns at working and sleeping for a few milliseconds, and adds up by how much that
takes longer than it should. On a machine that does nothing else this is next to nothing, so that a bound is as strict
as it is written; on one that is busy, it is what others have taken.
"""

from __future__ import annotations

import mmap
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

_DELAY: Final = struct.Struct("d")
_WORK_S: Final = 0.0005
_REST_S: Final = 0.0095
_NICENESS: Final = 10
_SOURCE: Final = f"""
import mmap, os, struct, sys, time
os.nice({_NICENESS})
page = mmap.mmap(int(sys.argv[1]), mmap.PAGESIZE)
delay = 0.0
parent = os.getppid()
while os.getppid() == parent:
    began, used = time.monotonic(), time.thread_time()
    while time.thread_time() - used < {_WORK_S}:
        pass
    worked = time.thread_time() - used
    time.sleep({_REST_S})
    delay += max(0.0, time.monotonic() - began - worked - {_REST_S})
    page[:8] = struct.pack("d", delay)
"""
# A turn of it may be under way when somebody looks.
_TURN_S: Final = 2 * (_WORK_S + _REST_S)


class MachineDelay:
    """Measures while it lives."""

    def __init__(self, page: mmap.mmap) -> None:
        self._page = page

    @property
    def so_far_s(self) -> float:
        """By how much turns have been late so far, together."""
        (delay_s,) = _DELAY.unpack(self._page[: _DELAY.size])
        return float(delay_s)

    def seconds(self, call: Callable[[], object]) -> float:
        """How long *call* takes, without what the machine had it wait at the most."""
        delayed_s, began_s = self.so_far_s, time.monotonic()
        call()
        elapsed_s = time.monotonic() - began_s
        # The turn that was under way counts as soon as it is over.
        seen_s = self.so_far_s
        deadline_s = time.monotonic() + elapsed_s + 1
        while self.so_far_s == seen_s and time.monotonic() < deadline_s:
            time.sleep(_TURN_S)
        return elapsed_s - (self.so_far_s - delayed_s)


@contextmanager
def machine_delay() -> Iterator[MachineDelay]:
    """Measure for the length of a block."""
    with tempfile.TemporaryFile() as file:
        file.truncate(mmap.PAGESIZE)
        with (
            mmap.mmap(file.fileno(), mmap.PAGESIZE) as page,
            subprocess.Popen(
                [sys.executable, "-I", "-S", "-c", _SOURCE, str(file.fileno())], pass_fds=[file.fileno()]
            ) as process,
        ):
            measured = MachineDelay(page)
            try:
                while not measured.so_far_s:
                    assert process.poll() is None
                    time.sleep(0.01)
                yield measured
            finally:
                process.kill()
