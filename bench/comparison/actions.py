"""The actions that are compared over: a year of many users, made day by day, the same for the same arguments.

Users are drawn by a power law in which the typical one has as many actions as there are actions for each user, and the
heaviest several hundred times that. They come in sessions, each submitted as one request when it is over, as in the web
log that the tests read (semicomplete.com, May 2015: 3.27 actions a session, 4 s between two at the median and 7 s on
average, viewed items by a power law). A hundredth of all sessions arrives days after it happened.
"""

from __future__ import annotations

import datetime
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from storage.schema import TIMESTAMP, ActionSchema

# Another one whenever the same arguments give other rows: what was made of the old ones is not used any more.
VERSION: Final = 2
JOURNAL: Final = "bench"
TYPES: Final = ("click", "view", "navigate")
_TYPE_SHARES: Final = (0.45, 0.35, 0.20)
_ACTIONS_A_USER: Final = 130
# So that of 20 million actions the heaviest user has about 50,000.
_EXPONENT: Final = 0.57
_LATE_SHARE: Final = 0.01
_DAY_US: Final = 86_400_000_000
# Of the web log, counted from its submissions: how many actions a session has, and what lies between two of them.
_SESSION_ACTIONS_MEAN: Final = 3.27
_PAUSE_MEDIAN_MS: Final = 4_000
_PAUSE_SIGMA: Final = 1.06
# A request takes this long to arrive, and is then acknowledged as a whole.
_LATENCY_US: Final = (20_000, 250_000)
# What is viewed comes from a catalogue, the n-th most popular item in proportion to 1/n.
_ITEMS: Final = 50_000
_ITEM_ID_MIN: Final = 100_000_000
_PAGES: Final = pa.array(
    ["home", "communities", "inventory", "floor-plans", "pricing", "contact", "search", "account"], pa.string()
)


@dataclass(frozen=True)
class ComparedActions:
    """A set of actions, by what makes it.

    Attributes:
        actions: how many, a multiple of *days*.
        days: over how many, the last of which is that before *end*.
        seed: of the drawing.
    """

    actions: int
    days: int = 365
    end: datetime.date = datetime.date(2026, 1, 1)
    seed: int = 1

    def __post_init__(self) -> None:
        if self.actions % self.days:
            raise ValueError(f"{self.actions} actions cannot be spread evenly over {self.days} days")

    @property
    def a_day(self) -> int:
        """Actions of each day."""
        return self.actions // self.days

    @property
    def users(self) -> int:
        """How many users are drawn from."""
        return max(10, self.actions // _ACTIONS_A_USER)

    @property
    def first_date(self) -> datetime.date:
        """The first day."""
        return self.end - datetime.timedelta(days=self.days)

    @cached_property
    def _cumulated(self) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
        weights = np.arange(1, self.users + 1, dtype=np.float64) ** -_EXPONENT
        cumulated = np.cumsum(weights)
        shares: np.ndarray[tuple[int], np.dtype[np.float64]] = cumulated / cumulated[-1]
        return shares

    def user_id(self, rank: int) -> str:
        """The id of the user with the *rank*-th most actions, from 0; ids and ranks are in no order."""
        return _user_text(np.array([rank]))[0].as_py()  # type: ignore[no-any-return]

    def tables(self) -> Iterator[tuple[pa.Table, pa.Table]]:
        """Yield for each day its actions, in order of position, and those of them that arrived late, apart.

        Both have all columns of the table `actions`.
        """
        for day in range(self.days):
            table, late = self._day(day)
            yield table.filter(pa.array(~late)), table.filter(pa.array(late))

    def _day(self, day: int) -> tuple[pa.Table, np.ndarray[tuple[int], np.dtype[np.bool_]]]:
        source = np.random.default_rng([self.seed, day])
        count = self.a_day
        date = self.first_date + datetime.timedelta(days=day)
        midnight_us = (date - datetime.date(1970, 1, 1)).days * _DAY_US
        sizes = _sizes_of_sessions(source, count)
        sessions = len(sizes)
        # Of which session each action is, and which action of it comes first.
        session, first = np.repeat(np.arange(sessions), sizes), np.cumsum(sizes) - sizes
        pauses_ms = source.lognormal(np.log(_PAUSE_MEDIAN_MS), _PAUSE_SIGMA, count).astype(np.int64)
        pauses_ms[first] = 0
        passed_ms = np.cumsum(pauses_ms)
        passed_ms -= passed_ms[first][session]
        lasts_ms = passed_ms[first + sizes - 1]
        # A session ends on the day on which it begins, so that each day can be made alone.
        begins_ms = (source.random(sessions) * (_DAY_US // 1000 - lasts_ms)).astype(np.int64)
        late = source.random(sessions) < _LATE_SHARE
        latency_us = source.integers(*_LATENCY_US, sessions)
        received = midnight_us + (begins_ms + lasts_ms) * 1000 + latency_us
        of_user = np.searchsorted(self._cumulated, source.random(sessions)).astype(np.int64)
        # Positions are given in the order in which requests arrive, and inside one in that of its actions.
        arrives = np.empty(sessions, np.int64)
        arrives[np.argsort(received, kind="stable")] = np.arange(sessions)
        order = np.argsort(arrives[session], kind="stable")
        session = session[order]
        users, late_actions = of_user[session], late[session]
        since_us = (begins_ms[session] + passed_ms[order]) * 1000
        received += np.where(late, source.integers(1, 31, sessions) * _DAY_US, 0)
        types = source.choice(len(TYPES), count, p=_TYPE_SHARES)
        x, y = source.integers(0, 1920, count), source.integers(0, 1080, count)
        viewed = _items(source, count)
        page_from, page_to = source.integers(0, len(_PAGES), count), source.integers(0, len(_PAGES), count)
        is_click, is_view, is_navigate = (pa.array(types == code) for code in range(3))
        texts = {
            "x": _text(x), "y": _text(y), "viewed": _text(viewed),
            "from": _PAGES.take(pa.array(page_from)), "to": _PAGES.take(pa.array(page_to)),
        }  # fmt: skip
        user_ids = _user_text(users)
        click = _joined('{"locationX":', texts["x"], ',"locationY":', texts["y"], "}")
        view = _joined('{"viewedId":"', texts["viewed"], '"}')
        navigate = _joined('{"pageFrom":"', texts["from"], '","pageTo":"', texts["to"], '"}')
        columns = {
            "date": pa.array(np.full(count, midnight_us // _DAY_US, np.int32)).view(pa.date32()),
            "type": pa.array(TYPES, pa.string()).take(pa.array(types)),
            "user_id": user_ids,
            "session_id": _joined(user_ids, "-", _text((begins_ms[session] // 1000).astype(np.int64) + day * 86_400)),
            "time": pa.array(midnight_us + since_us).view(TIMESTAMP),
            "utc_offset_minutes": pa.array((users % 3 * -60).astype(np.int16)),
            "properties": pc.case_when(pc.make_struct(is_click, is_view), click, view, navigate),
            "location_x": _where(is_click, pa.array(x.astype(np.float64))),
            "location_y": _where(is_click, pa.array(y.astype(np.float64))),
            "viewed_id": _where(is_view, texts["viewed"]),
            "page_from": _where(is_navigate, texts["from"]),
            "page_to": _where(is_navigate, texts["to"]),
            "received_at": pa.array(received[session]).view(TIMESTAMP),
            "journal": pa.repeat(pa.scalar(JOURNAL), count),
            "position": pa.array(np.arange(day * count + 1, (day + 1) * count + 1)),
        }
        schema = ActionSchema().table_schema
        return pa.table([columns[name] for name in schema.names], schema=schema), late_actions


def _sizes_of_sessions(source: np.random.Generator, actions: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    # As many as are surely enough; the last one that is needed is cut so that the sum is *actions*.
    sizes = source.geometric(1 / _SESSION_ACTIONS_MEAN, actions).astype(np.int64)
    ends = np.cumsum(sizes)
    needed = int(np.searchsorted(ends, actions)) + 1
    sizes = sizes[:needed]
    sizes[-1] -= ends[needed - 1] - actions
    return sizes


def _items(source: np.random.Generator, count: int) -> np.ndarray[tuple[int], np.dtype[np.int64]]:
    shares = np.cumsum(1 / np.arange(1, _ITEMS + 1, dtype=np.float64))
    ranks = np.searchsorted(shares / shares[-1], source.random(count))
    # A prime larger than the catalogue: popular items are not neighbours in the order of ids.
    return _ITEM_ID_MIN + (ranks * 7_919_017) % 900_000_000


def _user_text(ranks: np.ndarray[tuple[int], np.dtype[np.int64]]) -> pa.Array:
    # An odd multiplier is a bijection modulo a power of two: heavy users are not neighbours in the order of ids.
    mixed = (ranks.astype(np.uint64) * np.uint64(2_654_435_761)) % np.uint64(1 << 32)
    return _joined("u-", pc.utf8_lpad(_text(mixed), 10, "0"))


def _text(values: np.ndarray[tuple[int], np.dtype[np.int64]] | np.ndarray[tuple[int], np.dtype[np.uint64]]) -> pa.Array:
    return pa.array(values).cast(pa.string())


def _joined(*parts: pa.Array | str) -> pa.Array:
    return pc.binary_join_element_wise(*parts, "")


def _where(condition: pa.Array, values: pa.Array) -> pa.Array:
    return pc.if_else(condition, values, pa.scalar(None, values.type))
