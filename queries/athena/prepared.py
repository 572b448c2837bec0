"""Prepared statements, each in its work group, in the same file as the executions."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from queries.athena.errors import InvalidRequest, ResourceNotFound
from queries.athena.executions import History

_NAME: Final = re.compile(r"[a-zA-Z_][a-zA-Z0-9_@:]{0,255}")


@dataclass(frozen=True, slots=True)
class PreparedStatement:
    """A query under a name, its parameters still open."""

    name: str
    query: str
    work_group: str
    description: str
    modified_at: float

    def details(self) -> dict[str, object]:
        """The statement as GetPreparedStatement describes it."""
        return {
            "StatementName": self.name,
            "QueryStatement": self.query,
            "WorkGroupName": self.work_group,
            "Description": self.description,
            "LastModifiedTime": self.modified_at,
        }

    def summary(self) -> dict[str, object]:
        """One entry of ListPreparedStatements."""
        return {"StatementName": self.name, "LastModifiedTime": self.modified_at}


class PreparedStatements:
    """The prepared statements on file."""

    def __init__(self, history: History) -> None:
        self._history = history

    def create(self, statement: PreparedStatement) -> None:
        """Keep a new statement.

        Raises:
            InvalidRequest: its name is not allowed, or taken.
        """
        if not _NAME.fullmatch(statement.name):
            raise InvalidRequest(f"StatementName {statement.name!r} must match {_NAME.pattern}")
        added = self._history.change(
            "INSERT INTO prepared_statements (work_group, name, query, description, modified_at) "
            "VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            [statement.work_group, statement.name, statement.query, statement.description, statement.modified_at],
        )
        if added == 0:
            raise InvalidRequest(
                f"PreparedStatement {statement.name} already exists in WorkGroup {statement.work_group}"
            )

    def update(self, statement: PreparedStatement) -> None:
        """Put *statement* in the place of the one of the same name.

        Raises:
            ResourceNotFound: there is none.
        """
        changed = self._history.change(
            "UPDATE prepared_statements SET query = ?, description = ?, modified_at = ? "
            "WHERE work_group = ? AND name = ?",
            [statement.query, statement.description, statement.modified_at, statement.work_group, statement.name],
        )
        if changed == 0:
            raise _missing(statement.work_group, statement.name)

    def delete(self, work_group: str, name: str) -> None:
        """Remove a statement.

        Raises:
            ResourceNotFound: there is none of this name.
        """
        if (
            self._history.change(
                "DELETE FROM prepared_statements WHERE work_group = ? AND name = ?", [work_group, name]
            )
            == 0
        ):
            raise _missing(work_group, name)

    def get(self, work_group: str, name: str) -> PreparedStatement:
        """The statement of this name.

        Raises:
            ResourceNotFound: there is none.
        """
        rows = self._history.execute(
            "SELECT name, query, work_group, description, modified_at FROM prepared_statements "
            "WHERE work_group = ? AND name = ?",
            [work_group, name],
        )
        if not rows:
            raise _missing(work_group, name)
        return PreparedStatement(*rows[0])

    def list(self, work_group: str, after: str, count: int) -> list[PreparedStatement]:
        """*count* statements of a work group by name, those after a name."""
        rows = self._history.execute(
            "SELECT name, query, work_group, description, modified_at FROM prepared_statements "
            "WHERE work_group = ? AND name > ? ORDER BY name LIMIT ?",
            [work_group, after, count],
        )
        return [PreparedStatement(*row) for row in rows]


def _missing(work_group: str, name: str) -> ResourceNotFound:
    return ResourceNotFound(f"PreparedStatement {name} was not found in WorkGroup {work_group}", resource_name=name)
