# Every statement here is written by the service; names and paths go through `literals`.
# ruff: noqa: S608
"""What a worker's DuckDB knows: the view `actions` over files and hot rows, the ready views, a stand-in to plan with.

Two schemas hold the same names. `main` has the real views: `actions` reads the files of a variable, which is set for
each query to the files that it can need, and the hot rows. `planning` has the same views over an empty table, whose
plans tell which files those are. A search path chooses between them, so that a query is planned and run from the same
text in the same transaction.
"""

from __future__ import annotations

import datetime
import secrets
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import duckdb
import pyarrow as pa
import pyarrow.compute as pc

from queries.sql.file_lists import FileLists
from queries.sql.literals import sql_name, sql_text
from queries.sql.pruning import FileBounds
from queries.without_erased import ERASED_ROWS, without_erased
from storage.erased_rows import NOTHING_ERASED, ErasedRows

PRUNED_BY: Final = ("date", "type", "time", "user_id")
_PARTITIONS: Final = ("date", "type")
_FILES_VARIABLE: Final = "files"
_HOT: Final = "hot_rows"
_PATHS: Final = "file_paths"
# A literal takes 4 µs a path, Arrow 2 ms and then next to nothing.
_LITERAL_PATHS_MAX: Final = 500
_HIVE: Final = "hive_partitioning = true, hive_types = {'date': DATE, 'type': VARCHAR}"


class _Stream:
    """A table that DuckDB scans through Arrow's own interface, any number of times, without pyarrow's thread pools."""

    def __init__(self, table: pa.Table) -> None:
        self._table = table

    def __arrow_c_stream__(self, requested_schema: object | None = None) -> object:
        return self._table.__arrow_c_stream__(requested_schema)

    def __arrow_c_schema__(self) -> object:
        return self._table.schema.__arrow_c_schema__()


class Catalog:
    """The views of one connection.

    Args:
        connection: a connection that can read the data folder and *template_folder*, and write the latter.
        template_folder: for an empty Parquet file that has all columns, so that they exist where no file has them.
        macros: CREATE MACRO statements by name.
    """

    def __init__(
        self,
        connection: duckdb.DuckDBPyConnection,
        template_folder: Path,
        *,
        macros: Mapping[str, str],
    ) -> None:
        self._connection = connection
        self._template = template_folder / "date=0001-01-01" / "type=none" / "template.parquet"
        self._template.parent.mkdir(parents=True)
        self._views: dict[str, str] = {}
        self._schema: pa.Schema | None = None
        self._listed: Sequence[FileBounds] | None = None
        self._lists = FileLists(connection, str(self._template))
        self._names: list[str] = []
        self._uniform = False
        self._with_hot = False
        self._hot_days: tuple[datetime.date, datetime.date] | None = None
        self._erased = NOTHING_ERASED
        self._planning = False
        # Unguessable, so that nothing in a query can be mistaken for a column of the stand-in.
        self._prefix = f"c{secrets.token_hex(8)}_"
        self.stand_in = f"memory.planning.{self._prefix}table"
        self.stand_in_columns = {f"{self._prefix}{name}": name for name in PRUNED_BY}
        connection.execute("CREATE SCHEMA planning")
        for macro in macros.values():
            connection.execute(macro)

    @property
    def names(self) -> list[str]:
        """The names that may stand in FROM."""
        return sorted(["actions", *self._views])

    @property
    def template_path(self) -> str:
        """The path of the empty file that every scan opens first."""
        return str(self._template)

    @property
    def show_tables(self) -> str:
        """The SELECT that stands for SHOW TABLES."""
        listed = ", ".join(f"({sql_text(name)})" for name in self.names)
        return f"SELECT name FROM (VALUES {listed}) AS tables(name) ORDER BY name"

    def use_schema(self, schema: pa.Schema, views: Mapping[str, str]) -> bool:
        """Build the views for a table with these columns and no rows, unless they are the same as before.

        Args:
            schema: the columns.
            views: the ready views' SELECTs by name; others that there were are dropped.

        Returns:
            whether they were built.
        """
        if self._schema is not None and schema.equals(self._schema) and views == self._views:
            return False
        for gone in self._views.keys() - views.keys():
            for place in ("main", "planning"):
                self._connection.execute(f"DROP VIEW {place}.{sql_name(gone)}")
        self._views = dict(views)
        self._connection.register(_HOT, _Stream(schema.empty_table()))
        self._with_hot = False
        self._hot_days = None
        names = [sql_name(name) for name in schema.names]
        in_files = ", ".join(name for name in names if name not in map(sql_name, _PARTITIONS))
        self._connection.execute(f"COPY (SELECT {in_files} FROM {_HOT} LIMIT 0) TO {sql_text(self.template_path)}")
        self.use_files(())
        self._names = names
        self._uniform = False
        self._create_views("main", self._actions())
        hidden = ", ".join(f"{sql_name(name)} AS {sql_name(self._prefix + name)}" for name in schema.names)
        shown = ", ".join(f"{sql_name(self._prefix + name)} AS {sql_name(name)}" for name in schema.names)
        self._connection.execute(f"CREATE OR REPLACE TABLE {self.stand_in} AS SELECT {hidden} FROM {_HOT} LIMIT 0")
        self._create_views("planning", f"SELECT {shown} FROM {self.stand_in}")
        self._schema = schema
        return True

    def use_hot(self, table: pa.Table) -> None:
        """Let `actions` end with these rows, which must have the columns of the schema."""
        self._connection.register(_HOT, _Stream(table))
        days = pc.min_max(table["date"]).as_py()
        self._hot_days = (days["min"], days["max"]) if table.num_rows else None
        # Without hot rows the plan is simpler, and planned in half the time.
        if (table.num_rows > 0) != self._with_hot:
            self._with_hot = table.num_rows > 0
            self._renew_actions()

    def use_columns(self, *, uniform: bool) -> None:
        """Say whether all files that are used from now on have all columns of the schema.

        Where they do not, DuckDB opens every file once more to learn its columns, which takes as long again.
        """
        if uniform != self._uniform:
            self._uniform = uniform
            self._renew_actions()

    def use_erased(self, erased: ErasedRows) -> None:
        """Let `actions` be without these rows of files."""
        if erased:
            self._connection.register(ERASED_ROWS, _Stream(erased.as_table()))
        was, self._erased = self._erased, erased
        if bool(was) != bool(erased):
            self._renew_actions()
        if was and not erased:
            self._connection.unregister(ERASED_ROWS)

    def _actions(self, variable: str = _FILES_VARIABLE) -> str:
        everything = ", ".join(self._names)
        by_name = "" if self._uniform else ", union_by_name = true"
        stored = f"SELECT {everything} FROM read_parquet(getvariable('{variable}'), {_HIVE}{by_name})"
        if self._erased:
            stored = without_erased(stored, self._names)
        return f"{stored} UNION ALL SELECT {everything} FROM {_HOT}" if self._with_hot else stored

    def _renew_actions(self) -> None:
        # DuckDB opens the files when it makes the view, and those of an older snapshot may be gone.
        self.use_files(())
        self._create_view("main", "actions", self._actions())

    def has(self, files: Sequence[FileBounds]) -> bool:
        """Whether `actions` begins with the rows of these files already."""
        return files is self._listed

    def use_files(self, files: Sequence[FileBounds]) -> None:
        """Let `actions` begin with the rows of these files."""
        if self.has(files):
            return
        # Whoever interrupts the statement does not know what became of it.
        self._listed = None
        paths = [self.template_path, *(file.path for file in files)]
        if len(paths) <= _LITERAL_PATHS_MAX:
            listed = "[" + ", ".join(map(sql_text, paths)) + "]"
        else:
            column = pa.array([paths], pa.list_(pa.string()))
            self._connection.register(_PATHS, _Stream(pa.table({"paths": column})))
            listed = f"(SELECT paths FROM {_PATHS})"
        self._connection.execute(f"SET VARIABLE {_FILES_VARIABLE} = {listed}")
        self._listed = files

    def select_of(self, files: Sequence[FileBounds]) -> str | None:
        """Return a SELECT that is what `actions` is with these files; None where there are too many of them.

        Args:
            files: an object that stays as it is, and that comes again with the query that it is for.
        """
        return self._actions(self._lists.variable_of(files)) if len(files) < _LITERAL_PATHS_MAX else None

    def forget_lists(self) -> None:
        """Let go of what `select_of` was called with: there are other files now."""
        self._lists.forget()

    def selects_of(self, parts: Sequence[Sequence[FileBounds]]) -> list[str]:
        """Return a SELECT for each part of the files, which together are what `actions` is; none while rows are erased.

        Args:
            parts: of whole days each, in order. The hot rows are with the files of their days, those of other days
                with the part before them, or the first.
        """
        if self._erased:
            return []
        everything = ", ".join(self._names)
        by_name = "" if self._uniform else ", union_by_name = true"
        selects = []
        for number, files in enumerate(parts):
            variable = f"{_FILES_VARIABLE}_{number}"
            listed = ", ".join(map(sql_text, [self.template_path, *(file.path for file in files)]))
            self._connection.execute(f"SET VARIABLE {variable} = [{listed}]")
            select = f"SELECT {everything} FROM read_parquet(getvariable('{variable}'), {_HIVE}{by_name})"
            first = files[0].date if number else datetime.date.min
            end = parts[number + 1][0].date if number + 1 < len(parts) else None
            if self._hot_days is not None and self._hot_days[1] >= first and (end is None or self._hot_days[0] < end):
                until = "" if end is None else f" AND date < DATE '{end}'"
                select += f" UNION ALL SELECT {everything} FROM {_HOT} WHERE date >= DATE '{first}'{until}"
            selects.append(select)
        return selects

    def plan_with_stand_in(self) -> None:
        """Let names mean the stand-in, and let plans show every scan of it, whatever it holds."""
        self._planning = True
        self._connection.execute("SET search_path = 'planning,main'")
        self._connection.execute("SET disabled_optimizers = 'statistics_propagation,late_materialization'")

    def use_real_views(self) -> None:
        """Let names mean the table, unless they do."""
        if not self._planning:
            return
        self._connection.execute("SET disabled_optimizers = ''")
        self._connection.execute("SET search_path = 'main'")
        self._planning = False

    def _create_views(self, schema: str, actions: str) -> None:
        self._connection.execute(f"SET search_path = '{schema}'")
        for name, select in {"actions": actions, **self._views}.items():
            self._create_view(schema, name, select)
        self._connection.execute("SET search_path = 'main'")

    def _create_view(self, schema: str, name: str, select: str) -> None:
        self._connection.execute(f"CREATE OR REPLACE VIEW {schema}.{sql_name(name)} AS {select}")


def names_taken(connection: duckdb.DuckDBPyConnection) -> list[str]:
    """Return the names of all tables and views that exist, DuckDB's own included."""
    rows = connection.execute(
        "SELECT view_name FROM duckdb_views() UNION SELECT table_name FROM duckdb_tables()"
        " UNION SELECT table_name FROM information_schema.tables"
    ).fetchall()
    return [row[0] for row in rows]
