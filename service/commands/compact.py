"""`actionlake compact`: few, sorted files instead of many, beside a running service or without one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.command_line import FOLDER_SETTINGS, config_option, errors_told, settings_of, store_to_read
from service.settings import Settings
from service.settings_flags import settings_options

if TYPE_CHECKING:
    from storage.maintenance.compaction import CompactionResult


@click.command()
@click.option("--dry-run", is_flag=True, help="Only show what would be rewritten.")
@config_option
@settings_options([*FOLDER_SETTINGS, "compact_file_bytes_max", "compact_memory_bytes_max"])
def compact(*, dry_run: bool, config: Path | None, **flags: Any) -> None:
    """Rewrite small files of the table into few, sorted ones; no row changes, and nobody has to wait.

    A date and type ends as one file or two, unless it is too large for that. A large file is written anew only where
    the smaller ones are worth it.

    Ends with a line `rewritten=N files_before=N files_after=N`: files that were replaced, and files of the table.
    """
    with errors_told():
        settings = settings_of(config, flags)
        if dry_run:
            _show_plan(settings)
        else:
            _compact(settings)


def _show_plan(settings: Settings) -> None:
    from service.maintenance import compaction_limits
    from storage.maintenance.planning import plan_compaction

    store = store_to_read(settings)
    try:
        files = store.read_view().files
        now_ms = store.options.now_us() // 1000
    finally:
        store.close(flush=False)
    rewrites = plan_compaction(files, compaction_limits(settings), now_ms=now_ms, thorough=True).rewrites
    for one in rewrites:
        click.echo(
            f"date={one.date}/type={one.type}: {len(one.files)} files with {one.rows} rows in {one.bytes} bytes"
            f" would become {one.pieces}"
        )
    rewritten = sum(len(one.files) for one in rewrites)
    _tell(rewritten, len(files), len(files) - rewritten + sum(one.pieces for one in rewrites))


def _compact(settings: Settings) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    from service.maintenance import compaction_limits
    from service.store_settings import store_paths
    from storage.clock import system_now_us
    from storage.maintenance.access import upkeep_of
    from storage.maintenance.compaction import CompactionRun, compact
    from storage.maintenance.last_runs import record_run
    from storage.maintenance.planning import plan_compaction

    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    with (
        upkeep_of(store_paths(settings), settings.action_schema(), holder=f"pid {os.getpid()}, compacting") as upkeep,
        Progress(*columns, console=console, disable=not console.is_terminal) as progress,
    ):
        journal_id = upkeep.journal.state().id
        before = upkeep.lake.reload(journal_id).files
        now_ms = system_now_us() // 1000
        limits = compaction_limits(settings)
        planned = plan_compaction(before, limits, now_ms=now_ms, thorough=True).rewrites
        task = progress.add_task("rewriting", total=sum(one.bytes for one in planned))

        def advance(result: CompactionResult) -> None:
            progress.update(task, advance=result.bytes_removed)

        run = CompactionRun(
            upkeep.paths,
            upkeep.journal,
            upkeep.lake,
            upkeep.latch,
            limits,
            settings.compact_memory_bytes_max,
            now_ms=lambda: system_now_us() // 1000,
            on_commit=advance,
        )
        done = compact(run, thorough=True)
        if done.partitions:
            record_run(upkeep.paths, "compaction", done)
        after = upkeep.lake.reload(journal_id).files
    _tell(done.files_removed, len(before), len(after))


def _tell(rewritten: int, before: int, after: int) -> None:
    click.echo(f"rewritten={rewritten} files_before={before} files_after={after}")
