"""Queries of the table and of nothing else, which may be run over other rows by putting a WITH before them.

The WITH query has the name of the view that it hides, so that the text itself stays as it was sent.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from queries.sql.syntax_tree import nodes

_TABLE: Final = "actions"


def is_of_the_table(node: Mapping[str, Any]) -> bool:
    """Whether a query is one SELECT whose FROM is the table, as it is, and which names no database or schema.

    Args:
        node: its syntax tree, without what is empty.
    """
    if node["type"] != "SELECT_NODE" or node.get("sample") or node.get("cte_map", {}).get("map"):
        return False
    table = node.get("from_table", {})
    if table.get("type") != "BASE_TABLE" or str(table["table_name"]).lower() != _TABLE:
        return False
    if any(table.get(key) for key in ("sample", "column_name_alias", "at_clause")):
        return False
    name = str(table.get("alias") or _TABLE).lower()
    return all(_is_within(one["column_names"], name) for one in nodes(node) if one.get("class") == "COLUMN_REF")


def _is_within(names: Sequence[str], table: str) -> bool:
    """Whether a reference is to a column, by its name or the table's; a view is in a database, a WITH query in none."""
    return len(names) == 1 or (len(names) == 2 and names[0].lower() == table)


def is_plain(node: Mapping[str, Any]) -> bool:
    """Whether a query is such a SELECT without subqueries, which may name the table once more."""
    return is_of_the_table(node) and all(one.get("class") != "SUBQUERY" for one in nodes(node))


def of_rows(select: str) -> str:
    """What stands before such a query that shall have the rows of *select* instead of the table's."""
    return f"WITH {_TABLE} AS NOT MATERIALIZED ({select}) "
