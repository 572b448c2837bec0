r"""Lone surrogate escapes (`\ud800` without its other half) in a JSON text.

They fit JSON's grammar and are not text: no Unicode string holds one. The JSON parser refuses a body that has one as a
whole, so that the actions which hold them must be told apart from the others beforehand.
"""

from __future__ import annotations

import re
import secrets
from typing import Final

_ESCAPE: Final = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)


def mark_lone_surrogates(body: bytes) -> tuple[bytes, re.Pattern[bytes] | None]:
    r"""Replace each lone surrogate escape by a marker that cannot be in *body* by chance.

    Returns:
        The body with markers, and a pattern that finds one; its group 1 is what followed the backslash. The body
        itself and None where it holds no lone surrogate.
    """
    nonce = secrets.token_hex(16).encode()
    found = 0

    def mark(match: re.Match[bytes]) -> bytes:
        nonlocal found
        if match.group(1) is None:
            return match.group()
        found += 1
        return b"<" + nonce + b":" + match.group(1) + b">"

    marked = _ESCAPE.sub(mark, body)
    return (marked, re.compile(b"<" + nonce + rb":(u[0-9a-fA-F]{4})>")) if found else (body, None)
