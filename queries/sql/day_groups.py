"""Counting different values day by day: which queries allow it, and which files go together.

DuckDB counts the different values of all groups in one hash table, which is far larger than any cache of a processor
when there are millions of them; a table of a few days' groups is not, and takes half the time. Where a query groups by
`date`, among others, each of its groups lies within one day, so that the query over all days is the UNION ALL of the
same query over some days each, put in order once more at its end.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import duckdb

from queries.sql.plain_queries import is_of_the_table, of_rows
from queries.sql.pruning import FileBounds
from queries.sql.syntax_tree import nodes

_DAY: Final = "date"
# With less to read, one hash table is small enough.
_WORTH_BYTES: Final = 48 << 20
_PART_BYTES_MIN: Final = 12 << 20
# Each is a part of the plan of its own.
_PARTS_MAX: Final = 48
# What makes a row depend on rows of other days, or what would have to be said once for every part.
_REFUSED_CLASSES: Final = frozenset({"SUBQUERY", "WINDOW", "PARAMETER"})
_GROUPING_SETS: Final = (b"ROLLUP", b"CUBE", b"GROUPING")
_DIRECTIONS: Final = {"ORDER_DEFAULT": "", "ASCENDING": " ASC", "DESCENDING": " DESC"}
_NULLS: Final = {"ORDER_DEFAULT": "", "NULLS FIRST": " NULLS FIRST", "NULLS LAST": " NULLS LAST"}


@dataclass(frozen=True, slots=True)
class DayGroups:
    """A query that may be run by days.

    Attributes:
        order: the ORDER BY of the whole by places of columns; empty where there is none.
    """

    order: str

    def union(self, select: str, parts: Sequence[str]) -> str:
        """The query over all days.

        Args:
            select: the text of the query, which the guard has checked to be one statement.
            parts: a SELECT for each part of the days, which stands for the table `actions`.
        """
        # The text ends with a line end, since its own end may be a comment.
        text = select.rstrip().removesuffix(";")
        of_parts = (f"({of_rows(part)}{text}\n)" for part in parts)
        return " UNION ALL ".join(of_parts) + self.order


def day_groups(select: str, node: Mapping[str, Any]) -> DayGroups | None:
    """Tell whether a query counts different values in groups that each lie within one day.

    Args:
        select: its text.
        node: its syntax tree, without what is empty.
    """
    if not _groups_by_day(node) or _has_grouping_sets(select):
        return None
    distinct = False
    for one in _expressions(node):
        if one["class"] in _REFUSED_CLASSES:
            return None
        distinct = distinct or bool(one.get("distinct"))
    order = _order(node.get("modifiers", []), node["select_list"]) if distinct else None
    return None if order is None else DayGroups(order)


def _groups_by_day(node: Mapping[str, Any]) -> bool:
    """Whether a query is of the table alone, and each of its groups of one day."""
    if not is_of_the_table(node) or node.get("qualify") or node.get("aggregate_handling") != "STANDARD_HANDLING":
        return False
    # In GROUP BY a column comes before an alias; here there is to be no doubt.
    doubtful = any(str(one.get("alias", "")).lower() == _DAY and not _is_day(one) for one in node["select_list"])
    return not doubtful and len(node.get("group_sets", [])) == 1 and any(map(_is_day, node["group_expressions"]))


def _has_grouping_sets(select: str) -> bool:
    """Whether there may be more groups than are named: the tree does not show the empty one."""
    text = select.encode()
    keywords = (text[start:] for start, kind in duckdb.tokenize(select) if kind == duckdb.token_type.keyword)
    return any(word[:8].upper().startswith(_GROUPING_SETS) for word in keywords)


def _is_day(node: Mapping[str, Any]) -> bool:
    return node["class"] == "COLUMN_REF" and str(node["column_names"][-1]).lower() == _DAY


def _expressions(node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    return (one for one in nodes(node) if "class" in one)


def _order(modifiers: Sequence[Mapping[str, Any]], selected: Sequence[Mapping[str, Any]]) -> str | None:
    """The order by places of columns; None where it cannot be said so, or where there is a LIMIT or DISTINCT."""
    if not modifiers:
        return ""
    if len(modifiers) > 1 or modifiers[0]["type"] != "ORDER_MODIFIER":
        return None
    names = [str(one.get("alias") or one.get("column_names", [""])[-1]).lower() for one in selected]
    terms = []
    for one in modifiers[0]["orders"]:
        place = _place(one["expression"], names)
        direction, nulls = _DIRECTIONS.get(one["type"]), _NULLS.get(one["null_order"])
        if place is None or direction is None or nulls is None:
            return None
        terms.append(f"{place}{direction}{nulls}")
    return f" ORDER BY {', '.join(terms)}"


def _place(node: Mapping[str, Any], names: Sequence[str]) -> int | None:
    """The place of the column that an ORDER BY names, from 1."""
    if node["class"] == "COLUMN_REF" and len(node["column_names"]) == 1:
        name = str(node["column_names"][0]).lower()
        return names.index(name) + 1 if names.count(name) == 1 else None
    if node["class"] == "CONSTANT" and type(number := node["value"].get("value")) is int and 1 <= number <= len(names):
        return number
    return None


def parts_by_days(files: Sequence[FileBounds]) -> list[list[FileBounds]]:
    """Cut files into parts of whole days each, in order; one part where more are not worth while."""
    ordered = sorted(files, key=lambda one: one.date)
    total = sum(one.size_bytes for one in ordered)
    enough = max(_PART_BYTES_MIN, total // _PARTS_MAX)
    parts: list[list[FileBounds]] = []
    size = enough
    for one in ordered:
        if not parts or (total >= _WORTH_BYTES and size >= enough and one.date != parts[-1][-1].date):
            parts.append([])
            size = 0
        parts[-1].append(one)
        size += one.size_bytes
    return parts
