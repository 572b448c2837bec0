"""The page tells who was absent, every target with its verdict, and draws all contenders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bench.choice import NAMES, choose
from bench.comparison.battery import ASKED
from bench.comparison.catalogue import ACTIONLAKE, CONTENDERS
from bench.comparison.settling import due_of
from bench.comparison.workload import GROWTH, SIZES, ComparisonWorkload, ratios_to_clickhouse
from bench.comparison_tables import TO_REACH, comparison_tables, to_reach_table
from bench.report import markdown, write_performance_page
from bench.runs import Piece, RunHeader
from bench.summary import TARGETS, judge


def compared(size: str, asked: str, ms: float) -> Piece:
    figures = {"rows": 100.0, "actions": 1e6, "other_cpus": 0.0}
    for number, one in enumerate(CONTENDERS, start=1):
        for name in ("warm_p50_ms", "warm_p99_ms", "cold_p50_ms", "opening_p50_ms"):
            figures[f"{one.name}.{name}"] = ms * number
        figures |= {f"{one.name}.data_bytes": 8e6, f"{one.name}.caches_bytes": 2e6, f"{one.name}.peak_rss_bytes": 3e8}
    return piece(f"compare-{size}.{asked}", figures | ratios_to_clickhouse(figures))


def piece(workload: str, figures: dict[str, float]) -> Piece:
    return Piece(
        workload=workload, opponent=ACTIONLAKE.name, round=1, command="python -m bench", began_at="2026-01-01T00:00:00",
        figures=figures,
    )  # fmt: skip


def header(absent: dict[str, str]) -> RunHeader:
    environment: dict[str, Any] = {
        "cpus": 2, "cpu": "cpu", "memory_bytes": 2**34, "system": "Linux", "file_system": "ext4", "absent": absent,
        "versions": {"python": "3.11"},
    }  # fmt: skip
    return RunHeader(name="run", base_time_s=0, quick=False, rounds=1, environment=environment, fsync_median_ms=0.3)


def test_each_target_is_of_a_workload_that_there_is_and_has_a_verdict() -> None:
    assert {one.workload for one in TO_REACH} <= set(NAMES)
    pieces = [compared("20m", one.name, 2.0) for one in ASKED]
    rows = {row[0]: row[1:] for row in to_reach_table(pieces).rows}
    assert len(rows) == len(TO_REACH)
    # Actionlake needs 2 ms, ClickHouse by user 6, ClickHouse by time 8.
    week = next(row for title, row in rows.items() if "week" in title)
    assert week == ("at most 1x", "0.333x", "met")
    with_caches = next(row for title, row in rows.items() if "caches included" in title)
    assert with_caches == ("at most 1.25x", "1.25x", "met")
    without = next(row for title, row in rows.items() if title.startswith("bytes on disk, to"))
    assert without == ("at most 0.65x", "1x", "missed by 53.8%")
    assert next(row for title, row in rows.items() if "5 minutes" in title)[2] == "not measured"


def test_two_workers_are_held_against_one_worker_of_the_same_run() -> None:
    for clients in ("", "-of-128"):
        (target,) = (one for one in TARGETS if one.workload == f"held-back-2{clients}")
        assert {target.workload, target.against_workload} <= set(NAMES)
        one, two = (piece(f"held-back-{workers}{clients}", {"actions_per_s": 1e5 * workers}) for workers in (1, 2))
        verdict = judge(target, [one, two], ACTIONLAKE.name)
        assert (verdict.measured, verdict.met) == (2.0, True)
        assert judge(target, [two], ACTIONLAKE.name).text() == "not measured"
        slower = piece(f"held-back-2{clients}", {"actions_per_s": 1.05e5})
        assert judge(target, [one, slower], ACTIONLAKE.name).text() == "missed by 25.0%"


def test_the_choice_of_targets_measures_every_target(tmp_path: Path) -> None:
    chosen = choose([], memory=False, targets=True, large=True, cache=tmp_path)
    assert {one.name for one in chosen} == {one.workload for one in TO_REACH}
    without_large = choose([], memory=False, targets=True, large=False, cache=tmp_path)
    assert {one.name for one in chosen} - {one.name for one in without_large} == {GROWTH}


def test_without_a_choice_everything_but_the_large_is_measured(tmp_path: Path) -> None:
    chosen = choose([], memory=False, targets=False, large=False, cache=tmp_path)
    sizes = {one.size for one in chosen if isinstance(one, ComparisonWorkload)}
    assert sizes == set(SIZES) - {"100m"}
    large = choose([], memory=False, targets=False, large=True, cache=tmp_path)
    assert {one.size for one in large if isinstance(one, ComparisonWorkload)} == set(SIZES)
    assert GROWTH in {one.name for one in large}


def test_the_page_names_the_absent_and_shows_every_size_and_the_plot(tmp_path: Path) -> None:
    pieces = [compared(size, one.name, ms) for size, ms in (("1m", 1.0), ("20m", 3.0)) for one in ASKED]
    page = tmp_path / "performance.md"
    write_performance_page(header({"PostgreSQL, indexed": "no server"}), pieces, page)
    text = page.read_text()
    assert "**Absent: PostgreSQL, indexed: no server.**" in text
    for size in ("1m", "20m"):
        assert f"{SIZES[size].actions:,} actions: warm, median ms" in text
    growth = next(one for one in comparison_tables(pieces) if one.title.startswith("Growth"))
    assert growth.rows[0][2] == "3x"
    assert "(performance.svg)" in text
    drawn = (tmp_path / "performance.svg").read_text()
    assert all(one.title in drawn for one in CONTENDERS)
    assert all(one.title in drawn for one in ASKED)


def test_a_run_without_comparisons_has_neither_their_tables_nor_a_plot(tmp_path: Path) -> None:
    write_performance_page(header({}), [piece("restart", {"ready_s": 1.0, "other_cpus": 0.0})], tmp_path / "page.md")
    assert "Beside others" not in markdown(header({}), [])
    assert not (tmp_path / "performance.svg").exists()


@pytest.mark.parametrize(
    ("status", "due"),
    [
        ({"files": 3, "filtered_files": 3, "files_to_compact": 0, "rows": 9, "history_rows": 9}, {}),
        (
            {"files": 3, "filtered_files": 1, "files_to_compact": 4, "rows": 9, "history_rows": 2},
            {"files to compact": 4, "files without known users": 2, "rows to copy": 7},
        ),
    ],
)
def test_what_is_due_is_what_the_status_says(status: dict[str, int], due: dict[str, int]) -> None:
    assert due_of(status) == due
