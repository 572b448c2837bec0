"""`actionlake verify`: check a folder, whether or not a service holds it."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import click

from service.command_line import FOLDER_SETTINGS, config_option, errors_told, settings_of
from service.settings_flags import settings_options


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--deep", is_flag=True, help="Read every value of every file, not only what tells rows apart.")
@config_option
@settings_options(FOLDER_SETTINGS)
def verify(as_json: bool, deep: bool, config: Path | None, **flags: Any) -> None:  # noqa: FBT001 - click passes by name
    """Check that everything is there, once, and in agreement; also beside a running service.

    Prints each problem with its file and what to do, and a last line `verified files=N rows=N problems=N`. The exit
    code is 1 if there are problems.
    """
    with errors_told():
        from service.store_settings import store_paths
        from storage.verification import verify as verify_store

        settings = settings_of(config, flags)
        report = verify_store(store_paths(settings), settings.action_schema(), deep=deep)
        if as_json:
            import msgspec

            problems = [{"file": str(one.file), "problem": one.what, "advice": one.advice} for one in report.problems]
            figures = {"version": report.version, "files": report.files, "rows": report.rows, "absent": report.absent}
            click.echo(msgspec.json.encode({**figures, "problems": problems}).decode())
        else:
            for problem in report.problems:
                click.echo(problem)
            if report.absent:
                click.echo(f"{report.absent} positions were erased, have expired or were rejected")
            click.echo(f"verified files={report.files} rows={report.rows} problems={len(report.problems)}")
    if report.problems:
        sys.exit(1)
