"""Which queries mean the same whenever they are asked: their plan follows from their text and parameters alone.

DuckDB computes what does not depend on rows while it plans, the clock's time included. A plan of `date = current_date`
is wrong the next day; one of `date = DATE '2024-01-02'` is not.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any, Final

import duckdb

from queries.sql.syntax_tree import nodes

# What DuckDB takes for functions where no column has the name.
_VALUE_NAMES: Final = """
current_catalog current_date current_localtime current_localtimestamp current_role current_schema current_time
current_timestamp current_user get_current_time get_current_timestamp localtime localtimestamp now session_user today
transaction_timestamp user
"""
VALUE_NAMES: Final = frozenset(_VALUE_NAMES.split())
# With one argument it counts from today. DuckDB calls it consistent, as it does some of those above.
_ASKS_THE_CLOCK: Final = frozenset({"age"})
_STEADY: Final = """
SELECT lower(function_name) FROM duckdb_functions()
GROUP BY ALL HAVING bool_and(coalesce(stability = 'CONSISTENT', false))
"""


def steady_functions(connection: duckdb.DuckDBPyConnection, *, macros: Collection[str]) -> frozenset[str]:
    """Return the functions of DuckDB whose value follows from their arguments, in every form that they have.

    Args:
        connection: whose functions are meant.
        macros: names of which nothing is known, and which hide functions of the same name.
    """
    names = {str(name) for (name,) in connection.execute(_STEADY).fetchall()}
    return frozenset(names - _ASKS_THE_CLOCK - VALUE_NAMES - {name.lower() for name in macros})


def is_steady(node: object, functions: Collection[str]) -> bool:
    """Whether a statement calls nothing but *functions*.

    Args:
        node: its syntax tree.
        functions: by `steady_functions`.
    """
    return all(_is_steady(one, functions) for one in nodes(node))


def _is_steady(node: Mapping[str, Any], functions: Collection[str]) -> bool:
    if "function_name" in node:
        return str(node["function_name"]).lower() in functions
    names = node.get("column_names")
    return not isinstance(names, list) or not names or str(names[-1]).lower() not in VALUE_NAMES
