"""Messages over a socket: the length of the message and of the bytes that follow it, the message, the bytes.

Only read(2) and write(2) are used, so that a worker needs no system call for sockets.
"""

from __future__ import annotations

import os
import select
import struct
import threading
from collections.abc import Callable
from typing import Any, Final, Generic, TypeVar

import msgspec

_HEADER: Final = struct.Struct("<IQ")
_MESSAGE_BYTES_MAX: Final = 1 << 30

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
        self.received_bytes = 0

    def send(self, message: msgspec.Struct, payload: bytes | memoryview = NOTHING) -> None:
        """Send a message.

        Raises:
            ChannelClosed: the other side is gone.
        """
        self.send_frame(encode_frame(message, payload))

    def send_frame(self, frame: list[bytes | memoryview]) -> None:
        """Send a frame that was encoded before.

        Raises:
            ChannelClosed: the other side is gone.
        """
        with self._send_lock:
            try:
                for part in frame:
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
        view = memoryview(allocate(size))
        filled = 0
        while filled < size:
            try:
                count = os.readv(self._descriptor, [view[filled:]])
            except OSError as error:
                raise ChannelClosed(str(error)) from error
            if count == 0:
                raise ChannelClosed("the connection was closed")
            filled += count
        self.received_bytes += size
        return view
