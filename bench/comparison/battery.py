"""What is asked of a set of actions: eight kinds of questions, each of several users, days or hours."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from bench.comparison.actions import ComparedActions
from bench.comparison.questions import Question

_DAY_US: Final = 86_400_000_000
_HOUR_US: Final = 3_600_000_000
# At this share of the ranks, users have about a hundred actions, whatever the size of the set.
_TYPICAL_SHARE: Final = 0.36
_HEAVIEST: Final = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """One kind of questions.

    Attributes:
        name: for options and figures.
        title: for tables.
        questions: to be asked of a set of actions.
    """

    name: str
    title: str
    questions: Callable[[ComparedActions], Sequence[Question]]


def typical_users(actions: ComparedActions, count: int) -> list[str]:
    """Users with about a hundred actions each, of neighbouring ranks."""
    first = int(actions.users * _TYPICAL_SHARE)
    return [actions.user_id(rank) for rank in range(first, min(actions.users, first + count))]


def _some_users(actions: ComparedActions) -> list[str]:
    return typical_users(actions, 20) + [actions.user_id(rank) for rank in range(_HEAVIEST)]


def _middle_us(actions: ComparedActions) -> int:
    return (actions.first_date.toordinal() - 719_163 + actions.days // 2) * _DAY_US


def _user(actions: ComparedActions) -> list[Question]:
    return [Question("user", user=user) for user in typical_users(actions, 30)]


def _heaviest(actions: ComparedActions) -> list[Question]:
    return [Question("user", user=actions.user_id(0), columnar=True)]


def _week(actions: ComparedActions) -> list[Question]:
    begin = _middle_us(actions)
    users = _some_users(actions)
    return [Question("user_week", user=user, from_us=begin, to_us=begin + 7 * _DAY_US) for user in users]


def _newest(actions: ComparedActions) -> list[Question]:
    return [Question("user_newest", user=user) for user in _some_users(actions)]


def _user_type_month(actions: ComparedActions) -> list[Question]:
    begin = _middle_us(actions)
    return [
        Question("user_type_month_newest", user=user, type="click", from_us=begin, to_us=begin + 30 * _DAY_US)
        for user in _some_users(actions)
    ]


def _type_hour(actions: ComparedActions) -> list[Question]:
    # One hour of each of some days, not the same of each.
    begins = [_middle_us(actions) - day * _DAY_US + (7 * day + 3) % 24 * _HOUR_US for day in range(actions.days // 2)]
    return [Question("type_hour", type="view", from_us=one, to_us=one + _HOUR_US) for one in begins[:10]]


def _daily(_: ComparedActions) -> list[Question]:
    return [Question("daily")]


def _funnel(actions: ComparedActions) -> list[Question]:
    begin = _middle_us(actions)
    return [Question("funnel", from_us=begin, to_us=begin + 30 * _DAY_US)]


ASKED: Final[Sequence[Asked]] = (
    Asked("user", "one user (about 100 actions), all time", _user),
    Asked("heaviest", "the heaviest user, all time, as Arrow with all columns", _heaviest),
    Asked("week", "one user, one week", _week),
    Asked("newest", "one user, newest 100", _newest),
    Asked("user-type-month", "one user, one type, one month, newest 100", _user_type_month),
    Asked("type-hour", "one type, one hour", _type_hour),
    Asked("daily", "actions and distinct users by day and type, whole table", _daily),
    Asked("funnel", "a funnel of three steps over a month", _funnel),
)
ASKED_BY_NAME: Final = {one.name: one for one in ASKED}
