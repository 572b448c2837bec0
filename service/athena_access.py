"""Who sends a request to the Athena API: the holder of a key, by AWS's signature or by the key itself.

Refusals have the shapes and names that AWS's clients know. A request that was overheard can be sent again within the
15 minutes that a signature holds, as with AWS itself; over a network, serve through TLS.
"""

from __future__ import annotations

import datetime
import logging
from collections.abc import Mapping

from litestar.types import HTTPScope

from queries.athena.sigv4 import SignatureError, verify
from service.clients import Client, client_of
from service.keyring import Keyring
from service.problems import Problem
from storage.access_keys import Scope
from storage.errors import CorruptData

_SCOPE: Scope = "sql"

_log = logging.getLogger("actionlake.access")


class AthenaRefusal(Exception):
    """The request is refused, in Athena's shape.

    Attributes:
        status: the HTTP status.
        answer: the JSON object.
    """

    def __init__(self, status: int, exception_type: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.answer: dict[str, object] = {"__type": exception_type, "Message": message, "message": message}


def athena_headers(scope: HTTPScope) -> dict[str, str]:
    """The headers by their names in lower case; one that is sent several times is joined, as a signature covers it."""
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key, text = name.decode("latin-1").lower(), value.decode("latin-1")
        headers[key] = f"{headers[key]},{text}" if key in headers else text
    return headers


def is_signed(headers: Mapping[str, str]) -> bool:
    """Whether the request claims to be signed as AWS's clients sign."""
    return headers.get("authorization", "").lower().startswith("aws4-hmac-sha256 ")


def check_bearer(client: Client, operation: str) -> None:
    """Let a client pass that sends its key, or that needs none.

    Raises:
        AthenaRefusal: it sends no key, a wrong one, or one without the scope `sql`.
    """
    try:
        client.require(_SCOPE)
    except Problem as problem:
        raise _as_athena_says(client, problem, operation) from problem


def check_signature(
    scope: HTTPScope, headers: Mapping[str, str], body: bytes, keyring: Keyring, operation: str
) -> None:
    """Let a signed request pass.

    Raises:
        AthenaRefusal: it is not signed by the secret of a key that has the scope `sql`.
    """
    if client_of(scope).refusal is None:
        return  # without keys any signature is taken, as any request is
    # The body may have taken its time; the keys may have changed meanwhile.
    keyring.demands_keys()
    if keyring.damage is not None:
        raise _unreadable()
    try:
        key_id = verify(
            method=scope["method"],
            path=scope["raw_path"].decode("latin-1"),
            query=scope["query_string"].decode("latin-1"),
            headers=headers,
            body=body,
            secret_of=keyring.signing_secret,
            now=datetime.datetime.now(datetime.UTC),
        )
    except SignatureError as error:
        raise AthenaRefusal(400, error.exception_type, str(error)) from error
    except CorruptData as error:
        _log.error("%s", error)
        raise _unreadable() from error
    found = keyring.signer(key_id)
    assert found is not None, "its secret was there"
    client, expired = found
    if expired:
        raise AthenaRefusal(400, "ExpiredTokenException", "The security token included in the request is expired")
    check_bearer(client, operation)


def _as_athena_says(client: Client, problem: Problem, operation: str) -> AthenaRefusal:
    if problem.status == 503:
        return _unreadable()
    if client.refusal is None:
        who = f"User: {client.name} is not authorized to perform: athena:{operation}"
        return AthenaRefusal(400, "AccessDeniedException", f"{who}; its key lacks the scope {_SCOPE}")
    if client.refusal.error is None:
        return AthenaRefusal(400, "MissingAuthenticationTokenException", "Missing Authentication Token")
    return AthenaRefusal(400, "UnrecognizedClientException", "The security token included in the request is invalid.")


def _unreadable() -> AthenaRefusal:
    return AthenaRefusal(503, "ServiceUnavailableException", "the service cannot read its keys; its log says why")
