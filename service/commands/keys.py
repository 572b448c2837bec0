"""`actionlake keys`: make, list and revoke the keys of those who may use the service.

Services that run on the folder heed a change with their next request.
"""

from __future__ import annotations

import datetime
import json
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import click

from service.command_line import FOLDER_SETTINGS, config_option, errors_told, settings_of
from service.settings_flags import settings_options

if TYPE_CHECKING:
    from storage.access_keys import AccessKey, KeyFile, NewKey, Scope

_DAY_US: Final = 86_400_000_000


@click.group()
def keys() -> None:
    """Make, list and revoke keys; once there is one, the service asks for them, and may be opened to a network."""


@keys.command()
@click.argument("name")
@click.option(
    "--scope",
    "scopes",
    multiple=True,
    required=True,
    type=click.Choice(["submit", "retrieve", "sql", "admin"]),
    help="What the key may do; may be given several times, and none implies another.",
)
@click.option("--user-prefix", help="Restrict the key to users whose id begins so; not with sql or admin.")
@click.option("--expires-in-days", type=click.IntRange(1, 36_500), help="Refuse the key from then on.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
@settings_options(FOLDER_SETTINGS)
def create(
    name: str,
    scopes: tuple[str, ...],
    user_prefix: str | None,
    expires_in_days: int | None,
    as_json: bool,  # noqa: FBT001 - click passes by name
    config: Path | None,
    **flags: Any,
) -> None:
    """Make a key for NAME and show it, once: only its hash is kept.

    With the scope sql there is also what a client of Amazon Athena signs with.
    """
    with errors_told():
        from queries.athena.sigv4 import derive_secret

        file = _key_file(config, flags)
        now_us = _now_us()
        made = file.create(
            name,
            cast("tuple[Scope, ...]", scopes),
            now_us=now_us,
            user_prefix=user_prefix,
            expires_at_us=None if expires_in_days is None else now_us + expires_in_days * _DAY_US,
        )
        secret = derive_secret(file.master_key(), made.kept.id) if "sql" in made.kept.scopes else None
    if as_json:
        click.echo(json.dumps(_new_key_as_json(made, secret)))
        return
    click.echo(f"id                     {made.kept.id}")
    click.echo(f"key                    {made.key}")
    if secret is not None:
        click.echo(f"aws_access_key_id      {made.kept.id}")
        click.echo(f"aws_secret_access_key  {secret}")
    click.echo("Keep it now: it cannot be shown again.", err=True)


@keys.command("list")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@config_option
@settings_options(FOLDER_SETTINGS)
def list_keys(as_json: bool, config: Path | None, **flags: Any) -> None:  # noqa: FBT001 - click passes by name
    """List the keys, without what would let anybody in."""
    with errors_told():
        read = _key_file(config, flags).read()
        now_us = _now_us()
    kept = () if read is None else read.keys
    if as_json:
        click.echo(json.dumps([_as_json(one, now_us) for one in kept]))
        return
    for line in _lines(kept, now_us):
        click.echo(line)


@keys.command()
@click.argument("key_id", metavar="ID")
@click.option("--dry-run", is_flag=True, help="Only say which key it would be.")
@config_option
@settings_options(FOLDER_SETTINGS)
def revoke(key_id: str, dry_run: bool, config: Path | None, **flags: Any) -> None:  # noqa: FBT001 - click passes by name
    """Revoke the key with this ID; services that run refuse it from their next request on.

    When the last key is revoked nobody is let in any more, until a new one is made.
    """
    with errors_told():
        file = _key_file(config, flags)
        if dry_run:
            read = file.read()
            found = next((one for one in read.keys if one.id == key_id), None) if read is not None else None
        else:
            found = file.revoke(key_id)
    if found is None:
        raise click.ClickException(f"there is no key with the id {key_id}; `actionlake keys list` shows them")
    click.echo(f"{'would revoke' if dry_run else 'revoked'} {found.id} ({found.name})")


def _key_file(config: Path | None, flags: dict[str, Any]) -> KeyFile:
    from storage.access_keys import KeyFile
    from storage.paths import StorePaths

    settings = settings_of(config, flags)
    return KeyFile(StorePaths.of(settings.data, settings.state))


def _now_us() -> int:
    return time.time_ns() // 1_000


def _moment(us: int) -> str:
    return datetime.datetime.fromtimestamp(us // 1_000_000, datetime.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _as_json(one: AccessKey, now_us: int) -> dict[str, object]:
    return {
        "id": one.id,
        "name": one.name,
        "scopes": list(one.scopes),
        "userPrefix": one.user_prefix,
        "createdAt": _moment(one.created_at_us),
        "expiresAt": None if one.expires_at_us is None else _moment(one.expires_at_us),
        "expired": one.expired(now_us),
    }


def _new_key_as_json(made: NewKey, secret: str | None) -> dict[str, object]:
    athena = None if secret is None else {"accessKeyId": made.kept.id, "secretAccessKey": secret}
    return {**_as_json(made.kept, made.kept.created_at_us), "key": made.key, "athena": athena}


def _lines(kept: Sequence[AccessKey], now_us: int) -> Iterator[str]:
    """Lay the keys out as a table."""
    rows = [("id", "name", "scopes", "user prefix", "created", "expires")]
    for one in kept:
        until = "never" if one.expires_at_us is None else _moment(one.expires_at_us)
        expires = f"{until} (expired)" if one.expired(now_us) else until
        rows.append(
            (one.id, one.name, ",".join(one.scopes), one.user_prefix or "", _moment(one.created_at_us), expires)
        )
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        yield "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
