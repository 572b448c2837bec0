"""Walking through DuckDB's syntax trees, as `json_serialize_sql` writes them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any


def nodes(tree: object) -> Iterator[Mapping[str, Any]]:
    """Yield each object in a tree, the tree itself included, in no order that means anything."""
    pending = [tree]
    while pending:
        one = pending.pop()
        if isinstance(one, list):
            pending.extend(one)
        elif isinstance(one, dict):
            yield one
            pending.extend(one.values())
