"""What a contender is: how it keeps the actions, and how it answers, in a process of its own and in its fastest form.

Every contender takes the same Parquet files. An answer is the bytes, the rows or the Arrow table that an application
would be handed; reading values out of it is part of the comparison of answers, and not of the time.
"""

from __future__ import annotations

import abc
import datetime
import os
from pathlib import Path
from typing import Any, Final

import pyarrow as pa

from bench.comparison.questions import ROW_COLUMNS, Question, bounds

Row = tuple[Any, ...]
JSON_ROW: Final = ", ".join(ROW_COLUMNS)
# Where the store is in the folder of Actionlake; its log and temporary files are beside it.
DATA: Final = "data"
EPOCH: Final = datetime.datetime(1970, 1, 1, tzinfo=datetime.UTC)


class Contender(abc.ABC):
    """One that keeps the actions in a folder and answers questions about them."""

    @abc.abstractmethod
    def create(self, folder: Path) -> None:
        """Make what is to take the actions; *folder* is not there yet."""

    @abc.abstractmethod
    def take(self, source: Path) -> None:
        """Take all actions of one more file."""

    @abc.abstractmethod
    def finish(self) -> None:
        """Make it ready as its own manual advises, after the last file."""

    @abc.abstractmethod
    def open(self, folder: Path) -> None:
        """Open what was loaded."""

    def answers(self, question: Question) -> bool:
        """Whether it has an answer of this form at all."""
        del question
        return True

    @abc.abstractmethod
    def ask(self, question: Question) -> Any:
        """Answer; this is what is timed."""

    @abc.abstractmethod
    def rows(self, answer: Any, question: Question) -> list[Row]:
        """The values of an answer in a form that can be compared: (time in µs, type, properties), or counts."""

    def bytes_on_disk(self, folder: Path) -> dict[str, int]:
        """What the actions take, and what caches take beside them."""
        return {"data_bytes": folder_bytes(folder), "caches_bytes": 0}

    def pids(self) -> list[int]:
        """The processes that answer."""
        return [os.getpid()]

    def close(self) -> None:  # noqa: B027 - most have nothing that does not go with the process
        """Let go of everything."""


class Reader(Contender):
    """A contender that reads the table of Actionlake: there is nothing to load."""

    def create(self, folder: Path) -> None:
        """Nothing."""

    def take(self, source: Path) -> None:
        """Nothing."""

    def finish(self) -> None:
        """Nothing."""


def folder_bytes(folder: Path) -> int:
    """The sizes of all files below a folder."""
    return sum(one.stat().st_size for one in folder.rglob("*") if one.is_file())


def micros(moment: datetime.datetime) -> int:
    """Microseconds since the epoch."""
    since = (moment if moment.tzinfo else moment.replace(tzinfo=datetime.UTC)) - EPOCH
    return (since.days * 86_400 + since.seconds) * 1_000_000 + since.microseconds


def table_rows(table: pa.Table, question: Question) -> list[Row]:
    """The comparable values of an Arrow table."""
    if question.counts:
        return [tuple(_plain(one) for one in row.values()) for row in table.to_pylist()]
    chosen = table.select(["time", "type", "properties"]).to_pylist()
    return [(micros(row["time"]), _text(row["type"]), _text(row["properties"])) for row in chosen]


def plain_row(row: Row) -> Row:
    """Counts as plain numbers, dates as text."""
    return tuple(_plain(one) for one in row)


def _plain(value: Any) -> Any:
    if isinstance(value, bytes):
        return value.decode()
    return value.isoformat() if isinstance(value, datetime.date) else value


def _text(value: Any) -> str:
    return value.decode() if isinstance(value, bytes) else str(value)


def quoted_times(question: Question, form: str) -> dict[int, str]:
    """The bounds of a question as *form* writes them, which holds `{}` for the time in UTC."""
    return {
        at: form.format((EPOCH + datetime.timedelta(microseconds=at)).strftime("%Y-%m-%d %H:%M:%S.%f"))
        for at in bounds(question)
    }
