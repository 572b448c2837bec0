"""Messages over a socket: the length of the message and of the bytes that follow it, the message, the bytes.

Only read(2) and write(2) are used, so that a worker needs no system call for sockets. Each call can wake the other
side, so that small messages which belong together are written at once, and whatever has arrived is read at once.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from collections.abc import Callable, Iterator
from typing import Any, Final, Generic, TypeVar

import msgspec

_HEADER: Final = struct.Struct("<IQ")
_MESSAGE_BYTES_MAX: Final = 1 << 30
# What is shorter is copied, which costs less than a call of its own.
_COPIED_BYTES_MAX: Final = 1 << 14
_READ_AHEAD_BYTES: Final = 1 << 14

Incoming = TypeVar("Incoming")

NOTHING: Final = memoryview(b"")


class ChannelClosed(Exception):
    """The other side is gone."""


def encode_frame(message: msgspec.Struct, payload: bytes | memoryview = NOTHING) -> list[bytes | memoryview]:
    """Return the parts of a frame, to be sent one after the other."""
    encoded = msgspec.msgpack.encode(message)
    return [_HEADER.pack(len(encoded), len(payload)) + encoded, payload]


class Channel(Generic[Incoming]):
    """One end of a stream socket. One thread may receive while others send.

    Args:
        descriptor: of the socket; blocking.
        incoming: the messages that may come in.
        payload_bytes_max: of the bytes after a message; more is an error of the other side.
        allocate: makes memory for these bytes, which need not be cleared.
    """

    def __init__(
        self,
        descriptor: int,
        incoming: Any,
        *,
        payload_bytes_max: int,
        allocate: Callable[[int], Any] = bytearray,
    ) -> None:
        self._descriptor = descriptor
        self._decoder: msgspec.msgpack.Decoder[Incoming] = msgspec.msgpack.Decoder(incoming)
        self._payload_bytes_max = payload_bytes_max
        self._allocate = allocate
        self._send_lock = threading.Lock()
        self._ahead = memoryview(bytearray(_READ_AHEAD_BYTES))
        self._ahead_begin = self._ahead_end = 0
        self.received_bytes = 0

    @property
    def has_read_ahead(self) -> bool:
        """Whether a part of the next message is here already, so that the descriptor may not tell of it."""
        return self._ahead_begin < self._ahead_end

    def send(self, message: msgspec.Struct, payload: bytes | memoryview = NOTHING) -> None:
        """Send a message.

        Raises:
            ChannelClosed: the other side is gone.
        """
        self.send_frame(encode_frame(message, payload))

    def send_frame(self, frame: list[bytes | memoryview]) -> None:
        """Send a frame that was encoded before, or several, one after the other.

        Raises:
            ChannelClosed: the other side is gone.
        """
        with self._send_lock:
            try:
                for part in _joined(frame):
                    rest = memoryview(part).cast("B")
                    while rest:
                        rest = rest[os.write(self._descriptor, rest) :]
            except OSError as error:
                raise ChannelClosed(str(error)) from error

    def send_if_possible(self, message: msgspec.Struct) -> bool:
        """Send a small message if that needs no waiting for anybody; returns whether it was sent."""
        if not self._send_lock.acquire(blocking=False):
            return False
        try:
            poll = select.poll()
            poll.register(self._descriptor, select.POLLOUT)
            if not poll.poll(0):
                return False
            (frame, _) = encode_frame(message)
            return os.write(self._descriptor, frame) == len(frame)
        except OSError:
            # Gone; whoever waits for an answer learns it from there.
            return False
        finally:
            self._send_lock.release()

    def receive(self) -> tuple[Incoming, memoryview]:
        """Wait for a message.

        Raises:
            ChannelClosed: the other side is gone, or speaks another language.
        """
        message_bytes, payload_bytes = _HEADER.unpack(self._read(_HEADER.size))
        if message_bytes > _MESSAGE_BYTES_MAX or payload_bytes > self._payload_bytes_max:
            raise ChannelClosed(f"a frame of {message_bytes} and {payload_bytes} bytes is too large")
        try:
            message = self._decoder.decode(self._read(message_bytes))
        except msgspec.MsgspecError as error:
            raise ChannelClosed(f"no message that is known here: {error}") from error
        return message, self._read(payload_bytes, self._allocate)

    def _read(self, size: int, allocate: Callable[[int], Any] = bytearray) -> memoryview:
        view = memoryview(allocate(size)).cast("B")
        filled = self._take_ahead(view)
        while filled < size:
            if size - filled < _READ_AHEAD_BYTES:
                self._ahead_begin, self._ahead_end = 0, self._read_some(self._ahead)
                filled += self._take_ahead(view[filled:])
            else:
                filled += self._read_some(view[filled:])
        return view

    def _take_ahead(self, view: memoryview) -> int:
        """Fill the beginning of *view* with what is here already; return how many bytes that were."""
        count = min(len(view), self._ahead_end - self._ahead_begin)
        view[:count] = self._ahead[self._ahead_begin : self._ahead_begin + count]
        self._ahead_begin += count
        return count

    def _read_some(self, view: memoryview) -> int:
        """Wait for bytes; return how many came."""
        try:
            count = os.readv(self._descriptor, [view])
        except OSError as error:
            raise ChannelClosed(str(error)) from error
        if count == 0:
            raise ChannelClosed("the connection was closed")
        self.received_bytes += count
        return count


def _joined(parts: list[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """Join small parts that follow each other."""
    small: list[bytes | memoryview] = []
    for part in parts:
        if len(part) <= _COPIED_BYTES_MAX:
            small.append(part)
            continue
        if small:
            yield b"".join(small)
            small = []
        yield part
    if small:
        yield b"".join(small)
