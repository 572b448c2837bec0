"""A server under measurement: its process, when it is ready, what it takes of memory and processor.

Linux only: memory and processor time are read from /proc.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
import urllib.request
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Final

from bench.errors import BenchFailed

ROOT: Final = Path(__file__).resolve().parent.parent

_SAMPLE_INTERVAL_S: Final = 0.5
_RESIDENT_INTERVAL_S: Final = 0.02
_PAGE_BYTES: Final = os.sysconf("SC_PAGE_SIZE")
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")
_LOG_TAIL_BYTES: Final = 2_000


def free_port() -> int:
    """A TCP port of the loopback address that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class ServerProcess:
    """Runs *command* and whatever it starts; as a context manager it leaves none of these processes behind.

    Args:
        own_session: whether it is in a session of its own, or in ours. Linux shares processors between sessions first.

    Attributes:
        peak_rss_bytes: for every process that was seen, the most it ever had resident (VmHWM), by process id. Their sum
            is never less than what all had together at any moment; memory that they share counts in each.
    """

    def __init__(self, command: Sequence[str], log_path: Path, *, own_session: bool = True) -> None:
        self._command = command
        self._own_session = own_session
        self._log_path = log_path
        self._sampling_ends = threading.Event()
        self.peak_rss_bytes: dict[int, int] = {}

    def __enter__(self) -> ServerProcess:
        with self._log_path.open("wb") as log:
            self._process = subprocess.Popen(
                self._command, cwd=ROOT, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=self._own_session, process_group=None if self._own_session else 0,
            )  # fmt: skip
        self._sampler = threading.Thread(target=self._sample, name="memory-sampler", daemon=True)
        self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._sampling_ends.set()
        self._sampler.join()
        for pid in _family(self._process.pid):
            # It may have ended by itself since it was listed.
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def wait_ready(self, url: str, *, timeout_s: float = 60.0) -> None:
        """Return when a GET of *url* is answered with 200.

        Raises:
            BenchFailed: the process ended before, or the time is over.
        """
        deadline = time.monotonic() + timeout_s
        answer = "nothing listened"
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise BenchFailed(
                    f"the server ended with {self._process.returncode} before it was ready: {self._tail()}"
                )
            try:
                with urllib.request.urlopen(url, timeout=5) as response:
                    if response.status == 200:
                        return
                    answer = f"status {response.status}"
            except OSError as error:
                answer = str(error)
            time.sleep(0.05)
        raise BenchFailed(f"the server was not ready within {timeout_s:g} s ({answer}): {self._tail()}")

    def cpu_s(self) -> float:
        """Processor time that the living processes, and those of their children that ended, have taken so far."""
        return family_cpu_s(self._process.pid)

    def pids(self) -> list[int]:
        """The processes that live now."""
        return _family(self._process.pid)

    def stop(self, *, timeout_s: float = 180.0) -> float:
        """End the server by SIGTERM; return the seconds that it took.

        Raises:
            BenchFailed: it did not end in time, or ended with an error.
        """
        began = time.monotonic()
        self._sample_once()
        self._process.terminate()
        try:
            code = self._process.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise BenchFailed(f"the server did not end within {timeout_s:g} s of SIGTERM: {self._tail()}") from error
        if code not in (0, -signal.SIGTERM):
            raise BenchFailed(f"the server ended with {code}: {self._tail()}")
        return time.monotonic() - began

    def _sample(self) -> None:
        while not self._sampling_ends.wait(_SAMPLE_INTERVAL_S):
            self._sample_once()

    def _sample_once(self) -> None:
        for pid in _family(self._process.pid):
            peak = peak_rss_bytes(pid)
            if peak is not None:
                self.peak_rss_bytes[pid] = max(peak, self.peak_rss_bytes.get(pid, 0))

    def _tail(self) -> str:
        return self._log_path.read_bytes()[-_LOG_TAIL_BYTES:].decode(errors="replace").strip() or "it wrote no log"


class PeakResident:
    """Watches what processes have resident, together, while the block runs; memory that they share counts in each.

    Peaks shorter than the time between two samples (20 ms) may be missed; processes that start later are not seen.
    """

    def __init__(self, pids: Sequence[int]) -> None:
        self._pids = tuple(pids)
        self._ends = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="resident-sampler", daemon=True)

    def __enter__(self) -> PeakResident:
        self._before_bytes = self._peak_bytes = sum(map(resident_bytes, self._pids))
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ends.set()
        self._thread.join()

    def forget_peak(self) -> None:
        """Begin a new peak; what is resident when the block begins stays what growth is counted from."""
        with self._lock:
            self._peak_bytes = 0

    def growth_bytes(self) -> int:
        """By how much the peak since it was last forgotten is above the beginning of the block; 0 if it is not."""
        self._sample()
        with self._lock:
            return max(0, self._peak_bytes - self._before_bytes)

    def _watch(self) -> None:
        while not self._ends.wait(_RESIDENT_INTERVAL_S):
            self._sample()

    def _sample(self) -> None:
        # Looked at under the lock: what was seen before a peak was forgotten must not count afterwards.
        with self._lock:
            self._peak_bytes = max(self._peak_bytes, sum(map(resident_bytes, self._pids)))


def resident_bytes(pid: int) -> int:
    """What the process has resident now; 0 when it is gone."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE_BYTES
    except (FileNotFoundError, ProcessLookupError):
        return 0


def command_line(pid: int) -> str:
    """The words that the process was started with; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return ""


def family_cpu_s(root: int) -> float:
    """Processor time that the process *root*, what lives below it, and ended children of all these have taken."""
    ticks = 0
    for pid in _family(root):
        fields = _stat_fields(pid)
        if fields is not None:
            ticks += sum(int(value) for value in fields[11:15])
    return ticks / _TICKS_PER_S


def machine_busy_s() -> float:
    """Processor time that everything on this machine has taken since it started, in seconds of one processor."""
    user, nice, system, _idle, _waiting, irq, soft_irq, stolen = (
        int(value) for value in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]
    )
    return (user + nice + system + irq + soft_irq + stolen) / _TICKS_PER_S


def _family(root: int) -> list[int]:
    """The process *root* and all that descend from it, and whatever else is in its session; not those that ended.

    Descent alone loses what was left behind by a parent that ended, the session alone loses what made its own.
    """
    parents: dict[int, int] = {}
    found: set[int] = set()
    for name in os.listdir("/proc"):
        if name.isdecimal() and (fields := _stat_fields(int(name))) is not None and fields[0] != "Z":
            parents[int(name)] = int(fields[1])
            if int(name) == root or int(fields[3]) == root:
                found.add(int(name))
    grown = True
    while grown:
        children = {pid for pid, parent in parents.items() if parent in found} - found
        found |= children
        grown = bool(children)
    return sorted(found)


def _stat_fields(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat after the name, which may hold anything; None when the process is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except (FileNotFoundError, ProcessLookupError):
        return None
    return text.rpartition(")")[2].split()


def peak_rss_bytes(pid: int) -> int | None:
    """The most that the process ever had resident; None when it is gone."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text(errors="replace").splitlines()
    except (FileNotFoundError, ProcessLookupError):
        return None
    return next((int(line.split()[1]) * 1024 for line in lines if line.startswith("VmHWM:")), None)
