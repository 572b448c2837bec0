"""Ten times what a server takes: it says 429 or 503 and when to come back, loses nothing, answers, and stays small."""

from __future__ import annotations

import collections
import json
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.faults.effort import repetitions
from tests.service.running_service import NO_TLS, RunningService, action, running_service, submission

_MIB = 1024 * 1024
_JOURNAL_BYTES_MAX = 6 * _MIB
_ROUND_S = 4.0
_ACTIONS = 100
_GREEDY = 12
_PATIENCE_S = 120.0
_GROWTH_BYTES_MAX = 400 * _MIB


@pytest.fixture
def small(tmp_path: Path) -> Iterator[RunningService]:
    """Two workers with little room."""
    limits = {"journal_bytes_max": _JOURNAL_BYTES_MAX, "submit_pending_bytes_max": _MIB, "sql_workers": 1, "workers": 2}
    flags = [word for name, value in limits.items() for word in (f"--{name.replace('_', '-')}", str(value))]
    with running_service(tmp_path / "data", *flags) as service:
        yield service


class Sender:
    """A client at an address of its own, that sends without pause, or as it is told to."""

    def __init__(
        self, service: RunningService, name: str, address: str, ending: threading.Event, *, patient: bool
    ) -> None:
        self.name = name
        self.answers: collections.Counter[int] = collections.Counter()
        self.acknowledged = 0
        self.wrong: list[str] = []
        self._ending = ending
        self._patient = patient
        self._client = httpx.Client(
            base_url=service.url, timeout=180, transport=httpx.HTTPTransport(local_address=address, verify=NO_TLS)
        )
        text = "x" * (20 if patient else 1500)
        count = 1 if patient else _ACTIONS
        actions = [action("2024-01-01T00:00:00Z", "CLICK", text=text)] * count
        self._count = count
        self._body = json.dumps(submission(name, *actions)).encode()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        headers = {"content-type": "application/json"}
        with self._client as client:
            while not self._ending.is_set():
                answer = client.post("/api/submitlogs", content=self._body, headers=headers)
                self.answers[answer.status_code] += 1
                if answer.status_code == 200:
                    self.acknowledged += self._count
                elif not 1 <= int(answer.headers.get("retry-after", "0")) <= 60:
                    self.wrong.append(f"{answer.status_code} {dict(answer.headers)}")
                if self._patient:
                    time.sleep(0.05)

    def end(self) -> None:
        self._thread.join()


def processes(pid: int) -> set[int]:
    """A process and all that it started."""
    found = {pid}
    try:
        for task in Path(f"/proc/{pid}/task").iterdir():
            for child in (task / "children").read_text().split():
                found |= processes(int(child))
    except (FileNotFoundError, ProcessLookupError):
        return found
    return found


def memory_bytes(pid: int) -> int:
    """What a process has in memory, its share of pages that several have; 0 once it has ended."""
    try:
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except (FileNotFoundError, ProcessLookupError):
        return 0
    return 0


def journal_bytes(service: RunningService) -> int:
    return sum(one.stat().st_size for one in service.data.glob("journal.sqlite*"))


def test_ten_times_what_it_takes(small: RunningService) -> None:
    small.submit(submission("before", action("2024-01-01T00:00:00Z", "CLICK")))
    small.client.post("/api/sql", json={"sql": "SELECT 1"})
    # Compactions and copies for histories come and go, in processes of their own with bounds of their own.
    serving = processes(small.process.pid)
    before = sum(map(memory_bytes, serving))
    until_s = time.monotonic() + _ROUND_S * repetitions(suite=1, long=15)
    ending = threading.Event()
    greedy = [Sender(small, f"greedy-{n}", "127.0.0.1", ending, patient=False) for n in range(_GREEDY)]
    modest = Sender(small, "modest", "127.0.0.2", ending, patient=True)
    retrieved: collections.Counter[int] = collections.Counter()
    grown = largest = 0

    def seen_enough() -> bool:
        """However fast the machine is: some were let in, some were not, and the other client was heard."""
        refused = any(one.answers[429] + one.answers[503] for one in greedy)
        return refused and any(one.answers[200] for one in greedy) and modest.answers[200] > 0

    while time.monotonic() < until_s or (not seen_enough() and time.monotonic() < until_s + _PATIENCE_S):
        retrieved[small.retrieve(userId="before").status_code] += 1
        grown = max(grown, sum(map(memory_bytes, serving)) - before)
        largest = max(largest, journal_bytes(small))
        time.sleep(0.05)
    ending.set()
    for one in [*greedy, modest]:
        one.end()
    answers = sum((one.answers for one in greedy), collections.Counter())
    figures = (
        f"{dict(answers)} to those who send without pause, {dict(modest.answers)} to the other, retrievals"
        f" {dict(retrieved)}; {grown >> 20} MiB more memory, the journal's files at most {largest >> 20} MiB"
    )
    print(figures)
    assert set(answers) | set(modest.answers) <= {200, 429, 503}, figures
    assert [one.wrong for one in [*greedy, modest] if one.wrong] == []
    assert answers[200] > 0, figures
    assert answers[429] + answers[503] > 0, figures
    # How much sooner who sends little is let in is the matter of test_clients_get_their_share.
    assert modest.answers[200] > 0, figures
    assert set(retrieved) == {200}, figures
    assert grown < _GROWTH_BYTES_MAX, figures
    # Rows are in the log and in the file; half a second of arrivals may come on top before it is seen.
    assert largest < 12 * _JOURNAL_BYTES_MAX, figures
    small.flush()
    counted = small.client.post("/api/sql", json={"sql": "SELECT user_id, count(*) AS n FROM actions GROUP BY user_id"})
    rows = {row["user_id"]: row["n"] for row in counted.json()["rows"]}
    acknowledged = {one.name: one.acknowledged for one in [*greedy, modest]} | {"before": 1}
    assert rows == {name: count for name, count in acknowledged.items() if count}
    # It shrinks again, and takes submissions as before.
    deadline = time.monotonic() + _PATIENCE_S
    while journal_bytes(small) > 2 * _MIB:
        assert time.monotonic() < deadline, f"the journal's files stay at {journal_bytes(small)} bytes"
        time.sleep(0.1)
    assert small.submit(submission("after", action())).status_code == 200
    assert small.metric("actionlake_submissions_over_share_total") >= answers[429]
