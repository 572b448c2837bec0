"""Who sends a request, and what it may do.

`service.gate` finds out who it is and leaves a `Client` with the request; `client_of` reads it there, in a handler of
the framework as well as in plain ASGI. Each route declares its scope beside itself (`@get(…, opt=needs("retrieve"))`),
and one that declares nothing needs `admin`: nothing is open by omission.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Final, Literal, cast

from litestar import Litestar
from litestar.connection import ASGIConnection
from litestar.handlers import BaseRouteHandler
from litestar.routes import HTTPRoute
from litestar.types import Scope as AsgiScope

from service.problems import ParameterError, Problem
from storage.access_keys import SCOPES, Scope

# What a route declares that anybody may use.
OPEN: Final = "open"
Need = Scope | Literal["open"]
DEFAULT_NEED: Final[Scope] = "admin"

_OPT: Final = "actionlake_access"
# The handler itself asks who it is, since it takes more than the headers to tell.
_OPT_IN_HANDLER: Final = "actionlake_access_in_handler"
_ASGI_KEY: Final = "actionlake.client"


@dataclass(frozen=True, slots=True)
class Refusal:
    """Why a request is nobody's: the answer that it gets where somebody is needed.

    Attributes:
        status: 401, or 503 where the keys cannot be read.
        detail: for a person.
        error: for `WWW-Authenticate`, as RFC 6750 names it; None where no key was sent.
    """

    status: int
    detail: str
    error: str | None = None

    def problem(self) -> Problem:
        """The answer."""
        if self.status != 401:
            return Problem(self.status, self.detail, headers={"retry-after": "30"})
        more = f', error="{self.error}"' if self.error is not None else ""
        return Problem(401, self.detail, headers={"www-authenticate": f'Bearer realm="actionlake"{more}'})


@dataclass(frozen=True, slots=True)
class Client:
    """Who sends a request.

    Attributes:
        name: the same for all requests of one client, for fair shares and logs: `key <id>`, or the address.
        scopes: what it may do.
        key_id: of its key; None without one.
        user_prefix: it may see and submit only users whose id begins so; None for all.
        refusal: why it has no scope at all; None if it has some.
    """

    name: str
    scopes: frozenset[Scope]
    key_id: str | None = None
    user_prefix: str | None = None
    refusal: Refusal | None = None

    def require(self, scope: Scope) -> None:
        """Let the client pass if it has *scope*.

        Raises:
            Problem: 401 for nobody, 403 naming the scope that is missing, 503 if the keys cannot be read.
        """
        if scope in self.scopes:
            return
        if self.refusal is not None:
            raise self.refusal.problem()
        challenge = f'Bearer realm="actionlake", error="insufficient_scope", scope="{scope}"'
        message = f"this key lacks the scope {scope}"
        raise Problem(403, message, headers={"www-authenticate": challenge}, members={"scope": scope})

    def require_users(self, user_ids: Iterable[str | None], parameter: str = "userId") -> None:
        """Let the client pass if it may act for these users; None stands for a line that names none.

        Raises:
            Problem: 403, naming a user that is not the client's.
        """
        if self.user_prefix is None:
            return
        for user_id in user_ids:
            if user_id is not None and not user_id.startswith(self.user_prefix):
                message = f"this key is for users that begin with {self.user_prefix!r}, and {user_id!r} does not"
                raise Problem(403, message, [ParameterError(parameter, message)])


def needs(need: Need, *, checked_in_handler: bool = False) -> dict[str, Any]:
    """Declare what a route needs, as the `opt` of its decorator.

    Args:
        need: a scope, or `OPEN`.
        checked_in_handler: the handler checks it, since it takes the body to tell who sends the request.
    """
    return {_OPT: need, _OPT_IN_HANDLER: checked_in_handler}


def declared_needs(app: Litestar, plain_routes: Mapping[str, tuple[str, Scope]]) -> dict[tuple[str, str], Need | None]:
    """What each route needs by its method and path, None where it declares nothing.

    Args:
        app: the framework's application.
        plain_routes: the routes that do not go through it by their paths, each with its method and scope.
    """
    declared: dict[tuple[str, str], Need | None] = {
        (method, path): scope for path, (method, scope) in plain_routes.items()
    }
    for route in app.routes:
        if isinstance(route, HTTPRoute):
            for handler in route.route_handlers:
                for method in handler.http_methods:
                    # The framework's own answer to OPTIONS declares nothing; nobody needs it.
                    if method != "OPTIONS":
                        declared[(method, route.path_format)] = handler.opt.get(_OPT)
    return declared


async def check_scope(connection: ASGIConnection[Any, Any, Any, Any], handler: BaseRouteHandler) -> None:
    """A guard for every route: lets pass who has the scope that the route declares, `admin` if it declares none.

    Raises:
        Problem: as `Client.require`.
    """
    need: Need = handler.opt.get(_OPT, DEFAULT_NEED)
    if need == OPEN or handler.opt.get(_OPT_IN_HANDLER):
        return
    client_of(connection.scope).require(need)


def client_of(scope: AsgiScope) -> Client:
    """Who sends the request of *scope*.

    Raises:
        KeyError: the request did not come through the gate.
    """
    client: Client = cast("dict[str, Any]", scope)[_ASGI_KEY]
    return client


def set_client(scope: AsgiScope, client: Client) -> None:
    """Say who sends the request of *scope*."""
    cast("dict[str, Any]", scope)[_ASGI_KEY] = client


ALL_SCOPES: Final = frozenset(SCOPES)
NO_SCOPES: Final[frozenset[Scope]] = frozenset()
