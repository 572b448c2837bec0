"""What is asked, as plain values that every contender puts into its own words."""

from __future__ import annotations

import datetime
from collections.abc import Mapping
from typing import Final, Literal

from msgspec import Struct

Kind = Literal["user", "user_week", "user_newest", "user_type_month_newest", "type_hour", "daily", "funnel"]

ROW_COLUMNS: Final = ("user_id", "session_id", "time", "utc_offset_minutes", "type", "properties")
NEWEST: Final = 100


class Question(Struct, frozen=True, omit_defaults=True):
    """One question.

    Attributes:
        kind: what is asked.
        user, type: whom and what it is about, where the kind has it.
        from_us, to_us: bounds of `time` in microseconds, the first included, the second not.
        columnar: the answer is wanted as Arrow with all columns, instead of JSON with those of a retrieval.
    """

    kind: Kind
    user: str | None = None
    type: str | None = None
    from_us: int | None = None
    to_us: int | None = None
    columnar: bool = False

    @property
    def newest(self) -> int | None:
        """How many rows are wanted, the newest first; None for all, the oldest first."""
        return NEWEST if self.kind in ("user_newest", "user_type_month_newest") else None

    @property
    def counts(self) -> bool:
        """Whether the answer is counts instead of actions."""
        return self.kind in ("daily", "funnel")


DAILY: Final = (
    "SELECT date, type, count(*) AS actions, count(DISTINCT user_id) AS users FROM actions GROUP BY date, type"
    " ORDER BY date, type"
)
# Users who clicked on a day, viewed something after their first click of that day, and navigated after that.
FUNNEL: Final = """
WITH clicked AS (
    SELECT user_id, date, min(time) AS at FROM actions WHERE type = 'click' AND {month} GROUP BY user_id, date
), viewed AS (
    SELECT a.user_id AS user_id, a.date AS date, min(a.time) AS at
    FROM actions AS a JOIN clicked AS c ON a.user_id = c.user_id AND a.date = c.date
    WHERE a.type = 'view' AND a.time > c.at AND {month_of_a} GROUP BY a.user_id, a.date
), navigated AS (
    SELECT a.user_id AS user_id, a.date AS date
    FROM actions AS a JOIN viewed AS v ON a.user_id = v.user_id AND a.date = v.date
    WHERE a.type = 'navigate' AND a.time > v.at AND {month_of_a} GROUP BY a.user_id, a.date
)
SELECT (SELECT count(*) FROM clicked) AS clicked, (SELECT count(*) FROM viewed) AS viewed,
       (SELECT count(*) FROM navigated) AS navigated
"""


def funnel_sql(question: Question, *, date_literal: str = "DATE '{}'") -> str:
    """The funnel over the days of a question."""
    assert question.from_us is not None, "a funnel has bounds"
    assert question.to_us is not None, "a funnel has bounds"
    first, end = (date_literal.format(_date(at)) for at in (question.from_us, question.to_us))
    return FUNNEL.format(month=f"date >= {first} AND date < {end}", month_of_a=f"a.date >= {first} AND a.date < {end}")


def _date(time_us: int) -> datetime.date:
    return datetime.date(1970, 1, 1) + datetime.timedelta(days=time_us // 86_400_000_000)


def conditions(question: Question, *, time_literal: Mapping[int, str]) -> str:
    """The WHERE of a question about actions; *time_literal* writes its bounds as a dialect has them."""
    parts = []
    if question.user is not None:
        parts.append(f"user_id = '{question.user}'")
    if question.type is not None:
        parts.append(f"type = '{question.type}'")
    if question.from_us is not None:
        parts.append(f"time >= {time_literal[question.from_us]}")
    if question.to_us is not None:
        parts.append(f"time < {time_literal[question.to_us]}")
    return " AND ".join(parts)


def rows_sql(question: Question, *, time_literal: Mapping[int, str], columns: str) -> str:
    """The SELECT of a question about actions, in the order of a retrieval."""
    order, limit = ("DESC", f" LIMIT {question.newest}") if question.newest else ("ASC", "")
    where = conditions(question, time_literal=time_literal)
    return f"SELECT {columns} FROM actions WHERE {where} ORDER BY time {order}, position {order}{limit}"


def bounds(question: Question) -> list[int]:
    """The bounds that a question has."""
    return [one for one in (question.from_us, question.to_us) if one is not None]
