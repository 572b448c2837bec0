"""`actionlake sql`: printing a result, and the interactive shell with history, completion and dot commands."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path
from typing import Final

import click
import pyarrow as pa
from prompt_toolkit import PromptSession
from prompt_toolkit.completion import CompleteEvent, Completer, Completion
from prompt_toolkit.document import Document
from prompt_toolkit.history import FileHistory
from prompt_toolkit.lexers import PygmentsLexer
from pygments.lexers.sql import SqlLexer

from queries.formats import Format, encode
from queries.local_sql import LocalResult, LocalSql, LocalSqlError
from storage.errors import StoreError

_ROWS_SHOWN_MAX: Final = 1_000
_HELP: Final = """\
Write SQL and end it with a semicolon. The table is `actions`; `.tables` lists the views beside it.

  .help             this text
  .tables           the table and the views
  .schema [NAME]    columns and their types
  .timer on|off     time and scanned files after each statement
  .quit             leave (or Ctrl-D)
"""


def write_result(result: LocalResult, output_format: str) -> None:
    """Write a result to standard output.

    Raises:
        LocalSqlError: it failed while it was read.
    """
    if output_format == "table":
        _show(result)
        return
    for part in encode(result.schema, result.batches, Format(output_format), csv_raw=True):
        sys.stdout.buffer.write(part)
    if output_format == "json":
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()


def _show(result: LocalResult) -> None:
    if result.schema.names == ["explain_key", "explain_value"]:
        for batch in result.batches:
            for plan in batch.column(1).to_pylist():
                click.echo(plan)
        return
    kept: list[pa.RecordBatch] = []
    rows = 0
    for batch in result.batches:
        if rows < _ROWS_SHOWN_MAX:
            kept.append(batch.slice(0, _ROWS_SHOWN_MAX - rows))
        rows += batch.num_rows
    if not result.schema.names:
        return
    shown = pa.Table.from_batches(kept, result.schema)
    result.connection.from_arrow(shown).show(max_rows=40)
    if rows > 40:
        click.echo(f"{rows:,} rows")


class _SqlCompleter(Completer):
    """Completes keywords, functions, tables and columns as DuckDB knows them."""

    def __init__(self, session: LocalSql) -> None:
        execute = session.connection.cursor().execute
        words = {row[0] for row in execute("SELECT keyword_name FROM duckdb_keywords()").fetchall()}
        words |= {row[0] for row in execute("SELECT function_name FROM duckdb_functions()").fetchall()}
        words |= {row[0] for row in execute("SELECT view_name FROM duckdb_views() WHERE NOT internal").fetchall()}
        words |= {row[0] for row in execute("SELECT column_name FROM duckdb_columns() WHERE NOT internal").fetchall()}
        self._words = sorted(word for word in words if word[:1].isalpha())

    def get_completions(self, document: Document, complete_event: CompleteEvent) -> Iterable[Completion]:
        """Offer the words that go on from what stands before the cursor."""
        del complete_event
        start = document.get_word_before_cursor()
        if start:
            for word in self._words:
                if word.startswith(start.lower()):
                    yield Completion(word, start_position=-len(start))


def run_shell(session: LocalSql) -> None:
    """Read statements from the terminal until its end.

    Raises:
        StoreError: the store cannot be read at the start.
    """
    session.refresh()
    history = Path(os.environ.get("XDG_STATE_HOME", Path.home() / ".local" / "state")) / "actionlake" / "sql_history"
    history.parent.mkdir(parents=True, exist_ok=True)
    prompt: PromptSession[str] = PromptSession(
        history=FileHistory(str(history)),
        lexer=PygmentsLexer(SqlLexer),
        completer=_SqlCompleter(session),
        complete_while_typing=False,
    )
    click.echo("Actionlake SQL (DuckDB). The table is `actions`; .help helps, Ctrl-D leaves.")
    shell = Shell(session, click.echo)
    while not shell.finished:
        try:
            shell.feed(prompt.prompt(shell.prompt))
        except KeyboardInterrupt:
            shell.forget()
        except EOFError:
            return


def run_script(session: LocalSql, lines: Iterable[str]) -> bool:
    """Do what *lines* say as if they were typed into the shell, up to the first error.

    The last statement may lack its semicolon. What is wrong is told on the standard error.

    Returns:
        Whether all went well.
    """
    shell = Shell(session, click.echo, complain=partial(click.echo, err=True), timer=False)
    for line in lines:
        shell.feed(line.rstrip("\n"))
        if shell.finished or shell.failed:
            return not shell.failed
    shell.end()
    return not shell.failed


class Shell:
    """The shell without its terminal: lines in, text out.

    Attributes:
        finished: it was told to quit.
        failed: the last line was wrong, or a statement failed.

    Args:
        session: what runs the statements.
        echo: takes what is said beside results.
        complain: takes what is wrong; as *echo* unless given.
        timer: whether to tell time and scanned files.
    """

    def __init__(
        self,
        session: LocalSql,
        echo: Callable[[str], None],
        *,
        complain: Callable[[str], None] | None = None,
        timer: bool = True,
    ) -> None:
        self._session = session
        self._echo = echo
        self._complain = complain or echo
        self._pending = ""
        self._timer = timer
        self.finished = False
        self.failed = False

    @property
    def prompt(self) -> str:
        """What to show before the next line."""
        return "        -> " if self._pending else "actionlake> "

    def forget(self) -> None:
        """Drop the lines of a statement that is not complete."""
        self._pending = ""

    def feed(self, line: str) -> None:
        """Take one line: a dot command, or a part of a statement that ends with a semicolon."""
        self.failed = False
        if not self._pending and line.strip().startswith("."):
            self._command(line.strip().rstrip(";").split())
            return
        self._pending = f"{self._pending}\n{line}" if self._pending else line
        if self._pending.rstrip().endswith(";"):
            statement, self._pending = self._pending, ""
            self._run(statement)
        elif not self._pending.strip():
            self._pending = ""

    def end(self) -> None:
        """Run a statement that lacks its semicolon."""
        statement, self._pending = self._pending, ""
        if statement.strip():
            self._run(statement)

    def _run(self, text: str) -> None:
        try:
            for statement in self._session.statements(text):
                result = self._session.run(statement)
                _show(result)
                if self._timer:
                    self._echo(result.scan_line())
        except (LocalSqlError, StoreError) as error:
            self._fail(str(error))

    def _fail(self, message: str) -> None:
        self.failed = True
        self._complain(message)

    def _command(self, words: list[str]) -> None:
        match words:
            case [".help"]:
                self._echo(_HELP)
            case [".quit" | ".exit"]:
                self.finished = True
            case [".tables"]:
                self._run("SELECT view_name AS name FROM duckdb_views() WHERE NOT internal ORDER BY name")
            case [".schema"]:
                self._run("DESCRIBE actions")
            case [".schema", name]:
                quoted = name.replace('"', '""')
                self._run(f'DESCRIBE "{quoted}"')
            case [".timer", "on" | "off" as value]:
                self._timer = value == "on"
            case _:
                self._fail(f"{words[0]} is not a command, or not written like that; .help lists them")
