"""`actionlake rejected list|show|replay|drop`: what was not kept, and what is done about it.

Works on a folder, whether or not a service holds it, or on a service by its URL. Beside a service the command appends
to the journal as a worker does; it judges by the configuration that it is given itself.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from service.command_line import FOLDER_SETTINGS, config_option, errors_told, settings_of, store_to_read
from service.settings_flags import settings_options
from service.sources import KEY_VARIABLE

if TYPE_CHECKING:
    from service.settings import Settings
    from storage.store import Store

F = TypeVar("F", bound=Callable[..., Any])

_CRITERIA: Final = ("userId", "code", "fromTime", "toTime", "state")


@click.group()
def rejected() -> None:
    """Look at what was rejected, try it again, or drop it."""


def _criteria_options(function: F) -> F:
    for option in (
        click.option("--user", "user_id", help="Of this user's submissions."),
        click.option("--code", help="Rejected for this reason, e.g. unknown_type."),
        click.option("--from", "from_time", help="Received then (RFC 3339) or later."),
        click.option("--to", "to_time", help="Received then or earlier."),
        # `--state` is the folder of the node's own, here as everywhere.
        click.option("--status", type=click.Choice(["open", "replayed"]), help="In this state only."),
    ):
        function = option(function)
    return function


def _target_options(function: F) -> F:
    url = click.option("--url", help="Ask a running service instead of opening the folder, e.g. http://127.0.0.1:8080.")
    key = click.option("--key", envvar=KEY_VARIABLE, show_envvar=True, help="The key to send to --url.")
    return key(url(config_option(settings_options(FOLDER_SETTINGS)(function))))


@rejected.command("list")
@_criteria_options
@click.option("--limit", type=click.IntRange(1), default=100, show_default=True, help="How many, the newest first.")
@click.option("--json", "as_json", is_flag=True, help="Print one JSON object a line, with the original text.")
@_target_options
def list_rejected(
    limit: int,
    as_json: bool,  # noqa: FBT001 - click passes by name
    url: str | None,
    config: Path | None,
    **given: Any,
) -> None:
    """List rejected logs, the newest first."""
    criteria = _criteria(given)
    with errors_told():
        for one in _pages(criteria, limit, url, config, given):
            if as_json:
                _print_json(one)
            else:
                user = one["userId"] if one["userId"] is not None else "-"
                click.echo(
                    f"{one['id']}  {one['receivedAt']}  {one['state']:<8}  {one['code']}  {user}  {one['message']}"
                )


@rejected.command()
@click.argument("reject_id", metavar="ID")
@_target_options
def show(reject_id: str, url: str | None, config: Path | None, **flags: Any) -> None:
    """Show one rejected log, with its original text, as JSON."""
    with errors_told():
        found = list(_pages({"id": reject_id}, 1, url, config, flags))
    if not found:
        raise click.ClickException(f"there is no rejected log {reject_id}")
    _print_json(found[0])


@rejected.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_criteria_options
@click.option("--all", "everything", is_flag=True, help="All that are open.")
@click.option("--dry-run", is_flag=True, help="Only tell what would be stored.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_target_options
def replay(
    as_json: bool,  # noqa: FBT001 - click passes by name
    url: str | None,
    config: Path | None,
    **given: Any,
) -> None:
    """Parse rejected logs again under the present configuration, and store, once, what is right now."""
    totals = {"replayed": 0, "actions": 0, "stillRejected": 0}
    reasons: list[dict[str, Any]] = []
    with errors_told(), _problems_told():
        for answer in _decided("replay", url, config, given):
            for name in totals:
                totals[name] += answer[name]
            reasons += answer["reasons"]
    if as_json:
        _print_json({**totals, "reasons": reasons})
        return
    for one in reasons:
        click.echo(f"{one['id']}: {one['code']}: {one['message']}", err=True)
    click.echo(f"replayed={totals['replayed']} actions={totals['actions']} still_rejected={totals['stillRejected']}")


@rejected.command()
@click.argument("ids", metavar="[ID]...", nargs=-1)
@_criteria_options
@click.option("--all", "everything", is_flag=True, help="All of them.")
@click.option("--dry-run", is_flag=True, help="Only tell how many would be dropped.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@_target_options
def drop(
    as_json: bool,  # noqa: FBT001 - click passes by name
    url: str | None,
    config: Path | None,
    **given: Any,
) -> None:
    """Drop rejected logs for good; what a replay has stored stays."""
    with errors_told(), _problems_told():
        dropped = sum(answer["dropped"] for answer in _decided("drop", url, config, given))
    if as_json:
        _print_json({"dropped": dropped})
    else:
        click.echo(f"dropped={dropped}")


def _print_json(value: object) -> None:
    import msgspec

    sys.stdout.buffer.write(msgspec.json.encode(value) + b"\n")


def _criteria(given: dict[str, Any]) -> dict[str, str]:
    values = [given.pop(name) for name in ("user_id", "code", "from_time", "to_time", "status")]
    return {name: value for name, value in zip(_CRITERIA, values, strict=True) if value is not None}


def _pages(
    criteria: dict[str, str], limit: int, url: str | None, config: Path | None, flags: dict[str, Any]
) -> Iterator[dict[str, Any]]:
    from service.rejects import LIMIT_MAX, page_of

    key = flags.pop("key")
    with _problems_told(), _asking(url, key, settings_of(config, flags)) as (client, store):
        cursor: str | None = None
        while limit > 0:
            given = {**criteria, "limit": str(min(limit, LIMIT_MAX)), **({"cursor": cursor} if cursor else {})}
            page = _get(client, given) if client is not None else page_of(store, given)
            yield from page["rejected"]
            limit -= len(page["rejected"])
            cursor = page["next"]
            if cursor is None:
                return


def _decided(what: str, url: str | None, config: Path | None, given: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Replay or drop everything that is selected, a bounded number at a time."""
    ids, everything, dry_run = given.pop("ids"), given.pop("everything"), given.pop("dry_run")
    key = given.pop("key")
    body: dict[str, Any] = {**_criteria(given), "dryRun": dry_run}
    if ids:
        body["ids"] = list(ids)
    if everything:
        body["all"] = True
    settings = settings_of(config, given)
    if url is not None:
        import httpx

        with httpx.Client(base_url=url, timeout=300, headers=_authorization(key)) as client:
            while True:
                answer = _answer(client.post(f"/api/rejectedlogs/{what}", json=body))
                yield answer
                if answer["next"] is None:
                    return
                body["cursor"] = answer["next"]
    with _store_to_write(settings) as store:
        while True:
            answer = _decide_here(what, body, settings, store)
            yield answer
            if answer["next"] is None:
                return
            body["cursor"] = answer["next"]


def _decide_here(what: str, body: dict[str, Any], settings: Settings, store: Store) -> dict[str, Any]:
    import msgspec

    from service.rejects import Selection, drop_fields, place_of, question_of, replay_fields, wanted_by
    from service.store_settings import submission_limits
    from storage.submission import SubmissionParser

    selection = msgspec.convert(body, Selection)
    wanted = wanted_by(selection)
    question = question_of(wanted, what)
    after = place_of(selection.cursor, question)
    decisions = store.decisions()
    if what == "drop":
        dropped = decisions.drop(wanted, limit=selection.limit, after=after, dry_run=selection.dry_run)
        return drop_fields(dropped, question)
    store.check_writable()
    parser = SubmissionParser(settings.action_schema(), submission_limits(settings))
    result = decisions.replay(wanted, parser, limit=selection.limit, after=after, dry_run=selection.dry_run)
    return replay_fields(result, question)


@contextmanager
def _store_to_write(settings: Settings) -> Iterator[Store]:
    """Hold the folder and flush at the end; or, where a service holds it, append beside its workers."""
    from service.store_settings import store_options, store_paths
    from storage.errors import StoreLocked
    from storage.opening import join_store, open_store

    paths, schema = store_paths(settings), settings.action_schema()
    if not paths.journal.exists():
        raise FileNotFoundError(f"there is no store in {paths.data}: {paths.journal} does not exist")
    alone = True
    try:
        store, _ = open_store(paths, schema, store_options(settings), holder=f"pid {os.getpid()}, replaying")
    except StoreLocked:
        alone = False
        store = join_store(paths, schema, store_options(settings))
    try:
        yield store
        if alone:
            store.flush_here()
    finally:
        store.close(flush=False)


@contextmanager
def _asking(url: str | None, key: str | None, settings: Settings) -> Iterator[tuple[Any, Any]]:
    if url is not None:
        import httpx

        with httpx.Client(base_url=url, timeout=60, headers=_authorization(key)) as client:
            yield client, None
        return
    store = store_to_read(settings)
    try:
        yield None, store
    finally:
        store.close(flush=False)


def _authorization(key: str | None) -> dict[str, str]:
    return {} if key is None else {"authorization": f"Bearer {key}"}


def _get(client: Any, given: dict[str, str]) -> dict[str, Any]:
    return _answer(client.get("/api/rejectedlogs", params=given))


def _answer(response: Any) -> dict[str, Any]:
    if response.status_code != 200:
        raise click.ClickException(f"the service answered {response.status_code}: {response.text}")
    answer: dict[str, Any] = response.json()
    return answer


@contextmanager
def _problems_told() -> Iterator[None]:
    """Tell a wrong criterion, or a service out of reach, as one line."""
    import httpx

    from service.problems import Problem

    try:
        yield
    except (Problem, httpx.HTTPError, httpx.InvalidURL) as error:
        raise click.ClickException(str(error)) from error
