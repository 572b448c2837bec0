"""The gate: every request passes it, and leaves it with a `Client` that says who sends it.

Whether a client may do what it asks is not decided here but at the route (`service.clients`). Without keys the gate
lets in programs of this machine and no web page (`service.access`); with keys it reads the key of each request.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Final

from litestar.enums import ScopeType
from litestar.types import ASGIApp, Receive, Scope, Send

from service.access import LoopbackOnly, send_problem
from service.clients import ALL_SCOPES, Client, Need, set_client
from service.cors import Cors
from service.keyring import Keyring
from service.problems import Problem

_CLIENTS_MAX: Final = 1024


class Gate:
    """ASGI middleware around the whole service.

    Args:
        app: what is behind it.
        keyring: the keys.
        cors: the pages that may read answers once there are keys.
        insecure: without keys, let in whoever reaches the port.
        routes: what is behind it, by method and path, and what each route declares that it needs; to be asked for.
    """

    def __init__(
        self,
        app: ASGIApp,
        keyring: Keyring,
        cors: Cors,
        *,
        insecure: bool,
        routes: Mapping[tuple[str, str], Need | None] = MappingProxyType({}),
    ) -> None:
        self.app = app
        self.routes = routes
        self._keyring = keyring
        self._cors = cors
        self._loopback_only = None if insecure else LoopbackOnly()
        self._by_address: dict[str, Client] = {}
        # Whether keys are demanded, as long as requests run that had all arrived before that was looked up.
        self._demands: bool | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on with its client, or answer it where it must not come in at all."""
        if scope["type"] != ScopeType.HTTP:
            await self.app(scope, receive, send)
            return
        host = origin = authorization = None
        for name, value in scope["headers"]:
            if name == b"authorization":
                # Two of them are no key: what is before the gate might have looked at the other one.
                authorization = value if authorization is None else b""
            elif name == b"host":
                host = value
            elif name == b"origin":
                origin = value
        address = scope["client"][0] if scope["client"] else ""
        try:
            if self._demands_keys():
                set_client(scope, self._keyring.bearer(authorization, address))
                if origin is not None:
                    if _is_preflight(scope):
                        await self._cors.answer_preflight(send, origin)
                        return
                    send = self._cors.letting_read(send, origin)
            else:
                if self._loopback_only is not None:
                    refusal = self._loopback_only.refusal(host, origin)
                    if refusal is not None:
                        raise refusal
                set_client(scope, self._at(address))
        except Problem as problem:
            await send_problem(send, problem)
            return
        await self.app(scope, receive, send)

    def _demands_keys(self) -> bool:
        """Whether a request needs a key, by a look at the keys' file after it has arrived.

        The event loop reads all connections that have something before it goes on with any of their requests, so that
        these share one look.
        """
        demands = self._demands
        if demands is None:
            demands = self._demands = self._keyring.demands_keys()
            asyncio.get_running_loop().call_soon(self._look_again)
        return demands

    def _look_again(self) -> None:
        self._demands = None

    def _at(self, address: str) -> Client:
        """The client without a key at an address."""
        client = self._by_address.get(address)
        if client is None:
            if len(self._by_address) >= _CLIENTS_MAX:
                self._by_address.clear()
            client = self._by_address[address] = Client(address, ALL_SCOPES)
        return client


def _is_preflight(scope: Any) -> bool:
    return scope["method"] == "OPTIONS" and any(
        name == b"access-control-request-method" for name, _ in scope["headers"]
    )
