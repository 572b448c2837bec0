"""Who there is to compare with, what each is called, and whether it can be had on this machine.

The modules of contenders import what they need, so that a process holds only the libraries of its own contender.
"""

from __future__ import annotations

import importlib
import importlib.util
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, cast

from bench.comparison.contender import Contender


@dataclass(frozen=True, slots=True)
class Entry:
    """A contender, before anything of it is imported.

    Attributes:
        name: for options and figures.
        title: for tables.
        module: of this package, which has the class.
        arguments: for the class.
        needs: the library without which it is absent.
        reads: the contender whose folder it reads; its own unless given.
        actions_max: with more than this it does not take part, since loading alone would take hours.
    """

    name: str
    title: str
    module: str
    made_by: str
    arguments: tuple[str, ...] = ()
    needs: str | None = None
    reads: str | None = None
    actions_max: int | None = None

    @property
    def folder_name(self) -> str:
        """Of whom the data is."""
        return self.reads or self.name

    def make(self) -> Contender:
        """Import and make it."""
        module = importlib.import_module(f"bench.comparison.{self.module}")
        return cast("Contender", getattr(module, self.made_by)(*self.arguments))

    def absence(self) -> str | None:
        """Why it cannot take part on this machine; None when it can."""
        if self.needs is not None and importlib.util.find_spec(self.needs) is None:
            return f"the library {self.needs} is not installed"
        if self.module == "postgresql" and postgresql_version() is None:
            return "no PostgreSQL server is installed"
        return None


ACTIONLAKE: Final = Entry("actionlake", "Actionlake over REST", "actionlake", "ActionlakeRest")
CLICKHOUSE: Final = Entry(
    "clickhouse", "ClickHouse (chDB) by user and time", "clickhouse", "ClickHouse", ("user_id, time",), "chdb"
)
CLICKHOUSE_BY_TIME: Final = Entry(
    "clickhouse-by-time", "ClickHouse (chDB) by time", "clickhouse", "ClickHouse", ("time",), "chdb"
)
CONTENDERS: Final[Sequence[Entry]] = (
    ACTIONLAKE,
    Entry("actionlake-in-process", "Actionlake in process", "actionlake", "ActionlakeInProcess", reads="actionlake"),
    CLICKHOUSE,
    CLICKHOUSE_BY_TIME,
    Entry("duckdb", "DuckDB over a glob of its files", "open_files", "DuckDbGlob", needs="duckdb", reads="actionlake"),
    Entry("polars", "Polars, scan_delta", "open_files", "PolarsScan", needs="polars", reads="actionlake"),
    Entry("sqlite", "SQLite, indexed", "sqlite", "Sqlite", actions_max=25_000_000),
    Entry(
        "postgresql", "PostgreSQL, indexed", "postgresql", "PostgreSql", needs="psycopg", actions_max=25_000_000
    ),
)  # fmt: skip
BY_NAME: Final = {one.name: one for one in CONTENDERS}


def absences() -> dict[str, str]:
    """Who cannot take part, and why, by title."""
    return {one.title: reason for one in CONTENDERS if (reason := one.absence()) is not None}


def postgresql_version() -> str | None:
    """The version of the server that would be used; None when there is none."""
    if importlib.util.find_spec("psycopg") is None:
        return None
    from bench.comparison.postgresql import binaries

    found = binaries()
    if found is None:
        return None
    done = subprocess.run([str(found / "postgres"), "--version"], capture_output=True, text=True, check=True)
    return done.stdout.split()[2]
