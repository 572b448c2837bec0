"""What was sent, what was acknowledged, what is found; and whether these three agree.

They are compared as sets of actions, never as counts, since a new action hides a missing one from a count. Every
action is a function of its user and its sequence number, so that what is found can be checked value for value against
what must have been sent, without remembering any content.
"""

from __future__ import annotations

import datetime
import json
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

_BASE_US: Final = 1_700_006_400_000_000  # Midnight.
_STEP_MS: Final = 7_919_017
TYPES: Final = ("click", "view", "navigate")
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_DAY_MS: Final = 86_400_000


class Action(NamedTuple):
    """One action that a test sends, and all there is to know about it."""

    user: str
    sequence: int

    @property
    def session(self) -> str | None:
        """Its session: one a user, and none for some users."""
        return None if self.user.endswith("0") else f"session of {self.user}"

    @property
    def type(self) -> str:
        """Its type in lower case; it changes slowly, so that a batch goes into few files."""
        return TYPES[self.sequence // 30 % len(TYPES)]

    @property
    def time_us(self) -> int:
        """When it happened: no two of a user at once, and in no order; the day changes slowly, as the type does."""
        of_day_ms = self.sequence * _STEP_MS % _DAY_MS
        # Never a whole millisecond: a time comes back with as few digits as it needs.
        return _BASE_US + self.sequence // 100 * _DAY_MS * 1000 + of_day_ms * 1000 + 1 + self.sequence % 999

    @property
    def offset_minutes(self) -> int:
        """The offset it is sent with."""
        return (self.sequence % 5 - 2) * 90

    @property
    def time_text(self) -> str:
        """Its time as it is sent, and as it must come back."""
        zone = datetime.timezone(datetime.timedelta(minutes=self.offset_minutes))
        moment = (_EPOCH + datetime.timedelta(microseconds=self.time_us)).astimezone(zone)
        return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")

    @property
    def properties(self) -> str:
        """Its properties, the JSON text exactly as sent."""
        return f'{{"n": {self.sequence}, "locationX": {self.sequence}.50, "viewedId": "v{self.sequence}"}}'


def submission_body(actions: Sequence[Action]) -> bytes:
    """Write one submission; all *actions* are of one user."""
    texts = [
        f'{{"time": "{one.time_text}", "type": "{one.type.upper()}", "properties": {one.properties}}}'
        for one in actions
    ]
    head = f'{{"userId": "{actions[0].user}", "sessionId": {json.dumps(actions[0].session)}'
    return f'{head}, "actions": [{", ".join(texts)}]}}'.encode()


class Found(NamedTuple):
    """One row that was read back.

    Attributes:
        action: which one it is, by its user and the sequence number in its properties.
        whole: whether its session, time, offset, type and properties are what was sent.
        place: journal and position, where the reader shows them.
    """

    action: Action
    whole: bool
    place: tuple[str, int] | None


def found_in_table(row: dict[str, Any]) -> Found:
    """Recognise a row of the table."""
    action = Action(row["user_id"], json.loads(row["properties"])["n"])
    whole = (row["session_id"], row["time_us"], row["utc_offset_minutes"], row["type"], row["properties"]) == (
        action.session,
        action.time_us,
        action.offset_minutes,
        action.type,
        action.properties,
    )
    return Found(action, whole, (row["journal"], row["position"]))


def found_in_answer(log: dict[str, Any]) -> Found:
    """Recognise an entry of a retrieval's `logs`."""
    action = Action(log["userId"], log["properties"]["n"])
    wanted = (action.session, action.time_text, action.type.upper(), json.loads(action.properties))
    return Found(action, (log["sessionId"], log["time"], log["type"], log["properties"]) == wanted, None)


@dataclass(frozen=True, slots=True)
class Violations:
    """What a store did wrong; empty in all parts if it did nothing wrong.

    Attributes:
        lost: acknowledged, and not found.
        kept_though_refused: found, though the client was told that nothing was kept.
        doubled: found more than once.
        invented: found, and never sent.
        altered: found with another content than was sent.
        shared_places: positions that two rows have.
    """

    lost: frozenset[Action]
    kept_though_refused: frozenset[Action]
    doubled: frozenset[Action]
    invented: frozenset[Action]
    altered: frozenset[Action]
    shared_places: frozenset[tuple[str, int]]

    def __bool__(self) -> bool:
        return any(getattr(self, name) for name in self.__slots__)

    def __str__(self) -> str:
        parts = []
        for name in self.__slots__:
            values = sorted(getattr(self, name))
            if values:
                parts.append(f"{len(values)} {name.replace('_', ' ')}, such as {values[0]}")
        return "; ".join(parts) or "none"


@dataclass(slots=True)
class History:
    """What clients know. Its methods may be called from any thread.

    Attributes:
        sent: what left a client; it may or may not be kept.
        acknowledged: what was answered to be kept.
        refused: what was answered not to be kept at all.
    """

    sent: set[Action] = field(default_factory=set)
    acknowledged: set[Action] = field(default_factory=set)
    refused: set[Action] = field(default_factory=set)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def send(self, actions: Iterable[Action]) -> None:
        """Note actions, before they leave."""
        with self._lock:
            self.sent.update(actions)

    def acknowledge(self, actions: Iterable[Action]) -> None:
        """Note that actions were acknowledged."""
        with self._lock:
            self.acknowledged.update(actions)

    def refuse(self, actions: Iterable[Action]) -> None:
        """Note that it was answered that nothing of these actions is kept."""
        with self._lock:
            self.refused.update(actions)

    def erase(self, user: str, *, done: bool) -> None:
        """Note that a user is being erased: what was sent so far may be gone from now on, and is, once it is *done*."""
        with self._lock:
            earlier = {one for one in self.sent if one.user == user}
            self.acknowledged -= earlier
            if done:
                self.refused |= earlier

    def judge(self, found: Iterable[Found]) -> Violations:
        """Compare what is found with what was sent and acknowledged."""
        rows = list(found)
        times = Counter(row.action for row in rows)
        places = Counter(row.place for row in rows if row.place is not None)
        return Violations(
            lost=frozenset(self.acknowledged - times.keys()),
            kept_though_refused=frozenset(self.refused & times.keys()),
            doubled=frozenset(action for action, count in times.items() if count > 1),
            invented=frozenset(times.keys() - self.sent),
            altered=frozenset(row.action for row in rows if not row.whole),
            shared_places=frozenset(place for place, count in places.items() if count > 1),
        )
