"""`actionlake erase`: erase a user, beside a running service or without one."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from service.command_line import FOLDER_SETTINGS, config_option, errors_told, settings_of, store_to_read
from service.settings import Settings
from service.settings_flags import settings_options

if TYPE_CHECKING:
    from storage.erasure_records import Erasure
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

    store, joined = _store(settings)
    try:
        made = store.erase(user)
        click.echo(f"erasure {made.id}: no retrieval shows the user any more", err=True)
        click.echo("backups made before are not covered: they hold the user until you delete them", err=True)
        for backup in recorded_backups(store.paths):
            click.echo(f"not covered: {backup.path}", err=True)
        if wait and not joined:
            store.start_leading()
            _wait(store, made.id, until=lambda: False)
        done = store.erasure(made.id)
    finally:
        store.close(flush=wait and not joined)
    if wait and joined:
        done = _watch(settings, made.id)
    assert done is not None, "records of erasures are kept"
    status = "pending" if done.finished_at_us is None else "done"
    click.echo(f"erasure={done.id} status={status} files={done.files_done} rows={done.rows}")


def _store(settings: Settings) -> tuple[Store, bool]:
    """Take the folder, or join the service that has it; say whether that was done."""
    from service.store_settings import store_options, store_paths
    from storage.errors import StoreLocked
    from storage.opening import join_store, open_store

    paths, schema, options = store_paths(settings), settings.action_schema(), store_options(settings)
    if not paths.journal.exists():
        raise FileNotFoundError(f"there is no store in {paths.data}: {paths.journal} does not exist")
    try:
        return open_store(paths, schema, options, holder=f"pid {os.getpid()}, erasing a user")[0], False
    except StoreLocked:
        return join_store(paths, schema, options), True


def _watch(settings: Settings, erasure_id: str) -> Erasure | None:
    """Wait for what the service does, as a reader: a service that is started again must not wait for this process."""
    store = store_to_read(settings)
    try:
        if not _wait(store, erasure_id, until=lambda: _nobody_works(store)):
            click.echo("the service has ended; the next one goes on with the erasure", err=True)
        return store.erasure(erasure_id)
    finally:
        store.close(flush=False)


def _nobody_works(store: Store) -> bool:
    from storage.errors import StoreFailed
    from storage.latch import Latch
    from storage.locks import FileLock
    from storage.opening import FOR_A_MOMENT

    if store.paths.latch.exists() and (reason := Latch.read(store.paths.latch)) is not None:
        raise StoreFailed(f"the store has failed: {reason}; look at the disk, then restart the service")
    lock = FileLock(store.paths.service_lock)
    if not lock.try_acquire(f"pid {os.getpid()}, looking{FOR_A_MOMENT}"):
        return False
    lock.release()
    return True


def _wait(store: Store, erasure_id: str, *, until: Callable[[], bool]) -> bool:
    """Show how far it is until it is done, or *until* something ends that; return whether it is done."""
    phase = None
    while True:
        one = store.erasure(erasure_id)
        assert one is not None, "records of erasures are kept"
        if one.phase is not phase:
            phase = one.phase
            click.echo(f"{phase}: {one.files_done} of {one.files_total} files", err=True)
        if one.finished_at_us is not None:
            return True
        if store.latch is not None:
            store.latch.check()
        if until():
            return False
        time.sleep(_POLL_S)
