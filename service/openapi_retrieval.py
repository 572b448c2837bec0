"""What the OpenAPI document says of GET /api/retrievelogs, which is plain ASGI and which the framework does not see."""

from __future__ import annotations

from litestar.openapi.spec import OpenAPIMediaType, OpenAPIResponse, Operation, Parameter, Schema
from litestar.openapi.spec.enums import OpenAPIType


def retrieve_operation() -> Operation:
    """The operation, but for what is said of all."""
    flag = {"enum": ["true", "false"]}
    return Operation(
        operation_id="ApiRetrievelogsRetrieveLogs",
        tags=["actions"],
        summary="Retrieve actions by user, type and time",
        description="Any combination of the filters, at least one. Complete up to the last acknowledged submission.",
        parameters=[
            _parameter("userId", "exactly this user", min_length=1),
            _parameter("logType", "exactly this type, in any case"),
            _parameter("fromTime", "RFC 3339, inclusive; with toTime"),
            _parameter("toTime", "RFC 3339, inclusive; with fromTime"),
            _parameter("order", "by time: asc (default) or desc", enum=["asc", "desc"]),
            Parameter(
                name="limit",
                param_in="query",
                required=False,
                description="rows of a page",
                schema=Schema(type=OpenAPIType.INTEGER, minimum=1),
            ),
            _parameter("cursor", "`next` of the page before"),
            _parameter("format", "json, ndjson, csv, arrow or parquet; instead of Accept"),
            _parameter("csvRaw", "true leaves spreadsheet formulas in CSV as they are", **flag),
            _parameter("explain", "true adds how files were pruned", **flag),
        ],
        responses={
            "200": OpenAPIResponse(
                description="One page as JSON, or all of it as a stream of another format",
                content={"application/json": OpenAPIMediaType(schema=Schema())},
            )
        },
    )


def _parameter(name: str, description: str, **more: object) -> Parameter:
    return Parameter(
        name=name,
        param_in="query",
        required=False,
        description=description,
        schema=Schema(type=OpenAPIType.STRING, **more),  # type: ignore[arg-type]
    )
