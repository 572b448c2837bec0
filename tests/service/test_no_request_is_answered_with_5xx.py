"""Whatever is sent by the OpenAPI document, or against it, is answered as the document says, and never with a 5xx.

Schemathesis makes the requests of each operation: half of them fit the document, half break it somewhere.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any

import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import Case, GenerationMode
from schemathesis.checks import not_a_server_error
from schemathesis.core.failures import FailureGroup
from schemathesis.core.result import Ok
from schemathesis.schemas import APIOperation
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from service.athena import MEDIA_TYPE as ATHENA
from tests.faults.effort import repetitions
from tests.service.running_service import RunningService, action, submission

Operation = APIOperation[Any, Any, Any, Any]

_CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance, response_schema_conformance]
# In each of both modes; what has no parameters is asked for once.
_REQUESTS = repetitions(suite=2, long=360)


schemathesis.serializer.alias(ATHENA, "application/json")


@pytest.fixture(scope="module")
def session() -> Iterator[requests.Session]:
    with requests.Session() as one:
        yield one


def operations(service: RunningService) -> list[Operation]:
    """All operations of the service's own document."""
    document = service.client.get("/schema/openapi.json").json()
    schema = schemathesis.openapi.from_dict(document)
    schema.config.update(base_url=service.url)
    found = [one.ok() for one in schema.get_all_operations() if isinstance(one, Ok)]
    assert len(found) == sum(len(item) for item in document["paths"].values())
    return found


def problems_of(operation: Operation, mode: GenerationMode, session: requests.Session, seen: Counter[str]) -> list[str]:
    """Send requests of an operation; tell what is wrong with those that are answered wrongly."""
    wrong: dict[str, str] = {}

    @settings(
        max_examples=_REQUESTS,
        deadline=None,
        derandomize=True,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(mode))
    def send(case: Case[Any]) -> None:
        response = case.call(session=session, timeout=180)
        seen[str(response.status_code)] += 1
        try:
            case.validate_response(response, checks=_CHECKS)
        except FailureGroup as failures:
            for one in failures.exceptions:
                wrong.setdefault(type(one).__name__, f"{operation.label}: {one}\n{case.as_curl_command()}")

    try:
        send()
    except Unsatisfiable:
        # There is nothing to get wrong in a request without parameters.
        assert mode is GenerationMode.NEGATIVE, operation.label
    return list(wrong.values())


def test_every_operation_answers_as_the_document_says(service: RunningService, session: requests.Session) -> None:
    service.submit(submission("u1", action(), action(type_="unheard-of")))
    service.flush()
    seen: Counter[str] = Counter()
    wrong: list[str] = []
    for operation in operations(service):
        for mode in GenerationMode:
            wrong += problems_of(operation, mode, session, seen)
    print(f"{seen.total()} requests answered: {dict(sorted(seen.items()))}")
    assert seen["200"]
    assert seen["400"]
    assert not wrong, "\n\n".join(wrong)
