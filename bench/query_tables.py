"""The tables of queries, and what queries are to reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from bench.opponents import ACTIONLAKE
from bench.queries import QUERIES, SMALL_QUERIES, STREAM_KINDS
from bench.runs import Piece
from bench.streams import LONG_STREAM_KINDS, LONG_STREAMS
from bench.summary import Target, spread
from bench.tables import ABSENT, Table, number, targets_table

SQL_ADDED_MS_MAX: Final = 5.0
ATHENA_MS_MAX: Final = 60.0
NDJSON_ACTIONS_PER_S_MIN: Final = 500_000.0
ARROW_ACTIONS_PER_S_MIN: Final = 3_000_000.0
FIRST_BYTE_S_MAX: Final = 1.0
STREAM_GROWTH_BYTES_MAX: Final = 150e6

QUERY_TARGETS: Final = (
    *(
        Target(
            title=f"/api/sql, {query.title}: median over HTTP less that of a bare DuckDB",
            workload=QUERIES.name,
            figure=f"{query.name}_added_ms",
            kind="at most",
            bound=SQL_ADDED_MS_MAX,
            against=None,
            unit=" ms",
            needs_flush=False,
        )
        for query in SMALL_QUERIES
    ),
    Target(
        title="Athena through boto3, count by type: start, poll every 5 ms, results",
        workload=QUERIES.name,
        figure="athena_ms",
        kind="at most",
        bound=ATHENA_MS_MAX,
        against=None,
        unit=" ms",
        needs_flush=False,
    ),
    *(
        Target(
            title=f"{kind.title}: actions/s",
            workload=QUERIES.name,
            figure=f"{kind.name}_actions_per_s",
            kind="at least",
            bound=ARROW_ACTIONS_PER_S_MIN if kind.name.endswith("_arrow") else NDJSON_ACTIONS_PER_S_MIN,
            against=None,
            unit="",
            needs_flush=False,
        )
        for kind in STREAM_KINDS
    ),
    Target(
        title="longest wait for the first byte of a stream",
        workload=QUERIES.name,
        figure="streams_first_byte_max_s",
        kind="at most",
        bound=FIRST_BYTE_S_MAX,
        against=None,
        unit=" s",
        needs_flush=False,
    ),
    Target(
        title="growth of resident memory while streaming, all processes of the server",
        workload=QUERIES.name,
        figure="streams_rss_growth_bytes",
        kind="at most",
        bound=STREAM_GROWTH_BYTES_MAX,
        against=None,
        unit=" MB",
        scale=1e6,
        needs_flush=False,
    ),
    Target(
        title="the same while 5 million actions leave, the worst format, each from a fresh server",
        workload=LONG_STREAMS.name,
        figure="long_rss_growth_bytes",
        kind="at most",
        bound=STREAM_GROWTH_BYTES_MAX,
        against=None,
        unit=" MB",
        scale=1e6,
        needs_flush=False,
    ),
)


def query_tables(pieces: Sequence[Piece]) -> list[Table]:
    """Every table of queries, targets first; of each workload only when it was measured."""
    measured = {piece.workload for piece in pieces}
    tables: list[Table] = []
    if QUERIES.name in measured:
        tables += [small_table(pieces), streams_table(pieces)]
    if LONG_STREAMS.name in measured:
        tables.append(long_streams_table(pieces))
    return [targets_table(pieces, QUERY_TARGETS, "Queries: targets"), *tables] if tables else []


def small_table(pieces: Sequence[Piece]) -> Table:
    """Small queries over HTTP and in a bare DuckDB."""
    rows = []
    for query in SMALL_QUERIES:
        http = _median(pieces, f"{query.name}_http_ms")
        bare = _median(pieces, f"{query.name}_bare_ms")
        added = _median(pieces, f"{query.name}_added_ms")
        rows.append((query.title, _shown(http), _shown(bare), _shown(added), _ratio(http, bare)))
    columns = ("query", "/api/sql ms", "bare DuckDB ms", "added ms", "ratio")
    return Table("Queries: /api/sql beside a bare DuckDB, medians", columns, rows)


def streams_table(pieces: Sequence[Piece]) -> Table:
    """All rows as streams, and read by a bare DuckDB into Arrow."""
    bare_rate = _median(pieces, "bare_actions_per_s")
    rows = []
    for name, title in (*((kind.name, kind.title) for kind in STREAM_KINDS), ("bare", "bare DuckDB into Arrow")):
        rate = _median(pieces, f"{name}_actions_per_s")
        growth_bytes = _median(pieces, f"{name}_rss_growth_bytes")
        rows.append(
            (
                title,
                _shown(rate),
                _ratio(rate, bare_rate),
                _shown(_median(pieces, f"{name}_first_byte_s")),
                _shown(_median(pieces, f"{name}_first_byte_max_s")),
                ABSENT if growth_bytes is None else number(growth_bytes / 1e6),
            )
        )
    columns = ("all rows", "actions/s", "to bare DuckDB", "first byte s", "longest first byte s", "RSS growth MB")
    return Table("Queries: streams, medians", columns, rows)


def long_streams_table(pieces: Sequence[Piece]) -> Table:
    """Millions of actions as streams, each format from a server of its own."""
    rows = []
    for kind in LONG_STREAM_KINDS:
        growth = spread(pieces, LONG_STREAMS.name, ACTIONLAKE.name, f"{kind.name}_rss_growth_bytes")
        rate = spread(pieces, LONG_STREAMS.name, ACTIONLAKE.name, f"{kind.name}_actions_per_s")
        rows.append(
            (
                kind.title,
                ABSENT if rate is None else number(rate.median),
                ABSENT if growth is None else number(growth.median / 1e6),
            )
        )
    return Table(
        f"Queries: {LONG_STREAMS.actions:,} actions of {LONG_STREAMS.days} days, a fresh server for each format",
        ("all rows", "actions/s, the faster of two", "RSS growth MB"),
        rows,
    )


def _median(pieces: Sequence[Piece], figure: str) -> float | None:
    found = spread(pieces, QUERIES.name, ACTIONLAKE.name, figure)
    return None if found is None else found.median


def _shown(value: float | None) -> str:
    return ABSENT if value is None else number(value)


def _ratio(ours: float | None, theirs: float | None) -> str:
    return ABSENT if ours is None or theirs is None else f"{number(ours / theirs)}x"
