"""What user SQL may say: an allow-list over DuckDB's own syntax tree.

DuckDB's parser turns the text into a tree (`json_serialize_sql`, which executes nothing and reads nothing;
`extract_statements` would already read the files of an IMPORT DATABASE). Each node must be of a known kind, each
table a view or a WITH query in scope, each function on the list. What is not known is refused, so that a construct of
a later DuckDB is closed until somebody has looked at it.

Nothing here looks at the text itself, except to take a leading EXPLAIN off, for which DuckDB's own tokenizer is used.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum
from functools import lru_cache
from typing import Any, Final, NamedTuple

import duckdb
import msgspec

from queries.sql.day_groups import DayGroups, day_groups
from queries.sql.errors import SqlError
from queries.sql.functions import SCALAR_FUNCTIONS, TABLE_FUNCTIONS
from queries.sql.plain_queries import is_plain
from queries.sql.steadiness import is_steady

_NOWHERE: Final = 2**64 - 1
_TEXTS_REMEMBERED: Final = 256
_TEXT_REMEMBERED_CHARACTERS_MAX: Final = 8_192

_EXPRESSIONS: Final = frozenset(
    {
        "BETWEEN",
        "CASE",
        "CAST",
        "COLLATE",
        "COLUMN_REF",
        "COMPARISON",
        "CONJUNCTION",
        "CONSTANT",
        "FUNCTION",
        "LAMBDA",
        "LAMBDA_REF",
        "OPERATOR",
        "PARAMETER",
        "POSITIONAL_REFERENCE",
        "STAR",
        "SUBQUERY",
        "WINDOW",
    }
)
_NODES: Final = frozenset(
    {
        "SELECT_NODE",
        "SET_OPERATION_NODE",
        "RECURSIVE_CTE_NODE",
        "BASE_TABLE",
        "EMPTY",
        "EXPRESSION_LIST",
        "JOIN",
        "PIVOT",
        "SHOW_REF",
        "SUBQUERY",
        "TABLE_FUNCTION",
        "DISTINCT_MODIFIER",
        "LIMIT_MODIFIER",
        "LIMIT_PERCENT_MODIFIER",
        "ORDER_MODIFIER",
        "ASCENDING",
        "DESCENDING",
        "ORDER_DEFAULT",
    }
)
_SHOW_TYPES: Final = frozenset({"DESCRIBE", "SUMMARY"})
# A name like these could be taken for a file or an address, should a WITH query of that name ever be out of scope.
_MEANS_A_FILE: Final = frozenset("./\\:*?[")


class StatementKind(Enum):
    """What a statement asks for."""

    ROWS = "rows"
    SHOW_TABLES = "show tables"
    EXPLAIN = "explain"
    EXPLAIN_ANALYZE = "explain analyze"


@dataclass(frozen=True, slots=True)
class CheckedStatement:
    """One statement that may run.

    Attributes:
        kind: what it asks for.
        select: the text of the SELECT, without a leading EXPLAIN.
        offset_characters, offset_bytes: where `select` begins in the text that was sent.
        by_days: how it may be run by days, where it may.
        steady: whether its plan is the same whenever it is made, with the same parameters, columns and views.
        plain: whether it reads `actions` once, and nothing else.
    """

    kind: StatementKind
    select: str
    offset_characters: int
    offset_bytes: int
    by_days: DayGroups | None = None
    steady: bool = False
    plain: bool = False


Parser = Callable[[Sequence[str]], list[str]]
"""Turns texts of SQL into the JSON of `json_serialize_sql`, each."""


class _Refusal(NamedTuple):
    message: str
    byte: int | None
    suggestion: str | None = None


class Guard:
    """Decides which statements may run.

    Args:
        parse: DuckDB's parser.
        views: the names that may stand in FROM.
        macros: names of scalar macros of the service's own, beside DuckDB's functions.
        taken: names of tables and views of DuckDB's own, which a WITH query may not take.
        steady: names of functions whose value follows from their arguments.
    """

    def __init__(
        self,
        parse: Parser,
        *,
        views: Collection[str],
        macros: Collection[str],
        taken: Collection[str],
        steady: Collection[str] = (),
    ) -> None:
        self._parse = parse
        self._steady = steady
        self._taken_names = frozenset(name.lower() for name in taken)
        self.use_views(views)
        self._functions = SCALAR_FUNCTIONS | {name.lower() for name in macros}
        self._show_tables = self._statements("SHOW TABLES")

    def use_views(self, views: Collection[str]) -> None:
        """Let these names, and no others, stand in FROM."""
        self._views = frozenset(name.lower() for name in views)
        self._taken = self._taken_names - self._views
        # Dashboards send the same text again and again; what a text may do depends on the views and nothing else.
        self._check_text = lru_cache(maxsize=_TEXTS_REMEMBERED)(self._check)

    def check(self, sql: str) -> CheckedStatement:
        """Return the one statement of *sql*, if it may run.

        Raises:
            SqlError: it does not parse, is not exactly one SELECT, or names something that is not allowed.
        """
        return self._check_text(sql) if len(sql) <= _TEXT_REMEMBERED_CHARACTERS_MAX else self._check(sql)

    def _check(self, sql: str) -> CheckedStatement:
        if "\0" in sql:
            raise SqlError("the text has a NUL character in it", position=sql.index("\0"))
        text = sql.encode()
        kind, start = _take_explain(sql, text)
        select = text[start:].decode()
        statement = CheckedStatement(kind, select, len(sql) - len(select), start)
        try:
            statements = self._statements(select)
        except SqlError as error:
            if error.position is not None:
                error.position += statement.offset_characters
            raise
        if not statements:
            raise SqlError("there is no statement; send one SELECT")
        if len(statements) > 1:
            raise SqlError(f"there are {len(statements)} statements; send one SELECT")
        if kind is StatementKind.ROWS and statements == self._show_tables:
            return CheckedStatement(StatementKind.SHOW_TABLES, select, 0, 0)
        refusal = self._first_refusal(statements[0])
        if refusal is not None:
            position = None if refusal.byte is None else character_offset(text, start + refusal.byte)
            raise SqlError(refusal.message, position=position, suggestion=refusal.suggestion)
        node = statements[0]["node"]
        return replace(
            statement,
            by_days=day_groups(select, node),
            steady=is_steady(node, self._steady),
            plain=is_plain(node),
        )

    def _statements(self, sql: str) -> list[Any]:
        try:
            answer = msgspec.json.decode(self._parse([sql])[0])
        except RecursionError:
            raise SqlError("the query is nested too deeply") from None
        if answer["error"]:
            if answer["error_type"] == "not implemented" and answer["error_message"].startswith("Only SELECT"):
                raise SqlError(
                    "only one SELECT is allowed (or WITH, VALUES, DESCRIBE, SUMMARIZE, SHOW TABLES, EXPLAIN)"
                )
            position = answer.get("position")
            raise SqlError(answer["error_message"], position=None if position is None else int(position))
        statements: list[Any] = answer["statements"]
        return statements

    def _first_refusal(self, statement: Mapping[str, Any]) -> _Refusal | None:
        """Walk the tree in the order of the text, with the WITH names that are in scope at each node."""
        pending: list[tuple[Any, frozenset[str]]] = [(statement["node"], frozenset())]
        while pending:
            node, scope = pending.pop()
            if isinstance(node, list):
                pending.extend((one, scope) for one in reversed(node))
            elif isinstance(node, dict):
                refusal = self._refuse(node, scope)
                if refusal is not None:
                    return refusal
                pending.extend(reversed(list(_children(node, scope))))
        return None

    def _refuse(self, node: Mapping[str, Any], scope: frozenset[str]) -> _Refusal | None:
        if "class" in node:
            return self._refuse_expression(node)
        if isinstance(node.get("type"), str):
            return self._refuse_syntax(node, scope)
        return None

    def _refuse_expression(self, node: Mapping[str, Any]) -> _Refusal | None:
        kind = node["class"]
        if kind in ("FUNCTION", "WINDOW"):
            return _refuse_function(node, self._functions)
        return None if kind in _EXPRESSIONS else _refused(f"{kind} expressions are not allowed", node)

    def _refuse_syntax(self, node: Mapping[str, Any], scope: frozenset[str]) -> _Refusal | None:
        match node["type"]:
            case "BASE_TABLE":
                return self._refuse_table(node, scope)
            case "TABLE_FUNCTION":
                return _refuse_function(node["function"], TABLE_FUNCTIONS)
            case "SHOW_REF" if node["show_type"] not in _SHOW_TYPES or not node.get("query"):
                return _refused("only DESCRIBE, SUMMARIZE and a plain SHOW TABLES are allowed", node)
            case kind if kind not in _NODES:
                return _refused(f"{kind} is not allowed", node)
            case _:
                return self._refuse_with(node)

    def _refuse_with(self, node: Mapping[str, Any]) -> _Refusal | None:
        for entry in _with_queries(node):
            name = str(entry["key"])
            if name.lower() in self._taken or _MEANS_A_FILE & set(name):
                return _Refusal(f'give the WITH query "{name}" another name', None)
        return None

    def _refuse_table(self, node: Mapping[str, Any], scope: frozenset[str]) -> _Refusal | None:
        name = str(node["table_name"])
        if node.get("schema_name") or node.get("catalog_name"):
            return _refused(f'name the table "{name}" without a schema', node)
        if node.get("at_clause"):
            return _refused("there are no older versions to ask for", node)
        known = self._views | scope
        return (
            None if name.lower() in known else _refused(f'there is no table "{name}" here', node, _closest(name, known))
        )


def character_offset(text: bytes, byte: int) -> int:
    """Return the offset in characters of a byte of UTF-8 text."""
    return len(text[:byte].decode(errors="ignore"))


def _take_explain(sql: str, text: bytes) -> tuple[StatementKind, int]:
    """Return what a leading EXPLAIN asks for, and the byte at which the statement itself begins."""
    words = [
        (start, text[start : start + len(b"EXPLAIN")].upper())
        for start, kind in duckdb.tokenize(sql)[:2]
        if kind == duckdb.token_type.keyword
    ]
    if not words or words[0][1] != b"EXPLAIN":
        return StatementKind.ROWS, 0
    if len(words) > 1 and words[1][1] == b"ANALYZE":
        return StatementKind.EXPLAIN_ANALYZE, words[1][0] + len(b"ANALYZE")
    return StatementKind.EXPLAIN, words[0][0] + len(b"EXPLAIN")


def _with_queries(node: Mapping[str, Any]) -> list[Any]:
    queries: list[Any] = node.get("cte_map", {}).get("map", [])
    return queries


def _children(node: Mapping[str, Any], scope: frozenset[str]) -> Iterator[tuple[Any, frozenset[str]]]:
    """Return what is below a node, each with its scope: a WITH query sees those before it, the body sees all."""
    for entry in _with_queries(node):
        yield entry["value"], scope
        scope |= {str(entry["key"]).lower()}
    for key, value in node.items():
        if key == "cte_map" or (key == "cast_type" and node.get("class") == "CAST") or _is_value(value):
            continue
        if key == "function" and node.get("type") == "TABLE_FUNCTION":
            # Its name was checked as a table function's; below it are its arguments.
            yield from _children(value, scope)
        elif key == "right" and node.get("type") == "RECURSIVE_CTE_NODE":
            yield value, scope | {str(node["cte_name"]).lower()}
        else:
            yield value, scope


def _is_value(node: object) -> bool:
    """Whether a node is a constant of a type: data, not syntax."""
    return isinstance(node, dict) and "is_null" in node and isinstance(node.get("type"), dict)


def _refuse_function(node: Mapping[str, Any], allowed: Collection[str]) -> _Refusal | None:
    name = str(node["function_name"])
    # The parser itself writes `main` for the functions behind its syntax, such as that of `[1, 2]`.
    if node.get("schema", "") not in ("", "main") or node.get("catalog"):
        return _refused(f"name the function {name} without a schema", node)
    if name.lower() in allowed:
        return None
    return _refused(f"there is no function {name} here", node, _closest(name, allowed))


def _refused(message: str, node: Mapping[str, Any], suggestion: str | None = None) -> _Refusal:
    byte = node.get("query_location")
    return _Refusal(message, None if byte is None or byte == _NOWHERE else int(byte), suggestion)


def _closest(name: str, known: Collection[str]) -> str | None:
    return next(iter(difflib.get_close_matches(name.lower(), known, n=1)), None)
