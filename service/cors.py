"""Which web pages may read answers: CORS for the origins that the configuration names, once there are keys.

A page of another origin cannot send a key without the browser asking here first, and nothing else but a key lets
anybody in: no cookie is looked at, so that `Access-Control-Allow-Credentials` is never sent, and `*` is safe.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Any, Final

from litestar.types import Message, Send

from service.problems import Problem

ANY_ORIGIN: Final = "*"
_METHODS: Final = b"GET, POST, PUT, PATCH, DELETE"
_REQUEST_HEADERS: Final = (
    b"authorization, content-type, content-encoding, idempotency-key, accept,"
    b" x-amz-target, x-amz-date, x-amz-content-sha256, x-amz-user-agent, amz-sdk-invocation-id, amz-sdk-request"
)
_ANSWER_HEADERS: Final = (
    b"actionlake-scanned-files, actionlake-total-files, actionlake-scanned-bytes, server-timing, retry-after,"
    b" www-authenticate, x-amzn-requestid"
)
_PREFLIGHT_AGE_S: Final = b"600"


class Cors:
    """Answers for the pages of some origins.

    Args:
        allowed_origins: tells which, as they are configured now.
    """

    def __init__(self, allowed_origins: Callable[[], Collection[str]]) -> None:
        self._allowed_origins = allowed_origins

    def allows(self, origin: bytes) -> bool:
        """Whether pages of *origin* may read answers."""
        allowed = self._allowed_origins()
        return ANY_ORIGIN in allowed or origin.decode("latin-1") in allowed

    async def answer_preflight(self, send: Send, origin: bytes) -> None:
        """Tell a browser what a page may send.

        Raises:
            Problem: 403, the page's origin is not configured.
        """
        if not self.allows(origin):
            raise Problem(403, "pages of this origin are not in cors_allowed_origins")
        headers = [
            *self._headers(origin),
            (b"access-control-allow-methods", _METHODS),
            (b"access-control-allow-headers", _REQUEST_HEADERS),
            (b"access-control-max-age", _PREFLIGHT_AGE_S),
        ]
        await send({"type": "http.response.start", "status": 204, "headers": headers})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    def letting_read(self, send: Send, origin: bytes) -> Send:
        """A `send` that lets a page of *origin* read the answer; *send* itself if it may not."""
        if not self.allows(origin):
            return send

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = [*message.get("headers", ()), *self._headers(origin)]
                headers.append((b"access-control-expose-headers", _ANSWER_HEADERS))
                changed: Any = {**message, "headers": headers}
                await send(changed)
            else:
                await send(message)

        return send_with_headers

    @staticmethod
    def _headers(origin: bytes) -> list[tuple[bytes, bytes]]:
        return [(b"access-control-allow-origin", origin), (b"vary", b"origin")]
