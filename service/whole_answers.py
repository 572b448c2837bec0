"""The head of an answer of known length leaves together with its body, or with the first part of that.

The server below writes one after the other. That is two calls of the system and two packets for an answer of a hundred
bytes, and wakes the client twice: a sixth of what a submission of 100 actions costs beside its parsing.
"""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn._types import ASGISendEvent, HTTPResponseStartEvent
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle


class WholeAnswer(RequestResponseCycle):
    """A request and its answer, whose head waits for what comes after it, unless that is a stream.

    An application that fails between the two is answered 500, since nothing has left yet.
    """

    _start: HTTPResponseStartEvent | None = None

    @classmethod
    def take_over(cls, cycle: RequestResponseCycle) -> None:
        """Let a request that the server below has made, and not begun to answer, be answered so."""
        cycle.__class__ = cls

    async def send(self, message: ASGISendEvent) -> None:
        """Take one message of the application."""
        if message["type"] == "http.response.start" and not self.response_started and _has_length(message):
            self._start = message
            return
        start, self._start = self._start, None
        if start is None:
            await super().send(message)
            return
        transport = self.transport
        kept = _Kept(transport)
        self.transport = cast(asyncio.Transport, kept)
        try:
            await super().send(start)
            await super().send(message)
        finally:
            self.transport = transport
            kept.let_go()


def _has_length(start: HTTPResponseStartEvent) -> bool:
    return any(name == b"content-length" for name, _ in start.get("headers", ()))


class _Kept:
    """Stands in for a transport, of which it has what a `RequestResponseCycle` uses, and keeps what is written."""

    __slots__ = ("_parts", "_transport")

    def __init__(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        self._parts: list[bytes] = []

    def write(self, part: bytes) -> None:
        self._parts.append(part)

    def is_closing(self) -> bool:
        return self._transport.is_closing()

    def close(self) -> None:
        self.let_go()
        self._transport.close()

    def let_go(self) -> None:
        """Write what was kept, at once."""
        if self._parts:
            self._transport.write(b"".join(self._parts))
            self._parts = []
