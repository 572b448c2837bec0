"""A service has SQL that lasts stand still while it acknowledges submissions, where it matters."""

from __future__ import annotations

import threading
import time
from pathlib import Path

import httpx
import pytest

from queries.sql import standing_back
from service.app import sql_share_min
from service.processors import processors_allowed
from service.settings import Settings
from tests.service.running_service import action, running_service, submission

_LASTS = "SELECT count(*) FROM range(1000000) a, range(1000000) b"


@pytest.mark.parametrize(
    ("workers", "sql_workers", "sql_threads", "processors", "share"),
    [
        (1, 2, 2, 2, 0.025),
        (1, 2, 2, 4, 0.025),
        (1, 2, 2, 5, 1.0),
        (2, 2, 2, 5, 0.025),
        (1, 1, 1, 2, 1.0),
        (1, 2, 2, 1.5, 0.025),
    ],
)
def test_queries_run_on_where_they_leave_a_processor_free(
    workers: int, sql_workers: int, sql_threads: int, processors: float, share: float
) -> None:
    settings = Settings(workers=workers, sql_workers=sql_workers, sql_threads=sql_threads)
    assert sql_share_min(settings, processors=processors) == share


@pytest.mark.parametrize(
    ("text", "most"), [("max 100000\n", None), ("50000 100000\n", 0.5), ("no numbers", None), (None, None)]
)
def test_a_containers_share_of_the_processors_counts(tmp_path: Path, text: str | None, most: float | None) -> None:
    quota = tmp_path / "cpu.max"
    if text is not None:
        quota.write_text(text)
    everything = processors_allowed(tmp_path / "nothing")
    assert everything >= 1
    assert processors_allowed(quota) == (everything if most is None else most)


@pytest.mark.skipif(not standing_back.is_known(), reason="the system has no such policy")
def test_a_worker_of_a_service_of_two_processes_stands_still_while_submissions_come(tmp_path: Path) -> None:
    flags = ("--workers", "2", "--sql-when-idle", "--sql-threads", "64", "--sql-timeout-ms-max", "8000")
    ends = threading.Event()
    answered: list[int] = []

    def submit() -> None:
        with httpx.Client(base_url=service.url, timeout=120) as client:
            while not ends.is_set():
                body = submission("user-1", action("2023-04-01T10:00:00Z", "CLICK", locationX=1))
                client.post("/api/submitlogs", json=body).raise_for_status()
                time.sleep(0.01)

    def last() -> None:
        with httpx.Client(base_url=service.url, timeout=120) as client:
            answered.append(client.post("/api/sql", json={"sql": _LASTS}).status_code)

    with running_service(tmp_path / "data", *flags) as service:
        threads = [threading.Thread(target=one) for one in (submit, last)]
        for one in threads:
            one.start()
        found = False
        while not found and not answered:
            time.sleep(0.005)
            found = any(state == "T" for state in _sql_workers(service.process.pid).values())
        ends.set()
        for one in threads:
            one.join(120)
    assert found
    # It was stopped by its limit, standing still or not.
    assert answered == [408]


def _sql_workers(service: int) -> dict[int, str]:
    """The states of the SQL workers of a service's processes."""
    parents: dict[int, int] = {}
    states: dict[int, str] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            state, parent = (folder / "stat").read_text().rpartition(")")[2].split()[:2]
            parents[int(folder.name)] = int(parent)
            if b"queries.sql.worker" in (folder / "cmdline").read_bytes():
                states[int(folder.name)] = state
        except OSError:
            continue
    return {pid: state for pid, state in states.items() if service in (parents.get(pid), parents.get(parents[pid]))}
