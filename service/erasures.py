"""DELETE /api/users/{userId}: erase a user, and receipts that tell how far that is."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Sequence
from typing import Any, Final
from urllib.parse import unquote_to_bytes

import msgspec
from litestar import Request, Response, delete, get, post

from service.clients import needs
from service.live_settings import LiveSettings
from service.problems import Problem, bad_parameter
from service.sql import read_json_body
from storage.backup_records import RecordedBackup, recorded_backups
from storage.erasure_records import Erasure, Phase
from storage.store import Store

_USERS: Final = "/api/users/"
_BODY_BYTES_MAX: Final = 64 * 1024
_LISTED_MAX: Final = 1000
_BACKUPS: Final = (
    "Backups and copies made before this erasure was done hold the user until you delete them. Restoring"
    " one brings the user back; ask for the erasure again after a restore."
)


class EraseBody(msgspec.Struct, forbid_unknown_fields=True, rename="camel"):
    """The body of `POST /api/users/erase`."""

    user_id: str


def receipt_of(one: Erasure, *, deadline_ms: int, now_us: int, backups: Sequence[RecordedBackup]) -> dict[str, Any]:
    """What is told of an erasure: everything but whom it is about; of *backups* those that it does not cover."""
    due_us = one.requested_at_us + deadline_ms * 1000
    finished = one.phase is Phase.DONE
    return {
        "erasure": one.id,
        "status": "done" if finished else "pending",
        "phase": str(one.phase),
        "requestedAt": _text(one.requested_at_us),
        "deadline": _text(due_us),
        "overdue": (one.finished_at_us or now_us) > due_us,
        "finishedAt": None if one.finished_at_us is None else _text(one.finished_at_us),
        "files": {"total": one.files_total, "done": one.files_done},
        "rows": one.rows,
        "deadLetters": one.dead_letters,
        "oldFiles": one.old_files,
        "backups": {
            "covered": False,
            "note": _BACKUPS,
            "made": [
                {"path": str(made.path), "begunAt": _text(made.begun_at_us)}
                for made in backups
                if made.begun_at_us <= (one.finished_at_us or now_us)
            ],
        },
    }


def _text(time_us: int) -> str:
    moment = datetime.datetime.fromtimestamp(time_us / 1_000_000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _receipt(request: Request[Any, Any, Any], one: Erasure) -> dict[str, Any]:
    store: Store = request.app.state.store
    live: LiveSettings = request.app.state.live
    deadline_ms = live.in_force.settings.erasure_deadline_ms
    backups = recorded_backups(store.paths)
    return receipt_of(one, deadline_ms=deadline_ms, now_us=store.options.now_us(), backups=backups)


async def _erase(request: Request[Any, Any, Any], user_id: str) -> Response[dict[str, Any]]:
    if not user_id:
        raise bad_parameter("userId", "must not be empty")
    store: Store = request.app.state.store
    made = await asyncio.to_thread(store.erase, user_id)
    headers = {"location": f"/api/erasures/{made.id}"}
    return Response(_receipt(request, made), status_code=202, headers=headers)


@delete(
    # The second one, since the framework would take it for the route that only knows POST.
    [_USERS + "{user_id:path}", _USERS + "erase"],
    status_code=202,
    summary="Erase a user",
    description="From the answer on no retrieval shows what was acknowledged before of this user, given"
    " percent-encoded. The rest of the work goes on; the receipt tells how far it is, and by when it is done.",
    tags=["users"],
    opt=needs("admin"),
)
async def erase_user(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """Take the id from the path as it was sent: the framework normalises slashes, which an id may hold."""
    raw: bytes = request.scope["raw_path"].partition(b"?")[0]
    if not raw.startswith(_USERS.encode()):
        # `//api/users/x`, say, which the framework takes for this route: what is the id in it would be a guess.
        raise Problem(404, f"users are erased at {_USERS}")
    try:
        user_id = unquote_to_bytes(raw.removeprefix(_USERS.encode())).decode()
    except UnicodeDecodeError as error:
        raise bad_parameter("userId", "is not UTF-8, percent-encoded") from error
    return await _erase(request, user_id)


@post(
    _USERS + "erase",
    status_code=202,
    summary="Erase a user whose id is in the body",
    description='As `DELETE /api/users/{userId}`, for ids that do not go well into a path or its logs: `{"userId"}`.',
    tags=["users"],
    opt=needs("admin"),
)
async def erase_user_by_body(request: Request[Any, Any, Any]) -> Response[dict[str, Any]]:
    """Erase the user whom the body names."""
    try:
        body = msgspec.json.decode(await read_json_body(request, _BODY_BYTES_MAX), type=EraseBody)
    except msgspec.ValidationError as error:
        raise bad_parameter("userId", str(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Problem(400, f"the body is not JSON: {error}") from error
    return await _erase(request, body.user_id)


@get("/api/erasures/{erasure_id:str}", summary="How far an erasure is", tags=["users"], opt=needs("admin"))
async def get_erasure(request: Request[Any, Any, Any], erasure_id: str) -> dict[str, Any]:
    """Answer with the receipt."""
    store: Store = request.app.state.store
    found = await asyncio.to_thread(store.erasure, erasure_id)
    if found is None:
        raise Problem(404, "there is no such erasure")
    return _receipt(request, found)


@get("/api/erasures", summary="The newest erasures", tags=["users"], opt=needs("admin"))
async def list_erasures(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Answer with receipts, newest first."""
    store: Store = request.app.state.store
    found = await asyncio.to_thread(lambda: store.erasures(limit=_LISTED_MAX))
    return {"erasures": [_receipt(request, one) for one in found]}
