"""Who may talk to a service without keys: programs on this machine, and no web page by the back door.

A page from anywhere can make a browser send requests to a loopback address. Three things keep it out: the `Host` must
be a loopback name (a rebound DNS name is not), an `Origin` of another site is refused, and a POST needs its declared
content type, which no plain form can send. There is no CORS.
"""

from __future__ import annotations

import ipaddress
from typing import Final
from urllib.parse import urlsplit

from litestar.types import Send

from service.problems import MEDIA_TYPE, Problem

_LOOPBACK_NAMES: Final = frozenset({"localhost", "localhost.localdomain", "ip6-localhost"})
_KNOWN_MAX: Final = 1024


def is_loopback(host: str) -> bool:
    """Tell whether *host*, a name or an address without port, means this machine."""
    if host.lower().rstrip(".") in _LOOPBACK_NAMES:
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


class LoopbackOnly:
    """Tells the requests that a browser was made to send from those of programs on this machine."""

    def __init__(self) -> None:
        # Checked headers are few and repeat with every request of a client.
        self._known_good: set[tuple[bytes | None, bytes | None]] = set()

    def refusal(self, host: bytes | None, origin: bytes | None) -> Problem | None:
        """The answer to a request with these headers, 421 or 403; None if it may pass."""
        if (host, origin) in self._known_good:
            return None
        problem = _refusal(host, origin)
        if problem is None and len(self._known_good) < _KNOWN_MAX:
            self._known_good.add((host, origin))
        return problem


def _refusal(host: bytes | None, origin: bytes | None) -> Problem | None:
    name = urlsplit("//" + (host or b"").decode("latin-1")).hostname
    if name is None or not is_loopback(name):
        return Problem(421, "without keys the service answers only to a loopback name in Host")
    if origin is not None:
        site = urlsplit(origin.decode("latin-1"))
        if (
            site.hostname is None
            or not is_loopback(site.hostname)
            or f"{site.netloc}" != (host or b"").decode("latin-1")
        ):
            return Problem(403, "requests from pages of another origin are refused")
    return None


async def send_problem(send: Send, problem: Problem) -> None:
    """Answer with a problem, from plain ASGI."""
    body = problem.body()
    headers = [(b"content-type", MEDIA_TYPE.encode()), (b"content-length", str(len(body)).encode())]
    headers += [(name.lower().encode(), value.encode()) for name, value in problem.headers.items()]
    await send({"type": "http.response.start", "status": problem.status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})
