"""Sends an answer's chunk in parts, as they lie in memory, where the server below can.

To put the parts of a chunk together costs about as much as the kernel takes to send it, and the server would put its
length before it and what ends it behind, which is once more. A transport takes many parts at once and copies none.
"""

from __future__ import annotations

import weakref
from collections.abc import Sequence
from typing import Any, Final, cast

from litestar.types import Message, Scope, Send
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from queries.formats import Piece

_EXTENSION: Final = "actionlake.parts"


def offer_parts(cycle: RequestResponseCycle) -> None:
    """Let the application of *cycle*, which has not begun yet, send its answer by `PartsSend`."""
    scope = cast("dict[str, Any]", cycle.scope)
    # Weak, since the cycle has the scope: each request would wait for the garbage collector.
    scope.setdefault("extensions", {})[_EXTENSION] = weakref.ref(cycle)


class PartsSend:
    """What an application sends its answer with, and in addition a chunk of its body in parts.

    Args:
        scope: of the request.
        send: what the application was given.
    """

    def __init__(self, scope: Scope, send: Send) -> None:
        extensions = cast("dict[str, Any]", scope.get("extensions") or {})
        offered: weakref.ref[RequestResponseCycle] | None = extensions.get(_EXTENSION)
        self._cycle = None if offered is None else offered()
        self._send = send

    async def __call__(self, message: Message) -> None:
        """Send as usual."""
        await self._send(message)

    async def chunk(self, parts: Sequence[Piece]) -> None:
        """Send a chunk of the body, of which the head was sent already, and to which more is to come.

        *parts* must not change until they are sent, which may be later.
        """
        cycle = self._cycle
        size = sum(map(len, parts))
        if cycle is None or not cycle.chunked_encoding or not size:
            await self._send({"type": "http.response.body", "body": b"".join(parts), "more_body": True})
            return
        # As the server itself does it.
        if cycle.flow.write_paused and not cycle.disconnected:
            await cycle.flow.drain()
        if not cycle.disconnected:
            cycle.transport.writelines([b"%x\r\n" % size, *parts, b"\r\n"])
