"""The tables of the comparison, and what was to be reached beside others."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final

from bench.comparison.battery import ASKED
from bench.comparison.catalogue import ACTIONLAKE, CONTENDERS
from bench.comparison.workload import GROWTH, SIZES
from bench.runs import Piece
from bench.summary import Target
from bench.tables import ABSENT, Table, number, targets_table


def _to_clickhouse(title: str, asked: str, figure: str, bound: float) -> Target:
    return Target(
        title=f"{title}, 20M actions", workload=f"compare-20m.{asked}", figure=figure, kind="at most", bound=bound,
        against=None, unit="x", needs_flush=False,
    )  # fmt: skip


TO_REACH: Final = (
    _to_clickhouse("one user (about 100 actions), all time, JSON, to ClickHouse by user", "user", "to_clickhouse", 0.5),
    _to_clickhouse("the heaviest user, all time, Arrow, to ClickHouse by user", "heaviest", "to_clickhouse", 1.0),
    _to_clickhouse("one user and one week, to ClickHouse by user", "week", "to_clickhouse", 1.0),
    _to_clickhouse("one user, newest 100, to ClickHouse by user", "newest", "to_clickhouse", 0.4),
    _to_clickhouse("one type and one hour, to ClickHouse by time", "type-hour", "to_clickhouse-by-time", 1.0),
    _to_clickhouse("daily counts and distinct users, to the faster ClickHouse", "daily", "to_faster_clickhouse", 1.3),
    _to_clickhouse("the same, to ClickHouse by user", "daily", "to_clickhouse", 1.3),
    _to_clickhouse("bytes on disk, to the smaller ClickHouse", "user", "bytes_to_smaller_clickhouse", 0.65),
    _to_clickhouse(
        "bytes on disk, caches included, to the smaller ClickHouse",
        "user",
        "bytes_with_caches_to_smaller_clickhouse",
        1.25,
    ),
    Target(
        title="history of a user (about 100 actions) at 100M actions, to that at 10M",
        workload=GROWTH, figure="growth", kind="at most", bound=1.3, against=None, unit="x", needs_flush=False,
    ),
    Target(
        title="durable actions/s at 100 a request, 1 worker, flushing included, to Flask and sqlite3",
        workload="submit-100", figure="actions_per_s", kind="at least", bound=6.0, against="baseline", unit="x",
    ),
    Target(
        title="durable actions/s for 5 minutes at 1,000 a request, 2 workers, flushes and compaction included",
        workload="sustained", figure="actions_per_s", kind="at least", bound=400_000, against=None, unit="",
    ),
    Target(
        title="ready after a kill, 10M rows in the table and 100,000 in the journal",
        workload="restart", figure="ready_s", kind="at most", bound=2.0, against=None, unit=" s", needs_flush=False,
    ),
)  # fmt: skip


def to_reach_table(pieces: Sequence[Piece]) -> Table:
    """What was to be reached, with how far each missed; no rows when nothing of it was measured."""
    return targets_table(pieces, TO_REACH, "To reach")


def comparison_tables(pieces: Sequence[Piece]) -> list[Table]:
    """The tables of each size that was measured, and of growth."""
    tables: list[Table] = []
    for size, actions in SIZES.items():
        found = _figures_of_size(pieces, size)
        if not found:
            continue
        of = f"{actions.actions:,} actions"
        tables += [
            _matrix(f"{of}: warm, median ms", found, _figure("warm_p50_ms")),
            _matrix(f"{of}: warm, p99 ms", found, _figure("warm_p99_ms")),
            _matrix(f"{of}: Actionlake over REST to each, warm medians", found, _ratio, unit="x"),
            _matrix(f"{of}: cold, median ms of the first answer", found, _figure("cold_p50_ms")),
            _matrix(f"{of}: cold, median ms from the start of the process to open", found, _figure("opening_p50_ms")),
            _upkeep_table(of, found),
        ]
    tables += [_growth_by_size(pieces), _growth_of_users(pieces)]
    return [one for one in tables if one.rows]


Figures = Mapping[str, float]


def _figures_of_size(pieces: Sequence[Piece], size: str) -> dict[str, Figures]:
    """The figures by kind of question, in the order of the battery."""
    by_name = {piece.workload: piece.figures for piece in pieces}
    return {one.title: by_name[name] for one in ASKED if (name := f"compare-{size}.{one.name}") in by_name}


def _figure(name: str) -> Callable[[Figures, str], float | None]:
    return lambda figures, contender: figures.get(f"{contender}.{name}")


def _ratio(figures: Figures, contender: str) -> float | None:
    own, other = (figures.get(f"{name}.warm_p50_ms") for name in (ACTIONLAKE.name, contender))
    return None if own is None or other is None else own / other


def _matrix(
    title: str, found: Mapping[str, Figures], value: Callable[[Figures, str], float | None], *, unit: str = ""
) -> Table:
    """Questions down, contenders across; without those that have no figure at all."""
    present = [one for one in CONTENDERS if any(value(figures, one.name) is not None for figures in found.values())]
    rows = []
    for asked, figures in found.items():
        values = [value(figures, one.name) for one in present]
        shown = [ABSENT if one is None else f"{number(one)}{unit}" for one in values]
        rows.append((asked, number(figures["rows"]), *shown))
    return Table(title, ("question", "rows", *(one.title for one in present)), rows if present else [])


def _upkeep_table(of: str, found: Mapping[str, Figures]) -> Table:
    """Disk, memory and the time that it took to load, of every contender that took part."""
    rows = []
    for one in CONTENDERS:
        taking = [figures for figures in found.values() if f"{one.name}.data_bytes" in figures]
        if not taking:
            continue
        figures = taking[0]
        data, caches = figures[f"{one.name}.data_bytes"], figures[f"{one.name}.caches_bytes"]
        # Who reads the table of another has no bytes and no loading of its own.
        sizes = (number(data / 1e6), number(data / figures["actions"]), number(caches / 1e6))
        peak = max(figures[f"{one.name}.peak_rss_bytes"] for figures in taking)
        load_s, settle_s = (None if one.reads else figures.get(f"{one.name}.{name}") for name in ("load_s", "settle_s"))
        rows.append(
            (
                one.title,
                *((ABSENT,) * len(sizes) if one.reads else sizes),
                number(peak / 1e6),
                ABSENT if load_s is None else number(load_s),
                ABSENT if settle_s is None else number(settle_s),
            )
        )
    columns = (
        "contender",
        "MB",
        "bytes an action",
        "MB of caches",
        "peak RSS MB",
        "loaded in s",
        "brought in order in s",
    )
    return Table(f"{of}: disk, memory, loading", columns, rows)


def _growth_by_size(pieces: Sequence[Piece]) -> Table:
    """Warm medians of the largest set over those of the smallest."""
    sizes = [size for size in SIZES if _figures_of_size(pieces, size)]
    if len(sizes) < 2:
        return Table("", (), [])
    small, large = (_figures_of_size(pieces, size) for size in (sizes[0], sizes[-1]))
    grown: dict[str, Figures] = {}
    for asked in small.keys() & large.keys():
        ratios = {
            f"{one.name}.grown": large[asked][key] / small[asked][key]
            for one in CONTENDERS
            if (key := f"{one.name}.warm_p50_ms") in small[asked] and key in large[asked]
        }
        grown[asked] = {"rows": large[asked]["rows"], **ratios}
    ordered = {one.title: grown[one.title] for one in ASKED if one.title in grown}
    times = SIZES[sizes[-1]].actions / SIZES[sizes[0]].actions
    title = f"Growth: warm medians at {sizes[-1].upper()} to those at {sizes[0].upper()}, {number(times)}x the actions"
    return _matrix(title, ordered, _figure("grown"), unit="x")


def _growth_of_users(pieces: Sequence[Piece]) -> Table:
    rows = []
    for piece in pieces:
        if piece.workload == GROWTH:
            figures = piece.figures
            for side in ("small", "large"):
                rows.append(
                    (
                        f"{figures[f'{side}_actions']:,.0f}",
                        number(figures[f"{side}_rows"]),
                        number(figures[f"{side}.warm_p50_ms"]),
                        number(figures[f"{side}.warm_p99_ms"]),
                    )
                )
    columns = ("actions in the table", "actions of a user", "median ms", "p99 ms")
    return Table("Growth: history of one user over REST, asked in turn", columns, rows)
