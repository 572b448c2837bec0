"""Pages of lists: where the next page begins is told to the client as a token."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import TypeVar

from queries.athena.errors import InvalidRequest
from queries.athena.requests import Request

_Item = TypeVar("_Item")


def token_of(kind: str, place: str) -> str:
    """A token for the page of *kind* that begins at *place*."""
    return base64.urlsafe_b64encode(f"{kind}:{place}".encode()).decode()


def place_of(token: str, kind: str) -> str:
    """Where the page of a token begins.

    Raises:
        InvalidRequest: the token is none of this *kind*.
    """
    try:
        given, _, place = base64.urlsafe_b64decode(token.encode()).decode().partition(":")
    except (binascii.Error, UnicodeError):
        given, place = "", ""
    if given != kind:
        raise InvalidRequest("NextToken is invalid or belongs to another request")
    return place


def number_of(token: str | None, kind: str) -> int | None:
    """The number at which the page of a token begins, None without a token.

    Raises:
        InvalidRequest: the token is none of this *kind*.
    """
    if token is None:
        return None
    place = place_of(token, kind)
    if not place.isdecimal():
        raise InvalidRequest("NextToken is invalid or belongs to another request")
    return int(place)


def page_of(items: Sequence[_Item], request: Request, *, at_most: int) -> tuple[Sequence[_Item], str | None]:
    """The page of *items* that a request asks for, and the token of the next one, if there is one.

    Raises:
        InvalidRequest: the token or the size of the page is wrong.
    """
    start = number_of(request.optional_text("NextToken"), request.operation) or 0
    count = request.whole("MaxResults", least=1, most=at_most, default=at_most)
    end = start + count
    return items[start:end], token_of(request.operation, str(end)) if end < len(items) else None
