"""`actionlake vacuum`: expired days leave the table, and files that it no longer names leave the disk."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from service.command_line import FOLDER_SETTINGS, config_option, errors_told, settings_of, store_to_read
from service.settings import Settings
from service.settings_flags import settings_options


@click.command()
@click.option("--dry-run", is_flag=True, help="Only list what would go, with its bytes.")
@config_option
@settings_options([*FOLDER_SETTINGS, "vacuum_grace_ms", "retention_days_default"])
def vacuum(*, dry_run: bool, config: Path | None, **flags: Any) -> None:
    """Take out days past their retention, and remove files that the table no longer names, after their grace.

    Ends with a line `expired_rows=N removed_files=N removed_bytes=N`.
    """
    with errors_told():
        settings = settings_of(config, flags)
        if dry_run:
            _list(settings)
        else:
            _vacuum(settings)


def _list(settings: Settings) -> None:
    from service.maintenance import retention_rules
    from storage.lake import Lake
    from storage.maintenance.retention import expired_files, summed_up
    from storage.maintenance.table_log import system_now_ms
    from storage.maintenance.vacuum import look

    now_ms = system_now_ms()
    store = store_to_read(settings)
    try:
        expired = expired_files(store.read_view().files, retention_rules(settings), now_ms=now_ms)
        lake = Lake(store.paths.table, store.schema)
        plan = look(lake, store.journal, now_ms=now_ms, grace_ms=settings.vacuum_grace_ms)
    finally:
        store.close(flush=False)
    rows = 0
    for group in expired:
        rows += summed_up(group).rows
        for one in group:
            click.echo(f"{one.path}: {one.size_bytes} bytes with {one.rows} rows have expired")
    for kind, files in (("is no longer in the table", plan.removed), ("was never in the table", plan.orphans)):
        for found in files:
            click.echo(f"{lake.folder / found.path}: {found.size_bytes} bytes, {kind}")
    doomed = [*plan.removed, *plan.orphans]
    _tell(rows, len(doomed), sum(one.size_bytes for one in doomed))


def _vacuum(settings: Settings) -> None:
    from service.maintenance import retention_rules
    from service.store_settings import store_paths
    from storage.maintenance.access import upkeep_of
    from storage.maintenance.last_runs import record_run
    from storage.maintenance.retention import expire
    from storage.maintenance.table_log import system_now_ms
    from storage.maintenance.vacuum import vacuum as vacuum_table

    paths = store_paths(settings)
    with upkeep_of(paths, settings.action_schema(), holder=f"pid {os.getpid()}, vacuuming") as upkeep:
        handles = (upkeep.lake, upkeep.journal, upkeep.latch)
        expired = expire(*handles, retention_rules(settings), now_ms=system_now_ms)
        done = vacuum_table(*handles, now_ms=system_now_ms(), grace_ms=settings.vacuum_grace_ms)
    if expired.files:
        record_run(paths, "retention", expired)
    if done.files:
        record_run(paths, "vacuum", done)
    if done.deferred:
        click.echo("some files are still in use, or were a moment ago; run it again later", err=True)
    _tell(expired.rows, done.files, done.bytes)


def _tell(rows: int, files: int, size: int) -> None:
    click.echo(f"expired_rows={rows} removed_files={files} removed_bytes={size}")
