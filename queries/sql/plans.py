"""EXPLAIN ANALYZE as text, from DuckDB's JSON, without the names of files on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

# Paths of this machine, and a count that has the empty template among the files.
_LEFT_OUT: Final = frozenset({"Filename(s)", "Scanning Files"})


def analyzed_plan_text(profile: Mapping[str, Any]) -> str:
    """Return the operators of a profile as an indented tree: rows, time, and what each did."""
    lines = [f"total {profile['latency'] * 1000:.1f} ms"]
    for child in profile["children"]:
        lines.extend(_operator(child, depth=0))
    return "\n".join(lines)


def _operator(node: Mapping[str, Any], *, depth: int) -> Iterator[str]:
    indent = "  " * depth
    name = str(node.get("operator_name", "")).strip()
    if name and name != "EXPLAIN_ANALYZE":
        yield f"{indent}{name}  {node['operator_cardinality']} rows, {node['operator_timing'] * 1000:.1f} ms"
        for key, value in node["extra_info"].items():
            if key not in _LEFT_OUT and value not in ("", []):
                yield f"{indent}    {key}: {', '.join(value) if isinstance(value, list) else value}"
        depth += 1
    for child in node["children"]:
        yield from _operator(child, depth=depth)
