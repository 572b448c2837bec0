"""How deep a JSON text is nested, told without building anything."""

from __future__ import annotations

import re
from typing import Final

_STRINGS: Final = re.compile(rb'"[^"\\]*(?:\\.[^"\\]*)*"', re.DOTALL)
_BRACKETS: Final = re.compile(rb"[\[{]+|[\]}]+")


def exceeds_depth(text: bytes, depth_max: int) -> bool:
    """Tell whether *text*, well-formed JSON, has more than *depth_max* arrays and objects inside each other."""
    depth = 0
    for run in _BRACKETS.finditer(_STRINGS.sub(b"", text)):
        brackets = run.group()
        if brackets[0] in b"[{":
            depth += len(brackets)
            if depth > depth_max:
                return True
        else:
            depth -= len(brackets)
    return False
