"""What the OpenAPI document says that the framework cannot derive: bodies that handlers read, formats, and problems."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Final, cast

import msgspec
from litestar.openapi.spec import (
    OpenAPI,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    RequestBody,
    Schema,
)
from litestar.openapi.spec.enums import OpenAPIType

from queries.formats import Format
from service.athena import MEDIA_TYPE as ATHENA
from service.erasures import EraseBody
from service.problems import MEDIA_TYPE as PROBLEM
from service.rejects import Selection
from service.sql import SqlBody

_JSON: Final = "application/json"
_METHODS: Final = ("get", "post", "delete")
_BODIES: Final[Mapping[str, type[msgspec.Struct]]] = {
    "/api/sql": SqlBody,
    "/api/rejectedlogs/replay": Selection,
    "/api/rejectedlogs/drop": Selection,
    "/api/users/erase": EraseBody,
}
# These answer in any format that is asked for.
_IN_ALL_FORMATS: Final = (("/api/retrievelogs", "get"), ("/api/sql", "post"))


def complete_operations(document: OpenAPI) -> None:
    """Describe request bodies, the formats of answers, and that everything refused is a problem (RFC 9457)."""
    assert document.paths is not None, "the framework derives paths"
    for path, item in document.paths.items():
        for method in _METHODS:
            operation: Operation | None = getattr(item, method, None)
            if operation is not None:
                _say_problems(operation)
        if path in _BODIES:
            assert item.post is not None, "bodies are posted"
            item.post.request_body = RequestBody(required=True, content={_JSON: _media_type(_BODIES[path])})
    for path, method in _IN_ALL_FORMATS:
        _say_media_types(getattr(document.paths[path], method), {one.media_type for one in Format})
    athena = document.paths["/"].post
    assert athena is not None, "the Athena API is there"
    athena.request_body = RequestBody(
        required=False, content={ATHENA: OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))}
    )
    _say_media_types(athena, {ATHENA})
    by_id = document.paths["/api/users/{user_id}"].delete
    assert by_id is not None, "users are erased"
    # The framework takes it for a URI, since it may hold slashes.
    by_id.parameters = [
        Parameter(name="user_id", param_in="path", required=True, schema=Schema(type=OpenAPIType.STRING, min_length=1))
    ]
    not_ready = document.paths["/health/ready"].get
    assert not_ready is not None, "it is asked whether the service is ready"
    assert not_ready.responses is not None, "it has answers"
    not_ready.responses["503"] = OpenAPIResponse(
        description="Not ready, and why", content={_JSON: OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))}
    )


def _say_problems(operation: Operation) -> None:
    """Replace what the framework says of its own errors, which clients never see."""
    responses = operation.responses = dict(operation.responses or {})
    derived = responses.get("400")
    if not isinstance(derived, OpenAPIResponse) or PROBLEM not in (derived.content or {}):
        responses.pop("400", None)
    responses["default"] = OpenAPIResponse(
        description="Refused or failed, and why",
        content={PROBLEM: OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))},
    )


def _say_media_types(operation: Operation, media_types: Iterable[str]) -> None:
    """Say in which formats an operation answers."""
    assert operation.responses is not None, "every operation has answers"
    for status, one in operation.responses.items():
        if status.startswith("2"):
            assert isinstance(one, OpenAPIResponse), "answers are described in place"
            one.content = {media_type: OpenAPIMediaType(schema=Schema()) for media_type in sorted(media_types)}


def _media_type(body: type[msgspec.Struct]) -> OpenAPIMediaType:
    """The schema of a body, as it is decoded."""
    _, components = msgspec.json.schema_components([body])
    # The framework writes what is JSON already as it is.
    return OpenAPIMediaType(schema=cast("Schema", components[body.__name__]))
