"""A server that is killed has, after its restart, every acknowledged action exactly once, and none never sent."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import astuple, dataclass, field
from pathlib import Path
from typing import Any

from storage.opening import read_store
from storage.paths import StorePaths
from storage.schema import ActionSchema
from tests.faults.effort import repetitions
from tests.faults.history import History
from tests.faults.server_process import Clients, Server, serving
from tests.faults.stored_rows import StoredRows

_CYCLES_A_FOLDER = 7
_CONTROL_CYCLES_MAX = 20
# What has happened before a kill comes, however long that takes: of so many submissions, some were acknowledged, and
# half of the times a flush was committed since the start. The kill itself comes at any moment of what follows.
_SUBMISSIONS = (20, 120)
_MOMENT_S_MAX = 0.1
# A cycle is mostly waiting for a server to start.
_LANES = 2
_PATIENCE_S = 180.0


@dataclass(slots=True)
class _Tally:
    kills: int = 0
    acknowledged: int = 0
    sent: int = 0
    found: int = 0
    in_files: int = 0
    problems: list[str] = field(default_factory=list)

    def check(self, server: Server, data: Path, history: History) -> tuple[int, int]:
        """Judge what REST retrieves, and what lies in the folder with its positions.

        Returns how many actions there are, and how many of them in files.
        """
        retrieved = server.retrieve_all()
        store = read_store(StorePaths.of(data), ActionSchema())
        try:
            view = store.read_view()
        finally:
            store.close(flush=False)
        for where, found in (("retrieved", retrieved), ("stored", StoredRows().of(view))):
            violations = history.judge(found)
            if violations:
                self.problems.append(f"{where}: {violations}")
        return len(retrieved), sum(one.rows for one in view.files)

    def __str__(self) -> str:
        return (
            f"{self.kills} kills, {self.sent} actions sent, {self.acknowledged} acknowledged, {self.found} found"
            f" ({self.in_files} in files);"
            f" violations: {'; '.join(self.problems) or 'none'}"
        )


def _kill_often(folder: Path, *, cycles: int, seed: int, **options: Any) -> _Tally:
    """Kill a server *cycles* times under load, or until it is found to do wrong."""
    tally = _Tally()
    choose = random.Random(seed)
    while tally.kills < cycles and not tally.problems:
        data = folder / f"from-{tally.kills}"
        history = History()
        kills = min(_CYCLES_A_FOLDER, cycles - tally.kills)
        found = in_files = 0
        for number in range(kills + 1):
            with serving(data, folder / "log", **options) as server:
                if number:
                    found, in_files = tally.check(server, data, history)
                if tally.problems or number == kills:
                    break
                clients = Clients(server, history, f"run-{tally.kills}", steadfast=False)
                commits = _commits(data)
                if choose.random() < 0.8:
                    clients.await_acknowledged(choose.randint(*_SUBMISSIONS))
                if choose.random() < 0.5:
                    _await_commit(server, data, after=commits)
                time.sleep(choose.uniform(0, _MOMENT_S_MAX))
                server.kill()
                tally.kills += 1
            clients.join()
        tally.sent += len(history.sent)
        tally.acknowledged += len(history.acknowledged)
        tally.found += found
        tally.in_files += in_files
    return tally


def _kill_side_by_side(folder: Path, *, cycles: int, seed: int) -> _Tally:
    """Kill servers in several lanes at once, each with its folders and its half of the cycles."""
    folders = [folder / f"lane-{lane}" for lane in range(_LANES)]
    for one in folders:
        one.mkdir()
    with ThreadPoolExecutor(_LANES) as threads:
        lanes = [
            threads.submit(_kill_often, one, cycles=cycles // _LANES, seed=seed + lane)
            for lane, one in enumerate(folders)
        ]
        tallies = [lane.result() for lane in lanes]
    return _Tally(*(sum(values, start=type(values[0])()) for values in zip(*map(astuple, tallies), strict=True)))


def test_every_acknowledged_action_is_there_exactly_once(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """Kill a server of one process under load, restart it, retrieve everything by REST, and go on in the folder."""
    cycles = repetitions(suite=8, long=1_500)
    tally = _kill_side_by_side(tmp_path, cycles=cycles, seed=1989)
    figures(str(tally))
    assert not tally.problems, tally.problems[0]
    assert tally.kills == cycles
    assert tally.acknowledged > 50 * cycles, "too little was going on when the kills came"
    assert tally.in_files, "no flush was going on when the kills came"


def test_workers_and_their_supervisor_survive_too(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """Kill workers and keeper under load, then the supervisor, restart, and go on in the folder."""
    rounds = repetitions(suite=1, long=150)
    tally = _Tally()
    history = History()
    data = tmp_path / "data"
    choose = random.Random(4)
    for number in range(rounds + 1):
        with serving(data, tmp_path / "log", workers=2) as server:
            if number:
                tally.found, tally.in_files = tally.check(server, data, history)
            if tally.problems or number == rounds:
                break
            clients = Clients(server, history, f"run-{number}", steadfast=True)
            for kill in range(3):
                _await_workers(server, 2)
                clients.await_acknowledged(20 * (kill + 1))
                os.kill(choose.choice(sorted(server.workers())) if kill != 1 else server.keeper(), signal.SIGKILL)
                tally.kills += 1
                time.sleep(choose.uniform(0, 0.1))
            server.kill()
            tally.kills += 1
            clients.stop()
    tally.sent, tally.acknowledged = len(history.sent), len(history.acknowledged)
    figures(str(tally))
    assert not tally.problems, tally.problems[0]
    assert tally.acknowledged >= 40 * rounds


def _commits(data: Path) -> int:
    """The number of the table's newest commit, 0 before there is a table."""
    log = StorePaths.of(data).table / "_delta_log"
    return max((int(entry.stem) for entry in log.glob("*.json")), default=0)


def _await_commit(server: Server, data: Path, *, after: int) -> None:
    _await(lambda: _commits(data) > after, lambda: f"nothing is flushed; {server.told()}")


def _await_workers(server: Server, count: int) -> None:
    _await(lambda: len(server.workers()) >= count, lambda: f"a killed worker is not replaced; {server.told()}")


def _await(happened: Callable[[], bool], told: Callable[[], str]) -> None:
    deadline = time.monotonic() + _PATIENCE_S
    while not happened():
        assert time.monotonic() < deadline, told()
        time.sleep(0.01)


def test_the_control_notices(tmp_path: Path, figures: Callable[[str], None]) -> None:
    """The same over a server that acknowledges before it commits loses actions."""
    mistake = "acknowledge_before_the_commit"
    tally = _kill_often(tmp_path, cycles=_CONTROL_CYCLES_MAX, seed=3, mistake=mistake)
    figures(f"noticed after {tally}")
    assert any("lost" in problem for problem in tally.problems), f"{tally.kills} kills did not show the mistake"
