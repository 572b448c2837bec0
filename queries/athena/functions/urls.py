"""URL functions."""

from __future__ import annotations

from typing import Final

from queries.athena.calls import Call, scalar
from queries.athena.scope import Value
from queries.athena.types import BIGINT, VARCHAR

_PARTS: Final = {
    "url_extract_protocol": "trino_url_part({}, 1)",
    "url_extract_host": "trino_url_host({})",
    "url_extract_path": "url_decode(trino_url_part({}, 3))",
    "url_extract_query": "url_decode(trino_url_part({}, 4))",
    "url_extract_fragment": "url_decode(trino_url_part({}, 5))",
    "url_encode": "trino_url_encode({})",
    "url_decode": "trino_url_decode({})",
}


@scalar(*_PARTS, arguments=1)
def _part(call: Call) -> Value:
    return Value(_PARTS[call.name].format(call.text(0)), VARCHAR)


@scalar("url_extract_port", arguments=1)
def _port(call: Call) -> Value:
    return Value(f"trino_url_port({call.text(0)})", BIGINT)


@scalar("url_extract_parameter", arguments=2)
def _parameter(call: Call) -> Value:
    return Value(f"trino_url_parameter({call.text(0)}, {call.text(1)})", VARCHAR)
