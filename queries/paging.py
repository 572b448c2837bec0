"""Paging through a history while it grows: a cursor names the last row of a page, not a count of rows.

Rows are ordered by `time`, then by where they came from (`journal`, `position`), which together no two rows share and
which neither a flush nor a compaction changes. The next page is what lies strictly beyond that row, so that no row
comes twice and none that was there at the first page is left out, whatever is added or moved in between.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
from typing import Final

import msgspec

from storage.errors import InvalidInput

_FORMAT: Final = 1


class Cursor(msgspec.Struct, frozen=True, array_like=True):
    """The place between two rows.

    Attributes:
        format: of this cursor.
        question: fingerprint of the filters and the order that it belongs to.
        time_us, journal, position: of the last row of the page before.
    """

    format: int
    question: bytes
    time_us: int
    journal: str
    position: int


_decoder: Final = msgspec.msgpack.Decoder(Cursor)


def fingerprint(*parts: object) -> bytes:
    """Identify a question, so that a cursor is not used with another one."""
    return hashlib.blake2b(repr(parts).encode(), digest_size=8).digest()


def encode_cursor(question: bytes, time_us: int, journal: str, position: int) -> str:
    """Write a cursor as URL-safe text."""
    raw = msgspec.msgpack.encode(Cursor(_FORMAT, question, time_us, journal, position))
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_cursor(text: str, question: bytes) -> Cursor:
    """Read a cursor that was given out for the same question.

    Raises:
        InvalidInput: it is none, or belongs to other filters or another order.
    """
    try:
        raw = base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
        cursor = _decoder.decode(raw)
    except (binascii.Error, ValueError, msgspec.DecodeError) as error:
        raise InvalidInput("is not a cursor that this service gave out") from error
    if cursor.format != _FORMAT:
        raise InvalidInput("was given out by another version of this service; begin at the first page")
    if cursor.question != question:
        raise InvalidInput("belongs to other filters or another order; begin at the first page")
    return cursor
