"""A request is taken for that of an access key only if AWS's own client signed it, unchanged, just now."""

from __future__ import annotations

import base64
import datetime
import hashlib
import hmac
from dataclasses import dataclass, replace

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

from queries.athena.sigv4 import SignatureError, derive_secret, verify

KEY = "AKEXAMPLE"
SECRET = derive_secret(b"m" * 32, KEY)


@dataclass(frozen=True)
class Signed:
    """A signed request, as the service receives it."""

    headers: dict[str, str]
    method: str = "POST"
    path: str = "/"
    query: str = ""
    body: bytes = b'{"QueryString": "SELECT 1"}'

    def verify(self, *, at: datetime.datetime | None = None, secrets: dict[str, str] | None = None) -> str:
        return verify(
            method=self.method,
            path=self.path,
            query=self.query,
            headers=self.headers,
            body=self.body,
            secret_of=(secrets if secrets is not None else {KEY: SECRET}).get,
            now=at or datetime.datetime.now(datetime.UTC),
        )

    def changed(self, **headers: str) -> Signed:
        return replace(self, headers={**self.headers, **{k.replace("_", "-"): v for k, v in headers.items()}})


def signed(
    *,
    secret: str = SECRET,
    path: str = "/",
    query: str = "",
    service: str = "athena",
    headers: dict[str, str] | None = None,
) -> Signed:
    """What botocore sends."""
    body = Signed({}).body
    sent = {
        "Host": "actions.example:8080",
        "X-Amz-Target": "AmazonAthena.StartQueryExecution",
        "Content-Type": "application/x-amz-json-1.1",
        **(headers or {}),
    }
    url = f"http://actions.example:8080{path}{'?' + query if query else ''}"
    request = AWSRequest("POST", url, headers=sent, data=body)
    SigV4Auth(Credentials(KEY, secret), service, "eu-central-1").add_auth(request)
    return Signed(dict(request.headers.items()), path=path, query=query)


@pytest.mark.parametrize("query", ["", "a=1", "b=2&a=1", "a=%20x&a=b", "x=a%2Fb&empty="])
@pytest.mark.parametrize("path", ["/", "/athena", "/a%20b/c"])
def test_what_botocore_signs_is_accepted(path: str, query: str) -> None:
    assert signed(path=path, query=query).verify() == KEY


def test_headers_may_be_in_any_case_and_with_any_spaces() -> None:
    request = signed(headers={"X-Amz-Meta": "a  b   c"})
    assert replace(request, headers={k.upper(): v for k, v in request.headers.items()}).verify() == KEY
    assert request.changed(X_Amz_Meta=" a b c ").verify() == KEY


@pytest.mark.parametrize(
    "tampered",
    [
        replace(signed(), body=b'{"QueryString": "SELECT 2"}'),
        replace(signed(), body=b""),
        replace(signed(), method="GET"),
        replace(signed(), path="/other"),
        replace(signed(), query="a=1"),
        replace(signed(query="a=1"), query="a=2"),
        signed().changed(X_Amz_Target="AmazonAthena.DeletePreparedStatement"),
        signed().changed(Host="other.example"),
        signed(secret=SECRET + "x"),
        signed(secret=""),
    ],
)
def test_a_request_that_was_changed_is_refused(tampered: Signed) -> None:
    with pytest.raises(SignatureError) as raised:
        tampered.verify()
    assert raised.value.exception_type == "InvalidSignatureException"
    assert raised.value.body()["__type"] == "InvalidSignatureException"


@pytest.mark.parametrize("place", range(64))
def test_every_digit_of_the_signature_counts(place: int) -> None:
    request = signed()
    start, _, signature = request.headers["Authorization"].rpartition("=")
    digit = "0" if signature[place] != "0" else "1"
    with pytest.raises(SignatureError):
        request.changed(Authorization=f"{start}={signature[:place]}{digit}{signature[place + 1 :]}").verify()


@pytest.mark.parametrize(("seconds", "accepted"), [(0, True), (890, True), (-890, True), (910, False), (-910, False)])
def test_a_signature_holds_for_fifteen_minutes(seconds: int, accepted: bool) -> None:
    request = signed()
    at = datetime.datetime.now(datetime.UTC) + datetime.timedelta(seconds=seconds)
    if accepted:
        assert request.verify(at=at) == KEY
        return
    with pytest.raises(SignatureError, match="expired or not yet current"):
        request.verify(at=at)


def test_an_unknown_key_is_refused_like_a_wrong_one() -> None:
    with pytest.raises(SignatureError) as raised:
        signed().verify(secrets={})
    assert raised.value.exception_type == "UnrecognizedClientException"


def test_nobody_can_sign_with_the_secret_of_no_key() -> None:
    for guess in ("no such key", "", "None"):
        with pytest.raises(SignatureError):
            signed(secret=guess).verify(secrets={})


@pytest.mark.parametrize(
    ("authorization", "name"),
    [
        (None, "MissingAuthenticationTokenException"),
        ("Bearer abc", "IncompleteSignatureException"),
        ("AWS4-HMAC-SHA256 Credential=a/b", "IncompleteSignatureException"),
        ("", "IncompleteSignatureException"),
    ],
)
def test_a_request_without_a_signature_is_refused(authorization: str | None, name: str) -> None:
    request = signed()
    headers = {k: v for k, v in request.headers.items() if k != "Authorization"}
    if authorization is not None:
        headers["Authorization"] = authorization
    with pytest.raises(SignatureError) as raised:
        replace(request, headers=headers).verify()
    assert raised.value.exception_type == name


@pytest.mark.parametrize("header", ["host", "x-amz-date"])
def test_a_signature_must_cover_host_and_date(header: str) -> None:
    request = signed()
    authorization = request.headers["Authorization"]
    assert f"{header};" in authorization
    with pytest.raises(SignatureError, match="must be a signed header"):
        request.changed(Authorization=authorization.replace(f"{header};", "")).verify()


def test_a_signature_for_another_service_is_refused() -> None:
    with pytest.raises(SignatureError, match="scoped to service"):
        signed(service="s3").verify()


def test_a_secret_belongs_to_its_key_and_its_master_key() -> None:
    secrets = {derive_secret(master * 32, key) for master in (b"a", b"b") for key in ("k1", "k2")}
    assert len(secrets) == 4
    assert derive_secret(b"a" * 32, "k1") in secrets
    assert all(len(secret) == 43 for secret in secrets)
    by_hand = base64.urlsafe_b64encode(hmac.new(bytes(32), b"AK", hashlib.sha256).digest()).decode()
    assert f"{derive_secret(bytes(32), 'AK')}=" == by_hand
    with pytest.raises(ValueError, match="32 bytes"):
        derive_secret(b"short", "k1")
