"""GET /api/config: what is in force, where each value is from, and what the settings file has that is not."""

from __future__ import annotations

import datetime
from typing import Any

import msgspec
from litestar import Request, get

from service.clients import needs
from service.live_settings import InForce, LiveSettings
from service.settings import LIVE, Settings


@get("/api/config", summary="The settings in force, and where each is from", tags=["operation"], opt=needs("admin"))
async def configuration(request: Request[Any, Any, Any]) -> dict[str, Any]:
    """Settings by name: value, source (default, file, environment or flag), whether it is live, when it changed.

    `error` says why the file, as it is now, is not followed; `needsRestart` holds values of the file that take effect
    with the next start.
    """
    live: LiveSettings = request.app.state.live
    return describe(live.in_force, live.sources.config)


def describe(in_force: InForce, file: str) -> dict[str, Any]:
    """What the route answers."""
    settings: dict[str, Any] = {}
    for name in Settings.__struct_fields__:
        changed = in_force.changed_at_us.get(name)
        settings[name] = {
            "value": msgspec.to_builtins(getattr(in_force.settings, name)),
            "source": in_force.origins[name],
            "live": name in LIVE,
            "changedAt": None if changed is None else _iso(changed),
        }
    return {
        "file": file,
        "valid": in_force.error is None,
        "error": in_force.error,
        "changedAt": _iso(max(in_force.changed_at_us.values())) if in_force.changed_at_us else None,
        "needsRestart": {name: msgspec.to_builtins(value) for name, value in in_force.needs_restart.items()},
        "settings": settings,
    }


def _iso(time_us: int) -> str:
    moment = datetime.datetime.fromtimestamp(time_us / 1_000_000, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")
