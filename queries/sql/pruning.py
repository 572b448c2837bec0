"""Which files a query can need, from the filters of DuckDB's own plan.

The query is planned over an empty stand-in of the table. What DuckDB then shows at each scan of it is what every row
of that scan must satisfy. These filters come as text, so they are parsed by DuckDB's parser again, and only simple
comparisons of `date`, `type`, `time` and (for row groups) `user_id` with constants are understood; anything else
leaves all files in. The stand-in's columns have names that nobody can guess, so that an alias or a string of the
query cannot be mistaken for a column of the table.

Why text that is cut or ambiguous cannot leave out a file that is needed:

- An entry that was cut at a line break inside a string has an odd number of quotes, and does not parse.
- DuckDB writes an OR inside an AND without parentheses. Parsed back, AND binds first; a row that satisfies what was
  meant satisfies at least one of the parsed alternatives too, so files are only kept in excess.
"""

from __future__ import annotations

import datetime
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, NamedTuple

import msgspec

from queries.sql.errors import SqlError

_FILE_COLUMNS: Final = ("date", "type", "time")
_OPTIONAL: Final = "optional: "
_EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)
_MICROSECOND: Final = datetime.timedelta(microseconds=1)

# Operators without input that may stand in a plan, beside scans of the stand-in.
_SOURCES: Final = frozenset(
    {
        "COLUMN_DATA_SCAN",
        "CTE_SCAN",
        "DELIM_SCAN",
        "DUMMY_SCAN",
        "EMPTY_RESULT",
        "GENERATE_SERIES",
        # Inside a join with a correlated subquery, whose own input is shown elsewhere.
        "HASH_GROUP_BY",
        "JSON_EACH",
        "JSON_TREE",
        "PG_TIMEZONE_NAMES",
        "RANGE",
        "REC_CTE_SCAN",
        "REPEAT",
        "REPEAT_ROW",
        "UNNEST",
    }
)


class FileBounds(NamedTuple):
    """A file of the snapshot, with the bounds of what it holds."""

    path: str
    size_bytes: int
    date: datetime.date
    type: str
    time_min_us: int
    time_max_us: int


class RowGroupBounds(NamedTuple):
    """A row group of a file, with the bounds that the file's footer gives."""

    path: str
    size_bytes: int
    date: datetime.date
    type: str
    time_min_us: int
    time_max_us: int
    user_min: str
    user_max: str


Condition = Callable[[Any], bool]
"""Whether a file, or a row group, can hold a row that satisfies a filter."""

_Test = Callable[[Any, Any], bool]
_TESTS: Final[Mapping[str, Mapping[str, _Test]]] = {
    "date": {
        "COMPARE_EQUAL": lambda file, value: file.date == value,
        "COMPARE_NOTEQUAL": lambda file, value: file.date != value,
        "COMPARE_LESSTHAN": lambda file, value: file.date < value,
        "COMPARE_LESSTHANOREQUALTO": lambda file, value: file.date <= value,
        "COMPARE_GREATERTHAN": lambda file, value: file.date > value,
        "COMPARE_GREATERTHANOREQUALTO": lambda file, value: file.date >= value,
    },
    "type": {
        "COMPARE_EQUAL": lambda file, value: file.type == value,
        "COMPARE_NOTEQUAL": lambda file, value: file.type != value,
        "COMPARE_LESSTHAN": lambda file, value: file.type < value,
        "COMPARE_LESSTHANOREQUALTO": lambda file, value: file.type <= value,
        "COMPARE_GREATERTHAN": lambda file, value: file.type > value,
        "COMPARE_GREATERTHANOREQUALTO": lambda file, value: file.type >= value,
    },
    "time": {
        "COMPARE_EQUAL": lambda file, value: file.time_min_us <= value <= file.time_max_us,
        "COMPARE_LESSTHAN": lambda file, value: file.time_min_us < value,
        "COMPARE_LESSTHANOREQUALTO": lambda file, value: file.time_min_us <= value,
        "COMPARE_GREATERTHAN": lambda file, value: file.time_max_us > value,
        "COMPARE_GREATERTHANOREQUALTO": lambda file, value: file.time_max_us >= value,
    },
    # Only row groups have these bounds.
    "user_id": {
        "COMPARE_EQUAL": lambda group, value: group.user_min <= value <= group.user_max,
        "COMPARE_LESSTHAN": lambda group, value: group.user_min < value,
        "COMPARE_LESSTHANOREQUALTO": lambda group, value: group.user_min <= value,
        "COMPARE_GREATERTHAN": lambda group, value: group.user_max > value,
        "COMPARE_GREATERTHANOREQUALTO": lambda group, value: group.user_max >= value,
    },
}
_MIRRORED: Final = {
    "COMPARE_EQUAL": "COMPARE_EQUAL",
    "COMPARE_NOTEQUAL": "COMPARE_NOTEQUAL",
    "COMPARE_LESSTHAN": "COMPARE_GREATERTHAN",
    "COMPARE_LESSTHANOREQUALTO": "COMPARE_GREATERTHANOREQUALTO",
    "COMPARE_GREATERTHAN": "COMPARE_LESSTHAN",
    "COMPARE_GREATERTHANOREQUALTO": "COMPARE_LESSTHANOREQUALTO",
}


@dataclass(frozen=True, slots=True)
class PrunedFiles:
    """The files that a query can need. Where nothing was left out, they are the very sequence that was given.

    Attributes:
        by_partition: left after conditions on `date` and `type`.
        by_time: left after conditions on `time`, too; these are to be read.
    """

    by_partition: Sequence[FileBounds]
    by_time: Sequence[FileBounds]


@dataclass(frozen=True, slots=True)
class RowGroupFilter:
    """Which row groups a query can need.

    Attributes:
        holds_user: by the conditions on `user_id` alone.
        holds: by all that are understood.
    """

    holds_user: Condition
    holds: Condition


@dataclass(frozen=True, slots=True)
class FileFilter:
    """Which files a query can need.

    Attributes:
        by_partition: for each scan of the table, its conditions on `date` and `type`.
        by_time: for each, those on `time`, too.
    """

    by_partition: Sequence[Sequence[Condition]]
    by_time: Sequence[Sequence[Condition]]

    def prune(self, files: Sequence[FileBounds]) -> PrunedFiles:
        """Leave out files that no scan can need."""
        by_partition = _kept_partitions(self.by_partition, files)
        return PrunedFiles(by_partition, _kept(self.by_time, by_partition))


class FilePruner:
    """Reads plans over one stand-in.

    Args:
        parse: DuckDB's parser, as in the guard.
        table: the stand-in's full name, as plans write it.
        columns: `date`, `type`, `time` and `user_id` by the names of the stand-in's columns.
    """

    def __init__(self, parse: Callable[[Sequence[str]], list[str]], *, table: str, columns: Mapping[str, str]) -> None:
        self._parse = parse
        self._table = table
        self._columns = columns

    def file_filter(self, plan: bytes | str) -> FileFilter:
        """Tell which files the scans of a plan can need.

        Raises:
            SqlError: the plan reads from something else than the table.
        """
        scans = self._scan_filters(plan, _FILE_COLUMNS)
        return FileFilter(
            by_partition=[self._conditions(trees, ("date", "type")) for trees in scans],
            by_time=[self._conditions(trees, ("date", "type", "time")) for trees in scans],
        )

    def row_groups(self, plan: bytes | str) -> RowGroupFilter:
        """Tell which row groups of the files that remain can be needed, for those who want to see it."""
        scans = self._scan_filters(plan, (*_FILE_COLUMNS, "user_id"))
        by_user = [self._conditions(trees, ("user_id",)) for trees in scans]
        by_all = [self._conditions(trees, (*_FILE_COLUMNS, "user_id")) for trees in scans]
        return RowGroupFilter(lambda group: _needed(by_user, group), lambda group: _needed(by_all, group))

    def _scan_filters(self, plan: bytes | str, columns: Sequence[str]) -> list[list[Any]]:
        names = [given for given, column in self._columns.items() if column in columns]
        return [self._filters(scan, names) for root in msgspec.json.decode(plan) for scan in self._scans(root)]

    def _scans(self, node: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
        pending = [node]
        while pending:
            one = pending.pop()
            name = str(one["name"]).strip()
            if name == "SEQ_SCAN" and one["extra_info"].get("Table") == self._table:
                yield one
            elif not one["children"] and name not in _SOURCES:
                raise SqlError(f"the query reads from {name}, which is not allowed")
            pending.extend(one["children"])

    def _filters(self, scan: Mapping[str, Any], names: Sequence[str]) -> list[Any]:
        """Return the trees of a scan's filters that name one of these columns, as far as they are understood."""
        shown = scan["extra_info"].get("Filters", [])
        texts = [
            f"SELECT {text.removeprefix(_OPTIONAL)}"
            for text in ([shown] if isinstance(shown, str) else shown)
            if "\0" not in text and any(column in text for column in names)
        ]
        trees = []
        for parsed in self._parse(texts) if texts else []:
            answer = msgspec.json.decode(parsed)
            if not answer["error"] and len(answer["statements"]) == 1:
                node = answer["statements"][0]["node"]
                if node["type"] == "SELECT_NODE" and len(node["select_list"]) == 1:
                    trees.append(node["select_list"][0])
        return trees

    def _conditions(self, trees: Sequence[Any], columns: Sequence[str]) -> list[Condition]:
        conditions = (self._condition(tree, columns) for tree in trees)
        return [condition for condition in conditions if condition is not None]

    def _condition(self, node: Mapping[str, Any], columns: Sequence[str]) -> Condition | None:
        """Turn a filter into a condition on files, or into None if it says nothing about them."""
        kind = node["type"]
        if kind == "CONJUNCTION_AND":
            return _all_of([self._condition(one, columns) for one in node["children"]])
        if kind == "CONJUNCTION_OR":
            return _any_of([self._condition(one, columns) for one in node["children"]])
        if kind == "COMPARE_IN":
            first, *others = node["children"]
            return _any_of([self._comparison("COMPARE_EQUAL", first, one, columns) for one in others])
        if kind == "COMPARE_BETWEEN":
            return _all_of(
                [
                    self._comparison("COMPARE_GREATERTHANOREQUALTO", node["input"], node["lower"], columns),
                    self._comparison("COMPARE_LESSTHANOREQUALTO", node["input"], node["upper"], columns),
                ]
            )
        if kind in _MIRRORED:
            return self._comparison(kind, node["left"], node["right"], columns) or self._comparison(
                _MIRRORED[kind], node["right"], node["left"], columns
            )
        return None

    def _comparison(
        self, operator: str, left: Mapping[str, Any], right: Mapping[str, Any], columns: Sequence[str]
    ) -> Condition | None:
        names = left.get("column_names", ())
        column = self._columns.get(names[0]) if len(names) == 1 else None
        if column is None or column not in columns:
            return None
        value = _constant(column, right)
        test = _TESTS[column].get(operator)
        if value is None or test is None:
            return None
        return lambda file: test(file, value)


def _constant(column: str, node: Mapping[str, Any]) -> object | None:
    """Return the value of a constant of the column's type, or None if it is something else."""
    if column in ("type", "user_id"):
        return _text(node)
    if node["type"] != "OPERATOR_CAST" or node.get("try_cast"):
        return None
    text = _text(node["child"])
    wanted = "DATE" if column == "date" else "TIMESTAMP WITH TIME ZONE"
    if text is None or node["cast_type"]["id"] != wanted:
        return None
    try:
        if column == "date":
            return datetime.date.fromisoformat(text)
        instant = datetime.datetime.fromisoformat(text)
    except ValueError:
        # Infinity, years before 1 or beyond 9999: dates that Python has not.
        return None
    return None if instant.tzinfo is None else (instant - _EPOCH) // _MICROSECOND


def _text(node: Mapping[str, Any]) -> str | None:
    if node["type"] != "VALUE_CONSTANT":
        return None
    value = node["value"]
    text = value.get("value")
    return text if value["type"]["id"] == "VARCHAR" and isinstance(text, str) else None


def _all_of(conditions: Sequence[Condition | None]) -> Condition | None:
    understood = [condition for condition in conditions if condition is not None]
    return (lambda file: all(condition(file) for condition in understood)) if understood else None


def _any_of(conditions: Sequence[Condition | None]) -> Condition | None:
    understood = [condition for condition in conditions if condition is not None]
    if len(understood) < len(conditions):
        return None
    return lambda file: any(condition(file) for condition in understood)


def _kept_partitions(scans: Sequence[Sequence[Condition]], files: Sequence[FileBounds]) -> Sequence[FileBounds]:
    """Return the files whose partition any scan can need, looking at each partition once."""
    if any(not conditions for conditions in scans):
        return files
    decided: dict[tuple[datetime.date, str], bool] = {}
    kept = []
    for file in files:
        partition = (file.date, file.type)
        needed = decided.get(partition)
        if needed is None:
            needed = decided[partition] = _needed(scans, file)
        if needed:
            kept.append(file)
    return kept


def _kept(scans: Sequence[Sequence[Condition]], files: Sequence[FileBounds]) -> Sequence[FileBounds]:
    """Return the files that any scan can need."""
    if any(not conditions for conditions in scans):
        return files
    return [file for file in files if _needed(scans, file)]


def _needed(scans: Sequence[Sequence[Condition]], file: FileBounds | RowGroupBounds) -> bool:
    return any(all(condition(file) for condition in conditions) for conditions in scans)
