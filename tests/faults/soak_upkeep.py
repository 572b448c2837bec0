"""What the soak has done to its store every minute: a compaction by command, and an erasure followed to its end."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from tests.faults.soak_clients import ACTIONS, Connection, Ledger, body_of
from tests.service.forked_service import ROOT

_PAUSE_S: Final = 0.2
# After the end of the load, for what is under way then.
_LAST_ERASURE_S: Final = 120.0
_LOOK_S: Final = 0.5


@dataclass(slots=True)
class Upkeep:
    """Compactions and erasures at fixed moments, whatever becomes of the server meanwhile.

    Attributes:
        compactions_s, erasures_s: how long each took that came to its end: a command; an erasure from its request to
            the receipt that says `done`.
        rounds: how many of each there were to be until now.
    """

    data: Path
    ledger: Ledger
    port: Callable[[], int]
    period_s: float
    stopping: threading.Event
    compactions_s: list[float] = field(default_factory=list)
    erasures_s: list[float] = field(default_factory=list)
    rounds: int = 0
    _pending: dict[str, float] = field(default_factory=dict)
    _all_asked: threading.Event = field(default_factory=threading.Event)

    def threads(self) -> list[threading.Thread]:
        """Return what does it, to be started; they end some time after *stopping*."""
        work = (self._compact_regularly, self._erase_regularly, self._follow_erasures)
        return [threading.Thread(target=one) for one in work]

    def check(self) -> tuple[str, bool, str]:
        """Whether each round had its compaction and its erasure: the name, the judgement and the figures."""
        told = [
            f"{len(taken)} of {self.rounds} {what}, in {_shown(taken)}"
            for what, taken in (("compactions", self.compactions_s), ("erasures", self.erasures_s))
        ]
        good = min(len(self.compactions_s), len(self.erasures_s)) >= self.rounds > 0
        return f"a compaction and an erasure every {self.period_s:.0f} s", good, "; ".join(told)

    def _compact_regularly(self) -> None:
        began_s = due_s = time.monotonic()
        while not self.stopping.wait(max(0.0, due_s + self.period_s - time.monotonic())):
            # One that takes longer than the period makes the next one late, and in the end there are fewer than rounds.
            due_s += self.period_s
            self.rounds = max(self.rounds, int((time.monotonic() - began_s) / self.period_s))
            started_s = time.monotonic()
            command = [sys.executable, "-m", "service.cli", "compact", "--data", str(self.data)]
            done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
            if done.returncode:
                self.ledger.complain(f"compact ended with {done.returncode}: {done.stderr or done.stdout}")
            else:
                self.compactions_s.append(time.monotonic() - started_s)

    def _erase_regularly(self) -> None:
        try:
            self._erase_victims()
        finally:
            self._all_asked.set()

    def _erase_victims(self) -> None:
        due_s = time.monotonic()
        number = 0
        while not self.stopping.wait(max(0.0, due_s + self.period_s / 2 - time.monotonic())):
            number += 1
            victim = f"victim-{number}"
            # Whether an unanswered submission was kept does not matter: the erasure is for both.
            while self._ask("POST", "/api/submitlogs", body_of(victim, 0, ACTIONS))[0] != 200:
                if self.stopping.wait(_PAUSE_S):
                    return
            if self.stopping.wait(max(0.0, due_s + self.period_s - time.monotonic())):
                return
            due_s += self.period_s
            self._erase(victim)

    def _erase(self, victim: str) -> None:
        """Ask until it is answered, since a kill may have taken the answer away."""
        started_s = time.monotonic()
        while (asked := self._ask("DELETE", f"/api/users/{victim}"))[0] != 202:
            self.ledger.count(f"erase {asked[0]}")
            if self.stopping.wait(_PAUSE_S):
                return
        self.ledger.count("erase 202")
        self.ledger.erased.append(victim)
        self._pending[asked[1]["erasure"]] = started_s

    def _follow_erasures(self) -> None:
        """Ask for the receipts until they say that it is done; an erasure waits longer than the longest query."""
        left_s = _LAST_ERASURE_S
        while not self._all_asked.is_set() or (self._pending and left_s > 0):
            time.sleep(_LOOK_S)
            left_s -= _LOOK_S if self._all_asked.is_set() else 0
            for id_, started_s in list(self._pending.items()):
                status, receipt = self._ask("GET", f"/api/erasures/{id_}")
                if status == 200 and receipt["status"] == "done":
                    self.erasures_s.append(time.monotonic() - started_s)
                    del self._pending[id_]
        if self._pending:
            self.ledger.complain(f"{len(self._pending)} erasures were not done in the end")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Ask by a connection of its own: one that rests longer than a server keeps it open is as good as lost."""
        connection = Connection(self.port)
        try:
            return connection.ask(method, path, body)
        finally:
            connection.close()


def _shown(taken_s: list[float]) -> str:
    ordered = sorted(taken_s)
    return f"{ordered[len(ordered) // 2]:.1f} s (median), {ordered[-1]:.1f} s at the most" if ordered else "no time"
