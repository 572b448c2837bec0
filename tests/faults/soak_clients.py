"""Clients of the soak: they submit at a steady rate across restarts, and remember what each user must have."""

from __future__ import annotations

import datetime
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import quote

ACTIONS: Final = 5
_USERS_A_CLIENT: Final = 40
_TIMEOUT_S: Final = 30.0
# The largest page there is, so that answers grow no further when a user has more.
_PAGE_ROWS: Final = 10_000
_PAUSE_S: Final = 0.1
_TYPES: Final = ("CLICK", "VIEW", "NAVIGATE")


@dataclass(slots=True)
class Soaked:
    """One user of the soak.

    Attributes:
        acknowledged: actions 0 to this one, not included, must be stored, each once.
        uncertain: so many more may be: their answer was lost with a killed server.
    """

    acknowledged: int = 0
    uncertain: int = 0


@dataclass(slots=True)
class Ledger:
    """What all clients know. Written by one thread a user, read at the end."""

    users: dict[str, Soaked] = field(default_factory=dict)
    erased: list[str] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    wrong: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, what: str) -> None:
        """Count something that happened."""
        with self.lock:
            self.statuses[what] += 1

    def complain(self, what: str) -> None:
        """Note something that must not happen."""
        with self.lock:
            self.wrong.append(what)

    @property
    def acknowledged(self) -> int:
        """All acknowledged actions so far."""
        return sum(one.acknowledged for one in list(self.users.values()))


class Connection:
    """Requests to whichever process serves now; a lost connection is opened anew by the next request."""

    def __init__(self, port: Callable[[], int]) -> None:
        self._port = port
        self._connection: http.client.HTTPConnection | None = None

    def ask(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        """Send one request; return its status and its decoded answer, 0 if there was none."""
        try:
            if self._connection is None:
                self._connection = http.client.HTTPConnection("127.0.0.1", self._port(), timeout=_TIMEOUT_S)
            self._connection.request(method, path, body, {"content-type": "application/json"} if body else {})
            answer = self._connection.getresponse()
            content = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            return 0, None
        return answer.status, json.loads(content) if content else None

    def close(self) -> None:
        """Close it."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def body_of(user: str, first: int, count: int) -> bytes:
    """A submission of actions that happen now."""
    now = datetime.datetime.now(datetime.UTC).isoformat(timespec="milliseconds")
    actions = [
        {"time": now, "type": _TYPES[number // 20 % 3], "properties": {"n": number, "locationX": number % 100}}
        for number in range(first, first + count)
    ]
    return json.dumps({"userId": user, "sessionId": f"s-{first // 100}", "actions": actions}).encode()


def submit_steadily(
    name: str, ledger: Ledger, port: Callable[[], int], pace_s: Callable[[], float], stopping: threading.Event
) -> None:
    """Submit for users of this client in turn, one submission every *pace_s()* seconds, until *stopping*."""
    connection = Connection(port)
    users = [f"{name}-{number}" for number in range(_USERS_A_CLIENT)]
    turn = 0
    due = time.monotonic()
    while not stopping.is_set():
        place = turn % len(users)
        turn += 1
        user = ledger.users.setdefault(users[place], Soaked())
        status, _ = connection.ask("POST", "/api/submitlogs", body_of(users[place], user.acknowledged, ACTIONS))
        ledger.count(f"submit {status}")
        if status == 200:
            user.acknowledged += ACTIONS
        elif status in (429, 507):
            time.sleep(_PAUSE_S)
        else:
            if status not in (0, 503):
                ledger.complain(f"a submission was answered {status}")
            # Kept or not, nobody knows: this user gets no more, so that what it has can be told exactly.
            user.uncertain = ACTIONS
            users[place] = f"{users[place]}+"
            time.sleep(_PAUSE_S)
        due = max(due + pace_s(), time.monotonic() - 1)
        time.sleep(max(0.0, due - time.monotonic()))
    connection.close()


def read_steadily(ledger: Ledger, port: Callable[[], int], stopping: threading.Event) -> None:
    """Retrieve users that are being written to, and count in SQL: never less than acknowledged, never twice."""
    connection = Connection(port)
    turn = 0
    while not stopping.wait(0.25):
        turn += 1
        names = list(ledger.users)
        if not names:
            continue
        name = names[turn * 7919 % len(names)]
        before = ledger.users[name].acknowledged
        status, answer = connection.ask("GET", f"/api/retrievelogs?userId={quote(name)}&limit={_PAGE_ROWS}")
        ledger.count(f"retrieve {status}")
        if status == 200:
            numbers = [log["properties"]["n"] for log in answer["logs"]]
            if len(set(numbers)) != len(numbers):
                ledger.complain(f"a retrieval of {name} had actions twice")
            if not set(range(min(before, _PAGE_ROWS))) <= set(numbers):
                ledger.complain(f"a retrieval of {name} had {len(numbers)} actions, {before} were acknowledged before")
        if turn % 8 == 0:
            total = ledger.acknowledged
            question = {"sql": "SELECT count(*) AS n, count(DISTINCT (journal, position)) AS d FROM actions"}
            if turn % 40:
                question = {"sql": "SELECT count(*) AS n, count(*) AS d FROM actions"}
            status, answer = connection.ask("POST", "/api/sql", json.dumps(question).encode())
            ledger.count(f"sql {status}")
            if status == 200:
                (row,) = answer["rows"]
                count, distinct = row if isinstance(row, list) else (row["n"], row["d"])
                if count != distinct or count < total - len(ledger.erased) * ACTIONS:
                    ledger.complain(f"SQL counted {count} rows and {distinct} positions, {total} were acknowledged")
    connection.close()
