"""The OpenAPI document: what the framework derives, the plain ASGI routes by hand, and a page from the package."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

from litestar import Router
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import SwaggerRenderPlugin
from litestar.openapi.spec import (
    Components,
    Example,
    OpenAPI,
    OpenAPIHeader,
    OpenAPIMediaType,
    OpenAPIResponse,
    Operation,
    Parameter,
    PathItem,
    RequestBody,
    Schema,
    SecurityScheme,
)
from litestar.openapi.spec.enums import OpenAPIType
from litestar.static_files import create_static_files_router

from service.clients import DEFAULT_NEED, OPEN, Need, needs
from service.openapi_retrieval import retrieve_operation
from storage.submission import REJECTION_CODES

ASSETS: Final = Path(__file__).parent / "assets" / "swagger-ui"
_ASSETS_PATH: Final = "/schema/assets"
_BEARER: Final = "bearer"

_EXAMPLE: Final = {
    "userId": "CBC123XYZ",
    "sessionId": "XYZ456ABC",
    "actions": [
        {"time": "2018-10-20T21:37:28-06:00", "type": "CLICK", "properties": {"locationX": 52, "locationY": 11}}
    ],
}


def openapi_config(version: str) -> OpenAPIConfig:
    """The document under /schema, its page drawn by files of this package."""
    return OpenAPIConfig(
        title="Actionlake",
        version=version,
        # A browser cannot send a key when it opens a page, and what the service takes is no secret.
        openapi_router=Router("/schema", route_handlers=[], include_in_schema=False, opt=needs(OPEN)),
        components=Components(security_schemes={_BEARER: _bearer_scheme()}),
        render_plugins=[
            SwaggerRenderPlugin(
                js_url=f"{_ASSETS_PATH}/swagger-ui-bundle.js",
                css_url=f"{_ASSETS_PATH}/swagger-ui.css",
                standalone_preset_js_url=f"{_ASSETS_PATH}/swagger-ui-standalone-preset.js",
                favicon=f'<link rel="icon" type="image/png" href="{_ASSETS_PATH}/favicon-32x32.png">',
                path=["/", "/swagger"],
            )
        ],
    )


assets_router = create_static_files_router(
    path=_ASSETS_PATH, directories=[ASSETS], include_in_schema=False, opt=needs(OPEN)
)


def add_plain_routes(document: OpenAPI) -> None:
    """Describe the routes that are plain ASGI and that the framework therefore does not see."""
    assert document.paths is not None, "the framework derives paths"
    document.paths["/api/submitlogs"] = PathItem(post=_submit_operation())
    document.paths["/api/retrievelogs"] = PathItem(get=retrieve_operation())


def describe_access(document: OpenAPI, routes: Mapping[tuple[str, str], Need | None]) -> None:
    """Say of each operation which scope it needs; *routes* are those of `declared_needs`."""
    assert document.paths is not None, "the framework derives paths"
    for (method, path), need in routes.items():
        item = document.paths.get(path)
        operation: Operation | None = getattr(item, method.lower(), None)
        if operation is not None:
            _say_need(operation, need or DEFAULT_NEED)


def _say_need(operation: Operation, need: Need) -> None:
    if need == OPEN:
        operation.security = []
        return
    operation.security = [{_BEARER: [need]}]
    problem = {"application/problem+json": OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))}
    operation.responses = {
        **(operation.responses or {}),
        "401": OpenAPIResponse(description="There are keys, and none that holds was sent", content=problem),
        "403": OpenAPIResponse(description=f"The key lacks the scope {need}, or is for other users", content=problem),
    }


def _bearer_scheme() -> SecurityScheme:
    return SecurityScheme(
        type="http",
        scheme="bearer",
        bearer_format="alk_…",
        description="A key of `actionlake keys create`. While there is none, programs on the same machine need none.",
    )


def _string(**more: object) -> Schema:
    return Schema(type=OpenAPIType.STRING, **more)  # type: ignore[arg-type]


def _submit_operation() -> Operation:
    action = Schema(
        type=OpenAPIType.OBJECT,
        required=["time", "type"],
        properties={
            "time": _string(description="RFC 3339 with an offset, at most six fraction digits"),
            "type": _string(description="one of the configured types, in any case"),
            "properties": Schema(type=OpenAPIType.OBJECT, description="kept as the JSON text that was sent"),
        },
    )
    submission = Schema(
        type=OpenAPIType.OBJECT,
        required=["userId", "actions"],
        properties={
            "userId": _string(min_length=1),
            "sessionId": Schema(type=[OpenAPIType.STRING, OpenAPIType.NULL]),
            "actions": Schema(type=OpenAPIType.ARRAY, items=action),
        },
    )
    rejected = Schema(
        type=OpenAPIType.OBJECT,
        required=["index", "code", "message"],
        properties={
            "index": Schema(
                type=[OpenAPIType.INTEGER, OpenAPIType.NULL], description="null where a line is no submission"
            ),
            "code": _string(enum=list(REJECTION_CODES)),
            "message": _string(),
            "line": Schema(type=OpenAPIType.INTEGER, description="of an NDJSON body, from 1"),
        },
    )
    answer = Schema(
        type=OpenAPIType.OBJECT,
        required=["status", "accepted", "rejected"],
        properties={
            "status": _string(const="submitted"),
            "accepted": Schema(type=OpenAPIType.INTEGER),
            "rejected": Schema(type=OpenAPIType.ARRAY, items=rejected),
        },
    )
    problems = {
        "400": "The envelope is not right; nothing is kept",
        "413": "Larger than a limit; nothing is kept",
        "415": "Content-Type or Content-Encoding is not supported",
        "422": "The idempotency key was used with another body",
        "503": "Full or failed; nothing is kept, see Retry-After",
        "507": "The disk is full; nothing is kept, see Retry-After",
    }
    retry_after = OpenAPIHeader(schema=Schema(type=OpenAPIType.INTEGER), description="seconds")
    return Operation(
        operation_id="SubmitLogs",
        tags=["actions"],
        summary="Submit actions",
        description="200 means: on disk, and visible to the next retrieval. `rejected` lists what of it was not kept.",
        parameters=[
            Parameter(
                name="Idempotency-Key",
                param_in="header",
                required=False,
                schema=_string(min_length=1, max_length=255),
                description="the same key and body again gives the same answer and stores nothing",
            ),
            Parameter(
                name="Content-Encoding", param_in="header", required=False, schema=_string(enum=["gzip", "zstd"])
            ),
        ],
        request_body=RequestBody(
            required=True,
            content={
                "application/json": OpenAPIMediaType(
                    schema=submission, examples={"one click": Example(value=_EXAMPLE)}
                ),
                "application/x-ndjson": OpenAPIMediaType(schema=_string(description="one submission a line")),
                "application/vnd.apache.arrow.stream": OpenAPIMediaType(
                    schema=_string(format="binary", description="rows with the table's columns, as docs/http.md says")
                ),
            },
        ),
        responses={
            "200": OpenAPIResponse(
                description="Durable and visible", content={"application/json": OpenAPIMediaType(schema=answer)}
            ),
            **{
                status: OpenAPIResponse(
                    description=text,
                    content={"application/problem+json": OpenAPIMediaType(schema=Schema(type=OpenAPIType.OBJECT))},
                    headers={"Retry-After": retry_after} if status in ("503", "507") else None,
                )
                for status, text in problems.items()
            },
        },
    )
