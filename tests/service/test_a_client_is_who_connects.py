"""Shares are of the address that connects, whatever the head of a request says of others."""

from __future__ import annotations

import asyncio
from typing import Any

from uvicorn.server import ServerState

from service.connections import BoundedProtocol
from service.server import _config
from service.settings import Settings

PEER = ("127.0.0.1", 5000)
REQUEST = b"GET / HTTP/1.1\r\nhost: x\r\nx-forwarded-for: 192.0.2.7\r\nx-forwarded-proto: https\r\n\r\n"


class Peer(asyncio.Transport):
    """A connection from `PEER`, which takes no interest in what it is answered."""

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return {"peername": PEER, "sockname": ("127.0.0.1", 8080)}.get(name, default)

    def write(self, data: Any) -> None:
        """Pass it over."""

    def close(self) -> None:
        """There is nothing to close."""

    def is_closing(self) -> bool:
        return False

    def resume_reading(self) -> None:
        """Nothing is read."""


def test_who_is_named_in_the_head_is_not_the_client() -> None:
    seen: list[Any] = []

    async def app(scope: Any, _: Any, send: Any) -> None:
        seen.append((scope["client"], scope["scheme"]))
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def serve() -> None:
        config = _config(Settings(), app)
        config.load()
        state = ServerState()
        protocol = BoundedProtocol(config=config, server_state=state, app_state={})
        protocol.connection_made(Peer())
        protocol.data_received(REQUEST)
        while state.tasks:
            await asyncio.gather(*state.tasks)
        protocol.connection_lost(None)

    asyncio.run(serve())
    assert seen == [(PEER, "http")]
