"""The soak: a service under half of what it can take, for minutes or hours, with everything that it does at once.

    python -m tests.faults.soak --minutes 30

Submissions at half of the capacity that is measured first, retrievals and SQL all the time, a compaction and an erasure
every minute, five kills (SIGKILL to every process) with restarts in the first third. It ends with what must hold: every
acknowledged action is there once and no erased one, `verify --deep` is clean, no process grows (the last third within
10% of the middle third), and neither does the number of files. The report goes between the markers of
docs/reliability.md, and the exit code is 1 if anything does not hold.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import signal
import statistics
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import duckdb

from storage.log_replay import read_log
from storage.opening import read_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from storage.verification import verify
from tests.faults.server_process import Server
from tests.faults.soak_clients import ACTIONS, Ledger, read_steadily, submit_steadily
from tests.faults.soak_processes import PASSING, resident_bytes
from tests.faults.soak_upkeep import Upkeep
from tests.service.forked_service import ROOT

_CLIENTS: Final = 4
_KILLS: Final = 5
_SAMPLE_S: Final = 2.0
_PERIOD_S: Final = 60.0
_GROWTH_MAX: Final = 1.10
_VACUUM_SEEN_S: Final = 900
_SETTINGS: Final = {"flush_interval_ms_max": "5000", "erasure_grace_ms": "2000", "vacuum_grace_ms": "120000"}
_DOCUMENT: Final = ROOT / "docs" / "reliability.md"
_BEGIN: Final = "<!-- soak: begin -->"
_END: Final = "<!-- soak: end -->"


@dataclass(slots=True)
class _Samples:
    """What was seen over time: seconds since the start, and a figure for each kind of process or the table."""

    memory: dict[str, list[tuple[float, int]]] = field(default_factory=dict)
    live_files: list[tuple[float, int]] = field(default_factory=list)
    disk_files: list[tuple[float, int]] = field(default_factory=list)
    log_files: list[tuple[float, int]] = field(default_factory=list)


class _Soak:
    def __init__(self, folder: Path, minutes: float) -> None:
        self._paths = StorePaths.of(folder / "data")
        self._log = folder / "log"
        self._length_s = minutes * 60
        self._stopping = threading.Event()
        self._pace_s = 0.0
        self._server = self._start()
        self.ledger = Ledger()
        self.samples = _Samples()
        self.kills = 0
        self.recovery_s: list[float] = []
        self.capacity = 0.0
        period_s = min(_PERIOD_S, self._length_s / 6)
        self.upkeep = Upkeep(self._paths.data, self.ledger, self._port, period_s, self._stopping)
        self.began = time.monotonic()

    def _start(self) -> Server:
        server = Server(self._paths.data, self._log, settings=_SETTINGS, prepared=False)
        server.await_start()
        return server

    def _port(self) -> int:
        return self._server.port

    def run(self) -> None:
        """Go through all of it; leaves the store closed."""
        threads = [
            threading.Thread(
                target=submit_steadily,
                args=(f"client-{number}", self.ledger, self._port, lambda: self._pace_s, self._stopping),
            )
            for number in range(_CLIENTS)
        ]
        for thread in threads:
            thread.start()
        try:
            self._measure_capacity()
            others = [
                threading.Thread(target=read_steadily, args=(self.ledger, self._port, self._stopping)),
                *self.upkeep.threads(),
                threading.Thread(target=self._sample),
            ]
            threads += others
            for thread in others:
                thread.start()
            self._kill_now_and_then()
            while self._elapsed_s() < self._length_s:
                time.sleep(0.2)
        finally:
            self._stopping.set()
            for thread in threads:
                thread.join()
            self._stop()

    def _elapsed_s(self) -> float:
        return time.monotonic() - self.began

    def _measure_capacity(self) -> None:
        length_s = min(20.0, self._length_s / 10)
        time.sleep(length_s / 4)
        before, since = self.ledger.acknowledged, time.monotonic()
        time.sleep(length_s)
        self.capacity = (self.ledger.acknowledged - before) / (time.monotonic() - since)
        self._pace_s = 2 * _CLIENTS * ACTIONS / self.capacity

    def _kill_now_and_then(self) -> None:
        for number in range(1, _KILLS + 1):
            moment_s = self._length_s * (0.05 + 0.05 * number)
            while self._elapsed_s() < moment_s:
                time.sleep(0.1)
            self._server.end()
            self.kills += 1
            began = time.monotonic()
            self._server = self._start()
            self.recovery_s.append(time.monotonic() - began)

    def _sample(self) -> None:
        while not self._stopping.wait(_SAMPLE_S):
            now = self._elapsed_s()
            for name, size in resident_bytes(self._server.process.pid).items():
                self.samples.memory.setdefault(name, []).append((now, size))
            log = self._paths.table / "_delta_log"
            self.samples.live_files.append((now, len(read_log(self._paths.table).files)))
            self.samples.disk_files.append((now, sum(1 for _ in self._paths.table.glob("date=*/*/*.parquet"))))
            self.samples.log_files.append((now, sum(1 for _ in log.iterdir())))

    def _stop(self) -> None:
        self._server.process.send_signal(signal.SIGTERM)
        try:
            status = self._server.process.wait(90)
            if status:
                self.ledger.complain(f"the service ended with {status}")
        finally:
            self._server.end()

    def check(self) -> list[tuple[str, bool, str]]:
        """What must hold at the end: its name, whether it does, and the figures."""
        return [
            self._check_actions(),
            self._check_verify(),
            self.upkeep.check(),
            *self._check_memory(),
            self._check_files(),
            ("answers", not self.ledger.wrong, "; ".join(self.ledger.wrong[:5]) or "no wrong answer"),
        ]

    def _check_actions(self) -> tuple[str, bool, str]:
        store = read_store(self._paths, ActionSchema())
        view = store.read_view()
        connection = duckdb.connect(config={"memory_limit": "1GB", "threads": 2})
        connection.register("hot", view.hot.select(["user_id", "properties"]))
        files = [one.path for one in view.files]
        of_files = "UNION ALL SELECT user_id, properties FROM read_parquet($files)" if files else ""
        rows = connection.execute(
            "SELECT user_id, count(*), count(DISTINCT n), max(n) FROM (SELECT user_id,"
            f" (properties::JSON->>'n')::BIGINT AS n FROM (SELECT * FROM hot {of_files})) GROUP BY user_id",
            {"files": files} if files else {},
        ).fetchall()
        connection.close()
        store.close(flush=False)
        found = {user: (count, distinct, last) for user, count, distinct, last in rows}
        lost = doubled = invented = 0
        for user, known in self.ledger.users.items():
            count, distinct, last = found.pop(user, (0, 0, -1))
            doubled += count - distinct
            lost += max(0, known.acknowledged - distinct)
            invented += max(0, last + 1 - known.acknowledged - known.uncertain)
        back = [user for user in self.ledger.erased if user in found]
        strangers = [user for user in found if not user.startswith("victim-")]
        good = not (lost or doubled or invented or back or strangers)
        return (
            "every acknowledged action once, no erased one",
            good,
            f"{self.ledger.acknowledged:,} actions acknowledged, {lost} lost, {doubled} twice, {invented} invented;"
            f" {len(self.ledger.erased)} users erased, {len(back)} came back",
        )

    def _check_verify(self) -> tuple[str, bool, str]:
        report = verify(self._paths, ActionSchema(), deep=True)
        told = "; ".join(map(str, report.problems[:3])) or "no problem"
        return "`verify --deep`", not report.problems, f"{report.rows:,} rows in {report.files} files: {told}"

    def _check_memory(self) -> list[tuple[str, bool, str]]:
        checks = []
        for name, series in sorted(self.samples.memory.items()):
            # One that was ended and started again is small for a moment, one that ends and its heir are there both.
            before, after = (statistics.median(_third(series, self._length_s, part) or [0]) for part in (1, 2))
            if name in PASSING:
                most = max(size for _, size in series)
                checks.append((f"memory of {name}", True, f"at most {most / 2**20:.0f} MiB, for a while each time"))
                continue
            figures = f"{before / 2**20:.0f} MiB in the middle third, {after / 2**20:.0f} MiB in the last"
            checks.append((f"memory of {name}", 0 < after <= _GROWTH_MAX * before, figures))
        return checks or [("memory", False, "no process was seen")]

    def _check_files(self) -> tuple[str, bool, str]:
        parts, good = [], True
        for name, series in (
            ("live", self.samples.live_files),
            ("on disk", self.samples.disk_files),
            ("in the log", self.samples.log_files),
        ):
            middle, last = (max(_third(series, self._length_s, part), default=0) for part in (1, 2))
            # What a vacuum takes away is on disk until its grace is over, which a short run does not live to see.
            if name == "live" or self._length_s >= _VACUUM_SEEN_S:
                good = good and last <= 1.5 * middle + 20
            parts.append(f"{name} at most {middle} in the middle third, {last} in the last")
        return "files of the table", good, "; ".join(parts)

    def report(self, checks: list[tuple[str, bool, str]]) -> str:
        """The run as Markdown."""
        answers = ", ".join(f"{count:,} × {what}" for what, count in sorted(self.ledger.statuses.items()))
        recovery = ", ".join(f"{one:.1f}" for one in self.recovery_s)
        lines = [
            f"{datetime.datetime.now(datetime.UTC):%Y-%m-%d %H:%M} UTC, {self._length_s / 60:g} minutes on"
            f" {os.cpu_count()} cores ({platform.machine()}), Python {platform.python_version()}: capacity"
            f" {self.capacity:,.0f} actions/s in submissions of {ACTIONS} from {_CLIENTS} clients on the same machine,"
            f" half of that submitted; {self.kills} kills, started again in {recovery} s. Answers: {answers} (0: the"
            " connection was lost with a kill; an erasure is asked for again then).",
            "",
            "| what must hold | | figures |",
            "|---|---|---|",
            *(f"| {name} | {'yes' if good else '**NO**'} | {figures} |" for name, good, figures in checks),
        ]
        return "\n".join(lines)


def _third(series: list[tuple[float, int]], length_s: float, part: int) -> list[int]:
    return [value for moment, value in series if length_s * part / 3 <= moment < length_s * (part + 1) / 3]


def _write_into_document(report: str) -> None:
    text = _DOCUMENT.read_text(encoding="utf-8")
    before, _, rest = text.partition(_BEGIN)
    _, _, after = rest.partition(_END)
    _DOCUMENT.write_text(f"{before}{_BEGIN}\n\n{report}\n\n{_END}{after}", encoding="utf-8")


def main() -> None:
    """Run the soak, print its report, and write it into the documentation."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--no-report", action="store_true", help="Print the report only.")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="actionlake-soak-", dir=os.environ.get("SOAK_FOLDER")) as folder:
        soak = _Soak(Path(folder), given.minutes)
        soak.run()
        checks = soak.check()
        report = soak.report(checks)
    print(report)
    if not given.no_report:
        _write_into_document(report)
    failed = [name for name, good, _ in checks if not good]
    print(json.dumps({"failed": failed}))
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
