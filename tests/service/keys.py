"""Keys for tests, made beside a running service as `actionlake keys` makes them."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import httpx

from queries.athena.sigv4 import derive_secret
from storage.access_keys import SCOPES, KeyFile, NewKey, Scope
from storage.paths import StorePaths
from tests.service.running_service import RunningService

ALLOWED_ORIGIN: Final = "https://app.example"


def now_us() -> int:
    return time.time_ns() // 1_000


class Keys:
    """The keys of a folder: one that may do everything, and whatever a test makes."""

    def __init__(self, data: Path) -> None:
        self.file = KeyFile(StorePaths.of(data))
        self.all = self.create(*SCOPES)

    def create(self, *scopes: Scope, user_prefix: str | None = None, expired: bool = False) -> NewKey:
        """Make a key, one that holds or one that held until a second ago."""
        expires = now_us() - 1_000_000 if expired else None
        return self.file.create("test", scopes, now_us=now_us(), user_prefix=user_prefix, expires_at_us=expires)

    def revoked(self, *scopes: Scope) -> NewKey:
        """Make a key and revoke it."""
        made = self.create(*scopes)
        assert self.file.revoke(made.kept.id) is not None
        return made

    def signing_secret(self, key: NewKey) -> str:
        """What requests to the Athena API are signed with."""
        return derive_secret(self.file.master_key(), key.kept.id)


def reached_at(running: RunningService) -> str:
    """The address to reach a service at that is bound to all addresses."""
    return running.url.replace("0.0.0.0", "127.0.0.1")  # noqa: S104 - it is not bound here


@dataclass(frozen=True)
class KeyedService:
    """A running service that asks for keys."""

    running: RunningService
    keys: Keys
    client: httpx.Client

    @property
    def url(self) -> str:
        return reached_at(self.running)

    def call(self, method: str, path: str, key: NewKey | str | None, **more: Any) -> httpx.Response:
        """Send a request with a key, or with any other `Authorization`, or without."""
        headers = dict(more.pop("headers", {}))
        if key is not None:
            headers["authorization"] = key if isinstance(key, str) else f"Bearer {key.key}"
        return self.client.request(method, path, headers=headers, **more)

    def submit(self, body: Any, key: NewKey | str | None = None, **headers: str) -> httpx.Response:
        """Submit one submission, with the key of all scopes unless another is given."""
        return self.call("POST", "/api/submitlogs", key or self.keys.all, json=body, headers=headers)

    def flush(self) -> None:
        assert self.call("POST", "/api/flush", self.keys.all).status_code == 200
