"""Names in a query: which column, of which relation, with which type, a name stands for."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from queries.athena.errors import QueryError
from queries.athena.types import TrinoType, quoted


@dataclass(frozen=True, slots=True)
class Value:
    """A translated expression: DuckDB's text of it, and Trino's type."""

    sql: str
    type: TrinoType


@dataclass(frozen=True, slots=True)
class Field:
    """A column that a relation offers.

    Attributes:
        name: how the query calls it, None when it has no name and can only be reached by `*`.
        path: what may stand before the name: catalog, schema and table, or the alias; in lower case.
        value: what it is in DuckDB.
    """

    name: str | None
    path: tuple[str, ...]
    value: Value

    def answers_to(self, path: Sequence[str], name: str) -> bool:
        """Whether `path.name` means this field."""
        if self.name is None or self.name.lower() != name.lower() or len(path) > len(self.path):
            return False
        return not path or tuple(part.lower() for part in path) == self.path[-len(path) :]


@dataclass(frozen=True, slots=True)
class Relation:
    """Something in a FROM clause: DuckDB's text of it, and its fields in order."""

    sql: str
    fields: tuple[Field, ...]

    def renamed(self, alias: str, names: Sequence[str] | None = None) -> Relation:
        """The same relation, known as *alias*, its columns as *names*.

        Raises:
            QueryError: there are more or fewer names than columns.
        """
        if names is not None and len(names) != len(self.fields):
            raise QueryError(
                "MISMATCHED_COLUMN_ALIASES",
                f"Column alias list has {len(names)} entries but '{alias}' has {len(self.fields)} columns available",
            )
        given = names if names is not None else [f.name for f in self.fields]
        fields = (
            dataclasses.replace(f, name=name, path=(alias.lower(),)) for f, name in zip(self.fields, given, strict=True)
        )
        return dataclasses.replace(self, fields=tuple(fields))


@dataclass(frozen=True, slots=True)
class SourceColumn:
    """A column of a table, a view or a WITH query: the query's name for it, DuckDB's, and its type."""

    name: str | None
    column: str
    type: TrinoType


@dataclass(frozen=True, slots=True)
class Source:
    """A table, a view or a WITH query, as a FROM clause can name it: DuckDB's text of it, and its columns."""

    sql: str
    columns: tuple[SourceColumn, ...]

    def relation(self, alias: str, path: Sequence[str]) -> Relation:
        """One reference to it: *alias* is DuckDB's name of the reference, *path* the query's."""
        known_as = tuple(part.lower() for part in path)
        fields = tuple(
            Field(c.name, known_as, Value(f"{quoted(alias)}.{quoted(c.column)}", c.type)) for c in self.columns
        )
        return Relation(f"{self.sql} AS {quoted(alias)}", fields)


@dataclass(frozen=True, slots=True)
class Scope:
    """What names mean at one place of a query.

    Attributes:
        fields: the columns in view.
        variables: a lambda's parameters, which come before columns.
        parent: the scope around a subquery or a lambda.
        tables: the WITH queries in view, by name in lower case.
    """

    fields: tuple[Field, ...] = ()
    variables: Mapping[str, Value] = field(default_factory=dict)
    parent: Scope | None = None
    tables: Mapping[str, Source] = field(default_factory=dict)

    def inside(self, fields: Sequence[Field] = (), variables: Mapping[str, Value] | None = None) -> Scope:
        """A scope within this one."""
        return Scope(tuple(fields), variables or {}, self, self.tables)

    def with_table(self, name: str, source: Source) -> Scope:
        """The same scope with one more WITH query in view."""
        return dataclasses.replace(self, tables={**self.tables, name.lower(): source})

    def resolve(self, parts: Sequence[str]) -> tuple[Value, Sequence[str]] | None:
        """What the dotted name *parts* means: a value, and the names of row fields still to be taken from it.

        Returns:
            None if no column of this scope or of those around it answers to it.

        Raises:
            QueryError: more than one column answers to it.
        """
        scope: Scope | None = self
        while scope is not None:
            found = scope._resolve_here(parts)
            if found is not None:
                return found
            scope = scope.parent
        return None

    def _resolve_here(self, parts: Sequence[str]) -> tuple[Value, Sequence[str]] | None:
        if parts[0].lower() in self.variables:
            return self.variables[parts[0].lower()], parts[1:]
        for index in range(len(parts) - 1, -1, -1):
            matches = [f for f in self.fields if f.answers_to(parts[:index], parts[index])]
            if len(matches) > 1:
                raise QueryError("AMBIGUOUS_NAME", f"Column '{'.'.join(parts[: index + 1])}' is ambiguous")
            if matches:
                return matches[0].value, parts[index + 1 :]
        return None
