"""With keys, boto3 and PyAthena get rows if they sign with a key's secret, and errors that they know if not."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import boto3
import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.config import Config
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from pyathena import connect

from storage.access_keys import NewKey
from tests.service.keys import KeyedService, now_us
from tests.service.running_service import action, submission

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

REGION = "eu-central-1"


@pytest.fixture(scope="module")
def filled(keyed: KeyedService) -> KeyedService:
    moment = "2003-01-01T00:00:00Z"
    assert keyed.submit(submission("athena", action(moment), action(moment))).status_code == 200
    return keyed


@pytest.fixture
def key(filled: KeyedService) -> Iterator[NewKey]:
    made = filled.keys.create("sql")
    yield made
    filled.keys.file.revoke(made.kept.id)


def client_of(keyed: KeyedService, key_id: str, secret: str) -> Any:
    return boto3.client(
        "athena",
        endpoint_url=keyed.url,
        region_name=REGION,
        aws_access_key_id=key_id,
        aws_secret_access_key=secret,
        config=Config(retries={"total_max_attempts": 1}),
    )


def code_of(client: Any) -> str:
    """The name of the error that the client meets."""
    with pytest.raises(ClientError) as raised:
        client.start_query_execution(QueryString="SELECT 1")
    name: str = raised.value.response["Error"]["Code"]
    return name


def test_boto3_gets_rows_with_the_secret_of_its_key(filled: KeyedService, key: NewKey) -> None:
    client = client_of(filled, key.kept.id, filled.keys.signing_secret(key))
    sql = "SELECT count(*) AS n FROM actions WHERE user_id = 'athena'"
    execution = client.start_query_execution(QueryString=sql)["QueryExecutionId"]
    deadline = time.monotonic() + 180
    while True:
        status = client.get_query_execution(QueryExecutionId=execution)["QueryExecution"]["Status"]
        if status["State"] not in ("QUEUED", "RUNNING") or time.monotonic() > deadline:
            break
        time.sleep(0.02)
    assert status["State"] == "SUCCEEDED", status
    rows = client.get_query_results(QueryExecutionId=execution)["ResultSet"]["Rows"]
    assert rows[1]["Data"] == [{"VarCharValue": "2"}]


def test_pyathena_gets_rows_with_the_secret_of_its_key(filled: KeyedService, key: NewKey) -> None:
    cursor = connect(
        endpoint_url=filled.url,
        region_name=REGION,
        work_group="primary",
        poll_interval=0.02,
        aws_access_key_id=key.kept.id,
        aws_secret_access_key=filled.keys.signing_secret(key),
    ).cursor()
    cursor.execute("SELECT count(*) FROM actions WHERE user_id = %(u)s", {"u": "athena"})
    assert cursor.fetchall() == [(2,)]


def test_pyathena_is_told_that_its_secret_is_wrong(filled: KeyedService, key: NewKey) -> None:
    cursor = connect(
        endpoint_url=filled.url,
        region_name=REGION,
        work_group="primary",
        aws_access_key_id=key.kept.id,
        aws_secret_access_key="wrong",  # noqa: S106
    ).cursor()
    with pytest.raises(Exception, match="InvalidSignatureException"):
        cursor.execute("SELECT 1")


def test_a_wrong_secret_is_an_invalid_signature(filled: KeyedService, key: NewKey) -> None:
    right = filled.keys.signing_secret(key)
    other = filled.keys.signing_secret(filled.keys.all)
    for secret in ("wrong", right[:-1], other, key.key):
        assert code_of(client_of(filled, key.kept.id, secret)) == "InvalidSignatureException"


def test_a_revoked_or_unknown_key_is_an_unrecognized_client_at_once(filled: KeyedService) -> None:
    made = filled.keys.create("sql")
    client = client_of(filled, made.kept.id, filled.keys.signing_secret(made))
    client.list_data_catalogs()
    filled.keys.file.revoke(made.kept.id)
    assert code_of(client) == "UnrecognizedClientException"
    assert code_of(client_of(filled, "a" * 16, "wrong")) == "UnrecognizedClientException"


def test_an_expired_key_is_an_expired_token(filled: KeyedService) -> None:
    made = filled.keys.create("sql", expired=True)
    assert code_of(client_of(filled, made.kept.id, filled.keys.signing_secret(made))) == "ExpiredTokenException"
    assert code_of(client_of(filled, made.kept.id, "wrong")) == "InvalidSignatureException"


def test_a_key_without_the_scope_is_denied_access(filled: KeyedService) -> None:
    made = filled.keys.create("submit", "retrieve", "admin")
    client = client_of(filled, made.kept.id, filled.keys.signing_secret(made))
    with pytest.raises(ClientError, match="not authorized to perform: athena:StartQueryExecution") as raised:
        client.start_query_execution(QueryString="SELECT 1")
    assert raised.value.response["Error"]["Code"] == "AccessDeniedException"


TARGET = {"X-Amz-Target": "AmazonAthena.ListDataCatalogs", "Content-Type": "application/x-amz-json-1.1"}


def signed(keyed: KeyedService, key: NewKey, *, age_s: int = 0, service: str = "athena") -> dict[str, str]:
    """The headers of a signed ListDataCatalogs with the body `{}`, signed some time ago."""
    request = AWSRequest("POST", keyed.url + "/", headers={**TARGET}, data=b"{}")
    signer = SigV4Auth(Credentials(key.kept.id, keyed.keys.signing_secret(key)), service, REGION)
    if age_s:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(now_us() / 1_000_000 - age_s))
        request.context["timestamp"] = stamp
        request.headers["X-Amz-Date"] = stamp
        request.headers["Authorization"] = signer._inject_signature_to_request(
            request, signer.signature(signer.string_to_sign(request, signer.canonical_request(request)), request)
        ).headers["Authorization"]
    else:
        signer.add_auth(request)
    return {name: str(value) for name, value in request.headers.items()}


def answered(keyed: KeyedService, headers: dict[str, str], body: bytes = b"{}") -> tuple[int, str]:
    answer = keyed.call("POST", "/", None, headers=headers, content=body)
    assert answer.headers["content-type"] == "application/x-amz-json-1.1"
    return answer.status_code, answer.json().get("__type", "")


def test_what_was_signed_is_what_must_arrive(filled: KeyedService, key: NewKey) -> None:
    headers = signed(filled, key)
    assert answered(filled, headers) == (200, "")
    # Heard and sent again while the signature holds, it is taken again, as by AWS.
    assert answered(filled, headers) == (200, "")
    invalid = (400, "InvalidSignatureException")
    assert answered(filled, headers, b'{"MaxResults": 1}') == invalid
    assert answered(filled, {**headers, "X-Amz-Target": "AmazonAthena.ListWorkGroups"}) == invalid
    assert answered(filled, {**headers, "Host": "other.example"}) == invalid
    assert answered(filled, {**headers, "X-Amz-Security-Token": "more"}) == (400, "IncompleteSignatureException")
    assert answered(filled, signed(filled, key, service="s3")) == invalid


def test_a_signature_holds_for_fifteen_minutes(filled: KeyedService, key: NewKey) -> None:
    assert answered(filled, signed(filled, key, age_s=600)) == (200, "")
    for age_s in (1_000, -1_000):
        assert answered(filled, signed(filled, key, age_s=age_s)) == (400, "InvalidSignatureException")


def test_a_request_without_a_signature_is_refused_in_athenas_words(filled: KeyedService) -> None:
    assert answered(filled, {**TARGET}) == (400, "MissingAuthenticationTokenException")
    assert answered(filled, {**TARGET, "Authorization": "Basic eA=="}) == (400, "UnrecognizedClientException")
    cut = {**TARGET, "Authorization": "AWS4-HMAC-SHA256 Credential=a"}
    assert answered(filled, cut) == (400, "IncompleteSignatureException")


def test_the_key_itself_is_taken_in_the_place_of_a_signature(filled: KeyedService, key: NewKey) -> None:
    def sent(one: NewKey) -> tuple[int, str]:
        return answered(filled, {**TARGET, "Authorization": f"Bearer {one.key}"})

    assert sent(key) == (200, "")
    assert sent(filled.keys.create("retrieve")) == (400, "AccessDeniedException")
    assert sent(filled.keys.revoked("sql")) == (400, "UnrecognizedClientException")


def test_without_the_master_key_signed_requests_are_refused_and_keys_go_on(filled: KeyedService, key: NewKey) -> None:
    headers = signed(filled, key)
    master = filled.keys.file.path.with_name("keys.master")
    away = master.rename(master.with_suffix(".away"))
    try:
        assert answered(filled, headers) == (503, "ServiceUnavailableException")
        assert answered(filled, {**TARGET, "Authorization": f"Bearer {key.key}"}) == (200, "")
    finally:
        away.rename(master)
    assert answered(filled, headers) == (200, "")
