"""The messages of an Arrow IPC stream, read only as far as to know how much memory its buffers will take.

Arrow's reader allocates what a compressed buffer says of itself before anything can stop it, so that a body of a few
kilobytes could ask for a terabyte. The layout is that of Arrow's columnar format, version 5: each message is a marker,
the length of its metadata, the metadata (a FlatBuffer, `Message.fbs`), and a body in which the buffers lie.
"""

from __future__ import annotations

import struct
from typing import Final

_CONTINUES: Final = 0xFFFFFFFF
# The marker and a length of 0, with which a stream ends.
_END_BYTES: Final = 8
_DICTIONARY_BATCH: Final = 2
_RECORD_BATCH: Final = 3
# Places of fields in their tables, in the order of the format's schema files.
_MESSAGE_HEADER_TYPE, _MESSAGE_HEADER, _MESSAGE_BODY_LENGTH = 1, 2, 3
_DICTIONARY_DATA: Final = 1
_BATCH_BUFFERS, _BATCH_COMPRESSION = 2, 3
_BUFFER_BYTES: Final = 16
_STORED_AS_IT_IS: Final = -1


class MalformedStream(ValueError):
    """The bytes are no Arrow IPC stream."""


def decompressed_bytes(stream: bytes) -> int:
    """Return how many bytes the buffers of an Arrow IPC stream take once they are decompressed.

    Raises:
        MalformedStream: the messages do not follow each other as the format says.
    """
    total = place = 0
    try:
        while place < len(stream):
            marker, length = struct.unpack_from("<Ii", stream, place)
            if marker != _CONTINUES:
                raise MalformedStream("a message does not begin with the stream format's marker")
            if length == 0:
                if place + _END_BYTES != len(stream):
                    # Arrow's reader would pass over it, a second stream too, whose rows nobody would miss here.
                    raise MalformedStream(f"{len(stream) - place - _END_BYTES} bytes follow the end of the stream")
                return total
            metadata = place + 8
            if length < 0 or metadata + length > len(stream):
                raise MalformedStream("a message is cut off")
            message = _Table(stream, metadata + _unsigned(stream, metadata), metadata, metadata + length)
            body = metadata + length
            place = body + message.number(_MESSAGE_BODY_LENGTH, "<q")
            if not body <= place <= len(stream):
                raise MalformedStream("a message's body is cut off")
            total += _buffers_bytes(message, body, place)
    except struct.error as error:
        raise MalformedStream("a message is cut off") from error
    # Without a mark at its end a stream ends with its bytes.
    return total


def _buffers_bytes(message: _Table, body: int, end: int) -> int:
    batch = message
    kind = message.number(_MESSAGE_HEADER_TYPE, "<B")
    if kind not in (_DICTIONARY_BATCH, _RECORD_BATCH):
        return 0
    batch = message.table(_MESSAGE_HEADER)
    if kind == _DICTIONARY_BATCH:
        batch = batch.table(_DICTIONARY_DATA)
    if not batch.has(_BATCH_COMPRESSION):
        return end - body
    total = 0
    for offset, length in batch.pairs(_BATCH_BUFFERS):
        if offset < 0 or length < 0 or body + offset + length > end:
            raise MalformedStream("a buffer lies outside its message")
        if length:
            (size,) = struct.unpack_from("<q", message.data, body + offset)
            if size < _STORED_AS_IT_IS:
                raise MalformedStream("a compressed buffer says that its size is negative")
            total += length if size == _STORED_AS_IT_IS else size
    return total


class _Table:
    """A FlatBuffer table at *place*, inside the metadata from *begin* to *end*."""

    def __init__(self, data: bytes, place: int, begin: int, end: int) -> None:
        self.data = data
        self._place = place
        self._begin = begin
        self._end = end
        self._within(place, 4)
        self._fields = place - struct.unpack_from("<i", data, place)[0]
        self._within(self._fields, 4)
        self._fields_bytes = struct.unpack_from("<H", data, self._fields)[0]
        self._within(self._fields, self._fields_bytes)

    def _within(self, place: int, size: int) -> None:
        if place < self._begin or place + size > self._end:
            raise MalformedStream("a message's metadata points outside of itself")

    def _field(self, number: int) -> int:
        """Where a field lies, or 0 for one that is absent and has its default."""
        entry = 4 + 2 * number
        if entry + 2 > self._fields_bytes:
            return 0
        offset: int = struct.unpack_from("<H", self.data, self._fields + entry)[0]
        return self._place + offset if offset else 0

    def has(self, number: int) -> bool:
        return self._field(number) != 0

    def number(self, field: int, form: str) -> int:
        place = self._field(field)
        if not place:
            return 0
        self._within(place, struct.calcsize(form))
        value: int = struct.unpack_from(form, self.data, place)[0]
        return value

    def table(self, field: int) -> _Table:
        place = self._field(field)
        if not place:
            raise MalformedStream("a message's metadata lacks a part")
        self._within(place, 4)
        return _Table(self.data, place + _unsigned(self.data, place), self._begin, self._end)

    def pairs(self, field: int) -> list[tuple[int, int]]:
        """A vector of offset and length, each a 64-bit number."""
        place = self._field(field)
        if not place:
            return []
        self._within(place, 4)
        vector = place + _unsigned(self.data, place)
        self._within(vector, 4)
        count = _unsigned(self.data, vector)
        self._within(vector + 4, count * _BUFFER_BYTES)
        return list(struct.iter_unpack("<qq", memoryview(self.data)[vector + 4 : vector + 4 + count * _BUFFER_BYTES]))


def _unsigned(data: bytes, place: int) -> int:
    value: int = struct.unpack_from("<I", data, place)[0]
    return value
