"""The command `actionlake`. Each command reads settings, calls one function of the package and prints what it says.

Modules are imported where they are used: `actionlake status` should not wait for the parts of the service.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from service.command_line import FOLDER_SETTINGS, config_option, errors_told, settings_of, sources_of, store_to_read
from service.commands.backup import backup, restore
from service.commands.compact import compact
from service.commands.erase import erase
from service.commands.keys import keys
from service.commands.rejected import rejected
from service.commands.vacuum import vacuum
from service.commands.verify import verify
from service.settings import STRUCTURED, Settings
from service.settings_flags import settings_options
from service.sources import KEY_VARIABLE

if TYPE_CHECKING:
    from service.importing import Target

_SERVE_SETTINGS = [name for name in Settings.__struct_fields__ if name not in STRUCTURED]


@click.group(context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="actionlake", prog_name="actionlake")
def main() -> None:
    """A durable store for user actions: HTTP in, an open Delta table out, nothing lost."""


main.add_command(verify)
main.add_command(backup)
main.add_command(restore)


@main.command()
@config_option
@settings_options(_SERVE_SETTINGS)
def serve(config: Path | None, **flags: Any) -> None:
    """Serve submissions, retrievals and SQL over HTTP."""
    with errors_told():
        from service.live_settings import LiveSettings
        from service.server import serve as serve_settings
        from storage.clock import system_now_us

        serve_settings(LiveSettings.load(sources_of(config, flags), now_us=system_now_us))


@main.command("import")
@click.argument("files", nargs=-1, required=True, type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--url", help="Submit to a running service instead of opening the folder, e.g. http://127.0.0.1:8080.")
@click.option("--key", envvar=KEY_VARIABLE, show_envvar=True, help="The key to send to --url.")
@config_option
@settings_options(FOLDER_SETTINGS)
def import_files(files: tuple[Path, ...], url: str | None, key: str | None, config: Path | None, **flags: Any) -> None:
    """Import submissions from NDJSON files (.gz and .zst too); running it again adds nothing.

    Ends with a line `accepted=N rejected=N`.
    """
    if url is not None and flags.get("data") is not None:
        raise click.UsageError("give --data or --url, not both")
    with errors_told(), _import_target(settings_of(config, flags), url, key) as target:
        _import(files, target)


@contextmanager
def _import_target(settings: Settings, url: str | None, key: str | None) -> Iterator[Target]:
    from service.importing import FolderTarget, UrlTarget

    if url is not None:
        import httpx

        try:
            with httpx.Client(timeout=120) as client:
                yield UrlTarget(client, url, key)
        except httpx.InvalidURL as error:
            raise click.ClickException(f"{url}: {error}") from error
        return
    from service.store_settings import store_options, store_paths, submission_limits
    from storage.opening import open_store
    from storage.submission import SubmissionParser

    schema = settings.action_schema()
    paths = store_paths(settings)
    store, _ = open_store(paths, schema, store_options(settings), holder=f"pid {os.getpid()}, importing")
    try:
        store.start_leading()
        yield FolderTarget(store, SubmissionParser(schema, submission_limits(settings)))
    finally:
        store.close(flush=True)


def _import(files: tuple[Path, ...], target: Target) -> None:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

    from service.importing import ImportFailed, import_file

    accepted = 0
    rejected_count = 0
    failure: ImportFailed | None = None
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, disable=not console.is_terminal) as progress:
        for path in files:
            task = progress.add_task(path.name, total=path.stat().st_size)

            def advance(done: int, task: Any = task) -> None:
                progress.update(task, completed=done)

            try:
                count, rejected = import_file(path, target, on_progress=advance)
            except ImportFailed as error:
                failure = error
                break
            accepted += count
            rejected_count += len(rejected)
            for one in rejected:
                where = f"{path}:{one.line}" + (f" action {one.index}" if one.index is not None else "")
                click.echo(f"{where}: {one.code}: {one.message}", err=True)
    if failure is not None:
        raise click.ClickException(f"{failure} (accepted={accepted} rejected={rejected_count} so far)")
    click.echo(f"accepted={accepted} rejected={rejected_count}")


@main.command()
@click.argument("query", required=False)
@click.option(
    "--format",
    "output_format",
    type=click.Choice(["table", "csv", "json", "ndjson", "parquet"]),
    default="table",
    show_default=True,
    help="How to print the result of QUERY.",
)
@config_option
@settings_options(FOLDER_SETTINGS)
def sql(query: str | None, output_format: str, config: Path | None, **flags: Any) -> None:
    """Run one QUERY over the table `actions`, or open the interactive shell; also beside a running service.

    Without QUERY, and with an input that is no terminal, what would be typed into the shell is read from there.
    """
    with errors_told():
        store = store_to_read(settings_of(config, flags))
        try:
            from queries.local_sql import LocalSql, LocalSqlError
            from service.sql_shell import run_script, run_shell, write_result

            session = LocalSql(store)
            if query is None and sys.stdin.isatty():
                run_shell(session)
                return
            if query is None and output_format == "table":
                if not run_script(session, sys.stdin):
                    sys.exit(1)
                return
            try:
                write_result(session.run(query if query is not None else sys.stdin.read()), output_format)
            except LocalSqlError as error:
                raise click.ClickException(str(error)) from error
        finally:
            store.close(flush=False)


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
@settings_options(FOLDER_SETTINGS)
def status(as_json: bool, config: Path | None, **flags: Any) -> None:  # noqa: FBT001 - click passes by name
    """Show what a folder holds: files, rows, bytes, watermark, journal depth, dead letters."""
    with errors_told():
        from service.status import describe_status, print_status

        store = store_to_read(settings_of(config, flags))
        try:
            figures = describe_status(store)
        finally:
            store.close(flush=False)
        print_status(figures, as_json=as_json)


main.add_command(keys)
main.add_command(compact)
main.add_command(rejected)
main.add_command(erase)
main.add_command(vacuum)


if __name__ == "__main__":
    main()
