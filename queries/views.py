"""The ready views beside `actions`, as SELECTs that can be put into any catalog: the same names and columns everywhere.

One view for each action type, with that type's promoted properties as its own columns, and two that summarise. They
are written in DuckDB's dialect and use nothing but the table `actions` and each other's columns.
"""

from __future__ import annotations

from typing import Final

from storage.schema import ActionSchema

_PLURALS: Final = {"click": "clicks", "view": "views", "navigate": "navigations"}

_SESSIONS: Final = """\
SELECT
    user_id,
    session_id,
    min(time) AS started_at,
    max(time) AS ended_at,
    max(time) - min(time) AS length,
    count(*) AS actions
FROM actions
WHERE session_id IS NOT NULL
GROUP BY user_id, session_id"""

_DAILY_ACTIVITY: Final = """\
SELECT
    date,
    type,
    count(*) AS actions,
    count(DISTINCT user_id) AS users
FROM actions
GROUP BY date, type"""


def view_statements(schema: ActionSchema) -> dict[str, str]:
    """Return the SELECT of each view by the view's name, in an order in which they can be created.

    A type that has no plural of its own here, such as `purchase`, becomes `purchase_actions`.
    """
    views = {view_name(action_type): _one_type(schema, action_type) for action_type in schema.action_types}
    return views | {"sessions": _SESSIONS, "daily_activity": _DAILY_ACTIVITY}


def view_name(action_type: str) -> str:
    """Return the name of the view of one action type."""
    return _PLURALS.get(action_type, f"{action_type}_actions")


def _one_type(schema: ActionSchema, action_type: str) -> str:
    # The configuration may name a column by a word of SQL, such as `order`.
    promoted = [f'"{one.column}"' for one in schema.action_types[action_type]]
    columns = ["user_id", "session_id", "time", "date", "utc_offset_minutes", *promoted, "properties", "received_at"]
    listed = ",\n    ".join(columns)
    # Action types are of [a-z0-9_-], so that no quoting is needed inside the literal.
    return f"SELECT\n    {listed}\nFROM actions\nWHERE type = '{action_type}'"
