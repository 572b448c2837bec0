"""`actionlake backup` and `actionlake restore`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from service.command_line import FOLDER_SETTINGS, config_option, errors_told, settings_of
from service.settings_flags import settings_options


@click.command()
@click.argument("destination", type=click.Path(file_okay=False, path_type=Path))
@click.option("--keep", type=click.IntRange(1), help="Leave so many backups there; all if not given.")
@click.option("--dry-run", is_flag=True, help="Only say what would be done.")
@config_option
@settings_options(FOLDER_SETTINGS)
def backup(
    destination: Path,
    keep: int | None,
    dry_run: bool,  # noqa: FBT001 - click passes by name
    config: Path | None,
    **flags: Any,
) -> None:
    """Back a folder up to a new folder below DESTINATION; also beside a running service.

    The backup is exactly what was acknowledged at one instant after the command was started. Data files that the last
    backup there has are linked, not copied. Ends with a line `backed up files=N copied=N rows=N bytes=N path=…`.
    """
    with errors_told():
        from service.store_settings import store_paths
        from storage.backup import back_up, superseded

        paths = store_paths(settings_of(config, flags))
        if dry_run:
            from storage.log_replay import read_log

            files = [*read_log(paths.table).files.values(), *read_log(paths.rejects).files.values()]
            size = sum(one.size_bytes for one in files)
            click.echo(f"would back up files={len(files)} rows={sum(one.rows for one in files)} bytes={size}")
            for old in superseded(destination, keep):
                click.echo(f"would remove {old}")
            return
        result = back_up(paths, destination.absolute(), keep=keep)
        for old in result.removed:
            click.echo(f"removed {old}")
        made = result.manifest
        click.echo(
            f"backed up files={made.files} copied={result.copied} rows={made.rows} bytes={made.bytes}"
            f" path={result.path}"
        )


@click.command()
@click.argument("source", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--keys", "with_keys", is_flag=True, help="Restore API keys too: those revoked since are valid again.")
@config_option
@settings_options(FOLDER_SETTINGS)
def restore(source: Path, with_keys: bool, config: Path | None, **flags: Any) -> None:  # noqa: FBT001
    """Make a store out of the newest backup below SOURCE, in an empty folder (--data).

    The journal gets a new id. API keys are left out unless --keys is given. Ends with a line
    `restored files=N rows=N from=…`.
    """
    with errors_told():
        from service.store_settings import store_paths
        from storage.restoring import restore as restore_store

        settings = settings_of(config, flags)
        result = restore_store(source.absolute(), store_paths(settings), settings.action_schema(), with_keys=with_keys)
        if result.interrupted is not None:
            click.echo(f"a later backup, {result.interrupted}, was interrupted and not used", err=True)
        for problem in result.report.problems:
            click.echo(f"the backup has a row that cannot be read, all others are restored: {problem}", err=True)
        click.echo(f"restored files={result.report.files} rows={result.report.rows} from={result.backup}")
