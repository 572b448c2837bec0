"""Who is measured: how each server is started, and how what it holds is counted.

One more server is one more `Opponent`; workloads name those that they are run against.
"""

from __future__ import annotations

import re
import sqlite3
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from bench.baseline import database_path
from bench.errors import BenchFailed
from bench.processes import ROOT

_ACTIONLAKE: Final = Path(sys.executable).parent / "actionlake"
_COUNT_TIMEOUT_S: Final = 300
_SAMPLE: Final = re.compile(r"(\w+)(?:\{[^}]*\})? (\S+)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Opponent:
    """A server that takes submissions.

    Attributes:
        command: the command line that serves the given folder on the given port of the loopback address.
        ready_path: answers 200 once submissions are taken.
        count_stored: how many actions the given folder holds after the server has ended.
        readings: what the server, listening on the given port, tells about itself; see `READINGS`.
    """

    name: str
    title: str
    command: Callable[[Path, int], list[str]]
    ready_path: str
    count_stored: Callable[[Path], int]
    readings: Callable[[int], Mapping[str, float]]


# What is taken from /metrics: names of figures by names of samples.
READINGS: Final[Mapping[str, str]] = {
    "actionlake_flush_seconds_count": "flushes",
    "actionlake_flushed_rows_total": "flushed_rows",
    "actionlake_flush_errors_total": "flush_errors",
    "actionlake_journal_depth": "journal_depth",
}


def parse_readings(exposition: str) -> dict[str, float]:
    """Sum the samples that `READINGS` names in a text of Prometheus' format, over their labels.

    Raises:
        BenchFailed: one of them is missing. A counter with labels that never counted has no sample, and is 0.
    """
    found = {figure: 0.0 for sample, figure in READINGS.items() if sample == "actionlake_flush_errors_total"}
    for line in exposition.splitlines():
        match = _SAMPLE.fullmatch(line)
        if match is not None and (figure := READINGS.get(match[1])) is not None:
            found[figure] = found.get(figure, 0.0) + float(match[2])
    missing = set(READINGS.values()) - set(found)
    if missing:
        raise BenchFailed(f"/metrics does not tell {sorted(missing)}")
    return found


def _actionlake_command(data: Path, port: int) -> list[str]:
    return [str(_ACTIONLAKE), "serve", "--data", str(data), "--port", str(port)]


def _actionlake_readings(port: int) -> dict[str, float]:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as response:
        return parse_readings(response.read().decode())


def _actionlake_count(data: Path) -> int:
    command = [str(_ACTIONLAKE), "sql", "SELECT count(*) FROM actions", "--data", str(data), "--format", "csv"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=_COUNT_TIMEOUT_S, check=False)
    if done.returncode != 0:
        raise BenchFailed(f"counting what is stored failed: {done.stderr.strip()[-2000:]}")
    return int(done.stdout.split()[-1])


def _baseline_command(data: Path, port: int) -> list[str]:
    return [sys.executable, "-m", "bench.baseline", "--data", str(data), "--port", str(port)]


def _baseline_count(data: Path) -> int:
    connection = sqlite3.connect(database_path(data))
    try:
        return int(connection.execute("SELECT count(*) FROM actions").fetchone()[0])
    finally:
        connection.close()


ACTIONLAKE: Final = Opponent(
    name="actionlake",
    title="Actionlake",
    command=_actionlake_command,
    ready_path="/health/ready",
    count_stored=_actionlake_count,
    readings=_actionlake_readings,
)
BASELINE: Final = Opponent(
    name="baseline",
    title="Flask and sqlite3",
    command=_baseline_command,
    ready_path="/api/retrievelogs?userId=nobody",
    count_stored=_baseline_count,
    readings=lambda _: {},
)
OPPONENTS: Final[Mapping[str, Opponent]] = {one.name: one for one in (BASELINE, ACTIONLAKE)}
