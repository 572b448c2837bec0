"""AWS Signature Version 4: is this request signed with the secret of the key that it names?

Only what the standard library has is used. The header form is verified, which is what SDKs send; a presigned URL is
refused.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
import re
import urllib.parse
from collections.abc import Callable, Mapping
from typing import Final

SKEW_S_MAX: Final = 900
_ALGORITHM: Final = "AWS4-HMAC-SHA256"
_SERVICE: Final = "athena"
_AUTHORIZATION: Final = re.compile(
    r"AWS4-HMAC-SHA256\s+Credential=([^/,\s]+)/(\d{8})/([^/,\s]+)/([^/,\s]+)/aws4_request,\s*"
    r"SignedHeaders=([a-z0-9;_-]+),\s*Signature=([0-9a-f]{64})"
)
# Without these, and all `x-amz-*`, a signature would say nothing about the request that carries it.
_REQUIRED_HEADERS: Final = ("host", "x-amz-date")
# Compared against when there is no such key, so that its absence takes as long as a wrong secret.
_NO_SECRET: Final = "no such key"  # noqa: S105 (nobody can sign with it: no key has it)


class SignatureError(Exception):
    """The request is not signed, or not by the key that it names.

    Attributes:
        exception_type: Athena's name of the error, for `__type`.
    """

    def __init__(self, message: str, exception_type: str = "UnrecognizedClientException") -> None:
        super().__init__(message)
        self.exception_type = exception_type

    def body(self) -> dict[str, object]:
        """The JSON object that AWS clients expect, with status 400."""
        return {"__type": self.exception_type, "Message": str(self), "message": str(self)}


def verify(
    *,
    method: str,
    path: str,
    query: str,
    headers: Mapping[str, str],
    body: bytes,
    secret_of: Callable[[str], str | None],
    now: datetime.datetime,
) -> str:
    """The access key id that signed the request.

    Args:
        method: the HTTP method.
        path: the path as it was sent, still escaped.
        query: what came after the `?`, without it; empty if there was none.
        headers: the request's headers; names in any case.
        body: the request's body.
        secret_of: the secret of an access key id, None if there is no such key.
        now: the time, with a zone.

    Raises:
        SignatureError: the request is not signed, is signed by another secret or for another service, was changed
            after it was signed, or is more than 15 minutes old or ahead.
    """
    lowered = {name.lower(): value for name, value in headers.items()}
    authorization = lowered.get("authorization")
    if authorization is None:
        raise SignatureError("Request is missing Authentication Token", "MissingAuthenticationTokenException")
    match = _AUTHORIZATION.fullmatch(authorization.strip())
    if match is None:
        raise SignatureError("Authorization header is not AWS4-HMAC-SHA256", "IncompleteSignatureException")
    access_key_id, day, region, service, names, signature = match.groups()
    signed = names.split(";")
    amazon = (name for name in lowered if name.startswith("x-amz-"))
    missing = [name for name in (*_REQUIRED_HEADERS, *amazon, *signed) if name not in lowered or name not in signed]
    if missing:
        raise SignatureError(f"'{missing[0]}' must be a signed header", "IncompleteSignatureException")
    stamp = lowered["x-amz-date"]
    _check_time(stamp, day, now)
    if service != _SERVICE:
        raise SignatureError(f"Credential should be scoped to service: '{_SERVICE}'", "InvalidSignatureException")
    canonical = "\n".join(
        [
            method.upper(),
            _canonical_path(path),
            _canonical_query(query),
            *(f"{name}:{' '.join(lowered[name].split())}" for name in signed),
            "",
            names,
            hashlib.sha256(body).hexdigest(),
        ]
    )
    scope = f"{day}/{region}/{service}/aws4_request"
    to_sign = "\n".join([_ALGORITHM, stamp, scope, hashlib.sha256(canonical.encode()).hexdigest()])
    secret = secret_of(access_key_id)
    expected = _signature(secret if secret is not None else _NO_SECRET, day, region, service, to_sign)
    is_right = hmac.compare_digest(expected, signature)
    if secret is None:
        raise SignatureError("The security token included in the request is invalid.")
    if not is_right:
        raise SignatureError(
            "The request signature we calculated does not match the signature you provided.",
            "InvalidSignatureException",
        )
    return access_key_id


def _check_time(stamp: str, day: str, now: datetime.datetime) -> None:
    try:
        signed_at = datetime.datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.UTC)
    except ValueError:
        raise SignatureError("X-Amz-Date must be YYYYMMDDTHHMMSSZ", "IncompleteSignatureException") from None
    if stamp[:8] != day:
        raise SignatureError("Date in Credential scope does not match X-Amz-Date", "InvalidSignatureException")
    if abs((now - signed_at).total_seconds()) > SKEW_S_MAX:
        raise SignatureError(f"Signature expired or not yet current: {stamp}", "InvalidSignatureException")


def _canonical_path(path: str) -> str:
    # Every service but S3 escapes the path once more than it is sent.
    return urllib.parse.quote(path or "/", safe="/-_.~")


def _canonical_query(query: str) -> str:
    if not query:
        return ""
    pairs = [part.partition("=")[::2] for part in query.split("&") if part]
    escaped = sorted(
        (
            urllib.parse.quote(urllib.parse.unquote(k), safe="-_.~"),
            urllib.parse.quote(urllib.parse.unquote(v), safe="-_.~"),
        )
        for k, v in pairs
    )
    return "&".join(f"{k}={v}" for k, v in escaped)


def _signature(secret: str, day: str, region: str, service: str, to_sign: str) -> str:
    key = f"AWS4{secret}".encode()
    for part in (day, region, service, "aws4_request"):
        key = hmac.digest(key, part.encode(), "sha256")
    return hmac.digest(key, to_sign.encode(), "sha256").hex()


def derive_secret(master_key: bytes, access_key_id: str) -> str:
    """The secret of an access key: the same for the same key as long as the master key is the same.

    Raises:
        ValueError: the master key has fewer than 32 bytes.
    """
    if len(master_key) < 32:
        raise ValueError("the master key must have at least 32 bytes")
    return base64.urlsafe_b64encode(hmac.digest(master_key, access_key_id.encode(), "sha256")).decode().rstrip("=")
