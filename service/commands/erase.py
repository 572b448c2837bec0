"""`actionlake erase`: erase a user, beside a running service or without one."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from service.command_line import FOLDER_SETTINGS, config_option, errors_told, settings_of, store_to_read
from service.settings import Settings
from service.settings_flags import settings_options

if TYPE_CHECKING:
    from storage.store import Store

_POLL_S: Final = 0.2


@click.command()
@click.argument("user")
@click.option("--dry-run", is_flag=True, help="Only show what would be erased.")
@click.option("--no-wait", is_flag=True, help="Return once it is recorded; the running or the next service does it.")
@config_option
@settings_options([*FOLDER_SETTINGS, "erasure_grace_ms"])
def erase(user: str, *, dry_run: bool, no_wait: bool, config: Path | None, **flags: Any) -> None:
    """Erase everything that was submitted for USER by now; hidden at once, and gone from every file at the end.

    Ends with a line `erasure=ID status=done files=N rows=N`, or `status=pending` with --no-wait.
    """
    if not user:
        raise click.UsageError("USER must not be empty")
    with errors_told():
        settings = settings_of(config, flags)
        if dry_run:
            _show(settings, user)
        else:
            _erase(settings, user, wait=not no_wait)


def _show(settings: Settings, user: str) -> None:
    from storage.erased_rows import ErasedRows
    from storage.erasure_files import count_erased
    from storage.rejects_erasure import count_rejects

    store = store_to_read(settings)
    try:
        view = store.read_view()
        wanted = ErasedRows({user: {}})
        counts = [count_erased(one.path, wanted).get(user, 0) for one in view.files]
        hot = view.hot.num_rows - wanted.without(view.hot).num_rows
        rejects = count_rejects(store.journal, store.paths.rejects, user)
    finally:
        store.close(flush=False)
    files = sum(1 for count in counts if count)
    click.echo(f"{sum(counts)} rows in {files} of {len(view.files)} files would be erased")
    click.echo(f"{hot} rows that are in the journal only, and {rejects} rejects")
    click.echo(f"files={files} rows={sum(counts)} journal_rows={hot} rejects={rejects}")


def _erase(settings: Settings, user: str, *, wait: bool) -> None:
    from storage.backup_records import recorded_backups

    store = _store(settings)
    try:
        made = store.erase(user)
        click.echo(f"erasure {made.id}: no retrieval shows the user any more", err=True)
        click.echo("backups made before are not covered: they hold the user until you delete them", err=True)
        for backup in recorded_backups(store.paths):
            click.echo(f"not covered: {backup.path}", err=True)
        if wait:
            _wait(store, made.id)
        done = store.erasure(made.id)
        assert done is not None, "records of erasures are kept"
        status = "pending" if done.finished_at_us is None else "done"
        click.echo(f"erasure={done.id} status={status} files={done.files_done} rows={done.rows}")
    finally:
        store.close(flush=wait)


def _store(settings: Settings) -> Store:
    """Take the folder, or join the service that has it."""
    from service.store_settings import store_options, store_paths
    from storage.errors import StoreLocked
    from storage.opening import join_store, open_store

    paths, schema, options = store_paths(settings), settings.action_schema(), store_options(settings)
    if not paths.journal.exists():
        raise FileNotFoundError(f"there is no store in {paths.data}: {paths.journal} does not exist")
    try:
        return open_store(paths, schema, options, holder=f"pid {os.getpid()}, erasing a user")[0]
    except StoreLocked:
        return join_store(paths, schema, options)


def _wait(store: Store, erasure_id: str) -> None:
    """Show how far it is until it is done, by whoever leads: the service, or this process where there is none."""
    store.start_leading()
    phase = None
    while True:
        one = store.erasure(erasure_id)
        assert one is not None, "records of erasures are kept"
        if one.phase is not phase:
            phase = one.phase
            click.echo(f"{phase}: {one.files_done} of {one.files_total} files", err=True)
        if one.finished_at_us is not None:
            return
        if store.latch is not None:
            store.latch.check()
        time.sleep(_POLL_S)
