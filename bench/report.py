"""Showing a run: on the terminal, and in the documentation between two markers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.table import Table as RichTable

from bench.comparison_tables import comparison_tables, to_reach_table
from bench.errors import BenchFailed
from bench.plot import write_plot
from bench.processes import ROOT
from bench.query_tables import query_tables
from bench.runaway_tables import runaway_tables
from bench.runs import Piece, RunHeader
from bench.tables import Table, all_tables, disturbance, number

PERFORMANCE_PAGE: Final = ROOT / "docs" / "performance.md"
PLOT_NAME: Final = "performance.svg"
BEGIN: Final = "<!-- bench: begin; written by `make bench`, do not edit -->"
END: Final = "<!-- bench: end -->"

_PREAMBLE: Final = """# Performance

`make bench` measures how fast actions become durable, and how fast they are found again. Submissions are set beside a
baseline in the manner of the service that Actionlake replaces: Flask on its threaded development server with
keep-alive, sqlite3 in WAL mode with `synchronous=FULL` and an index on user and time, one INSERT an action, one
transaction a request. Questions are set beside ClickHouse, DuckDB, Polars, SQLite and PostgreSQL. Read the ratios: all
sides ran in turn in one run, on one machine and one disk.

Of submissions:

- **Who.** Each server is started with its default settings on a fresh folder; the load comes from one more process on
  the same machine, over 64 keep-alive connections, each of which sends its next request when it has its answer.
  In the baseline each connection's thread waits for SQLite's write lock by polling, so a few are served at once and
  others wait long: its median is low and its p99 high, and only the rate and the p99 together say how it fares.
- **What.** Distinct submissions of Zipf-distributed users with the three types, their properties, and recent times
  with offsets; the same bytes for both sides.
- **What counts.** Only answers 200 that accept every action. Any other ends the measurement without a figure, except
  429 and 503 with `Retry-After`, which are waited out inside the request's latency. After each measurement the server
  is stopped and what it holds is counted: it must equal what it acknowledged, to the action.
- **Flushing is included.** The windows are long enough that Actionlake flushes inside them; a table below says how
  often, how much, and whether the journal grew meanwhile.
- **CPUs** are processors kept busy on average inside the window: by the server, by the driver, and by everything else
  on the machine, the kernel's own threads included.
- **Memory** is the most that a process ever had resident: of the largest, which takes the submissions, and summed over
  all processes of the server, where what they share counts in each.

`make bench` takes about two hours. It runs in pieces: `.venv/bin/python -m bench --resume` goes on where the last run
was interrupted, `--workload NAME` measures only that, `--resume --memory` adds its memory measurement alone, and
`--quick` gives a first look that proves nothing. This page shows the last run, whole or in part. A run is continued
only with the same code.
"""

_QUERIES: Final = """## Queries

`python -m bench --workload queries` writes 1,000,000 actions of ten days and three types into 30 files, starts the
server on them with its default settings, and asks it over one keep-alive connection, in turn with a DuckDB connection
in the process that measures: the same files as an explicit list, as many threads as the server gives to a query of a
user, no cache of file contents. Every answer must have the rows that were written; another number ends the
measurement without a figure. Streams are read to their end and dropped: lines counted, Arrow read by pyarrow. The
growth of resident memory is the most that all processes of the server had at once (sampled each 20 ms, what they share
counted in each), less what they had before the first stream; what an earlier stream left allocated counts for the
later ones. `--workload streams` writes 5,040,000 actions of 28 days, and reads all of them twice in each format, from a
server of its own for each, whose growth is counted from when it has started and rests. All of it runs on one machine,
so that the client's work takes its share of the same processors."""

_RUNAWAY: Final = """## Beside runaway queries

`python -m bench --workload runaway` lets windows of submissions take turns on one server with its default settings:
alone, beside as many queries as the server runs at once that never end by themselves (a new one for each that a limit
ends), and beside small queries, which ask for one user's rows of one day in files. Every second round goes the other
way. A runaway query that ends otherwise than by a limit, or a small one with other rows than were written, ends the
measurement without a figure. The driver, the server and the queries share the same processors, so that a closed loop
shows in its rate what the queries take, and in its p99 how long a submission waits for them. They share a session,
too: a driver of another one would wait for queries as no client on another machine does."""

_COMPARISON: Final = """## Beside others

The same actions, asked the same questions, in one run: 365 days, users drawn by a power law (a typical one has about
100 actions, whatever the size; the heaviest of 20 million actions has about 50,000), three types, one action in a
hundred arriving a day to a month late.

- **Loading.** Everybody gets the same Parquet files. Actionlake takes each as one flush does, sorted files by day and
  type in one commit, the late actions as a later commit; then `actionlake compact` and the service's own background
  work (which users a file has, copies of histories) bring the table in order, and measuring waits until nothing is due.
  It does not wait the hour that a file rests before it is copied: `--history-rest-ms 1000`. Measured is with the
  default settings. ClickHouse, once by user and time and once by time, has the same columns and is left as its own
  background merges leave it (its manual advises against `OPTIMIZE FINAL`, which would make one part). SQLite and
  PostgreSQL have the indexes that the replaced service would have, by user and time and by type and time, and take part
  up to 20 million actions. DuckDB and Polars read the table that Actionlake made.
- **Asking.** Each in a process of its own, in turn, ten questions at a time, the clock around the call that answers:
  over REST it ends when the answer's bytes are there, ClickHouse answers in bytes of its own JSON (Arrow where that is
  asked for), DuckDB and Polars in Arrow, the others in rows of Python. In process, Actionlake is its retrieval without
  HTTP, and `actionlake sql` for counts.
- **Believing.** Before anything is timed, every answer is compared with everybody else's, row by row in order: times,
  types and the exact properties. A different one ends the measurement.
- **Warm** is after all these answers. A slow contender is asked less often; a p99 of fewer than a hundred answers is
  the longest. **Cold** is the first answer of a fresh process after the kernel was told to forget its files
  (`posix_fadvise` with DONTNEED on each; programs, and what the disk or a host keeps, are not forgotten).
- **Disk** is the live files with their log, without what waits to be removed; caches are what can be deleted and is
  made anew. **Memory** is the most that the processes that answer ever had resident.

The data is kept in `bench/results/compared` (or below `--data-dir`) and used again by later runs: `python -m bench
--prepare` only makes it, `--large` adds 100 million actions, `--targets` measures only what "To reach" needs."""


def _tables(pieces: Sequence[Piece]) -> list[Table]:
    tables = [to_reach_table(pieces), *all_tables(pieces), *comparison_tables(pieces), *query_tables(pieces)]
    tables += runaway_tables(pieces)
    return [table for table in tables if table.rows]


def print_tables(console: Console, pieces: Sequence[Piece]) -> None:
    """Print all tables."""
    for table in _tables(pieces):
        shown = RichTable(title=table.title, title_justify="left", title_style="bold")
        for index, column in enumerate(table.columns):
            shown.add_column(column, justify="left" if index < table.text_columns else "right")
        for row in table.rows:
            shown.add_row(*row)
        console.print(shown)
    warning = disturbance(pieces)
    if warning is not None:
        console.print(f"[bold]{warning}[/bold]")


def write_performance_page(header: RunHeader, pieces: Sequence[Piece], path: Path = PERFORMANCE_PAGE) -> None:
    """Put the run between the markers of the page; what is outside of them stays. A missing page is made.

    Raises:
        BenchFailed: the page is there without its markers.
    """
    page = path.read_text() if path.exists() else empty_page()
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise BenchFailed(f"{path.name} has lost its markers: {BEGIN} and {END}")
    path.parent.mkdir(exist_ok=True)
    plot = PLOT_NAME if write_plot(pieces, path.parent / PLOT_NAME) else None
    path.write_text(f"{before}{BEGIN}\n\n{markdown(header, pieces, plot=plot)}\n{END}{after}")


def empty_page() -> str:
    """The page before the first run."""
    return f"{_PREAMBLE}\n{BEGIN}\n\nNo run is recorded yet.\n\n{END}\n"


def markdown(header: RunHeader, pieces: Sequence[Piece], *, plot: str | None = None) -> str:
    """The run as Markdown: commands, machine, versions, tables, and the plot of that name beside the page."""
    commands = list(dict.fromkeys(piece.command for piece in sorted(pieces, key=lambda piece: piece.began_at)))
    began = min((piece.began_at for piece in pieces), default="never")
    parts = [
        f"Run of {began[:10]} by {', then '.join(f'`{command}`' for command in commands)}.",
        _environment_text(header.environment, header.fsync_median_ms),
        *(f"**Absent: {title}: {why}.**" for title, why in header.environment.get("absent", {}).items()),
        *([warning] if (warning := disturbance(pieces)) is not None else []),
        *(_markdown_table(table) for table in (to_reach_table(pieces),) if table.rows),
        *(_markdown_table(table) for table in all_tables(pieces)),
    ]
    compared = comparison_tables(pieces)
    if compared:
        parts += [_COMPARISON, *([f"![Warm medians of all contenders]({plot})"] if plot is not None else [])]
        parts += [_markdown_table(table) for table in compared]
    queries = query_tables(pieces)
    if queries:
        parts += [_QUERIES, *(_markdown_table(table) for table in queries)]
    runaway = runaway_tables(pieces)
    if runaway:
        parts += [_RUNAWAY, *(_markdown_table(table) for table in runaway)]
    return "\n\n".join(parts) + "\n"


def _environment_text(environment: dict[str, Any], fsync_median_ms: float) -> str:
    versions = ", ".join(f"{name} {version}" for name, version in environment["versions"].items())
    return (
        f"{environment['cpus']} CPUs ({environment['cpu']}), {environment['memory_bytes'] / 2**30:.0f} GiB of memory,"
        f" {environment['system']}, {environment['file_system']}; a write of 4 KiB with its fdatasync took"
        f" {number(fsync_median_ms)} ms at the median.\nVersions: {versions}."
    )


def _markdown_table(table: Table) -> str:
    rules = ["---" if index < table.text_columns else "---:" for index in range(len(table.columns))]
    lines = ["| " + " | ".join(row) + " |" for row in (table.columns, rules, *table.rows)]
    return f"**{table.title}**\n\n" + "\n".join(lines)
